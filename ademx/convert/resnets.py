"""ResNets of other projects: which of ours computes the same, and what its label must say.

Loads neither torch nor MXNet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from ademx.errors import InputError
from ademx.labels import MEAN_STD, Label

Array = npt.NDArray[Any]

# Layout -> variants of ours that compute what the project's networks do.
RESNETS = {
    "torchvision": ("34b", "50b", "101b", "152b"),
    "gluoncv": ("34b", "50", "101", "152"),
}

_STRIDES = "with a b its bottlenecks stride in the 3×3 convolution, else in the first 1×1"


def fold_biases(parameters: Mapping[str, Array], biases: Mapping[str, Array]) -> dict[str, Array]:
    """Return parameters whose moving means are less by the biases of the convolutions before them.

    Args:
        parameters: released name -> array.
        biases: name of a moving mean -> bias, (channels,).

    Raises:
        ValueError: a bias is not of as many channels.
    """
    for mean, bias in biases.items():
        if parameters[mean].shape != bias.shape:
            raise InputError(
                f"a bias of shape {bias.shape} before {mean} of shape {parameters[mean].shape}: "
                "expected the same"
            )
    return {**parameters, **{name: parameters[name] - bias for name, bias in biases.items()}}


def resnet_label(network: str, parameters: Mapping[str, Any], label: Label | None) -> Label | None:
    """Return the label of another project's ResNet; None where no dataset is known.

    Args:
        network: of ours that computes the same, such as "rn-50b".
        parameters: released name -> array.
        label: what its user says that it is, if anything.

    Raises:
        ValueError: the label is of another network, or does not say how the input is normalised:
            by mean and standard deviation in all these projects.
    """
    if label is None:
        if "linear1000_weight" not in parameters:
            return None
        return Label("ilsvrc-cls", "rn", network.removeprefix("rn-"), 1000, tags=(MEAN_STD,))
    tags = label.tags if MEAN_STD in label.tags else (*label.tags, MEAN_STD)
    expected = dataclasses.replace(
        label, family="rn", variant=network.removeprefix("rn-"), tags=tags, epoch=None
    )
    if label.network != network:
        raise InputError(
            f"the label {label} is of {label.network}, and this file of {network} ({_STRIDES}): "
            f"call it {expected}"
        )
    if MEAN_STD not in label.tags:
        raise InputError(
            f"the label {label} says that the mean alone is subtracted from the input, and these "
            f"weights want it divided by the standard deviation too: call them {expected}"
        )
    return label

"""ResNets of other projects: which of ours computes the same, and what its label must say.

Loads neither torch nor MXNet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ademx.convert.recognise import Recognised
from ademx.errors import InputError
from ademx.labels import MEAN_STD, Label
from ademx.params import Array

# Of pixels, by whether they are divided.
_INPUT = {False: "less the mean alone", True: "less the mean and divided by the standard deviation"}
_STRIDES = "with a b its bottlenecks stride in the 3×3 convolution, else in the first 1×1"


def take_parameters(found: Recognised, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return released name -> array, of arrays by the keys that were recognised among them.

    Moving means are less by the biases of the convolutions before them.

    Raises:
        ValueError: a bias is not of as many channels.
    """
    parameters = {name: arrays[key] for key, name in found.names.items()}
    for key, mean in found.biases.items():
        bias = arrays[key]
        if parameters[mean].shape != bias.shape:
            raise InputError(
                f"a bias of shape {bias.shape} before {mean} of shape {parameters[mean].shape}: "
                "expected the same"
            )
        parameters[mean] = parameters[mean] - bias
    return parameters


def resnet_label(
    found: Recognised, parameters: Mapping[str, Any], label: Label | None
) -> Label | None:
    """Return the label of another project's ResNet; None where no dataset is known.

    Args:
        found: what its file holds; of any other network the label stays as it is.
        parameters: released name -> array.
        label: what its user says that it is, if anything.

    Raises:
        ValueError: the label is of another network, or says that the input is normalised in
            another way.
    """
    if not found.resnet:
        return label
    variant, divided = found.resnet.removeprefix("rn-"), found.layout != "caffe"
    if label is None:
        tags = (MEAN_STD,) * divided
        known = "linear1000_weight" in parameters
        return Label("ilsvrc-cls", "rn", variant, 1000, tags=tags) if known else None
    tags = tuple(tag for tag in label.tags if tag != MEAN_STD) + (MEAN_STD,) * divided
    expected = dataclasses.replace(label, family="rn", variant=variant, tags=tags, epoch=None)
    if label.network != found.resnet:
        raise InputError(
            f"the label {label} is of {label.network}, and this file of {found.resnet} "
            f"({_STRIDES}): call it {expected}"
        )
    if (MEAN_STD in label.tags) != divided:
        raise InputError(
            f"the label {label} says that the input is {_INPUT[not divided]}, and these weights "
            f"want it {_INPUT[divided]}: call them {expected}"
        )
    return label


def resnet_caveat(found: Recognised, label: Label | None) -> str:
    """Return what to know before such weights are used; see :func:`resnet_label`."""
    divided = found.layout != "caffe"
    name = f"{label or f'…_{found.resnet}_…' + f'_{MEAN_STD}' * divided}_ep-0001.params"
    pooling = "" if divided else "; pool1 is not padded: test, and write .onnx, by --pool full"
    return (
        f"a ResNet as {found.resnet}, whose input is {_INPUT[divided]}, which the weights' name "
        f"tells: call them {name}{pooling}"
    )

"""From a label to its network: the one place where labels meet layers and graphs."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ademx.labels import MEAN_STD, Label, parse_label
from ademx.params import HasShape
from iters import transforms
from symbols import layers
from symbols.layers import Layer, Shape
from symbols.learning import get_learning
from symbols.levels import get_network, native_stride, with_output_stride

if TYPE_CHECKING:
    from mxnet.symbol import Symbol


def build_symbol(
    label: str | os.PathLike[str] | Label,
    *,
    width: float = 1.0,
    pool: str = "pad",
    loss: str = "softmax",
    head: str = "2conv",
    multipliers: str | None = None,
    frozen_statistics: bool | None = None,
) -> Symbol:
    """Return the graph of a label, with the released parameter names.

    Args:
        label: such as "voc_rna-a1_cls21_s8" or, with a block spec,
            "ilsvrc-cls_rna-112-1-1-1-1-9-1-1_cls1000"; a checkpoint's name or path does too. The
            dataset decides between a classification and a segmentation top.
        width: multiplier of all channels but the classes.
        pool: "pad", "caffe" or "full", see :func:`symbols.layers.list_layers`.
        loss: "softmax" or "ohem".
        head: segmentation top, "2conv" or "1conv".
        multipliers: "none", "alex" or "alex10"; the task's own by default.
        frozen_statistics: BatchNorm uses moving statistics in training too; the task's own choice
            by default.

    Raises:
        ValueError: a malformed label, or a choice that does not exist.
        ademx.compat.MissingDependency: MXNet is not installed.
    """
    label = parse_label(label)
    learning = get_learning(
        label.task, loss=loss, multipliers=multipliers, frozen_statistics=frozen_statistics
    )
    to_symbol = importlib.import_module("symbols.graph").to_symbol
    symbol: Symbol = to_symbol(list_layers(label, width=width, pool=pool, head=head), learning)
    return symbol


def list_layers(
    label: str | os.PathLike[str] | Label,
    *,
    width: float = 1.0,
    pool: str = "pad",
    head: str = "2conv",
) -> tuple[Layer, ...]:
    """Return the layers of a label's network; see :func:`symbols.layers.list_layers`.

    Raises:
        ValueError: a malformed label, or a choice that does not exist.
    """
    label = parse_label(label)
    network = get_network(label.family, label.variant)
    return layers.list_layers(
        with_output_stride(network, label.output_stride),
        num_classes=label.num_classes,
        task=label.task,
        width=width,
        pool=pool,
        head=head,
    )


def parameter_shapes(
    label: str | os.PathLike[str] | Label, *, width: float = 1.0, head: str = "2conv"
) -> dict[str, Shape]:
    """Return the parameters of a label's network: released name -> shape.

    Moving statistics are among them; pooling has no parameters. See :func:`list_layers`.
    """
    return {
        name: shape
        for layer in list_layers(label, width=width, head=head)
        for name, shape in layer.parameters().items()
    }


def network_stride(label: Label) -> int:
    """Return how many pixels of its input a cell of a label's network's output stands for.

    It is below the label's output stride where the network down-samples less by itself: a label
    that names no stride says 32, and one trained at 112 or 56 has 16 or 8.
    """
    return min(label.output_stride, native_stride(get_network(label.family, label.variant)))


def input_normalization(label: Label) -> transforms.Normalization:
    """Return how a label's network wants the pixels of its input normalised."""
    return transforms.RN if label.family == "rn" and MEAN_STD not in label.tags else transforms.RNA


def find_width(label: Label, parameters: Mapping[str, HasShape]) -> float:
    """Return the width multiplier of parameters: their channels over the full network's.

    Every block's channels grow with the width, so a file without a top tells it too.
    """
    full = get_network(label.family, label.variant).levels[-1].channels[-1]
    channels = [
        value.shape[0]
        for name, value in parameters.items()
        if name.startswith("res") and value.shape
    ]
    return max(channels, default=full) / full


def find_head(parameters: Mapping[str, HasShape]) -> str:
    """Return the segmentation top that parameters have, "2conv" or "1conv", "" for neither."""
    tops = [top for name, top in parameters.items() if re.fullmatch(r"linear\d+_weight", name)]
    if len(tops) != 1 or len(tops[0].shape) != 4:
        return ""
    return "2conv" if "conv6a_weight" in parameters else "1conv"

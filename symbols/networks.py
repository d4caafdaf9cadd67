"""The builder: a row of `symbols.levels` in, a Symbol out, with the released parameter names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ademx.compat import import_mxnet
from symbols.layers import Layers
from symbols.levels import (
    HEAD_CHANNELS,
    HEAD_DILATION,
    HEADS,
    Network,
    check_choice,
    get_network,
    with_output_stride,
    with_width,
)
from symbols.losses import ohem_softmax, softmax
from symbols.rn import rn_features
from symbols.rna import rna_features

if TYPE_CHECKING:
    from mxnet.symbol import Symbol

mx = import_mxnet()

LOSSES = ("softmax", "ohem")
TASKS = ("classification", "segmentation")

# The Cityscapes recipe (SPEC §4).
_OHEM_THRESH = 0.6
_OHEM_MIN_KEPT = 256


def build(
    family: str,
    variant: str,
    *,
    num_classes: int,
    task: str,
    output_stride: int = 32,
    width: float = 1.0,
    pool: str = "pad",
    loss: str = "softmax",
    head: str = "2conv",
    multipliers: str | None = None,
    frozen_statistics: bool | None = None,
) -> Symbol:
    """Return a network with its top and its loss.

    The output is named "softmax": probabilities, (N, classes) for classification and
    (N, classes, H/s, W/s) for segmentation. Inputs are "data", (N, 3, H, W) float32, RGB, and
    "softmax_label", (N,) or (N, H/s · W/s) float32. "data" is mean/std normalised for "rna", and
    minus (123.68, 116.779, 103.939), not scaled, for "rn".

    Args:
        family: "rna", the paper's own networks, or "rn", the ResNet baselines.
        variant: "a", "a1", "a2", "b", "c" or a block spec `input-B1-…-B7` of "rna"; "plain34",
            "34a", "34b", "34c", "50", "101" or "152" of "rn".
        num_classes: classes to tell apart.
        task: "classification" or "segmentation".
        output_stride: 32, 16 or 8 pixels; smaller ones than the network's own dilate.
        width: multiplier of all channels but the classes.
        pool: geometry of max pooling, see :class:`symbols.layers.Layers`.
        loss: "softmax", or for segmentation "ohem" (threshold 0.6, at least 256 kept).
        head: segmentation top, "1conv" or "2conv".
        multipliers: see :class:`symbols.layers.Layers`; by default "none" for classification
            and "alex" for segmentation.
        frozen_statistics: BatchNorm uses moving statistics in training too; by default only in
            segmentation.

    Raises:
        ValueError: an unknown name, or an output stride that the network does not have.

    Source: SPEC §2; arXiv:1611.10080, Table 1 and §4.2; arXiv:1512.03385, Table 1.
    """
    check_choice("task", task, TASKS)
    network = get_network(family, variant)
    network = with_width(with_output_stride(network, output_stride), width)
    segmentation = task == "segmentation"
    layers = Layers(
        pool=pool,
        multipliers=multipliers or ("alex" if segmentation else "none"),
        frozen_statistics=segmentation if frozen_statistics is None else frozen_statistics,
    )
    features = _features(network, layers, drop=segmentation)
    if not segmentation:
        return _classification_top(features, layers, num_classes, loss=loss)
    return _segmentation_top(features, layers, num_classes, width=width, loss=loss, head=head)


def _features(network: Network, layers: Layers, *, drop: bool) -> Symbol:
    if network.family == "rna":
        return rna_features(network, layers, drop=drop)
    return rn_features(network, layers)


def _classification_top(features: Symbol, layers: Layers, num_classes: int, *, loss: str) -> Symbol:
    check_choice("loss of classification", loss, LOSSES[:1])
    pooled = mx.sym.Pooling(
        features, pool_type="avg", global_pool=True, kernel=(1, 1), name="pool7"
    )
    scores = layers.linear(mx.sym.Flatten(pooled, name="flatten7"), num_classes)
    return softmax(scores, multi_output=False)


def _segmentation_top(
    features: Symbol, layers: Layers, num_classes: int, *, width: float, loss: str, head: str
) -> Symbol:
    check_choice("loss", loss, LOSSES)
    check_choice("head", head, HEADS)
    if head == "2conv":
        channels = max(1, round(HEAD_CHANNELS * width))
        features = layers.convolution(
            features, "conv6a", channels=channels, kernel=3, dilation=HEAD_DILATION, bias=True
        )
        features = layers.relu(features, "conv6a_relu")
    scores = layers.convolution(
        features,
        f"linear{num_classes}",
        channels=num_classes,
        kernel=3,
        dilation=HEAD_DILATION,
        bias=True,
    )
    if loss == "softmax":
        return softmax(scores, multi_output=True)
    label = mx.sym.Variable("softmax_label")
    return ohem_softmax(scores, label, thresh=_OHEM_THRESH, min_kept=_OHEM_MIN_KEPT)

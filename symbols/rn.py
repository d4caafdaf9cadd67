"""Features of the baselines: post-activation blocks (arXiv:1512.03385, §3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ademx.compat import import_mxnet
from symbols.layers import Layers
from symbols.levels import LevelSpec, Network, block_names

if TYPE_CHECKING:
    from mxnet.symbol import Symbol

mx = import_mxnet()


def rn_features(network: Network, layers: Layers) -> Symbol:
    """Return the last level's rectified features."""
    data = layers.convolution(
        mx.sym.Variable("data"), "conv1", channels=network.stem_channels, kernel=7, stride=2
    )
    data = layers.relu(layers.batch_norm(data, "bn_conv1"), "conv1_relu")
    data = layers.max_pool(data, "pool1")
    channels = network.stem_channels
    for level in network.levels:
        for number, block in enumerate(block_names(level)):
            first = number == 0
            shortcut = _shortcut(data, channels, network, level, block, layers, first=first)
            data = _block(data, shortcut, level, block, layers, first=first)
            channels = level.channels[-1]
    return data


def _shortcut(
    data: Symbol,
    channels: int,
    network: Network,
    level: LevelSpec,
    block: str,
    layers: Layers,
    *,
    first: bool,
) -> Symbol | None:
    """Return the shortcut of a block, None for a plain network."""
    stride = level.stride if first else 1
    if network.shortcut == "none":
        return None
    if level.project and (first or network.shortcut == "C"):
        name = f"{block}_branch1"
        data = layers.convolution(
            data, f"res{name}", channels=level.channels[-1], kernel=1, stride=stride
        )
        return layers.batch_norm(data, f"bn{name}")
    if stride > 1:
        data = mx.sym.slice(
            data,
            begin=(None, None, None, None),
            end=(None, None, None, None),
            step=(1, 1, stride, stride),
            name=f"res{block}_subsample",
        )
    if channels < level.channels[-1]:
        missing = level.channels[-1] - channels
        zeros = mx.sym.zeros_like(data)
        padding = mx.sym.slice_axis(
            mx.sym.tile(zeros, reps=(1, -(-missing // channels), 1, 1)),
            axis=1,
            begin=0,
            end=missing,
        )
        data = mx.sym.concat(data, padding, dim=1, name=f"res{block}_zero_padded")
    return data


def _block(
    data: Symbol,
    shortcut: Symbol | None,
    level: LevelSpec,
    block: str,
    layers: Layers,
    *,
    first: bool,
) -> Symbol:
    """Return a post-activation block: convolution, BatchNorm, ReLU; the last ReLU after adding."""
    last = len(level.kernels) - 1
    for position, (channels, kernel) in enumerate(zip(level.channels, level.kernels)):
        entry = first and position == 0
        name = f"{block}_branch2{'abc'[position]}"
        data = layers.convolution(
            data,
            f"res{name}",
            channels=channels,
            kernel=kernel,
            stride=level.stride if entry else 1,
            dilation=level.entry_dilation if entry else level.dilation,
        )
        data = layers.batch_norm(data, f"bn{name}")
        if position < last:
            data = layers.relu(data, f"res{name}_relu")
    if shortcut is not None:
        data = mx.sym.elemwise_add(data, shortcut, name=f"res{block}")
    return layers.relu(data, f"res{block}_relu")

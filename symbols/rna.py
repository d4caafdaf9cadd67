"""Features of the paper's own networks: pre-activation blocks (arXiv:1611.10080, Figure 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ademx.compat import import_mxnet
from symbols.layers import Layers
from symbols.levels import LevelSpec, Network, block_names, branch_names

if TYPE_CHECKING:
    from mxnet.symbol import Symbol

mx = import_mxnet()


def rna_features(network: Network, layers: Layers, *, drop: bool) -> Symbol:
    """Return the last level's features, normalised and rectified (`relu7`)."""
    data = layers.convolution(
        mx.sym.Variable("data"), "conv1a", channels=network.stem_channels, kernel=3
    )
    for level in network.levels:
        if level.pooled:
            data = layers.max_pool(data, f"pool{level.index - 1}", stride=level.stride)
        for number, block in enumerate(block_names(level)):
            data = _block(data, level, block, layers, first=number == 0, drop=drop)
    last = network.levels[-1].index
    return layers.relu(layers.batch_norm(data, f"bn{last}"), f"relu{last}")


def _block(
    data: Symbol, level: LevelSpec, block: str, layers: Layers, *, first: bool, drop: bool
) -> Symbol:
    """Return a pre-activation block: stages of BatchNorm, ReLU(, Dropout), convolution."""
    stride = level.stride if first and not level.pooled else 1
    shortcut, branch = data, data
    stages = branch_names(level)
    for position, (stage, channels, kernel) in enumerate(
        zip(stages, level.channels, level.kernels)
    ):
        name = f"res{block}_{stage}"
        branch = layers.relu(layers.batch_norm(branch, f"bn{block}_{stage}"), f"{name}_relu")
        if position == 0 and first and level.project:
            # The projection reads the block's first ReLU, not its input (SPEC §2).
            shortcut = layers.convolution(
                branch, f"res{block}_branch1", channels=level.channels[-1], kernel=1, stride=stride
            )
        if drop and level.dropout and stage == stages[-1]:
            branch = mx.sym.Dropout(branch, p=level.dropout, name=f"{name}_do")
        branch = layers.convolution(
            branch,
            name,
            channels=channels,
            kernel=kernel,
            stride=stride if position == 0 else 1,
            dilation=level.entry_dilation if first and position == 0 else level.dilation,
        )
    return mx.sym.elemwise_add(branch, shortcut, name=f"res{block}")

"""The networks as PyTorch modules: exact twins of the MXNet graphs, from the same tables.

A module's name is its layer's, so that the keys of a state dict (the `native` layout) are the
released names with dots: `res4b1.bn_branch2a.running_mean`, `res4b1.branch2a.weight`.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

from ademx.labels import Label, parse_label
from symbols.levels import (
    BN_EPSILON,
    HEAD_CHANNELS,
    HEAD_DILATION,
    HEADS,
    POOL_GEOMETRIES,
    LevelSpec,
    Network,
    block_names,
    branch_names,
    check_choice,
    get_network,
    with_output_stride,
    with_width,
)

# What MXNet keeps of its moving statistics is 0.9; PyTorch states what it replaces.
_BN_MOMENTUM = 0.1

_Named = Iterator[tuple[str, nn.Module]]


def build(
    label: str | os.PathLike[str] | Label,
    *,
    width: float = 1.0,
    pool: str = "pad",
    head: str = "2conv",
) -> nn.Sequential:
    """Return a label's network, in training mode and with PyTorch's own initial weights.

    It is the sequence of its layers and blocks, each by its released name. As in the graphs,
    segmentation networks drop out and keep BatchNorm's statistics frozen in training.

    It maps (N, 3, H, W) float32 images, normalised as the graph's, to scores before the softmax:
    (N, classes), or (N, classes, H/s, W/s) for segmentation.

    Args:
        label: see :func:`ademx.build_symbol`.
        width: multiplier of all channels but the classes.
        pool: geometry of max pooling, "pad", "caffe" or "full".
        head: segmentation top, "2conv" or "1conv".

    Raises:
        ValueError: a malformed label, or a choice that does not exist.
    """
    check_choice("pool", pool, POOL_GEOMETRIES)
    check_choice("head", head, HEADS)
    label = label if isinstance(label, Label) else parse_label(label)
    network = get_network(label.family, label.variant)
    network = with_width(with_output_stride(network, label.output_stride), width)
    segmentation = label.task == "segmentation"
    features = _rna_features if network.family == "rna" else _rn_features
    modules = list(features(network, pool, segmentation=segmentation))
    channels = network.levels[-1].channels[-1]
    if segmentation:
        modules += _segmentation_top(channels, label.num_classes, width=width, head=head)
    else:
        modules += _classification_top(channels, label.num_classes)
    return nn.Sequential(OrderedDict(modules)).train()


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that uses its moving statistics in training too; weight and bias still learn."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stay in evaluation mode."""
        super().train(False)
        return self


class _PreActivationBlock(nn.Module):
    """Stages of BatchNorm, ReLU(, Dropout), convolution; the shortcut is added last."""

    def __init__(
        self, level: LevelSpec, in_channels: int, *, first: bool, segmentation: bool
    ) -> None:
        super().__init__()
        self._stages = branch_names(level)
        stride = level.stride if first and not level.pooled else 1
        self.branch1 = None
        if first and level.project:
            self.branch1 = _convolution(in_channels, level.channels[-1], 1, stride=stride)
        for position, (stage, channels, kernel) in enumerate(
            zip(self._stages, level.channels, level.kernels)
        ):
            entry = position == 0
            self.add_module(f"bn_{stage}", _batch_norm(in_channels, frozen=segmentation))
            convolution = _convolution(
                in_channels,
                channels,
                kernel,
                stride=stride if entry else 1,
                dilation=level.entry_dilation if first and entry else level.dilation,
            )
            self.add_module(stage, convolution)
            in_channels = channels
        self.dropout = nn.Dropout(level.dropout if segmentation else 0.0)

    def forward(self, data: Tensor) -> Tensor:
        shortcut, branch = data, data
        for stage in self._stages:
            branch = functional.relu(getattr(self, f"bn_{stage}")(branch), inplace=True)
            if stage == self._stages[0] and self.branch1 is not None:
                # The projection reads the block's first ReLU, not its input (SPEC §2).
                shortcut = self.branch1(branch)
            if stage == self._stages[-1]:
                branch = self.dropout(branch)
            branch = getattr(self, stage)(branch)
        return branch + shortcut


class _PostActivationBlock(nn.Module):
    """Stages of convolution, BatchNorm, ReLU; the last ReLU after adding the shortcut."""

    def __init__(
        self,
        network: Network,
        level: LevelSpec,
        in_channels: int,
        *,
        first: bool,
        segmentation: bool,
    ) -> None:
        super().__init__()
        self._stages = tuple(f"branch2{letter}" for letter in "abc"[: len(level.kernels)])
        self._plain = network.shortcut == "none"
        self._stride = level.stride if first else 1
        self._missing = level.channels[-1] - in_channels
        self.branch1 = self.bn_branch1 = None
        if level.project and (first or network.shortcut == "C"):
            self.branch1 = _convolution(in_channels, level.channels[-1], 1, stride=self._stride)
            self.bn_branch1 = _batch_norm(level.channels[-1], frozen=segmentation)
        for position, (stage, channels, kernel) in enumerate(
            zip(self._stages, level.channels, level.kernels)
        ):
            entry = first and position == 0
            convolution = _convolution(
                in_channels,
                channels,
                kernel,
                stride=level.stride if entry else 1,
                dilation=level.entry_dilation if entry else level.dilation,
            )
            self.add_module(stage, convolution)
            self.add_module(f"bn_{stage}", _batch_norm(channels, frozen=segmentation))
            in_channels = channels

    def forward(self, data: Tensor) -> Tensor:
        branch = data
        for stage in self._stages:
            branch = getattr(self, f"bn_{stage}")(getattr(self, stage)(branch))
            if stage != self._stages[-1]:
                branch = functional.relu(branch, inplace=True)
        if not self._plain:
            branch = branch + self._shortcut(data)
        return functional.relu(branch, inplace=True)

    def _shortcut(self, data: Tensor) -> Tensor:
        if self.branch1 is not None and self.bn_branch1 is not None:
            projected: Tensor = self.bn_branch1(self.branch1(data))
            return projected
        data = data[:, :, :: self._stride, :: self._stride]
        return functional.pad(data, (0, 0, 0, 0, 0, self._missing)) if self._missing else data


def _rna_features(network: Network, pool: str, *, segmentation: bool) -> _Named:
    channels = network.stem_channels
    yield "conv1a", _convolution(3, channels, 3)
    for level in network.levels:
        if level.pooled:
            yield f"pool{level.index - 1}", _max_pool(pool, stride=level.stride)
        for number, block in enumerate(block_names(level)):
            first = number == 0
            yield (
                f"res{block}",
                _PreActivationBlock(level, channels, first=first, segmentation=segmentation),
            )
            channels = level.channels[-1]
    last = network.levels[-1].index
    yield f"bn{last}", _batch_norm(channels, frozen=segmentation)
    yield f"relu{last}", nn.ReLU(inplace=True)


def _rn_features(network: Network, pool: str, *, segmentation: bool) -> _Named:
    channels = network.stem_channels
    yield "conv1", _convolution(3, channels, 7, stride=2)
    yield "bn_conv1", _batch_norm(channels, frozen=segmentation)
    yield "conv1_relu", nn.ReLU(inplace=True)
    yield "pool1", _max_pool(pool, stride=2)
    for level in network.levels:
        for number, block in enumerate(block_names(level)):
            first = number == 0
            yield (
                f"res{block}",
                _PostActivationBlock(
                    network, level, channels, first=first, segmentation=segmentation
                ),
            )
            channels = level.channels[-1]


def _classification_top(channels: int, num_classes: int) -> _Named:
    yield "pool7", nn.AdaptiveAvgPool2d(1)
    yield "flatten7", nn.Flatten()
    yield f"linear{num_classes}", nn.Linear(channels, num_classes)


def _segmentation_top(channels: int, num_classes: int, *, width: float, head: str) -> _Named:
    if head == "2conv":
        middle = max(1, round(HEAD_CHANNELS * width))
        yield "conv6a", _convolution(channels, middle, 3, dilation=HEAD_DILATION, bias=True)
        yield "conv6a_relu", nn.ReLU(inplace=True)
        channels = middle
    scores = _convolution(channels, num_classes, 3, dilation=HEAD_DILATION, bias=True)
    yield f"linear{num_classes}", scores


def _convolution(
    in_channels: int,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """Return a square convolution that keeps the size but for its stride."""
    dilation = dilation if kernel > 1 else 1
    padding = dilation * (kernel // 2)
    return nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, bias=bias)


def _batch_norm(channels: int, *, frozen: bool) -> nn.BatchNorm2d:
    kind = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    return kind(channels, eps=BN_EPSILON, momentum=_BN_MOMENTUM)


def _max_pool(pool: str, *, stride: int) -> nn.MaxPool2d:
    """Return 3×3 max pooling in a geometry of :class:`symbols.layers.Layers`."""
    padded = pool == "pad" or stride == 1
    return nn.MaxPool2d(3, stride, int(padded), ceil_mode=pool == "full" and not padded)

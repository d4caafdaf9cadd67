"""A network as a flat list of layers: what every engine, the drawing and the summary read.

The list follows from a row of `symbols.levels` and a top, and the released names are made here. It
ends in scores and their softmax. Loads no MXNet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ademx.compat import InputError
from symbols.levels import (
    HEAD_CHANNELS,
    HEAD_DILATION,
    HEADS,
    POOL_GEOMETRIES,
    LevelSpec,
    Network,
    block_names,
    check_choice,
    with_width,
)

DATA = "data"

_HEAD: dict[str, Any] = {"dilation": HEAD_DILATION, "bias": True}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One operator.

    Attributes:
        kind: "convolution", "batch_norm", "relu", "dropout", "max_pool", "global_pool" (mean over
            the image), "flatten", "linear", "add", "subsample" (every stride-th row and column),
            "zero_pad" (channels of zeros at the end) or "softmax" (over the channels).
        name: the layer's, which is also its output's; the parameters' names start with it.
        inputs: names of the outputs that it reads.
        in_channels: channels of the first input.
        channels: channels of the output.
        level: "stem", "1" to "7" or "top"; a pooling between two levels is of the second.
        block: the residual block's name, such as "4b1"; "" outside of blocks.
        kernel: side of the kernel, pixels.
        stride: pixels.
        dilation: pixels.
        padding: pixels on every side.
        ceil: whether a last, partial window counts.
        bias: whether a convolution has one.
        rate: fraction that a dropout drops.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    in_channels: int
    channels: int
    level: str
    block: str
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    ceil: bool = False
    bias: bool = False
    rate: float = 0.0

    def parameters(self) -> dict[str, Shape]:
        """Return the names of the layer's parameters, moving statistics last, and their shapes."""
        if self.kind == "batch_norm":
            suffixes = ("gamma", "beta", "moving_mean", "moving_var")
            return {f"{self.name}_{suffix}": (self.channels,) for suffix in suffixes}
        if not self.is_weighted:
            return {}
        side = (self.kernel, self.kernel) if self.kind == "convolution" else ()
        shapes: dict[str, Shape] = {f"{self.name}_weight": (self.channels, self.in_channels, *side)}
        if self.bias:
            shapes[f"{self.name}_bias"] = (self.channels,)
        return shapes

    @property
    def is_weighted(self) -> bool:
        """Whether this layer counts as depth: a convolution or a fully connected layer."""
        return self.kind in ("convolution", "linear")

    def output_shape(self, shape: Shape) -> Shape:
        """Return the output's dimensions, (N, C) or (N, C, H, W), from those of the first input."""
        batch, _, *sides = shape
        if self.kind in ("flatten", "linear"):
            return batch, self.channels
        if self.kind == "global_pool":
            return batch, self.channels, 1, 1
        spare = 2 * self.padding + self.ceil * (self.stride - 1) - self.dilation * (self.kernel - 1)
        return batch, self.channels, *((side + spare - 1) // self.stride + 1 for side in sides)


def output_shapes(layers: Iterable[Layer], shape: Shape) -> dict[str, Shape]:
    """Return the dimensions of an input, (N, 3, H, W), and of every layer's output, by name.

    Raises:
        ValueError: the input is smaller than a kernel.
    """
    shapes = {DATA: shape}
    for layer in layers:
        source = shapes[layer.inputs[0]]
        if layer.kernel > min(source[2:], default=1) + 2 * layer.padding:
            raise InputError(
                f"an input of {shape[2]}x{shape[3]} pixels is too small for this network"
            )
        shapes[layer.name] = layer.output_shape(source)
    return shapes


def list_layers(
    network: Network,
    *,
    num_classes: int,
    task: str,
    width: float = 1.0,
    pool: str = "pad",
    head: str = "2conv",
) -> tuple[Layer, ...]:
    """Return the layers of a network in order of computation.

    The first reads :data:`DATA`, (N, 3, H, W) float32, RGB: mean/std normalised for "rna", and
    minus (123.68, 116.779, 103.939), not scaled, for "rn". The last is "softmax": probabilities,
    (N, classes) for classification and (N, classes, H/s, W/s) for segmentation.

    Args:
        network: a row of the tables, at its output stride.
        num_classes: classes to tell apart.
        task: "classification" or "segmentation"; the latter drops out.
        width: multiplier of all channels but the classes.
        pool: geometry of 3×3 stride-2 max pooling. "pad": padding 1; "caffe": padding 0, partial
            windows left out (the release's choice to test Model A); "full": padding 0, partial
            windows counted (what Model A was trained with: 224 → 112 → … → 7).
        head: segmentation top, "2conv" or "1conv".

    Raises:
        ValueError: a choice that does not exist.

    Source: arXiv:1611.10080, Table 1 and §4.2; arXiv:1512.03385, Table 1.
    """
    check_choice("pool", pool, POOL_GEOMETRIES)
    check_choice("head", head, HEADS)
    network = with_width(network, width)
    builder = _Builder(pool, drop=task == "segmentation")
    features = builder.rna(network) if network.family == "rna" else builder.rn(network)
    top = f"linear{num_classes}"
    if task == "classification":
        features = builder.add("flatten", "flatten7", builder.add("global_pool", "pool7", features))
        scores = builder.add("linear", top, features, channels=num_classes, bias=True)
    else:
        if head == "2conv":
            channels = max(1, round(HEAD_CHANNELS * width))
            features = builder.convolution(features, "conv6a", channels, 3, **_HEAD)
            features = builder.add("relu", "conv6a_relu", features)
        scores = builder.convolution(features, top, num_classes, 3, **_HEAD)
    builder.add("softmax", "softmax", scores)
    return tuple(builder.layers)


def without_dropout(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Return the layers that compute something in testing."""
    sources: dict[str, str] = {}
    kept = []
    for layer in layers:
        inputs = tuple(sources.get(name, name) for name in layer.inputs)
        if layer.kind == "dropout":
            sources[layer.name] = inputs[0]
        else:
            kept.append(dataclasses.replace(layer, inputs=inputs))
    return tuple(kept)


@dataclass
class _Builder:
    """Appends layers; every method returns the name of the output it added."""

    pool: str
    drop: bool
    layers: list[Layer] = field(default_factory=list)
    level: str = "stem"
    block: str = ""
    _channels: dict[str, int] = field(default_factory=lambda: {DATA: 3})

    def add(
        self, kind: str, name: str, *inputs: str, channels: int | None = None, **options: Any
    ) -> str:
        """Append a layer; without `channels` it keeps those of its first input."""
        in_channels = self._channels[inputs[0]]
        channels = channels or in_channels
        place = self.level, self.block
        self.layers.append(Layer(kind, name, inputs, in_channels, channels, *place, **options))
        self._channels[name] = channels
        return name

    def blocks(self, level: LevelSpec) -> Iterator[tuple[str, bool]]:
        """Yield the names of a level's blocks, each as its turn comes, and whether it is first."""
        for number, self.block in enumerate(block_names(level)):
            yield self.block, number == 0
        self.block, self.level = "", "top"

    def convolution(
        self,
        data: str,
        name: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
    ) -> str:
        """Append one that keeps the size but for its stride; a 1×1 convolution never dilates."""
        dilation = dilation if kernel > 1 else 1
        return self.add(
            "convolution",
            name,
            data,
            channels=channels,
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            padding=dilation * (kernel // 2),
            bias=bias,
        )

    def max_pool(self, data: str, name: str, *, stride: int, dilation: int = 1) -> str:
        """Append 3×3 pooling; one that lost its stride keeps its size, whatever the geometry.

        Its windows are then centred, and the network's output, taken at every stride-th cell, is
        that of the network that strides: from the first cell where pooling pads, from the last
        cell of the first stride where it does not ("full").
        """
        padded = self.pool == "pad" or stride == 1
        return self.add(
            "max_pool",
            name,
            data,
            kernel=3,
            stride=stride,
            dilation=dilation,
            padding=dilation * padded,
            ceil=self.pool == "full" and not padded,
        )

    def rna(self, network: Network) -> str:
        """Append the paper's own network up to its last ReLU (arXiv:1611.10080, Figure 2)."""
        data = self.convolution(DATA, "conv1a", network.stem_channels, 3)
        for level in network.levels:
            self.level = str(level.index)
            if level.pooled:
                data = self.max_pool(
                    *(data, f"pool{level.index - 1}"),
                    stride=level.stride,
                    dilation=level.entry_dilation,
                )
            for block, first in self.blocks(level):
                data = self._rna_block(data, level, block, first=first)
        last = network.levels[-1].index
        return self.add("relu", f"relu{last}", self.add("batch_norm", f"bn{last}", data))

    def _rna_block(self, data: str, level: LevelSpec, block: str, *, first: bool) -> str:
        """Append a pre-activation block: stages of BatchNorm, ReLU(, dropout), convolution."""
        shortcut, branch = data, data
        stages = ("branch2a", *(f"branch2b{n}" for n in range(1, len(level.kernels))))
        for stage, channels, kernel, stride, dilation in _stages(level, stages, first):
            name = f"res{block}_{stage}"
            branch = self.add("batch_norm", f"bn{block}_{stage}", branch)
            branch = self.add("relu", f"{name}_relu", branch)
            if stage == stages[0] and first and level.project:
                # The projection reads the block's first ReLU, not its input.
                shortcut = self.convolution(
                    branch, f"res{block}_branch1", level.channels[-1], 1, stride=stride
                )
            if self.drop and level.dropout and stage == stages[-1]:
                branch = self.add("dropout", f"{name}_do", branch, rate=level.dropout)
            branch = self.convolution(
                branch, name, channels, kernel, stride=stride, dilation=dilation
            )
        return self.add("add", f"res{block}", branch, shortcut)

    def rn(self, network: Network) -> str:
        """Append a baseline up to its last ReLU (arXiv:1512.03385, §3)."""
        data = self.convolution(DATA, "conv1", network.stem_channels, 7, stride=2)
        data = self.add("relu", "conv1_relu", self.add("batch_norm", "bn_conv1", data))
        self.level = str(network.levels[0].index)
        data = self.max_pool(data, "pool1", stride=2)
        for level in network.levels:
            self.level = str(level.index)
            for block, first in self.blocks(level):
                shortcut = self._rn_shortcut(data, network, level, block, first=first)
                data = self._rn_block(data, level, block, first=first)
                if shortcut:
                    data = self.add("add", f"res{block}", data, shortcut)
                data = self.add("relu", f"res{block}_relu", data)
        return data

    def _rn_shortcut(
        self, data: str, network: Network, level: LevelSpec, block: str, *, first: bool
    ) -> str:
        """Return the shortcut's output, "" for a plain network."""
        stride, channels = level.stride if first and not level.pooled else 1, level.channels[-1]
        if network.shortcut == "none":
            return ""
        if level.project and (first or network.shortcut == "C"):
            name = f"{block}_branch1"
            data = self.convolution(data, f"res{name}", channels, 1, stride=stride)
            return self.add("batch_norm", f"bn{name}", data)
        if stride > 1:
            data = self.add("subsample", f"res{block}_subsample", data, stride=stride)
        if self._channels[data] < channels:
            data = self.add("zero_pad", f"res{block}_zero_padded", data, channels=channels)
        return data

    def _rn_block(self, data: str, level: LevelSpec, block: str, *, first: bool) -> str:
        """Append a post-activation block's stages: convolution, BatchNorm(, ReLU)."""
        stages = tuple(f"branch2{letter}" for letter in "abc"[: len(level.kernels)])
        for stage, channels, kernel, stride, dilation in _stages(level, stages, first):
            name = f"{block}_{stage}"
            data = self.convolution(
                data, f"res{name}", channels, kernel, stride=stride, dilation=dilation
            )
            data = self.add("batch_norm", f"bn{name}", data)
            if stage != stages[-1]:
                data = self.add("relu", f"res{name}_relu", data)
        return data


def _stages(
    level: LevelSpec, names: tuple[str, ...], first: bool
) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield name, channels, kernel, stride and dilation of each convolution of a block."""
    for position, (name, channels, kernel) in enumerate(zip(names, level.channels, level.kernels)):
        entry = first and not level.pooled and position <= level.strider
        stride = level.stride if entry and position == level.strider else 1
        yield name, channels, kernel, stride, level.entry_dilation if entry else level.dilation

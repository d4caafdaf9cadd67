"""A label's network as a flat list of layers, and its parameters' shapes. Loads no MXNet.

The list says what `ademx.build_symbol` builds, computed from the same tables (`symbols.levels`);
the tests hold both against each other. It ends in scores and their softmax: there is no loss and
no dropout, which do nothing in testing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ademx.labels import Label, parse_label
from symbols.levels import (
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
    native_stride,
    with_output_stride,
    with_width,
)

DATA = "data"
PROBABILITIES = "probabilities"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One operator.

    Attributes:
        kind: "convolution", "batch_norm", "relu", "max_pool", "global_pool" (mean over the image,
            flattened), "linear", "add", "subsample" (every stride-th row and column), "zero_pad"
            (channels of zeros at the end) or "softmax" (over the channels).
        name: the layer's, which is also its output's; the parameters' names start with it.
        inputs: names of the outputs that it reads.
        in_channels: channels of the first input.
        channels: channels of the output.
        kernel: side of the kernel, pixels.
        stride: pixels.
        dilation: pixels.
        padding: pixels on every side.
        ceil: whether a last, partial window counts.
        bias: whether a convolution has one.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    in_channels: int
    channels: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    ceil: bool = False
    bias: bool = False

    def parameters(self) -> dict[str, Shape]:
        """Return the names of the layer's parameters, moving statistics last, and their shapes."""
        if self.kind == "batch_norm":
            suffixes = ("gamma", "beta", "moving_mean", "moving_var")
            return {f"{self.name}_{suffix}": (self.channels,) for suffix in suffixes}
        if self.kind not in ("convolution", "linear"):
            return {}
        side = (self.kernel, self.kernel) if self.kind == "convolution" else ()
        shapes: dict[str, Shape] = {f"{self.name}_weight": (self.channels, self.in_channels, *side)}
        if self.bias:
            shapes[f"{self.name}_bias"] = (self.channels,)
        return shapes

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the output from those of the first input, pixels."""
        if self.kind in ("global_pool", "linear"):
            return 1, 1
        reach = self.dilation * (self.kernel - 1) + 1
        spare = [side + 2 * self.padding - reach + self.ceil * (self.stride - 1) for side in size]
        return spare[0] // self.stride + 1, spare[1] // self.stride + 1


def network_stride(label: Label) -> int:
    """Return how many pixels of its input a cell of a label's network's output stands for.

    It is below the label's output stride where the network down-samples less by itself: a label
    that names no stride says 32, and one trained at 112 or 56 has 16 or 8.
    """
    return min(label.output_stride, native_stride(get_network(label.family, label.variant)))


def list_layers(
    label: str | os.PathLike[str] | Label,
    *,
    width: float = 1.0,
    pool: str = "pad",
    head: str = "2conv",
) -> tuple[Layer, ...]:
    """Return the layers of a label's network in order of computation.

    The first reads :data:`DATA`; the last is named :data:`PROBABILITIES`.

    Args:
        label: see :func:`ademx.build_symbol`.
        width: multiplier of all channels but the classes.
        pool: geometry of max pooling, "pad", "caffe" or "full".
        head: segmentation top, "2conv" or "1conv".

    Raises:
        ValueError: a malformed label, or a choice that does not exist.
    """
    label = label if isinstance(label, Label) else parse_label(label)
    check_choice("pool", pool, POOL_GEOMETRIES)
    check_choice("head", head, HEADS)
    network = get_network(label.family, label.variant)
    network = with_width(with_output_stride(network, label.output_stride), width)
    builder = _Builder(pool)
    features = builder.rna(network) if label.family == "rna" else builder.rn(network)
    if label.task == "classification":
        features = builder.add("global_pool", "pool7", features)
        scores = builder.add(
            "linear", f"linear{label.num_classes}", features, channels=label.num_classes, bias=True
        )
    else:
        if head == "2conv":
            channels = max(1, round(HEAD_CHANNELS * width))
            features = builder.head_convolution(features, "conv6a", channels)
            features = builder.add("relu", "conv6a_relu", features)
        scores = builder.head_convolution(features, f"linear{label.num_classes}", label.num_classes)
    builder.add("softmax", PROBABILITIES, scores)
    return tuple(builder.layers)


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


@dataclass
class _Builder:
    """Appends layers; every method returns the name of the output it added."""

    pool: str
    layers: list[Layer] = field(default_factory=list)
    _channels: dict[str, int] = field(default_factory=lambda: {DATA: 3})

    def add(
        self, kind: str, name: str, *inputs: str, channels: int | None = None, **options: Any
    ) -> str:
        """Append a layer; without `channels` it keeps those of its first input."""
        in_channels = self._channels[inputs[0]]
        channels = channels or in_channels
        self.layers.append(Layer(kind, name, inputs, in_channels, channels, **options))
        self._channels[name] = channels
        return name

    def convolution(
        self, data: str, name: str, channels: int, kernel: int, *, stride: int, dilation: int
    ) -> str:
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
        )

    def head_convolution(self, data: str, name: str, channels: int) -> str:
        return self.add(
            "convolution",
            name,
            data,
            channels=channels,
            kernel=3,
            dilation=HEAD_DILATION,
            padding=HEAD_DILATION,
            bias=True,
        )

    def max_pool(self, data: str, name: str, *, stride: int) -> str:
        padded = self.pool == "pad" or stride == 1
        return self.add(
            "max_pool",
            name,
            data,
            kernel=3,
            stride=stride,
            padding=int(padded),
            ceil=self.pool == "full" and not padded,
        )

    def rna(self, network: Network) -> str:
        """Append the paper's own network up to its last ReLU (as `symbols.rna`)."""
        data = self.convolution(DATA, "conv1a", network.stem_channels, 3, stride=1, dilation=1)
        for level in network.levels:
            if level.pooled:
                data = self.max_pool(data, f"pool{level.index - 1}", stride=level.stride)
            for number, block in enumerate(block_names(level)):
                data = self._rna_block(data, level, block, first=number == 0)
        last = network.levels[-1].index
        return self.add("relu", f"relu{last}", self.add("batch_norm", f"bn{last}", data))

    def _rna_block(self, data: str, level: LevelSpec, block: str, *, first: bool) -> str:
        shortcut, branch = data, data
        for stage, channels, kernel, stride, dilation in _stages(level, branch_names(level), first):
            name = f"res{block}_{stage}"
            branch = self.add("batch_norm", f"bn{block}_{stage}", branch)
            branch = self.add("relu", f"{name}_relu", branch)
            if stage == "branch2a" and first and level.project:
                shortcut = self.convolution(
                    *(branch, f"res{block}_branch1", level.channels[-1], 1),
                    stride=stride,
                    dilation=1,
                )
            branch = self.convolution(
                branch, name, channels, kernel, stride=stride, dilation=dilation
            )
        return self.add("add", f"res{block}", branch, shortcut)

    def rn(self, network: Network) -> str:
        """Append a baseline up to its last ReLU (as `symbols.rn`)."""
        data = self.convolution(DATA, "conv1", network.stem_channels, 7, stride=2, dilation=1)
        data = self.add("relu", "conv1_relu", self.add("batch_norm", "bn_conv1", data))
        data = self.max_pool(data, "pool1", stride=2)
        for level in network.levels:
            for number, block in enumerate(block_names(level)):
                shortcut = self._rn_shortcut(data, network, level, block, first=number == 0)
                data = self._rn_block(data, level, block, first=number == 0)
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
            data = self.convolution(data, f"res{name}", channels, 1, stride=stride, dilation=1)
            return self.add("batch_norm", f"bn{name}", data)
        if stride > 1:
            data = self.add("subsample", f"res{block}_subsample", data, stride=stride)
        if self._channels[data] < channels:
            data = self.add("zero_pad", f"res{block}_zero_padded", data, channels=channels)
        return data

    def _rn_block(self, data: str, level: LevelSpec, block: str, *, first: bool) -> str:
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
        entry = first and position == 0
        stride = level.stride if entry and not level.pooled else 1
        yield name, channels, kernel, stride, level.entry_dilation if entry else level.dilation


def find_width(label: Label, shapes: Mapping[str, Shape]) -> float:
    """Return the width multiplier of parameters: their channels over the full network's.

    Every block's channels grow with the width, so a file without a top tells it too.
    """
    full = get_network(label.family, label.variant).levels[-1].channels[-1]
    channels = [shape[0] for name, shape in shapes.items() if name.startswith("res") and shape]
    return max(channels, default=full) / full


def find_head(shapes: Mapping[str, Shape]) -> str:
    """Return the segmentation top that parameters have, "2conv" or "1conv", "" for neither."""
    tops = [shape for name, shape in shapes.items() if re.fullmatch(r"linear\d+_weight", name)]
    if len(tops) != 1 or len(tops[0]) != 4:
        return ""
    return "2conv" if "conv6a_weight" in shapes else "1conv"

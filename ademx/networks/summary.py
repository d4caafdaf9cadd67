"""What a network costs, level by level, computed from its list of layers, and while it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ademx.errors import InputError
from ademx.labels import parse_label
from ademx.networks.graph import list_layers
from symbols.layers import DATA, Layer, Shape, output_shapes
from symbols.levels import get_network

# The released Cityscapes crop, 500 pixels rounded up to a multiple of 8.
SEGMENTATION_INPUT = (504, 504)

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Graph:
    """A network for one size of input.

    Attributes:
        label: the full label.
        origin: as in :class:`symbols.levels.Network`.
        input_shape: (batch, 3, height, width).
        width: multiplier of all channels but the classes.
        layers: in order of computation.
        shapes: dimensions of the input and of every layer's output, by name.
    """

    label: str
    origin: str
    input_shape: tuple[int, int, int, int]
    width: float
    layers: tuple[Layer, ...]
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class LevelSummary:
    """One row: a level, the stem before the first block or the top after the last one.

    Attributes:
        name: "stem", "1" to "7" or "top".
        output_size: height and width of the last output, pixels; (1, 1) after a linear layer.
        channels: channels of the last output.
        blocks: residual blocks.
        dilations: the dilations of the convolutions larger than 1×1, in rising order.
        parameters: numbers that training changes by gradient.
        auxiliary: moving statistics.
        macs: multiply-adds of convolutions and fully connected layers, for the whole batch.
        activation_bytes: size of every operator's output as float32, for the whole batch. This is
            what training would keep if each output stayed until the backward pass; MXNet 1.9.1
            lets some operators write over their input and allocates 57 to 69 % of it.
    """

    name: str
    output_size: tuple[int, int]
    channels: int
    blocks: int
    dilations: tuple[int, ...]
    parameters: int
    auxiliary: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Summary:
    """A network's levels and totals; the totals count as the columns of the levels do.

    Attributes:
        depth: weighted layers on the longest path from input to output.
        levels: rows in order of computation.
    """

    depth: int
    levels: tuple[LevelSummary, ...]
    parameters: int
    auxiliary: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class TrainingMemory:
    """What one device holds while it trains on batches of a graph's size, in bytes, float32.

    The engines work it out for theirs.

    Attributes:
        parameters: weights and moving statistics.
        gradients: one for each weight.
        momentum: one for each weight.
        inputs: images and labels of a batch.
        plan: activations and their gradients, as the engine lays them out.
        workspace: the most that a convolution may take besides on a GPU; not in the total.
    """

    parameters: int
    gradients: int
    momentum: int
    inputs: int
    plan: int
    workspace: int

    @property
    def total(self) -> int:
        """Bytes that every update needs. The engine itself and the CUDA context come on top."""
        return self.parameters + self.gradients + self.momentum + self.inputs + self.plan


def full_label(name: str) -> str:
    """Return a label as it is, and for a network's bare name its ImageNet label.

    Args:
        name: such as "voc_rna-a1_cls21_s8" (whatever has a `_`), "a1", "rna-a1" or "rn-50".
    """
    if "_" in name:
        return name
    network = name if name.startswith(("rna-", "rn-")) else f"rna-{name}"
    return f"ilsvrc-cls_{network}_cls1000"


def load_graph(
    label: str,
    *,
    input_size: tuple[int, int] | None = None,
    batch: int = 1,
    width: float = 1.0,
    pool: str = "pad",
    head: str = "2conv",
) -> Graph:
    """Return the graph of a label.

    Args:
        label: see :func:`full_label`.
        input_size: height and width, pixels; by default the network's training crop for
            classification and 504 × 504 for segmentation.
        batch: images in a batch.
        width: multiplier of all channels but the classes.
        pool: geometry of max pooling, as in :func:`ademx.networks.graph.build_symbol`.
        head: segmentation top, "2conv" or "1conv".

    Raises:
        ValueError: an unknown label or choice, or an input that is too small.
    """
    parsed = parse_label(full_label(label))
    network = get_network(parsed.family, parsed.variant)
    if input_size is None:
        classifies = parsed.task == "classification"
        input_size = (network.crop, network.crop) if classifies else SEGMENTATION_INPUT
    shape = (batch, 3, *input_size)
    if min(shape) < 1:
        raise InputError(f"batch {batch}, input {input_size}: expected positive numbers")
    layers = list_layers(parsed, width=width, pool=pool, head=head)
    return Graph(str(parsed), network.origin, shape, width, layers, output_shapes(layers, shape))


def summarise(graph: Graph) -> Summary:
    """Return what each level of a network costs, and the totals."""
    names = dict.fromkeys(layer.level for layer in graph.layers)
    levels = tuple(_summarise_level(name, graph) for name in names)
    return Summary(
        depth=_depth(graph.layers),
        levels=levels,
        parameters=sum(level.parameters for level in levels),
        auxiliary=sum(level.auxiliary for level in levels),
        macs=sum(level.macs for level in levels),
        activation_bytes=sum(level.activation_bytes for level in levels),
    )


def _summarise_level(name: str, graph: Graph) -> LevelSummary:
    own = [layer for layer in graph.layers if layer.level == name]
    channels, *size = (*graph.shapes[own[-1].name][1:], 1, 1)[:3]
    sizes = {
        parameter: math.prod(shape)
        for layer in own
        for parameter, shape in layer.parameters().items()
    }
    auxiliary = sum(size for parameter, size in sizes.items() if "_moving_" in parameter)
    dilations = {layer.dilation for layer in own if layer.is_weighted and layer.kernel > 1}
    return LevelSummary(
        name=name,
        output_size=(size[0], size[1]),
        channels=channels,
        blocks=len({layer.block for layer in own if layer.block}),
        dilations=tuple(sorted(dilations)),
        parameters=sum(sizes.values()) - auxiliary,
        auxiliary=auxiliary,
        macs=sum(
            _positions(layer, graph) * sizes[f"{layer.name}_weight"]
            for layer in own
            if layer.is_weighted
        ),
        activation_bytes=_FLOAT32_BYTES
        * sum(_positions(layer, graph) * _written_channels(layer) for layer in own),
    )


def _positions(layer: Layer, graph: Graph) -> int:
    """Return at how many positions of the batch the output's channels are."""
    shape = graph.shapes[layer.name]
    return math.prod(shape) // shape[1]


def _written_channels(layer: Layer) -> int:
    """Return the channels of all operators' outputs: MXNet makes `zero_pad`'s zeros in steps."""
    if layer.kind != "zero_pad":
        return layer.channels
    like, missing = layer.in_channels, layer.channels - layer.in_channels
    return like + math.ceil(missing / like) * like + missing + layer.channels


def _depth(layers: tuple[Layer, ...]) -> int:
    depths = {DATA: 0}
    for layer in layers:
        depths[layer.name] = max(depths[name] for name in layer.inputs) + layer.is_weighted
    return depths[layers[-1].name]

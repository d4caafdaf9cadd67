"""What a network costs, level by level, computed from its Symbol and nothing else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ademx.compat import import_mxnet
from ademx.labels import parse_label
from ademx.networks.graph import build_symbol, mirroring
from symbols.levels import get_network

if TYPE_CHECKING:
    from mxnet.symbol import Symbol

# The released Cityscapes crop, 500 pixels rounded up to a multiple of 8 (SPEC §4).
SEGMENTATION_INPUT = (504, 504)

_STEM = re.compile(r"(bn_)?conv1")
_BLOCK = re.compile(r"(?:res|bn)((\d)[ab]\d*)(?:_|$)")
_INPUTS = ("data", "softmax_label")
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Node:
    """One node of a graph whose input's size is known.

    Attributes:
        name: the name in the Symbol.
        op: MXNet's operator, "null" for a variable.
        attributes: the operator's arguments, as MXNet writes them.
        inputs: positions, in the graph, of the nodes that this one reads.
        shape: dimensions of the output.
        level: "stem", "1" to "7" or "top".
        block: the residual block's name, such as "4b1"; "" outside of blocks.
        auxiliary: whether this is a variable that no gradient reaches (a moving statistic).
    """

    name: str
    op: str
    attributes: dict[str, str]
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    level: str
    block: str
    auxiliary: bool

    @property
    def is_parameter(self) -> bool:
        """Whether this is a variable that training changes by gradient."""
        return self.op == "null" and not self.auxiliary and self.name not in _INPUTS

    @property
    def is_weighted(self) -> bool:
        """Whether this layer counts as depth: a convolution or a fully connected layer."""
        return self.op in ("Convolution", "FullyConnected")

    def pair(self, attribute: str) -> tuple[int, int]:
        """Return a pair such as kernel, stride or dilate; (1, 1) where the operator has none."""
        height, width = map(int, re.findall(r"\d+", self.attributes.get(attribute, "1 1")))
        return height, width


@dataclass(frozen=True)
class Graph:
    """A network for one size of input.

    Attributes:
        label: the full label.
        origin: as in :class:`symbols.levels.Network`.
        input_shape: (batch, 3, height, width).
        width: multiplier of all channels but the classes.
        nodes: all nodes, each after those that it reads.
        symbol: the network itself.
    """

    label: str
    origin: str
    input_shape: tuple[int, int, int, int]
    width: float
    nodes: tuple[Node, ...]
    symbol: Symbol


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
        label: the full label.
        origin: as in :class:`symbols.levels.Network`.
        input_shape: (batch, 3, height, width).
        width: multiplier of all channels but the classes.
        depth: weighted layers on the longest path from input to output.
        levels: rows in order of computation.
    """

    label: str
    origin: str
    input_shape: tuple[int, int, int, int]
    width: float
    depth: int
    levels: tuple[LevelSummary, ...]
    parameters: int
    auxiliary: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class TrainingMemory:
    """What one device holds while it trains on batches of a graph's size, in bytes, float32.

    Attributes:
        parameters: weights and moving statistics.
        gradients: one for each weight.
        momentum: one for each weight.
        inputs: images and labels of a batch.
        plan: activations and their gradients, as MXNet lays them out over each other; whole MiB.
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
        """Bytes that every update needs. MXNet itself and the CUDA context come on top."""
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
        ademx.compat.MissingDependency: MXNet is not installed.
    """
    parsed = parse_label(full_label(label))
    network = get_network(parsed.family, parsed.variant)
    if input_size is None:
        classifies = parsed.task == "classification"
        input_size = (network.crop, network.crop) if classifies else SEGMENTATION_INPUT
    shape = (batch, 3, *input_size)
    if min(shape) < 1:
        raise ValueError(f"batch {batch}, input {input_size}: expected positive numbers")
    symbol = build_symbol(parsed, width=width, pool=pool, head=head)
    return Graph(str(parsed), network.origin, shape, width, _nodes(symbol, shape), symbol)


def summarise(graph: Graph) -> Summary:
    """Return what each level of a network costs, and the totals."""
    names = dict.fromkeys(node.level for node in graph.nodes if node.op != "null")
    levels = tuple(_summarise_level(name, graph.nodes) for name in names)
    return Summary(
        label=graph.label,
        origin=graph.origin,
        input_shape=graph.input_shape,
        width=graph.width,
        depth=_depth(graph.nodes),
        levels=levels,
        parameters=sum(level.parameters for level in levels),
        auxiliary=sum(level.auxiliary for level in levels),
        macs=sum(level.macs for level in levels),
        activation_bytes=sum(level.activation_bytes for level in levels),
    )


def training_memory(graph: Graph, *, backward_do_mirror: bool = False) -> TrainingMemory:
    """Return the memory that training takes on one device, from MXNet's own plan.

    The network is bound on the CPU, which reserves addresses: no memory is filled, and no weight
    is computed.

    Args:
        graph: its batch is that of one device.
        backward_do_mirror: plan for computing cheap layers again in the backward pass.
    """
    symbol = graph.symbol
    requests = {name: "null" if name in _INPUTS else "write" for name in symbol.list_arguments()}
    with mirroring(backward_do_mirror):
        executor = symbol.simple_bind(
            import_mxnet().cpu(), grad_req=requests, data=graph.input_shape
        )
    (plan,) = re.findall(r"Total (\d+) MB allocated", executor.debug_str())
    weights = _FLOAT32_BYTES * _elements(node for node in graph.nodes if node.is_parameter)
    statistics = _FLOAT32_BYTES * _elements(node for node in graph.nodes if node.auxiliary)
    workspaces = [int(node.attributes.get("workspace", 0)) for node in graph.nodes]
    return TrainingMemory(
        parameters=weights + statistics,
        gradients=weights,
        momentum=weights,
        inputs=_FLOAT32_BYTES * _elements(node for node in graph.nodes if node.name in _INPUTS),
        plan=int(plan) * 2**20,
        workspace=max(workspaces) * 2**20,
    )


def _nodes(symbol: Symbol, data_shape: tuple[int, int, int, int]) -> tuple[Node, ...]:
    """Return the nodes of a Symbol.

    A pooling between two levels belongs to the level that it leads to, and so does whatever else
    bears no block's name.
    """
    shapes = _output_shapes(symbol, data_shape)
    rows = json.loads(symbol.tojson())["nodes"]
    auxiliary = set(symbol.list_auxiliary_states())
    nodes = []
    level = "top"
    for row in reversed(rows):  # backwards, so that the level that follows is known
        name, op = row["name"], row["op"]
        block = _BLOCK.match(name)
        if block:
            level = block[2]
        elif _STEM.match(name):
            level = "stem"
        nodes.append(
            Node(
                name=name,
                op=op,
                attributes=row.get("attrs", {}),
                inputs=tuple(position for position, *_ in row["inputs"]),
                shape=shapes[name if op == "null" else f"{name}_output"],
                level=level,
                block=block[1] if block else "",
                auxiliary=name in auxiliary,
            )
        )
    return tuple(reversed(nodes))


def _output_shapes(symbol: Symbol, data_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    internals = symbol.get_internals()
    try:
        _, shapes, _ = internals.infer_shape(data=data_shape)
    except import_mxnet().MXNetError as error:
        height, width = data_shape[2:]
        raise ValueError(
            f"an input of {height}x{width} pixels is too small for this network"
        ) from error
    return dict(zip(internals.list_outputs(), shapes))


def _summarise_level(name: str, nodes: tuple[Node, ...]) -> LevelSummary:
    """Return one row; `nodes` is the whole graph."""
    own = [node for node in nodes if node.level == name]
    operators = [node for node in own if node.op != "null"]
    channels, *size = (*operators[-1].shape[1:], 1, 1)[:3]
    return LevelSummary(
        name=name,
        output_size=(size[0], size[1]),
        channels=channels,
        blocks=len({node.block for node in own if node.block}),
        dilations=tuple(sorted({node.pair("dilate")[0] for node in own if _is_spatial(node)})),
        parameters=_elements(node for node in own if node.is_parameter),
        auxiliary=_elements(node for node in own if node.auxiliary),
        macs=sum(_macs(node, nodes) for node in own if node.is_weighted),
        activation_bytes=_FLOAT32_BYTES * _elements(operators),
    )


def _is_spatial(node: Node) -> bool:
    return node.op == "Convolution" and node.pair("kernel") != (1, 1)


def _elements(nodes: Iterable[Node]) -> int:
    return sum(math.prod(node.shape) for node in nodes)


def _macs(node: Node, nodes: tuple[Node, ...]) -> int:
    """Return the multiply-adds: each position of the output applies the whole weight once."""
    weight = nodes[node.inputs[1]]
    batch, _, *size = node.shape
    return batch * math.prod(size) * math.prod(weight.shape)


def _depth(nodes: tuple[Node, ...]) -> int:
    depths: list[int] = []
    for node in nodes:
        before = max((depths[position] for position in node.inputs), default=0)
        depths.append(before + node.is_weighted)
    return depths[-1]

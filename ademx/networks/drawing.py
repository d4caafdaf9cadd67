"""A network's graph as a picture, from top to bottom, by graphviz."""

from __future__ import annotations

from dataclasses import dataclass, field

import graphviz

from ademx.compat import MissingDependency
from ademx.networks.summary import Graph, Node

FORMATS = ("pdf", "png", "svg")

# Kind of layer -> fill: ColorBrewer's Set3, which MXNet's plot_network uses too.
_COLOURS = {
    "input": "#8dd3c7",
    "convolution": "#fb8072",
    "normalisation": "#bebada",
    "activation": "#ffffb3",
    "pooling": "#80b1d3",
    "add": "#b3de69",
    "output": "#fccde5",
    "other": "#fdb462",
}
_KINDS = {
    "null": "input",
    "Convolution": "convolution",
    "FullyConnected": "convolution",
    "BatchNorm": "normalisation",
    "Activation": "activation",
    "Pooling": "pooling",
    "elemwise_add": "add",
    "SoftmaxOutput": "output",
}
# Steps of the making of zeros for shortcut A; the picture shows their end, the concatenation.
_HIDDEN = ("zeros_like", "tile", "slice_axis")
# Operators that join the box of the operator before them, where they are its only reader.
_JOINING = ("Activation", "Dropout")
_JOINED = ("BatchNorm", "Activation", "elemwise_add")

_GRAPH_STYLE = {
    "rankdir": "TB",
    "ranksep": "0.16",
    "nodesep": "0.3",
    "fontname": "Helvetica",
    "fontsize": "13",
    "labelloc": "t",
}
_NODE_STYLE = {
    "shape": "box",
    "style": "filled,rounded",
    "color": "#00000030",
    "fontname": "Helvetica",
    "fontsize": "10",
    "height": "0.26",
    "width": "2.1",
    "margin": "0.1,0.03",
}
_EDGE_STYLE = {
    "fontname": "Helvetica",
    "fontsize": "8",
    "fontcolor": "#606060",
    "color": "#808080",
    "arrowsize": "0.5",
}
_LEVEL_STYLE = {
    "style": "filled,rounded",
    "color": "#f4f4f4",
    "fontcolor": "#404040",
    "fontsize": "11",
    "labeljust": "l",
}


@dataclass
class _Box:
    """One box of the picture: an operator and those that joined it."""

    node: Node
    text: str
    inputs: list[int] = field(default_factory=list)


def draw(graph: Graph, file_format: str) -> bytes:
    """Return the picture of a graph as the content of a file.

    Boxes are layers, coloured by kind, with a frame around each level; edges carry the size
    (channels × height × width) of what flows.

    Args:
        graph: from :func:`ademx.networks.summary.load_graph`.
        file_format: "pdf", "png" or "svg".

    Raises:
        ValueError: another format.
        ademx.compat.MissingDependency: the `dot` program is not installed.
    """
    if file_format not in FORMATS:
        raise ValueError(f"picture format {file_format!r}: choose one of {', '.join(FORMATS)}")
    picture = _picture(graph)
    try:
        return bytes(picture.pipe(file_format))
    except graphviz.ExecutableNotFound:
        raise MissingDependency(
            "drawing needs the `dot` program, which is not installed: run `apt-get install "
            "graphviz` (macOS: `brew install graphviz`)"
        ) from None


def _picture(graph: Graph) -> graphviz.Digraph:
    boxes, box_of = _boxes(graph.nodes)
    size = "×".join(map(str, graph.input_shape))
    picture = graphviz.Digraph(node_attr=_NODE_STYLE, edge_attr=_EDGE_STYLE)
    picture.attr(label=f"{graph.label}\ninput {size}\n ", **_GRAPH_STYLE)
    for level in dict.fromkeys(box.node.level for box in boxes.values()):
        with picture.subgraph(name=f"cluster_{level}") as frame:
            frame.attr(label=f"level {level}" if level.isdecimal() else level, **_LEVEL_STYLE)
            for key, box in boxes.items():
                if box.node.level == level:
                    colour = _COLOURS[_KINDS.get(box.node.op, "other")]
                    frame.node(str(key), box.text, fillcolor=colour)
    for key, box in boxes.items():
        for rank, position in enumerate(box.inputs):
            _, *shape = graph.nodes[position].shape
            flow = " " + "×".join(map(str, shape))
            # A heavy edge is drawn straight, so the main path is; it is what `add` reads first.
            weight = "1" if rank > 0 or _is_shortcut(box.node) else "100"
            picture.edge(str(box_of[position]), str(key), label=flow, weight=weight)
    return picture


def _is_shortcut(node: Node) -> bool:
    return node.name.endswith("_branch1") or node.op in ("slice", "Concat")


def _boxes(nodes: tuple[Node, ...]) -> tuple[dict[int, _Box], dict[int, int]]:
    """Return the boxes by position of their first node, and the box of each drawn node."""
    readers = [0] * len(nodes)
    for node in nodes:
        for position in node.inputs:
            readers[position] += 1
    boxes: dict[int, _Box] = {}
    box_of: dict[int, int] = {}
    for position, node in enumerate(nodes):
        drawn = [source for source in node.inputs if source in box_of]
        if node.op in _HIDDEN or (node.op == "null" and node.name != "data"):
            continue
        source = drawn[0] if drawn else position
        if node.op in _JOINING and nodes[source].op in _JOINED and readers[source] == 1:
            box_of[position] = box_of[source]
            boxes[box_of[source]].text += f" + {_text(node)}"
        else:
            box_of[position] = position
            boxes[position] = _Box(node, _text(node), drawn)
    return boxes, box_of


def _text(node: Node) -> str:
    """Return a layer's name, where it has weights, and what it does."""
    attributes = node.attributes
    if node.op == "Convolution":
        text = f"{node.name}: {_window(node)}, {attributes['num_filter']}"
        dilation = node.pair("dilate")[0]
        return text + (f", dilation {dilation}" if dilation > 1 else "")
    if node.op == "FullyConnected":
        return f"{node.name}: {attributes['num_hidden']}"
    if node.op == "Pooling":
        globally = attributes.get("global_pool") == "True"
        return f"{node.name}: {attributes['pool_type']} " + ("all" if globally else _window(node))
    if node.op == "Dropout":
        return f"Dropout {attributes['p']}"
    return {
        "null": node.name,
        "Activation": "ReLU",
        "elemwise_add": "add",
        "slice": "every second pixel",
        "Concat": "zero padding",
        "SoftmaxOutput": "softmax",
    }.get(node.op, node.op)


def _window(node: Node) -> str:
    """Return kernel and, where it is not 1, stride: "3×3 / 2"."""
    height, width = node.pair("kernel")
    stride = node.pair("stride")[0]
    return f"{height}×{width}" + (f" / {stride}" if stride > 1 else "")

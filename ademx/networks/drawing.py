"""A network's graph as a picture, from top to bottom, by graphviz."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import graphviz

from ademx.errors import MissingDependency
from ademx.networks.summary import Graph
from ademx.pictures import check_format
from symbols.layers import DATA, Layer

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
    "convolution": "convolution",
    "linear": "convolution",
    "batch_norm": "normalisation",
    "relu": "activation",
    "max_pool": "pooling",
    "global_pool": "pooling",
    "add": "add",
    "softmax": "output",
}
_TEXTS = {
    "batch_norm": "BatchNorm",
    "relu": "ReLU",
    "flatten": "Flatten",
    "add": "add",
    "subsample": "every second pixel",
    "zero_pad": "zero padding",
    "softmax": "softmax",
}
# Layers that join the box of the layer before them, where they are its only reader.
_JOINING = ("relu", "dropout")
_JOINED = ("batch_norm", "relu", "add")

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
    """One box of the picture: a layer and those that joined it."""

    layer: Layer
    text: str


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
    check_format(file_format)
    picture = _picture(graph)
    try:
        return bytes(picture.pipe(file_format))
    except graphviz.ExecutableNotFound:
        raise MissingDependency(
            "drawing needs the `dot` program, which is not installed: run `apt-get install "
            "graphviz` (macOS: `brew install graphviz`)"
        ) from None


def _picture(graph: Graph) -> graphviz.Digraph:
    boxes, box_of = _boxes(graph.layers)
    size = "×".join(map(str, graph.input_shape))
    picture = graphviz.Digraph(node_attr=_NODE_STYLE, edge_attr=_EDGE_STYLE)
    picture.attr(label=f"{graph.label}\ninput {size}\n ", **_GRAPH_STYLE)
    for level in dict.fromkeys(layer.level for layer in graph.layers):
        with picture.subgraph(name=f"cluster_{level}") as frame:
            frame.attr(label=f"level {level}" if level.isdecimal() else level, **_LEVEL_STYLE)
            if level == graph.layers[0].level:
                frame.node(DATA, DATA, fillcolor=_COLOURS["input"])
            for name, box in boxes.items():
                if box.layer.level == level:
                    colour = _COLOURS[_KINDS.get(box.layer.kind, "other")]
                    frame.node(name, box.text, fillcolor=colour)
    for name, box in boxes.items():
        for rank, source in enumerate(box.layer.inputs):
            _, *shape = graph.shapes[source]
            flow = " " + "×".join(map(str, shape))
            # A heavy edge is drawn straight, so the main path is; it is what `add` reads first.
            weight = "1" if rank > 0 or _is_shortcut(box.layer) else "100"
            picture.edge(box_of[source], name, label=flow, weight=weight)
    return picture


def _is_shortcut(layer: Layer) -> bool:
    return layer.name.endswith("_branch1") or layer.kind in ("subsample", "zero_pad")


def _boxes(layers: tuple[Layer, ...]) -> tuple[dict[str, _Box], dict[str, str]]:
    """Return the boxes by name of their first layer, and the box of each output."""
    readers = Counter(name for layer in layers for name in layer.inputs)
    kinds = {layer.name: layer.kind for layer in layers}
    boxes: dict[str, _Box] = {}
    box_of = {DATA: DATA}
    for layer in _main_path_first(layers):
        source = layer.inputs[0]
        if layer.kind in _JOINING and kinds[source] in _JOINED and readers[source] == 1:
            box_of[layer.name] = box_of[source]
            boxes[box_of[source]].text += f" + {_text(layer)}"
        else:
            box_of[layer.name] = layer.name
            boxes[layer.name] = _Box(layer, _text(layer))
    return boxes, box_of


def _main_path_first(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    """Yield a block's shortcut behind its branch: `dot` keeps straight what it reads first."""
    shortcut: list[Layer] = []
    for layer in layers:
        if _is_shortcut(layer):
            shortcut.append(layer)
            continue
        if layer.kind == "add":
            yield from shortcut
            shortcut = []
        yield layer


def _text(layer: Layer) -> str:
    """Return a layer's name, where it has weights, and what it does."""
    stride = f" / {layer.stride}" if layer.stride > 1 else ""
    window = f"{layer.kernel}×{layer.kernel}{stride}"
    dilation = f", dilation {layer.dilation}" if layer.dilation > 1 else ""
    return {
        **_TEXTS,
        "convolution": f"{layer.name}: {window}, {layer.channels}{dilation}",
        "linear": f"{layer.name}: {layer.channels}",
        "max_pool": f"{layer.name}: max {window}{dilation}",
        "global_pool": f"{layer.name}: avg all",
        "dropout": f"Dropout {layer.rate}",
    }[layer.kind]

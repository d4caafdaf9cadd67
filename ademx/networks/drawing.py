"""A network's graph as a picture, from top to bottom, by graphviz."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ademx.compat import import_optional
from ademx.errors import MissingDependency
from ademx.networks.summary import Graph
from ademx.pictures import check_format
from symbols.layers import DATA, Layer

# Fills of boxes: ColorBrewer's Set3, which MXNet's plot_network uses too.
_INPUT_FILL = "#8dd3c7"
_WEIGHTED, _POOLING, _OTHER = "#fb8072", "#80b1d3", "#fdb462"
# Kind of layer -> fill and text.
_BOXES = {
    "convolution": (_WEIGHTED, "{layer.name}: {window}, {layer.channels}{dilation}"),
    "linear": (_WEIGHTED, "{layer.name}: {layer.channels}"),
    "batch_norm": ("#bebada", "BatchNorm"),
    "relu": ("#ffffb3", "ReLU"),
    "dropout": (_OTHER, "Dropout {layer.rate}"),
    "max_pool": (_POOLING, "{layer.name}: max {window}{dilation}"),
    "global_pool": (_POOLING, "{layer.name}: avg all"),
    "flatten": (_OTHER, "Flatten"),
    "add": ("#b3de69", "add"),
    "subsample": (_OTHER, "every second pixel"),
    "zero_pad": (_OTHER, "zero padding"),
    "softmax": ("#fccde5", "softmax"),
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


def draw(graph: Graph, file_format: str) -> bytes:
    """Return the picture of a graph as the content of a file.

    Boxes are layers, coloured by kind, with a frame around each level; edges carry the size
    (channels × height × width) of what flows.

    Args:
        graph: from :func:`ademx.networks.summary.load_graph`.
        file_format: "pdf", "png" or "svg".

    Raises:
        ValueError: another format.
        ademx.compat.MissingDependency: graphviz is not installed, the package or the program.
    """
    check_format(file_format)
    graphviz = import_optional(
        "graphviz", "drawing needs the graphviz package: run `pip install 'ademx[plot]'`"
    )
    picture = _picture(graph, graphviz)
    try:
        return bytes(picture.pipe(file_format))
    except graphviz.ExecutableNotFound:
        raise MissingDependency(
            "drawing needs the `dot` program, which is not installed: run `apt-get install "
            "graphviz` (macOS: `brew install graphviz`)"
        ) from None


def _picture(graph: Graph, graphviz: ModuleType) -> Any:
    """Return the picture of a graph, a `graphviz.Digraph`."""
    texts, box_of = _boxes(graph.layers)
    layers = {layer.name: layer for layer in graph.layers}
    size = "×".join(map(str, graph.input_shape))
    picture = graphviz.Digraph(node_attr=_NODE_STYLE, edge_attr=_EDGE_STYLE)
    picture.attr(label=f"{graph.label}\ninput {size}\n ", **_GRAPH_STYLE)
    for level in dict.fromkeys(layer.level for layer in graph.layers):
        with picture.subgraph(name=f"cluster_{level}") as frame:
            frame.attr(label=f"level {level}" if level.isdecimal() else level, **_LEVEL_STYLE)
            if level == graph.layers[0].level:
                frame.node(DATA, DATA, fillcolor=_INPUT_FILL)
            for name, text in texts.items():
                if layers[name].level == level:
                    fill, _ = _BOXES[layers[name].kind]
                    frame.node(name, text, fillcolor=fill)
    for name in texts:
        for rank, source in enumerate(layers[name].inputs):
            _, *shape = graph.shapes[source]
            flow = " " + "×".join(map(str, shape))
            # A heavy edge is drawn straight, so the main path is; it is what `add` reads first.
            weight = "1" if rank > 0 or _is_shortcut(layers[name]) else "100"
            picture.edge(box_of[source], name, label=flow, weight=weight)
    return picture


def _is_shortcut(layer: Layer) -> bool:
    return layer.name.endswith("_branch1") or layer.kind in ("subsample", "zero_pad")


def _boxes(layers: tuple[Layer, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the boxes' texts by the names of their first layers, and the box of each output."""
    readers = Counter(name for layer in layers for name in layer.inputs)
    kinds = {layer.name: layer.kind for layer in layers}
    texts: dict[str, str] = {}
    box_of = {DATA: DATA}
    for layer in _main_path_first(layers):
        source = layer.inputs[0]
        if layer.kind in _JOINING and kinds[source] in _JOINED and readers[source] == 1:
            box_of[layer.name] = box_of[source]
            texts[box_of[source]] += f" + {_text(layer)}"
        else:
            box_of[layer.name] = layer.name
            texts[layer.name] = _text(layer)
    return texts, box_of


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
    return _BOXES[layer.kind][1].format(layer=layer, window=window, dilation=dilation)

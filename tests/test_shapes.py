"""A label's layers without MXNet, against the graph that MXNet builds and the release's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ademx
from ademx.networks.graph import list_layers, parameter_shapes
from symbols.layers import output_shapes
from symbols.levels import RN_NETWORKS, RNA_NETWORKS

GRAPHS = json.loads((Path(__file__).parent / "golden" / "graphs.json").read_text())

CLASSIFIERS = [f"ilsvrc-cls_rna-{name}_cls1000" for name in RNA_NETWORKS]
BASELINES = [f"ilsvrc-cls_rn-{name}_cls1000" for name in RN_NETWORKS]
SPECS = ["places_rna-56-2-1-2-1-3-1-2_cls365", "ilsvrc-cls_rna-224-0-3-3-6-3-1-1_cls1000"]
DILATED = [
    f"voc_{network}_cls21_s{stride}"
    for network in (
        "rna-a1",
        "rna-a2",
        "rna-b",
        "rna-c",
        "rn-34a",
        "rn-101",
        "rna-112-1-1-1-1-9-1-1",
    )
    for stride in (8, 16, 32)
] + ["voc_rna-a_cls21_s16", "voc_rna-a_cls21"]


def graph_shapes(label: str, **options) -> dict[str, tuple[int, ...]]:
    graph = ademx.build_symbol(label, **options)
    arguments, _, states = graph.infer_shape(data=(2, 3, 97, 129))
    found = dict(zip(graph.list_arguments(), arguments))
    for given in ("data", "softmax_label"):
        del found[given]
    return {**found, **dict(zip(graph.list_auxiliary_states(), states))}


@pytest.mark.parametrize("label", CLASSIFIERS + BASELINES + SPECS + DILATED)
def test_parameters_are_the_graphs(label):
    pytest.importorskip("mxnet")
    assert parameter_shapes(label) == graph_shapes(label)


@pytest.mark.parametrize("head", ["1conv", "2conv"])
@pytest.mark.parametrize("width", [1 / 16, 0.3, 1.5])
@pytest.mark.parametrize("label", ["voc_rna-a1_cls21_s8", "ilsvrc-cls_rn-34a_cls1000"])
def test_width_and_head(label, width, head):
    pytest.importorskip("mxnet")
    options = {"width": width, "head": head}
    assert parameter_shapes(label, **options) == graph_shapes(label, **options)


@pytest.mark.parametrize("key", GRAPHS)
def test_parameters_are_those_that_the_release_built(key):
    released = GRAPHS[key]["arguments"] + GRAPHS[key]["auxiliary"]
    expected = {
        name: tuple(shape) for name, shape in released if name not in ("data", "softmax_label")
    }
    assert parameter_shapes(key.split(" ")[0]) == expected


@pytest.mark.parametrize("pool", ["pad", "caffe", "full"])
@pytest.mark.parametrize(
    "label",
    [
        "ilsvrc-cls_rna-a_cls1000",
        "voc_rna-a_cls21_s16",
        "voc_rna-a1_cls21_s8",
        "voc_rna-b_cls21_s8",
        "ilsvrc-cls_rn-34a_cls1000",
    ],
)
def test_every_output_has_the_graphs_size(label, pool):
    """Kernel, stride, dilation and padding: the sizes that they give, layer by layer."""
    pytest.importorskip("mxnet")
    size = (97, 130)
    graph = ademx.build_symbol(label, pool=pool).get_internals()
    _, outputs, _ = graph.infer_shape(data=(1, 3, *size))
    expected = dict(zip(graph.list_outputs(), outputs))
    layers = list_layers(label, pool=pool)
    shapes = output_shapes(layers, (1, 3, *size))
    for layer in layers:
        shape = expected[f"{layer.name}_output"]
        assert shape == shapes[layer.name], layer
        assert shape[1] == layer.channels, layer


def test_model_a1_has_the_papers_parameters():
    shapes = parameter_shapes("ilsvrc-cls_rna-a1_cls1000")
    learnt = {name: shape for name, shape in shapes.items() if "moving" not in name}
    count = 0
    for shape in learnt.values():
        product = 1
        for side in shape:
            product *= side
        count += product
    assert count == 109_167_912  # arXiv:1611.10080: 109 million


def test_unknown_choices():
    with pytest.raises(ValueError, match=r"pool 'round': choose one of pad, caffe, full"):
        list_layers("voc_rna-a1_cls21_s8", pool="round")
    with pytest.raises(ValueError, match=r"head .3conv.: choose one of"):
        list_layers("voc_rna-a1_cls21_s8", head="3conv")


def test_needs_no_mxnet():
    code = (
        "import sys; sys.modules['mxnet'] = None\n"
        "from ademx.networks.graph import parameter_shapes\n"
        "print(len(parameter_shapes('voc_rna-a1_cls21_s8')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(parameter_shapes("voc_rna-a1_cls21_s8"))

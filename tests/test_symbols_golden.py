"""The graphs against what the release itself built and computed (golden/graphs.json, …)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fill import image_batch
from filled import fill

import ademx

mx = pytest.importorskip("mxnet")

GOLDEN = Path(__file__).parent / "golden"
GRAPHS = json.loads((GOLDEN / "graphs.json").read_text())


def build(key: str):
    label, *options = key.split(" ")
    return ademx.build_symbol(
        label,
        pool="caffe" if "pool=caffe" in options else "pad",
        loss="ohem" if "bootstrapping" in options else "softmax",
    )


def shapes(symbol, input_shape):
    arguments, outputs, auxiliary = symbol.infer_shape(data=tuple(input_shape))
    return (
        dict(zip(symbol.list_arguments(), arguments)),
        outputs,
        dict(zip(symbol.list_auxiliary_states(), auxiliary)),
    )


def difference(ours: dict, released: dict) -> dict:
    """Every name whose shape is not the released one: (ours, released)."""
    names = sorted(set(ours) | set(released))
    return {n: (ours.get(n), released.get(n)) for n in names if ours.get(n) != released.get(n)}


@pytest.mark.parametrize("key", GRAPHS)
def test_names_and_shapes_are_the_released_ones(key):
    released = GRAPHS[key]
    arguments, outputs, auxiliary = shapes(build(key), released["input"])
    expected = {name: tuple(shape) for name, shape in released["arguments"]}
    if not expected["softmax_label"]:  # the release does not infer this one for OHEM
        n, _, height, width = released["output"]
        expected["softmax_label"] = (n, height * width)
    assert difference(arguments, expected) == {}
    expected = {name: tuple(shape) for name, shape in released["auxiliary"]}
    assert difference(auxiliary, expected) == {}
    assert outputs == [tuple(released["output"])]


@pytest.mark.parametrize("key", GRAPHS)
def test_multipliers_are_the_released_ones(key):
    attributes = build(key).attr_dict()
    multipliers = {
        name: {k.strip("_"): float(v) for k, v in found.items() if "_mult" in k}
        for name, found in attributes.items()
    }
    found = {name: values for name, values in multipliers.items() if values}
    assert found == GRAPHS[key]["multipliers"]


@pytest.mark.full_width
@pytest.mark.parametrize("key", sorted(np.load(GOLDEN / "graph_outputs.npz")))
def test_outputs_are_the_released_ones(key):
    expected = np.load(GOLDEN / "graph_outputs.npz")[key]
    symbol = build(key)
    arguments, _, auxiliary = shapes(symbol, GRAPHS[key]["input"])
    values = {"data": image_batch(arguments.pop("data"))}
    values["softmax_label"] = np.zeros(arguments.pop("softmax_label"), np.float32)
    values |= {name: fill(name, shape) for name, shape in arguments.items()}
    executor = symbol.bind(
        mx.cpu(),
        {name: mx.nd.array(value) for name, value in values.items()},
        aux_states={n: mx.nd.array(fill(n, shape)) for n, shape in auxiliary.items()},
        grad_req="null",
    )
    output = executor.forward(is_train=False)[0].asnumpy()
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() <= 1e-5 * np.abs(expected).max()

"""`ademx.training.start_trainer` against MXNet's Module and arithmetic by hand."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from tiny_training import CLASSIFIER, SEGMENTER, WIDTH, classification, segmentation

from ademx import build_symbol, params
from ademx.devices import Devices
from ademx.training import start_trainer
from ademx.training.initial import initial_values

mx = pytest.importorskip("mxnet")

UPDATES = 2


def graph_of(task):
    """Return the graph, dropping nothing, and values for it."""
    chosen = {"loss": "ohem"} if task == "segmentation" else {}
    label = SEGMENTER if task == "segmentation" else CLASSIFIER
    tree = json.loads(build_symbol(label, width=WIDTH, **chosen).tojson())
    for node in tree["nodes"]:
        if node["op"] == "Dropout":
            node["attrs"]["p"] = "0"
    graph = mx.sym.load_json(json.dumps(tree))
    args, _, aux = graph.infer_shape(data=(4, 3, 32, 32))
    shapes = dict(zip(graph.list_arguments(), args))
    del shapes["data"]
    label_shape = shapes.pop("softmax_label")
    shapes.update(zip(graph.list_auxiliary_states(), aux))
    return graph, label_shape, initial_values(shapes, task=task, seed=3)


def by_module(graph, values, batches, *, devices, optimizer, rates, rescale, weight_decay):
    """Return the parameters and outputs of MXNet's own training loop."""
    module = mx.mod.Module(
        graph, context=[mx.cpu(k) for k in range(devices)], label_names=("softmax_label",)
    )
    data, label = batches[0]
    module.bind([("data", data.shape)], [("softmax_label", label.shape)])
    arrays = {name: mx.nd.array(value) for name, value in values.items()}
    names = set(graph.list_auxiliary_states())
    module.init_params(
        initializer=None,
        arg_params={name: value for name, value in arrays.items() if name not in names},
        aux_params={name: value for name, value in arrays.items() if name in names},
    )
    # A rate that is told before each update.
    schedule = {"momentum": 0.9, "wd": weight_decay, "rescale_grad": rescale}
    module.init_optimizer("local", optimizer, {"learning_rate": 1.0, **schedule})
    outputs = []
    for (data, label), rate in zip(batches, rates):
        module.forward_backward(mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)]))
        outputs.append(module.get_outputs()[0].asnumpy())
        module._optimizer.lr = rate
        module.update()
    mx.nd.waitall()
    return module.get_params(), outputs


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_updates_are_those_of_mxnets_module(task, devices, tmp_path, monkeypatch):
    monkeypatch.setenv("MXNET_UPDATE_ON_KVSTORE", "0")  # where no rate can be told
    graph, label_shape, values = graph_of(task)
    random = np.random.default_rng(0)
    classes = 21 if task == "segmentation" else 4
    batches = [
        (random.standard_normal((4, 3, 32, 32)), random.integers(0, classes, label_shape))
        for _ in range(UPDATES)
    ]
    make = segmentation if task == "segmentation" else classification
    options = make(
        tmp_path,
        tmp_path / "out",
        to_epoch=2,
        batch_images=4,
        lr_type="linear",
        base_lr=0.01,
        devices=Devices(cpus=devices),
    )
    trainer = start_trainer(
        options,
        data_shape=(4, 3, 32, 32),
        num_batches=3,
        values=values,
        first_update=1,
        dropout=False,
    )
    made = [trainer.step(data, label) for data, label in batches]

    # 6 updates, so that the line ends at 7; MXNet's SGD counts an update before it asks.
    first = 1 + (task == "segmentation")
    rates = [0.01 * (1 - (first + number) / 7) for number in range(UPDATES)]
    expected, outputs = by_module(
        graph,
        values,
        batches,
        devices=devices,
        optimizer="sgd" if task == "segmentation" else "TorchNesterov",
        rates=rates,
        rescale=1 / devices if task == "segmentation" else 1 / 4,
        weight_decay=5e-4 if task == "segmentation" else 1e-4,
    )
    assert [update.rate for update in made] == pytest.approx(rates)
    for update, output, (_, label) in zip(made, outputs, batches):
        scores = output.reshape(4, classes, -1).astype(np.float64)
        true = np.take_along_axis(scores, label.reshape(4, 1, -1), axis=1)
        assert update.sums.count == label.size
        assert update.sums.loss == pytest.approx(-np.log(true).sum(), rel=1e-4)
        # Scores of noise are no two alike.
        assert update.sums.top1 == (scores.max(axis=1, keepdims=True) == true).sum()
    for found, wanted in zip(trainer.parameters(), expected):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(
                found[name], value.asnumpy(), rtol=1e-4, atol=1e-6, err_msg=name
            )
    moved = [name for name in values if "weight" in name and expected[0].get(name) is not None]
    assert any(np.abs(trainer.parameters()[0][name] - values[name]).max() > 1e-5 for name in moved)


@pytest.mark.parametrize("backend", ["mxnet", "torch"])
def test_values_of_another_network_and_batches_that_cannot_be_shared_are_refused(backend, tmp_path):
    _, _, values = graph_of("classification")
    values["conv0_weight"] = values.pop("conv1a_weight")
    options = classification(tmp_path, tmp_path / "out", devices=Devices(cpus=2), backend=backend)
    shape = {"data_shape": (2, 3, 32, 32), "num_batches": 1}
    with pytest.raises(params.CheckpointMismatch, match="values"):
        start_trainer(options, values=values, **shape)
    shape["data_shape"] = (3, 3, 32, 32)
    with pytest.raises(ValueError, match=r"data_shape .3, .*: expected a multiple of the 2"):
        start_trainer(options, **shape)


@pytest.mark.parametrize("backend", ["mxnet", "torch"])
def test_what_the_values_lack_is_what_the_options_begin_with(backend, tmp_path):
    _, _, values = graph_of("classification")
    options = classification(tmp_path, tmp_path / "out", backend=backend)
    shape = {"data_shape": (2, 3, 32, 32), "num_batches": 1}
    drawn, _ = start_trainer(options, **shape).parameters()
    given = {"conv1a_weight": values["conv1a_weight"]}
    found, _ = start_trainer(options, values=given, **shape).parameters()
    for name, value in {**drawn, **given}.items():
        np.testing.assert_array_equal(found[name], value)


def test_the_run_loads_no_mxnet_until_it_trains():
    code = "import ademx.training.run, ademx.training.start, sys; sys.exit('mxnet' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Training: the same weights on one device or several, stopped and resumed or not."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from machine import needs_bfloat16
from sums_by_hand import classifier_sums
from tiny_training import (
    CLASSIFIER,
    OWN_CLASSIFIER,
    SEGMENTER,
    WIDTH,
    assert_same_bits,
    child,
    classification,
    interrupt_at,
    make_data,
    make_own,
    metrics,
    segmentation,
    start,
    weights,
)

mx = pytest.importorskip("mxnet")

from ademx.devices import Devices  # noqa: E402
from ademx.engines.mxnet.train import MxnetTrainer, MxnetWorkers, sums_of  # noqa: E402
from ademx.networks.graph import build_symbol  # noqa: E402
from ademx.schedule import LinearSchedule, StepSchedule  # noqa: E402
from ademx.training import checkpoints  # noqa: E402  (these need mxnet)
from ademx.training import run as training  # noqa: E402
from ademx.training.initial import initial_values  # noqa: E402
from ademx.training.run import train  # noqa: E402
from ademx.training.saving import TrainingDiverged  # noqa: E402

BOTH = pytest.mark.parametrize("backend", ["mxnet", "torch"])
SPEC = "rna-224-0-1-1-1-1-1-1"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "photos", task="classification")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "scenes", task="segmentation")


# --- one update after another -------------------------------------------------------------------


def network(label: str, *, frozen: bool = True, batch: int = 4, size: int = 32):
    """Return a narrow graph, values for it, and a batch for it."""
    graph = build_symbol(label, width=WIDTH, frozen_statistics=frozen)
    data = (batch, 3, size, size)
    arg_shapes, output_shapes, aux_shapes = graph.infer_shape(data=data)
    shapes = dict(zip(graph.list_arguments(), arg_shapes))
    del shapes["data"]
    label_shape = shapes.pop("softmax_label")
    shapes.update(zip(graph.list_auxiliary_states(), aux_shapes))
    random = np.random.default_rng(5)
    classes = output_shapes[0][1]
    arrays = [random.standard_normal(data), random.integers(0, classes, label_shape)]
    values = initial_values(shapes, task="classification", seed=1)
    for name, value in values.items():  # else features grow from block to block
        value *= 0.5 if name.startswith("res") else 1
    return graph, values, arrays


def trained(network_, *, updates=5, contexts=1, rescale=0.25, lr=0.1, kvstore="local", **options):
    """Return the parameters after some updates on the same batch."""
    graph, values, (data, label) = network_
    trainer = MxnetTrainer(
        graph,
        devices=Devices(cpus=contexts),
        data_shape=data.shape,
        values=values,
        optimizer="TorchNesterov",
        optimizer_params={
            "lr_scheduler": StepSchedule((), lr),
            "wd": 1e-4,
            "momentum": 0.9,
            "rescale_grad": rescale,
        },
        workers=MxnetWorkers(kvstore, contexts),
        **options,
    )
    sums = [trainer.start(data, label, seed=number) for number in range(updates)]
    return trainer, trainer.parameters()[0], [found() for found in sums]


@pytest.mark.parametrize("kvstore", ["local", "device"])
def test_two_devices_with_half_the_batch_equal_one(kvstore):
    a1 = network("ilsvrc-cls_rna-a1_cls10")
    _, one, sums_one = trained(a1)
    _, two, sums_two = trained(a1, contexts=2, kvstore=kvstore)
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-5, err_msg=name)
    assert any(np.abs(one[name] - a1[1][name]).max() > 1e-3 for name in one)  # it did learn
    assert sums_one[-1].loss < sums_one[0].loss
    assert [s.loss for s in sums_two] == pytest.approx([s.loss for s in sums_one], rel=1e-5)


def test_two_devices_of_a_segmentation_network_average_their_means():
    # All labels valid: the mean over two halves is the mean of the halves' means, so 1/devices.
    graph, values, arrays = network("voc_rna-a1_cls21_s8")
    tree = json.loads(graph.tojson())
    for node in tree["nodes"]:  # draws differ between devices: leave them out
        if node["op"] == "Dropout":
            node["attrs"]["p"] = "0"
    still = (mx.sym.load_json(json.dumps(tree)), values, arrays)
    _, one, _ = trained(still, updates=3, rescale=1.0)
    _, two, _ = trained(still, updates=3, rescale=0.5, contexts=2)
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-5, err_msg=name)


def test_an_update_is_torchs(tmp_path):
    """One layer, three updates: against arithmetic in numpy."""
    graph = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="fc")
    graph = mx.sym.SoftmaxOutput(graph, mx.sym.Variable("softmax_label"), name="softmax")
    random = np.random.default_rng(0)
    data, label = random.standard_normal((4, 5)), np.array([0, 2, 1, 2])
    values = {"fc_weight": random.standard_normal((3, 5)), "fc_bias": np.zeros(3)}
    _, found, sums = trained((graph, values, [data, label]), updates=3, lr=0.1)
    weight, bias = values["fc_weight"].copy(), np.zeros(3)
    momenta, losses = [0, 0], []
    for _ in range(3):
        scores = data @ weight.T + bias
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        losses.append(-np.log(probabilities[range(4), label]).sum())
        error = (probabilities - np.eye(3)[label]) / 4
        gradients = [error.T @ data + 1e-4 * weight, error.sum(axis=0)]  # biases do not decay
        momenta = [0.9 * m + g for m, g in zip(momenta, gradients)]
        weight -= 0.1 * (gradients[0] + 0.9 * momenta[0])
        bias -= 0.1 * (gradients[1] + 0.9 * momenta[1])
    np.testing.assert_allclose(found["fc_weight"], weight, atol=1e-5)
    np.testing.assert_allclose(found["fc_bias"], bias, atol=1e-5)
    assert [s.loss for s in sums] == pytest.approx(losses, rel=1e-4)


def test_scaling_the_loss_changes_nothing_and_overflows_are_left_out():
    a1 = network(CLASSIFIER)
    _, plain, _ = trained(a1, updates=3)
    trainer, scaled, _ = trained(a1, updates=3, scale_loss=True)
    assert trainer.loss_scale == 2**16
    for name, value in plain.items():
        np.testing.assert_allclose(scaled[name], value, atol=1e-5, err_msg=name)
    before = trainer.momentum()
    trainer.restore_scaling(2.0**127, 0)  # any gradient above 2 overflows a float32
    trainer.start(1e4 * a1[2][0], a1[2][1], seed=0)()
    assert trainer.loss_scale == 2.0**126
    for name, value in before.items():
        np.testing.assert_array_equal(trainer.momentum()[name], value)


def test_a_change_of_scale_frees_the_old_module_before_it_binds_a_new_one(monkeypatch):
    """Else the GPU would need the memory of two at the first overflow."""
    a1 = network(CLASSIFIER)
    trainer, _, _ = trained(a1, updates=1, scale_loss=True)
    trainer.restore_scaling(2.0**127, 0)
    old, bind, alive = weakref.ref(trainer._module._exec_group), trainer._bind, []

    def noting(values):
        alive.append(old())
        bind(values)

    monkeypatch.setattr(trainer, "_bind", noting)
    trainer.start(1e4 * a1[2][0], a1[2][1], seed=0)()
    assert alive == [None]


def test_an_update_without_images_adds_nothing():
    a1 = network(CLASSIFIER)
    trainer, before, _ = trained(a1, updates=1)
    sums = trainer.start(None, None, seed=0, stop=True)()
    assert (sums.loss, sums.count, sums.stop) == (0, 0, 1)
    gradients = trainer._module._exec_group.grad_arrays
    assert all((one.asnumpy() == 0).all() for arrays in gradients for one in arrays)
    # What is left is the momentum's and the decay's part.
    momentum, bias = trainer.momentum()["linear4_bias"], before["linear4_bias"]
    found = trainer.parameters()[0]["linear4_bias"]
    np.testing.assert_allclose(found, bias - 0.1 * 0.9 * momentum, atol=1e-6)


@needs_bfloat16
def test_bfloat16_learns_nearly_the_same():
    a1 = network(CLASSIFIER)
    _, plain, exact = trained(a1)
    _, short, rounded = trained(a1, precision="bfloat16")
    assert {value.dtype for value in short.values()} == {np.dtype("float32")}
    # bfloat16 keeps 8 bits: a few percent after some layers and updates.
    assert rounded[-1].loss == pytest.approx(exact[-1].loss, rel=0.1)
    moved = np.concatenate([(plain[n] - a1[1][n]).ravel() for n in plain])
    moved_short = np.concatenate([(short[n] - a1[1][n]).ravel() for n in plain])
    cosine = moved @ moved_short / np.linalg.norm(moved) / np.linalg.norm(moved_short)
    assert 0.9 < cosine < 1 - 1e-7


@pytest.mark.parametrize("optimizer", ["TorchNesterov", "sgd"])
@pytest.mark.parametrize("contexts", [1, 2])
def test_an_update_that_is_left_out_takes_its_place_in_the_schedule(optimizer, contexts):
    """A resumed run counts batches: the rate of the fourth must not depend on the second."""
    graph, values, (data, label) = network(CLASSIFIER)
    asked = []

    class Schedule(LinearSchedule):
        def __call__(self, num_update):
            asked.append(num_update)
            return super().__call__(num_update)

    trainer = MxnetTrainer(
        graph,
        devices=Devices(cpus=contexts),
        data_shape=data.shape,
        values=values,
        optimizer=optimizer,
        optimizer_params={"rescale_grad": 0.25, "lr_scheduler": Schedule(9)},
        workers=MxnetWorkers("local", contexts),
        scale_loss=True,
    )
    first = optimizer == "sgd"  # which counts an update before it asks
    for number in range(4):
        asked.clear()
        if number in (0, 2):  # any gradient above 2 overflows a float32
            trainer.restore_scaling(2.0**127, 0)
        trainer.start(1e4 * data if number in (0, 2) else data, label, seed=0)()
        if number in (0, 2):
            trainer.restore_scaling(1.0, 0)
        assert set(asked) == (set() if number in (0, 2) else {number + first})


def test_asynchronous_servers_cannot_leave_out_updates():
    graph, values, (data, _) = network(CLASSIFIER)
    with pytest.raises(ValueError, match="dist_async: servers cannot leave out updates"):
        MxnetTrainer(
            graph,
            devices=Devices(),
            data_shape=data.shape,
            values=values,
            optimizer="sgd",
            optimizer_params={"rescale_grad": 1.0, "lr_scheduler": StepSchedule((), 0.1)},
            workers=SimpleNamespace(synchronous=False),
            scale_loss=True,
        )


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_mirroring_changes_no_weight_beyond_rounding(monkeypatch, before):
    monkeypatch.delenv("MXNET_BACKWARD_DO_MIRROR", raising=False)
    if before is not None:
        monkeypatch.setenv("MXNET_BACKWARD_DO_MIRROR", before)
    a1 = network(SEGMENTER)
    _, plain, _ = trained(a1, updates=2)
    _, mirrored, _ = trained(a1, updates=2, backward_do_mirror=True)
    assert os.environ.get("MXNET_BACKWARD_DO_MIRROR") == before
    for name, value in plain.items():
        np.testing.assert_allclose(mirrored[name], value, atol=1e-6, err_msg=name)


def test_sums_of_a_classifier_are_those_by_hand():
    probabilities, labels, expected = classifier_sums()
    found = sums_of(mx.nd.array(probabilities), mx.nd.array(labels))
    np.testing.assert_allclose(found.asnumpy(), [*expected, 0], rtol=1e-5)


def test_sums_of_a_segmentation_leave_out_void_and_let_nan_through():
    probabilities = np.full((1, 2, 2, 2), 0.5, np.float32)
    probabilities[0, :, 0] = [[0.25, 0.75], [0.75, 0.25]]  # top row: classes 1 and 0
    labels = np.array([[1, 1, 255, 0]])
    found = sums_of(mx.nd.array(probabilities), mx.nd.array(labels)).asnumpy()
    # Right with 0.75, wrong with 0.25, void, even: which counts as right.
    loss = -np.log(0.75) - np.log(0.25) - np.log(0.5)
    np.testing.assert_allclose(found, [loss, 2, 0, 3, 0], rtol=1e-6)
    probabilities[0, :, 1, 1] = np.nan
    assert np.isnan(sums_of(mx.nd.array(probabilities), mx.nd.array(labels)).asnumpy()[0])


# --- whole runs ---------------------------------------------------------------------------------


def test_a_run_writes_what_it_promises(scenes, tmp_path):
    report = train(segmentation(scenes, tmp_path, check_start=2, check_step=2, lr_type="linear"))
    assert report == training.TrainReport(
        tmp_path / f"{SEGMENTER}_ep-0003.params", epoch=3, batch=0, signal=None
    )
    # Epoch 2 by the steps, epoch 3 because it is the last.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.jsonl",
        "run.json",
        *(f"{SEGMENTER}_ep-000{n}.{kind}" for n in (2, 3) for kind in ("params", "state")),
    ]
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if line["kind"] == "update"] == list(range(1, 10))
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2, 3]
    # MXNet's SGD counts first: the first of nine updates has the rate of one done, of ten.
    assert lines[0]["lr"] == pytest.approx(0.0016 * 9 / 10)
    assert {"loss", "pixel_accuracy", "images_per_second", "data_wait"} <= lines[0].keys()
    assert lines[-1]["loss"] < lines[0]["loss"]
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["hardware"]["devices"] == ["cpu(0)"]
    assert record["hardware"]["workers"] == 1
    assert record["versions"]["mxnet"] == "1.9.1"


@BOTH
def test_moving_statistics_are_frozen_in_segmentation_and_not_in_classification(
    scenes, photos, tmp_path, backend
):
    common = {"to_epoch": 1, "backend": backend}
    segmenter = weights(train(segmentation(scenes, tmp_path / "s", **common)).params_path)
    classifier = weights(train(classification(photos, tmp_path / "c", **common)).params_path)
    assert (segmenter["bn7_moving_mean"] == 0).all() and (segmenter["bn7_moving_var"] == 1).all()
    assert (classifier["bn7_moving_mean"] != 0).any()


@BOTH
@pytest.mark.parametrize(
    ("task", "devices", "at", "number"),
    [
        ("segmentation", 2, 4, signal.SIGTERM),
        ("classification", 2, 1, signal.SIGHUP),  # of a terminal that closes
    ],
)
def test_a_signal_in_mid_epoch_and_resuming_change_no_bit(
    request, tmp_path, monkeypatch, task, devices, at, number, backend
):
    data = request.getfixturevalue({"segmentation": "scenes", "classification": "photos"}[task])
    make = {"segmentation": segmentation, "classification": classification}[task]
    common = {"devices": Devices(cpus=devices), "lr_type": "linear", "backend": backend}
    whole = train(make(data, tmp_path / "whole", **common))
    with monkeypatch.context() as patch:
        interrupt_at(patch, at, number)
        stopped = train(make(data, tmp_path / "parts", **common))
    assert stopped.signal == number
    assert stopped.batch > 0
    assert "interrupted" in stopped.params_path.name
    resumed = train(make(data, tmp_path / "parts", **common, resume=True))
    assert_same_bits(whole.params_path, resumed.params_path)
    assert not list((tmp_path / "parts").glob("*interrupted*"))
    numbers = [line["update"] for line in metrics(tmp_path / "parts", "update")]
    assert numbers == list(range(1, make(data, tmp_path).to_epoch * 3 + 1))
    epochs = (metrics(tmp_path / name, "epoch") for name in ("whole", "parts"))
    for one, other in zip(*epochs):
        for name in one.keys() - {"seconds", "images_per_second", "data_wait"}:
            assert one[name] == other[name], name


def test_kill_9_at_random_times_changes_no_bit(scenes, tmp_path):
    common = {"to_epoch": 20, "check_step": 1, "resume": True}
    whole = start(child(tmp_path, scenes, tmp_path / "whole", **common))
    assert whole.wait(300) == 0, whole.communicate()
    script = child(tmp_path, scenes, tmp_path / "parts", **common)
    random = np.random.default_rng(7)
    kills = 0
    for _ in range(40):
        process = start(script)
        process.stdout.readline()
        try:
            process.wait(random.uniform(0.1, 0.3) if kills < 2 else None)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    assert process.returncode == 0, process.stderr.read()
    assert kills == 2
    last = f"{SEGMENTER}_ep-0020.params"
    assert_same_bits(tmp_path / "whole" / last, tmp_path / "parts" / last)
    assert not list((tmp_path / "parts").glob(".*.tmp"))


@BOTH
def test_nan_stops_the_run_and_is_not_saved(photos, tmp_path, backend):
    changes = {"base_lr": 1e30, "to_epoch": 5, "check_start": 5, "backend": backend}
    with pytest.raises(TrainingDiverged) as caught:
        train(classification(photos, tmp_path, **changes))
    message = str(caught.value)
    # Which image of the batch is to blame is not known: both are named.
    assert message.count(str(photos)) == 2
    for part in ("the loss became nan at update", "learning rate 1e+30", "--base-lr"):
        assert part in message
    assert not list(tmp_path.glob("*.params"))


def test_a_full_disk_is_reported_and_the_last_checkpoint_survives(scenes, tmp_path, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save, calls = checkpoints.save, iter(range(10))

    def save_on_a_disk_that_fills_up(*arguments):
        if next(calls) == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        save(*arguments)

    monkeypatch.setattr(checkpoints, "save", save_on_a_disk_that_fills_up)
    try:
        with pytest.raises(OSError, match=r"go on from .*ep-0001\.params by --resume") as caught:
            train(segmentation(scenes, tmp_path / "full"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "ep-0002.params" in caught.value.filename
    monkeypatch.undo()
    resumed = train(segmentation(scenes, tmp_path / "full", resume=True))
    whole = train(segmentation(scenes, tmp_path / "whole"))
    assert_same_bits(whole.params_path, resumed.params_path)


def test_weights_of_the_same_label_are_gone_on_from(photos, tmp_path):
    first = train(classification(photos, tmp_path, to_epoch=4, stop_epoch=2, lr_type="linear"))
    assert first.params_path.name.endswith("_ep-0002.params")
    second = train(
        classification(
            photos, tmp_path, to_epoch=4, stop_epoch=3, lr_type="linear", weights=first.params_path
        )
    )
    assert second.params_path.name.endswith("_ep-0003.params")
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # Six updates were done of twelve: the rate is that of a line to 0 at thirteen.
    seventh = next(line for line in lines if line["update"] == 7)
    assert seventh["lr"] == pytest.approx(0.1 * (1 - 6 / 13))
    assert [line["update"] for line in lines if line["kind"] == "update"] == list(range(1, 10))


def test_tuning_to_segmentation_keeps_what_fits(photos, scenes, tmp_path):
    options = classification(photos, tmp_path / "c", to_epoch=1, base_lr=1e-4)
    classifier = train(options).params_path
    tuned = train(
        segmentation(scenes, tmp_path / "s", weights=classifier, to_epoch=1, base_lr=1e-12)
    )
    before, after = weights(classifier), weights(tuned.params_path)
    np.testing.assert_allclose(after["conv1a_weight"], before["conv1a_weight"], atol=1e-6)
    np.testing.assert_array_equal(after["bn7_moving_mean"], before["bn7_moving_mean"])
    assert set(before) - set(after) == {"linear4_weight", "linear4_bias"}


def test_a_folder_in_use_and_other_settings_are_refused(scenes, tmp_path):
    train(segmentation(scenes, tmp_path, to_epoch=1))
    with pytest.raises(ValueError, match=r"holds .*ep-0001\.params and 1 more .*--resume"):
        train(segmentation(scenes, tmp_path, to_epoch=1))
    with pytest.raises(ValueError, match=r"other settings: --seed was 0, now 1; give those"):
        train(segmentation(scenes, tmp_path, to_epoch=1, seed=1, resume=True))
    other = train(segmentation(scenes, tmp_path, to_epoch=1, seed=1, overwrite=True))
    assert other.epoch == 1
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["seed"] == 1


def test_models_may_share_a_folder(scenes, tmp_path):
    for model in (SEGMENTER, f"{SEGMENTER}_x1"):
        train(segmentation(scenes, tmp_path, to_epoch=1, model=model))
    assert json.loads((tmp_path / "run.json").read_text())["label"] == f"{SEGMENTER}_x1"
    assert (tmp_path / f"{SEGMENTER}_run.json").is_file()
    assert (tmp_path / f"{SEGMENTER}_metrics.jsonl").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to_epoch": 0}, "--to-epoch 0: expected 1 or above"),
        ({"batch_images": 3, "devices": Devices(cpus=2)}, "expected a multiple of the 2 devices"),
        ({"precision": "float16"}, "--precision float16: CPUs compute float32 and bfloat16 only"),
        ({"model": CLASSIFIER}, "a network for classification: `ademx train classification`"),
        ({"model": None}, "--model: expected a label"),
        ({"stop_epoch": 9}, "expected --from-epoch < --stop-epoch <= --to-epoch"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite: choose one"),
        ({"scale_rate_range": (1.3, 0.7)}, "expected 0 < low <= high"),
        ({"model": "voc_rna-a_cls21_s8", "pool": "caffe"}, "--pool caffe: rna-a then has fewer"),
        ({"base_lr": 0.0}, "--base-lr 0.0: expected a rate above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        segmentation(tmp_path, tmp_path, **changes)


def test_distributed_training_needs_a_launcher(scenes, tmp_path):
    with pytest.raises(ValueError, match=r"not one of several workers .*ademx launch"):
        train(segmentation(scenes, tmp_path, kvstore="dist_sync"))
    with pytest.raises(ValueError, match="this MXNet has no NCCL"):
        train(segmentation(scenes, tmp_path, kvstore="nccl"))


def test_labels_beyond_the_classes_are_refused(photos, tmp_path):
    with pytest.raises(ValueError, match=r"class 3; .*_cls2 has classes 0 to 1"):
        train(classification(photos, tmp_path, model=f"ilsvrc-cls_{SPEC}_cls2"))


def test_tensorboard_gets_the_metrics(scenes, tmp_path, monkeypatch):
    written = []
    writer = SimpleNamespace(
        add_scalar=lambda name, value, update: written.append((name, update)),
        close=lambda: written.append("closed"),
    )
    module = SimpleNamespace(SummaryWriter=lambda folder, purge_step: writer)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    train(segmentation(scenes, tmp_path, to_epoch=1, tensorboard=tmp_path / "events"))
    assert ("update/loss", 3) in written and ("epoch/pixel_accuracy", 3) in written
    assert written[-1] == "closed"


# --- several processes --------------------------------------------------------------------------

WORKER = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from tiny_training import classification
from ademx.training.run import train
if __name__ == "__main__":
    print(train(classification(Path({data!r}), Path({output!r}), **{changes!r})))
"""


def launch(folder: Path, script: str, workers: int) -> list[tuple[int, str]]:
    """Run scheduler, server and workers on this machine; return the workers' exits and output."""
    path = folder / "worker.py"
    path.write_text(script)
    server = folder / "server.py"
    server.write_text("from ademx.compat import import_mxnet\nimport_mxnet()")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(port),
        "DMLC_NUM_WORKER": str(workers),
        "DMLC_NUM_SERVER": "1",
    }
    others = [start(server, **environment, DMLC_ROLE=role) for role in ("scheduler", "server")]
    running = [start(path, **environment, DMLC_ROLE="worker") for _ in range(workers)]
    try:
        return [(one.wait(300), "".join(one.communicate())) for one in running]
    finally:
        deadline = time.monotonic() + 100
        while any(one.poll() is None for one in others) and time.monotonic() < deadline:
            time.sleep(0.05)
        for one in (*running, *others):
            one.kill()
            one.communicate()


@pytest.mark.parametrize("kvstore", ["dist_sync", "dist_async"])
def test_two_workers(photos, tmp_path, kvstore):
    output = tmp_path / "two"
    # Statistics that are not those of the data let features grow: hence the small rate.
    common = {"frozen_statistics": True, "to_epoch": 4, "check_start": 4, "base_lr": 1e-3}
    if kvstore == "dist_sync":  # one of them tests, and the other waits for it
        own = {"model": OWN_CLASSIFIER, "dataset": str(make_own(photos))}
        common |= {**own, "validate_every": 4, "validate_scales": (48,)}
    script = WORKER.format(
        tests=str(Path(__file__).parent),
        data=str(photos),
        output=str(output),
        changes={**common, "kvstore": kvstore, "batch_images": 1},
    )
    exits = launch(tmp_path, script, 2)
    assert [code for code, _ in exits] == [0, 0], exits
    (found,) = output.glob("*_ep-*.params")  # of worker 0 alone
    assert sum("params_path=None" in text for _, text in exits) == 1
    lines = [json.loads(text) for text in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if line["kind"] == "update"] == list(range(1, 13))
    if kvstore == "dist_async":  # no two runs are alike: it is enough that it learnt
        learnt = weights(found)["linear4_weight"]
        drawn = initial_values({"linear4_weight": learnt.shape}, task="classification", seed=0)
        assert np.isfinite(learnt).all() and (learnt != drawn["linear4_weight"]).all()
        return
    one = train(classification(photos, tmp_path / "one", **common))
    for name, value in weights(one.params_path).items():
        np.testing.assert_allclose(weights(found)[name], value, atol=1e-5, err_msg=name)
    (epochs, single) = (metrics(folder, "epoch") for folder in (output, tmp_path / "one"))
    assert epochs[-1]["loss"] == pytest.approx(single[-1]["loss"], rel=1e-4)
    assert [line["epoch"] for line in metrics(output, "val")] == [4]
    exits = launch(tmp_path, script.replace(str(output), str(tmp_path / "again")), 2)
    assert [code for code, _ in exits] == [0, 0], exits
    assert _without_times(tmp_path / "again") == _without_times(output)


def _without_times(folder: Path) -> list[dict[str, float]]:
    timed = ("images_per_second", "data_wait", "seconds")
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in timed} for line in lines]


def test_two_workers_go_on_with_what_one_has_begun(photos, tmp_path, monkeypatch):
    # The same images an update: 1 of each of two workers in place of 2 of one.
    common = {"frozen_statistics": True, "to_epoch": 1, "base_lr": 1e-3}
    whole = train(classification(photos, tmp_path / "whole", **common))
    output = tmp_path / "parts"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        assert train(classification(photos, output, **common)).batch == 1
    script = WORKER.format(
        tests=str(Path(__file__).parent),
        data=str(photos),
        output=str(output),
        changes={**common, "kvstore": "dist_sync", "batch_images": 1, "resume": True},
    )
    exits = launch(tmp_path, script, 2)
    assert [code for code, _ in exits] == [0, 0], exits
    for name, value in weights(whole.params_path).items():
        found = weights(output / whole.params_path.name)[name]
        np.testing.assert_allclose(found, value, atol=1e-5, err_msg=name)
    (one,), (other,) = metrics(tmp_path / "whole", "epoch"), metrics(output, "epoch")
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)

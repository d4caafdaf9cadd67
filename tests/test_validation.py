"""Validation while training: its scores, the best, what stays, and what may go wrong."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import options_of, run_evaluate
from tiny_training import (
    OWN_CLASSIFIER,
    SEGMENTER,
    assert_same_bits,
    classification,
    interrupt_at,
    make_data,
    make_own,
    make_val,
    metrics,
    segmentation,
)

from ademx.devices import Devices
from ademx.testing.record import RunRecord
from ademx.training import checkpoints

pytest.importorskip("mxnet")

from ademx.training import validation
from ademx.training.run import train

BOTH = pytest.mark.parametrize("backend", ["mxnet", "torch"])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    data = make_data(tmp_path_factory.mktemp("data") / "scenes", task="segmentation")
    make_val(data)
    return data


def quick(data, output, **changes):
    """Return how a network learns enough in three epochs for their scores to differ."""
    common = {"loss": "softmax", "base_lr": 0.02, "frozen_statistics": False}
    tested = {"validate_every": 1, "validate_scales": (40, 48)}
    if changes.get("validate_every", 1) is None:
        tested = {}
    return segmentation(data, output, **{**common, **tested, **changes})


@pytest.fixture(scope="module")
def wholes(scenes, tmp_path_factory):
    """Return what gives, for each backend, the folder of a run that nothing has disturbed."""

    @functools.cache
    def whole(backend):
        output = tmp_path_factory.mktemp("whole") / "out"
        train(quick(scenes, output, keep=1, backend=backend))
        return output

    return whole


@pytest.fixture
def whole(wholes):
    return wholes("mxnet")


def scores(folder: Path) -> dict[int, float]:
    return {line["epoch"]: line["mean_iou"] for line in metrics(folder, "val")}


def files(folder: Path) -> dict[str, bytes]:
    """Return what a run leaves of weights and of the best."""
    kept = [*folder.glob("*.params"), *folder.glob("*_best.json"), *folder.glob("*.state")]
    return {path.name: b"" if path.suffix == ".state" else path.read_bytes() for path in kept}


# --- what it finds and keeps --------------------------------------------------------------------


@BOTH
def test_scores_are_those_of_evaluate_and_the_weights_those_of_a_run_without(
    wholes, scenes, tmp_path, backend
):
    whole = wholes(backend)
    plain = train(quick(scenes, tmp_path / "plain", validate_every=None, backend=backend))
    assert_same_bits(plain.params_path, whole / plain.params_path.name)
    names = ({path.name for path in folder.iterdir()} for folder in (whole, tmp_path / "plain"))
    assert set.difference(*names) == {
        f"{SEGMENTER}_{name}" for name in ("best.json", "best.params", "val")
    }
    lines = metrics(whole, "val")
    assert [line["update"] for line in lines] == [3, 6, 9]
    found = {}
    for line in lines:
        weights = checkpoints.epoch_path(tmp_path / "plain", SEGMENTER, line["epoch"])
        options = ["--test-scales", "40,48", "--backend", backend]
        run_evaluate("segmentation", weights, scenes, tmp_path / "test", *options, "--overwrite")
        tested = json.loads((tmp_path / "test" / "scores.json").read_text())
        found[line["epoch"]] = tested["mean_iou"]
        for name in ("mean_iou", "mean_accuracy", "pixel_accuracy"):
            assert line[name] == pytest.approx(tested[name], abs=1e-6)
    assert len(set(found.values())) == 3
    best = max(found, key=found.get)
    path, facts = checkpoints.best_paths(whole, SEGMENTER)
    told = json.loads(facts.read_text())
    assert (told["epoch"], told["metric"], told["score"]) == (best, "mean_iou", found[best])
    assert_same_bits(path, checkpoints.epoch_path(tmp_path / "plain", SEGMENTER, best))


def test_the_best_classifier_has_the_lowest_error(tmp_path):
    data = make_data(tmp_path / "data", task="classification")
    own = make_own(data)
    options = {"model": OWN_CLASSIFIER, "dataset": str(own), "to_epoch": 3, "base_lr": 0.05}
    validated = {"validate_every": 2, "validate_scales": (48,)}
    train(classification(data, tmp_path / "out", **options, **validated))
    found = {}
    for line in metrics(tmp_path / "out", "val"):
        weights = checkpoints.epoch_path(tmp_path / "out", OWN_CLASSIFIER, line["epoch"])
        options = ["--test-scales", 48, "--dataset", own, "--overwrite"]
        run_evaluate("classification", weights, data, tmp_path / "test", *options)
        tested = json.loads((tmp_path / "test" / "scores.json").read_text())
        assert line["top1_error"] == pytest.approx(tested["top1_error"])
        found[line["epoch"]] = tested["top1_error"]
    assert list(found) == [2, 3]  # the second, and the last
    told = json.loads(checkpoints.best_paths(tmp_path / "out", OWN_CLASSIFIER)[1].read_text())
    assert (told["epoch"], told["metric"]) == (min(found, key=found.get), "top1_error")


@pytest.mark.parametrize(
    ("task", "found"),
    [
        ("segmentation", [(5, 0), (7, 0), (7, 0), (6, 0), (9, 1)]),
        ("classification", [(9, 0), (3, 0), (3, 0), (4, 0), (2, 1)]),
    ],
)
def test_of_equal_scores_the_earliest_is_the_best_and_none_of_fewer_images(tmp_path, task, found):
    make = {"segmentation": segmentation, "classification": classification}[task]
    options = make(tmp_path, tmp_path, validate_every=1)
    metric = {"segmentation": "mean_iou", "classification": "top1_error"}[task]
    validator = validation.Validator(options, SimpleNamespace(), num_batches=1)
    for epoch, (score, num_broken) in enumerate(found, 1):
        weights = tmp_path / f"{epoch}.params"
        weights.write_text(str(epoch))
        record = RunRecord(scores={metric: score}, num_broken=num_broken)
        validator._keep_if_best(epoch, weights, record)
    path, facts = checkpoints.best_paths(tmp_path, str(options.label))
    assert path.read_text() == "2"
    assert json.loads(facts.read_text())["epoch"] == 2


def test_only_the_last_checkpoints_stay_and_the_best(whole, scenes, tmp_path):
    names = [f"{SEGMENTER}_{name}" for name in ("best.json", "best.params")]
    last = [f"{SEGMENTER}_ep-0003.{kind}" for kind in ("params", "state")]
    assert sorted(path.name for path in whole.iterdir()) == sorted(
        [*names, *last, "metrics.jsonl", "run.json", f"{SEGMENTER}_val"]
    )
    # Those that a training starts from are not its own.
    output = tmp_path / "out"
    first = train(quick(scenes, output, stop_epoch=1, validate_every=None)).params_path
    train(quick(scenes, output, weights=first, keep=1, validate_every=None))
    assert sorted(path.name[-11:] for path in output.glob("*.params")) == [
        "0001.params",
        "0003.params",
    ]


def test_label_images_are_written_if_asked_and_the_trainings_devices_test(whole, scenes, tmp_path):
    two = {"devices": Devices(cpus=2)}
    train(quick(scenes, tmp_path / "out", to_epoch=1, validate_labels=True, **two))
    record = json.loads((tmp_path / "out" / f"{SEGMENTER}_val" / "scores.json").read_text())
    assert record["devices"] == ["cpu(0)", "cpu(1)"]
    found = [path.name for path in (tmp_path / "out" / f"{SEGMENTER}_val" / "labels").iterdir()]
    assert sorted(found) == ["2.png", "3.png", "4.png", "5.png"]
    assert not list(whole.glob("*_val/labels"))


# --- stopped and gone on with -------------------------------------------------------------------


@BOTH
def test_a_resumed_run_goes_on_with_the_same_best(wholes, scenes, tmp_path, monkeypatch, backend):
    output, common = tmp_path / "parts", {"keep": 1, "backend": backend}
    expected = wholes(backend)
    for at in (4, 1):  # in the second epoch, and in the third
        with monkeypatch.context() as patch:
            interrupt_at(patch, at)
            assert train(quick(scenes, output, **common, resume=at == 1)).signal
    train(quick(scenes, output, **common, resume=True))
    assert scores(output) == scores(expected)
    found, wanted = files(output), files(expected)
    assert found.keys() == wanted.keys()
    for name, content in wanted.items():
        if name.endswith(".params"):
            assert found[name] == content, name
    told = [json.loads(one[f"{SEGMENTER}_best.json"]) for one in (found, wanted)]
    assert [one["epoch"] for one in told] == [told[0]["epoch"]] * 2


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_signal_in_a_validation_is_obeyed_and_its_checkpoint_is_there(
    whole, scenes, tmp_path, monkeypatch, epoch, caplog
):
    calls, evaluate = iter(range(1, 9)), validation.evaluate

    def interrupted(options):
        if next(calls) == epoch:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(options)

    monkeypatch.setattr(validation, "evaluate", interrupted)
    report = train(quick(scenes, tmp_path, keep=1))
    assert (report.signal, report.epoch, report.batch) == (signal.SIGTERM, epoch, 0)
    assert report.params_path.name == f"{SEGMENTER}_ep-000{epoch}.params"
    assert f"epoch {epoch} is not validated; --resume does it first" in caplog.text
    assert list(scores(tmp_path)) == list(range(1, epoch))
    monkeypatch.undo()
    train(quick(scenes, tmp_path, keep=1, resume=True))
    assert scores(tmp_path) == scores(whole)
    best = f"{SEGMENTER}_best.params"
    assert files(tmp_path)[best] == files(whole)[best]


def test_a_best_of_another_test_is_replaced_and_a_damaged_one_passed_over(scenes, tmp_path, caplog):
    path, facts = checkpoints.best_paths(tmp_path, SEGMENTER)
    train(quick(scenes, tmp_path, stop_epoch=1))
    told = json.loads(facts.read_text())
    facts.write_text(json.dumps({**told, "score": 100.0, "epoch": 1}))
    train(quick(scenes, tmp_path, stop_epoch=2, resume=True, validate_scales=(40,)))
    assert "another way (test_scales was [40, 48], now [40]): it is replaced" in caplog.text
    assert json.loads(facts.read_text())["epoch"] == 2
    path.write_bytes(b"")
    train(quick(scenes, tmp_path, resume=True, validate_scales=(40,)))
    assert "_best.json: passed over: " in caplog.text and "is another file" in caplog.text
    assert json.loads(facts.read_text())["epoch"] == 3


def test_a_finished_training_is_tested_again_in_another_way(scenes, tmp_path):
    _, facts = checkpoints.best_paths(tmp_path, SEGMENTER)
    train(quick(scenes, tmp_path, to_epoch=1))
    for scales, tests in (((40, 48), 1), ((40,), 2), ((40,), 2)):
        train(quick(scenes, tmp_path, to_epoch=1, resume=True, validate_scales=scales))
        assert json.loads(facts.read_text())["settings"]["test_scales"] == list(scales)
        assert len(metrics(tmp_path, "val")) == tests


def test_the_best_of_another_training_is_not_taken_over(scenes, tmp_path):
    train(quick(scenes, tmp_path, to_epoch=1))
    for path in tmp_path.glob("*_ep-*"):
        path.unlink()
    best, _ = checkpoints.best_paths(tmp_path, SEGMENTER)
    with pytest.raises(ValueError, match=r"--weights .*_best\.params would be removed"):
        train(quick(scenes, tmp_path, to_epoch=1, overwrite=True, weights=best))
    with pytest.raises(ValueError, match=r"holds .*_best\.params and 1 more files of a training"):
        train(quick(scenes, tmp_path, to_epoch=1))
    train(quick(scenes, tmp_path, to_epoch=1, overwrite=True, validate_every=None))
    assert not list(tmp_path.glob("*_best.*"))


# --- what goes wrong ----------------------------------------------------------------------------


def test_a_broken_image_is_listed_and_the_others_count(whole, scenes, tmp_path, caplog):
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    (data / "other.png").write_bytes(b"no image")
    text = (data / "val.lst").read_text()
    (data / "val.lst").write_text(f"{text}other.png\t0_label.png\n")
    train(quick(data, tmp_path / "out", keep=1))
    assert scores(tmp_path / "out") == scores(whole)
    for line in metrics(tmp_path / "out", "val"):
        assert len(line["broken"]) == 1 and "other.png" in line["broken"][0]
    record = json.loads((tmp_path / "out" / f"{SEGMENTER}_val" / "scores.json").read_text())
    assert (record["num_images"], record["num_broken"]) == (5, 1)
    assert caplog.text.count("left out: ") == 3


def test_a_split_without_a_whole_image_has_no_score(scenes, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    (data / "other.png").write_bytes(b"no image")
    (data / "val.lst").write_text("other.png\t0_label.png\n")
    train(quick(data, tmp_path / "out", to_epoch=1))
    (line,) = metrics(tmp_path / "out", "val")
    assert line["error"] == "none of 1 images could be used" and "mean_iou" not in line
    assert not list((tmp_path / "out").glob("*_best.*"))


def test_a_validation_that_fails_ends_nothing_and_is_made_by_the_next_run(
    whole, scenes, tmp_path, monkeypatch, caplog
):
    calls, evaluate = iter(range(1, 9)), validation.evaluate

    def failing(options):
        number = next(calls)
        if number == 2:
            raise OSError(5, "Input/output error", "a disk")
        if number == 3:
            raise RuntimeError("a bug")
        return evaluate(options)

    monkeypatch.setattr(validation, "evaluate", failing)
    report = train(quick(scenes, tmp_path))
    assert (report.epoch, report.signal) == (3, None)
    assert_same_bits(report.params_path, whole / report.params_path.name)
    assert [line.get("error") for line in metrics(tmp_path, "val")] == [
        None,
        "[Errno 5] Input/output error: 'a disk'",
        "a bug",
    ]
    assert "not validated: epoch 2, 3; " in caplog.text
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert [bool(one.exc_info) for one in errors] == [False, True]  # a bug of ours is shown whole
    monkeypatch.undo()
    train(quick(scenes, tmp_path, resume=True))
    last = metrics(tmp_path, "val")[-1]
    assert (last["epoch"], last["mean_iou"]) == (3, scores(whole)[3])


def test_the_command_line_has_the_options(tmp_path):
    listed = tmp_path / "some.lst"
    listed.touch()
    command = ["train", "segmentation", "--model", SEGMENTER, "--data-root", tmp_path]
    command += ["--to-epoch", 4, "--keep", 3, "--validate-every", 2, "--validate-labels"]
    command += ["--validate-scales", "40,48", "--validate-list-file", listed, "--backend", "mxnet"]
    found = options_of(command)
    assert (found.keep, found.validate_every, found.validate_labels) == (3, 2, True)
    assert (found.validate_scales, found.validate_list_file) == ((40, 48), listed)
    # From the second on, and whatever the steps of checkpoints are.
    assert [found.has_checkpoint(epoch) for epoch in (1, 2, 3, 4)] == [True, True, False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validate_every": 0}, "--validate-every 0: expected 1 or above"),
        ({"keep": 0}, "--keep 0: expected 1 or above"),
        ({"validate_scales": (40, 40)}, r"--validate-scales \(40, 40\): expected different len"),
        (
            {"validate_labels": True, "validate_every": None},
            "--validate-labels: has no effect without --validate-every: add it",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        quick(tmp_path, tmp_path, **changes)


def test_a_split_that_is_not_there_is_told_before_training(tmp_path):
    data = make_data(tmp_path / "data", task="segmentation")
    told = "--validate-every: no 'val' split of voc in .* or give one with --validate-list-file"
    with pytest.raises(FileNotFoundError, match=told):
        train(quick(data, tmp_path / "out"))
    unlabelled = tmp_path / "unlabelled.lst"
    unlabelled.write_text("0.png\n")
    with pytest.raises(ValueError, match=r"samples of .*unlabelled\.lst have no labels"):
        train(quick(data, tmp_path / "out", validate_list_file=unlabelled))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dataset", "split", "expected"),
    [
        ("coco", "train2017", "val2017"),
        ("coco", "train2014", "val2014"),
        ("voc-sbd", "train+", "val"),
        ("coco20", "train2017", "val2017"),
        (None, "train", "val"),
    ],
)
def test_the_split_is_that_of_the_year(tmp_path, dataset, split, expected):
    name = "coco" if dataset == "coco" else "voc"
    classes = 81 if name == "coco" else 21
    label = f"{name}_rna-224-0-1-1-1-1-1-1_cls{classes}_s8"
    options = quick(tmp_path, tmp_path, model=label, dataset=dataset, split=split)
    assert validation._split_of(options) == expected


def test_tensorboard_gets_the_scores(scenes, tmp_path, monkeypatch):
    written = []
    writer = SimpleNamespace(
        add_scalar=lambda name, value, update: written.append((name, update)), close=lambda: None
    )
    module = SimpleNamespace(SummaryWriter=lambda folder, purge_step: writer)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    train(quick(scenes, tmp_path, to_epoch=1, tensorboard=tmp_path / "events"))
    assert ("val/mean_iou", 3) in written and ("val/lr", 3) not in written

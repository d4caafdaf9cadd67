"""`ademx reproduce --train`: stages one after another, on a recipe narrowed to seconds."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import make_runner, options_of
from narrow import write_weights
from tiny_training import SEGMENTER, WIDTH, make_data

from ademx import params
from ademx.cli import main
from ademx.devices import Devices
from ademx.published import RELEASED_FILES
from ademx.reproduction.options import RecipeOptions
from ademx.reproduction.recipes import RECIPES, Stage
from ademx.reproduction.stages import differences_from_recipe
from ademx.training import checkpoints
from iters.datasets import DATASETS

pytest.importorskip("mxnet")

START = "ilsvrc-cls_rna-224-0-1-1-1-1-1-1_cls4"
SECOND = f"{SEGMENTER}_x1-3"
LAST = f"{SECOND}_ep-0001.params"
OPTIONS = ("--cpus", "1", "--width", WIDTH, "--prefetcher", "thread")


def run(*arguments: object):
    return make_runner().invoke(main, ["reproduce", *map(str, arguments)])


def places_in(folder: Path) -> tuple[object, ...]:
    return ("--data", folder / "data", "--models", folder / "models")


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """Return a folder with VOC's list and the weights that the first stage starts from."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "data").mkdir()
    make_data(folder / "data" / "voc", task="segmentation", num_images=4)
    write_weights(folder / "models", START, epoch=3)
    return folder


@pytest.fixture(scope="module")
def trained(start, recipe, tmp_path_factory) -> Path:
    """Return a folder in which the recipe has been trained, once for all."""
    folder = tmp_path_factory.mktemp("trained") / "whole"
    shutil.copytree(start, folder)
    places = places_in(folder)
    whole = run("--train", "voc-a1", *places, "--output", folder / "out", *OPTIONS)
    assert whole.exit_code == 0, whole.stderr
    assert whole.stdout.strip() == str(folder / "models" / LAST)
    return folder


@pytest.fixture
def places(start, tmp_path) -> tuple[object, ...]:
    """Return the options that name data and weights, in a folder of the test's own."""
    shutil.copytree(start, tmp_path, dirs_exist_ok=True)
    return places_in(tmp_path)


@pytest.fixture
def places_after_training(trained, tmp_path) -> tuple[object, ...]:
    """Return the same with what the training left, in "out" too."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return places_in(tmp_path)


@pytest.fixture(autouse=True, scope="module")
def recipe():
    """Shrink voc-a1 to three epochs and one, and VOC's train to four images."""
    row = RECIPES["voc-a1"]
    small = {"dataset": None, "split": "train", "batch_images": 2, "crop_size": 32}
    small.update(origin_size=48)
    first, second = (stage.options for stage in row.stages)
    stages = (
        Stage(dataclasses.replace(first, model=SEGMENTER, to_epoch=3, **small), START, 1),
        Stage(dataclasses.replace(second, model=SECOND, to_epoch=1, **small), SEGMENTER, 1),
    )
    voc = dataclasses.replace(DATASETS["voc"], splits={"train": 4, "val": 4, "test": 4})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "voc-a1", dataclasses.replace(row, stages=stages))
        patch.setitem(DATASETS, "voc", voc)
        yield


def modified(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.glob("**/*.params"))}


@pytest.mark.parametrize("epoch", [1, 3], ids=["within a stage", "between the stages"])
def test_killed_and_resumed_it_ends_with_the_same_weights(
    epoch, trained, places, tmp_path, monkeypatch
):
    target = tmp_path / "models" / LAST
    expected, _ = params.load(trained / "models" / LAST)
    real_save = checkpoints.save

    def save_and_stop(path, *arguments):
        real_save(path, *arguments)
        if path.name == f"{SEGMENTER}_ep-{epoch:04d}.params":
            os.kill(os.getpid(), signal.SIGTERM)

    command = ("--train", "voc-a1", *places, "--output", tmp_path / "out", *OPTIONS)
    monkeypatch.setattr(checkpoints, "save", save_and_stop)
    stopped = run(*command)
    assert stopped.exit_code == 143, stopped.stderr
    folder = tmp_path / "out" / "train" / "voc-a1"
    newest = Path(stopped.stdout.strip())
    assert newest.is_file() and newest.parent == folder / SEGMENTER
    assert newest.name.endswith("_ep-0003.params") == (epoch == 3)
    assert not target.exists() and not (folder / SECOND).exists()
    monkeypatch.setattr(checkpoints, "save", real_save)
    resumed = run(*command)
    assert resumed.exit_code == 0, resumed.stderr
    found, _ = params.load(target)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_finished_stages_are_skipped_and_need_no_data(places_after_training, tmp_path):
    places = places_after_training
    command = ("--train", "voc-a1", *places, "--output", tmp_path / "out", *OPTIONS)
    before = modified(tmp_path / "out")
    (tmp_path / "data" / "voc").rename(tmp_path / "gone")
    again = run(*command)
    assert again.exit_code == 0, again.stderr
    assert len(before) > 1 and modified(tmp_path / "out") == before
    assert f"stage 1 of 2: {SEGMENTER} is done" in again.stderr
    # With other settings it is another training, which needs the data.
    other = run(*command, "--base-lr", "0.001")
    assert other.exit_code == 1
    assert "no train split of voc" in other.stderr


def test_the_weights_that_are_left_are_found_by_the_test(places_after_training, tmp_path):
    places = places_after_training
    (tmp_path / "data" / "voc" / "train.lst").rename(tmp_path / "data" / "voc" / "val.lst")
    tested = run("voc-a1", *places, "--output", tmp_path / "out", "--cpus", "1")
    assert tested.exit_code == 1, tested.stderr
    assert tested.stdout.startswith("voc-a1: differs\n  mean IoU ")
    assert f"{SECOND}_ep-0001.params is of your own training" in tested.stdout


def test_a_dry_run_prints_commands_that_train(places, tmp_path):
    """The first stage by the printed command is the first stage of the recipe."""
    options = (*places, "--output", tmp_path / "out", *OPTIONS)
    dry = run("--train", "voc-a1", *options, "--dry-run")
    assert dry.exit_code == 0, dry.stderr
    commands = [line for line in dry.stdout.splitlines() if line.startswith("ademx train")]
    assert len(commands) == 2 and not (tmp_path / "out").exists()
    assert "voc-a1, ours: " in dry.stdout and "time: unknown" in dry.stdout
    first = make_runner().invoke(main, shlex.split(commands[0])[1:])
    assert first.exit_code == 0, first.stderr
    finished = run("--train", "voc-a1", *options)
    assert finished.exit_code == 0, finished.stderr
    assert f"stage 1 of 2: {SEGMENTER} is done" in finished.stderr


def test_missing_data_and_weights_are_named_together(tmp_path):
    for name in ("data", "models"):
        (tmp_path / name).mkdir()
    places = ("--data", tmp_path / "data", "--models", tmp_path / "models")
    for arguments, code in (((), 1), (("--dry-run",), 0)):
        result = run("--train", "ade20k-a2", *places, "--output", tmp_path / "out", *arguments)
        assert result.exit_code == code
        told = result.stderr if code else result.stdout
        assert f"go to {tmp_path / 'data' / 'ade20k'}/" in told
        weights = tmp_path / "models" / "places_rna-a2_cls365_ep-0006.params"
        leaves = f"leaves others in {weights.parent}/, as {weights.name}"
        assert f"`ademx reproduce --train places-a2` {leaves}" in told
        assert not (tmp_path / "out").exists()


def test_a_reduced_dataset_needs_unverified(places, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "voc", dataclasses.replace(DATASETS["voc"], splits={"train": 9}))
    command = ("--train", "voc-a1", *places, "--output", tmp_path / "out", *OPTIONS)
    refused = run(*command)
    assert refused.exit_code == 1
    assert "4 images: expected 9" in refused.stderr and "--unverified" in refused.stderr
    assert run(*command, "--epochs", "1", "--unverified").exit_code == 0


def test_other_weights_are_not_replaced(places, tmp_path):
    target = tmp_path / "models" / LAST
    target.write_bytes(b"of another training")
    command = ("--train", "voc-a1", *places, "--output", tmp_path / "out", *OPTIONS)
    refused = run(*command)
    assert refused.exit_code == 1
    assert f"{target}: holds other weights" in refused.stderr
    assert not (tmp_path / "out").exists()
    assert target.read_bytes() == b"of another training"


def test_weights_never_take_the_name_of_a_released_file(places, tmp_path, monkeypatch):
    monkeypatch.setitem(RELEASED_FILES, LAST, "0" * 32)
    result = run("--train", "voc-a1", *places, "--output", tmp_path / "out", *OPTIONS)
    assert result.exit_code == 1
    assert "as a released file is: choose another number of --epochs" in result.stderr


def told(name: str, **changes: object) -> list[str]:
    changes.setdefault("devices", Devices(gpus=(0, 1, 2, 3)))
    return differences_from_recipe(RecipeOptions(recipe=name, **changes))


def test_the_recipe_itself_departs_in_nothing():
    assert told("cityscapes-a1") == [] and told("ilsvrc-a1") == []


def test_departures():
    label = "cityscapes_rna-a1_cls19_s8"
    assert told("cityscapes-a1", batch_images=8) == [
        f"{label}: batch 8 instead of 16: the linear rule gives 0.0008, by --base-lr 0.0008; "
        "the rate is 0.0016",
        f"{label}_x1-140: batch 8 instead of 16: the linear rule gives 0.0004, by --base-lr "
        "0.0008; the rate is 0.0008",
    ]
    assert told("cityscapes-a1", batch_images=8, base_lr=0.0008) == [
        f"{label}: batch 8 instead of 16: the linear rule gives 0.0008",
        f"{label}_x1-140: batch 8 instead of 16: the linear rule gives 0.0004",
    ]
    assert told("ilsvrc-a", batch_images=64, devices=Devices(gpus=(0,))) == [
        "ilsvrc-cls_rna-a_cls1000: batch 64 instead of 256: the linear rule gives 0.025, "
        "by --base-lr 0.025; the rate is 0.1",
        "1 device instead of 4: BatchNorm takes the statistics of a device's images; the linear "
        "rule asks for no other rate, which follows the batch alone",
    ]
    assert told("cityscapes-a1", crop_size=250, devices=Devices(cpus=2)) == [
        "2 devices instead of 4: OHEM chooses among the pixels of a device's images; the linear "
        "rule asks for no other rate, which follows the batch alone",
        "crop 250 instead of 500: no rule makes up for it",
    ]
    assert told("ilsvrc-a1", base_lr=0.02, epochs=1, width=0.5) == [
        "ilsvrc-cls_rna-a1_cls1000: rate 0.02 instead of 0.01",
        "ilsvrc-cls_rna-a1_cls1000: 1 epoch instead of 9: a trial",
        "width 0.5 instead of 1: a trial",
    ]


def test_warnings_are_shown_and_the_rate_stays(places, tmp_path):
    options = (*places, "--output", tmp_path / "out", "--dry-run", *OPTIONS)
    result = run("--train", "voc-a1", *options, "--batch-images", "1")
    assert (
        "Warning: " in result.stderr and "by --base-lr 0.0008; the rate is 0.0016" in result.stderr
    )
    commands = [line for line in result.stdout.splitlines() if line.startswith("ademx train")]
    rates = [options_of(shlex.split(command)[1:]).base_lr for command in commands[:1]]
    assert rates == [0.0016] and "--base-lr 0.0008 " in commands[1]


def test_a_recipe_is_trained_by_pytorch_too(places, tmp_path):
    command = ("--train", "voc-a1", *places, "--output", tmp_path / "out", *OPTIONS)
    result = run(*command, "--epochs", "1", "--backend", "torch")
    assert result.exit_code == 0, result.stderr
    assert Path(result.stdout.strip()) == tmp_path / "models" / LAST
    found = checkpoints.find_newest(tmp_path / "out" / "train" / "voc-a1" / SECOND, SECOND)
    assert found.state.record["hardware"]["backend"] == "torch"

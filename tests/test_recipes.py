"""The recipes against what the release states, and the scripts that run them."""

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ademx.published import METRIC_NAMES, RELEASED_FILES, RESULTS, get_result
from ademx.reproduction.options import RecipeOptions
from ademx.reproduction.recipes import RECIPES, get_recipe
from iters.datasets import DATASETS
from symbols.levels import get_network

SCRIPTS = Path(__file__).parent.parent / "tools" / "rows"
TESTED = [row for row in RESULTS if row.split == "val" and (row.label or row.name in RECIPES)]


def updates_of_an_epoch(stage) -> int:
    return math.ceil(
        DATASETS[stage.dataset].splits[stage.options.split] / stage.options.batch_images
    )


def rows_of(recipe) -> list[str]:
    return [row.name for row in RESULTS if row.name == recipe.name]


def schedule(stage) -> tuple[int, str, float]:
    return stage.options.to_epoch, stage.options.lr_type, stage.options.base_lr


def test_cityscapes():
    first, second = RECIPES["cityscapes-a1"].stages
    for stage in (first, second):
        options = stage.options
        assert (stage.dataset, options.split, stage.num_devices) == ("cityscapes", "train", 4)
        assert (options.batch_images, options.crop_size, options.origin_size) == (16, 500, 2048)
        assert (options.scale_rate_range, options.loss) == ((0.7, 1.3), "ohem")
    assert first.weights + "_ep-0001.params" in RELEASED_FILES
    assert schedule(first) == (140, "fixed", 0.0016)
    assert schedule(second) == (64, "linear", 0.0008)
    assert second.weights == first.label
    assert second.file_name == "cityscapes_rna-a1_cls19_s8_x1-140_ep-0064.params"


def test_ilsvrc():
    (scratch,), (tuned,) = RECIPES["ilsvrc-a"].stages, RECIPES["ilsvrc-a1"].stages
    for stage, rate, epochs in ((scratch, 0.1, 90), (tuned, 0.01, 9)):
        assert (stage.dataset, stage.options.split) == ("ilsvrc-cls", "train")
        assert (stage.options.batch_images, stage.options.crop_size) == (256, 224)
        assert schedule(stage) == (epochs, "linear", rate)
    assert scratch.weights is None and scratch.options.pool == "full"
    assert tuned.weights == scratch.label and tuned.options.pool == "pad"
    assert "40 days" in RECIPES["ilsvrc-a"].time and "11 GB" in RECIPES["ilsvrc-a"].hardware
    assert 9 * updates_of_an_epoch(tuned) == pytest.approx(45_000, rel=0.002)


def test_places_comes_as_near_to_45000_updates_as_whole_epochs_can():
    (stage,) = RECIPES["places-a2"].stages
    misses = {n: abs(n * updates_of_an_epoch(stage) - 45_000) for n in range(1, 20)}
    assert min(misses, key=misses.get) == stage.options.to_epoch
    assert stage.weights == "ilsvrc-cls_rna-a_cls1000" and stage.options.label.network == "rna-a2"


@pytest.mark.parametrize("name", [row.name for row in RESULTS if row.network.startswith("rn-")])
def test_resnets(name):
    """arXiv:1512.03385, §3.4: up to 60 × 10⁴ updates; the rate falls three times to a tenth."""
    (stage,) = RECIPES[name].stages
    options = stage.options
    assert (options.batch_images, options.crop_size, options.weight_decay) == (256, 224, 1e-4)
    assert (options.momentum, *schedule(stage)) == (0.9, 120, "step", 0.1)
    assert 120 * updates_of_an_epoch(stage) == pytest.approx(600_000, rel=0.002)
    assert options.lr_steps == (150_000, 300_000, 450_000)
    assert (stage.weights, options.pool) == (None, get_result(name).options["pool"])


def test_the_rate_falls_after_as_many_epochs_with_another_batch():
    changed = RecipeOptions(recipe="ilsvrc-resnet50", batch_images=128)
    assert changed.stages()[0].options.lr_steps == (300_000, 600_000, 900_000)
    shorter = RecipeOptions(recipe="ilsvrc-resnet50", epochs=60)
    assert shorter.stages()[0].options.lr_steps == (75_000, 150_000, 225_000)


def test_only_what_the_release_states_is_its_own():
    origins = {name: recipe.origin for name, recipe in RECIPES.items()}
    assert {name for name, origin in origins.items() if origin == "release"} == {
        "ilsvrc-a",
        "ilsvrc-a1",
        "cityscapes-a1",
    }
    assert set(origins.values()) == {"release", "ours"}
    known = {name for name, recipe in RECIPES.items() if recipe.time != "unknown"}
    assert known == {"ilsvrc-a"}  # the one time that is stated


def test_model_a_pools_as_its_weights_do_with_one_convolution_at_the_top():
    for stage in RECIPES["voc-a-1conv"].stages:
        label, options = stage.options.label, stage.options
        assert (label.network, label.output_stride) == ("rna-a", 8)
        assert (options.head, options.pool, options.split) == ("1conv", "full", "train+")
    assert get_result("voc-a-1conv").options["pool"] == "full"


@pytest.mark.parametrize("name", ["voc-a-1conv", "voc-a1", "ade20k-a1", "ade20k-a2", "context-a2"])
def test_ours_have_as_many_updates_as_on_cityscapes(name):
    for ours, theirs in zip(RECIPES[name].stages, RECIPES["cityscapes-a1"].stages):
        wanted = theirs.options.to_epoch * updates_of_an_epoch(theirs)
        assert ours.options.to_epoch == round(wanted / updates_of_an_epoch(ours))
        assert schedule(ours)[1:] == schedule(theirs)[1:]


def test_every_stage_can_start():
    """Its weights are released, of an earlier stage, or of another recipe; all fits its dataset."""
    ends = {recipe.label for recipe in RECIPES.values()}
    for recipe in RECIPES.values():
        assert recipe.name in RECIPES and RECIPES[recipe.name] is recipe
        earlier = set()
        for stage in recipe.stages:
            label, dataset = stage.options.label, DATASETS[stage.dataset]
            assert (label.num_classes, label.task) == (dataset.num_classes, dataset.task)
            get_network(label.family, label.variant)
            released = f"{stage.weights}_ep-0001.params" in RELEASED_FILES
            assert stage.weights is None or released or stage.weights in earlier | ends
            assert stage.file_name not in RELEASED_FILES
            earlier.add(stage.label)
        assert len(earlier) == len(recipe.stages)


def test_recipes_are_for_the_networks_of_their_rows():
    for recipe in RECIPES.values():
        for name in rows_of(recipe):
            row, label = get_result(name), recipe.stages[-1].options.label
            assert (row.dataset, row.network) == (label.dataset, label.network)
            assert RECIPES[row.name] is recipe
    assert {row.name for row in RESULTS if row.label} <= set(RECIPES)
    assert get_result("voc-test-a1").name not in RECIPES


@pytest.mark.parametrize(
    ("name", "message"),
    [("voc-test-a1", "no recipe for 'voc-test-a1': .*places-a2"), ("a1", "unknown recipe 'a1'")],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        get_recipe(name)


def test_every_row_that_can_be_run_has_its_script():
    wanted = [f"{row.name}.sh" for row in TESTED] + [f"train-{name}.sh" for name in RECIPES]
    assert sorted(path.name for path in SCRIPTS.iterdir()) == sorted(wanted)


def expected_scores(name: str) -> str:
    row = get_result(name)
    return ", ".join(f"{METRIC_NAMES[metric]} {row.printed(metric)}" for metric in row.values)


@pytest.mark.parametrize("row", TESTED, ids=lambda row: row.name)
def test_a_test_script_opens_with_the_tables_numbers(row):
    opening = (SCRIPTS / f"{row.name}.sh").read_text(encoding="utf-8").split("exec")[0]
    setting = f"{row.network} on {row.dataset} {row.split}, {row.setting}"
    assert f"# {row.name}: {setting}\n# Expected: {expected_scores(row.name)}.\n" in opening
    assert "\n# Hardware: " in opening
    hours, images, seconds = map(
        int, re.search(r"Time: about (\d+) hours .*\((\d+) images, (\d+) second", opening).groups()
    )
    assert images == DATASETS[row.dataset].splits[row.split]
    assert hours == round(images * seconds / 3600)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_a_training_script_opens_with_the_recipes_facts(recipe):
    opening = (SCRIPTS / f"train-{recipe.name}.sh").read_text(encoding="utf-8").split("exec")[0]
    assert f"# Train {recipe.name}: {recipe.label}, " in opening
    assert ("as the release states it" in opening) == (recipe.origin == "release")
    assert ("a recipe of ours" in opening) == (recipe.origin == "ours")
    for name in rows_of(recipe):
        assert f"# Expected: {expected_scores(name)} ({name}.sh).\n" in opening
    assert f"# Time: {recipe.time}.\n# Hardware: {recipe.hardware};" in opening


@pytest.mark.parametrize("path", sorted(SCRIPTS.iterdir()), ids=lambda path: path.stem)
def test_a_script_hands_its_row_to_the_command(path, tmp_path):
    """With a command in place of `ademx` that prints what it is given."""
    (tmp_path / "ademx").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "ademx").chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "DATA": "/my data"}
    found = subprocess.run(
        [path, "--unverified"], env=environment, capture_output=True, text=True, check=True
    )
    row = path.stem[len("train-") :] if path.stem.startswith("train-") else path.stem
    chosen = [row] if row == path.stem else ["--train", row]
    devices = [] if row == path.stem else ["--gpus", "0,1,2,3"]
    places = ["--data", "/my data", "--models", "models"]
    assert found.stdout.splitlines() == [
        "reproduce",
        *chosen,
        *places,
        *devices,
        "--unverified",
    ]


def test_a_script_runs(tmp_path):
    """The real command, without data: it says what is missing."""
    command = shutil.which("ademx", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("the ademx command is not installed beside this Python")
    path = f"{Path(command).parent}{os.pathsep}{os.environ['PATH']}"
    found = subprocess.run(
        [SCRIPTS / "voc-a1.sh"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith("voc-a1: not run (1, 2)\n")
    assert "voc_rna-a1_cls21_s8_ep-0001.params" in found.stdout
    assert (tmp_path / "reproduction" / "report.md").is_file()

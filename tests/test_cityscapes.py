"""iIoU and the scores of categories: against Cityscapes' own script, and by hand."""

import argparse
import json
import logging
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import main_text, run_evaluate
from narrow import write_weights
from PIL import Image

from ademx.data.drawn.make import make_dataset
from ademx.testing.cityscapes import can_be_added, further_scores
from iters import variants

official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")

invoke = partial(run_evaluate, "segmentation")
IMAGES = 2


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("city")
    make_dataset("cityscapes", root, images={"val": IMAGES}, seed=3)
    return root


def truths(root: Path) -> list[Path]:
    return sorted(root.glob("gtFine/val/*/*_gtFine_labelIds.png"))


def stored(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def official_scores(predictions: dict[Path, Path]) -> dict:
    """Return what the script says of prediction files, which it is given as they are."""
    settings = argparse.Namespace(**vars(official.args))
    settings.JSONOutput, settings.quiet = False, True
    found = (list(map(str, paths)) for paths in (predictions.values(), predictions))
    return official.evaluateImgLists(*found, settings)


def agree(ours: dict, predictions: dict[Path, Path]) -> None:
    theirs = official_scores(predictions)
    kinds = {
        "class_iiou": ("classInstScores", "mean_iiou", "averageScoreInstClasses"),
        "category_iou": ("categoryScores", "mean_category_iou", "averageScoreCategories"),
        "category_iiou": (
            *("categoryInstScores", "mean_category_iiou", "averageScoreInstCategories"),
        ),
    }
    for kind, (scores, mean, average) in kinds.items():
        expected = {name: score for name, score in theirs[scores].items() if score == score}
        assert expected, kind
        found = {name: one for name, one in ours[kind].items() if one is not None and one == one}
        assert found == pytest.approx({name: 100 * one for name, one in expected.items()})
        assert ours[mean] == pytest.approx(100 * theirs[average])


def test_of_a_tiny_image_by_hand(tmp_path):
    # One car of 8 pixels, of which 6 are found; another of 2, of which none is; and 3 pixels of
    # the road are taken for a car. A car of Cityscapes' train has 12794.02… pixels.
    label = np.full((4, 8), 7, np.uint8)
    label[0], label[1, :2] = 26, 26
    instances = label.astype(np.uint16)
    instances[0], instances[1, :2] = 26000, 26001
    found = np.full_like(label, 7)
    found[0, :6], found[3, :3] = 26, 26
    paths = [tmp_path / f"a_000000_000019_{kind}.png" for kind in ("labels", "gtFine_labelIds")]
    for path, pixels in zip(paths, (found, label)):
        Image.fromarray(pixels).save(path)
    Image.fromarray(instances).save(tmp_path / "a_000000_000019_gtFine_instanceIds.png")

    scores = further_scores({paths[1]: paths[0]})

    size = 12794.0202738185
    true, missed = 6 * size / 8, 2 * size / 8 + 2 * size / 2
    iiou = 100 * true / (true + missed + 3)
    assert scores["class_iiou"]["car"] == scores["mean_iiou"] == pytest.approx(iiou)
    assert scores["category_iiou"]["vehicle"] == pytest.approx(iiou)
    # Flat: 19 of 22 are found, and 4 pixels of cars are taken for it. Vehicles: 6, of 10 + 3.
    assert scores["category_iou"]["flat"] == pytest.approx(100 * 19 / 26)
    assert scores["category_iou"]["vehicle"] == pytest.approx(100 * 6 / 13)
    assert scores["mean_category_iou"] == pytest.approx(50 * (19 / 26 + 6 / 13))


def test_drawn_instances_are_the_drawn_objects(drawn):
    numbers = set()
    for path in truths(drawn):
        ids = stored(path)
        instances = stored(path.with_name(path.name.replace("label", "instance")))
        assert instances.dtype == np.uint16
        has_instances = ids >= 24
        np.testing.assert_array_equal(instances // 1000, np.where(has_instances, ids, 0))
        np.testing.assert_array_equal(instances[~has_instances], ids[~has_instances])
        numbers |= set((instances[has_instances] % 1000).tolist())
    assert {0, 1} <= numbers  # some image has two objects of a class


def test_the_script_says_the_same_of_a_run(drawn, tmp_path, monkeypatch):
    known = variants.Variant("part of it", counts={"val": IMAGES})
    monkeypatch.setitem(variants._VARIANTS, "cityscapes", (known,))
    weights = write_weights(tmp_path, "cityscapes_rna-a1_cls19_s8")
    run, page = tmp_path / "run", tmp_path / "page.html"
    result = invoke(weights, drawn, run, "--report", page)
    assert result.exit_code == 0, result.output
    assert f"WARNING {IMAGES} images: part of it" in result.stderr
    scores = json.loads((run / "scores.json").read_text())
    name = "gtFine_labelIds"
    pairs = {
        path: run / "labels" / path.name.replace(name, "leftImg8bit") for path in truths(drawn)
    }
    assert len(pairs) == IMAGES
    agree(scores["cityscapes"], pairs)

    flat = f"{scores['cityscapes']['category_iou']['flat']:.2f}"
    mean = [f"{scores['cityscapes'][f'mean_category_{kind}']:.2f}" for kind in ("iou", "iiou")]
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["flat", flat, "–"] in lines and ["mean", *mean] in lines
    assert f"flat {flat} –" in main_text(page)

    # Going on with a run that is finished but for these scores adds them.
    record = json.loads((run / "scores.json").read_text())
    del record["cityscapes"]
    (run / "scores.json").write_text(json.dumps(record))
    again = invoke(weights, drawn, run, "--resume")
    assert again.exit_code == 0, again.output
    assert json.loads((run / "scores.json").read_text())["cityscapes"] == scores["cityscapes"]
    assert "nothing is computed again" in invoke(weights, drawn, run, "--resume").stderr


@pytest.fixture
def guess(drawn, tmp_path) -> dict[Path, Path]:
    """Return a copy of the truth, as labels and as what was predicted, nearly right."""
    shutil.copytree(drawn / "gtFine", tmp_path / "gtFine")
    predictions = {}
    for path in truths(tmp_path):
        predictions[path] = tmp_path / path.name
        pixels = np.roll(stored(path), 5, axis=1)
        Image.fromarray(np.where(pixels < 7, 7, pixels)).save(predictions[path])
    return predictions


def test_good_predictions_too(guess):
    scores = further_scores(guess)
    agree(scores, guess)
    assert scores["mean_iiou"] > 50


def test_without_the_package_one_line_says_what_installs_it(guess, caplog, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("cityscapesscripts")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cityscapesscripts", None)
    with caplog.at_level(logging.WARNING):
        assert further_scores(guess) is None
        assert not can_be_added(None, list(guess))
    (record,) = caplog.records
    assert "pip install 'ademx[cityscapes]'" in record.getMessage()


def test_without_instances_there_are_categories_alone(guess, caplog):
    path = next(iter(guess))
    path.with_name(path.name.replace("label", "instance")).unlink()
    with caplog.at_level(logging.WARNING):
        scores = further_scores(guess)
        assert not can_be_added(scores, list(guess))
    assert set(scores) == {"category_iou", "mean_category_iou"}
    (record,) = caplog.records
    assert f"1 of {IMAGES} labels, such as {path}, lack" in record.getMessage()
    assert "gtFine_trainvaltest.zip" in record.getMessage()


def test_a_label_of_another_name_is_not_taken_for_its_instances(guess, caplog, tmp_path):
    renamed = {}
    for path, predicted in guess.items():
        renamed[tmp_path / f"{len(renamed)}.png"] = predicted
        shutil.copy(path, list(renamed)[-1])
    with caplog.at_level(logging.WARNING):
        scores = further_scores(renamed)
        assert not can_be_added(scores, list(renamed))
    assert set(scores) == {"category_iou", "mean_category_iou"}
    (record,) = caplog.records
    assert f"{IMAGES} of {IMAGES} labels, such as {next(iter(renamed))}, lack" in (
        record.getMessage()
    )


def test_what_the_tool_refuses_is_one_line(guess, caplog):
    for path in guess.values():
        Image.new("L", (3, 3)).save(path)
    with caplog.at_level(logging.WARNING):
        assert further_scores(guess) is None
    (record,) = caplog.records
    assert "are not equal" in record.getMessage() and "\n" not in record.getMessage()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((8, 8), 26001, np.uint16), "8×8 pixels, expected"),
        (np.full((8, 8), 7, np.uint16), "8×8 pixels, expected"),  # counts none, silently
        (np.full((8, 8, 3), 7, np.uint8), "mode RGB: expected one number a pixel"),
        (np.full((64, 128), 60001, np.uint16), "instances of label id 60, expected"),
        (None, "cannot"),
    ],
)
def test_instances_that_the_tool_stumbles_over_end_no_run(guess, caplog, pixels, message):
    truth = next(iter(guess))
    path = truth.with_name(truth.name.replace("label", "instance"))
    path.write_bytes(path.read_bytes()[:100])
    if pixels is not None:
        Image.fromarray(pixels).save(path)
    with caplog.at_level(logging.WARNING):
        assert further_scores(guess) is None
    (record,) = caplog.records
    assert f"{path}: " in record.getMessage() and message in record.getMessage()

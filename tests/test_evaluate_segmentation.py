"""`ademx evaluate segmentation` as its user sees it, on narrow networks and drawn images."""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import main_text, run_evaluate
from machine import needs_bfloat16
from narrow import VOC, write_weights
from near_ties import differ_clearly, saved_scores
from PIL import Image
from scenes import voc_scene

from ademx import params
from ademx.convert.files import read_weights
from ademx.data.drawn.make import make_dataset
from ademx.devices import Devices
from ademx.engines.mxnet.predict import Predictor
from ademx.labels import parse_label
from ademx.testing.options import SegmentationOptions
from ademx.testing.segmentation import SegmentationTester
from ademx.testing.session import Session
from iters.datasets import DATASETS

pytest.importorskip("mxnet")

IMAGES = 5
NAMES = [f"2007_{number:06d}" for number in range(3, 3 + IMAGES)]


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"), VOC, seed=7)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Return a dataset in VOC's layout with five images in its val split."""
    root = tmp_path_factory.mktemp("data")
    make_dataset("voc", root, images={"train": 2, "val": IMAGES})
    return root


@pytest.fixture(scope="module")
def finished(weights, data, tmp_path_factory) -> Path:
    """Return the folder of a run at scale 64; do not write into it."""
    output = tmp_path_factory.mktemp("run")
    evaluate(weights, data, output)
    return output


invoke = partial(run_evaluate, "segmentation")


def evaluate(weights, data: Path, output: Path, *options: object) -> dict:
    """Run the command, which must succeed, and return its scores.json."""
    result = invoke(weights, data, output, *options)
    assert result.exit_code == 0, result.output
    return scores_of(output)


def scores_of(output: Path) -> dict:
    return json.loads((output / "scores.json").read_text(), parse_constant=pytest.fail)


def stored(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def labels(output: Path, names=NAMES) -> np.ndarray:
    """Return the pixels of all label images, one after the other."""
    return np.concatenate([stored(output / "labels" / f"{name}.png").ravel() for name in names])


def assert_alike(one: Path, other: Path, names=NAMES, *, scale: int = 64) -> None:
    """Assert that labels differ at near ties only; the first run has saved its scores."""
    for name in names:
        labels = [stored(output / "labels" / f"{name}.png") for output in (one, other)]
        assert labels[0].shape == labels[1].shape
        scores = saved_scores(one, name, labels[0].shape, (scale,))
        assert not differ_clearly(*labels, scores).any()


def counted(data: Path, names) -> int:
    """Return how many pixels of the truth have a class."""
    folder = data / "VOCdevkit/VOC2012" / "SegmentationClass"
    return sum(int((stored(folder / f"{name}.png") != 255).sum()) for name in names)


# ---- what is computed --------------------------------------------------------------------------


def test_scores_are_those_of_the_written_labels(finished, data):
    folder = data / "VOCdevkit/VOC2012" / "SegmentationClass"
    truth = np.concatenate([stored(folder / f"{name}.png").ravel() for name in NAMES])
    found = labels(finished)[truth != 255]
    truth = truth[truth != 255]
    ious = {}
    for number, name in enumerate(DATASETS["voc"].class_names):
        union = np.sum((truth == number) | (found == number))
        ious[name] = 100 * np.sum((truth == number) & (found == number)) / union if union else None

    scores = scores_of(finished)

    assert scores["class_iou"] == pytest.approx(ious)
    known = [iou for iou in ious.values() if iou is not None]
    assert 0 < len(known) < 21
    assert scores["mean_iou"] == pytest.approx(np.mean(known))
    assert scores["pixel_accuracy"] == pytest.approx(100 * np.mean(truth == found))
    assert scores["absent_classes"] == "skip"
    assert (scores["num_images"], scores["num_broken"], scores["broken"]) == (IMAGES, 0, [])
    assert np.sum(scores["confusion"]) == len(truth)


def test_correct_pixels_are_drawn_beside_the_labels(finished, data):
    for name in NAMES:
        truth = stored(data / "VOCdevkit/VOC2012" / "SegmentationClass" / f"{name}.png")
        found = stored(finished / "labels" / f"{name}.png")
        expected = np.where(truth == 255, 255, np.where(truth == found, 127, 0))
        np.testing.assert_array_equal(stored(finished / "correct" / f"{name}.png"), expected)


def test_label_images_have_the_palette_of_the_dataset(finished):
    image = Image.open(finished / "labels" / f"{NAMES[0]}.png")
    assert image.mode == "P"
    assert image.getpalette()[3 * 15 : 3 * 16] == [192, 128, 128]  # VOC's colour for a person


def test_several_scales_are_averaged_at_the_original_size(weights, data, tmp_path):
    evaluate(weights, data, tmp_path, "--test-scales", "96,128", "--save-predictions")
    others = 0
    for name in NAMES:
        found = stored(tmp_path / "labels" / f"{name}.png")
        expected = saved_scores(tmp_path, name, found.shape, (96, 128))
        assert not differ_clearly(found, expected.argmax(0), expected).any()
        with np.load(tmp_path / "scores" / f"{name}.npz") as saved:
            np.savez(tmp_path / "scores" / f"alone-{name}.npz", scores=saved["scores@96"])
        alone = saved_scores(tmp_path, f"alone-{name}", found.shape, (96,))
        others += differ_clearly(alone.argmax(0), found, expected).sum()
    assert others  # one scale would not do


def test_several_weights_average_the_networks_outputs(weights, other_weights, data, tmp_path):
    sets = {"one": weights, "two": other_weights, "both": [weights, other_weights]}
    scores = {}
    for name, files in sets.items():
        evaluate(files, data, tmp_path / name, "--save-predictions", "--test-flipping")
        scores[name] = [
            np.load(tmp_path / name / "scores" / f"{image}.npz")["scores"].astype(np.float64)
            for image in NAMES
        ]
    for one, two, both in zip(*scores.values()):
        np.testing.assert_allclose(both, (one + two) / 2, atol=1e-3)  # float16
        assert np.abs(one - two).max() > 0.1
    files = [entry["file"] for entry in scores_of(tmp_path / "both")["weights"]]
    assert files == [str(weights), str(other_weights)]


@pytest.mark.parametrize("options", [("--cpus", 2), ("--cpus", 2, "--batch-images", 2)], ids=str)
def test_several_contexts_share_the_images(options, weights, data, finished, tmp_path):
    scores = evaluate(weights, data, tmp_path, *options, "--save-predictions")
    # The order of float32 sums depends on the batch.
    assert_alike(tmp_path, finished)
    assert scores["devices"] == ["cpu(0)", "cpu(1)"]


@pytest.mark.parametrize("batch", [2, 16])
def test_an_incomplete_last_batch_counts(batch, weights, data, finished, tmp_path):
    options = ("--batch-images", batch, "--prefetch-threads", 1, "--save-predictions")
    scores = evaluate(weights, data, tmp_path, *options)
    assert np.sum(scores["confusion"]) == counted(data, NAMES)
    assert_alike(tmp_path, finished)


@needs_bfloat16
def test_bfloat16_is_close_to_float32(weights, data, tmp_path):
    scores = {}
    for precision in ("float32", "bfloat16"):
        output = tmp_path / precision
        evaluate(weights, data, output, "--precision", precision, "--save-predictions")
        scores[precision] = [
            np.load(output / "scores" / f"{name}.npz")["scores"].astype(float) for name in NAMES
        ]
    assert scores_of(tmp_path / "bfloat16")["settings"]["precision"] == "bfloat16"
    difference = np.abs(np.subtract(scores["float32"], scores["bfloat16"]))
    # Eight bits of mantissa through 38 layers, and with such weights many classes nearly tie.
    assert 0 < difference.mean() < 0.005
    for precision in scores:  # labels are those of the scores, which are close
        for name in NAMES:
            found = stored(tmp_path / precision / "labels" / f"{name}.png")
            enlarged = saved_scores(tmp_path / precision, name, found.shape, (64,))
            assert not differ_clearly(found, enlarged.argmax(0), enlarged).any()


def test_images_of_several_sizes_share_a_group(tmp_path):
    """Cityscapes canvases follow the image, so that a group may need several batches."""
    weights = write_weights(tmp_path, "cityscapes_rna-a1_cls19_s8")
    rng = np.random.default_rng(3)
    sizes = [(48, 96), (64, 80), (48, 96)]
    _write_cityscapes(tmp_path / "data", [rng.choice([7, 11, 26], size=size) for size in sizes])
    for batch in (1, 3):
        output = tmp_path / f"batch{batch}"
        options = ("--batch-images", batch, "--save-predictions")
        evaluate(weights, tmp_path / "data", output, *options)
        names = sorted(path.stem for path in (output / "labels").iterdir())
        shapes = [stored(output / "labels" / f"{name}.png").shape for name in names]
        assert sorted(shapes) == sorted(sizes)
    assert_alike(tmp_path / "batch1", output, names)


# ---- splits and layouts ------------------------------------------------------------------------


def test_the_test_split_gives_predictions_only(weights, data, finished, tmp_path):
    lines = [f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg\n" for name in NAMES]
    (tmp_path / "test.lst").write_text("".join(lines))

    options = ("--split", "test", "--list-file", tmp_path / "test.lst")
    result = invoke(weights, data, tmp_path / "out", *options)

    assert result.exit_code == 0
    assert "predictions only" in result.output
    scores = scores_of(tmp_path / "out")
    assert not {"mean_iou", "pixel_accuracy", "class_iou", "confusion"} & set(scores)
    assert scores["num_images"] == IMAGES
    assert not (tmp_path / "out" / "correct").exists()
    np.testing.assert_array_equal(labels(tmp_path / "out"), labels(finished))


def test_numbers_that_are_no_class_are_void(weights, data, finished, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    path = root / "VOCdevkit/VOC2012" / "SegmentationClass" / f"{NAMES[0]}.png"
    label = Image.open(path)
    pixels = np.array(label)
    pixels[:20] = 37
    changed = Image.fromarray(pixels)
    changed.putpalette(label.getpalette())
    changed.save(path)

    scores = evaluate(weights, root, tmp_path / "out")

    removed = counted(data, NAMES) - np.sum(scores["confusion"])
    original = stored(data / "VOCdevkit/VOC2012" / "SegmentationClass" / f"{NAMES[0]}.png")
    assert removed == np.sum(original[:20] != 255) > 0
    assert (stored(tmp_path / "out" / "correct" / f"{NAMES[0]}.png")[:20] == 255).all()


def _write_cityscapes(root: Path, label_ids) -> list[str]:
    names = []
    rng = np.random.default_rng(0)
    for number, ids in enumerate(label_ids):
        city = "aachen" if number % 2 else "bonn"
        name = f"{city}_{number:06d}_000019"
        names.append(name)
        for kind, suffix, pixels in (
            ("leftImg8bit", "leftImg8bit", _scene(rng, ids.shape)),
            ("gtFine", "gtFine_labelIds", ids.astype(np.uint8)),
        ):
            folder = root / kind / "val" / city
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{name}_{suffix}.png")
    return names


def _scene(rng: np.random.Generator, size) -> np.ndarray:
    return np.array(Image.fromarray(voc_scene(rng)[0]).resize((size[1], size[0])))


def test_cityscapes_own_evaluation_of_our_labels_agrees(tmp_path):
    weights = write_weights(tmp_path, "cityscapes_rna-a1_cls19_s8")
    rng = np.random.default_rng(1)
    # All label ids, the void ones 0 to 6, 9, 10, … among them; class 33 is nowhere.
    grids = [rng.integers(0, 33, size=(8, 16)).repeat(8, 0).repeat(8, 1) for _ in range(3)]
    names = _write_cityscapes(tmp_path / "data", grids)

    ours = evaluate(weights, tmp_path / "data", tmp_path / "out", "--test-scales", 64)

    theirs = _official_cityscapes_scores(tmp_path, names)
    assert ours["mean_iou"] == pytest.approx(100 * theirs["averageScoreClasses"], abs=1e-4)
    for name, iou in ours["class_iou"].items():
        score = theirs["classScores"][name]
        assert iou == (None if np.isnan(score) else pytest.approx(100 * score, abs=1e-4))
    assert ours["mean_iou"] > 0


def _official_cityscapes_scores(folder: Path, names) -> dict:
    from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import args, evaluateImgLists

    settings = argparse.Namespace(**vars(args))
    settings.evalInstLevelScore = False
    settings.JSONOutput = False
    settings.quiet = True
    truth = sorted((folder / "data" / "gtFine").rglob("*_labelIds.png"))
    found = [
        folder / "out" / "labels" / path.name.replace("gtFine_labelIds", "leftImg8bit")
        for path in truth
    ]
    assert len(truth) == len(names)
    return evaluateImgLists(list(map(str, found)), list(map(str, truth)), settings)


def test_ade20k_stores_its_classes_from_one(tmp_path):
    weights = write_weights(tmp_path, "ade20k_rna-a1_cls150_s8")
    root, rng = tmp_path / "data", np.random.default_rng(2)
    for folder in ("images/validation", "annotations/validation", "images/testing"):
        (root / folder).mkdir(parents=True)
    truths = []
    for number in range(2):
        pixels = _scene(rng, (64, 80))
        truths.append(rng.integers(0, 151, size=(8, 10)).repeat(8, 0).repeat(8, 1))
        name = f"ADE_val_{number:08d}"
        Image.fromarray(pixels).save(root / f"images/validation/{name}.jpg")
        label = Image.fromarray(truths[-1].astype(np.uint8))
        label.save(root / f"annotations/validation/{name}.png")
        Image.fromarray(pixels).save(root / f"images/testing/ADE_test_{number:08d}.jpg")

    scores = evaluate(weights, root, tmp_path / "val")
    evaluate(weights, root, tmp_path / "test", "--split", "test")

    names = [f"ADE_val_{number:08d}" for number in range(2)]
    found, truth = labels(tmp_path / "val", names), np.concatenate([t.ravel() for t in truths])
    assert (found.min() >= 1) and (found.max() <= 150)
    tests = [name.replace("val", "test") for name in names]
    np.testing.assert_array_equal(labels(tmp_path / "test", tests), found)
    # An absent class counts 0, as in the benchmark's tool; stored 0 is void.
    found, truth = found[truth > 0], truth[truth > 0]
    assert scores["pixel_accuracy"] == pytest.approx(100 * np.mean(found == truth))
    hits = [np.sum((found == k) & (truth == k)) for k in range(1, 151)]
    unions = [max(1, np.sum((found == k) | (truth == k))) for k in range(1, 151)]
    assert scores["mean_iou"] == pytest.approx(100 * np.mean(np.divide(hits, unions)))
    assert scores["absent_classes"] == "zero"


@pytest.mark.parametrize(("variant", "stride"), [("b", 16), ("56-1-1-1-1-1-1-1", 8)])
def test_the_networks_own_stride_counts(variant, stride, tmp_path):
    """The labels name no stride, which is 32; trained at 112 and 56 the networks have less."""
    label = parse_label(f"voc_rna-{variant}_cls21")
    weights = write_weights(tmp_path, str(label))
    scene, truth = voc_scene(np.random.default_rng(0))
    image, truth = scene[:48, :64], truth[:48, :64]
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(truth).save(tmp_path / "truth.png")
    (tmp_path / "a.lst").write_text("a.png\ttruth.png\n")
    options = ("--list-file", tmp_path / "a.lst", "--test-steps", 2, "--save-predictions")
    evaluate(weights, tmp_path, tmp_path / "out", *options)
    found = np.load(tmp_path / "out" / "scores" / "a.npz")["scores"]

    # The image lies at stride // 2 in a frame of zeros, of which windows are read.
    frame = np.zeros((3, 64 + stride, 64 + stride), np.float32)
    pixels = (image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    frame[:, stride // 2 :, stride // 2 :][:, :48, :64] = pixels.transpose(2, 0, 1)
    step = stride // 2
    starts = [step // 2, step // 2 + step]
    inputs = np.zeros((4, 3, 64, 64), np.float32)
    for index, (y, x) in enumerate((y, x) for y in starts for x in starts):
        inputs[index, :, :48] = frame[:, y : y + 48, x : x + 64]
    outputs = Predictor(read_weights(weights, label=label), devices=Devices())(inputs, batch=4)
    expected = np.zeros((21, 128 // stride, 128 // stride))
    for index, output in enumerate(outputs):
        expected[:, index // 2 :: 2, index % 2 :: 2] = output
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-3)  # stored as float16


# ---- what is printed and written ---------------------------------------------------------------


@pytest.fixture
def one_image(data, tmp_path, monkeypatch) -> tuple[object, ...]:
    """Return the options of the published test, for one image, which is all of the split."""
    name, base = NAMES[0], "VOCdevkit/VOC2012"
    line = f"{base}/JPEGImages/{name}.jpg\t{base}/SegmentationClass/{name}.png\n"
    (tmp_path / "one.lst").write_text(line)
    voc = DATASETS["voc"]
    whole = dataclasses.replace(voc, splits={**voc.splits, "val": 1})
    monkeypatch.setitem(DATASETS, "voc", whole)
    return ("--list-file", tmp_path / "one.lst", "--test-scales", 500, "--test-flipping")


def test_the_published_value_stands_beside_ours(one_image, weights, data, tmp_path):
    result = invoke(weights, data, tmp_path / "out", *one_image)

    assert result.exit_code == 0
    assert "published mean IoU  80.84 %" in result.stdout
    published = scores_of(tmp_path / "out")["published"]
    assert published["mean_iou"] == 80.84
    assert "not the released file of this name" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--precision", "bfloat16"), marks=needs_bfloat16),
        ("--absent-classes", "zero"),
        ("--no-choose-interp-method",),
        ("--list-file", "two.lst"),
        ("--list-file", "broken.lst"),
    ],
    ids=" ".join,
)
def test_nothing_published_stands_beside_another_test(
    options, one_image, weights, data, tmp_path, monkeypatch
):
    (line,) = (tmp_path / "one.lst").read_text().splitlines()
    (tmp_path / "two.lst").write_text(f"{line}\n{line.replace(NAMES[0], NAMES[1])}\n")
    (tmp_path / "broken.lst").write_text(line.replace(f"{NAMES[0]}.jpg", "none.jpg"))
    monkeypatch.chdir(tmp_path)
    result = invoke(weights, data, tmp_path / "out", *one_image, *options)
    assert "published" not in result.stdout
    assert scores_of(tmp_path / "out")["published"] is None


def test_the_table_goes_to_stdout_and_the_log_to_stderr(weights, data, tmp_path):
    result = invoke(weights, data, tmp_path)
    scores = scores_of(tmp_path)
    assert "published" not in result.stdout
    rows = {line.rsplit(maxsplit=2)[0].strip(): line.split()[-2:] for line in _class_rows(result)}
    assert rows["background"][0] == f"{scores['class_iou']['background']:.2f}"
    assert rows["mean"] == [f"{scores['mean_iou']:.2f}", f"{scores['mean_accuracy']:.2f}"]
    assert set(rows) == {*DATASETS["voc"].class_names, "mean"}
    assert rows["boat"] == ["–", "–"]  # neither drawn nor predicted
    assert f"voc val: {IMAGES} images" in result.stderr
    assert "image/s" in result.stderr and "mean_iou=" in result.stderr


def _class_rows(result) -> list[str]:
    lines = result.stdout.splitlines()
    return lines[1 : lines.index("")]


def test_class_names_cannot_act_on_a_terminal_and_cost_no_result(
    weights, data, tmp_path, monkeypatch
):
    names = list(DATASETS["voc"].class_names)
    names[:3] = ["a\x1b[2J\x07\nb", "\ud800", "חתול"]
    monkeypatch.setitem(
        DATASETS, "voc", dataclasses.replace(DATASETS["voc"], class_names=tuple(names))
    )
    files = ("--json", tmp_path / "out" / "a.json", "--report", tmp_path / "out" / "a.html")
    result = invoke(weights, data, tmp_path / "out", *files)
    assert result.exit_code == 0, result.output
    assert r"a\x1b[2J\x07\nb" in result.stdout and r"\ud800" in result.stdout
    assert not set("\x1b\x07\ud800") & set(result.output)
    assert list(json.loads(files[1].read_text())["class_iou"])[:3] == names[:3]
    assert files[3].stat().st_size > 10_000


def test_json_and_log_files_hold_what_was_shown(weights, data, tmp_path):
    output, log = tmp_path / "out", tmp_path / "logs" / "run.log"
    options = ("--json", tmp_path / "s.json", "--log-file", log)
    scores = evaluate(weights, data, output, *options)
    assert json.loads((tmp_path / "s.json").read_text()) == scores
    assert scores["class_iou"]["boat"] is None
    assert f"voc val: {IMAGES} images" in log.read_text()
    assert scores["versions"]["numpy"] == np.__version__


def test_a_report_opens_with_the_scores(weights, data, finished, tmp_path):
    page = tmp_path / "a report.html"
    scores = evaluate(weights, data, tmp_path / "out", "--report", page)
    assert main_text(page).startswith(
        f"Scores {VOC} · voc val · scale 64 mean IoU {scores['mean_iou']:.2f} %"
    )
    assert f"{IMAGES} of {IMAGES} images tested." in main_text(page)
    assert page.read_text().count('"error": "data:image/webp') == IMAGES
    # A finished run computes nothing again to be shown.
    shutil.copytree(finished, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "scores.json")  # written last, however coarse the clock
    again = evaluate(weights, data, tmp_path / "copy", "--resume", "--report", page)
    assert again == scores_of(finished)
    assert page.read_text().count('"error": "data:image/webp') == IMAGES
    refused = invoke(weights, data, tmp_path / "other", "--report", page)
    assert refused.exit_code == 1
    assert f"{page} exists: choose another name or add --overwrite" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_a_report_without_label_images_has_scores_alone(weights, data, tmp_path):
    page = tmp_path / "out" / "page.html"  # in the folder that the run makes
    scores = evaluate(weights, data, tmp_path / "out", "--no-save-results", "--report", page)
    assert f"mean IoU {scores['mean_iou']:.2f} %" in main_text(page)
    assert "a run with --no-save-results has no label images" in main_text(page)
    assert "data:image/webp" not in page.read_text()


def test_a_report_of_a_test_split_shows_predictions(weights, data, tmp_path):
    base = "VOCdevkit/VOC2012/JPEGImages"
    list_file = tmp_path / "test.lst"
    list_file.write_text("".join(f"{base}/{name}.jpg\n" for name in NAMES[:2]))
    options = ("--split", "test", "--list-file", list_file, "--report", tmp_path / "page.html")
    evaluate(weights, data, tmp_path / "out", *options)
    text = main_text(tmp_path / "page.html")
    assert "This split has no labels, so there are no scores. 2 of 2 images tested." in text
    assert (tmp_path / "page.html").read_text().count('"prediction": "data:image/webp') == 2


def test_no_save_results_writes_scores_alone(weights, data, finished, tmp_path):
    scores = evaluate(weights, data, tmp_path, "--no-save-results")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["images.npz", "run.json", "scores.json"]
    assert scores["confusion"] == scores_of(finished)["confusion"]


def test_absent_classes_can_count_zero(weights, data, finished, tmp_path):
    zero = evaluate(weights, data, tmp_path, "--absent-classes", "zero")
    skip = scores_of(finished)
    present = [iou or 0 for iou in skip["class_iou"].values()]
    assert zero["mean_iou"] == pytest.approx(np.mean(present))
    assert zero["mean_iou"] < skip["mean_iou"]


# ---- going on after an interruption ------------------------------------------------------------


def _interrupted(command: list[str], *, enough, log: Path) -> None:
    """Start a command and kill it, without a chance to clean up, once `enough()` is true."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "ademx", *command], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 300
        while not enough():
            assert process.poll() is None, f"ended before its interruption: {log.read_text()}"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


def _completed(command: list[str], output: Path) -> dict:
    """Run a command to its end, which must be a good one, and return its scores.json."""
    subprocess.run([sys.executable, "-m", "ademx", *command], check=True, capture_output=True)
    return json.loads((output / "scores.json").read_text())


def test_a_killed_run_goes_on_where_it_stopped(weights, tmp_path):
    root, output = tmp_path / "data", tmp_path / "out"
    make_dataset("voc", root, images={"val": 8}, seed=4)
    options = ["--test-scales", "192", "--test-flipping", "--test-steps", "2"]
    command = ["evaluate", "segmentation", "--cpus", "1", "--weights", str(weights)]
    command += ["--data-root", str(root), "--output", str(output), *options]
    done = output / "labels"
    _interrupted(
        command,
        enough=lambda: done.is_dir() and len(list(done.glob("*.png"))) >= 2,
        log=tmp_path / "log",
    )
    assert not (output / "scores.json").exists()
    earlier = {path: path.stat().st_mtime_ns for path in done.glob("*.png")}
    assert 2 <= len(earlier) < 8

    # In processes of their own, as the killed one: with as many threads, and so to the bit.
    scores = _completed([*command, "--resume"], output)

    assert {path: path.stat().st_mtime_ns for path in earlier} == earlier
    assert len(list(done.glob("*.png"))) == 8
    whole = _completed([*command, "--output", str(tmp_path / "whole")], tmp_path / "whole")
    assert scores["confusion"] == whole["confusion"]
    assert scores["class_iou"] == whole["class_iou"]
    assert scores["mean_iou"] == whole["mean_iou"]


@pytest.fixture
def unfinished(finished, tmp_path) -> Path:
    """Return a copy of a run that lacks its scores and its last label image."""
    output = tmp_path / "unfinished"
    shutil.copytree(finished, output)
    (output / "scores.json").unlink()
    (output / "labels" / f"{NAMES[-1]}.png").unlink()
    return output


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--test-flipping",), "--test-flipping was not given, now given"),
        (("--test-scales", "64,80"), "--test-scales was 64, now 64,80"),
        (("--test-steps", 2), "--test-steps was 1, now 2"),
        (("--tile", "64x96"), "--tile was not given, now 64x96"),
        (("--split", "train"), "--split was val, now train"),
        (("--no-choose-interp-method",), "--no-choose-interp-method was not given, now given"),
        pytest.param(
            *(("--precision", "bfloat16"), "--precision was float32, now bfloat16"),
            marks=needs_bfloat16,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_run_with_other_options_is_not_resumed(options, difference, weights, data, unfinished):
    before = {path: path.stat().st_mtime_ns for path in unfinished.rglob("*.*")}
    result = invoke(weights, data, unfinished, *options, "--resume")
    assert result.exit_code == 1
    assert "cannot resume" in result.stderr and difference in result.stderr
    assert {path: path.stat().st_mtime_ns for path in unfinished.rglob("*.*")} == before


def test_a_run_with_other_weights_is_not_resumed(other_weights, data, unfinished):
    result = invoke(other_weights, data, unfinished, "--resume")
    assert result.exit_code == 1
    assert "weights_md5 was" in result.stderr


def test_a_label_that_is_cut_short_is_made_again(weights, data, finished, unfinished):
    path = unfinished / "labels" / f"{NAMES[0]}.png"
    path.write_bytes(path.read_bytes()[:60])
    scores = evaluate(weights, data, unfinished, "--resume")
    assert scores["confusion"] == scores_of(finished)["confusion"]
    assert path.read_bytes() == (finished / "labels" / path.name).read_bytes()


@pytest.mark.parametrize("damage", ["emptied", "cut", "another", "removed", "flipped"])
@pytest.mark.parametrize("folder", ["labels", "correct", "scores"])
def test_a_file_that_is_not_the_runs_is_made_again(folder, damage, weights, data, tmp_path):
    """What a crash of the machine, or somebody, has left in the place of one."""
    root, output = tmp_path / "data", tmp_path / "out"
    make_dataset("voc", root, images={"val": 3}, seed=3)
    scores = evaluate(weights, root, output, "--save-predictions")
    whole = {path: path.read_bytes() for path in sorted(output.glob("*/*"))}
    assert len(whole) == 9
    path, other = [path for path in whole if path.parent.name == folder][:2]
    content = whole[path]
    # The middle of a file holds its pixels, of which checksums tell.
    middle = len(content) // 2
    damaged = {
        "emptied": b"",
        "cut": content[:-20],
        "another": whole[other],
        "flipped": content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :],
    }
    path.unlink()
    if damage != "removed":
        path.write_bytes(damaged[damage])
    again = evaluate(weights, root, output, "--save-predictions", "--resume")
    assert again["confusion"] == scores["confusion"]
    # The scores of another image are whole: that they are not this one's shows nowhere.
    if (folder, damage) != ("scores", "another"):
        assert {path: path.read_bytes() for path in sorted(output.glob("*/*"))} == whole


def test_a_truth_that_was_replaced_is_counted_anew(weights, data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    evaluate(weights, root, tmp_path / "out")
    folder = root / "VOCdevkit/VOC2012" / "SegmentationClass"
    size = Image.open(folder / f"{NAMES[0]}.png").size
    Image.new("L", size, 3).save(folder / f"{NAMES[0]}.png")
    scores = evaluate(weights, root, tmp_path / "out", "--resume")
    assert scores["confusion"] == evaluate(weights, root, tmp_path / "anew")["confusion"]
    correct = stored(tmp_path / "out" / "correct" / f"{NAMES[0]}.png")
    np.testing.assert_array_equal(
        correct == 127, stored(tmp_path / "out" / "labels" / f"{NAMES[0]}.png") == 3
    )


def test_long_names(weights, data, finished, tmp_path):
    """As long as a file's name may be; one whose results' names would be longer is left out."""
    base = data / "VOCdevkit/VOC2012"
    lines = []
    for name in ("n" * 244, "n" * 251, "m" * 252):
        image = tmp_path / f"{name}.{'jpg' if len(name) < 252 else 'j'}"
        shutil.copy(base / "JPEGImages" / f"{NAMES[0]}.jpg", image)
        lines.append(f"{image}\t{base}/SegmentationClass/{NAMES[0]}.png\n")
    (tmp_path / "a.lst").write_text("".join(lines))
    for flags in ((), ("--resume",)):
        options = ("--list-file", tmp_path / "a.lst", *flags)
        result = invoke(weights, data, tmp_path / "out", *options)
        assert result.exit_code == 1
        (broken,) = scores_of(tmp_path / "out")["broken"]
        assert "/mmmm" in broken["image"]
        assert "File name too long: give the image a shorter name" in broken["error"]
    written = sorted(path.stem for path in (tmp_path / "out" / "labels").iterdir())
    assert written == ["n" * 244, "n" * 251]


def test_a_truth_that_is_gone_does_not_stop_a_resumed_run(weights, data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    evaluate(weights, root, tmp_path / "out")
    (root / "VOCdevkit/VOC2012" / "SegmentationClass" / f"{NAMES[0]}.png").unlink()
    result = invoke(weights, root, tmp_path / "out", "--resume")
    assert result.exit_code == 1
    (broken,) = scores_of(tmp_path / "out")["broken"]
    assert broken["image"] == str(root / "VOCdevkit/VOC2012" / "JPEGImages" / f"{NAMES[0]}.jpg")
    assert np.sum(scores_of(tmp_path / "out")["confusion"]) == counted(data, NAMES[1:])


def test_images_per_second_are_those_of_the_resumed_run(weights, data, finished, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    (output / "scores.json").unlink()
    assert evaluate(weights, data, output, "--resume")["images_per_second"] == 0


# ---- the output folder -------------------------------------------------------------------------


def test_a_finished_run_is_not_replaced_unasked(weights, data, finished):
    before = (finished / "scores.json").stat().st_mtime_ns
    result = invoke(weights, data, finished)
    assert result.exit_code == 1
    assert "--resume" in result.stderr and "--overwrite" in result.stderr
    assert (finished / "scores.json").stat().st_mtime_ns == before


def test_tiles_that_leave_nothing_are_refused_before_a_run_is_overwritten(
    weights, data, unfinished
):
    before = {path: path.read_bytes() for path in unfinished.rglob("*.*")}
    tiles = ("--tile", "64x64", "--overlap", 60)
    result = invoke(weights, data, unfinished, *tiles, "--overwrite")
    assert result.exit_code == 1 and "tiles share all they have" in result.stderr
    assert {path: path.read_bytes() for path in unfinished.rglob("*.*")} == before


@pytest.mark.parametrize("flags", [(), ("--resume",), ("--overwrite",)], ids=str)
def test_a_second_run_into_the_folder_is_refused(
    flags, weights, other_weights, data, tmp_path, monkeypatch
):
    """Started at the same time, both would find the folder empty."""
    original, refused = Session.predict, []

    def predict(session, images):
        if not refused:
            refused.append(None)
            refused[0] = invoke(other_weights, data, tmp_path / "out", *flags)
        return original(session, images)

    monkeypatch.setattr(Session, "predict", predict)
    scores = evaluate(weights, data, tmp_path / "out")
    assert refused[0].exit_code == 1
    assert f"--output {tmp_path / 'out'}: process {os.getpid()} on " in refused[0].stderr
    assert scores["num_images"] == IMAGES and scores["weights"][0]["file"] == str(weights)
    assert not (tmp_path / "out" / ".lock").exists()


def test_overwriting_leaves_other_files_alone(weights, data, finished, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    (output / "notes.txt").write_text("mine")
    (output / "labels" / "of an earlier split.png").write_text("old")
    scores = evaluate(weights, data, output, "--overwrite", "--test-flipping")
    assert (output / "notes.txt").read_text() == "mine"
    assert len(list((output / "labels").iterdir())) == IMAGES
    assert scores["settings"]["test_flipping"] is True


@pytest.mark.parametrize("flags", [(), ("--overwrite",), ("--resume",)], ids=str)
@pytest.mark.parametrize(
    "content",
    [None, "[]", '{"command": "train segmentation"}', "[" * 100_000],
    ids=["none", "list", "training", "nested"],
)
def test_a_folder_of_something_else_is_never_touched(content, flags, weights, data, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "years of annotation.png").write_text("mine")
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    result = invoke(weights, data, tmp_path, *flags)
    assert result.exit_code == 1
    assert "did not write; choose another folder" in result.stderr
    assert (tmp_path / "labels" / "years of annotation.png").read_text() == "mine"


def test_wrong_options_do_not_cost_the_earlier_results(weights, data, finished, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    result = invoke(weights, data, output, "--test-steps", 3, "--overwrite")
    assert result.exit_code == 1
    assert "--test-steps 3: expected a divisor of the network's output stride, 8" in result.stderr
    assert scores_of(output) == scores_of(finished)


def test_an_output_that_cannot_be_written_is_named(weights, data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = invoke(weights, data, tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert str(tmp_path / "file") in result.stderr


# ---- broken images -----------------------------------------------------------------------------


def _broken_list(data: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Write a list of sound and broken samples; return it and a part of each broken one's error."""
    base = data / "VOCdevkit/VOC2012"
    sound = [
        (base / "JPEGImages" / f"{name}.jpg", base / "SegmentationClass" / f"{name}.png")
        for name in NAMES
    ]
    image, label = sound[0]
    cut, page, small = folder / "cut.jpg", folder / "page.jpg", folder / "small.png"
    cut.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    page.write_text("<html>404</html>")
    Image.fromarray(stored(label)[:-1]).save(small)
    copies = []
    for name in ("other_size.jpg", "no_label.jpg", "colour_label.jpg"):
        shutil.copy(image, folder / name)
        copies.append(folder / name)
    samples = [
        (cut, label),
        sound[0],
        (folder / "nowhere.jpg", label),
        (page, label),
        sound[1],
        sound[2],
        (copies[0], small),
        (copies[1], folder / "nowhere.png"),
        (copies[2], image),
        *sound[3:],
    ]
    path = folder / "broken.lst"
    path.write_text("".join(f"{image}\t{label}\n" for image, label in samples))
    return path, {
        str(cut): "cut.jpg: cannot be used",
        str(folder / "nowhere.jpg"): "nowhere.jpg: no such image file",
        str(page): "page.jpg: cannot be used",
        str(copies[0]): "small.png: ",
        str(copies[1]): "nowhere.png: no such image file",
        str(copies[2]): "mode RGB: expected one number a pixel",
    }


@pytest.mark.parametrize("batch", [1, 3])
def test_broken_images_are_named_and_left_out(batch, weights, data, finished, tmp_path):
    list_file, errors = _broken_list(data, tmp_path)
    page = tmp_path / "page.html"
    options = ("--list-file", list_file, "--batch-images", batch, "--report", page)

    result = invoke(weights, data, tmp_path / "out", *options)

    assert result.exit_code == 1
    assert "5 of 11 images tested. 6 could not be" in main_text(page)
    assert "6 of 11 images could not be tested" in result.stderr
    scores = scores_of(tmp_path / "out")
    assert (scores["num_images"], scores["num_broken"]) == (11, 6)
    assert [entry["image"] for entry in scores["broken"]] == list(errors)
    for entry, part in zip(scores["broken"], errors.values()):
        assert part in entry["error"]
        assert f"left out: {entry['error']}" in result.stderr
    assert scores["confusion"] == scores_of(finished)["confusion"]
    assert {path.stem for path in (tmp_path / "out" / "labels").iterdir()} == set(NAMES)


def test_an_image_that_is_listed_twice_is_broken_twice(weights, data, tmp_path):
    line = f"nowhere.jpg\tVOCdevkit/VOC2012/SegmentationClass/{NAMES[0]}.png\n"
    base = "VOCdevkit/VOC2012"
    sound = f"{base}/JPEGImages/{NAMES[0]}.jpg\t{base}/SegmentationClass/{NAMES[0]}.png\n"
    (tmp_path / "twice.lst").write_text(line + sound + line)
    result = invoke(weights, data, tmp_path / "out", "--list-file", tmp_path / "twice.lst")
    assert result.exit_code == 1
    assert scores_of(tmp_path / "out")["num_broken"] == 2


def test_names_that_are_not_utf8_reach_the_json_and_the_log(weights, data, tmp_path):
    image = b"caf\xe9.jpg"
    line = image + f"\tVOCdevkit/VOC2012/SegmentationClass/{NAMES[0]}.png\n".encode()
    (tmp_path / "latin.lst").write_bytes(line)
    log = tmp_path / "run.log"
    options = ("--list-file", tmp_path / "latin.lst", "--log-file", log)
    result = invoke(weights, data, tmp_path / "out", *options)
    assert result.exit_code == 1
    (entry,) = scores_of(tmp_path / "out")["broken"]
    assert os.fsencode(entry["image"]) == os.fsencode(data) + b"/" + image
    assert "caf\\xe9.jpg" in log.read_text()


def test_a_repaired_image_is_tested_by_resuming(weights, data, finished, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    path = root / "VOCdevkit/VOC2012" / "JPEGImages" / f"{NAMES[2]}.jpg"
    image = path.read_bytes()
    path.write_bytes(b"")
    assert invoke(weights, root, tmp_path / "out").exit_code == 1
    path.write_bytes(image)
    scores = evaluate(weights, root, tmp_path / "out", "--resume")
    assert scores["num_broken"] == 0
    assert scores["confusion"] == scores_of(finished)["confusion"]


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--test-scales", "sixty"), "'sixty': expected whole numbers"),
        (("--test-scales", ""), "expected lengths above 0"),
        (("--test-scales", "0"), "expected lengths above 0"),
        (("--test-scales", "64,64"), "a scale is given twice"),
        (("--test-steps", "0"), "--test-steps"),
        (("--batch-images", "0"), "--batch-images"),
        (("--absent-classes", "never"), "--absent-classes"),
        (("--precision", "int8"), "--precision"),
        (("--resume", "--overwrite"), "exclude each other"),
        (("--gpus", "0", "--cpus", "1"), "exclude each other"),
        (("--json", "nowhere/scores.json"), "there is no folder nowhere"),
        (("--report", "nowhere/page.html"), "there is no folder nowhere"),
        (("--report", "."), ". is a folder: expected the name of a file"),
        (("--list-file", "nowhere.lst"), "does not exist"),
        (("--test-scale-s", "64"), "No such option"),
    ],
    ids=str,
)
def test_wrong_usage_exits_with_status_2(options, message, weights, data, tmp_path):
    result = invoke(weights, data, tmp_path / "out", *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "holiday"), "no 'holiday' split of voc"),
        (("--dataset", "cityscapes"), "name a --dataset that fits"),
        (("--dataset", "vok"), "unknown dataset 'vok'"),
        (("--model", "voc_a1"), "label 'voc_a1'"),
        (("--model", "ilsvrc-cls_rna-a1_cls1000"), "use `ademx evaluate classification`"),
        (("--compile", "--backend", "mxnet"), "--compile: MXNet compiles nothing"),
        (("--gpus", "99"), "--gpus 99: MXNet finds"),
        (("--gpus", "-1"), "--gpus -1: MXNet finds"),
    ],
    ids=str,
)
def test_wrong_requests_exit_with_status_1(options, message, weights, data, tmp_path):
    result = invoke(weights, data, tmp_path / "out", *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_web_page_in_place_of_weights_is_recognised(data, tmp_path):
    page = tmp_path / f"{VOC}_ep-0001.params"
    page.write_text("<!DOCTYPE html><html>gone</html>")
    result = invoke(page, data, tmp_path / "out")
    assert result.exit_code == 1
    assert str(page) in result.stderr and "a web page" in result.stderr


def test_weights_that_do_not_fit_are_listed_in_full(weights, data, tmp_path):
    arg_params, aux_params = params.load(weights)
    del arg_params["res2a_branch1_weight"], aux_params["bn7_moving_mean"]
    arg_params["stray_weight"] = np.zeros((3, 4), np.float32)
    arg_params["conv1a_weight"] = arg_params["conv1a_weight"][:, :1]
    path = tmp_path / weights.name
    params.save(path, arg_params, aux_params)
    result = invoke(path, data, tmp_path / "out")
    assert result.exit_code == 1
    for part in (
        f"{path} does not fit the network",
        "2 missing: ",
        "res2a_branch1_weight",
        "bn7_moving_mean",
        "1 unexpected: stray_weight",
        "1 misshapen: conv1a_weight is (4, 1, 3, 3), expected (4, 3, 3, 3)",
    ):
        assert part in result.stderr


def test_weights_whose_output_is_nan_are_named(weights, data, tmp_path):
    arg_params, aux_params = params.load(weights)
    for name in ("conv6a_weight", "linear21_weight"):
        arg_params[name][:] = 1e38  # too large for sums of it
    path = tmp_path / weights.name
    params.save(path, arg_params, aux_params)
    result = invoke(path, data, tmp_path / "out")
    assert result.exit_code == 1
    assert f"{path}: the network's output is nan or infinite" in result.stderr


def test_weights_of_different_kinds_are_not_averaged(weights, data, tmp_path):
    other = tmp_path / "ade20k_rna-a1_cls150_s8_ep-0001.params"
    other.write_bytes(b"not read")
    result = invoke([weights, other], data, tmp_path / "out")
    assert result.exit_code == 1
    assert "cannot be averaged: dataset is voc in one and ade20k in the other" in result.stderr


def test_weights_under_another_name_need_their_label(weights, data, finished, tmp_path):
    path = tmp_path / "best.params"
    shutil.copy(weights, path)
    result = invoke(path, data, tmp_path / "out")
    assert result.exit_code == 1 and "best.params" in result.stderr
    scores = evaluate(path, data, tmp_path / "out", "--model", VOC)
    assert scores["confusion"] == scores_of(finished)["confusion"]


def test_the_python_interface_gives_the_same_report(weights, data, finished, tmp_path):
    options = SegmentationOptions(
        weights=(weights,), data_root=data, output=tmp_path, test_scales=(64,)
    )
    report = SegmentationTester(options).test()
    assert report.record.confusion == scores_of(finished)["confusion"]
    assert report.record.scores["mean_iou"] == scores_of(finished)["mean_iou"]
    assert report.record.published is None

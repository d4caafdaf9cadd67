"""The commands against what the release computed for two small datasets, at full width."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import make_runner
from fill import fill
from PIL import Image

from ademx import params
from ademx.cli import main
from ademx.models import build_symbol
from ademx.tolerance import PROBABILITY_FACTOR

pytest.importorskip("mxnet")
pytestmark = pytest.mark.full_width

# From golden/README.md: score maps are stored as float16, percentages come from few pixels.
SCORE_TOLERANCE = 2e-3
EQUAL_PIXELS = 0.999
PERCENT_TOLERANCE = 0.05

VOC = {
    "scale160": [],
    "scale160 flip": ["--test-flipping"],
    "scale160 flip steps2": ["--test-flipping", "--test-steps", "2"],
}
ILSVRC = {
    "scale128": ["--test-scales", "128"],
    "scale128 cubic": ["--test-scales", "128", "--no-choose-interp-method"],
    "scale128,96 flip": ["--test-scales", "128,96", "--test-flipping"],
    "scale128 3crops": ["--test-scales", "128", "--test-3crops"],
}


def _write_weights(folder: Path, label: str, statistics: Path) -> Path:
    graph = build_symbol(label)
    shapes, _, _ = graph.infer_shape(data=(1, 3, 224, 224))
    values = {
        name: fill(name, shape, 0)
        for name, shape in zip(graph.list_arguments(), shapes)
        if name not in ("data", "softmax_label")
    }
    for name in values:
        if name.startswith("linear"):
            values[name] *= 8
    with np.load(statistics) as file:
        moving = {name: file[name].astype(np.float32) for name in file.files}
    path = folder / f"{label}_ep-0001.params"
    params.save(path, values, moving)
    return path


@pytest.fixture(scope="module")
def voc_weights(tmp_path_factory, golden):
    path = _write_weights(
        tmp_path_factory.mktemp("voc"), "voc_rna-a1_cls21_s8", golden / "bn_stats_seg_a1.npz"
    )
    yield path
    path.unlink()  # 496 MB: pytest keeps the folders of its last three runs


@pytest.fixture(scope="module")
def ilsvrc_weights(tmp_path_factory, golden):
    path = _write_weights(
        tmp_path_factory.mktemp("ilsvrc"),
        "ilsvrc-cls_rna-a1_cls1000",
        golden / "bn_stats_cls_a1.npz",
    )
    yield path
    path.unlink()


def _evaluate(task: str, *options: object) -> None:
    result = make_runner().invoke(main, ["evaluate", task, "--cpus", "1", *map(str, options)])
    assert result.exit_code == 0, result.output


def test_the_golden_files_hold_the_option_sets_that_are_tested(golden):
    for folder, tested in (("voc_val", VOC), ("ilsvrc_val", ILSVRC)):
        with np.load(golden / folder / "expected.npz") as expected:
            assert {key.split("/")[0] for key in expected} == set(tested)


@pytest.mark.parametrize("options", VOC)
def test_segmentation_agrees_with_the_release(options, voc_weights, golden, tmp_path):
    root = golden / "voc_val"
    _evaluate(
        "segmentation",
        *("--weights", voc_weights, "--data-root", root, "--list-file", root / "val.lst"),
        *("--test-scales", 160, "--absent-classes", "zero", "--save-predictions"),
        *("--batch-images", 3, "--output", tmp_path, *VOC[options]),
    )

    expected = dict(np.load(root / "expected.npz"))
    images = [f"2007_00000{number}" for number in (1, 2, 3)]
    for image in images:
        scores = np.load(tmp_path / "scores" / f"{image}.npz")["scores"]
        wanted = expected[f"{options}/{image}/scores"]
        assert (scores.dtype, scores.shape) == (np.float16, wanted.shape)
        assert np.abs(scores.astype(float) - wanted).max() < SCORE_TOLERANCE
    equal = [
        np.array(Image.open(tmp_path / "labels" / f"{image}.png"))
        == expected[f"{options}/{image}/label"]
        for image in images
    ]
    assert sum(map(np.sum, equal)) >= EQUAL_PIXELS * sum(map(np.size, equal))
    # What ademx.tolerance allows when a published score is judged.
    assert max(np.sum(~image) for image in equal) <= 1
    found = json.loads((tmp_path / "scores.json").read_text())
    np.testing.assert_allclose(
        [found["pixel_accuracy"], found["mean_accuracy"], found["mean_iou"]],
        expected[f"{options}/pixel_acc mean_acc mean_iou"],
        atol=PERCENT_TOLERANCE,
    )


@pytest.mark.parametrize("options", ILSVRC)
def test_classification_agrees_with_the_release(options, ilsvrc_weights, golden, tmp_path):
    root = golden / "ilsvrc_val"
    _evaluate(
        "classification",
        *("--weights", ilsvrc_weights, "--data-root", root, "--list-file", root / "val.lst"),
        *("--batch-images", 4, "--output", tmp_path, *ILSVRC[options]),
    )

    expected = dict(np.load(root / "expected.npz"))
    wanted = {
        key.split("@")[1]: values
        for key, values in expected.items()
        if key.startswith(f"{options}/")
    }
    assert {path.stem for path in (tmp_path / "predictions").iterdir()} == set(wanted)
    for scale, probabilities in wanted.items():
        found = np.load(tmp_path / "predictions" / f"{scale}.npy")
        assert np.abs(found - probabilities).max() < SCORE_TOLERANCE
        assert np.abs(found / probabilities.astype(float) - 1).max() < PROBABILITY_FACTOR

    truth = [5, 42, 79, 116]  # the second column of val.lst
    scores = json.loads((tmp_path / "scores.json").read_text())
    for rank, key in ((1, "top1_error"), (5, "top5_error")):
        for scale, probabilities in wanted.items():
            assert scores["scales"][scale][key] == _error(probabilities, truth, rank)
        assert scores[key] == _error(np.mean(list(wanted.values()), axis=0), truth, rank)


def _error(probabilities: np.ndarray, truth: list[int], rank: int) -> float:
    """Return the top-k error in percent, by sorting."""
    best = np.argsort(probabilities, axis=1)[:, -rank:]
    return 100 - 100 * float(np.mean([label in row for label, row in zip(truth, best)]))

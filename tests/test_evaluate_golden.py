"""The commands against what the release computed for two small datasets, at full width."""

import functools
import itertools
import json
import logging
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from commands import make_runner
from filled import fill
from near_ties import SCORE_TOLERANCE, differ_clearly, saved_scores
from PIL import Image

from ademx import params
from ademx.cli import main
from ademx.convert.files import read_weights
from ademx.devices import Devices
from ademx.engines.mxnet.predict import Predictor
from ademx.engines.onnx.predict import OnnxPredictor
from ademx.labels import parse_label
from ademx.metrics import confusion_matrix, segmentation_scores
from ademx.networks.graph import build_symbol
from ademx.reproduction.tolerance import pixel_tolerances
from ademx.testing.image_counts import ImageCounts, NearTies
from ademx.testing.numerics import PROBABILITY_FACTOR, SCORE_MARGIN
from ademx.testing.score_maps import ScoreResizer, best_class_and_ties, mean_scores
from iters import transforms

pytest.importorskip("mxnet")
pytestmark = pytest.mark.full_width

IMAGES = [f"2007_00000{number}" for number in (1, 2, 3)]

_log = logging.getLogger(__name__)

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


def _evaluate(task: str, backend: str, *options: object) -> None:
    command = ["evaluate", task, "--cpus", "1", "--backend", backend, *map(str, options)]
    result = make_runner().invoke(main, command)
    assert result.exit_code == 0, result.output


def test_the_golden_files_hold_the_option_sets_that_are_tested(golden):
    for folder, tested in (("voc_val", VOC), ("ilsvrc_val", ILSVRC)):
        with np.load(golden / folder / "expected.npz") as expected:
            assert {key.split("/")[0] for key in expected} == set(tested)


@pytest.fixture(scope="module")
def tested_voc(voc_weights, golden, tmp_path_factory):
    """Return a function that tests the VOC images, each way once, and returns the output."""
    root = golden / "voc_val"

    @functools.cache
    def test(options: str, backend: str) -> Path:
        output = tmp_path_factory.mktemp("voc_val")
        _evaluate(
            "segmentation",
            backend,
            *("--weights", voc_weights, "--data-root", root, "--list-file", root / "val.lst"),
            *("--test-scales", 160, "--absent-classes", "zero", "--save-predictions"),
            *("--batch-images", 3, "--output", output, *VOC[options]),
        )
        return output

    return test


@pytest.mark.parametrize("options", VOC)
def test_segmentation_agrees_with_the_release(options, backend, tested_voc, golden):
    root, output = golden / "voc_val", tested_voc(options, backend)
    expected = dict(np.load(root / "expected.npz"))
    confusions = []
    for image in IMAGES:
        scores = np.load(output / "scores" / f"{image}.npz")["scores"]
        wanted = expected[f"{options}/{image}/scores"]
        assert (scores.dtype, scores.shape) == (np.float16, wanted.shape)
        assert np.abs(scores.astype(float) - wanted).max() < SCORE_TOLERANCE
        label = expected[f"{options}/{image}/label"]
        found = np.array(Image.open(output / "labels" / f"{image}.png"))
        enlarged = mean_scores([(resizer_of(label.shape, wanted.shape[1:]), wanted)])
        assert not differ_clearly(found, label, enlarged).any()
        truth = truth_of(root, image)
        confusions.append([confusion_matrix(truth, one, 21) for one in (found, label)])
    # Those of our labels; and of the release's labels those that the release printed.
    found = json.loads((output / "scores.json").read_text())
    theirs = expected[f"{options}/pixel_acc mean_acc mean_iou"]
    ours = [found["pixel_accuracy"], found["mean_accuracy"], found["mean_iou"]]
    for confusion, percent, rounded in zip(
        np.sum(confusions, axis=0), (ours, theirs), (1e-9, 0.005 + 1e-9)
    ):
        scores = segmentation_scores(confusion, absent_classes="zero")
        known = [scores.pixel_accuracy, scores.mean_accuracy, scores.mean_iou]
        np.testing.assert_allclose(known, percent, rtol=0, atol=rounded)


def test_torch_gives_the_same_label_images(tested_voc):
    pytest.importorskip("torch")
    mxnet, torch = (tested_voc("scale160", backend) for backend in ("mxnet", "torch"))
    ours, others = label_images(torch), label_images(mxnet)
    assert ours.keys() == others.keys() == set(IMAGES)
    for image, label in others.items():
        scores = saved_scores(mxnet, image, label.shape, (160,))
        assert not differ_clearly(ours[image], label, scores).any()
    assert len(np.unique(np.concatenate([*map(np.ravel, ours.values())]))) > 1


def label_images(output: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.array(Image.open(path)) for path in (output / "labels").iterdir()}


def resizer_of(size: tuple[int, int], grid: tuple[int, int]) -> ScoreResizer:
    """Return the way of a VOC image's score maps at scale 160."""
    return ScoreResizer(grid, (160, 160), tuple(round(s * 160 / max(size)) for s in size), size)


def truth_of(root: Path, image: str) -> np.ndarray:
    return np.array(Image.open(root / "VOC2012" / "SegmentationClass" / f"{image}.png"))


def test_engines_differ_by_less_than_the_tolerances_allow(voc_weights, golden):
    """The measurement that reproduction.tolerance tells of, as far as this machine can make it.

    `pytest -rP` shows what is measured.
    """
    root, label = golden / "voc_val", parse_label(voc_weights)
    weights = read_weights(voc_weights, label=label)
    images = IMAGES[:2]
    canvases = [canvas_of(root / "VOC2012" / "JPEGImages" / f"{image}.jpg") for image in images]
    truths = [truth_of(root, image) for image in images]
    scores = {}
    for name in ("mxnet", "torch", "onnx"):
        predict = engine(name)(weights, devices=Devices())
        outputs = predict(np.stack(canvases), batch=1)
        sizes = [resizer_of(truth.shape, outputs.shape[2:]) for truth in truths]
        scores[name] = [[(resizer, maps)] for resizer, maps in zip(sizes, outputs)]

    for one, other in itertools.permutations(scores, 2):
        pairs = list(zip(map(mean_scores, scores[one]), map(mean_scores, scores[other])))
        moved = max(change_of_lead(*pair) for pair in pairs)
        ties, first, second = count(scores[one], truths, pairs)
        allowed = pixel_tolerances(ties, absent_classes="skip")
        far = abs(first.mean_iou - second.mean_iou), allowed["mean_iou"]
        _log.warning("%s, %s: %.1e apart, mean IoU %.1g of %.1g", one, other, moved, *far)
        assert moved <= SCORE_MARGIN
        assert far[0] <= far[1]
        accuracies = first.pixel_accuracy, second.pixel_accuracy
        assert abs(accuracies[0] - accuracies[1]) <= allowed["pixel_accuracy"]


def engine(name: str):
    if name == "mxnet":
        return Predictor
    pytest.importorskip("torch" if name == "torch" else "onnxruntime")
    if name == "torch":
        return import_module("ademx.engines.torch.predict").TorchPredictor
    return OnnxPredictor


def canvas_of(image: Path) -> np.ndarray:
    """Return the network's input for an image at scale 160, (3, 160, 160)."""
    resized = transforms.resize_longer(np.array(Image.open(image)), 160)
    return transforms.shifted_canvas(
        transforms.normalize(resized, transforms.RNA),
        canvas=(160, 160),
        stride=8,
        steps=1,
        iy=0,
        ix=0,
    )


def change_of_lead(one: np.ndarray, other: np.ndarray) -> float:
    """Return how far the difference of the best two classes of the first is another one."""
    best = np.argsort(one, axis=0)[-2:]
    leads = [np.diff(np.take_along_axis(scores, best, 0), axis=0) for scores in (one, other)]
    return float(np.abs(leads[0] - leads[1]).max())


def count(parts, truths, pairs):
    """Return what a run counts of one engine's scores, and the scores of both engines' labels."""
    rows, counts, matrices = [np.empty((0, 5), np.int64)], [], []
    for index, (part, truth, pair) in enumerate(zip(parts, truths, pairs)):
        _, ties = best_class_and_ties(part, truth, margin=SCORE_MARGIN)
        rows.append(np.insert(ties, 0, index, axis=1))
        matrices.append([confusion_matrix(truth, scores.argmax(0), 21) for scores in pair])
        confusion = matrices[-1][0]
        counts.append([confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)])
    near = NearTies(SCORE_MARGIN, np.concatenate(rows))
    scores = [segmentation_scores(m, absent_classes="skip") for m in np.sum(matrices, axis=0)]
    return ImageCounts(tuple(IMAGES[: len(counts)]), np.array(counts), near), *scores


@pytest.mark.parametrize("options", ILSVRC)
def test_classification_agrees_with_the_release(options, backend, ilsvrc_weights, golden, tmp_path):
    root = golden / "ilsvrc_val"
    _evaluate(
        "classification",
        backend,
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

"""The fully connected CRF: against plain mean-field updates, and as a user of `--crf` sees it."""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import run_evaluate
from PIL import Image

from ademx.data.drawn.make import make_dataset
from ademx.errors import MissingDependency
from ademx.testing import crf
from ademx.testing.crf import CrfParameters, parse_crf_parameters, refine
from iters.datasets import DATASETS

LIBRARY = "pydensecrf2, which --crf needs, is not installed"

# ---- what is computed --------------------------------------------------------------------------


def kernel(features):
    """Return the Gaussian kernel of all pairs of rows, symmetrically normalised, (N, N)."""
    distances = np.square(features[:, None] - features[None]).sum(-1)
    weights = np.exp(-distances / 2)
    norms = np.sqrt(weights.sum(1))
    return weights / norms[:, None] / norms[None]


def mean_field(probabilities, image, parameters):
    """Return what exact mean-field updates make of (C, H, W) probabilities: every pair counts."""
    num_classes, height, width = probabilities.shape
    places = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2)
    colours = image.reshape(-1, 3).astype(float)
    near = kernel(places / parameters.gaussian_xy)
    alike = np.hstack([places / parameters.bilateral_xy, colours / parameters.bilateral_rgb])
    pairs = parameters.gaussian_weight * near + parameters.bilateral_weight * kernel(alike)
    logarithms = np.log(np.clip(probabilities, 1e-5, 1)).reshape(num_classes, -1).astype(float)
    beliefs = np.exp(logarithms) / np.exp(logarithms).sum(0)
    for _ in range(parameters.iterations):
        gains = np.exp(logarithms + beliefs @ pairs)
        beliefs = gains / gains.sum(0)
    return beliefs.reshape(probabilities.shape)


def noisy_example(height=20, width=30, num_classes=4):
    """Return probabilities that are right by blocks and noisy by pixels, and a drawn image."""
    rng = np.random.default_rng(0)
    blocks = 1.5 * rng.standard_normal((num_classes, height // 5, width // 5))
    logits = blocks.repeat(5, 1).repeat(5, 2) + rng.standard_normal((num_classes, height, width))
    probabilities = np.exp(logits) / np.exp(logits).sum(0)
    image = np.where(np.arange(width)[:, None] < 13, (90, 120, 60), (200, 80, 90))
    image = image + rng.normal(0, 2, (height, width, 3))
    return probabilities.astype(np.float32), image.round().astype(np.uint8)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gaussian_weight": 0.0},
        {"bilateral_weight": 0.0},
        {"bilateral_xy": 20.0, "bilateral_rgb": 20.0},
        {"gaussian_xy": 3.0},
    ],
    ids=str,
)
def test_an_update_is_that_of_the_exact_sums(changes):
    pytest.importorskip("pydensecrf", reason=LIBRARY)
    probabilities, image = noisy_example()
    parameters = dataclasses.replace(CrfParameters(iterations=1), **changes)
    found = refine(probabilities, image, parameters)
    # The lattice interpolates the kernels: each sum over the pairs is right to some percent.
    difference = np.abs(found - mean_field(probabilities, image, parameters))
    assert difference.mean() < 0.006 and difference.max() < 0.12
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    # Half as much weight again is further away than that.
    for name in ("bilateral_weight", "gaussian_weight"):
        if getattr(parameters, name):
            other = dataclasses.replace(parameters, **{name: 1.5 * getattr(parameters, name)})
            others = np.abs(found - mean_field(probabilities, image, other))
            assert others.mean() > 2 * difference.mean()


def test_ten_updates_find_the_classes_of_the_exact_sums():
    pytest.importorskip("pydensecrf", reason=LIBRARY)
    probabilities, image = noisy_example()
    found = refine(probabilities, image, CrfParameters()).argmax(0)
    exact = mean_field(probabilities, image, CrfParameters()).argmax(0)
    assert (found == exact).mean() > 0.97
    assert (probabilities.argmax(0) == exact).mean() < 0.85


def test_borders_move_to_those_of_the_image():
    pytest.importorskip("pydensecrf", reason=LIBRARY)
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:80, :96]
    truth = (np.square(y - 37) + np.square(x - 50) < 26**2).astype(int)
    image = np.array([(60, 90, 200), (200, 120, 60)])[truth] + rng.normal(0, 3, (80, 96, 3))
    # What a network of output stride 16 that is a little unsure would say.
    blocks = truth.reshape(5, 16, 6, 16).mean((1, 3))
    disc = np.array(Image.fromarray(blocks.astype(np.float32)).resize((96, 80), Image.BICUBIC))
    probabilities = 0.9 * np.stack([1 - disc, disc]) + 0.05
    before = probabilities.copy()

    refined = refine(probabilities, image.astype(np.uint8), CrfParameters())

    np.testing.assert_array_equal(probabilities, before)
    assert (before.argmax(0) == truth).mean() < 0.98
    assert (refined.argmax(0) == truth).mean() > 0.999


def test_the_same_picture_gives_the_same_bits_and_may_be_read_only():
    pytest.importorskip("pydensecrf", reason=LIBRARY)
    probabilities, image = noisy_example()
    image.flags.writeable = probabilities.flags.writeable = False
    first, second = (refine(probabilities, image, CrfParameters()) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_an_image_of_another_shape_is_refused():
    probabilities, image = noisy_example()
    with pytest.raises(ValueError, match=r"uint8 of shape \(19, 30, 3\), expected uint8 of shape"):
        refine(probabilities, image[:-1], CrfParameters())
    with pytest.raises(ValueError, match="image: found float64"):
        refine(probabilities, image / 255, CrfParameters())


# ---- its parameters ----------------------------------------------------------------------------


def test_parameters_are_read_by_name():
    found = parse_crf_parameters("bilateral_weight=5, iterations=3,")
    assert found == CrfParameters(bilateral_weight=5.0, iterations=3)
    assert parse_crf_parameters("") == CrfParameters()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weight=3", "'weight=3': expected NAME=VALUE, each name once, of bilateral_weight, bilat"),
        ("iterations", "'iterations': expected NAME=VALUE"),
        ("iterations=2,iterations=3", "'iterations=3': expected NAME=VALUE, each name once"),
        ("iterations=2.5", "iterations=2.5: expected a whole number"),
        ("gaussian_xy=wide", "gaussian_xy=wide: expected a number"),
        ("gaussian_xy=0", "gaussian_xy=0.0: expected above 0"),
        ("iterations=0", "iterations=0: expected above 0"),
        ("bilateral_weight=-1", "bilateral_weight=-1.0: expected 0 or more"),
        ("bilateral_rgb=nan", "bilateral_rgb=nan: expected above 0"),
    ],
)
def test_parameters_that_cannot_be_are_refused(text, message):
    with pytest.raises(ValueError, match=f"--crf-params {message}"):
        parse_crf_parameters(text)


@pytest.fixture
def without_library(monkeypatch):
    """Make the import of the library fail, as where it is not installed."""
    for name in ("pydensecrf", "pydensecrf.densecrf"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("without_library")
def test_a_missing_library_is_named_with_its_command():
    with pytest.raises(MissingDependency, match=r"run `pip install 'ademx\[crf\]'`"):
        crf.import_crf_library()


# ---- the command -------------------------------------------------------------------------------

NAMES = [f"2007_{number:06d}" for number in (3, 4)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "voc"
    make_dataset("voc", root, images={"train": 2, "val": 2})
    return root


invoke = partial(run_evaluate, "segmentation")


def evaluate(weights: Path, data: Path, output: Path, *options: object) -> dict:
    result = invoke(weights, data, output, *options)
    assert result.exit_code == 0, result.stderr
    return json.loads((output / "scores.json").read_text())


def labels(output: Path) -> np.ndarray:
    images = [Image.open(output / "labels" / f"{name}.png") for name in NAMES]
    return np.concatenate([np.array(image).ravel() for image in images])


def test_the_averaged_scores_are_refined_at_the_original_size(weights, data, tmp_path):
    """Two scales: the maps that Pillow makes of the saved scores, averaged, and then refined."""
    pytest.importorskip("pydensecrf", reason=LIBRARY)
    scores = evaluate(
        weights, data, tmp_path / "crf", "--crf", "--save-predictions", "--test-scales", "96,64"
    )
    expected = []
    for name in NAMES:
        image = Image.open(data / "VOCdevkit/VOC2012/JPEGImages" / f"{name}.jpg")
        saved = np.load(tmp_path / "crf" / "scores" / f"{name}.npz")
        maps = [_by_pillow(saved[f"scores@{scale}"], scale, image.size) for scale in (96, 64)]
        refined = refine(np.mean(maps, axis=0), np.array(image), CrfParameters())
        expected.append(refined.argmax(0).ravel())
    agreement = (labels(tmp_path / "crf") == np.concatenate(expected)).mean()
    assert agreement > 0.98  # the saved scores are rounded to float16, which updates may enlarge
    evaluate(weights, data, tmp_path / "plain", "--test-scales", "96,64")
    assert (labels(tmp_path / "plain") == np.concatenate(expected)).mean() < agreement - 0.05
    assert scores["settings"]["crf"] == dataclasses.asdict(CrfParameters())
    assert "crf" not in json.loads((tmp_path / "plain" / "scores.json").read_text())["settings"]


def _by_pillow(scores: np.ndarray, scale: int, size: tuple[int, int]) -> np.ndarray:
    width, height = (round(scale * side / max(size)) for side in size)
    grows = size[0] > width and size[1] > height
    assert grows  # the drawn images are larger than both scales
    maps = []
    for one in scores.astype(np.float32):
        canvas = Image.fromarray(one).resize((scale, scale), Image.BICUBIC)
        maps.append(np.array(canvas.crop((0, 0, width, height)).resize(size, Image.BICUBIC)))
    return np.array(maps)


def test_a_run_is_resumed_with_the_same_parameters_alone(weights, data, tmp_path):
    pytest.importorskip("pydensecrf", reason=LIBRARY)
    options = ("--crf", "--crf-params", "iterations=1")
    first = evaluate(weights, data, tmp_path, *options)
    for others, message in (
        ((), "--crf was bilateral_weight=4.0"),
        (("--crf", "--crf-params", "iterations=2"), ",iterations=2; choose"),
    ):
        result = invoke(weights, data, tmp_path, *others, "--resume")
        assert result.exit_code == 1
        assert "cannot resume" in result.stderr and message in result.stderr
    assert (
        evaluate(weights, data, tmp_path, *options, "--resume")["class_iou"] == first["class_iou"]
    )


def test_nothing_published_stands_beside_refined_scores(weights, data, tmp_path, monkeypatch):
    pytest.importorskip("pydensecrf", reason=LIBRARY)
    (tmp_path / "one.lst").write_text(
        "VOCdevkit/VOC2012/JPEGImages/2007_000003.jpg\t"
        "VOCdevkit/VOC2012/SegmentationClass/2007_000003.png\n"
    )
    whole = dataclasses.replace(DATASETS["voc"], splits={"val": 1})
    monkeypatch.setitem(DATASETS, "voc", whole)
    published = ("--list-file", tmp_path / "one.lst", "--test-scales", 500, "--test-flipping")
    result = invoke(weights, data, tmp_path / "out", *published, "--crf")
    assert result.exit_code == 0
    assert "published" not in result.stdout
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["published"] is None


@pytest.mark.usefixtures("without_library")
def test_without_the_library_nothing_is_computed(weights, data, tmp_path):
    result = invoke(weights, data, tmp_path / "out", "--crf")
    assert result.exit_code == 1
    assert "Error: --crf needs pydensecrf2" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crf-params", "iterations=2"), "--crf-params has no effect without --crf"),
        (("--crf", "--crf-params", "rounds=2"), "'rounds=2': expected NAME=VALUE"),
        (("--crf", "--crf-params", "iterations=0"), "iterations=0: expected above 0"),
    ],
    ids=str,
)
def test_wrong_usage_exits_with_status_2(options, message, weights, data, tmp_path):
    result = invoke(weights, data, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()

"""Score maps against Pillow, step by step, and argmax of the whole."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ademx.testing.score_maps import (
    ScoreResizer,
    best_class,
    best_class_and_ties,
    mean_scores,
    resampling_matrix,
)

PILLOW_FILTERS = {
    "bilinear": Image.BILINEAR,
    "bicubic": Image.BICUBIC,
    "lanczos": Image.LANCZOS,
}
# Pillow rounds to float32 after every pass; values are of order 1.
ROUNDING = 2e-6

# Grid, canvas, resized image, original image: VOC-like and Cityscapes-like, odd sizes.
CHAINS = {
    "same": ((20, 20), (160, 160), (97, 160), (97, 160)),
    "grows": ((20, 20), (160, 160), (97, 160), (123, 201)),
    "shrinks": ((20, 20), (160, 160), (97, 160), (60, 99)),
    "only the height differs": ((20, 20), (160, 160), (97, 160), (98, 160)),
    "only the width differs": ((20, 20), (160, 160), (97, 160), (97, 155)),
    "one grows, one shrinks": ((20, 20), (160, 160), (160, 117), (150, 120)),
    "two steps": ((26, 42), (104, 168), (101, 163), (101, 163)),
    "more than a tile": ((40, 140), (160, 1120), (155, 1111), (99, 1031)),
    "tiny": ((1, 1), (8, 8), (3, 5), (7, 2)),
}


def chain(name):
    return ScoreResizer(**dict(zip(("grid", "canvas", "image", "original"), CHAINS[name])))


def random_scores(num_classes, grid, seed=0):
    logits = 3 * np.random.default_rng(seed).standard_normal((num_classes, *grid))
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(0)).astype(np.float32)


def pillow_resize(score_map, size, filter_name):
    image = Image.fromarray(score_map).resize(size[::-1], PILLOW_FILTERS[filter_name])
    return np.asarray(image)


def by_pillow(resizer, scores):
    """Enlarge, cut and resize every map step by step as the release does."""
    (height, width), original = resizer.image, resizer.original
    if original[0] < height and original[1] < width:
        name = "lanczos"
    elif original[0] > height and original[1] > width:
        name = "bicubic"
    else:
        name = "bilinear"
    maps = [pillow_resize(one, resizer.canvas, "bicubic")[:height, :width] for one in scores]
    if original != resizer.image:
        maps = [pillow_resize(np.ascontiguousarray(one), original, name) for one in maps]
    return np.array(maps)


def assert_best(labels, scores, tolerance):
    """Assert that of (C, H, W) scores none is higher by more than that than the chosen class's."""
    chosen = np.take_along_axis(scores, labels[None].astype(int), 0)[0]
    assert (scores.max(0) - chosen).max() <= tolerance


@settings(deadline=None, max_examples=200)
@given(
    size_in=st.integers(1, 70),
    size_out=st.integers(1, 90),
    filter_name=st.sampled_from(sorted(PILLOW_FILTERS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_resampling_matrix_is_pillows(size_in, size_out, filter_name, seed):
    line = np.random.default_rng(seed).standard_normal((3, size_in)).astype(np.float32)
    matrix = resampling_matrix(size_in, size_out, filter_name)
    assert matrix.shape == (size_out, size_in)
    across = pillow_resize(line, (3, size_out), filter_name)
    np.testing.assert_allclose(line @ matrix.T, across, atol=ROUNDING)
    down = pillow_resize(np.ascontiguousarray(line.T), (size_out, 3), filter_name)
    np.testing.assert_allclose(matrix @ line.T, down, atol=ROUNDING)


def test_a_line_of_as_many_pixels_stays_as_it_is():
    np.testing.assert_array_equal(resampling_matrix(5, 5, "lanczos"), np.eye(5))


def test_doubling_by_the_bilinear_filter_worked_by_hand():
    # Output pixels lie at 0.25, 0.75, … of input pixels whose centres are 0.5, 1.5.
    np.testing.assert_allclose(
        resampling_matrix(2, 4, "bilinear"), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    )


@pytest.mark.parametrize("name", CHAINS)
def test_resize_is_pillows_chain(name):
    resizer = chain(name)
    scores = random_scores(4, resizer.grid)
    resized = mean_scores([(resizer, scores)])
    assert (resized.dtype, resized.shape) == (np.float32, (4, *resizer.original))
    np.testing.assert_allclose(resized, by_pillow(resizer, scores), atol=ROUNDING)


@pytest.mark.parametrize("name", CHAINS)
def test_best_class_is_argmax_of_pillows_chain(name):
    resizer = chain(name)
    scores = random_scores(11, resizer.grid, seed=1)
    before = scores.copy()
    labels = best_class([(resizer, scores)])
    assert labels.dtype == np.uint8
    assert_best(labels, by_pillow(resizer, scores), ROUNDING)
    np.testing.assert_array_equal(scores, before)


def test_a_chosen_filter_replaces_the_rule():
    resizer = ScoreResizer((20, 20), (160, 160), (97, 160), (60, 99), filter_name="bicubic")
    scores = random_scores(2, (20, 20))
    cut = [pillow_resize(one, (160, 160), "bicubic")[:97].copy() for one in scores]
    expected = [pillow_resize(one, (60, 99), "bicubic") for one in cut]
    np.testing.assert_allclose(mean_scores([(resizer, scores)]), expected, atol=ROUNDING)
    assert np.abs(mean_scores([(chain("shrinks"), scores)]) - expected).max() > 1e-3


def test_several_parts_are_averaged():
    original = (123, 201)
    parts = [
        (ScoreResizer((20, 20), (160, 160), (98, 160), original), random_scores(9, (20, 20), 1)),
        (ScoreResizer((16, 26), (128, 208), (127, 208), original), random_scores(9, (16, 26), 2)),
        (ScoreResizer((40, 40), (320, 320), (196, 320), original), random_scores(9, (40, 40), 3)),
    ]
    mean = np.mean([by_pillow(resizer, scores) for resizer, scores in parts], axis=0)
    assert_best(best_class(parts), mean, ROUNDING)
    with pytest.raises(AssertionError):
        assert_best(best_class(parts[:1]), mean, 0.1)
    found = mean_scores(parts)
    assert (found.dtype, found.shape) == (np.float32, (9, *original))
    np.testing.assert_allclose(found, mean, atol=ROUNDING)


@pytest.mark.parametrize(("num_classes", "dtype"), [(256, np.uint8), (300, np.uint16)])
def test_many_classes_fit_the_label(num_classes, dtype):
    resizer = ScoreResizer((5, 6), (10, 12), (10, 12), (10, 12))
    scores = random_scores(num_classes, (5, 6))
    scores[-1, 0, 0] = 2
    labels = best_class([(resizer, scores)])
    assert labels.dtype == dtype
    assert labels[0, 0] == num_classes - 1
    np.testing.assert_array_equal(labels, mean_scores([(resizer, scores)]).argmax(0))


def test_of_equal_classes_the_lowest_wins():
    resizer = chain("grows")
    scores = np.repeat(random_scores(3, (20, 20)), 2, axis=0)  # 0 and 1, 2 and 3, 4 and 5
    labels = best_class([(resizer, scores)])
    assert set(np.unique(labels)) == {0, 2, 4}


@pytest.mark.parametrize("num_classes", [255, 256, 257, 512, 513])
def test_the_first_of_all_classes_wins_where_all_are_equal(num_classes):
    """However the classes that share a pixel are counted, it must hold as many as there are."""
    resizer = ScoreResizer((2, 3), (4, 6), (4, 6), (4, 6))
    scores = np.ones((num_classes, 2, 3))
    assert not best_class([(resizer, scores)]).any()
    _, ties = best_class_and_ties([(resizer, scores)], np.zeros((4, 6), int), margin=1e-3)
    assert ties.tolist() == [[0, 0, rival, 4 * 6] for rival in range(1, num_classes)]
    scores[1:, 0, 0] = 2  # all but the first
    assert best_class([(resizer, scores)])[0, 0] == 1


@pytest.mark.parametrize("num_parts", [1, 3])
@pytest.mark.parametrize("name", ["grows", "more than a tile", "tiny"])
def test_rivals_are_those_that_a_sort_of_the_whole_finds(name, num_parts):
    """Counted one by one from the maps at full size, with void in the truth."""
    resizer, margin = chain(name), 0.02
    parts = [(resizer, random_scores(6, resizer.grid, seed)) for seed in range(num_parts)]
    truth = np.random.default_rng(9).integers(0, 7, resizer.original).astype(np.uint8)
    truth[truth == 6] = 255
    labels, ties = best_class_and_ties(parts, truth, margin=margin)
    np.testing.assert_array_equal(labels, best_class(parts))
    behind = mean_scores(parts).max(0) - mean_scores(parts)
    expected = Counter()
    for rival in range(6):
        near = (truth < 6) & (labels != rival) & (behind[rival] < margin)
        expected.update((*pair, rival) for pair in zip(truth[near].tolist(), labels[near].tolist()))
    undecided = (np.abs(behind - margin) < ROUNDING)[:, truth < 6].sum()
    found = Counter({tuple(tie[:3]): tie[3] for tie in ties.tolist()})
    assert sum(((found - expected) + (expected - found)).values()) <= undecided
    assert ties.tolist() == sorted(ties.tolist()) and (ties[:, 3] > 0).all()
    assert name == "tiny" or len(found) > 90  # of 6·6·5, 3 rivals in a pixel among them


def test_where_no_score_differs_every_class_is_a_rival():
    resizer, truth = chain("shrinks"), np.ones((60, 99), np.uint8)
    labels, ties = best_class_and_ties([(resizer, np.ones((3, 20, 20)))], truth, margin=1e-3)
    best, sizes = np.unique(labels, return_counts=True)
    assert ties[:, 3].sum() == 2 * 60 * 99
    for one, size in zip(best, sizes):
        assert (ties[ties[:, 1] == one, 3] == size).all()


def test_a_truth_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"truth: found shape \(60, 98\), expected \(60, 99\)"):
        best_class_and_ties(
            [(chain("shrinks"), random_scores(3, (20, 20)))], np.zeros((60, 98), int), margin=1e-3
        )


@pytest.mark.parametrize("image", ["2007_000001", "2007_000002", "2007_000003"])
@pytest.mark.parametrize("run", ["scale160", "scale160 flip", "scale160 flip steps2"])
def test_the_release_labelled_the_same_pixels(golden, run, image):
    with np.load(golden / "voc_val" / "expected.npz") as expected:
        label, scores = expected[f"{run}/{image}/label"], expected[f"{run}/{image}/scores"]
    resized = tuple(round(side * 160 / max(label.shape)) for side in label.shape)
    resizer = ScoreResizer(scores.shape[1:], (160, 160), resized, label.shape)
    # The scores were rounded to float16 after the release had labelled with them: a pixel whose
    # two best classes are that close, below a half each, may fall to either. Enlarging adds
    # weights whose absolute values sum to up to 1.3 an axis.
    rounding = 2 * 2**-13 * 1.3**2
    assert_best(label, mean_scores([(resizer, scores)]), rounding)
    assert_best(best_class([(resizer, scores)]), mean_scores([(resizer, scores)]), ROUNDING)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"image: found \(161, 160\), expected to fit the canvas"):
        ScoreResizer((20, 20), (160, 160), (161, 160), (161, 160))
    with pytest.raises(ValueError, match=r"grid: found \(0, 20\), expected a height and width"):
        ScoreResizer((0, 20), (160, 160), (97, 160), (97, 160))
    with pytest.raises(ValueError, match=r"scores: found shape \(3, 20, 21\), expected \(C, "):
        mean_scores([(chain("same"), np.zeros((3, 20, 21)))])
    with pytest.raises(ValueError, match="filter: found 'cubic', expected one of bilinear, bic"):
        resampling_matrix(3, 4, "cubic")
    with pytest.raises(ValueError, match="sizes: found 3 and 0"):
        resampling_matrix(3, 0, "bicubic")


def test_parts_that_do_not_fit_are_refused():
    scores = random_scores(3, (20, 20))
    with pytest.raises(ValueError, match="parts: found none"):
        best_class([])
    with pytest.raises(ValueError, match=r"at \(60, 99\), 3 classes at \(97, 160\), expected"):
        best_class([(chain("same"), scores), (chain("shrinks"), scores)])
    with pytest.raises(ValueError, match=r"2 classes at \(97, 160\), 3 classes"):
        best_class([(chain("same"), scores), (chain("same"), scores[:2])])
    with pytest.raises(ValueError, match="scores: found nan or infinity"):
        best_class([(chain("same"), scores * np.nan)])
    with pytest.raises(ValueError, match="parts: found none"):
        mean_scores([])

"""Tolerances against every way in which near ties can fall, and near ties counted by hand."""

import dataclasses
import itertools

import numpy as np
import pytest

from ademx.metrics import segmentation_scores
from ademx.reproduction.tolerance import (
    Tolerance,
    pixel_tolerances,
    rounding,
    tie_tolerances,
)
from ademx.testing.image_counts import ImageCounts, NearTies
from ademx.testing.numerics import PROBABILITY_FACTOR, SCORE_MARGIN


def counts_of(confusions: list[np.ndarray], ties: list[tuple[int, ...]] = ()) -> ImageCounts:
    """Return what a run counted; ties are image, true class, best class, rival, pixels."""
    counts = [[c.diagonal(), c.sum(axis=1), c.sum(axis=0)] for c in confusions]
    rows = np.array(ties, np.int64).reshape(-1, 5)
    names = tuple(map(str, range(len(counts))))
    return ImageCounts(names, np.array(counts, np.int64), NearTies(SCORE_MARGIN, rows))


def scores_of(confusion: np.ndarray, absent_classes: str) -> np.ndarray:
    found = segmentation_scores(confusion, absent_classes=absent_classes)
    return np.array([found.pixel_accuracy, found.mean_iou])


def largest_changes(
    confusions: list[np.ndarray], ties: list[tuple[int, ...]], absent_classes: str
) -> dict[str, float]:
    """Return how far the scores move at most, with any of each tie's pixels moved."""
    whole = sum(confusions)
    changes = np.zeros(2)
    for moves in itertools.product(*(range(tie[4] + 1) for tie in ties)):
        moved = whole.copy()
        for (_, truth, best, rival, _), pixels in zip(ties, moves):
            moved[truth, best] -= pixels
            moved[truth, rival] += pixels
        change = scores_of(moved, absent_classes) - scores_of(whole, absent_classes)
        changes = np.maximum(changes, np.abs(change))
    return dict(zip(("pixel_accuracy", "mean_iou"), changes))


def random_run(seed: int, *, classes: int, most: int, num_ties: int):
    """Return matrices of two images, and a few ties among their pixels."""
    rng = np.random.default_rng(seed)
    confusions = [rng.integers(0, most, (classes, classes)) for _ in range(2)]
    for confusion in confusions:
        confusion += np.diag(rng.integers(0, 4 * most, classes))
        confusion[:, rng.integers(classes)] *= rng.integers(0, 2)  # some never occur
        confusion[rng.integers(classes)] *= rng.integers(0, 2)
        confusion[0, 0] += 1
    ties = []
    for image, confusion in enumerate(confusions):
        for cell in rng.permutation(np.flatnonzero(confusion))[:num_ties]:
            truth, best = divmod(int(cell), classes)
            rival = int(rng.choice([c for c in range(classes) if c != best]))
            ties.append((image, truth, best, rival, int(min(confusion[truth, best], 2))))
    return confusions, ties


@pytest.mark.parametrize("absent_classes", ["skip", "zero"])
@pytest.mark.parametrize("seed", range(15))
def test_no_fall_of_near_ties_changes_more(seed, absent_classes):
    most = (2, 5, 40)[seed % 3]
    confusions, ties = random_run(seed, classes=3 + seed % 2, most=most, num_ties=3)
    tried = largest_changes(confusions, ties, absent_classes)
    bound = pixel_tolerances(counts_of(confusions, ties), absent_classes=absent_classes)
    assert bound["pixel_accuracy"] == pytest.approx(tried["pixel_accuracy"])
    assert tried["mean_iou"] <= bound["mean_iou"] + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_is_exact_where_one_of_two_classes_is_the_true_one(seed):
    """Then all classes can be at their ends together: every move is a good or a bad one."""
    confusions, ties = random_run(seed, classes=4, most=40, num_ties=5)
    confusions = [confusion + 8 for confusion in confusions]
    ties = [tie for tie in ties if tie[1] in tie[2:4]]
    tried = largest_changes(confusions, ties, "skip")
    bound = pixel_tolerances(counts_of(confusions, ties), absent_classes="skip")
    assert ties and bound == pytest.approx(tried)


def test_a_bound_worked_by_hand():
    """One image, [[6, 2], [1, 11]]; t, u: class 0 6, 9, class 1 11, 14.

    Near a tie are two of the 6 (true class 0, rival 1) and one of the 2 (rival: the true class).
    Downwards: 4/9 and 11/16 instead of 6/9 and 11/14. Upwards: 7/9 and 11/13.
    """
    images = counts_of([np.array([[6, 2], [1, 11]])], [(0, 0, 0, 1, 2), (0, 0, 1, 0, 1)])
    down, up = 2 / 9 + 11 / 14 - 11 / 16, 1 / 9 + 11 / 13 - 11 / 14
    bound = pixel_tolerances(images, absent_classes="zero")
    assert bound["mean_iou"] == pytest.approx(100 * max(down, up) / 2)
    assert bound["pixel_accuracy"] == pytest.approx(100 * 2 / 20)


@pytest.mark.parametrize(
    ("stray", "tie"), [(0, (0, 0, 0, 2, 1)), (1, (0, 0, 2, 0, 1))], ids=["joins", "leaves"]
)
def test_a_class_without_truth_that_joins_or_leaves_the_mean(stray, tie):
    """Class 2 is in no label. A single pixel decides whether its IoU of 0 counts."""
    confusion = np.array([[60, 2, stray], [1, 60, 0], [0, 0, 0]])
    tried = largest_changes([confusion], [tie], "skip")["mean_iou"]
    images = counts_of([confusion], [tie])
    assert tried > 25  # a third or a half of about 95
    assert pixel_tolerances(images, absent_classes="skip")["mean_iou"] == pytest.approx(tried)
    assert pixel_tolerances(images, absent_classes="zero")["mean_iou"] < 2


def test_pixels_with_several_rivals_widen_the_bound_and_do_not_break_it():
    """Each of the 3 right pixels of class 0 has both others for rivals; none is lost twice."""
    confusion = np.array([[3, 0, 0], [0, 5, 0], [0, 0, 5]])
    images = counts_of([confusion], [(0, 0, 0, 1, 3), (0, 0, 0, 2, 3)])
    bound = pixel_tolerances(images, absent_classes="skip")
    assert bound["pixel_accuracy"] == pytest.approx(100 * 3 / 13)
    assert bound["mean_iou"] == pytest.approx(100 * (1 + 2 * (1 - 5 / 8)) / 3)


def test_a_run_without_near_ties_cannot_move():
    bound = pixel_tolerances(counts_of([np.array([[6, 2], [1, 11]])]), absent_classes="skip")
    assert bound == {"pixel_accuracy": 0, "mean_iou": 0}


def test_images_without_labels_count_for_nothing():
    empty = np.zeros((2, 2), int)
    whole, tie = np.array([[6, 2], [1, 11]]), (0, 0, 0, 1, 2)
    alone = pixel_tolerances(counts_of([whole], [tie]), absent_classes="skip")
    assert pixel_tolerances(counts_of([whole, empty], [tie]), absent_classes="skip") == alone
    nothing = pixel_tolerances(counts_of([empty]), absent_classes="skip")
    assert all(np.isnan(value) for value in nothing.values())


@pytest.mark.parametrize("margin", [None, SCORE_MARGIN / 2])
def test_a_run_that_did_not_look_for_near_ties_has_no_tolerance(margin):
    images = counts_of([np.array([[6, 2], [1, 11]])])
    ties = None if margin is None else dataclasses.replace(images.near_ties, margin=margin)
    older = dataclasses.replace(images, near_ties=ties)
    assert images.has_near_ties and not older.has_near_ties
    with pytest.raises(ValueError, match=r"expected a run that counted near ties within 0\.0002"):
        pixel_tolerances(older, absent_classes="skip")


def test_near_ties():
    """f is 4.2e-4: a true class within 8.4e-4 of its rival, relative, may go either way."""
    probabilities = np.array(
        [
            [0.50000, 0.49985, 0.00015],  # right by 3e-4: may be missed
            [0.50000, 0.49950, 0.00050],  # right by 1e-3: is safe
            [0.49990, 0.50000, 0.00010],  # missed by 2e-4: may be right
            [0.50000, 0.49990, 0.00010],  # the truth is the third: far off
            [0.4, 0.4, 0.2],  # a tie
        ]
    )
    truth = np.array([0, 0, 0, 2, 1])
    # top-1: not missed and near: rows 0 and 4; missed and near: rows 2 and 4.
    # top-2: the rival is the second best of the others: near nowhere (row 3: 0.0001 to 0.4999).
    assert tie_tolerances(probabilities, truth, ks=(1, 2, 3)) == {
        "top1_error": 40.0,
        "top2_error": 0.0,
        "top3_error": 0.0,
    }


def test_ties_are_relative_to_the_probability():
    """In a sure network the fifth best has next to nothing; it is no tie for that."""
    probabilities = np.array([[0.99, 6e-3, 2e-3, 1e-3, 6e-4, 4e-4]])
    assert tie_tolerances(probabilities, np.array([4]))["top5_error"] == 0
    probabilities[0, 4:] = 5e-4, 5e-4 * (1 - 3e-4)
    assert tie_tolerances(probabilities, np.array([4]))["top5_error"] == 100


def test_no_move_of_the_probabilities_changes_more_errors():
    """Every probability moved by the measured factor, up or down, on close ones."""
    rng = np.random.default_rng(0)
    probabilities = 0.2 + 3e-4 * rng.random((40, 4))
    truth = rng.integers(0, 4, 40)
    own = probabilities[np.arange(40), truth]
    allowed = tie_tolerances(probabilities, truth, ks=(1,))["top1_error"]

    def error(factor):
        moved = probabilities * (2 - factor)
        moved[np.arange(40), truth] = own * factor
        return 100 * np.mean(moved.argmax(axis=1) != truth)

    for factor in (1 - 0.99 * PROBABILITY_FACTOR, 1 + 0.99 * PROBABILITY_FACTOR):
        assert 0 < abs(error(factor) - error(1)) <= allowed


def test_rounding_and_text():
    assert rounding(2) == pytest.approx(0.005) and rounding(1) == pytest.approx(0.05)
    tolerance = Tolerance(0.005, 0.0123, "pixels")
    assert tolerance.total == pytest.approx(0.0173)
    assert str(tolerance) == "±0.005 rounding, ±0.012 pixels"

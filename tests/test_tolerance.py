"""Tolerances against every way in which pixels can change, and near ties counted by hand."""

import itertools

import numpy as np
import pytest

from ademx.image_counts import ImageCounts
from ademx.metrics import segmentation_scores
from ademx.tolerance import Tolerance, pixel_tolerances, rounding, tie_tolerances


def counts_of(confusions: list[np.ndarray]) -> ImageCounts:
    counts = [[c.diagonal(), c.sum(axis=1), c.sum(axis=0)] for c in confusions]
    return ImageCounts(tuple(map(str, range(len(counts)))), np.array(counts, np.int64))


def one_pixel_moves(confusion: np.ndarray) -> list[np.ndarray]:
    """Return the matrix as it is, and with a pixel of any cell in any other cell of its row."""
    classes = range(len(confusion))
    moved = [confusion]
    for truth, old, new in itertools.product(classes, classes, classes):
        if old != new and confusion[truth, old]:
            change = np.zeros_like(confusion)
            change[truth, old], change[truth, new] = -1, 1
            moved.append(confusion + change)
    return moved


def largest_changes(confusions: list[np.ndarray], absent_classes: str) -> dict[str, float]:
    """Return how far the scores move at most, tried out."""

    def scores(confusion):
        found = segmentation_scores(confusion, absent_classes=absent_classes)
        return np.array([found.pixel_accuracy, found.mean_iou])

    totals = {
        tuple(sum(moved).ravel()) for moved in itertools.product(*map(one_pixel_moves, confusions))
    }
    size = confusions[0].shape
    moved = np.array([scores(np.reshape(total, size)) for total in totals])
    changes = np.abs(moved - scores(sum(confusions))).max(axis=0)
    return dict(zip(("pixel_accuracy", "mean_iou"), changes))


def random_confusions(seed: int, *, classes: int, images: int, most: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, most, (classes, classes)) for _ in range(images)]
    for confusion in found:
        confusion += np.diag(rng.integers(0, 4 * most, classes))
        confusion[:, rng.integers(classes)] *= rng.integers(0, 2)  # some never occur
        confusion[rng.integers(classes)] *= rng.integers(0, 2)
        confusion[0, 0] += 1
    return found


@pytest.mark.parametrize("absent_classes", ["skip", "zero"])
@pytest.mark.parametrize("seed", range(12))
def test_no_change_of_a_pixel_an_image_is_larger(seed, absent_classes):
    most = (2, 5, 40)[seed % 3]
    confusions = random_confusions(seed, classes=3, images=2, most=most)
    tried = largest_changes(confusions, absent_classes)
    bound = pixel_tolerances(counts_of(confusions), absent_classes=absent_classes)
    assert bound["pixel_accuracy"] == pytest.approx(tried["pixel_accuracy"])
    assert tried["mean_iou"] <= bound["mean_iou"] + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_close_where_all_classes_are_there(seed):
    confusions = [c + 8 for c in random_confusions(seed, classes=4, images=2, most=40)]
    tried = largest_changes(confusions, "skip")["mean_iou"]
    bound = pixel_tolerances(counts_of(confusions), absent_classes="skip")["mean_iou"]
    assert tried <= bound <= 1.3 * tried


def test_a_bound_worked_by_hand():
    """One image, [[6, 2], [1, 11]].

    Class 0: t 6, u 9; class 1: t 11, u 14; IoU 2/3 and 11/14. Downwards: a pixel of class 0 lost
    (1/9) and one added to class 1 (11/(14·15)) or 0 (6/(9·10)), the latter weighs more. Upwards:
    v is u less one pixel (each class has wrong ones in the one image): 1/8 won by class 0 and
    6/(9·8) by dropping from it.
    """
    down, up = 1 / 9 + 6 / 90, 1 / 8 + 6 / 72
    bound = pixel_tolerances(counts_of([np.array([[6, 2], [1, 11]])]), absent_classes="zero")
    assert bound["mean_iou"] == pytest.approx(100 * max(down, up) / 2)
    assert bound["pixel_accuracy"] == pytest.approx(100 / 20)


@pytest.mark.parametrize("stray", [0, 1], ids=["joins", "leaves"])
def test_a_class_without_truth_that_joins_or_leaves_the_mean(stray):
    """Class 2 is in no label. A single pixel decides whether its IoU of 0 counts."""
    confusion = np.array([[60, 2, stray], [1, 60, 0], [0, 0, 0]])
    tried = largest_changes([confusion], "skip")["mean_iou"]
    bound = pixel_tolerances(counts_of([confusion]), absent_classes="skip")["mean_iou"]
    assert 25 < tried <= bound <= 1.1 * tried  # a third or a half of about 95
    assert pixel_tolerances(counts_of([confusion]), absent_classes="zero")["mean_iou"] < 2


def test_a_class_of_few_images_cannot_change_in_the_others():
    """Class 1 is in one of a hundred images: of its pixels one can be lost, not a hundred."""
    plain, rare = np.diag([1000, 0]), np.diag([980, 20])
    bound = pixel_tolerances(counts_of([plain] * 99 + [rare]), absent_classes="skip")
    # lost: 1/20 of class 1, 99/99,980 of class 0; added: all hundred to class 1, linearly.
    expected = (1 / 20 + 99 / 99_980 + 100 * 20 / (20 * 21)) / 2
    assert bound["mean_iou"] == pytest.approx(100 * expected)


def test_images_without_labels_count_for_nothing():
    empty = np.zeros((2, 2), int)
    whole = np.array([[6, 2], [1, 11]])
    alone = pixel_tolerances(counts_of([whole]), absent_classes="skip")
    assert pixel_tolerances(counts_of([whole, empty]), absent_classes="skip") == alone
    nothing = pixel_tolerances(counts_of([empty]), absent_classes="skip")
    assert all(np.isnan(value) for value in nothing.values())


def test_near_ties():
    """f is 2e-4: a true class within 4e-4 of its rival, relative, may go either way."""
    probabilities = np.array(
        [
            [0.50000, 0.49985, 0.00015],  # right by 3e-4: may be missed
            [0.50000, 0.49970, 0.00030],  # right by 6e-4: is safe
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

    for factor in (1 - 1.99e-4, 1 + 1.99e-4):
        assert 0 < abs(error(factor) - error(1)) <= allowed


def test_rounding_and_text():
    assert rounding(2) == pytest.approx(0.005) and rounding(1) == pytest.approx(0.05)
    tolerance = Tolerance(0.005, 0.0123, "pixels")
    assert tolerance.total == pytest.approx(0.0173)
    assert str(tolerance) == "±0.005 rounding, ±0.012 pixels"

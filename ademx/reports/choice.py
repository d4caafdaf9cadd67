"""Which images of a run a report shows: the worst, the best, and some of every class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from ademx.errors import InputError
from ademx.iteration import spread
from ademx.metrics import likeliest
from ademx.testing.finished_runs import mean_probabilities
from ademx.testing.image_counts import load_image_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ademx.testing.record import Report

_ENDS = 12  # images at either end of the order
_UNRANKED = 24  # images of a split without labels
_NUM_GUESSES = 5


class SegmentationImages:
    """The tested images of a segmentation run, ranked by their mean IoU.

    Attributes:
        samples: the images.
        ranks: (N,) float64, higher is better; nan where nothing is known.

    Args:
        run: of a segmentation network.

    Raises:
        FileNotFoundError, ValueError: see :func:`ademx.testing.image_counts.load_image_counts`; or
            its classes are not the dataset's.
    """

    def __init__(self, run: Report) -> None:
        if not run.has_labels:
            self.samples = run.samples
            self._iou = np.empty((len(run.samples), 0))
            self.ranks = np.full(len(run.samples), np.nan)
            return
        images = load_image_counts(run.folder)
        if images.counts.shape[2] != run.dataset.num_classes:
            raise InputError(
                f"{run.folder}: images.npz counts {images.counts.shape[2]} classes, but "
                f"{run.dataset.name} has {run.dataset.num_classes}"
            )
        rows = {name: row for row, name in enumerate(images.names)}
        self.samples = [sample for sample in run.samples if sample.name in rows]
        kept = [rows[sample.name] for sample in self.samples]
        self._iou = images.class_iou()[kept]
        self._counts = images.counts[kept]
        self.ranks = images.mean_iou()[kept]

    def of_classes(self) -> list[NDArray[np.intp]]:
        """Return, for each class, its images by its IoU; of equals the one with more of it.

        They are those that have it in truth or prediction.
        """
        found = []
        for number in range(self._iou.shape[1]):
            rows = np.flatnonzero(~np.isnan(self._iou[:, number]))
            pixels = self._counts[rows, 1:, number].sum(axis=1)
            found.append(rows[np.lexsort((-pixels, self._iou[rows, number]))])
        return found

    def facts(self, index: int) -> dict[str, Any]:
        """Return, as JSON has it, what the page says of an image.

        That is the mean IoU, and [class, IoU, pixels of truth, pixels predicted] of each class.
        """
        present = np.flatnonzero(~np.isnan(self._iou[index]))
        return {
            "score": _json_number(self.ranks[index]),
            "classes": [
                [
                    int(number),
                    round(float(self._iou[index, number]), 2),
                    *self._counts[index, 1:, number].tolist(),
                ]
                for number in present
            ],
        }


class ClassificationImages:
    """The tested images of a classification run, ranked by the lead of the true class.

    The lead is the probability of the true class less that of the likeliest other one, percent:
    below 0 for a mistake, and lowest for the one that the network is surest of.

    Attributes:
        samples: the images.
        ranks: (N,) float, higher is better; nan where nothing is known.
        truth: (N,) class ids; empty where the split has no labels.
        guesses: (N,) the likeliest class.

    Args:
        run: of a classifier.

    Raises:
        FileNotFoundError, ValueError: the probabilities are missing or not this run's.
    """

    def __init__(self, run: Report) -> None:
        scales, num_classes = run.record.settings.test_scales, run.dataset.num_classes
        found = mean_probabilities(run.folder, scales, shape=(len(run.samples), num_classes))
        tested = np.flatnonzero(~np.isnan(found).any(axis=1))
        self.samples = [run.samples[row] for row in tested]
        labels = [sample.label for sample in self.samples] if run.has_labels else []
        self.truth = np.array(labels, np.intp)
        self._probabilities = found[tested]
        self.guesses = likeliest(self._probabilities, num=1)[:, 0]
        self._of_truth = self.ranks = np.full(len(self.samples), np.nan)
        if self.truth.size:
            at = np.arange(len(self.truth)), self.truth
            of_truth = self._probabilities[at]
            self._probabilities[at] = -np.inf
            of_others = self._probabilities.max(axis=1)
            self._probabilities[at] = of_truth
            self._of_truth, self.ranks = 100.0 * of_truth, 100.0 * (of_truth - of_others)

    def of_classes(self) -> list[NDArray[np.intp]]:
        """Return, for each class, the images that are of it or taken for it, by their lead."""
        if not self.truth.size:
            return []
        order = np.argsort(self.ranks, kind="stable")
        truth, guesses = self.truth[order], self.guesses[order]
        return [
            order[(truth == number) | (guesses == number)]
            for number in range(self._probabilities.shape[1])
        ]

    def facts(self, index: int) -> dict[str, Any]:
        """Return the true class, its probability and lead, and [class, percent] of five guesses."""
        probabilities = self._probabilities[[index]]
        best = likeliest(probabilities, num=_NUM_GUESSES)[0].tolist()
        truth = [int(self.truth[index])] if self.truth.size else []
        return {
            "score": _json_number(self._of_truth[index]),
            "lead": _json_number(self.ranks[index]),
            "truth": truth[0] if truth else None,
            "guesses": [
                [number, round(100 * float(probabilities[0, number]), 2)] for number in best
            ],
            "classes": [[number] for number in dict.fromkeys([*truth, best[0]])],
        }


RunImages = Union[SegmentationImages, ClassificationImages]


@dataclass(frozen=True)
class HardClass:
    """A class that a classifier gets wrong.

    Attributes:
        number: its class id.
        num_images: how many of it were tested.
        error: how many of them it misses at the first guess, percent.
        taken_for: the most frequent wrong guess; None where there is none.
    """

    number: int
    num_images: int
    error: float
    taken_for: int | None


def hardest_classes(images: ClassificationImages, *, at_most: int) -> list[HardClass]:
    """Return the classes with the highest top-1 error, highest first, of equals the larger."""
    found = []
    for number in np.unique(images.truth).tolist():
        guesses = images.guesses[images.truth == number]
        wrong = guesses[guesses != number]
        taken_for = int(np.bincount(wrong).argmax()) if wrong.size else None
        error = 100 * wrong.size / guesses.size
        found.append(HardClass(number, guesses.size, error, taken_for))
    return sorted(found, key=lambda one: (-one.error, -one.num_images))[:at_most]


def choose(images: RunImages, *, at_most: int) -> dict[int, str]:
    """Return the images to show: the worst, the best, and for each class at least one.

    Beyond those, each class's worst two and best one are added while there is room.

    Args:
        images: a run's.
        at_most: how many to show; the ends of the order and one for each class are always there.

    Returns:
        Index among the images -> "worst", "best", "sample" where nothing tells good from bad, or
        "" for an image that is there for the sake of a class.
    """
    known = np.flatnonzero(~np.isnan(images.ranks))
    if not known.size:
        return dict.fromkeys(spread(range(len(images.samples)), at_most=_UNRANKED), "sample")
    order = known[np.argsort(images.ranks[known], kind="stable")].tolist()
    num_worst = min(_ENDS, (len(order) + 1) // 2)
    num_best = min(_ENDS, len(order) - num_worst)
    chosen = dict.fromkeys(order[:num_worst], "worst")
    chosen.update(dict.fromkeys(order[::-1][:num_best], "best"))
    of_classes = [rows.tolist() for rows in images.of_classes()]
    for rows in of_classes:
        if rows and not chosen.keys() & set(rows):
            chosen[rows[0]] = ""
    for place in (0, 1, -1):
        for rows in of_classes:
            if len(chosen) < at_most and rows and len(rows) > place:
                chosen.setdefault(rows[place], "")
    return chosen


def _json_number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)

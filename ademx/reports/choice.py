"""Which images of a run a report shows: the worst, the best, and some of every class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.arrays import DAMAGED_ARRAYS
from ademx.errors import InputError, MissingFile
from ademx.metrics import likeliest
from ademx.testing.image_counts import load_image_counts
from iters.samples import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ademx.reports.runs import RunToShow

_ENDS = 12  # images at either end of the order
_UNRANKED = 24  # images of a split without labels
_NUM_GUESSES = 5
_ROWS = 4096  # of probabilities that are read at once


@dataclass(frozen=True)
class Chosen:
    """An image to show.

    Attributes:
        index: position among the run's images.
        group: "worst", "best", "sample" where nothing tells good from bad, or "" for an image
            that is there for the sake of a class.
    """

    index: int
    group: str


class RunImages(ABC):
    """The tested images of a run.

    Attributes:
        samples: the images.
        ranks: (N,) float64, higher is better; nan where nothing is known.
    """

    samples: Sequence[Sample]
    ranks: NDArray[np.float64]

    @abstractmethod
    def of_classes(self) -> list[NDArray[np.intp]]:
        """Return, for each class, the images that have it in truth or prediction, worst first."""

    @abstractmethod
    def facts(self, index: int) -> dict[str, Any]:
        """Return what the page says of an image, as JSON has it."""


class SegmentationImages(RunImages):
    """The images of a segmentation run, ranked by their mean IoU.

    Args:
        run: of a segmentation network.

    Raises:
        FileNotFoundError, ValueError: see :func:`ademx.testing.image_counts.load_image_counts`; or
            its classes are not the dataset's.
    """

    def __init__(self, run: RunToShow) -> None:
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
        """Return, for each class, its images by its IoU; of equals the one with more of it."""
        found = []
        for number in range(self._iou.shape[1]):
            rows = np.flatnonzero(~np.isnan(self._iou[:, number]))
            pixels = self._counts[rows, 1:, number].sum(axis=1)
            found.append(rows[np.lexsort((-pixels, self._iou[rows, number]))])
        return found

    def facts(self, index: int) -> dict[str, Any]:
        """Return the mean IoU, and [class, IoU, pixels of truth, pixels predicted] of each."""
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


class ClassificationImages(RunImages):
    """The images of a classification run, ranked by the lead of the true class.

    The lead is the probability of the true class less that of the likeliest other one, percent:
    below 0 for a mistake, and lowest for the one that the network is surest of.

    Attributes:
        truth: (N,) class ids; empty where the split has no labels.
        guesses: (N,) the likeliest class.

    Args:
        run: of a classifier.

    Raises:
        FileNotFoundError, ValueError: the probabilities are missing or not this run's.
    """

    def __init__(self, run: RunToShow) -> None:
        self._scales = [_open_probabilities(path, run) for path in _probability_files(run)]
        tested = np.zeros(len(run.samples), bool)
        guesses = np.zeros(len(run.samples), np.intp)
        of_truth, of_others = (np.full(len(run.samples), np.nan) for _ in range(2))
        for first in range(0, len(run.samples), _ROWS):
            rows = np.arange(first, min(first + _ROWS, len(run.samples)))
            probabilities = self._probabilities(rows)
            tested[rows] = ~np.isnan(probabilities).any(axis=1)
            guesses[rows] = likeliest(probabilities, num=1)[:, 0]
            if run.has_labels:
                truth = np.array([run.samples[row].label for row in rows], np.intp)
                at = np.arange(len(rows)), truth
                of_truth[rows] = 100 * probabilities[at]
                probabilities[at] = -np.inf
                of_others[rows] = 100 * probabilities.max(axis=1)
        self._rows = np.flatnonzero(tested)
        self.samples = [run.samples[row] for row in self._rows]
        self.guesses = guesses[self._rows]
        self.ranks = (of_truth - of_others)[self._rows]
        self._of_truth = of_truth[self._rows]
        labels = [sample.label for sample in self.samples] if run.has_labels else []
        self.truth = np.array(labels, np.intp)
        self._num_classes = run.dataset.num_classes

    def of_classes(self) -> list[NDArray[np.intp]]:
        """Return, for each class, the images that are of it or taken for it, by their lead."""
        if not self.truth.size:
            return []
        order = np.argsort(self.ranks, kind="stable")
        truth, guesses = self.truth[order], self.guesses[order]
        return [
            order[(truth == number) | (guesses == number)] for number in range(self._num_classes)
        ]

    def facts(self, index: int) -> dict[str, Any]:
        """Return the true class, its probability and lead, and [class, percent] of five guesses."""
        probabilities = self._probabilities(self._rows[[index]])
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

    def _probabilities(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the mean over the scales, (len(rows), classes)."""
        mean: NDArray[np.float32] = np.mean([scale[rows] for scale in self._scales], axis=0)
        return mean


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


def choose(images: RunImages, *, at_most: int) -> list[Chosen]:
    """Return the images to show: the worst, the best, and for each class at least one.

    Beyond those, each class's worst two and best one are added while there is room.

    Args:
        images: a run's.
        at_most: how many to show; the ends of the order and one for each class are always there.
    """
    known = np.flatnonzero(~np.isnan(images.ranks))
    if not known.size:
        return [Chosen(index, "sample") for index in _spread(len(images.samples))]
    order = known[np.argsort(images.ranks[known], kind="stable")].tolist()
    num_worst = min(_ENDS, (len(order) + 1) // 2)
    num_best = min(_ENDS, len(order) - num_worst)
    chosen = {index: Chosen(index, "worst") for index in order[:num_worst]}
    best = order[::-1][:num_best]
    chosen.update({index: Chosen(index, "best") for index in best})
    of_classes = [rows.tolist() for rows in images.of_classes()]
    for rows in of_classes:
        if rows and not chosen.keys() & set(rows):
            chosen[rows[0]] = Chosen(rows[0], "")
    for place in (0, 1, -1):
        for rows in of_classes:
            if len(chosen) < at_most and rows and len(rows) > place:
                chosen.setdefault(rows[place], Chosen(rows[place], ""))
    return list(chosen.values())


def _spread(count: int) -> list[int]:
    """Return indices that lie evenly over a split, or all of a small one."""
    number = min(count, _UNRANKED)
    return [index * count // number for index in range(number)]


def _probability_files(run: RunToShow) -> list[Path]:
    scales = run.record.settings.test_scales
    files = [run.folder / "predictions" / f"{scale}.npy" for scale in scales]
    if not files:
        raise MissingFile(f"{run.folder}: scores.json names no test scale")
    return files


def _open_probabilities(path: Path, run: RunToShow) -> NDArray[np.float32]:
    expected = (len(run.samples), run.dataset.num_classes)
    try:
        rows: NDArray[np.float32] = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file") from None
    except DAMAGED_ARRAYS as error:
        raise InputError(f"{path}: not an array of probabilities: {error}") from None
    if rows.shape != expected:
        raise InputError(f"{path}: its shape is {rows.shape}, expected {expected}")
    if rows.dtype.kind != "f":
        raise InputError(f"{path}: holds {rows.dtype}, expected probabilities")
    return rows


def _json_number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)

"""What finished test runs found, read back from their folders, whole or for some of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.errors import InputError, MissingFile
from ademx.files import DAMAGED_ARRAYS
from ademx.metrics import MAIN_METRICS, likeliest, percent, ranks_of_truth, scores_of_counts
from ademx.testing.image_counts import load_image_counts, load_image_labels
from ademx.testing.record import RunRecord, read_record
from iters.datasets import DATASETS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RANKS = (1, 5)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of `ademx evaluate` on a split with labels, with its N tested images.

    Attributes:
        folder: its `--output`.
        record: of its `scores.json`.
        names: of the images.
        class_names: a name for each of the C classes.
        truth: what is known of each image's truth: (N, C) pixels of each class, or (N, 1) classes.
        counts: what was counted in each image, int64: (N, 3, C) as in
            :class:`ademx.testing.image_counts.ImageCounts`, or (N, 2), 1 where the true class is
            not the likeliest, and not among the five likeliest.
        image_scores: (N,) percent, more is better: the mean IoU, nan for an image without truth,
            or the probability of the true class.
        guesses: (N,) int64, the likeliest class of each image; None for segmentation.
    """

    folder: Path
    record: RunRecord
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    truth: NDArray[np.int64]
    counts: NDArray[np.int64]
    image_scores: NDArray[np.float64]
    guesses: NDArray[np.int64] | None

    @property
    def task(self) -> str:
        """Either "classification" or "segmentation"."""
        return "segmentation" if self.guesses is None else "classification"

    def scores(self, sums: NDArray[Any]) -> dict[str, float]:
        """Return the scores that as many images with such sums of counts have.

        Args:
            sums: (3, C) or (2,) whole numbers.

        Returns:
            Percent, by the names that the scores have in `scores.json`.
        """
        if self.task == "classification":
            errors = percent(sums, len(self.names))
            return {f"top{rank}_error": float(error) for rank, error in zip(_RANKS, errors)}
        return scores_of_counts(*sums, absent_classes=self.record.absent_classes).overall

    def class_scores(self) -> NDArray[np.float64]:
        """Return the IoU or the top-1 error of each class, (C,) percent, nan if not counted."""
        if self.task == "classification":
            wrong, labels, size = self.counts[:, 0], self.truth[:, 0], len(self.class_names)
            return percent(np.bincount(labels, wrong, size), np.bincount(labels, None, size))
        rule = self.record.absent_classes
        scores = scores_of_counts(*self.counts.sum(axis=0), absent_classes=rule)
        return np.array(scores.class_iou)

    def prediction(self, index: int) -> str | None:
        """Return the class guessed for an image, or its label image's path, None without one."""
        if self.guesses is not None:
            return self.class_names[int(self.guesses[index])]
        path = self.folder / "labels" / f"{self.names[index]}.png"
        return str(path) if path.is_file() else None

    def true_class(self, index: int) -> str | None:
        """Return the true class of an image that was classified."""
        return None if self.guesses is None else self.class_names[int(self.truth[index, 0])]

    def subset(self, indices: Sequence[int]) -> FinishedRun:
        """Return the run with these of its images alone, in this order."""
        return replace(
            self,
            names=tuple(self.names[index] for index in indices),
            truth=self.truth[indices],
            counts=self.counts[indices],
            image_scores=self.image_scores[indices],
            guesses=None if self.guesses is None else self.guesses[indices],
        )


def load_run(folder: Path) -> FinishedRun:
    """Return the run whose results a folder holds.

    Raises:
        FileNotFoundError: the folder or a file that a finished run has is missing.
        ValueError: it holds something else, the results of a split without labels, or a damaged
            file.
    """
    record = read_record(folder)
    if record.scores.keys().isdisjoint(MAIN_METRICS.values()):
        raise InputError(
            f"{folder}: split {record.settings.split!r} was tested without labels: "
            "there are no scores to compare; name runs on a split with labels"
        )
    is_segmented = record.settings.command == "evaluate segmentation"
    run = (_load_segmentation if is_segmented else _load_classification)(folder, record)
    scores = run.scores(run.counts.sum(axis=0))
    recorded = [record.scores[name] for name in scores]
    if not np.allclose(list(scores.values()), recorded, rtol=1e-9, equal_nan=True):
        raise _not_of_one_run(folder)
    return run


def _not_of_one_run(folder: Path) -> InputError:
    return InputError(
        f"{folder}: images.npz and scores.json are not of the same run: go on with it by "
        "`ademx evaluate … --resume`, which writes both"
    )


def _load_segmentation(folder: Path, record: RunRecord) -> FinishedRun:
    images = load_image_counts(folder)
    classes = record.class_iou or {}
    confusion = np.array(record.confusion or [], object)
    if images.counts.shape[2] != len(classes) or confusion.shape not in (
        (0,),
        (len(classes), len(classes)),
    ):
        raise _not_of_one_run(folder)
    return FinishedRun(
        folder=folder,
        record=record,
        names=images.names,
        class_names=tuple(classes),
        truth=images.counts[:, 1],
        counts=images.counts,
        image_scores=images.mean_iou(),
        guesses=None,
    )


def _load_classification(folder: Path, record: RunRecord) -> FinishedRun:
    images = load_image_labels(folder)
    probabilities = mean_probabilities(folder, record.settings.test_scales)
    if len(probabilities) != len(images.names):
        raise InputError(
            f"{folder}: {len(probabilities)} rows of predictions for {len(images.names)} images: "
            "the files are not of the same run"
        )
    tested = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
    probabilities, labels = probabilities[tested], images.labels[tested]
    if len(labels) and not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        raise _not_of_one_run(folder)
    class_names = _class_names(record, probabilities.shape[1])
    if len(class_names) != probabilities.shape[1]:
        raise _not_of_one_run(folder)
    ranks = ranks_of_truth(probabilities, labels)
    return FinishedRun(
        folder=folder,
        record=record,
        names=tuple(images.names[index] for index in tested),
        class_names=class_names,
        truth=labels[:, None],
        counts=np.stack([ranks >= rank for rank in _RANKS], axis=1).astype(np.int64),
        image_scores=100.0 * np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0],
        guesses=likeliest(probabilities, num=1)[:, 0],
    )


def _class_names(record: RunRecord, num_classes: int) -> tuple[str, ...]:
    """Return the classes' names, made of their numbers where a dataset has none."""
    dataset = record.settings.dataset
    names: tuple[str, ...] = ()
    if isinstance(dataset, Mapping):  # of one's own
        names = tuple(map(str, dataset.get("classes", ())))
    elif dataset in DATASETS:
        names = DATASETS[dataset].class_names
    return names or tuple(f"class {index}" for index in range(num_classes))


def mean_probabilities(
    folder: Path, scales: Sequence[int], *, shape: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Return the mean over the scales, (N, C), as the run had it; nan where one has none.

    Args:
        folder: the run's.
        scales: that were tested.
        shape: (N, C) where that is known.

    Raises:
        FileNotFoundError: a scale's file is missing, or there is no scale.
        ValueError: a file is damaged, or holds something else.
    """
    if not scales:
        raise MissingFile(f"{folder}: scores.json names no test scale")
    total: NDArray[np.float32] = np.zeros((), np.float32)
    for scale in scales:
        path = folder / "predictions" / f"{scale}.npy"
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            if rows.ndim != 2 or rows.dtype.kind != "f":
                raise InputError(f"found {rows.dtype} of shape {rows.shape}")
            if shape not in (None, rows.shape):
                raise InputError(f"its shape is {rows.shape}, expected {shape}")
            total = total + rows
        except FileNotFoundError:
            raise MissingFile(f"{path}: no such file") from None
        except DAMAGED_ARRAYS as error:
            raise InputError(f"{path}: not what `ademx evaluate` wrote: {error}") from None
    return total / len(scales)

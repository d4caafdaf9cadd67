"""Scores of predictions: confusion matrices, accuracies, intersection over union, top-k errors.

Everything here is numpy on counts, so that a score can be worked out again anywhere. Results
are in percent. What happens to ignored pixels and absent classes is said where it matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ademx.errors import InputError
from ademx.text import first_few

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

ABSENT_CLASSES = ("skip", "zero")
# The score of a task that counts most.
MAIN_METRICS = {"segmentation": "mean_iou", "classification": "top1_error"}

_BYTES = 256  # values of uint8
_CHUNK = 1 << 17  # pixels counted at once; what numpy makes of them (1 MiB) stays in the cache


def better_direction(metric: str) -> int:
    """Return 1 for a score of which more is better, -1 for an error."""
    return -1 if metric.endswith("_error") else 1


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a segmentation, in percent.

    Attributes:
        pixel_accuracy: correct among the labelled pixels; nan where no pixel is labelled.
        mean_accuracy: mean of `class_accuracy`, without its nan.
        mean_iou: mean of `class_iou`, without its nan.
        class_accuracy: per class, correct among the pixels of its truth.
        class_iou: per class, intersection over union of truth and prediction.
        absent_classes: how absent classes were counted, one of :data:`ABSENT_CLASSES`.
    """

    pixel_accuracy: float
    mean_accuracy: float
    mean_iou: float
    class_accuracy: tuple[float, ...]
    class_iou: tuple[float, ...]
    absent_classes: str

    @property
    def overall(self) -> dict[str, float]:
        """The three scores that are not of one class, by name."""
        names = ("pixel_accuracy", "mean_accuracy", "mean_iou")
        return {name: getattr(self, name) for name in names}


def confusion_matrix(
    label: NDArray[np.integer],
    prediction: NDArray[np.integer],
    num_classes: int,
    ignore: int = 255,
) -> NDArray[np.int64]:
    """Return how many pixels of each true class were given each class.

    Pixels whose label is `ignore` are left out, whatever was predicted there. The fast path is
    that of two uint8 images.

    Args:
        label: true classes, any shape and integer dtype.
        prediction: predicted classes, same shape, any integer dtype.
        num_classes: number of classes C; they are 0 to C - 1.
        ignore: label of the pixels that do not count.

    Returns:
        (C, C) int64; rows are truth, columns prediction.

    Raises:
        ValueError: shapes differ, an array does not hold integers, or a value that counts is
            not a class.
    """
    label, prediction = np.asarray(label), np.asarray(prediction)
    _check_images(label, prediction, num_classes)
    if label.dtype == prediction.dtype == np.uint8 and num_classes <= _BYTES:
        return _confusion_of_bytes(label, prediction, num_classes, ignore)
    counted = label != ignore
    label, prediction = label[counted], prediction[counted]
    for name, values in (("label", label), ("prediction", prediction)):
        strays = (values < 0) | (values >= num_classes)
        if strays.any():
            found, times = np.unique(values[strays], return_counts=True)
            _check_classes(name, found, times, num_classes)
    pairs = label.astype(np.intp) * num_classes + prediction.astype(np.intp)
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64, copy=False)


def segmentation_scores(
    confusion: NDArray[np.integer], *, absent_classes: str = "skip"
) -> SegmentationScores:
    """Return the scores of a confusion matrix.

    With "skip", as the Cityscapes tool does: a class that is neither in the truth nor predicted
    has no IoU (nan) and is left out of the mean. A class without truth that is predicted
    somewhere has IoU 0 and does count. A class without truth has no accuracy (nan).

    With "zero", as the release does: a class without truth has accuracy 0 and IoU 0, and the
    means run over all classes.

    A matrix without any pixel gives nan for the pixel accuracy, and for the means with "skip".

    Args:
        confusion: (C, C), rows are truth, as of :func:`confusion_matrix`; several images add up.
        absent_classes: "skip" or "zero".

    Raises:
        ValueError: the matrix is not square, counts are negative, or `absent_classes` is unknown.

    Source: ademxapp:issegm/voc.py, ScoreUpdater; cityscapesscripts' pixel-level evaluation.
    """
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or confusion.size == 0:
        raise InputError(f"confusion: found shape {confusion.shape}, expected (C, C)")
    if (confusion < 0).any():
        raise InputError("confusion: found negative counts, expected numbers of pixels")
    return scores_of_counts(
        np.diagonal(confusion), confusion.sum(1), confusion.sum(0), absent_classes=absent_classes
    )


def scores_of_counts(
    correct: NDArray[np.number],
    truth: NDArray[np.number],
    predicted: NDArray[np.number],
    *,
    absent_classes: str,
) -> SegmentationScores:
    """Return the scores that :func:`segmentation_scores` has for a confusion matrix's sums.

    Args:
        correct: (C,), the diagonal; whole numbers, as all three.
        truth: (C,), the sums of the rows.
        predicted: (C,), the sums of the columns.
        absent_classes: "skip" or "zero".

    Raises:
        ValueError: `absent_classes` is unknown.
    """
    if absent_classes not in ABSENT_CLASSES:
        raise InputError(
            f"absent_classes: found {absent_classes!r}, expected one of {', '.join(ABSENT_CLASSES)}"
        )
    pixel_accuracy = float(percent(correct.sum(), truth.sum()))
    if absent_classes == "zero":
        # Release: one pixel that was never correct stands in for an absent class's truth.
        truth = np.where(truth == 0, 1, truth)
    accuracy = percent(correct, truth)
    iou = intersection_over_union(correct, truth, predicted)
    return SegmentationScores(
        pixel_accuracy=pixel_accuracy,
        mean_accuracy=float(mean_of_known(accuracy)),
        mean_iou=float(mean_of_known(iou)),
        class_accuracy=tuple(accuracy.tolist()),
        class_iou=tuple(iou.tolist()),
        absent_classes=absent_classes,
    )


def intersection_over_union(
    correct: NDArray[np.number], truth: NDArray[np.number], predicted: NDArray[np.number]
) -> NDArray[np.float64]:
    """Return the IoU of numbers of pixels, all of one shape, in percent; nan where all are 0."""
    return percent(correct, truth + predicted - correct)


def topk_errors(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    ks: Sequence[int] = (1, 5),
) -> dict[int, float]:
    """Return, for each k, how many images miss their class among the k likeliest, in percent.

    Of equally likely classes the one with the higher index ranks first, as in a stable ascending
    sort read from its end. (The release sorts that way with numpy's default sort, which promises
    no order of equals; the two agree wherever no equals lie across the k-th place.) With k at
    or above the number of classes no image is missed. Without images the errors are nan.

    Args:
        probabilities: (N, C) float, one row an image; any monotonous scores do.
        labels: (N,) integer, the true classes.
        ks: the ranks that still count.

    Raises:
        ValueError: shapes do not fit, a probability is nan, a label is not a class, or k < 1.

    Source: ademxapp:iclass/ilsvrc.py.
    """
    if any(k < 1 for k in ks):
        raise InputError(f"ks: found {tuple(ks)}, expected ranks from 1 on")
    ranks = ranks_of_truth(probabilities, labels)
    return {int(k): float(percent((ranks >= k).sum(), len(labels))) for k in ks}


def ranks_of_truth(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Return how many classes rank before each image's true one, (N,) int64, as in the errors.

    Args:
        probabilities: (N, C) float, one row an image.
        labels: (N,) integer, the true classes.

    Raises:
        ValueError: shapes do not fit, a probability is nan, or a label is not a class.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    _check_classification(probabilities, labels)
    of_truth = np.take_along_axis(probabilities, labels[:, None].astype(np.intp), axis=1)
    later = np.arange(probabilities.shape[1]) > labels[:, None]
    ranks: NDArray[np.int64] = (
        (probabilities > of_truth) | ((probabilities == of_truth) & later)
    ).sum(1)
    return ranks


def likeliest(probabilities: NDArray[np.floating], *, num: int) -> NDArray[np.intp]:
    """Return the likeliest classes of each image, (N, num), the first first, as in the errors.

    Args:
        probabilities: (N, C) float, one row an image.
        num: how many, up to C.
    """
    backwards = probabilities[:, ::-1]
    if num == 1:  # much faster than sorting
        best = backwards.argmax(axis=1)[:, None]
    else:
        best = np.argsort(-backwards, axis=1, kind="stable")[:, :num]
    classes: NDArray[np.intp] = probabilities.shape[1] - 1 - best
    return classes


def _confusion_of_bytes(
    label: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int, ignore: int
) -> NDArray[np.int64]:
    """Count all pairs of bytes; what is ignored or wrong is then found in the counts."""
    label, prediction = label.ravel(), prediction.ravel()
    counts = np.zeros(_BYTES**2, np.int64)
    for start in range(0, label.size, _CHUNK):
        pairs = label[start : start + _CHUNK].astype(np.uint16)
        pairs <<= 8
        np.bitwise_or(pairs, prediction[start : start + _CHUNK], out=pairs)
        counts += np.bincount(pairs, minlength=_BYTES**2)
    counts = counts.reshape(_BYTES, _BYTES)
    if 0 <= ignore < _BYTES:
        counts[ignore] = 0
    strays = np.arange(num_classes, _BYTES)
    _check_classes("label", strays, counts.sum(1)[num_classes:], num_classes)
    _check_classes("prediction", strays, counts.sum(0)[num_classes:], num_classes)
    return counts[:num_classes, :num_classes].copy()


def _check_images(label: NDArray, prediction: NDArray, num_classes: int) -> None:
    if num_classes < 1:
        raise InputError(f"num_classes: found {num_classes}, expected at least 1")
    if label.shape != prediction.shape:
        raise InputError(
            f"prediction: found shape {prediction.shape}, expected the label's, {label.shape}"
        )
    for name, values in (("label", label), ("prediction", prediction)):
        if not np.issubdtype(values.dtype, np.integer):
            raise InputError(f"{name}: found dtype {values.dtype}, expected integers")


def _check_classes(
    name: str, values: NDArray[np.integer], counts: NDArray[np.integer], num_classes: int
) -> None:
    """Raise if any of the `values`, none of them a class, was found."""
    found = [f"{value} ({count} pixels)" for value, count in zip(values, counts) if count]
    if found:
        raise InputError(
            f"{name}: found {first_few(found, shown=5)}, expected classes from 0 to "
            f"{num_classes - 1}: map the dataset's label ids to classes first"
        )


def _check_classification(probabilities: NDArray, labels: NDArray) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise InputError(
            f"probabilities and labels: found shapes {probabilities.shape} and {labels.shape}, "
            "expected (N, C) and (N,)"
        )
    if np.isnan(probabilities).any():
        raise InputError("probabilities: found nan: the network or its input is broken")
    if labels.size and not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels: found dtype {labels.dtype}, expected integers")
    num_classes = probabilities.shape[1]
    strays = labels[(labels < 0) | (labels >= num_classes)]
    if strays.size:
        raise InputError(
            f"labels: found {strays[0]} ({strays.size} labels out of range), "
            f"expected classes from 0 to {num_classes - 1}"
        )


def percent(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    """Return 100 * part / whole; nan where both are 0."""
    with np.errstate(invalid="ignore"):
        return 100.0 * np.true_divide(part, whole)


def mean_of_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean along the last axis without what is nan; nan where all is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(known, values, 0.0).sum(-1) / known.sum(-1)
    return mean

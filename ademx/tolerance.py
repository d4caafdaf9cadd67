"""How far a score may lie from the published one and still be the same result.

A tolerance has two parts, both derived and neither fitted to a result:

*Rounding.* The source prints 80.84 for anything from 80.835 to 80.845: half a unit of the last
digit that it prints.

*Numerics.* Our outputs are not the release's to the bit: sums run in another order, images are
enlarged by other code. What that amounts to is measured on the numbers in `tests/golden/`, which
the release itself computed in float32: one label pixel at most differs in an image, and no
probability by more than a factor of 1 ± 1.7e-4. (Those images are 160 pixels wide and labelled
with 13 to 19 classes each; a photograph is larger but has fewer borders for its size. One pixel
is what is allowed in any.) How far a score can move by that is worked out from the counts of the
very run that is judged, with every difference in the worst direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.image_counts import ImageCounts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# What is measured is 1.7e-4; see above.
PROBABILITY_FACTOR = 2e-4

_CHUNK = 1024  # images that probabilities are compared for at once


@dataclass(frozen=True)
class Tolerance:
    """How far a score may lie from the published one, percentage points.

    Attributes:
        rounding: because the published value is rounded.
        numerics: because outputs differ in their last digits.
        cause: what differs, "pixels" or "near ties".
    """

    rounding: float
    numerics: float
    cause: str

    @property
    def total(self) -> float:
        """Both parts together."""
        return self.rounding + self.numerics

    def __str__(self) -> str:
        return f"±{self.rounding:.3g} rounding, ±{self.numerics:.2g} {self.cause}"


def rounding(decimals: int) -> float:
    """Return half a unit of the last digit of a number printed with so many decimals."""
    return 0.5 * 10.0**-decimals


def pixel_tolerances(images: ImageCounts, *, absent_classes: str) -> dict[str, float]:
    """Return how far pixel accuracy and mean IoU can move if one pixel an image is another class.

    With N images that have labels, N pixels of W change the pixel accuracy by N / W at most.

    The mean IoU is bounded class by class. Let a class have t correct pixels of a union u. A
    changed pixel leaves one predicted class and enters another, which can do four things:

    * leave a class that was right: t falls by 1, u stays (the pixel is still in the truth);
    * enter a class that is wrong: u grows by 1;
    * enter the class that is right: t grows by 1, u stays;
    * leave a class that was wrong: u falls by 1.

    After `lost` of the first kind and `added` of the second the IoU has fallen by
    t/u − (t − lost)/(u + added) ≤ lost/u + added·t/(u(u + 1)). After `won` of the third and
    `dropped` of the fourth it has risen by (t + won)/(u − dropped) − t/u
    ≤ won/v + dropped·t/(u·v), where v is u without all that can be dropped. Both bounds are sums
    over pixels, so their largest total goes to the classes where a pixel weighs most. Of each
    kind there are N pixels in all, and in a class no more than there are images with such a
    pixel: a class that is in three images cannot lose more than three.

    Where a class without truth is left out of the mean ("skip"), one that appears among the
    predictions joins the mean with IoU 0, and one of which a pixel was all can leave it.

    Args:
        images: what the run counted in each image.
        absent_classes: "skip" or "zero", as for :func:`ademx.metrics.segmentation_scores`.

    Returns:
        "pixel_accuracy" and "mean_iou" -> percentage points; nan where no pixel is labelled.
    """
    correct, truth, predicted = (images.counts[:, row] for row in range(3))
    labelled = truth.sum(axis=1)
    wrong = predicted - correct
    num_images = int((labelled > 0).sum())
    if not num_images:
        return {"pixel_accuracy": float("nan"), "mean_iou": float("nan")}
    t = correct.sum(axis=0).astype(float)
    u = truth.sum(axis=0) + wrong.sum(axis=0)
    v = u - _images_with(wrong)
    elsewhere = labelled[:, None] - truth - wrong  # neither of the class nor given to it
    lost = _largest_sum(_share(1.0, u), _images_with(correct), num_images)
    added = _largest_sum(_share(t, u * (u + 1)), _images_with(elsewhere), num_images)
    won = _largest_sum(_share(1.0, v), _images_with(truth - correct), num_images)
    dropped = _largest_sum(_share(t, u * v), _images_with(wrong), num_images)

    total, classes = float(_share(t, u).sum()), len(u)
    joining = leaving = 0
    if absent_classes == "skip":
        without = truth.sum(axis=0) == 0
        classes = int((u > 0).sum())
        joining = min(num_images, int((without & (u == 0)).sum()))
        leaving = int((without & (u > 0) & (wrong.max(axis=0) <= 1)).sum())
    lowest = (total - lost - added) / (classes + joining)
    highest = (total + won + dropped) / (classes - leaving)
    mean = total / classes
    return {
        "pixel_accuracy": 100.0 * num_images / float(labelled.sum()),
        "mean_iou": 100.0 * max(mean - lowest, highest - mean),
    }


def _images_with(pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, (C,), in how many images a class has any such pixels."""
    counts: NDArray[np.int64] = (pixels > 0).sum(axis=0)
    return counts


def _share(part: Floats | float, whole: NDArray[np.int64]) -> Floats:
    """Return part / whole, 0 where the whole is 0."""
    share: Floats = np.where(whole > 0, part, 0.0) / np.maximum(whole, 1)
    return share


def _largest_sum(weights: Floats, caps: NDArray[np.int64], number: int) -> float:
    """Return the largest Σ n·weight for whole numbers n ≤ cap of which the sum is `number`."""
    order = np.argsort(-weights)
    taken = np.diff(np.minimum(np.cumsum(caps[order]), number), prepend=0)
    return float(taken @ weights[order])


def tie_tolerances(
    probabilities: NDArray[np.floating[Any]],
    truth: NDArray[np.integer[Any]],
    *,
    ks: Sequence[int] = (1, 5),
) -> dict[str, float]:
    """Return how far the top-k errors can move if probabilities move by their measured factor.

    Whether an image counts as missed depends on its true class's probability p and the k-th
    largest one q of the others. With both off by a factor of up to 1 ± f in opposite directions
    that can change only where p lies between q·(1 − 2f) and q·(1 + 2f). Of such near ties those
    that are missed can lower the error, those that are not can raise it; the larger number is
    the bound.

    Args:
        probabilities: (N, C), of the images that were tested.
        truth: (N,), their classes.
        ks: as for :func:`ademx.metrics.topk_errors`.

    Returns:
        "top<k>_error" for each k -> percentage points; nan without images.
    """
    if not len(truth):
        return {f"top{k}_error": float("nan") for k in ks}
    near = {k: [0, 0] for k in ks}  # missed, not missed
    for start in range(0, len(truth), _CHUNK):
        rows = probabilities[start : start + _CHUNK].astype(np.float64)
        index = np.arange(len(rows)), truth[start : start + _CHUNK]
        own = rows[index]
        rows[index] = -1.0
        rows.sort(axis=1)
        for k in ks:
            rival = rows[:, -k] if k < rows.shape[1] else np.full(len(rows), -1.0)
            near_tie = np.abs(own - rival) <= 2 * PROBABILITY_FACTOR * rival
            near[k][0] += int((near_tie & (own <= rival)).sum())
            near[k][1] += int((near_tie & (own >= rival)).sum())
    return {f"top{k}_error": 100.0 * max(counts) / len(truth) for k, counts in near.items()}

"""How far a score may lie from the published one and still be the same result.

A tolerance has two parts, both derived and neither fitted to a result:

*Rounding.* The source prints 80.84 for anything from 80.835 to 80.845: half a unit of the last
digit that it prints.

*Numerics.* Our outputs are not the release's to the bit: sums run in another order, on another
processor. By how much at the most says :mod:`ademx.testing.numerics`. How far a score can move by
it is worked out from the counts of the very run that is judged, with every difference in the
worst direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.errors import InputError
from ademx.forms import NUMBER, TEXT, json_field
from ademx.testing.image_counts import ImageCounts
from ademx.testing.numerics import PROBABILITY_FACTOR, SCORE_MARGIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_CHUNK = 1024  # images that probabilities are compared for at once


@dataclass(frozen=True)
class Tolerance:
    """How far a score may lie from the published one, percentage points.

    Attributes:
        rounding: because the published value is rounded.
        numerics: because outputs differ in their last digits.
        cause: what differs, "pixels near a tie" or "near ties" of images.
    """

    rounding: float = json_field(NUMBER)
    numerics: float = json_field(NUMBER)
    cause: str = json_field(TEXT)

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
    """Return how far pixel accuracy and mean IoU can move if near ties fall the other way.

    Any of the pixels that the run found near a tie may go from its best class a to its rival b,
    and no other pixel may. What that does follows from its true class c:

    * c = a: a right pixel is lost to a; b has a wrong one more;
    * c = b: b wins a right pixel; a has a wrong one less;
    * any other c: a has a wrong one less, b one more.

    So the pixel accuracy falls by the share of the first kind at most, and rises by that of the
    second. The mean IoU is bounded class by class. Let a class have t correct pixels of a union
    u, the near ties having `lost` of c = a (t falls, u stays: the pixel is still in the truth),
    `added` from b, c ≠ b (u grows), `won` of c = b (t grows, u stays) and `dropped` from a,
    c ≠ a (u falls). These are different pixels, so its IoU lies between

        (t - lost) / (u + added)   and   (t + won) / (u - dropped),

    and takes on both ends. The mean of the ends bounds the mean of the classes, which cannot all
    be at their ends at once only where a pixel is between two wrong classes. A pixel with
    several rivals counts as several, which can only widen the bound.

    Where a class without truth is left out of the mean ("skip"), one that appears among the
    predictions joins the mean with IoU 0, and one of which all pixels go leaves it.

    Args:
        images: what the run counted in each image.
        absent_classes: "skip" or "zero", as for :func:`ademx.metrics.segmentation_scores`.

    Returns:
        "pixel_accuracy" and "mean_iou" -> percentage points; nan where no pixel is labelled.

    Raises:
        ValueError: the run did not look for near ties.
    """
    if images.near_ties is None or not images.has_near_ties:
        raise InputError(f"expected a run that counted near ties within {SCORE_MARGIN:.2g}")
    correct, truth, predicted = images.counts.sum(axis=0)
    labelled = float(truth.sum())
    if not labelled:
        return {"pixel_accuracy": float("nan"), "mean_iou": float("nan")}
    lost, added, won, dropped = _moved_pixels(images.near_ties.rows, len(truth))
    lost, won = np.minimum(lost, correct), np.minimum(won, truth - correct)
    dropped = np.minimum(dropped, predicted - correct)
    union = truth + predicted - correct
    lowest = _share(correct - lost, union + added).sum()
    highest = _share(correct + won, union - dropped).sum()

    classes, joining, leaving = len(truth), 0, 0
    if absent_classes == "skip":
        classes = int((union > 0).sum())
        joining = int(((union == 0) & (added > 0)).sum())
        leaving = int(((union > 0) & (union == dropped)).sum())
    mean = _share(correct, union).sum() / classes
    down, up = mean - lowest / (classes + joining), highest / (classes - leaving) - mean
    return {
        "pixel_accuracy": 100.0 * max(lost.sum(), won.sum()) / labelled,
        "mean_iou": 100.0 * float(max(down, up)),
    }


def _moved_pixels(ties: NDArray[np.int64], num_classes: int) -> tuple[NDArray[np.int64], ...]:
    """Return `lost`, `added`, `won` and `dropped` of each class, (C,) each."""
    _, truth, best, rival, pixels = ties.T
    moves = []
    for chosen, of_class in (
        (truth == best, best),
        (truth != rival, rival),
        (truth == rival, rival),
        (truth != best, best),
    ):
        moves.append(np.zeros(num_classes, np.int64))
        np.add.at(moves[-1], of_class[chosen], pixels[chosen])
    return tuple(moves)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats:
    """Return part / whole, 0 where the whole is 0."""
    share: Floats = part / np.maximum(whole, 1)
    return share


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

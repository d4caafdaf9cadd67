"""From a network's coarse score maps to the best class of every pixel of the original image.

The release enlarges each class's map to the network's canvas, cuts it to the resized image and
resizes that to the original image, all with Pillow, then takes the best class. Each step is
linear and treats rows and columns apart, so that the whole chain is two small matrices. They are
applied tile by tile, so that the enlarged maps, hundreds of megabytes, never exist.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ademx.errors import InputError
from iters.decode import Size
from iters.resample import KERNELS, filter_weights
from iters.transforms import interpolation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

# A tile's scores stay in a core's second-level cache (32 KiB a class).
_TILE_HEIGHT = 32
_TILE_WIDTH = 256


@dataclass(frozen=True)
class ScoreResizer:
    """The way of one image's score maps from the network's grid to the original image.

    Attributes:
        grid: height and width of the score maps.
        canvas: of the network's input, that is `grid` times the pixels between predictions.
        image: of the resized image, which lies at the canvas's top left.
        original: of the original image. Where it equals `image` nothing is resized: the release
            compares heights alone, and could not go on if the widths then differed.
        filter_name: filter from `image` to `original`; None chooses by the interpolation rule.

    Raises:
        ValueError: a size is not positive, or the image does not fit the canvas.

    Source: ademxapp:issegm/voc.py, interp_preds_as.
    """

    grid: Size
    canvas: Size
    image: Size
    original: Size
    filter_name: str | None = None

    def __post_init__(self) -> None:
        for name in ("grid", "canvas", "image", "original"):
            size = getattr(self, name)
            if len(size) != 2 or min(size) < 1:
                raise InputError(f"{name}: found {size}, expected a height and width above 0")
        if self.image[0] > self.canvas[0] or self.image[1] > self.canvas[1]:
            raise InputError(f"image: found {self.image}, expected to fit the canvas {self.canvas}")

    def _check_scores(self, scores: NDArray[np.floating]) -> NDArray[np.float32]:
        scores = np.asarray(scores, np.float32)
        if scores.ndim != 3 or scores.shape[1:] != tuple(self.grid) or not len(scores):
            raise InputError(f"scores: found shape {scores.shape}, expected (C, *{self.grid})")
        return scores

    def _matrix(self, axis: int) -> NDArray[np.float32]:
        """Return the (original, grid) matrix of an axis."""
        return _axis_matrix(
            self.grid[axis],
            self.canvas[axis],
            self.image[axis],
            self.original[axis],
            self.filter_name or interpolation(self.image, self.original).name.lower(),
        )


# Score maps, (C, *grid) float, and their way to the image.
ScorePart = tuple[ScoreResizer, "NDArray[np.floating]"]


def best_class(parts: Sequence[ScorePart]) -> NDArray[np.unsignedinteger]:
    """Return the class with the highest mean score at every pixel of the original image.

    Several parts are the same image seen at several scales or by several networks. Of equal
    classes the lowest wins, as with `np.argmax`.

    Args:
        parts: resizers with their scores; one is enough.

    Returns:
        (height, width) uint8, or uint16 with more than 256 classes.

    Raises:
        ValueError: there is no part, the parts differ in classes or in the original image's
            size, or scores are not finite.
    """
    parts = _checked_parts(parts)
    labels = _empty_labels(parts)
    for rows, columns, scores in _score_tiles(parts):
        labels[rows, columns], _ = _best_class_of_tile(scores, labels.dtype, margin=0)
    return labels


def best_class_and_ties(
    parts: Sequence[ScorePart],
    truth: NDArray[np.integer],
    *,
    margin: float,
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """Return what :func:`best_class` does, and how often which other class is almost as good.

    A rival is a class whose mean score is less than `margin` below the best one's. A pixel with
    several rivals counts once for each.

    Args:
        parts: as :func:`best_class` takes them.
        truth: (height, width), the true classes; other numbers are void and not looked at.
        margin: a difference of mean scores.

    Returns:
        The labels, and (M, 4) int64 in ascending order: true class, best class, rival, and the
        number of such pixels.

    Raises:
        ValueError: as :func:`best_class`; or the truth is of another size.
    """
    parts = _checked_parts(parts)
    labels, num_classes = _empty_labels(parts), len(parts[0][1])
    if truth.shape != labels.shape:
        raise InputError(f"truth: found shape {truth.shape}, expected {labels.shape}")
    margin *= len(parts)  # terms are added up, not averaged
    found = []
    for rows, columns, scores in _score_tiles(parts):
        best, near = _best_class_of_tile(scores, labels.dtype, margin=margin)
        labels[rows, columns] = best
        if len(near):
            near_scores = scores.reshape(num_classes, -1)[:, near]
            pairs = truth[rows, columns].flat[near], best.flat[near]
            found.append(_rival_classes(near_scores, *pairs, margin))
    return labels, _count_cells(found, num_classes)


def mean_scores(parts: Sequence[ScorePart]) -> NDArray[np.float32]:
    """Return the mean scores, of which :func:`best_class` takes the best, at the original size.

    They are large: 4 bytes for each class and pixel.

    Args:
        parts: as :func:`best_class` takes them.

    Returns:
        (C, height, width) float32.

    Raises:
        ValueError: as :func:`best_class`.
    """
    parts = _checked_parts(parts)
    mean = np.empty((len(parts[0][1]), *parts[0][0].original), np.float32)
    for rows, columns, scores in _score_tiles(parts):
        mean[:, rows, columns] = scores
    if len(parts) > 1:
        mean /= len(parts)
    return mean


def resampling_matrix(size_in: int, size_out: int, filter_name: str) -> NDArray[np.float64]:
    """Return the matrix that resizes a line of pixels as Pillow does.

    An output pixel is the weighted mean of the input pixels under the filter, which is centred
    on it and, where the line shrinks, widened as much. Pixels beyond the ends do not count.

    Args:
        size_in: pixels of the line.
        size_out: pixels of the resized line; the matrix is the identity if they are as many.
        filter_name: "bilinear", "bicubic" (a = -0.5) or "lanczos" (three lobes).

    Returns:
        (size_out, size_in) float64, every row adding up to 1.

    Raises:
        ValueError: a size is not positive, or the filter is unknown.
    """
    if min(size_in, size_out) < 1:
        raise InputError(f"sizes: found {size_in} and {size_out}, expected above 0")
    if filter_name not in _FILTERS:
        raise InputError(f"filter: found {filter_name!r}, expected one of {', '.join(_FILTERS)}")
    if size_in == size_out:
        return np.eye(size_in)
    weights, starts = filter_weights(size_in, size_out, _FILTERS[filter_name])
    taps = weights.shape[1]
    matrix = np.zeros((size_out, size_in + taps))
    np.put_along_axis(matrix, starts[:, None] + np.arange(taps), weights, axis=1)
    return matrix[:, :size_in]


_FILTERS = {resample.name.lower(): resample for resample in KERNELS}


@lru_cache(maxsize=16)
def _axis_matrix(
    grid: int, canvas: int, image: int, original: int, filter_name: str
) -> NDArray[np.float32]:
    """Return the (original, grid) matrix of the whole chain along one axis; shared, read-only."""
    enlarging = resampling_matrix(grid, canvas, "bicubic")[:image]
    matrix = enlarging.astype(np.float32)
    if image != original:
        matrix = np.empty((original, grid), np.float32)
        weights, starts = filter_weights(image, original, _FILTERS[filter_name])
        cells = np.minimum(starts[:, None] + np.arange(weights.shape[1]), image - 1)
        for rows in _steps(original, _TILE_HEIGHT):
            matrix[rows] = (weights[rows, None] @ enlarging[cells[rows]])[:, 0]
    matrix.flags.writeable = False
    return matrix


def _steps(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _band(matrix: NDArray[np.floating], rows: slice) -> tuple[NDArray[np.floating], slice]:
    """Return the part of the matrix's rows that is not zero, and its columns."""
    used = np.flatnonzero(matrix[rows].any(0))
    cells = slice(int(used[0]), int(used[-1]) + 1)
    return matrix[rows, cells], cells


def _empty_labels(parts: Sequence[ScorePart]) -> NDArray[np.unsignedinteger]:
    resizer, scores = parts[0]
    return np.empty(resizer.original, np.uint8 if len(scores) <= 256 else np.uint16)


def _score_tiles(parts: Sequence[ScorePart]) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """Yield the rows and columns of each tile, and its sums of scores, until the next is made."""
    (height, width), num_classes = parts[0][0].original, len(parts[0][1])
    memory = np.empty(num_classes * _TILE_HEIGHT * _TILE_WIDTH, np.float32)
    for columns in _steps(width, _TILE_WIDTH):
        wide = []  # of each part: the matrix of its rows, and maps with their final columns
        for resizer, scores in parts:
            weights, cells = _band(resizer._matrix(1), columns)
            wide.append((resizer._matrix(0), scores[:, :, cells] @ weights.T))
        for rows in _steps(height, _TILE_HEIGHT):
            shape = (num_classes, rows.stop - rows.start, columns.stop - columns.start)
            tile = memory[: math.prod(shape)].reshape(shape)
            for number, (matrix, maps) in enumerate(wide):
                weights, cells = _band(matrix, rows)
                if number:
                    tile += weights @ maps[:, cells]
                else:
                    np.matmul(weights, maps[:, cells], out=tile)
            yield rows, columns, tile


def _best_class_of_tile(
    scores: NDArray[np.float32], dtype: np.dtype[np.unsignedinteger], *, margin: float
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.intp]]:
    """Return the first class with the highest score, and which pixels have others close to it.

    Only bytes are gone through to number the classes that are close to the best. Where it is one,
    as almost everywhere, the sum of their numbers is the label; the others are looked at alone.

    Args:
        scores: (C, height, width).
        dtype: of labels; it holds C - 1.
        margin: not below 0; pixels with as good classes are found with 0.

    Returns:
        (height, width) labels; and the flat indices of those pixels, ascending.
    """
    is_close = (scores >= scores.max(axis=0) - margin).view(np.uint8)
    numbers = is_close * np.arange(len(scores), dtype=dtype)[:, None, None]
    labels = np.add.reduce(numbers, axis=0, dtype=dtype)
    near = np.flatnonzero(np.add.reduce(is_close, axis=0, dtype=dtype) != 1)  # 256 are 0 in uint8
    labels.flat[near] = scores.reshape(len(scores), -1)[:, near].argmax(axis=0)
    return labels, near


def _rival_classes(
    scores: NDArray[np.float32],
    truth: NDArray[np.integer],
    best: NDArray[np.unsignedinteger],
    margin: float,
) -> NDArray[np.int64]:
    """Return (C, N) scores' rivals as cells of the cube (true class, best class, rival)."""
    num_classes = len(scores)
    is_rival = scores > scores.max(axis=0) - margin
    is_rival[best, np.arange(len(best))] = False
    rivals, pixels = np.nonzero(is_rival)
    true = truth[pixels].astype(np.int64)
    cells = (true * num_classes + best[pixels]) * num_classes + rivals
    return cells[true < num_classes]


def _count_cells(cells: Iterable[NDArray[np.int64]], num_classes: int) -> NDArray[np.int64]:
    """Return, (M, 4), how often each cell of a cube of the classes' side is there."""
    found, numbers = np.unique(np.concatenate([*cells, np.empty(0, np.int64)]), return_counts=True)
    return np.stack([*np.unravel_index(found, (num_classes,) * 3), numbers], axis=1)


def _checked_parts(parts: Sequence[ScorePart]) -> list[ScorePart]:
    """Return the parts with float32 scores, if they are those of one image and finite."""
    checked = [(resizer, resizer._check_scores(scores)) for resizer, scores in parts]
    if not checked:
        raise InputError("parts: found none, expected at least one resizer with its scores")
    kinds = {(len(scores), tuple(resizer.original)) for resizer, scores in checked}
    if len(kinds) > 1:
        found = ", ".join(f"{classes} classes at {size}" for classes, size in sorted(kinds))
        raise InputError(f"parts: found {found}, expected one image and one set of classes")
    if not all(np.isfinite(scores).all() for _, scores in checked):
        raise InputError("scores: found nan or infinity: the network or its input is broken")
    return checked

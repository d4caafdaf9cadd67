"""A network at images: its gradient by the length of paths, and its lesions, as numbers."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ademx.iteration import progress_bar
from ademx.networks import unravel
from ademx.testing.checks import finite
from ademx.unravelling.found import (
    DEPTH_SHARE,
    STARVED_SHARE,
    LengthRow,
    LesionRow,
    Lesions,
    UnitRow,
    Unravelling,
)
from iters.datasets import VOID
from symbols.layers import Layer

Array = npt.NDArray[Any]

# Of the gradients that are held at a time.
_BYTES = 2**30


def measure(
    engine: unravel.Engine,
    layers: Sequence[Layer],
    images: Array,
    targets: Sequence[Array | None],
    *,
    weights: object = "the weights",
    paths: int,
    seed: int = 0,
    with_lesions: bool = False,
) -> Unravelling:
    """Return what is found of a network at images.

    Args:
        engine: what computes it.
        layers: of the network, with shortcuts.
        images: (N, 3, H, W) float32, normalised.
        targets: of each, see :class:`ademx.unravelling.inputs.Example`.
        weights: the file that the network is of, for messages.
        paths: how many single paths of each length are walked.
        seed: draws them.
        with_lesions: whether lesions are made too.
    """
    segments = unravel.cut(layers)
    units = sum(segment.is_unit for segment in segments)
    # Of the least and the greatest length there is one path, which is its sum.
    walks: dict[int, list[tuple[int, unravel.Path]]] = {
        length: unravel.choose_paths(units, length, images=len(images), at_most=paths, seed=seed)
        for length in range(1, units)
    }
    by_image: dict[int, set[unravel.Path]] = defaultdict(set)
    for image, path in (walk for chosen in walks.values() for walk in chosen):
        by_image[image].add(path)
    total = len(images) * units + sum(map(len, by_image.values()))
    with progress_bar(total=total, unit="step", desc="unravelling") as bar:
        measures = _Measures(
            engine,
            segments,
            weights=weights,
            paths=by_image,
            with_lesions=with_lesions,
            bar=bar,
        )
        first = unravel.run(engine, segments, images[:1])[unravel.first_unit(segments)]
        at_a_time = max(1, _BYTES // (2 * (units + 1) * first.nbytes))
        for start in range(0, len(images), at_a_time):
            chunk = slice(start, start + at_a_time)
            measures.add(images[chunk], targets[chunk], start)
    return measures.means(walks)


class _Measures:
    """Collects what is measured, image by image."""

    def __init__(
        self,
        engine: unravel.Engine,
        segments: Sequence[unravel.Segment],
        *,
        weights: object,
        paths: dict[int, set[unravel.Path]],
        with_lesions: bool,
        bar: tqdm[Any],
    ) -> None:
        self._engine, self._segments, self._paths, self._bar = engine, segments, paths, bar
        self._units = [segment.name for segment in segments if segment.is_unit]
        self._weights, self._with_lesions = weights, with_lesions
        # Of each image: numbers by name, units' among them, which are what the unit receives.
        self._of_images: dict[str, list[float]] = defaultdict(list)
        self._norms: list[Array] = []  # the same, (lengths,)
        self._path_norms: dict[tuple[int, unravel.Path], float] = {}
        self._lesions: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)

    def add(self, images: Array, targets: Sequence[Array | None], number: int) -> None:
        """Measure images, the first of which has this number."""
        engine, segments = self._engine, self._segments
        *values, scores = unravel.run(engine, segments, images)
        classes = _filled(finite(scores, self._weights), targets)
        losses, errors, gradient = loss_and_gradient(scores, classes)
        back = unravel.Backward(engine, segments, values, gradient)
        (lengths, received), whole = back.by_length(), back.whole()
        norm = unravel.norms(whole)
        difference = unravel.norms(sum(lengths[1:], start=lengths[0]) - whole)
        of_images = {
            **received,
            "loss": losses,
            "error": errors,
            "gradient_norm": norm,
            "sum_error": difference / np.maximum(norm, np.finfo(np.float32).tiny),
        }
        for name, numbers in of_images.items():
            self._of_images[name] += numbers.tolist()
        self._norms += list(np.stack([unravel.norms(one) for one in lengths], axis=1))
        self._bar.update(len(images) * len(self._units))
        for row in range(len(images)):
            paths = self._paths[number + row]
            of_image = [value[row : row + 1] for value in values]
            if paths:
                alone = unravel.Backward(engine, segments, of_image, gradient[row : row + 1])
                found = alone.path_norms(paths)
                self._path_norms |= {(number + row, path): norm for path, norm in found.items()}
            self._bar.update(len(paths))
        if self._with_lesions:
            arguments = engine, segments, values
            lesions = unravel.without_each_branch, unravel.with_neighbours_exchanged
            for units, scores in chain.from_iterable(kind(*arguments) for kind in lesions):
                losses, errors, _ = loss_and_gradient(scores, classes)
                self._lesions[units] += zip(losses.tolist(), errors.tolist())

    def means(self, walks: dict[int, list[tuple[int, unravel.Path]]]) -> Unravelling:
        """Return the means over all images, by length of path and by unit."""
        norms = np.mean(self._norms, axis=0).tolist()
        means = {name: float(np.mean(numbers)) for name, numbers in self._of_images.items()}
        received = tuple(UnitRow(name, means[name]) for name in self._units)
        starved = (
            row.unit for row in received if row.received < STARVED_SHARE * received[0].received
        )
        return Unravelling(
            units=len(self._units),
            loss=means["loss"],
            error=means["error"],
            gradient_norm=means["gradient_norm"],
            sum_error=max(self._of_images["sum_error"]),
            effective_depth=unravel.effective_depth(norms, DEPTH_SHARE),
            lengths=tuple(self._length_row(k, norms, walks.get(k, ())) for k in range(len(norms))),
            units_starved=tuple(starved),
            received=received,
            lesions=self._found_lesions(means["loss"], means["error"]),
        )

    def _length_row(
        self, length: int, norms: Sequence[float], walks: Sequence[tuple[int, unravel.Path]]
    ) -> LengthRow:
        paths = math.comb(len(self._units), length)
        share = norms[length] / (sum(norms) or 1.0)
        row = LengthRow(length, paths, norms[length], None, None, share)
        if paths == 1:
            return dataclasses.replace(row, mean_path_norm=norms[length], standard_error=0.0)
        if not walks:
            return row
        walked = [self._path_norms[walk] for walk in walks]
        error = None
        if len(set(walks)) == paths * len(self._norms):
            error = 0.0
        elif len(walked) > 1:
            error = float(np.std(walked, ddof=1)) / math.sqrt(len(walked))
        return dataclasses.replace(row, mean_path_norm=float(np.mean(walked)), standard_error=error)

    def _found_lesions(self, loss: float, error: float) -> Lesions | None:
        if not self._with_lesions:
            return None
        rows = []
        for units, results in self._lesions.items():
            new_loss, new_error = map(float, np.mean(results, axis=0))
            rows.append(LesionRow(units, new_loss, new_loss - loss, new_error, new_error - error))
        return Lesions(
            without_branch=tuple(row for row in rows if len(row.units) == 1),
            exchanged=tuple(row for row in rows if len(row.units) == 2),
        )


def _filled(scores: Array, targets: Sequence[Array | None]) -> Array:
    """Return the targets, the most probable classes where they are not known: (N, …) int64."""
    best = scores.argmax(axis=1)
    return np.stack([best[i] if target is None else target for i, target in enumerate(targets)])


def loss_and_gradient(scores: Array, classes: Array) -> tuple[Array, Array, Array]:
    """Return the loss and the error, (N,) both, and the loss's gradient.

    Args:
        scores: (N, classes, …).
        classes: (N, …) int64, what they should say; cells of :data:`iters.datasets.VOID`, of which
            there are not only such, do not count.
    """
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    is_cell = scores.ndim > 2
    counts = (classes != VOID) if is_cell else np.ones_like(classes, bool)
    weights = counts / np.maximum(counts.sum(axis=tuple(range(1, counts.ndim)), keepdims=True), 1)
    chosen = np.expand_dims(np.where(counts, classes, 0), 1)
    truth = np.zeros_like(logarithms)
    np.put_along_axis(truth, chosen, 1.0, axis=1)
    gradient = (np.exp(logarithms) - truth) * np.expand_dims(weights, 1)
    losses = -(np.take_along_axis(logarithms, chosen, axis=1)[:, 0] * weights)
    errors = (scores.argmax(axis=1) != classes) * weights
    per_image = (len(scores), -1)
    return (
        losses.reshape(per_image).sum(axis=1),
        errors.reshape(per_image).sum(axis=1),
        gradient.astype(scores.dtype),
    )

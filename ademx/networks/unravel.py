"""The unravelled view of a residual network: its gradient as a sum over paths, by their length.

A unit maps x to f(x) + s(x), branch and shortcut, so that a gradient goes back through it in two
ways. Through n units there are 2ⁿ paths; a path's length is the number of branches on it. Grouped
by length they need not be walked one by one: with gₖ the sum of those that passed k branches so
far, a unit maps (g₀ … gₘ) to gₖ·(Jacobian of s) + gₖ₋₁·(Jacobian of f), k from 0 to m + 1.

What computes is an engine's; here are only sums, on NumPy arrays. Source: arXiv:1611.10080, §3.

Segments also tell what a network loses without a unit's branch, or with two units exchanged.
Source: arXiv:1605.06431, §4, whose experiments these are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import accumulate, combinations, groupby
from math import comb
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

from symbols.layers import Layer, without_dropout

Array = npt.NDArray[Any]
Path = tuple[bool, ...]  # of every unit, from the input on: whether its branch is taken

# Gradients that are held at a time.
_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Segment:
    """A unit, or a stretch of layers between two of them, before the first or after the last.

    In the paper's own networks the first BatchNorm and ReLU of a block with a projection are read
    by both ways, and are part of both. The ReLU after the addition (`rn`) and poolings between
    blocks are no unit's: every path goes through them.

    Attributes:
        name: of the block, such as "res4b1", or of the last layer.
        layers: in order of computation, without the addition.
        data: name of what it reads.
        outputs: names of what is added up to its output: the branch's and the shortcut's, which is
            `data` where that is the identity; of what is no unit, its own alone.
    """

    name: str
    layers: tuple[Layer, ...]
    data: str
    outputs: tuple[str, ...]

    @property
    def is_unit(self) -> bool:
        """Whether there are two ways through it."""
        return len(self.outputs) > 1

    def layers_of(self, output: str) -> tuple[Layer, ...]:
        """Return the layers that one of the outputs depends on."""
        needed = {output}
        for layer in reversed(self.layers):
            if layer.name in needed:
                needed.update(layer.inputs)
        return tuple(layer for layer in self.layers if layer.name in needed)


class Engine(ABC):
    """What computes segments, with moving statistics and no dropout."""

    def forward(self, segment: Segment, data: Array, output: str) -> Array:
        """Return one of a segment's outputs of its input `data`, (N, …) both."""
        return data if output == segment.data else self._forward(segment, data, output)

    def pull(
        self, segment: Segment, data: Array, gradients: Iterable[Array], output: str
    ) -> Iterator[Array]:
        """Yield what gradients, each of one of a segment's outputs, are of its input at `data`."""
        is_input = output == segment.data
        yield from gradients if is_input else self._pull(segment, data, gradients, output)

    @abstractmethod
    def _forward(self, segment: Segment, data: Array, output: str) -> Array:
        """See :meth:`forward`; the output is not the input itself."""

    @abstractmethod
    def _pull(
        self, segment: Segment, data: Array, gradients: Iterable[Array], output: str
    ) -> Iterator[Array]:
        """See :meth:`pull`; the output is not the input itself."""


def cut(layers: Sequence[Layer]) -> tuple[Segment, ...]:
    """Return a network, from its input to its scores, as segments one after the other.

    Args:
        layers: from :func:`ademx.networks.graph.list_layers`; the last, the softmax, is left out.
    """
    segments: list[Segment] = []
    between: list[Layer] = []

    def close() -> None:
        if between:
            last, first = between[-1].name, between[0].inputs[0]
            segments.append(Segment(last, tuple(between), first, (last,)))
            between.clear()

    for _, group in groupby(without_dropout(layers[:-1]), key=lambda layer: layer.block):
        block = list(group)
        addition = next((layer for layer in block if layer.kind == "add"), None)
        if addition is not None:
            close()
            place = block.index(addition)
            unit = tuple(block[:place])
            segments.append(Segment(addition.name, unit, unit[0].inputs[0], addition.inputs))
            block = block[place + 1 :]
        between += block
    close()
    return tuple(segments)


def run(engine: Engine, segments: Sequence[Segment], data: Array) -> list[Array]:
    """Return what every segment reads, and the output of the last."""
    return list(accumulate(segments, partial(through, engine), initial=data))


def through(engine: Engine, data: Array, segment: Segment) -> Array:
    """Return a segment's output."""
    return reduce(add, (engine.forward(segment, data, output) for output in segment.outputs))


@dataclass(frozen=True)
class Backward:
    """The way back through a network, to the gradient with respect to the first unit's input.

    Attributes:
        engine: what computes.
        segments: of the network, with units among them.
        values: what each of them reads, as :func:`run` returns it.
        gradient: of the loss, with respect to the network's output.
    """

    engine: Engine
    segments: Sequence[Segment]
    values: Sequence[Array]
    gradient: Array

    def by_length(self) -> tuple[list[Array], dict[str, Array]]:
        """Return the gradient, split by length exactly, and what units receive of it.

        Returns:
            The gradient of each length from 0 on, (N, C, H, W); and for each unit what its branch's
            output receives along all paths, the norm, (N,).
        """
        lengths = [self.gradient]
        received = {}
        for segment, data in self._steps():
            if not segment.is_unit:
                lengths = list(self.engine.pull(segment, data, lengths, segment.name))
                continue
            received[segment.name] = norms(reduce(add, lengths))
            longer, same = (
                self.engine.pull(segment, data, lengths, output) for output in segment.outputs
            )
            # What a length passes along the shortcut, and the one before along the branch.
            lengths = [next(same), *map(add, same, longer), next(longer)]
        return lengths, dict(reversed(received.items()))

    def whole(self) -> Array:
        """Return the ordinary gradient."""
        gradient = self.gradient
        for segment, data in self._steps():
            pulled = (
                self.engine.pull(segment, data, [gradient], output) for output in segment.outputs
            )
            gradient = reduce(add, map(next, pulled))
        return gradient

    def path_norms(self, paths: Iterable[Path]) -> dict[Path, float]:
        """Return the norm of the gradient along single paths, for a batch of one.

        What paths have in common at their end is walked once.
        """
        ordered = sorted(set(paths), key=lambda path: path[::-1])
        at_a_time = max(1, _BYTES // self.values[first_unit(self.segments)].nbytes)
        found: dict[Path, float] = {}
        for start in range(0, len(ordered), at_a_time):
            found |= self._norms_of_group(ordered[start : start + at_a_time])
        return found

    def _norms_of_group(self, paths: Sequence[Path]) -> dict[Path, float]:
        walked: dict[Path, Array] = {(): self.gradient}  # the last units of paths -> their gradient
        left = len(paths[0])
        for segment, data in self._steps():
            if not segment.is_unit:
                pulled = self.engine.pull(segment, data, walked.values(), segment.name)
                walked = dict(zip(walked, pulled))
                continue
            left -= 1
            ends = dict.fromkeys(path[left:] for path in paths)
            further: dict[Path, Array] = {}
            for taken, output in zip((True, False), segment.outputs):
                chosen = [end for end in ends if end[0] is taken]
                gradients = (walked[end[1:]] for end in chosen)
                further |= zip(chosen, self.engine.pull(segment, data, gradients, output))
            walked = further
        return {path: float(norms(value)[0]) for path, value in walked.items()}

    def _steps(self) -> Iterator[tuple[Segment, Array]]:
        """Yield the segments from the last to the first unit, each with what it reads."""
        pairs = list(zip(self.segments, self.values))
        return reversed(pairs[first_unit(self.segments) :])


def choose_paths(
    units: int, length: int, *, images: int, at_most: int, seed: int
) -> list[tuple[int, Path]]:
    """Return paths of a length, each with the number of the image that it is walked for.

    They are all that there are if these are at most so many, else so many drawn with equal
    chances, the images in turn.
    """
    if images * comb(units, length) <= at_most:
        return [
            (image, _path(units, branches))
            for branches in combinations(range(units), length)
            for image in range(images)
        ]
    rng = np.random.default_rng((seed, length))
    return [
        (draw % images, _path(units, rng.choice(units, length, replace=False).tolist()))
        for draw in range(at_most)
    ]


def _path(units: int, branches: Sequence[int]) -> Path:
    return tuple(unit in branches for unit in range(units))


def first_unit(segments: Sequence[Segment]) -> int:
    """Return which segment is the first unit."""
    return next(index for index, segment in enumerate(segments) if segment.is_unit)


def norms(gradient: Array) -> Array:
    """Return the Euclidean norm of each image's gradient, (N,) float64."""
    flat = gradient.reshape(len(gradient), -1)
    squares: Array = np.einsum("ij,ij->i", flat, flat, dtype=np.float64)
    return np.sqrt(squares)


def effective_depth(norms_by_length: Sequence[float], share: float) -> int:
    """Return the smallest length up to which a share of the sum of all norms lies."""
    reached = np.cumsum(norms_by_length)
    return int(np.argmax(reached >= share * reached[-1]))


def without_each_branch(
    engine: Engine, segments: Sequence[Segment], values: Sequence[Array]
) -> Iterator[tuple[tuple[str], Array]]:
    """Yield each unit's name, by itself, and the network's output without its branch.

    Args:
        engine: what computes.
        segments: of the network.
        values: what each of them reads, as :func:`run` returns it.
    """
    for index, (segment, data) in enumerate(zip(segments, values)):
        if segment.is_unit:
            data = engine.forward(segment, data, segment.outputs[1])
            yield (segment.name,), reduce(partial(through, engine), segments[index + 1 :], data)


def with_neighbours_exchanged(
    engine: Engine, segments: Sequence[Segment], values: Sequence[Array]
) -> Iterator[tuple[tuple[str, str], Array]]:
    """Yield the names of two units that follow each other and the output with them exchanged.

    These are the pairs whose inputs and outputs all have one shape. See
    :func:`without_each_branch` for the arguments.
    """
    units = [index for index, segment in enumerate(segments) if segment.is_unit]
    for first, second in zip(units, units[1:]):
        between = segments[first + 1 : second]
        shapes = {values[index].shape for index in (first, first + 1, second, second + 1)}
        kinds = {layer.kind for segment in between for layer in segment.layers}
        if len(shapes) == 1 and kinds <= {"relu"}:
            exchanged = [segments[second], *between, segments[first], *segments[second + 1 :]]
            names = (segments[first].name, segments[second].name)
            yield names, reduce(partial(through, engine), exchanged, values[first])

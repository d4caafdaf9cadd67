"""What a network loses without a unit's branch, or with two units exchanged.

Source: arXiv:1605.06431, §4, whose experiments these are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial, reduce

from ademx.networks.unravel import Array, Engine, Segment, through


def without_each_branch(
    engine: Engine, segments: Sequence[Segment], values: Sequence[Array]
) -> Iterator[tuple[tuple[str], Array]]:
    """Yield each unit's name, by itself, and the network's output without its branch.

    Args:
        engine: what computes.
        segments: of the network.
        values: what each of them reads, as :func:`ademx.networks.unravel.run` returns it.
    """
    for index, (segment, data) in enumerate(zip(segments, values)):
        if segment.is_unit:
            data = engine.forward(segment, data, segment.shortcut)
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
        if len(shapes) == 1 and all(_is_relu(segment) for segment in between):
            exchanged = [segments[second], *between, segments[first], *segments[second + 1 :]]
            names = (segments[first].name, segments[second].name)
            yield names, reduce(partial(through, engine), exchanged, values[first])


def _is_relu(segment: Segment) -> bool:
    return all(layer.kind == "relu" for layer in segment.layers)

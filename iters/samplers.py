"""In which order an epoch visits the samples; it depends on the seed and the epoch only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

from ademx.compat import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Order = NDArray[np.int64]
    _Labels = Sequence[object]


def epoch_order(sampler: str, labels: _Labels, *, seed: int, epoch: int) -> _Order:
    """Return the samples that an epoch visits, one for each position.

    Args:
        sampler: key of :data:`SAMPLERS`.
        labels: class id of each sample; only "balanced" looks at more than their number.
        seed: 0 or above.
        epoch: from 0.

    Returns:
        (N,) int64, indices of samples, N the number of samples. "balanced" repeats some of
        them and leaves out others.

    Raises:
        ValueError: there is no such sampler.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}: expected one of {', '.join(SAMPLERS)}")
    # The key keeps this stream apart from those of the samples, which are drawn from
    # (seed, epoch, position): numpy takes [seed, epoch] for [seed, epoch, 0].
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(0,)))
    return SAMPLERS[sampler](labels, rng)


def _balanced(labels: _Labels, rng: np.random.Generator) -> _Order:
    """Draw each class once in every run of C positions, C the classes that have samples.

    A class hands out its samples in a random order, and in another one when they are used up.
    """
    classes = np.asarray(labels)
    present = np.unique(classes)
    rounds = -(-len(classes) // len(present))
    turns = np.concatenate([rng.permutation(present) for _ in range(rounds)])[: len(classes)]
    order = np.empty(len(classes), np.int64)
    for one in present:
        places, members = np.flatnonzero(turns == one), np.flatnonzero(classes == one)
        passes = -(-len(places) // len(members))
        drawn = [rng.permutation(members) for _ in range(passes)]
        order[places] = np.concatenate([*drawn, places[:0]])[: len(places)]
    return order


SAMPLERS: dict[str, Callable[[_Labels, np.random.Generator], _Order]] = {
    "fixed": lambda labels, _: np.arange(len(labels)),
    "shuffled": lambda labels, rng: rng.permutation(len(labels)),
    "balanced": _balanced,
}


class Schedule:
    """Which samples a part reads, batch by batch and epoch by epoch.

    Each run of `num_parts` · `batch_size` positions of an epoch goes to the parts in turn, so
    that what all parts read for a batch is what one reader reads whose batches are as large as
    theirs together. The last batches are filled up from the epoch's beginning.

    Attributes:
        num_samples: samples, and positions, in an epoch.
        num_batches: batches in an epoch, the same for all parts.
    """

    def __init__(
        self,
        sampler: str,
        labels: _Labels,
        *,
        seed: int,
        batch_size: int,
        num_parts: int = 1,
        part_index: int = 0,
    ) -> None:
        """Check the arguments.

        Args:
            sampler: key of :data:`SAMPLERS`.
            labels: class id of each sample; see :func:`epoch_order`.
            seed: 0 or above.
            batch_size: samples in a batch of one part.
            num_parts: readers that share an epoch.
            part_index: this one, from 0.

        Raises:
            ValueError: an argument is out of range, or there is no sample or no such sampler.
        """
        if not labels:
            raise InputError("there are no samples: expected at least one")
        if batch_size < 1 or seed < 0:
            raise InputError(f"batch {batch_size}, seed {seed}: expected at least 1 and 0")
        if not 0 <= part_index < num_parts:
            raise InputError(f"part {part_index} of {num_parts}: expected 0 to {num_parts - 1}")
        self.num_samples = len(labels)
        self.num_batches = -(-len(labels) // (batch_size * num_parts))
        self._batch_size = batch_size
        self._num_parts = num_parts
        self._part_index = part_index
        # Two: workers are ahead in the next epoch while this one ends.
        self._order = lru_cache(maxsize=2)(partial(epoch_order, sampler, labels, seed=seed))
        self._order(epoch=0)  # an unknown sampler is known now

    def positions(self, batch: int) -> _Order:
        """Return the positions in the epoch that a batch reads, (batch_size,) int64.

        N and above, N the number of samples, stand for those from the beginning.
        """
        first = (batch * self._num_parts + self._part_index) * self._batch_size
        return np.arange(first, first + self._batch_size)

    def samples(self, epoch: int, positions: _Order) -> _Order:
        """Return the samples at these positions of an epoch, taken modulo their number."""
        samples: _Order = self._order(epoch=epoch)[positions % self.num_samples]
        return samples

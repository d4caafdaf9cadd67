"""Training batches, read ahead: the same whatever the number and kind of workers.

A batch depends on the seed, the epoch and its position in the epoch only. Workers fill a ring of
batches ahead of the training (:mod:`iters.workers`); a batch is copied once, to its own array.

A broken image is replaced by the sample at the next position of the epoch, which is drawn from
as the position that it fills, and wraps round at the epoch's end; where that is broken too, by
the one after. A run ends when more than `max_broken` files have been met that are broken.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.compat import InputError
from iters.samplers import Schedule
from iters.workers import Job, Outcome, Row, Task, WorkerPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from iters.samples import Sample

_logger = logging.getLogger(__name__)

_NAMED = 3  # files in a message; the log has all


class TooManyBroken(InputError):
    """More training images are broken than allowed; the message names the first files."""


@dataclass
class _Pending:
    """A batch that is being filled.

    Attributes:
        slot: its place in the shared memory.
        place: its epoch, and its number in it.
        positions: (N,) position in the epoch of each row.
        samples: (N,) the sample in each row, as it is after replacements.
        steps: (N,) by how many positions that sample lies behind the row's.
        rows_left: rows that workers still have.
        broken: samples that turned out to be broken, and why.
        unfilled: whether a row was given up.
    """

    slot: int
    place: tuple[int, int]
    positions: NDArray[np.int64]
    samples: NDArray[np.int64]
    steps: NDArray[np.int64]
    rows_left: int = 0
    broken: dict[int, str] = field(default_factory=dict)
    unfilled: bool = False


@dataclass(frozen=True)
class Batch:
    """A batch of images and labels.

    Attributes:
        data: (N, 3, H, W) float32.
        label: (N,) class ids, or (N, P) labels of pixels, float32.
        pad: rows that fill up the last batch of an epoch.
        index: (N,) the sample in each row, after replacements.
    """

    data: Any
    label: Any
    pad: int
    index: NDArray[np.int64]


class TrainingBatches:
    """Batches of what an augmentation makes of samples and their labels.

    The augmentation is a :class:`iters.augment_classification.ClassificationAugmentation` or a
    :class:`iters.augment_segmentation.SegmentationAugmentation`, and the labels fit it.

    An epoch has ceil(N / (batch_size · num_parts)) batches; the last is filled up from the
    epoch's beginning, and its `pad` is the number of rows that are.

    Attributes:
        data_shape: of a batch's data.
        label_shape: of its labels.
        num_batches: batches in an epoch.
        epoch: the epoch that `read` reads from.
        broken: sample -> what is wrong with it, of those met in the batches so far.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        augmentation: Any,
        batch_size: int,
        sampler: str = "shuffled",
        seed: int = 0,
        num_parts: int = 1,
        part_index: int = 0,
        prefetcher: str = "process",
        num_workers: int = 1,
        max_broken: int = 10,
        cache_images: bool = False,
    ) -> None:
        """Check the arguments and start the workers.

        Args:
            samples: of one split, each with its label.
            augmentation: how a sample is made; an object that can be pickled. It tells the side of
                its samples, `sample_size`, and the shape of a sample's label, `label_shape`: () for
                a class id, or that of what it makes of a label image.
            batch_size: samples in a batch.
            sampler: "fixed" (the order of the samples), "shuffled", or "balanced", which draws
                classes evenly.
            seed: 0 or above; decides the order and all draws.
            num_parts: machines that share an epoch.
            part_index: this machine, from 0.
            prefetcher: "process" or "thread".
            num_workers: how many of them; with 0, `read` does it by itself.
            max_broken: broken files that are put up with.
            cache_images: keep encoded images in memory, each in one of the workers.

        Raises:
            ValueError: an argument is out of range, or a sample does not fit the task.
        """
        if num_workers < 0 or max_broken < 0:
            raise InputError(f"{num_workers} workers, {max_broken} broken: expected 0 or above")
        label_shape = augmentation.label_shape
        labels = [_label_of(sample, is_image=bool(label_shape)) for sample in samples]
        if sampler == "balanced" and label_shape:
            raise InputError("sampler 'balanced' draws classes: these samples have label images")
        self._samples = samples
        self._labels = labels
        self._schedule = Schedule(
            sampler,
            labels,
            seed=seed,
            batch_size=batch_size,
            num_parts=num_parts,
            part_index=part_index,
        )
        job = Job(
            augmentation=augmentation,
            seed=seed,
            cache_images=cache_images,
            # Two batches ahead of the one that is handed out, and work for every worker.
            num_slots=max(3, 1 + -(-2 * num_workers // batch_size)),
            num_workers=num_workers,
            data_shape=(batch_size, 3, augmentation.sample_size, augmentation.sample_size),
            label_shape=(batch_size, *label_shape),
        )
        self.data_shape, self.label_shape = job.data_shape, job.label_shape
        self.num_batches = self._schedule.num_batches
        self.epoch = 0
        self._batch = 0
        self._max_broken = max_broken
        self.broken: dict[int, str] = {}
        self._pending: deque[_Pending] = deque()
        self._free = list(range(job.num_slots))
        self._pool = WorkerPool(job, prefetcher=prefetcher, file_name=lambda i: str(samples[i]))

    def _copy(self, values: NDArray[np.float32]) -> Any:
        """Return a copy of an array that workers will write to again."""
        return values.copy()

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Make this batch of this epoch the next one, as when a run is resumed.

        Raises:
            ValueError: there is no such batch; `num_batches` stands for the epoch's end.
        """
        if epoch < 0 or not 0 <= batch <= self.num_batches:
            raise InputError(
                f"epoch {epoch}, batch {batch}: expected 0 or above, and 0 to {self.num_batches}"
            )
        self.epoch, self._batch = epoch, batch

    def read(self) -> Batch:
        """Return the next batch.

        Any error, and Ctrl-C, closes them.

        Raises:
            StopIteration: the epoch is over; `seek` goes to the next.
            TooManyBroken: more than `max_broken` files are broken.
            WorkerError: a worker raised or died; the message names its file.
            ValueError: they are closed.
        """
        if self._pool.closed:
            raise InputError("the iterator is closed: make another one")
        if self._batch == self.num_batches:
            raise StopIteration
        try:
            batch = self._take()
        except BaseException:
            self.close()
            raise
        self._batch += 1
        return batch

    def files(self, batch: Batch) -> list[str]:
        """Return the names of the files in a batch of these, row by row."""
        return [str(self._samples[index]) for index in batch.index]

    def close(self) -> None:
        """End the workers; closing twice does no harm."""
        self._pool.close()

    def __enter__(self) -> TrainingBatches:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take(self) -> Batch:
        """Wait for the next batch, copy it, and let the workers have its place."""
        if self._pending and self._pending[0].place != (self.epoch, self._batch):
            self._discard()
        self._prefetch()
        pending = self._pending[0]
        while pending.rows_left:
            self._account(self._pool.receive())
        self._judge(pending)
        memory = self._pool.memory
        batch = Batch(
            data=self._copy(memory.data[pending.slot]),
            label=self._copy(memory.labels[pending.slot]),
            pad=int((pending.positions >= self._schedule.num_samples).sum()),
            index=pending.samples,
        )
        self._free.append(self._pending.popleft().slot)
        self._prefetch()
        return batch

    def _prefetch(self) -> None:
        """Hand out batches for all free places, across the epoch's end."""
        while self._free:
            epoch, batch = self.epoch, self._batch
            if self._pending:
                epoch, batch = self._pending[-1].place
                batch += 1
            if batch == self.num_batches:
                epoch, batch = epoch + 1, 0
            positions = self._schedule.positions(batch)
            samples = self._schedule.samples(epoch, positions)
            steps = np.zeros_like(positions)
            pending = _Pending(self._free.pop(), (epoch, batch), positions, samples, steps)
            self._pending.append(pending)
            self._submit(pending, range(len(positions)))

    def _submit(self, pending: _Pending, rows: Sequence[int]) -> None:
        pending.rows_left += len(rows)
        task_rows = [self._row(pending, row) for row in rows]
        self._pool.submit(Task(pending.slot, pending.place[0], task_rows))

    def _row(self, pending: _Pending, row: int) -> Row:
        index = int(pending.samples[row])
        return Row(
            row=row,
            position=int(pending.positions[row]) % self._schedule.num_samples,
            sample=index,
            image=os.fspath(self._samples[index].image),
            offset=self._samples[index].offset,
            label=self._labels[index],
        )

    def _account(self, outcome: Outcome) -> None:
        """Note which rows are done, and have broken ones filled with what follows them."""
        (pending,) = (one for one in self._pending if one.slot == outcome.slot)
        pending.rows_left -= outcome.num_rows
        for row, reason in outcome.broken.items():
            pending.broken[int(pending.samples[row])] = reason
            pending.steps[row] += 1
            met = len(self.broken.keys() | pending.broken.keys())
            if met > self._max_broken or pending.steps[row] == self._schedule.num_samples:
                pending.unfilled = True
                continue
            following = pending.positions[row] + pending.steps[row]
            pending.samples[row] = self._schedule.samples(pending.place[0], following)
            self._submit(pending, [row])

    def _judge(self, pending: _Pending) -> None:
        """Count the broken files of a batch when it is its turn, whenever they were met."""
        for index, reason in sorted(pending.broken.items()):
            if index not in self.broken:
                self.broken[index] = reason
                _logger.warning("skipped %s: %s", self._samples[index], reason)
        if pending.unfilled or len(self.broken) > self._max_broken:
            found = [f"{self._samples[index]}: {why}" for index, why in self.broken.items()]
            rest = f"; and {len(found) - _NAMED} more, named above" if len(found) > _NAMED else ""
            raise TooManyBroken(
                f"{len(found)} training images are broken: expected at most {self._max_broken} "
                f"(--max-broken) of {self._schedule.num_samples}: mend them or take them out of "
                f"the list: {'; '.join(found[:_NAMED])}{rest}"
            )

    def _discard(self) -> None:
        """Wait for all batches on their way, and forget them."""
        rows_left = sum(pending.rows_left for pending in self._pending)
        while rows_left:
            rows_left -= self._pool.receive().num_rows
        self._free += [pending.slot for pending in self._pending]
        self._pending.clear()


def _label_of(sample: Sample, *, is_image: bool) -> int | str:
    """Return a sample's label as workers take it: a class id, or the path of a label image."""
    label = sample.label
    if label is None or isinstance(label, int) == is_image:
        expected = "label image" if is_image else "class id"
        raise InputError(f"{sample}: label {label}: expected a {expected} to train on")
    return label if isinstance(label, int) else os.fspath(label)

"""Training on a dataset, as the release does it: resumable and deterministic.

What is random is drawn from (seed, worker, update), and all the rest is in the checkpoints: a run
that was stopped and resumed ends with the bits of one that was not, on the CPU and with as many
devices, workers and threads (OMP_NUM_THREADS). Three or more workers of MXNet add up their
gradients in the order in which they come, and asynchronous ones do as they like: there the last
digits differ from run to run.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from ademx.engines.backends import check_backend, open_workers
from ademx.engines.trainer import Sums, Trainer, Workers
from ademx.errors import InputError
from ademx.files import locked
from ademx.training.batches import find_labelled_samples, make_iterator
from ademx.training.checkpoints import Checkpoint
from ademx.training.initial import load_weights
from ademx.training.options import TrainOptions
from ademx.training.progress import Progress, writer_class
from ademx.training.resume import conditions_of, find_checkpoint, restore
from ademx.training.saving import Position, Saver, TrainingDiverged
from ademx.training.start import network_shapes, start_trainer
from ademx.training.stop_signal import Interrupted, StopSignal
from ademx.training.validation import Validator, check_validation
from iters.samples import Sample

if TYPE_CHECKING:
    from iters.batches import Batch, TrainingBatches

# How long one of several workers that was told to stop waits for its data, and with it all the
# others for the update that is to be their last.
_PATIENCE_SECONDS = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainReport:
    """How a run ended.

    Attributes:
        params_path: the newest parameters that were written, or what the run started from; None
            on workers that write none.
        epoch: complete epochs.
        batch: batches of the next one that are done too.
        signal: number of the signal that stopped the run; None if it came to its end.
        late_signal: number of a signal that came when there was nothing left to stop, or None.
    """

    params_path: Path | None
    epoch: int
    batch: int
    signal: int | None
    late_signal: int | None = None


def train(options: TrainOptions) -> TrainReport:
    """Train a network and write checkpoints, `metrics.jsonl` and `run.json` to the output folder.

    SIGTERM, SIGHUP and Ctrl-C end it after the update that is under way, or while it waits for
    data, with a checkpoint that `resume` goes on from, in the middle of an epoch too.

    Raises:
        ValueError: options that do not fit each other, the weights, the data or the output
            folder, or another process trains there; or too many broken images.
        FileNotFoundError: weights or data are missing.
        OSError: a checkpoint could not be written; those before it are untouched.
        TrainingDiverged: the loss became nan; nothing was written after that.
        MissingDependency: what computes, or a writer for TensorBoard, is not installed.

    Source: ademxapp:iclass/ilsvrc.py and issegm/voc.py.
    """
    check_backend(options.backend, options.engine, options.devices, precision=options.precision)
    if options.tensorboard:
        writer_class(options.tensorboard)
    with ExitStack() as stack:
        workers = stack.enter_context(
            open_workers(
                options.kvstore,
                options.devices,
                backend=options.engine,
                backward_do_mirror=options.backward_do_mirror,
            )
        )
        dataset = options.find_dataset()
        samples = find_labelled_samples(options, dataset)
        if options.validate_every:
            check_validation(options)
        if workers.rank == 0:
            stack.enter_context(locked(options.output, "--output"))
        iterator = stack.enter_context(make_iterator(options, dataset, samples, workers))
        return _TrainingRun(options, workers, samples, iterator).train()


class _TrainingRun:
    """One run, from what it starts with to its last checkpoint."""

    def __init__(
        self,
        options: TrainOptions,
        workers: Workers,
        samples: list[Sample],
        iterator: TrainingBatches,
    ) -> None:
        self._options, self._workers, self._iterator = options, workers, iterator
        self._num_batches = iterator.num_batches
        conditions = conditions_of(options, samples, num_workers=workers.count)
        checkpoint = find_checkpoint(options, conditions)
        self._start = Position(options.first_epoch, 0)
        if checkpoint is not None:
            self._start = Position(checkpoint.state.epoch, checkpoint.state.batch)
        first_update = self._start.updates_done(self._num_batches)
        _check_agreement(
            workers,
            {**conditions.settings, "validate_every": options.validate_every or 0},
            first_update,
        )
        if options.validate_every:
            workers.wait_for_all("tested 0", 0)  # when it has to be long, they know each other
        self._resumes = checkpoint is not None
        self._trainer = self._make_trainer(checkpoint, first_update)
        self._saver = Saver(
            options,
            conditions,
            start=self._start,
            num_batches=self._num_batches,
            checkpoint=checkpoint,
        )
        self._progress: Progress | None = None
        self._validator: Validator | None = None
        if workers.rank == 0:
            self._saver.open_folder()
            self._progress = Progress(
                options.output,
                label=str(options.label),
                first_update=first_update,
                last_update=options.last_epoch * self._num_batches,
                num_batches=self._num_batches,
                num_epochs=options.to_epoch,
                tensorboard=options.tensorboard,
                state=checkpoint.state.record.get("progress") if checkpoint else None,
            )
            if options.validate_every:
                self._validator = Validator(options, self._progress, num_batches=self._num_batches)

    def train(self) -> TrainReport:
        """Train until the last epoch or a signal."""
        options, position = self._options, self._start
        patience = _PATIENCE_SECONDS if self._workers.count > 1 else 0
        with ExitStack() as stack:
            stop = stack.enter_context(StopSignal(patience))
            if self._progress is not None:
                stack.enter_context(self._progress)
            if self._resumes:
                self._finish_epoch(position, stop)
            while position.epoch < options.last_epoch and not stop.agreed:
                position = self._train_epoch(position, stop)
                if self._progress is not None:
                    self._saver.save_if_due(
                        position, self._trainer, self._progress.state(), stops=stop.agreed
                    )
                self._finish_epoch(position, stop)
            if self._validator is not None:
                self._validator.tell_end()
        writes = self._workers.rank == 0
        newest = self._saver.newest if writes else None
        is_done = position.epoch == options.last_epoch and not (
            self._validator is not None and self._validator.is_unfinished
        )
        number = stop.number if stop.agreed and not is_done else None
        if number is not None and writes:
            _log.warning(
                "stopped by %s after %d complete epochs and %d batches; --resume %s",
                signal.Signals(number).name,
                *position,
                f"goes on from {newest}" if newest else "starts again",
            )
        late = stop.number if number is None else None
        return TrainReport(newest, *position, signal=number, late_signal=late)

    def _train_epoch(self, position: Position, stop: StopSignal) -> Position:
        """Train to the end of an epoch, or to where all workers stop; return the position."""
        epoch, done = position
        self._iterator.seek(epoch, done)
        if self._progress is not None:
            self._progress.start_clock()
        pending: list[Callable[[], bool]] = []
        while done < self._num_batches and not stop.agreed:
            started = time.monotonic()
            batch = self._next_batch(stop)
            if batch is None and stop.agreed:
                break
            wait = time.monotonic() - started
            update = Position(epoch, done).updates_done(self._num_batches)
            rate = self._trainer.rate
            data, label = (batch.data, batch.label) if batch else (None, None)
            sums = self._trainer.start(
                data, label, seed=self._seed_of(update), stop=stop.number is not None
            )
            pending.append(partial(self._report_update, update, rate, batch, sums, wait))
            done += 1
            # The update before is read while this one is computed.
            while len(pending) > self._trainer.goes_ahead:
                stop.agreed |= pending.pop(0)()
        for report in pending:
            stop.agreed |= report()
        return Position(epoch, done) if done < self._num_batches else Position(epoch + 1, 0)

    def _finish_epoch(self, position: Position, stop: StopSignal) -> None:
        """Test the checkpoint of an epoch where that is due, and remove those not to be kept.

        Worker 0 tests; the others wait for it, however long that takes. A signal to any of them
        stops all.
        """
        if position.batch == 0 and self._options.is_validated(position.epoch):
            if self._validator is not None and self._saver.newest is not None:
                self._validator.validate(position.epoch, self._saver.newest, stop)
            if not stop.agreed:
                told = int(stop.number is not None)
                stop.agreed = any(self._workers.wait_for_all(f"tested {position.epoch}", told))
        if self._progress is not None:
            self._saver.remove_old(position)

    def _next_batch(self, stop: StopSignal) -> Batch | None:
        """Return the next batch; None if a signal came first, after which there is no other.

        Then this worker alone agrees with itself. Of several synchronous ones the others wait for
        its share of the update, and of the next, until all know that one was told to stop.
        """
        try:
            with stop.interrupting():
                return self._iterator.read()
        except Interrupted:
            stop.agreed = self._workers.count == 1 or not self._workers.synchronous
            if not stop.agreed:
                _log.warning(
                    "worker %d was told to stop and gets no data: its images are missing in the "
                    "update that the others wait for",
                    self._workers.rank,
                )
            return None

    def _report_update(
        self,
        number: int,
        rate: float,
        batch: Batch | None,
        find_sums: Callable[[], Sums],
        wait: float,
    ) -> bool:
        """Wait for an update and show it; return whether a worker was asked to stop.

        Args:
            number: of the update, from 0, in the whole training.
            rate: its learning rate.
            batch: this worker's images; None if it had none.
            find_sums: waits for the update and returns what it found.
            wait: seconds that the batch was waited for.
        """
        sums = find_sums()
        if not math.isfinite(sums.loss):
            files = "\n  ".join(self._iterator.files(batch) if batch else ())
            raise TrainingDiverged(
                f"the loss became {sums.loss} at update {number + 1} (epoch "
                f"{number // self._num_batches + 1}), learning rate {rate:g}; "
                f"{self._saver.advice_after_failure(self._workers.rank)}, with a lower --base-lr; "
                f"worker {self._workers.rank}'s batch:\n  {files}"
            )
        if self._progress is not None:
            self._progress.update(
                number + 1,
                lr=rate,
                sums=self._metrics(sums),
                count=sums.count,
                images=self._options.batch_images * self._workers.count,
                wait=wait,
            )
        return sums.stop > 0

    def _metrics(self, sums: Sums) -> dict[str, float]:
        """Return what is shown, summed over the labels; errors and accuracies in percent."""
        if self._options.task == "segmentation":
            return {"loss": sums.loss, "pixel_accuracy": 100 * sums.top1}
        return {
            "loss": sums.loss,
            "top1_error": 100 * (sums.count - sums.top1),
            "top5_error": 100 * (sums.count - sums.top5),
        }

    def _seed_of(self, update: int) -> int:
        """Return the seed of an update's random numbers, different for every worker."""
        sequence = np.random.SeedSequence([self._options.seed, self._workers.rank, update])
        return int(sequence.generate_state(1)[0] >> 1)

    def _make_trainer(self, checkpoint: Checkpoint | None, first_update: int) -> Trainer:
        options, values = self._options, None
        if checkpoint is not None:
            shapes = network_shapes(options)
            values = load_weights(checkpoint.params_path, options.label, shapes)
        trainer = start_trainer(
            options,
            data_shape=self._iterator.data_shape,
            num_batches=self._num_batches,
            values=values,
            first_update=first_update,
            workers=self._workers,
        )
        if checkpoint is not None:
            restore(trainer, checkpoint.state, options)
        return trainer


def _check_agreement(workers: Workers, settings: dict[str, Any], first_update: int) -> None:
    """Raise ValueError unless all workers train the same and start at the same update."""
    rest = dict(settings)
    groups = {"data": ("samples_md5", "labels_md5"), "weights": ("weights_md5",)}
    parts = {group: [rest.pop(name) for name in names] for group, names in groups.items()}
    for group, values in {**parts, "options": sorted(rest.items())}.items():
        # A number that servers, whose sums are float32, keep.
        found = workers.gather(group, crc32(json.dumps(values).encode()) >> 8)
        if len(set(found)) > 1:
            others = [rank for rank, one in enumerate(found) if one != found[0]]
            raise InputError(
                f"workers {others} have other {group} than worker 0: give all the same options, "
                "and the same files at --data-root and --weights"
            )
    starts = workers.gather("start", first_update)
    if len(set(starts)) > 1:
        raise InputError(
            f"workers would start after {starts} updates: give all the same options and the "
            "same --output, which all of them must see"
        )

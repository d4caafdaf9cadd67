"""Training on a dataset, as the release does it (SPEC §4): resumable and deterministic.

What is random is drawn from (seed, worker, update), and all the rest is in the checkpoints: a run
that was stopped and resumed ends with the bits of one that was not, on the CPU and with as many
devices, workers and threads (OMP_NUM_THREADS). Three or more workers add up their gradients in
the order in which they come, and asynchronous ones do as they like: there the last digits differ
from run to run.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.compat import check_bfloat16
from ademx.engines.backends import open_workers
from ademx.engines.trainer import Sums, Trainer
from ademx.files import locked, write_json
from ademx.training import checkpoints
from ademx.training.batches import find_labelled_samples, make_iterator
from ademx.training.checkpoints import Checkpoint, State
from ademx.training.initial import load_weights
from ademx.training.options import TrainOptions
from ademx.training.progress import METRICS_FILE, Progress
from ademx.training.start import network_shapes, start_trainer
from ademx.versions import versions
from iters.samples import Sample

if TYPE_CHECKING:
    from mxnet.io import DataBatch

    from ademx.engines.mxnet.train import Workers

RUN_FILE = "run.json"

# How long one of several workers that was told to stop waits for its data, and with it all the
# others for the update that is to be their last.
_PATIENCE_SECONDS = 10.0

_log = logging.getLogger(__name__)


class TrainingDiverged(RuntimeError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class TrainReport:
    """How a run ended.

    Attributes:
        params_path: the newest parameters that worker 0 wrote, or what the run started from.
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

    SIGTERM and Ctrl-C end it after the update that is under way, or while it waits for data, with
    a checkpoint that `resume` goes on from, in the middle of an epoch too.

    Raises:
        ValueError: options that do not fit each other, the weights, the data or the output
            folder, or another process trains there; or too many broken images.
        FileNotFoundError: weights or data are missing.
        OSError: a checkpoint could not be written; those before it are untouched.
        TrainingDiverged: the loss became nan; nothing was written after that.

    Source: SPEC §4; ademxapp:iclass/ilsvrc.py and issegm/voc.py.
    """
    if options.precision == "bfloat16":
        check_bfloat16()
    with ExitStack() as stack:
        workers = stack.enter_context(open_workers(options.kvstore, options.num_devices))
        dataset = options.find_dataset()
        samples = find_labelled_samples(options, dataset)
        if workers.rank == 0:
            stack.enter_context(locked(options.output, "--output"))
        iterator = stack.enter_context(make_iterator(options, dataset, samples, workers))
        return _Run(options, workers, samples, iterator).go()


class _Run:
    """One run, from what it starts with to its last checkpoint.

    A position is (complete epochs, batches of the next one that are done).
    """

    def __init__(
        self, options: TrainOptions, workers: Workers, samples: list[Sample], iterator: Any
    ) -> None:
        self._options, self._workers, self._iterator = options, workers, iterator
        self._label = str(options.label)
        self._settings = json.loads(json.dumps(options.settings(samples)))
        self._hardware = {
            "workers": workers.count,
            "devices": options.devices.names(),
            # MKLDNN's sums go by them.
            "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count(),
        }
        checkpoint = self._find_checkpoint()
        self._start = (options.first_epoch, 0)
        if checkpoint is not None:
            self._start = (checkpoint.state.epoch, checkpoint.state.batch)
        self._check_agreement()
        self._trainer = self._make_trainer(checkpoint)
        self._newest = checkpoint.params_path if checkpoint else options.weights
        self._saved = self._start
        self._progress: Progress | None = None
        if workers.rank == 0:
            self._open_folder(checkpoint)
            self._progress = self._make_progress(checkpoint)

    def go(self) -> TrainReport:
        """Train until the last epoch or a signal."""
        options, position = self._options, self._start
        patience = _PATIENCE_SECONDS if self._workers.count > 1 else 0
        with ExitStack() as stack:
            stop = stack.enter_context(_StopSignal(patience))
            if self._progress is not None:
                stack.enter_context(self._progress)
            while position[0] < options.last_epoch and not stop.agreed:
                position = self._train_epoch(position, stop)
                if position == self._saved:
                    continue
                if position[1] == 0 and options.has_checkpoint(position[0]):
                    self._save(position, interrupted=False)
                elif stop.agreed:
                    self._save(position, interrupted=True)
        number = stop.number if stop.agreed and position[0] < options.last_epoch else None
        if number is not None and self._workers.rank == 0:
            _log.warning(
                "stopped by %s after %d complete epochs and %d batches; --resume %s",
                signal.Signals(number).name,
                *position,
                f"goes on from {self._newest}" if self._newest else "starts again",
            )
        late = stop.number if number is None else None
        return TrainReport(self._newest, *position, signal=number, late_signal=late)

    def _train_epoch(self, position: tuple[int, int], stop: _StopSignal) -> tuple[int, int]:
        """Train to the end of an epoch, or to where all workers stop; return the position."""
        epoch, done = position
        self._iterator.seek(epoch, done)
        if self._progress is not None:
            self._progress.start_clock()
        pending: _Update | None = None
        while done < self._iterator.num_batches and not stop.agreed:
            started = time.monotonic()
            batch = self._next_batch(stop)
            if batch is None and stop.agreed:
                break
            wait = time.monotonic() - started
            update = self._count((epoch, done))
            rate = self._trainer.rate
            data, label = (batch.data[0], batch.label[0]) if batch else (None, None)
            sums = self._trainer.start(
                data, label, seed=self._draw(update), stop=stop.number is not None
            )
            # The update before is read while this one is computed.
            if pending is not None:
                stop.agreed |= self._account(pending)
            pending = _Update(update, rate, batch, sums, wait)
            done += 1
        if pending is not None:
            stop.agreed |= self._account(pending)
        return (epoch, done) if done < self._iterator.num_batches else (epoch + 1, 0)

    def _next_batch(self, stop: _StopSignal) -> DataBatch | None:
        """Return the next batch; None if a signal came first, after which there is no other.

        Then this worker alone agrees with itself. Of several synchronous ones the others wait for
        its share of the update, and of the next, until all know that one was told to stop.
        """
        try:
            with stop.interrupting():
                return self._iterator.next()
        except _Interrupted:
            stop.agreed = self._workers.count == 1 or not self._workers.synchronous
            if not stop.agreed:
                _log.warning(
                    "worker %d was told to stop and gets no data: its images are missing in the "
                    "update that the others wait for",
                    self._workers.rank,
                )
            return None

    def _account(self, update: _Update) -> bool:
        """Wait for an update and show it; return whether a worker was asked to stop."""
        sums = update.sums()
        if not math.isfinite(sums.loss):
            files = "\n  ".join(self._iterator.files(update.batch) if update.batch else ())
            raise TrainingDiverged(
                f"the loss became {sums.loss} at update {update.number + 1} (epoch "
                f"{update.number // self._iterator.num_batches + 1}), learning rate {update.lr:g}; "
                f"{self._way_back()}, with a lower --base-lr; worker {self._workers.rank}'s batch:"
                f"\n  {files}"
            )
        if self._progress is not None:
            self._progress.update(
                update.number + 1,
                lr=update.lr,
                sums=self._metrics(sums),
                count=sums.count,
                images=self._options.batch_images * self._workers.count,
                wait=update.wait,
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

    def _count(self, position: tuple[int, int]) -> int:
        """Return the updates of the whole training that are done at a position."""
        return position[0] * int(self._iterator.num_batches) + position[1]

    def _draw(self, update: int) -> int:
        """Return the seed of an update's random numbers, different for every worker."""
        sequence = np.random.SeedSequence([self._options.seed, self._workers.rank, update])
        return int(sequence.generate_state(1)[0] >> 1)

    def _find_checkpoint(self) -> Checkpoint | None:
        """Return what to go on from, or check that nothing would be overwritten."""
        options = self._options
        if options.overwrite:
            return None
        if not options.resume:
            held = checkpoints.held_files(options.output, self._label, after=options.first_epoch)
            if held:
                raise ValueError(
                    f"--output {options.output}: holds {held[0].name} and {len(held) - 1} more "
                    f"files of a training of {self._label}: go on with it by --resume, remove "
                    "them by --overwrite, or choose another folder"
                )
            return None
        checkpoint = checkpoints.find_newest(options.output, self._label)
        if checkpoint is None:
            held = checkpoints.held_files(options.output, self._label, after=options.first_epoch)
            damaged = [path for path in held if path.suffix == ".state"]
            if damaged:
                raise ValueError(
                    f"--resume: {damaged[0]} and {len(damaged) - 1} more are damaged or do not "
                    "belong to their .params: there is nothing to go on from; start from a .params "
                    "by --weights with another --output, or anew by --overwrite"
                )
            _log.info("--resume: no complete checkpoint in %s: starting", options.output)
            return None
        self._check_resumable(checkpoint)
        _log.info("going on from %s", checkpoint.params_path)
        return checkpoint

    def _check_resumable(self, checkpoint: Checkpoint) -> None:
        record = checkpoint.state.record
        self._check_same_updates(checkpoint)
        # Versions before labels counted have none there; how many images go to a worker does not
        # matter.
        held = {"labels_md5": self._settings["labels_md5"], **record["settings"]}
        held["batch_images"] = self._settings["batch_images"]
        differences = "; ".join(
            f"{name} was {held.get(name)!r}, now {self._settings.get(name)!r}"
            for name in sorted(held.keys() | self._settings.keys())
            if held.get(name) != self._settings.get(name)
        )
        if differences:
            raise ValueError(
                f"--resume: {checkpoint.params_path} was made with other settings: {differences}; "
                "give those, or start from it by --weights with another --output"
            )
        if record["hardware"] != self._hardware:
            _log.warning(
                "going on with %s after %s: results will differ in their last digits",
                *(self._hardware, record["hardware"]),
            )

    def _check_same_updates(self, checkpoint: Checkpoint) -> None:
        """Raise ValueError unless an update is of as many images as before, over all workers.

        Else epochs, rates and positions within an epoch would be counted in other updates.
        """
        record, workers = checkpoint.state.record, self._workers.count
        counts = (record["hardware"]["workers"], workers)
        shares = (record["settings"]["batch_images"], self._options.batch_images)
        before, now = (count * share for count, share in zip(counts, shares))
        if before == now:
            return
        cure = f"--batch-images {before // workers}"
        if before % workers:
            cure = f"a number of workers that divides {before}"
        raise ValueError(
            f"--resume: {checkpoint.params_path} was made by updates of {before} images (workers "
            f"times --batch-images: {counts[0]} times {shares[0]}), these would be of {now} "
            f"({counts[1]} times {shares[1]}): give {cure}, or start from it by --weights with "
            "another --output"
        )

    def _check_agreement(self) -> None:
        """Raise ValueError unless all workers start at the same update."""
        starts = self._workers.gather("start", self._count(self._start))
        if len(set(starts)) > 1:
            raise ValueError(
                f"workers would start after {starts} updates: give all the same options and the "
                "same --output, which all of them must see"
            )

    def _make_trainer(self, checkpoint: Checkpoint | None) -> Trainer:
        options, values = self._options, None
        if checkpoint is not None:
            shapes = network_shapes(options)
            values = load_weights(checkpoint.params_path, options.label, shapes)
        trainer = start_trainer(
            options,
            data_shape=self._iterator.provide_data[0].shape,
            num_batches=self._iterator.num_batches,
            values=values,
            first_update=self._count(self._start),
            workers=self._workers,
        )
        if checkpoint is not None:
            self._restore(trainer, checkpoint.state)
        return trainer

    def _restore(self, trainer: Trainer, state: State) -> None:
        # On as many devices as before; on others the mean statistics of the file will do.
        same = len(state.device_statistics) == self._options.num_devices
        trainer.restore(state.momentum, state.device_statistics if same else ())
        if state.record["loss_scaling"] is not None and self._options.precision == "float16":
            trainer.restore_scaling(*state.record["loss_scaling"])
        if not self._workers.synchronous:
            _log.warning("dist_async: the servers' momentum is not in a checkpoint: it starts at 0")

    def _save(self, position: tuple[int, int], *, interrupted: bool) -> None:
        """Write a checkpoint (worker 0), and remove interrupted ones that it supersedes."""
        self._saved = position
        if self._progress is None:
            return
        output = self._options.output
        if interrupted:
            path = checkpoints.interrupted_path(output, self._label, self._count(position))
        else:
            path = checkpoints.epoch_path(output, self._label, position[0])
        arg_params, aux_params = self._trainer.parameters()
        broken = [name for name, value in arg_params.items() if not np.isfinite(value).all()]
        if broken:
            raise TrainingDiverged(
                f"the last update made {len(broken)} parameters infinite or nan ({broken[0]}, …): "
                f"they are not saved; {self._way_back()}, with a lower --base-lr"
            )
        statistics = self._trainer.statistics() if self._options.num_devices > 1 else []
        state = State(
            epoch=position[0],
            batch=position[1],
            record={
                "settings": self._settings,
                "hardware": self._hardware,
                "versions": versions(),
                "num_batches": self._iterator.num_batches,
                "lr": self._trainer.rate,
                "loss_scaling": self._trainer.scaling(),
                "progress": self._progress.state(),
            },
            momentum=self._trainer.momentum(),
            device_statistics=tuple(statistics),
        )
        try:
            checkpoints.save(path, arg_params, aux_params, state)
        except OSError as error:
            message = f"{error.strerror}; mend that, then {self._way_back()} by --resume"
            raise OSError(error.errno, message, str(path)) from error
        self._newest = path
        checkpoints.remove_interrupted(output, self._label, keep=path)

    def _way_back(self) -> str:
        """Return what to do after a failure, for its message."""
        if self._newest is None and self._workers.rank:
            return "go on from what worker 0 has saved"
        return f"go on from {self._newest}" if self._newest else "start again"

    def _open_folder(self, checkpoint: Checkpoint | None) -> None:
        """Make the output folder ready and write `run.json`."""
        options = self._options
        output = options.output
        output.mkdir(parents=True, exist_ok=True)
        _set_aside(output, self._label)
        checkpoints.remove_partial(output, self._label)
        if options.overwrite:
            held = checkpoints.held_files(output, self._label, after=options.first_epoch)
            for path in (*held, output / METRICS_FILE):
                path.unlink(missing_ok=True)
        weights = options.weights
        write_json(
            output / RUN_FILE,
            {
                "label": self._label,
                "settings": self._settings,
                "hardware": {**self._hardware, "kvstore": options.kvstore},
                "weights": str(weights) if weights else None,
                "resumed_from": str(checkpoint.params_path) if checkpoint else None,
                "first_update": self._count(self._start),
                "updates_per_epoch": self._iterator.num_batches,
                "versions": versions(),
            },
        )

    def _make_progress(self, checkpoint: Checkpoint | None) -> Progress:
        return Progress(
            self._options.output,
            label=self._label,
            first_update=self._count(self._start),
            last_update=self._count((self._options.last_epoch, 0)),
            num_batches=self._iterator.num_batches,
            num_epochs=self._options.to_epoch,
            tensorboard=self._options.tensorboard,
            state=checkpoint.state.record.get("progress") if checkpoint else None,
        )


@dataclass(frozen=True)
class _Update:
    """An update that is under way.

    Attributes:
        number: from 0, in the whole training.
        lr: its rate.
        batch: this worker's images; None if it had none.
        sums: waits for the update and returns what it found.
        wait: seconds that the batch was waited for.
    """

    number: int
    lr: float
    batch: DataBatch | None
    sums: Callable[[], Sums]
    wait: float


class _Interrupted(BaseException):
    """A signal to stop has come while something was waited for."""


class _StopSignal:
    """Notes SIGTERM and Ctrl-C; a second Ctrl-C interrupts at once. A context manager.

    Args:
        patience: seconds from a signal to when it ends the waiting in `interrupting`.

    Attributes:
        number: number of the signal, once it has come.
        agreed: all workers know that they stop after the update that is under way.
    """

    def __init__(self, patience: float) -> None:
        self.number: int | None = None
        self.agreed = False
        self._patience = patience
        self._is_due = self._is_waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._ring)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise `_Interrupted` in the block once a signal has come, whatever it waits for."""
        try:
            self._is_waiting = True
            if self._is_due:
                raise _Interrupted
            yield
        finally:
            self._is_waiting = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        if self._patience:
            signal.setitimer(signal.ITIMER_REAL, self._patience)
        else:
            self._ring(number, frame)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        self._is_due = True
        if self._is_waiting:
            self._is_waiting = False  # once: what is waited for may have to be put in order
            raise _Interrupted


def _set_aside(output: Path, label: str) -> None:
    """Rename `run.json` and `metrics.jsonl` of another label, and bring back those of this one.

    The release keeps all of its models in one folder.
    """
    other = _label_in(output / RUN_FILE)
    if other in (None, label):
        return
    for name in (RUN_FILE, METRICS_FILE):
        if (output / name).exists():
            # What stands in a file is anybody's: it may not lead out of the folder.
            (output / name).rename(output / f"{re.sub('[^A-Za-z0-9_.-]', '_', other)}_{name}")
        if (output / f"{label}_{name}").exists():
            (output / f"{label}_{name}").rename(output / name)


def _label_in(path: Path) -> str | None:
    """Return the label in a `run.json`; None if there is no such file, or it is damaged.

    Raises:
        ValueError: it is of no training.
    """
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        _log.warning("%s: damaged (%s): is written anew", path, error)
        return None
    label = record.get("label") if isinstance(record, dict) else None
    if not isinstance(label, str):
        raise ValueError(
            f"{path}: was not written by a training: move it away, or choose another --output"
        )
    return label

"""What a run writes to its output folder beside its metrics: `run.json` and checkpoints."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ademx.engines.trainer import Trainer
from ademx.errors import InputError, UserError
from ademx.files import write_json
from ademx.training import checkpoints
from ademx.training.checkpoints import Checkpoint, State
from ademx.training.options import TrainOptions
from ademx.training.progress import METRICS_FILE
from ademx.training.resume import Conditions
from ademx.versions import versions

RUN_FILE = "run.json"

_log = logging.getLogger(__name__)


class TrainingDiverged(UserError, RuntimeError):
    """The loss is no number any more."""


class Position(NamedTuple):
    """How far a training has come: complete epochs, and batches of the next one that are done."""

    epoch: int
    batch: int

    def updates_done(self, num_batches: int) -> int:
        """Return the updates of the whole training that come before."""
        return self.epoch * num_batches + self.batch


class Saver:
    """Saves a run; of several workers, worker 0's alone opens the folder and writes.

    Args:
        options: of the run.
        conditions: of the run.
        start: where it starts.
        num_batches: updates in an epoch.
        checkpoint: what it goes on from; None where it begins.

    Attributes:
        newest: the newest parameters that were written, or what the run started from.
    """

    def __init__(
        self,
        options: TrainOptions,
        conditions: Conditions,
        *,
        start: Position,
        num_batches: int,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._options, self._conditions = options, conditions
        self._label, self._num_batches = str(options.label), num_batches
        self._resumed_from = checkpoint.params_path if checkpoint else None
        self._start = self._saved = start
        self.newest = self._resumed_from or options.weights

    def open_folder(self) -> None:
        """Make the output folder ready and write `run.json`."""
        options, output = self._options, self._options.output
        output.mkdir(parents=True, exist_ok=True)
        _exchange_label_files(output, self._label)
        checkpoints.remove_partial(output, self._label)
        if options.overwrite:
            held = checkpoints.held_files(output, self._label, after=options.first_epoch)
            for path in (*held, output / METRICS_FILE):
                path.unlink(missing_ok=True)
        write_json(
            output / RUN_FILE,
            {
                "label": self._label,
                "settings": self._conditions.settings,
                "hardware": {**self._conditions.hardware, "kvstore": options.kvstore},
                "weights": str(options.weights) if options.weights else None,
                "resumed_from": str(self._resumed_from) if self._resumed_from else None,
                "first_update": self._start.updates_done(self._num_batches),
                "updates_per_epoch": self._num_batches,
                "versions": versions(),
            },
        )

    def save_if_due(
        self, position: Position, trainer: Trainer, progress: dict[str, Any], *, stops: bool
    ) -> None:
        """Write the checkpoint of an epoch or of a stop, and remove interrupted ones before it.

        Raises:
            TrainingDiverged: the parameters are no numbers.
            OSError: the disk is full, …
        """
        is_whole = position.batch == 0 and self._options.has_checkpoint(position.epoch)
        if position == self._saved or not (is_whole or stops):
            return
        output = self._options.output
        path = checkpoints.epoch_path(output, self._label, position.epoch)
        if not is_whole:
            update = position.updates_done(self._num_batches)
            path = checkpoints.interrupted_path(output, self._label, update)
        parameters = trainer.parameters()
        self._check_finite(parameters[0])
        statistics = trainer.statistics() if self._options.devices.count > 1 else ()
        state = State(
            *position,
            record={
                "settings": self._conditions.settings,
                "hardware": self._conditions.hardware,
                "versions": versions(),
                "num_batches": self._num_batches,
                "lr": trainer.rate,
                "loss_scaling": trainer.scaling(),
                "progress": progress,
            },
            momentum=trainer.momentum(),
            device_statistics=tuple(statistics),
        )
        try:
            checkpoints.save(path, *parameters, state)
        except OSError as error:
            advice = self.advice_after_failure()
            message = f"{error.strerror}; mend that, then {advice} by --resume"
            raise OSError(error.errno, message, str(path)) from error
        self._saved, self.newest = position, path
        checkpoints.remove_interrupted(output, self._label, keep=path)

    def remove_old(self, position: Position) -> None:
        """Remove the checkpoints of this training that are not to be kept, up to a position."""
        options = self._options
        if options.keep is not None:
            epochs = {*range(options.first_epoch + 1, position.epoch + 1)}
            checkpoints.remove_all_but(
                options.output, self._label, keep=options.keep, epochs=epochs
            )

    def _check_finite(self, parameters: checkpoints.Arrays) -> None:
        broken = [name for name, value in parameters.items() if not np.isfinite(value).all()]
        if broken:
            raise TrainingDiverged(
                f"the last update made {len(broken)} parameters infinite or nan ({broken[0]}, …): "
                f"they are not saved; {self.advice_after_failure()}, with a lower --base-lr"
            )

    def advice_after_failure(self, rank: int = 0) -> str:
        """Return what to do when a worker has failed, for its message."""
        if self.newest is None and rank:
            return "go on from what worker 0 has saved"
        return f"go on from {self.newest}" if self.newest else "start again"


def _exchange_label_files(output: Path, label: str) -> None:
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
        raise InputError(
            f"{path}: was not written by a training: move it away, or choose another --output"
        )
    return label

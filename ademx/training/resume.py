"""Going on with a training that was stopped: its checkpoint is found, checked and taken up."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ademx.engines.trainer import Trainer
from ademx.errors import InputError
from ademx.options import differences
from ademx.training import checkpoints
from ademx.training.checkpoints import Checkpoint, State
from ademx.training.options import TrainOptions
from iters.samples import Sample

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditions:
    """What a run's numbers go by, as JSON has it.

    Attributes:
        settings: what decides the weights.
        hardware: what decides their last digits.
    """

    settings: dict[str, Any]
    hardware: dict[str, Any]


def conditions_of(
    options: TrainOptions, samples: Sequence[Sample], *, num_workers: int
) -> Conditions:
    """Return the conditions of a run on this machine."""
    return Conditions(
        settings=options.settings(samples),
        hardware={
            "backend": options.engine,
            "workers": num_workers,
            "devices": options.devices.names(),
            # MKLDNN's sums go by them.
            "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count(),
        },
    )


def find_checkpoint(options: TrainOptions, conditions: Conditions) -> Checkpoint | None:
    """Return what to go on from; None for a run that begins and overwrites nothing unasked.

    Raises:
        ValueError: the output folder holds checkpoints and the options do not say what of them,
            they are damaged, or were made under other conditions.
    """
    output, label = options.output, str(options.label)
    held = checkpoints.held_files(output, label, after=options.first_epoch)
    if options.overwrite:
        if options.weights and any(options.weights.samefile(path) for path in held):
            raise InputError(
                f"--overwrite: --weights {options.weights} would be removed: choose another "
                "--output, or copy it elsewhere"
            )
        return None
    if not options.resume:
        if held:
            raise InputError(
                f"--output {output}: holds {held[0].name} and {len(held) - 1} more files of a "
                f"training of {label}: go on with it by --resume, remove them by --overwrite, or "
                "choose another folder"
            )
        return None
    checkpoint = checkpoints.find_newest(output, label)
    if checkpoint is None:
        damaged = [path for path in held if path.suffix == ".state"]
        if damaged:
            raise InputError(
                f"--resume: {damaged[0]} and {len(damaged) - 1} more are damaged or do not "
                "belong to their .params: there is nothing to go on from; start from a .params "
                "by --weights with another --output, or anew by --overwrite"
            )
        _log.info("--resume: no complete checkpoint in %s: starting", output)
        return None
    _check_same_updates(checkpoint, conditions)
    _check_same_settings(checkpoint, conditions, options)
    _log.info("going on from %s", checkpoint.params_path)
    return checkpoint


def find_finished(options: TrainOptions) -> Path | None:
    """Return the weights if the last checkpoint is there, made with the same settings.

    Which samples it was trained on is not compared: a finished training needs no data.
    """
    checkpoint = checkpoints.find_newest(options.output, str(options.label))
    if checkpoint is None or checkpoint.state.epoch < options.last_epoch:
        return None
    if options.weights is not None and not options.weights.is_file():
        return None
    held = checkpoint.state.record["settings"]
    settings = options.settings([])
    del settings["samples_md5"], settings["labels_md5"]
    same = all(held.get(name) == value for name, value in settings.items())
    return checkpoint.params_path if same else None


def _check_same_updates(checkpoint: Checkpoint, conditions: Conditions) -> None:
    """Raise ValueError unless an update is of as many images as before, over all workers.

    Else epochs, rates and positions within an epoch would be counted in other updates.
    """
    record, workers = checkpoint.state.record, conditions.hardware["workers"]
    counts = (record["hardware"]["workers"], workers)
    shares = (record["settings"]["batch_images"], conditions.settings["batch_images"])
    before, now = (count * share for count, share in zip(counts, shares))
    if before == now:
        return
    cure = f"--batch-images {before // workers}"
    if before % workers:
        cure = f"a number of workers that divides {before}"
    raise InputError(
        f"--resume: {checkpoint.params_path} was made by updates of {before} images (workers "
        f"times --batch-images: {counts[0]} times {shares[0]}), these would be of {now} "
        f"({counts[1]} times {shares[1]}): give {cure}, or start from it by --weights with "
        "another --output"
    )


def _check_same_settings(
    checkpoint: Checkpoint, conditions: Conditions, options: TrainOptions
) -> None:
    """Raise ValueError for other settings, warn of other hardware."""
    record, settings = checkpoint.state.record, conditions.settings
    # Versions before labels counted have none there; how many images go to a worker does not
    # matter.
    held = {"labels_md5": settings["labels_md5"], **record["settings"]}
    held["batch_images"] = settings["batch_images"]
    found = differences(options, held, settings)
    if found:
        raise InputError(
            f"--resume: {checkpoint.params_path} was made with other settings: {found}; "
            "give those, or start from it by --weights with another --output"
        )
    before = {"backend": "mxnet", **record["hardware"]}  # of when there was no other
    if before != conditions.hardware:
        _log.warning(
            "going on with %s after %s: results will differ in their last digits",
            *(conditions.hardware, before),
        )


def restore(trainer: Trainer, state: State, options: TrainOptions) -> None:
    """Take up what a checkpoint has beside its parameters."""
    # On as many devices as before; on others the mean statistics of the file will do.
    same = len(state.device_statistics) == options.devices.count
    trainer.restore(state.momentum, state.device_statistics if same else ())
    if state.record["loss_scaling"] is not None and options.precision == "float16":
        trainer.restore_scaling(*state.record["loss_scaling"])
    if options.kvstore == "dist_async":
        _log.warning("dist_async: the servers' momentum is not in a checkpoint: it starts at 0")

"""Checkpoints: a `.params` file and, beside it, the `.state` that a training goes on from.

A state is a numpy `.npz` (a zip of plain arrays, no pickle) that holds a JSON record, the
optimiser's momentum and the moving statistics of every device. It is written after the
parameters and names their MD5: a pair of files is complete if both are whole and the MD5 is the
file's. A crash in mid-write thus leaves the pairs before it and nothing that passes for one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ademx import params
from ademx.errors import InputError
from ademx.files import DAMAGED_ARRAYS, md5, replacing, write_npz
from ademx.labels import BEST

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

_VERSION = 1
# What json, zipfile and numpy raise where a file is damaged; RuntimeError is also that of bits
# that say "encrypted" or "another compression", and of JSON that is nested without end.
_UNREADABLE: tuple[type[Exception], ...] = (*DAMAGED_ARRAYS, TypeError, AttributeError)

_log = logging.getLogger(__name__)


class BrokenState(InputError):
    """A state file is damaged, is no state file, or does not belong to its parameters."""


@dataclass(frozen=True)
class State:
    """What a training needs beside its parameters to go on.

    Attributes:
        epoch: epochs that are complete.
        batch: batches of the next epoch that are done too.
        record: settings, versions and counts, as JSON has them.
        momentum: parameter -> momentum, float32; empty where servers hold it.
        device_statistics: for each device, its moving statistics by name; empty where all
            devices have those of the `.params` file.
    """

    epoch: int
    batch: int
    record: dict[str, Any]
    momentum: Arrays = field(default_factory=dict)
    device_statistics: tuple[Arrays, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A complete pair of files.

    Attributes:
        params_path: the parameters.
        state: the rest.
    """

    params_path: Path
    state: State


def epoch_path(folder: Path, label: str, epoch: int) -> Path:
    """Return the `.params` file of a number of complete epochs, as the release names it."""
    return folder / f"{label}_ep-{epoch:04d}.params"


def interrupted_path(folder: Path, label: str, update: int) -> Path:
    """Return the `.params` file of a training that was stopped after a number of updates."""
    return folder / f"{label}_interrupted-{update}.params"


def best_paths(folder: Path, label: str) -> tuple[Path, Path]:
    """Return the files of a training's best weights and of what is known of them (JSON)."""
    return folder / f"{label}{BEST}.params", folder / f"{label}{BEST}.json"


def save(path: Path, arg_params: Arrays, aux_params: Arrays, state: State) -> None:
    """Write a `.params` file and its `.state`, in this order, each atomically.

    Raises:
        OSError: the disk is full, …; a pair of these names that was complete may be lost, no
            other is touched.
    """
    params.save(path, arg_params, aux_params)
    record = {
        "version": _VERSION,
        "params_md5": md5(path),
        "epoch": state.epoch,
        "batch": state.batch,
        "record": state.record,
    }
    arrays = {f"momentum/{name}": array for name, array in state.momentum.items()}
    for device, statistics in enumerate(state.device_statistics):
        arrays.update({f"statistics/{device}/{name}": a for name, a in statistics.items()})
    text = np.frombuffer(json.dumps(record).encode(), np.uint8)
    with replacing(path.with_suffix(".state")) as file:
        write_npz(file, {"record": text, **arrays})


def load_state(path: Path) -> Checkpoint:
    """Return the checkpoint of a `.state` file, both of its files checked.

    Raises:
        BrokenState: the pair is not complete; the message says why.
    """
    params_path = path.with_suffix(".params")
    try:
        record = _read_record(path)
        found = md5(params_path)
        if found != record["params_md5"]:
            raise InputError(f"{params_path.name} has MD5 {found}, not {record['params_md5']}")
        with np.load(path, allow_pickle=False) as file:  # checks every array's CRC
            arrays = {name: file[name] for name in file.files if name != "record"}
        state = State(
            epoch=record["epoch"],
            batch=record["batch"],
            record=record["record"],
            momentum=_arrays_under("momentum/", arrays),
            device_statistics=_device_statistics(arrays),
        )
    except _UNREADABLE as error:
        raise BrokenState(f"{path}: not a complete checkpoint: {error}") from error
    return Checkpoint(params_path, state)


def find_newest(folder: Path, label: str) -> Checkpoint | None:
    """Return the complete checkpoint of a label that is furthest on; None if there is none.

    Pairs that are not complete are logged and passed over.
    """
    positions = {}
    for path in _files(folder, label):
        if path.suffix == ".state":
            try:
                record = _read_record(path)
                positions[path] = (record["epoch"], record["batch"])
            except _UNREADABLE as error:
                _log.warning("passed over: %s: not a complete checkpoint: %s", path, error)
    for path in sorted(positions, key=lambda path: positions[path], reverse=True):
        try:
            return load_state(path)
        except BrokenState as error:
            _log.warning("passed over: %s", error)
    return None


def held_files(folder: Path, label: str, *, after: int = 0) -> list[Path]:
    """Return a label's files beyond a number of epochs, interrupted ones and the best included."""
    files = _files(folder, label)
    held = [path for path, epoch in files.items() if epoch is None or epoch > after]
    best = [path for path in best_paths(folder, label) if path.exists()]
    try:
        is_earlier = json.loads(best_paths(folder, label)[1].read_bytes())["epoch"] <= after
    except _UNREADABLE:
        is_earlier = False
    return [*held, *(() if is_earlier else best)]


def remove_interrupted(folder: Path, label: str, *, keep: Path | None = None) -> None:
    """Remove a label's interrupted checkpoints, but for the one to keep."""
    for path, epoch in _files(folder, label).items():
        if epoch is None and (keep is None or path.stem != keep.stem):
            path.unlink()


def remove_all_but(folder: Path, label: str, *, keep: int, epochs: Set[int]) -> None:
    """Remove a label's checkpoints of a range of epochs but for the last ones.

    Args:
        folder: of the checkpoints.
        label: of the model.
        keep: how many stay, above 0.
        epochs: numbers of complete epochs; others stay too.
    """
    files = _files(folder, label)
    held = sorted(epochs & {epoch for epoch in files.values() if epoch is not None})
    for path, epoch in files.items():
        if epoch in held[:-keep]:
            path.unlink(missing_ok=True)


def remove_partial(folder: Path, label: str) -> None:
    """Remove what a killed process left of the files that it was writing."""
    stem = rf"({_stem(label)}|{re.escape(label)}{BEST})"
    pattern = re.compile(rf"\.{stem}\.(params|state|json)\.[0-9a-f]+\.tmp")
    for path in folder.iterdir():
        if pattern.fullmatch(path.name):
            path.unlink()


def _files(folder: Path, label: str) -> dict[Path, int | None]:
    """Return the whole files of a label's checkpoints, sorted by name, with their epochs.

    The epoch of one that was interrupted is None.
    """
    pattern = re.compile(rf"{_stem(label)}\.(params|state)")
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    matches = {path: match for path in paths if (match := pattern.fullmatch(path.name))}
    return {path: int(match[1]) if match[1] else None for path, match in matches.items()}


def _stem(label: str) -> str:
    return re.escape(label) + r"_(?:ep-(\d+)|interrupted-\d+)"


def _read_record(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        record: dict[str, Any] = json.loads(file["record"].tobytes())
    if record["version"] != _VERSION:
        raise InputError(f"format {record['version']!r}, expected {_VERSION}")
    for name, kind in (("epoch", int), ("batch", int), ("record", dict)):
        if not isinstance(record[name], kind):
            raise InputError(f"{name} {record[name]!r}: expected a {kind.__name__}")
    return record


def _arrays_under(prefix: str, arrays: Arrays) -> dict[str, Array]:
    return {n[len(prefix) :]: array for n, array in arrays.items() if n.startswith(prefix)}


def _device_statistics(arrays: Arrays) -> tuple[Arrays, ...]:
    devices = {int(name.split("/")[1]) for name in arrays if name.startswith("statistics/")}
    return tuple(_arrays_under(f"statistics/{device}/", arrays) for device in sorted(devices))

"""Label images made from MATLAB files and annotations: in several processes, and resumable."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ademx.compat import import_optional, usable_cores
from ademx.data.lists.plans import Entry, LabelSource
from ademx.errors import InputError, MissingFile, SystemFault
from ademx.files import replacing
from ademx.iteration import progress_bar
from iters.decode import BrokenImage
from iters.files import open_file
from iters.images import load_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iters.palettes import Colour

_log = logging.getLogger(__name__)

# Starting the processes takes as long as making this many labels.
_FEW = 100


@dataclass(frozen=True)
class _Task:
    """A label image to make.

    Attributes:
        path: its file.
        source: what it is made from.
        min_pixels: it is not needed without more labelled pixels than this; None needs it.
        palette: red, green and blue of each stored id, one after another.
    """

    path: Path
    source: LabelSource
    min_pixels: int | None
    palette: bytes


@dataclass(frozen=True)
class _Done:
    is_needed: bool
    was_there: bool


def make_labels(
    entries: Sequence[Entry],
    *,
    palette: Sequence[Colour],
    min_pixels: int | None = None,
    jobs: int | None = None,
    title: str = "",
) -> list[Entry]:
    """Make the label images that have a source, and return the entries that the list needs.

    A label image that is there and can be read as one is kept. Each is written in one step.

    Args:
        entries: the samples; those without a source are returned as they are.
        palette: colour of each stored id.
        min_pixels: leave out images without more labelled pixels than this; None keeps all.
        jobs: processes; None is one for each core.
        title: what the progress bar and the log call it.

    Raises:
        ValueError: a source is damaged; the message names its file.
        OSError: a source cannot be read or a label not be written.
    """
    colours = bytes(value for colour in palette for value in colour)
    tasks = [
        _Task(entry.label, entry.source, min_pixels, colours)
        for entry in entries
        if entry.source is not None and isinstance(entry.label, Path)
    ]
    if not tasks:
        return list(entries)
    for folder in {task.path.parent for task in tasks}:
        folder.mkdir(parents=True, exist_ok=True)
    done = _run(tasks, jobs=jobs or usable_cores() or 1, title=title)
    kept = sum(result.was_there for result in done)
    if kept:
        _log.info("%s: kept %d of %d label images that were there", title, kept, len(done))
    dropped = {task.path for task, result in zip(tasks, done) if not result.is_needed}
    return [entry for entry in entries if entry.label not in dropped]


def _run(tasks: Sequence[_Task], *, jobs: int, title: str) -> list[_Done]:
    with progress_bar(total=len(tasks), desc=title, unit="label") as bar:
        results = []
        for result in _results(tasks, jobs=jobs):
            results.append(result)
            bar.update()
    return results


def _results(tasks: Sequence[_Task], *, jobs: int) -> Iterator[_Done]:
    if jobs == 1 or len(tasks) < _FEW:
        yield from map(_make_label, tasks)
        return
    # Not by fork, which copies a process in which other threads may hold locks.
    context = multiprocessing.get_context("spawn")
    try:
        pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare_process)
    except OSError as error:
        _log.warning(
            "no semaphores, which Linux keeps in /dev/shm (%s): one process makes the labels",
            error.strerror,
        )
        yield from map(_make_label, tasks)
        return
    try:
        with pool:
            yield from pool.map(_make_label, tasks, chunksize=16)
    except BrokenProcessPool:
        raise SystemFault(
            "a process that makes labels was killed, perhaps for want of memory: run the command "
            "again with fewer --jobs; what is done is kept"
        ) from None


def _prepare_process() -> None:
    """Leave Ctrl-C to the main process, which then ends this one, and end when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # The pool's own processes would wait for the next task for ever: each holds both ends of the
    # pipe that it comes by.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make_label(task: _Task) -> _Done:
    stored = _existing_label(task.path)
    was_there = stored is not None
    if stored is None:
        stored = task.source.read()
    is_needed = task.min_pixels is None or int(np.count_nonzero(stored)) > task.min_pixels
    if is_needed and not was_there:
        image = Image.fromarray(stored)
        image.putpalette(task.palette)
        with replacing(task.path, durable=False) as file:
            image.save(file, "PNG")
    return _Done(is_needed, was_there)


def _existing_label(path: Path) -> NDArray[np.uint8] | None:
    with contextlib.suppress(FileNotFoundError, BrokenImage):
        return load_label(path)
    return None


def checked_label(stored: Any, *, path: Path, max_id: int) -> NDArray[Any]:
    """Return an array that a MATLAB file held, if it is a label.

    Raises:
        ValueError: it is not (H, W) integers from 0 to `max_id`; the message names the file.
    """
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or stored.dtype.kind not in "iu":
        found = getattr(stored, "shape", type(stored).__name__)
        raise InputError(f"{path}: found {found}: expected a label, (H, W) integers")
    wrong = stored[(stored < 0) | (stored > max_id)]
    if wrong.size:
        raise InputError(f"{path}: found class {wrong.flat[0]}: expected 0 to {max_id}")
    return stored


def read_matlab(path: Path) -> dict[str, Any]:
    """Return the variables of a MATLAB file.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be opened, or is none.
        ValueError: it cannot be read; the message names it.
        ademx.compat.MissingDependency: scipy is not installed.
    """
    loadmat = import_data_library("scipy.io").loadmat
    try:
        file = open_file(path)
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file") from None
    try:
        with file:
            content: dict[str, Any] = loadmat(file)
    except Exception as error:  # scipy raises whatever the damaged bytes lead it to
        raise InputError(
            f"{path}: cannot be read as a MATLAB file: {error}: unpack it again"
        ) from error
    return content


def import_data_library(name: str) -> ModuleType:
    """Return a module of scipy or pycocotools.

    Raises:
        ademx.compat.MissingDependency: it is not installed.
    """
    package = name.partition(".")[0]
    return import_optional(
        name, f"this needs {package}, which is not installed: run `pip install 'ademx[data]'`"
    )

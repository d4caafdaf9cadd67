"""Label images made from MATLAB files and annotations: in several processes, and resumable."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ademx.compat import import_optional, usable_cores
from ademx.data.lists.plans import Entry, LabelSource
from ademx.errors import InputError, MissingFile, SystemFault
from ademx.files import replacing
from ademx.iteration import progress_bar
from iters.datasets import VOID
from iters.decode import BrokenImage
from iters.files import open_file
from iters.images import load_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iters.palettes import Colour

_log = logging.getLogger(__name__)

# Starting the processes takes as long as making this many labels.
_FEW = 100

_Task = tuple[Path, LabelSource]  # the file of a label image, and what it is made from


@dataclass(frozen=True)
class NumberedLabel:
    """A label in which the classes have other numbers.

    Attributes:
        path: a MATLAB file, or a label image.
        class_ids: class id of each number from 0 on; :data:`VOID` for one that is none of a class.
        variable: where a MATLAB file has the label, such as "LabelMap", or "GTcls.Segmentation" for
            the field of a struct; "" for a label image.
    """

    path: Path
    class_ids: bytes
    variable: str = ""

    def read(self) -> NDArray[np.uint8]:
        """Return the class ids, (H, W) uint8; see :class:`ademx.data.lists.plans.LabelSource`."""
        numbers = self._numbers_in_matlab() if self.variable else load_label(self.path)
        table = np.frombuffer(self.class_ids, np.uint8)
        wrong = numbers[(numbers < 0) | (numbers >= len(table))]
        if not wrong.size:
            classes: NDArray[np.uint8] = table[numbers]
            wrong = numbers[classes == VOID]
            if not wrong.size:
                return classes
        known = np.flatnonzero(table != VOID)
        last = len(self.class_ids.partition(bytes([VOID]))[0]) - 1
        other = f" and {known[-1]}" if known[-1] > last else ""
        raise InputError(f"{self.path}: found class {wrong[0]}: expected 0 to {last}{other}")

    def _numbers_in_matlab(self) -> NDArray[Any]:
        content = read_matlab(self.path)
        name, _, member = self.variable.partition(".")
        try:
            stored = content[name][member][0, 0] if member else content[name]
        except (KeyError, ValueError, IndexError, TypeError):
            names = [found for found in content if not found.startswith("__")]
            expected = f"a struct {name} with a field {member}" if member else name
            raise InputError(
                f"{self.path}: found {', '.join(names) or 'nothing'}: expected {expected}"
            ) from None
        if not isinstance(stored, np.ndarray) or stored.ndim != 2 or stored.dtype.kind not in "iu":
            found = getattr(stored, "shape", type(stored).__name__)
            raise InputError(f"{self.path}: found {found}: expected a label, (H, W) integers")
        return stored


class _Done(NamedTuple):
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
    tasks = [
        (entry.label, entry.source)
        for entry in entries
        if entry.source is not None and isinstance(entry.label, Path)
    ]
    if not tasks:
        return list(entries)
    for folder in {path.parent for path, _ in tasks}:
        folder.mkdir(parents=True, exist_ok=True)
    colours = bytes(value for colour in palette for value in colour)
    make = partial(_make_label, palette=colours, min_pixels=min_pixels)
    results = _results(make, tasks, jobs=jobs or usable_cores() or 1)
    done = list(progress_bar(iterable=results, total=len(tasks), desc=title, unit="label"))
    kept = sum(result.was_there for result in done)
    if kept:
        _log.info("%s: kept %d of %d label images that were there", title, kept, len(done))
    dropped = {path for (path, _), result in zip(tasks, done) if not result.is_needed}
    return [entry for entry in entries if entry.label not in dropped]


def _results(
    make: Callable[[_Task], _Done], tasks: Sequence[_Task], *, jobs: int
) -> Iterator[_Done]:
    pool = None
    if jobs > 1 and len(tasks) >= _FEW:
        # Not by fork, which copies a process in which other threads may hold locks.
        context = multiprocessing.get_context("spawn")
        try:
            pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare_process)
        except OSError as error:
            _log.warning(
                "no semaphores, which Linux keeps in /dev/shm (%s): one process makes the labels",
                error.strerror,
            )
    if pool is None:
        yield from map(make, tasks)
        return
    try:
        with pool:
            yield from pool.map(make, tasks, chunksize=16)
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


def _make_label(task: _Task, *, palette: bytes, min_pixels: int | None) -> _Done:
    """Make a label image, unless it is there or has no more labelled pixels than `min_pixels`."""
    path, source = task
    stored = None
    with contextlib.suppress(FileNotFoundError, BrokenImage):
        stored = load_label(path)
    was_there = stored is not None
    if stored is None:
        stored = source.read()
    is_needed = min_pixels is None or int(np.count_nonzero(stored)) > min_pixels
    if is_needed and not was_there:
        image = Image.fromarray(stored)
        image.putpalette(palette)
        with replacing(path, durable=False) as file:
            image.save(file, "PNG")
    return _Done(is_needed, was_there)


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

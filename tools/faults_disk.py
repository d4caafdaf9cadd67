"""Disks that are full: a small tmpfs of a size drawn anew each time, so that every write is hit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from faults_base import Fault, Loss, NotTried, Trial, must_be_equal, must_be_whole, run
from faults_work import CONVERSION_PTH, WORKS, Work

_LARGE = "256m"
_PAGE = 4096


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """Give a folder that is a file system of its own, in memory."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={_LARGE}", "ademx-faults", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


def _mount(*arguments: object) -> None:
    command = ["mount", *map(str, arguments)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NotTried(f"no mount: {error}") from None
    if done.returncode:
        raise NotTried(f"needs root: {done.stderr.strip()}")


def _shrink(trial: Trial, disk: Path, needed: int) -> None:
    """Leave room for a part of what a command writes, or for some files only."""
    held = os.statvfs(disk)
    if trial.number % 4 == 3:
        used = held.f_files - held.f_ffree
        _mount("-o", f"remount,nr_inodes={used + trial.random.randint(1, 25)}", disk)
        return
    used = (held.f_blocks - held.f_bfree) * held.f_bsize
    room = 1 + int(trial.random.uniform(0, 1) ** 2 * needed / _PAGE)
    _mount("-o", f"remount,size={used + room * _PAGE}", disk)


def _full(trial: Trial, *, work: Work) -> None:
    expected, _ = work.undisturbed(trial.bench)
    folder = trial.bench.folder / f"once-undisturbed {work.name}" / work.produces
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    with _disk(trial.folder / "disk") as disk:
        work.prepare(trial.bench, disk)
        _shrink(trial, disk, sum(sizes) + _PAGE * len(sizes))
        try:
            ended = run(trial.folder, work.command(trial.bench, disk))
        except OSError as error:  # it has no room to be begun with
            ended = None
            if error.errno != 28:
                raise
        if ended is not None and ended.status:
            ended.must_explain("o space left")
            ended.must_explain(disk)
        elif ended is not None:
            ended.must_be_plain()
        must_be_whole(work.found(disk), expected)
        _mount("-o", f"remount,size={_LARGE},nr_inodes=100000", disk)
        again = ended is not None and bool(ended.status)
        if again or ended is None:
            last = run(trial.folder, work.command(trial.bench, disk, again=again))
            if last.status:
                raise Loss(f"with room again: exit status {last.status}: {last.last_words()}")
        must_be_equal(work.found(disk), expected)


FAULTS = [
    Fault(
        f"disk-{work.name.replace(' ', '-')}",
        f"disk full during `{work.name}`, then room again",
        8,
        partial(_full, work=work),
    )
    for work in WORKS
    if work is not CONVERSION_PTH
]

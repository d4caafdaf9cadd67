"""Odd surroundings: closed streams, no home, another language, few cores, read-only folders."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from faults_base import Fault, Loss, NotTried, Trial, about, must_run, run
from faults_work import CONVERSION, EVALUATION, LISTS, TRAIN, TRAINING, command_line, must_be_equal

_WORKS = (TRAINING, EVALUATION, LISTS, CONVERSION)


def _to_full_disk(stream: int) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), stream)


def _use_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _mounting(change: str) -> tuple[str, ...]:
    """Return what runs a program where mounts have been changed for it alone."""
    return ("unshare", "--mount", "sh", "-c", f'{change} && exec "$@"', "sh")


# Runs a program in a terminal, and ends as it does.
_TERMINAL = """
import os, pty, sys
status = pty.spawn(sys.argv[1:])
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
"""
_LATIN = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
_NO_HOME = {"HOME": None, "USER": None, "LOGNAME": None}
_STDOUT_FULL, _ODD_THREADS = "stdout to a full disk", "OMP_NUM_THREADS=foo"

# What is odd -> options of `running`.
_ODD: dict[str, dict[str, Any]] = {
    "stdin closed": {"before": partial(os.close, 0)},
    "stdout closed": {"before": partial(os.close, 1)},
    "stderr closed": {"before": partial(os.close, 2)},
    "all three closed": {"before": partial(os.closerange, 0, 3)},
    _STDOUT_FULL: {"before": partial(_to_full_disk, 1)},
    "stderr to a full disk": {"before": partial(_to_full_disk, 2)},
    "no HOME": {"environment": _NO_HOME},
    "a HOME that is not there": {"environment": {"HOME": "/nonexistent/home"}},
    "LANG=C": {"environment": {"LANG": "C", "LC_ALL": None}},
    "LC_ALL=C, no UTF-8 mode": {"environment": _LATIN},
    "PYTHONIOENCODING=latin-1": {"environment": {"PYTHONIOENCODING": "latin-1"}},
    "PYTHONIOENCODING=ascii": {"environment": {**_LATIN, "PYTHONIOENCODING": "ascii"}},
    "no PATH": {"environment": {"PATH": None}},
    "TERM=dumb, 1 column": {"environment": {"TERM": "dumb", "COLUMNS": "1", "LINES": "1"}},
    "TMPDIR that is not there": {"environment": {"TMPDIR": "/nonexistent/tmp"}},
    "OMP_NUM_THREADS empty": {"environment": {"OMP_NUM_THREADS": ""}, "before": _use_one_core},
    _ODD_THREADS: {"environment": {"OMP_NUM_THREADS": "foo"}},
    "OMP_NUM_THREADS=1,2": {"environment": {"OMP_NUM_THREADS": "1,2"}},
    "one core": {"environment": {"OMP_NUM_THREADS": None}, "before": _use_one_core},
    "a read-only /dev/shm": {"within": _mounting("mount -o remount,ro,bind /dev/shm")},
    "a read-only home": {"within": _mounting('mount -o ro,bind "$HOME" "$HOME"')},
    "terminal": {"within": (sys.executable, "-c", _TERMINAL)},
}


def _odd(trial: Trial, *, odd: str) -> None:
    work = _WORKS[trial.number % len(_WORKS)]
    expected = work.undisturbed(trial.bench).files
    work.prepare(trial.bench, trial.folder)
    with about(work.name):
        ended = run(trial.folder, work.command(trial.bench, trial.folder), **_ODD[odd])
        if odd == _ODD_THREADS and ended.has_refused("OMP_NUM_THREADS"):
            return
        if ended.status and odd == _STDOUT_FULL:  # the result is there, but was not told
            ended.must_explain("stdout")
        else:
            ended.must_succeed()
        must_be_equal(work.written(trial.folder), expected)


def _read_only(trial: Trial) -> None:
    """A folder that may not be written, as the output and as the current one."""
    place = trial.folder / "fixed"
    place.mkdir(mode=0o555)
    # What root may do is not forbidden by a folder's mode.
    mounting = _mounting(f'mount -o ro,bind "{place}" "{place}" && cd "{place}"')
    work = (TRAINING, EVALUATION, CONVERSION)[trial.number % 3]
    output = place if work is CONVERSION else place / "out"
    arguments = work.command(trial.bench, trial.folder, out=output)
    with about(work.name):
        ended = run(trial.folder, arguments, within=() if os.geteuid() else mounting, cwd=place)
        ended.must_explain(place)


def _no_loopback(trial: Trial) -> None:
    """A network namespace whose loopback interface is down: `launch` says so, or works."""
    line = f"launch --workers 2 -- {TRAIN} --kvstore dist_sync"
    arguments = command_line(line, trial.bench, trial.folder)
    ended = run(trial.folder, arguments, within=("unshare", "--map-root-user", "--net"))
    ended.has_refused("loopback", "127.0.0.1")


_CORES = "from ademx.compat import usable_cores; print(usable_cores())"


def _quota(trial: Trial) -> None:
    """A container's CPU quota of one core: as many threads, and the same results."""
    with _group(trial.number) as join:
        options: dict[str, Any] = {"environment": {"OMP_NUM_THREADS": None}, "before": join}
        cores = must_run(trial.folder, ["-c", _CORES], program=[sys.executable], **options).stdout
        if cores.strip() != "1":
            raise Loss(f"{cores.strip()} cores are used under a quota of one")
        expected = TRAINING.undisturbed(trial.bench).files
        must_run(trial.folder, TRAINING.command(trial.bench, trial.folder), **options)
        must_be_equal(TRAINING.written(trial.folder), expected)


@contextmanager
def _group(number: int) -> Iterator[Callable[[], object]]:
    """Give what makes a new process join a control group that has one core's time."""
    root, limits = Path("/sys/fs/cgroup"), {"cpu.max": "100000 100000"}
    if (root / "cpu").is_dir():  # the first version of control groups
        root, limits = root / "cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}
    folder = root / f"ademx-faults-{os.getpid()}-{number}"
    try:
        folder.mkdir()
        for name, limit in limits.items():
            (folder / name).write_text(limit)
    except OSError as error:
        raise NotTried(f"no control group can be made: {error}") from None
    try:
        yield lambda: (folder / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        folder.rmdir()


def _fault(odd: str) -> Fault:
    name = re.sub("[^a-z0-9]+", "-", odd.lower()).strip("-")
    return Fault(f"around-{name}", odd, len(_WORKS), partial(_odd, odd=odd))


FAULTS = [
    *map(_fault, _ODD),
    Fault("around-read-only-folder", "a read-only folder for output", 3, _read_only),
    Fault("around-no-loopback", "`launch` where loopback is down", 1, _no_loopback),
    Fault("around-quota", "a CPU quota of one core", 1, _quota),
]

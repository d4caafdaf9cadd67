"""Odd surroundings: closed streams, no home, another language, few cores, read-only folders."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from faults_base import Fault, Loss, NotTried, Trial, about, must_be_equal, run, running
from faults_work import CONVERSION, EVALUATION, LISTS, TRAINING, training

_WORKS = (TRAINING, EVALUATION, LISTS, CONVERSION)


@dataclass(frozen=True)
class _Surroundings:
    """What is odd around a command.

    Attributes:
        name: for messages.
        environment: changes to variables.
        before: called in the new process.
        redirected: stream -> the file that it goes to.
        may_fail: an exit status of 1 with a message is right, since the result goes to stdout.
        named: a command may refuse to run where its message has this.
        program: what runs Python, before its name.
    """

    name: str
    environment: Mapping[str, str | None] = field(default_factory=dict)
    before: Callable[[], None] | None = None
    redirected: Mapping[str, str] = field(default_factory=dict)
    may_fail: bool = False
    named: str = ""
    program: tuple[str, ...] = ()


def _close(number: int) -> Callable[[], None]:
    return lambda: os.close(number)


def _one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _within(change: str) -> tuple[str, ...]:
    """Return what runs a program where mounts have been changed for it alone."""
    return ("unshare", "--mount", "sh", "-c", f'{change} && exec "$@"', "sh")


_LATIN = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
_ODD = [
    _Surroundings("stdin closed", before=_close(0)),
    _Surroundings("stdout closed", before=_close(1)),
    _Surroundings("stderr closed", before=_close(2)),
    _Surroundings("all three closed", before=lambda: os.closerange(0, 3)),
    _Surroundings("stdout to a full disk", redirected={"stdout": "/dev/full"}, may_fail=True),
    _Surroundings("stderr to a full disk", redirected={"stderr": "/dev/full"}),
    _Surroundings("no HOME", {"HOME": None, "USER": None, "LOGNAME": None}),
    _Surroundings("a HOME that is not there", {"HOME": "/nonexistent/home"}),
    _Surroundings("LANG=C", {"LANG": "C", "LC_ALL": None}),
    _Surroundings("LC_ALL=C, no UTF-8 mode", _LATIN),
    _Surroundings("PYTHONIOENCODING=latin-1", {"PYTHONIOENCODING": "latin-1"}),
    _Surroundings("PYTHONIOENCODING=ascii", {**_LATIN, "PYTHONIOENCODING": "ascii"}),
    _Surroundings("no PATH", {"PATH": None}),
    _Surroundings("TERM=dumb, 1 column", {"TERM": "dumb", "COLUMNS": "1", "LINES": "1"}),
    _Surroundings("TMPDIR that is not there", {"TMPDIR": "/nonexistent/tmp"}),
    _Surroundings("OMP_NUM_THREADS empty", {"OMP_NUM_THREADS": ""}, before=_one_core),
    _Surroundings("OMP_NUM_THREADS=foo", {"OMP_NUM_THREADS": "foo"}, named="OMP_NUM_THREADS"),
    _Surroundings("OMP_NUM_THREADS=1,2", {"OMP_NUM_THREADS": "1,2"}),
    _Surroundings("one core", {"OMP_NUM_THREADS": None}, before=_one_core),
    _Surroundings("a read-only /dev/shm", program=_within("mount -o remount,ro,bind /dev/shm")),
    _Surroundings("a read-only home", program=_within('mount -o ro,bind "$HOME" "$HOME"')),
]


def _odd(trial: Trial, *, odd: _Surroundings) -> None:
    work = _WORKS[trial.number % len(_WORKS)]
    expected, _ = work.undisturbed(trial.bench)
    work.prepare(trial.bench, trial.folder)
    if odd.program:
        _check_program(odd.program)
    with about(work.name), ExitStack() as stack:
        files = {
            name: stack.enter_context(open(path, "wb")) for name, path in odd.redirected.items()
        }
        ended = run(
            trial.folder,
            work.command(trial.bench, trial.folder),
            program=(*odd.program, sys.executable, "-m", "ademx"),
            environment=odd.environment,
            before=odd.before,
            **files,
        )
        ended.must_be_plain()
        if ended.status and odd.named:
            ended.must_explain(odd.named)
            return
        if not (odd.may_fail and ended.status == 1):
            ended.must_succeed()
        must_be_equal(work.found(trial.folder), expected)


def _check_program(program: tuple[str, ...]) -> None:
    try:
        tried = subprocess.run([*program, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotTried(str(error)) from None
    if tried.returncode:
        raise NotTried(f"needs root: {tried.stderr.strip()}")


def _terminal(trial: Trial) -> None:
    """A terminal for stderr and stdout, of which nobody reads until the end."""
    work = _WORKS[trial.number % len(_WORKS)]
    expected, _ = work.undisturbed(trial.bench)
    work.prepare(trial.bench, trial.folder)
    ours, theirs = pty.openpty()
    try:
        arguments = work.command(trial.bench, trial.folder)
        with running(trial.folder, arguments, stdout=theirs, stderr=theirs) as command:
            os.close(theirs)
            text = b"".join(_until_closed(ours))
            ended = command.wait()
            command.must_leave_nothing()
    finally:
        os.close(ours)
    if ended.status or b"Traceback" in text:
        raise Loss(f"{work.name}: exit status {ended.status}: {text[-300:]!r}")
    must_be_equal(work.found(trial.folder), expected)


def _until_closed(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            block = os.read(descriptor, 1 << 16)
        except OSError:  # how Linux says that the other side has been closed
            return
        if not block:
            return
        yield block


def _read_only(trial: Trial) -> None:
    """A folder that may not be written, as the output and as the current one."""
    if os.geteuid():
        place = trial.folder / "fixed"
        place.mkdir(mode=0o555)
        _refused(trial, place)
        return
    place = trial.folder / "fixed"
    place.mkdir()
    done = subprocess.run(["mount", "--bind", place, place], capture_output=True, check=False)
    if done.returncode:
        raise NotTried("needs a file system that can be mounted read-only")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        _refused(trial, place)
    finally:
        subprocess.run(["umount", "--lazy", place], check=False)


def _refused(trial: Trial, place: Path) -> None:
    work = (TRAINING, EVALUATION, CONVERSION)[trial.number % 3]
    arguments = work.arguments(trial.bench, trial.folder)
    shutil.rmtree(trial.folder / "out", ignore_errors=True)
    swapped: list[object] = [
        place / "out" / Path(str(one)).relative_to(trial.folder / "out")
        if str(one).startswith(str(trial.folder / "out"))
        else one
        for one in arguments
    ]
    if work is CONVERSION:
        swapped[-1] = place / "weights.safetensors"
    with about(work.name):
        run(trial.folder, swapped, cwd=place).must_explain(place)


def _no_loopback(trial: Trial) -> None:
    """A network namespace whose loopback interface is down: `launch` says so, or works."""
    program = ("unshare", "--map-root-user", "--net")
    _check_program(program)
    arguments: list[object] = ["launch", "--workers", 2, "--"]
    arguments += training(trial.bench, trial.folder / "out", "--kvstore", "dist_sync")
    ended = run(trial.folder, arguments, program=(*program, sys.executable, "-m", "ademx"))
    ended.must_be_plain()
    if ended.status:
        ended.must_explain("loopback", "127.0.0.1")


_CORES = """
import sys
from ademx.compat import usable_cores
sys.stdout.write(str(usable_cores()))
"""


def _quota(trial: Trial) -> None:
    """A container's CPU quota of one core: as many threads, and the same results."""
    with _group(trial.number) as join:
        environment = {"OMP_NUM_THREADS": None}
        counted = run(
            trial.folder,
            ["-c", _CORES],
            program=[sys.executable],
            environment=environment,
            before=join,
        )
        counted.must_succeed()
        if counted.stdout != "1":
            raise Loss(f"{counted.stdout} cores are used under a quota of one")
        expected, _ = TRAINING.undisturbed(trial.bench)
        arguments = TRAINING.command(trial.bench, trial.folder)
        run(trial.folder, arguments, environment=environment, before=join).must_succeed()
        must_be_equal(TRAINING.found(trial.folder), expected)


@contextmanager
def _group(number: int) -> Iterator[Callable[[], None]]:
    """Give what makes a new process join a control group that has one core's time."""
    name = f"ademx-faults-{os.getpid()}-{number}"
    first, second = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    try:
        if first.is_dir():
            folder = first / name
            folder.mkdir()
            (folder / "cpu.cfs_period_us").write_text("100000")
            (folder / "cpu.cfs_quota_us").write_text("100000")
        else:
            folder = second / name
            folder.mkdir()
            (folder / "cpu.max").write_text("100000 100000")
    except OSError as error:
        raise NotTried(f"no control group can be made: {error}") from None
    try:
        procs = folder / "cgroup.procs"
        yield lambda: (procs.write_text(str(os.getpid())), None)[1]
    finally:
        folder.rmdir()


def _fault(odd: _Surroundings) -> Fault:
    name = re.sub("[^a-z0-9]+", "-", odd.name.lower()).strip("-")
    return Fault(f"around-{name}", odd.name, len(_WORKS), partial(_odd, odd=odd))


FAULTS = [
    *map(_fault, _ODD),
    Fault("around-terminal", "a terminal", 4, _terminal),
    Fault("around-read-only-folder", "a read-only folder for output", 3, _read_only),
    Fault("around-no-loopback", "`launch` where loopback is down", 1, _no_loopback),
    Fault("around-quota", "a CPU quota of one core", 1, _quota),
]

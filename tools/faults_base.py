"""What the campaign of faults is made of: trials, the processes that they disturb, the judging."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0  # seconds that a command may take before it counts as hung, on an idle machine

_IDLE_SECONDS = 6.0  # that the undisturbed training takes on an idle machine of two cores
_MARK = "ADEMX_FAULTS_MARK"  # in the environment of every process that a trial starts
_ENDING_SECONDS = 10.0  # that children may take to end after their parent, on an idle machine


class Loss(Exception):  # it is a finding
    """What must not happen has happened: a wrong or lost result, a traceback, a hang."""


@contextmanager
def about(what: str) -> Iterator[None]:
    """Put in front of a loss what it is about."""
    try:
        yield
    except Loss as loss:
        raise Loss(f"{what}: {loss}") from None


class NotTried(Exception):
    """This machine lacks what a trial needs."""


@dataclass(frozen=True)
class Trial:
    """One of the trials of a fault.

    Attributes:
        bench: what all trials share.
        number: of the trial, from 0.
        folder: its own, empty at first and removed at last.
        random: drawn from the campaign's seed, the fault's name and the number.
    """

    bench: Bench
    number: int
    folder: Path
    random: random.Random


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        name: for `--only`.
        what: is tried, for the table.
        times: trials in a campaign.
        trial: makes one; raises Loss or NotTried.
        each: things that a trial tries.
        full: trials in a full campaign, where they are more.
    """

    name: str
    what: str
    times: int
    trial: Callable[[Trial], None]
    each: int = 1
    full: int = 0


@dataclass(frozen=True)
class Row:
    """What came of a fault.

    Attributes:
        what: was tried.
        tried: how often.
        losses: what was lost, a message each.
        remark: why it was not tried, or not as often as it should have been.
    """

    what: str
    tried: int
    losses: tuple[str, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit status (negative: by a signal), and what it printed."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    def must_succeed(self) -> None:
        """Raise Loss unless the exit status is 0, and no traceback was shown."""
        self.must_be_plain()
        if self.status:
            raise Loss(f"exit status {self.status}: {self.last_words()}")

    def must_explain(self, *names: object) -> None:
        """Raise Loss unless it failed with a message that holds one of these names."""
        if self.status not in (1, 2):
            raise Loss(f"exit status {self.status}, expected 1 or 2: {self.last_words()}")
        self.must_be_plain()
        if names and not any(str(name) in self.stdout + self.stderr for name in names):
            raise Loss(f"the message names none of {[*map(str, names)]}: {self.last_words()}")

    def has_refused(self, *names: object) -> bool:
        """Return whether it failed; raise Loss unless it did its work or explained why not."""
        self.must_be_plain()
        if self.status:
            self.must_explain(*names)
        return self.status != 0

    def must_be_plain(self) -> None:
        """Raise Loss where a traceback was shown."""
        if "Traceback (most recent" in self.stdout + self.stderr:
            raise Loss(f"a traceback, exit status {self.status}: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of stderr, or else of stdout, on one line."""
        text = self.stderr.strip() or self.stdout
        lines = [line for line in text.splitlines() if line.strip()]
        return " ".join(lines[-2:])[-400:] or "(silent)"


@dataclass
class Command:
    """A command that runs, with all that it starts; made by :func:`running`."""

    process: subprocess.Popen[bytes]
    mark: str
    files: tuple[Path, Path]
    started: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float | None = None) -> Ended:
        """Return how it ended.

        Args:
            seconds: to wait; None: as long as any command may take.

        Raises:
            Loss: it did not.
        """
        seconds = scaled(PATIENCE) if seconds is None else seconds
        try:
            status = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            words = self._ended(0).last_words()
            raise Loss(f"still running after {seconds:.0f} s: {words}") from None
        return self._ended(status)

    def processes(self) -> list[int]:
        """Return the ids of the living processes that it is or has started."""
        everyone = map(int, filter(str.isdigit, os.listdir("/proc")))
        return [pid for pid in everyone if is_alive(pid) and has_variable(pid, _MARK, self.mark)]

    def must_leave_nothing(self) -> None:
        """Raise Loss where processes outlive the command by some seconds."""
        if not comes_true(lambda: not self.processes(), scaled(_ENDING_SECONDS)):
            lines = [_proc(pid, "cmdline")[:200].split(b"\0") for pid in self.processes()]
            raise Loss(f"{len(lines)} processes are left: {lines}")

    def kill_all(self) -> None:
        """Kill whatever is left."""

        def all_gone() -> bool:
            left = self.processes()
            for pid in left:
                try_to_signal(pid, signal.SIGKILL)
            return not left

        comes_true(all_gone, 2)
        self.process.wait()

    def _ended(self, status: int) -> Ended:
        out, err = (file.read_text(errors="replace") for file in self.files)
        return Ended(status, out, err, time.monotonic() - self.started)


class Bench:
    """What all trials share: a folder, the seed, and what is made once.

    Attributes:
        folder: of the whole campaign.
        seed: of all that is drawn.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self._locks: dict[Any, threading.Lock] = {}
        self._made: dict[Any, Any] = {}

    def once(self, make: Callable[[Bench, Path], Any]) -> Any:
        """Return what `make` makes in a new folder, the first time that it is asked for."""
        with self._locks.setdefault(make, threading.Lock()):
            if make not in self._made:
                folder = Path(tempfile.mkdtemp(prefix="once-", dir=self.folder))
                self._made[make] = make(self, folder)
            return self._made[make]


class Pace:
    """How many times slower than an idle machine of two cores this one is: limits grow by it."""

    slowness = 1.0


def scaled(seconds: float) -> float:
    """Return a limit that was set for an idle machine as it is for this one."""
    return seconds * Pace.slowness


def set_pace(seconds: float) -> None:
    """Set the limits by the seconds that the undisturbed training takes."""
    Pace.slowness = max(1.0, seconds / _IDLE_SECONDS)


def make_trial(fault: Fault, bench: Bench, number: int, *, deadline: float) -> Exception | None:
    """Make a trial of a fault and return what it raised.

    No trial begins after the deadline but each fault's first.
    """
    if number and time.monotonic() > deadline:
        return NotTried("the time is up")
    folder = bench.folder / f"{fault.name}-{number}"
    folder.mkdir()
    seed = f"{bench.seed} {fault.name} {number}"
    try:
        fault.trial(Trial(bench, number, folder, random.Random(seed)))
    except NotTried as error:
        return error
    except Loss as error:
        return Loss(f"trial {number}: {error}")
    except Exception as error:  # a fault of the campaign's own must not pass for a success
        return Loss(f"trial {number}: the campaign failed: {type(error).__name__}: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


def judge(fault: Fault, outcomes: Sequence[Exception | None], *, times: int) -> Row:
    """Return the row of a fault, given what its trials so far have raised."""
    not_tried = [str(error) for error in outcomes if isinstance(error, NotTried)]
    losses = [str(error) for error in outcomes if isinstance(error, Loss)]
    tried = fault.each * (len(outcomes) - len(not_tried))
    remark = "" if len(outcomes) == times else f"{len(outcomes)} of {times} trials made so far"
    if not_tried:
        remark = f"not tried {len(not_tried)} of {times} times: {not_tried[0]}"
    return Row(fault.what, tried, tuple(losses), remark)


@contextmanager
def running(
    folder: Path,
    arguments: Sequence[object],
    *,
    program: Sequence[str] = (sys.executable, "-m", "ademx"),
    within: Sequence[str] = (),
    environment: Mapping[str, str | None] | None = None,
    cwd: Path | None = None,
    before: Callable[[], object] | None = None,
) -> Iterator[Command]:
    """Run a command in a session of its own; at last nothing that it started is left.

    Args:
        folder: where its output is kept, in files that begin with a dot.
        arguments: of the program.
        program: what is run.
        within: what runs the program, before its name.
        environment: changes to this process's; None removes a variable.
        cwd: the folder to run in.
        before: called in the new process before the program begins.

    Raises:
        NotTried: `within` does not work here.
    """
    if within:
        require(*within, "true")
    mark = f"{os.getpid()}-{random.getrandbits(64):016x}"
    changed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(environment or {}), _MARK: mark}
    merged = {name: v for name, v in {**os.environ, **changed}.items() if v is not None}
    files = (folder / f".stdout-{mark}", folder / f".stderr-{mark}")
    with files[0].open("wb") as out, files[1].open("wb") as err:
        process = subprocess.Popen(
            [*within, *program, *map(str, arguments)],
            env=merged,
            cwd=cwd or folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=before,
        )
    command = Command(process, mark, files)
    try:
        yield command
    finally:
        command.kill_all()
        for file in files:
            file.unlink(missing_ok=True)


def run(folder: Path, arguments: Sequence[object], **options: Any) -> Ended:
    """Run a command to its end, see :func:`running`.

    Raises:
        Loss: it hangs, is ended by a signal, or leaves processes.
    """
    with running(folder, arguments, **options) as command:
        ended = command.wait()
        command.must_leave_nothing()
    if ended.status < 0:
        name = signal.Signals(-ended.status).name
        raise Loss(f"ended by {name}: {ended.last_words()}")
    return ended


def must_run(folder: Path, arguments: Sequence[object], **options: Any) -> Ended:
    """Run a command that has to succeed."""
    ended = run(folder, arguments, **options)
    ended.must_succeed()
    return ended


def require(*command: object) -> None:
    """Run a command that the trial needs.

    Raises:
        NotTried: it cannot be done here.
    """
    words = [*map(str, command)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotTried(f"no {words[0]}: {error}") from None
    if done.returncode:
        raise NotTried(f"needs root: {done.stderr.strip()}")


def comes_true(condition: Callable[[], Any], seconds: float) -> bool:
    """Wait for a condition; return whether it has come true within these seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def parent(pid: int) -> int:
    """Return the id of a process's parent; 0 where it has gone."""
    return int((_stat(pid)[1:2] or ["0"])[0])


def has_variable(pid: int, name: str, value: str) -> bool:
    """Return whether a process's environment has a variable of this value."""
    return f"{name}={value}".encode() in _proc(pid, "environ").split(b"\0")


def try_to_signal(pid: int, number: int) -> bool:
    """Send a signal; return whether the process was still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _stat(pid: int) -> list[str]:
    """Return what the system says of a process behind its name: state, parent and more."""
    return _proc(pid, "stat").rpartition(b")")[2].decode().split()


def _proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""

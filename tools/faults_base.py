"""What the campaign of faults is made of: trials, the processes that they disturb, the judging."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

_PATIENCE = 120.0  # seconds that a command may take before it counts as hung, on an idle machine
_IDLE_SECONDS = 6.0  # that the undisturbed training takes on an idle machine of two cores

_MARK = "ADEMX_FAULTS_MARK"  # in the environment of every process that a trial starts
_ENDING_SECONDS = 10.0  # that children may take to end after their parent, there as well
# What differs from one run to the next by its nature.
_VOLATILE = {"date", "versions", "images_per_second", "seconds", "command", "resumed_from"}
_VOLATILE |= {"first_update", "data_wait", "images_per_second_total", "kept"}
_UNREAD = {".html", ".md"}  # pages with the date in them: made from the files that are compared


_Made = TypeVar("_Made")


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

    def must_be_plain(self) -> None:
        """Raise Loss where a traceback was shown."""
        if "Traceback (most recent" in self.stderr:
            raise Loss(f"a traceback, exit status {self.status}: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of stderr, on one line."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
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
        seconds = scaled(_PATIENCE) if seconds is None else seconds
        try:
            status = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            words = self._ended(0).last_words()
            raise Loss(f"still running after {seconds:.0f} s: {words}") from None
        return self._ended(status)

    def processes(self) -> list[int]:
        """Return the ids of the living processes that it is or has started."""
        return [pid for pid in map(int, _process_ids()) if is_alive(pid) and self._owns(pid)]

    def must_leave_nothing(self) -> None:
        """Raise Loss where processes outlive the command by some seconds."""
        deadline = time.monotonic() + scaled(_ENDING_SECONDS)
        while self.processes():
            if time.monotonic() > deadline:
                lines = [_read(f"/proc/{pid}/cmdline")[:200] for pid in self.processes()]
                raise Loss(f"{len(lines)} processes are left: {lines}")
            time.sleep(0.05)

    def kill_all(self) -> None:
        """Kill whatever is left."""
        for _ in range(100):
            left = self.processes()
            if not left:
                break
            for pid in left:
                try_to_signal(pid, signal.SIGKILL)
            time.sleep(0.02)
        self.process.wait()

    def _owns(self, pid: int) -> bool:
        return self.mark.encode() in _read_bytes(f"/proc/{pid}/environ")

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
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[Path], _Made]) -> _Made:
        """Return what `make` makes in a new folder, made the first time that it is asked for."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._made:
                folder = self.folder / f"once-{name}"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                self._made[name] = make(folder)
            return cast(_Made, self._made[name])


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
    environment: Mapping[str, str | None] | None = None,
    cwd: Path | None = None,
    stdin: Any = subprocess.DEVNULL,
    stdout: Any = None,
    stderr: Any = None,
    before: Callable[[], None] | None = None,
) -> Iterator[Command]:
    """Run a command in a session of its own; at last nothing that it started is left.

    Args:
        folder: where its output is kept, in files that begin with a dot.
        arguments: of the program.
        program: what is run.
        environment: changes to this process's; None removes a variable.
        cwd: the folder to run in.
        stdin: as for `subprocess.Popen`, and so `stdout` and `stderr`, else kept.
        stdout: see `stdin`.
        stderr: see `stdin`.
        before: called in the new process before the program begins.
    """
    mark = f"{os.getpid()}-{random.getrandbits(64):016x}"
    changed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(environment or {}), _MARK: mark}
    merged = {**os.environ, **{k: v for k, v in changed.items() if v is not None}}
    for name in (name for name, value in changed.items() if value is None):
        merged.pop(name, None)
    files = (folder / f".stdout-{mark}", folder / f".stderr-{mark}")
    with files[0].open("wb") as out, files[1].open("wb") as err:
        process = subprocess.Popen(
            [*program, *map(str, arguments)],
            env=merged,
            cwd=cwd or folder,
            stdin=stdin,
            stdout=out if stdout is None else stdout,
            stderr=err if stderr is None else stderr,
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


def results(folder: Path) -> dict[str, str]:
    """Return a digest of each file below a folder, of what does not differ by its nature."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): _digest(path, folder)
        for path in files
        if not path.name.startswith((".stdout-", ".stderr-"))
    }


def must_be_equal(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise Loss where results are not those of an undisturbed run."""
    missing = sorted(expected.keys() - found.keys())
    further = sorted(found.keys() - expected.keys())
    differ = sorted(key for key in expected.keys() & found.keys() if found[key] != expected[key])
    parts = [("missing", missing), ("left over", further), ("different", differ)]
    words = [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in parts if names]
    if words:
        raise Loss(f"not as undisturbed: {'; '.join(words)}")


def must_be_whole(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise Loss where a file has its name already, but not yet its content."""
    partly = [key for key in expected.keys() & found.keys() if found[key] != expected[key]]
    partly = [key for key in partly if not key.endswith((".json", ".jsonl", ".npz", *_UNREAD))]
    if partly:
        raise Loss(f"half-written under its name: {', '.join(sorted(partly)[:3])}")


def _digest(path: Path, folder: Path) -> str:
    if path.suffix in _UNREAD:
        return "there"
    try:
        if path.suffix == ".json":
            return _json(path.read_text(encoding="utf-8"), folder)
        if path.suffix == ".jsonl":
            return "\n".join(_json(line, folder) for line in path.read_text().splitlines())
        if path.suffix in (".npz", ".state"):
            with np.load(path, allow_pickle=False) as file:
                return hashlib.md5(
                    b"".join(
                        f"{name} {file[name].dtype} {file[name].shape}".encode()
                        + file[name].tobytes()
                        for name in sorted(file.files)
                    )
                ).hexdigest()
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        return f"damaged: {error}"
    return hashlib.md5(path.read_bytes()).hexdigest()


def _json(text: str, folder: Path) -> str:
    value = json.loads(text.replace(str(folder), "."))
    return json.dumps(_without_volatile(value), sort_keys=True)


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list):
        return [_without_volatile(item) for item in value]
    return value


def is_alive(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] not in ([], ["Z"], ["X"])


def variable(pid: int, name: str) -> str | None:
    """Return a variable of a process's environment."""
    for item in _read_bytes(f"/proc/{pid}/environ").split(b"\0"):
        if item.startswith(f"{name}=".encode()):
            return os.fsdecode(item.partition(b"=")[2])
    return None


def parent(pid: int) -> int:
    """Return the id of a process's parent; 0 where it has gone."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def try_to_signal(pid: int, number: int) -> bool:
    """Send a signal; return whether the process was still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def soon(condition: Callable[[], Any], what: str) -> Any:
    """Return a condition's value as soon as it is true.

    Raises:
        Loss: it never is.
    """
    seconds = scaled(_PATIENCE)
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Loss(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.02)


def _process_ids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _read(path: str) -> str:
    return _read_bytes(path).replace(b"\0", b" ").decode(errors="replace")


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # it has ended, or is another user's
        return b""

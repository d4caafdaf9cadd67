"""What a command owes to the process that it is: its standard streams, signals and messages."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from ademx.signals import handled, stopping_signals
from ademx.text import printable
from ademx.training.launch import TOLD


def prepare_streams() -> None:
    """Make stdout and stderr fit for all that is written to them.

    * Where one of the three standard streams is closed, it becomes /dev/null: else the next file
      that is opened would take its number, and a library's message would end up in it.
    * A stderr that cannot be written to does not fail a command whose work goes on.
    * An error of stdout says that it is one.
    * What a stream's encoding lacks is written as an escape.

    Streams that a caller has put in place of the process's own are left alone.
    """
    _open_closed()
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _stream(_Stdout(1, "wb", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(_Stderr(2, "wb", closefd=False), sys.stderr)


def _open_closed() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            if null != number:
                os.dup2(null, number)
                os.close(null)


def _stream(raw: io.FileIO, replaced: TextIO | None) -> TextIO:
    if replaced is not None:
        replaced.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(replaced, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=isinstance(raw, _Stderr) or raw.isatty(),
    )


class _Stdout(io.FileIO):
    """Raises its first error and drops what comes after it: Python tries again at its end."""

    _has_failed = False

    def write(self, data: Any) -> int:
        if self._has_failed:
            return _length(data)
        try:
            return super().write(data)
        except OSError as error:
            self._has_failed = True
            raise OSError(error.errno, error.strerror, "stdout") from None


class _Stderr(io.FileIO):
    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data) or _length(data)  # None: it would have to wait
        return _length(data)


def is_told(message: str) -> bool:
    """Return whether another worker of this machine told this before; now it is told."""
    folder = os.environ.get(TOLD) or _folder_of_workers(os.environ)
    if not folder:
        return False
    name = hashlib.sha256(message.encode(errors="backslashreplace")).hexdigest()
    with suppress(FileNotFoundError, PermissionError):
        try:
            os.close(os.open(Path(folder, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return True
    return False


def _folder_of_workers(environment: Mapping[str, str]) -> str:
    """Return a folder that the workers of one torchrun or srun on a machine share; "" for none."""
    if "TORCHELASTIC_RUN_ID" in environment:
        names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT")
        count, parent = environment.get("WORLD_SIZE", "1"), os.getppid()
    else:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        count, parent = environment.get("SLURM_STEP_NUM_TASKS", "1"), 0
    if count == "1":
        return ""
    run = hashlib.sha256(repr([parent, *map(environment.get, names)]).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir(), f"ademx-{os.getuid()}-{run}")
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
    return str(folder)


def _length(data: Any) -> int:
    return len(memoryview(data).cast("B"))


class LogFormatter(logging.Formatter):
    """Escapes what could act on a terminal, and sets further lines of a message off."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        return printable(super().format(record), keep="\n\t").replace("\n", "\n    ")


@contextmanager
def unwinding() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as errors do, with exit status 128 + their number.

    Temporary files are removed then. A second one ends the process at once. Signals that are
    ignored, or that the caller handles, are left as they are, and child processes obey theirs.
    """
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:
            os.kill(os.getpid(), number)
        raise SystemExit(128 + number)

    taken = [one for one in stopping_signals() if signal.getsignal(one) == signal.SIG_DFL]
    with handled(taken, end):
        yield

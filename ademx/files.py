"""Writing files so that a reader meets the old one or the new one, never a part or a mixture."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Union

PathLike = Union[str, "os.PathLike[str]"]

_LOCK_FILE = ".lock"

_log = logging.getLogger(__name__)


@contextmanager
def replacing(path: PathLike, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Give a temporary file in the same folder that replaces `path` once it is complete.

    Args:
        path: the file to write; its folder must exist.
        durable: wait until the bytes are on the disk, so that a full disk shows here and a
            crash of the machine cannot leave an empty file. Spared where there are many files
            that can be made again.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        message = f"{error.strerror or error}; nothing was replaced"
        raise OSError(error.errno, message, os.fspath(path)) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def locked(folder: PathLike, what: str, *, wait: bool = False) -> Iterator[None]:
    """Keep a folder to this process, of all those that ask for it by this function.

    The lock is the system's, on a file in the folder that is removed at the end. It ends with the
    process, however that ends: a file that a killed one has left keeps nobody out.

    Args:
        folder: is made if need be.
        what: how the folder was named, for messages, such as "--output".
        wait: until another process that has it is done, in place of the error.

    Raises:
        ValueError: another process has it.
        OSError: the folder cannot be made or written to. One whose file system knows no locks
            gets a warning and goes on.
    """
    path = Path(folder) / _LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _lock(path, what, wait=wait)
    try:
        yield
    finally:
        with suppress(OSError):  # the folder is gone, or read-only by now
            path.unlink()
        os.close(file)


def _lock(path: Path, what: str, *, wait: bool) -> int:
    """Return the lock file, open and locked, with who holds it as its content."""
    import fcntl  # Windows has none

    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise ValueError(
                f"{what} {path.parent}: {holder} is at work in it: wait until it has ended, or "
                "choose another folder"
            ) from None
        except OSError as error:
            _log.warning(
                "%s %s: cannot be locked (%s): a second run in it would not be noticed",
                *(what, path.parent, error.strerror),
            )
            return file
        if _is_open(path, file):
            with suppress(OSError):  # a full disk
                os.ftruncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return file
        os.close(file)  # its holder has removed it since: there may be a new one


def _is_open(path: Path, file: int) -> bool:
    """Return whether the file of this name is the one that is open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def write_json(path: PathLike, value: Any) -> None:
    """Write a value as indented JSON, atomically; nan becomes null, as strict JSON has no nan."""
    text = json.dumps(_without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as file:
        # A file name that is not UTF-8 has surrogates, and this writes them as JSON's \udcXX.
        file.write(text.encode(errors="backslashreplace") + b"\n")


def md5(path: PathLike) -> str:
    """Return the MD5 of a file as 32 hexadecimal digits, the form of the release's table."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value

"""Writing files so that a reader meets the old one or the new one, never a part or a mixture."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import shutil
import socket
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Union

import numpy as np
from numpy.typing import NDArray

from ademx.errors import InputError
from iters.files import open_file

PathLike = Union[str, "os.PathLike[str]"]

LOCK_FILE = ".lock"

# What numpy and zipfile raise for files that are cut short or have wrong bytes.
DAMAGED_ARRAYS: tuple[type[Exception], ...] = (
    *(ValueError, LookupError, OSError, EOFError, MemoryError, RuntimeError, SyntaxError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)

_log = logging.getLogger(__name__)


@contextmanager
def replacing(path: PathLike, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Give a temporary file in the same folder that replaces `path` once it is complete.

    What a killed process has left of its temporary file is used up by the next one that writes
    the same file: the name follows from that of the file, and a lock tells dead from living.

    Args:
        path: the file to write; its folder must exist.
        durable: wait until the bytes are on the disk, so that a full disk shows here and a
            crash of the machine cannot leave an empty file. Spared where there are many files
            that can be made again.

    Raises:
        OSError: it cannot be written; what was there before is untouched. Errors that do not
            come from writing it pass as they are.
    """
    target = Path(os.path.realpath(path))
    try:
        partial, lock = _open_partial(target)
    except OSError as error:
        raise _not_replaced(path, error) from error
    # A file of its own on the same lock: some file systems tell of a full disk on closing.
    raw, is_filled = _RemembersFailure(os.dup(lock), "wb"), False
    raw.name = os.fspath(partial)  # which archives ask for
    try:
        with io.BufferedWriter(raw) as file:
            yield file
            is_filled = True
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        cause = raw.failure or error
        if isinstance(cause, OSError) and (is_filled or raw.failure or is_of_writing(cause)):
            raise _not_replaced(path, cause) from error
        raise
    finally:
        os.close(lock)


def copy_file(source: PathLike, target: PathLike) -> None:
    """Copy a file, atomically, as :func:`replacing` does."""
    with replacing(target) as file, open(source, "rb") as whole:
        shutil.copyfileobj(whole, file, 1 << 20)


class _RemembersFailure(io.FileIO):
    """A file that tells its own errors from those of whoever writes into it."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def is_of_writing(error: OSError) -> bool:
    """Return whether an error that names no file comes from writing one, by its descriptor."""
    return error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _not_replaced(path: PathLike, error: OSError) -> OSError:
    message = f"{error.strerror or error}; nothing was replaced"
    return OSError(error.errno, message, os.fspath(path))


def _open_partial(target: Path) -> tuple[Path, int]:
    """Return the path of a temporary file for a target, and that file, open, empty and locked."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    number = 0
    while True:
        path = target.with_name(_partial_name(target.name, number))
        is_new = not os.path.lexists(path)
        try:
            file = os.open(path, flags | (os.O_EXCL if is_new else 0), 0o666)
        except OSError:
            if is_new and not os.path.lexists(path):
                raise
            number += 1  # somebody else's
            continue
        if not _is_locked_now(file, is_new=is_new):
            number += 1
        elif _is_open(path, file):
            os.ftruncate(file, 0)
            return path, file
        os.close(file)


def _partial_name(name: str, number: int) -> str:
    """Return the name of a temporary file, which is not too long where that of its file is not."""
    stem = os.fsencode(name)
    short = name if len(stem) <= 100 else hashlib.sha256(stem).hexdigest()[:32]
    return f".{short}.{number}.tmp"


def _is_locked_now(file: int, *, is_new: bool) -> bool:
    """Lock a temporary file; return False if another process, or thread, may be writing it."""
    try:
        import fcntl  # Windows has none

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return is_new  # without locks nobody knows whether one that was there is in use
    return True


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
    path = Path(folder) / LOCK_FILE
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
            raise InputError(
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


def write_npz(
    file: BinaryIO, arrays: Mapping[str, NDArray[Any]], *, compressed: bool = False
) -> None:
    """Write arrays as `np.savez` does, which leaves its archive open where a write fails.

    The same arrays give the same bytes.
    """
    compression = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(  # type: ignore[no-untyped-call]  # numpy 1.26
                    member, np.asarray(array), allow_pickle=False
                )


def md5(path: PathLike) -> str:
    """Return the MD5 of a file as 32 hexadecimal digits, the form of the release's table."""
    with open_file(path) as file:
        return _md5(file.fileno())


def start_md5(file: IO[bytes]) -> Future[str]:
    """Start hashing an open file, all of it, and return what waits for its MD5.

    Meanwhile the file can be read, wherever its position is, and closed.
    """
    descriptor = os.dup(file.fileno())

    def digest() -> str:
        try:
            return _md5(descriptor)
        finally:
            os.close(descriptor)

    pool = ThreadPoolExecutor(1)
    future = pool.submit(digest)
    pool.shutdown(wait=False)
    return future


def _md5(descriptor: int) -> str:
    digest, at = hashlib.md5(usedforsecurity=False), 0
    while block := os.pread(descriptor, 1 << 20, at):
        digest.update(block)
        at += len(block)
    return digest.hexdigest()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value

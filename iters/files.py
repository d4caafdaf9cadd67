"""Reading files of other people's: what is no file is refused, and text comes in any Unicode."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from ademx.compat import InputError, SystemFault

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading; what is no file, such as a named pipe, would hang and is refused.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is none, or cannot be opened; the message names it.
    """
    return os.fdopen(_open_descriptor(path), "rb")


@contextmanager
def open_to_keep(path: str | os.PathLike[str]) -> Iterator[FileIO]:
    """Open a file without a buffer, see :func:`open_file`, for an object that is made of it.

    The object closes it; it is closed here where there is an error before.
    """
    file = FileIO(_open_descriptor(path), "rb")
    try:
        yield file
    except BaseException:
        file.close()
        raise


def _open_descriptor(path: str | os.PathLike[str]) -> int:
    # Without O_NONBLOCK, opening a pipe waits for a writer. It changes nothing for a file.
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, os.O_RDONLY | flags)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        advice = "" if kind == stat.S_IFDIR else "; write what it gives to one, and name that"
        raise SystemFault(
            f"{os.fspath(path)}: found {_KINDS.get(kind, 'something else')}: expected a "
            f"file{advice}"
        )
    return descriptor


def read_file(path: str | Path) -> bytes:
    """Return what a file holds; see :func:`open_file`."""
    with open_file(path) as file:
        return file.read()


def read_text(path: str | Path) -> str:
    """Return a text file in UTF-8 or, where it begins with a byte order mark, UTF-16.

    File names need not be UTF-8: what is not survives as surrogates, as in `os.fsdecode`.

    Raises:
        FileNotFoundError, OSError: see :func:`open_file`.
        ValueError: it is no text; the message names the file and the line.
    """
    content = read_file(path)
    if content.startswith(_UTF16_MARKS):
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-16, though it begins so: {error}") from None
    else:
        text = content.decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"{path}, line {line}: found a NUL character: expected text in UTF-8: it is another "
            "kind of file, a damaged one, or UTF-16 without a byte order mark"
        )
    return text

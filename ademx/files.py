"""Writing files so that a reader meets the old one or the new one, never a part."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Union

PathLike = Union[str, "os.PathLike[str]"]


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

"""A folder that holds all of a dataset or nothing of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ademx.errors import InputError
from ademx.files import LOCK_FILE, is_of_writing, locked

_PARTIAL = ".making.tmp"  # folder in the root of what is not complete yet
_COMPLETE = ".making.whole"  # the same, once all that is left is to move its content to the root


@contextmanager
def new_folder(root: Path, what: str) -> Iterator[Path]:
    """Give a folder whose content becomes the root's once it is complete.

    It lies in the root, which may be the only place that may be written to.

    Args:
        root: a new or an empty folder.
        what: how it was named, for messages, such as "--output".

    Raises:
        ValueError: the root holds something, or another process is at work in it.
        OSError: it cannot be made or written to.
    """
    is_new = not root.exists()
    partial = root / _PARTIAL
    try:
        with locked(root, what):
            _move_complete(root)  # what a killed process has left to do
            others = (path.name for path in root.iterdir())
            held = next((name for name in others if name not in (_PARTIAL, LOCK_FILE)), None)
            if held is not None:
                raise InputError(
                    f"{what} {root}: holds {held!r}: expected a new or an empty folder: "
                    "choose another"
                )
            try:
                shutil.rmtree(partial, ignore_errors=True)  # what a killed process has left
                partial.mkdir()
                yield partial
                partial.rename(root / _COMPLETE)
                _move_complete(root)
            except OSError as error:
                if not is_of_writing(error):
                    raise
                message = f"{error.strerror}; nothing was made"
                raise OSError(error.errno, message, str(root)) from error
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    finally:
        if is_new and root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _move_complete(root: Path) -> None:
    """Move a complete dataset's files to the root, all or those that are still to go."""
    complete = root / _COMPLETE
    if complete.is_dir():
        for path in sorted(complete.iterdir()):
            path.rename(root / path.name)
        complete.rmdir()

"""Files of arrays, `.npy` and `.npz`: what damage looks like, and writing them on a full disk."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What numpy and zipfile raise for files that are cut short or have wrong bytes.
DAMAGED_ARRAYS: tuple[type[Exception], ...] = (
    *(ValueError, LookupError, OSError, EOFError, MemoryError, RuntimeError, SyntaxError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


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

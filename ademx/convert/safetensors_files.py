"""safetensors files: the size of a header (uint64), the header in JSON, and the data.

The header says of each name its dtype, shape and where its data starts and ends. Read and written
here: tensor by tensor, so that no second copy is ever in memory, and without PyTorch.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from concurrent.futures import Future
from io import FileIO
from typing import Any

import numpy as np

from ademx.convert import no_weights
from ademx.errors import InputError
from ademx.files import PathLike, replacing
from ademx.params import Array, Entry, ParamsFile
from ademx.text import printable

# safetensors' name of a dtype -> numpy's; bfloat16 is read as the upper half of a float32.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_DTYPE_NAMES = {np.dtype(name): code for code, name in _DTYPES.items() if code != "BF16"}
# Bits of the others that the format knows: no network here has weights of these types.
_OTHER_BITS = {
    **dict.fromkeys(("U64", "C64"), 64),
    "U32": 32,
    **dict.fromkeys(("U16", "I16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
# Bytes, a tenth of the format's own limit: JSON of that size takes gigabytes. 400 arrays take
# under 100,000.
_MAX_HEADER = 10_000_000
_MAX_NDIM = 32  # numpy's before 2.0


class SafetensorsFile(ParamsFile):
    """An open safetensors file: name -> array, read when asked for."""

    def __getitem__(self, name: str) -> Array:
        if self.entries[name].dtype in _OTHER_BITS:
            raise no_weights(name, self.entries[name].dtype)
        return super().__getitem__(name)


def starts_like_safetensors(start: bytes) -> bool:
    """Return whether a file with these first bytes, nine at least, is a safetensors file.

    Text has a brace in ninth place too; no header is so long that its length has only letters.
    """
    return start[8:9] == b"{" and b"\0" in start[:8]


def open_safetensors(path: PathLike, file: FileIO) -> SafetensorsFile:
    """Return an open file with its header checked and none of its numbers read.

    Raises:
        ValueError: it is no safetensors file, or a damaged one.
    """
    try:
        entries, metadata = _read_header(file)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        found = printable(error) or type(error).__name__
        raise InputError(f"{found}; expected a whole safetensors file: download it again") from None
    return SafetensorsFile(path, file, entries, metadata)


def write_safetensors(
    path: PathLike,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str],
    *,
    source_md5: Future[str] | None = None,
) -> None:
    """Write a safetensors file; what was there before stays whole until the new one is.

    Args:
        path: where to.
        arrays: name -> array.
        metadata: texts for the header.
        source_md5: becomes metadata of this name, and is waited for after everything else.

    Raises:
        ValueError: an array has a dtype that the format lacks.
        OSError: it cannot be written.
    """
    for name, array in arrays.items():
        if array.dtype not in _DTYPE_NAMES:
            raise InputError(
                f"{os.fspath(path)}: {name!r} has dtype {array.dtype}, expected one of "
                f"{', '.join(str(dtype) for dtype in _DTYPE_NAMES)}: convert it"
            )
    unknown = {"source_md5": "0" * 32} if source_md5 else {}
    with replacing(path) as file:
        file.write(_safetensors_header(arrays, {**metadata, **unknown}))
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if source_md5:
            file.flush()
            os.fsync(file.fileno())  # the disk writes while the source is hashed
            file.seek(0)
            known = {"source_md5": source_md5.result()}
            file.write(_safetensors_header(arrays, {**metadata, **known}))


def _safetensors_header(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _DTYPE_NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    return struct.pack("<Q", len(text)) + text


def _read_header(file: FileIO) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the entries of an open file, and its metadata.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, RecursionError: it is damaged.
    """
    size = os.fstat(file.fileno()).st_size
    (length,) = struct.unpack("<Q", file.read(8))
    if length > size - 8:
        raise InputError(f"cut off or damaged: the header is {length} bytes long, the file {size}")
    if length > _MAX_HEADER:
        raise InputError(f"the header of {length} bytes is longer than any network's here")
    header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    entries = {name: _entry(name, 8 + length, **fields) for name, fields in header.items()}
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.offset, entry.nbytes)):
        if entry.offset != end:  # if they could overlap, a small file could fill the memory
            raise InputError(f"the data of {entry.name!r} does not follow that before it")
        end += entry.nbytes
    if end > size:
        raise InputError(f"the file is cut off: its data ends {end - size} bytes early")
    if end < size:
        raise InputError(f"{size - end} bytes follow the data")
    return entries, {str(key): str(value) for key, value in metadata.items()}


def _entry(name: str, data: int, *, dtype: str, shape: list[int], data_offsets: list[int]) -> Entry:
    """Return a tensor's entry.

    Raises:
        ValueError, TypeError: its fields do not fit each other.
    """
    start, end = data_offsets
    if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
        raise InputError(f"shape {shape}, bytes {start} to {end} of {name!r}")
    bits = _OTHER_BITS.get(dtype) or 8 * (
        2 if dtype == "BF16" else np.dtype(_DTYPES[dtype]).itemsize
    )
    # Beside a dimension of 0 the others count towards numpy's limits all the same.
    if len(shape) > _MAX_NDIM or math.prod(side or 1 for side in shape) * bits >= 1 << 63:
        raise InputError(f"shape {shape} of {name!r}")
    if (end - start) * 8 != math.prod(shape) * bits:
        raise InputError(f"shape {shape} of {dtype} does not take bytes {start} to {end}")
    return Entry(name, "", tuple(shape), _DTYPES.get(dtype, dtype), data + start, end - start, 0)

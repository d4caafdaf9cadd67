"""MXNet's `.params` files, read and written without MXNet.

:func:`load` and :func:`save` do the usual work; :func:`open_params` lists what a file holds
without reading its numbers. The layout is little endian:

    uint64 0x112 | uint64 0 | uint64 count | arrays | uint64 count | names (uint64 length + bytes)

and an array is, by version (see :func:`save` for which MXNet reads which):

    V0: uint32 ndim | uint32 dimensions | device | int32 dtype | data
    V1: uint32 0xF993FAC8 | uint32 ndim | int64 dimensions | device | int32 dtype | data
    V2: uint32 0xF993FAC9 | int32 storage | int32 ndim | int64 dimensions | device | … as V1
    V3: uint32 0xF993FACA | as V2, with numpy's shapes: ndim 0 is a scalar, ndim -1 is unknown

The device (int32 type, int32 id) is where the array lived; it says nothing about its bytes, so
files saved from a GPU read like any other.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from io import BufferedReader, FileIO
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ademx.errors import InputError
from ademx.files import PathLike, replacing, start_md5
from ademx.text import first_few
from iters.files import open_to_keep

Array = npt.NDArray[Any]

_MAGIC = struct.pack("<Q", 0x112)
_VERSIONS = {0xF993FAC8: 1, 0xF993FAC9: 2, 0xF993FACA: 3}
_MARKERS = {version: marker for marker, version in _VERSIONS.items()}
_CPU = (1, 0)  # device type, device id
_MAX_NDIM = 32  # numpy's limit before 2.0
_SMALLEST_ITEM = 28  # bytes: a V0 array of one dimension without elements, and an empty name
_IMPLAUSIBLE = 1 << 40  # bytes: no download falls this short, so the size itself is wrong
_AUX_SUFFIXES = ("moving_mean", "moving_var", "running_mean", "running_var")

# MXNet's dtype code: our name of it, the numpy dtype that holds its bytes.
_DTYPES: dict[int, tuple[str, np.dtype[Any]]] = {
    0: ("float32", np.dtype("<f4")),
    1: ("float64", np.dtype("<f8")),
    2: ("float16", np.dtype("<f2")),
    3: ("uint8", np.dtype("u1")),
    4: ("int32", np.dtype("<i4")),
    5: ("int8", np.dtype("i1")),
    6: ("int64", np.dtype("<i8")),
    7: ("bool", np.dtype("?")),
    12: ("bfloat16", np.dtype("<u2")),
}
_STORED = dict(_DTYPES.values())
# numpy has no bfloat16, so there is none to write.
_CODES = {name: code for code, (name, _) in _DTYPES.items() if name != "bfloat16"}

# First bytes of files that people mistake for `.params`: what it is, how it got here.
_FOREIGN = (
    (b"<", "a web page or XML", "the server sent a page instead of the file: download it again"),
    (b"{", "JSON", "the network (-symbol.json) in place of its .params file, or a server's error"),
    (b"PK", "a zip archive", "a PyTorch checkpoint (`ademx convert` reads it) or an archive"),
    (b"\x1f\x8b", "a gzip file", "the file is still compressed: gunzip it"),
    (b"BZh", "a bzip2 file", "the file is still compressed: bunzip2 it"),
    (b"\xfd7zXZ", "an xz file", "the file is still compressed: unxz it"),
    *(
        (bytes([0x80, n]), "a Python pickle", "an old PyTorch checkpoint: try `ademx convert`")
        for n in range(2, 6)
    ),
    (b"version https://git-lfs", "a Git LFS pointer", "the data was not fetched: `git lfs pull`"),
    *(
        (
            bytes([8, n, 0x12]),
            "an ONNX model",
            "only `ademx predict` runs it: give the weights that it was made from",
        )
        for n in range(3, 16)
    ),
    (b"name:", "a Caffe .prototxt", "the weights are in the .caffemodel beside it"),
    (_MAGIC[::-1], "0x112 with its bytes reversed", "the file is from a big-endian machine"),
)


class ParamsError(InputError):
    """A file is no `.params` file, or a damaged one; the message gives the byte and the cause."""


class CheckpointMismatch(InputError):
    """The parameters in a file are not the ones that a network has.

    Attributes:
        problems: the missing, unexpected and misshapen ones, a line each.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class HasShape(Protocol):
    """Anything with a shape: a numpy array, an `Entry`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions, in elements."""


@dataclass(frozen=True)
class Entry:
    """One array of a file, without its numbers.

    Attributes:
        name: Parameter name without `arg:` or `aux:`.
        kind: "arg" or "aux" by the stored prefix, "" where there is none.
        shape: Dimensions, in elements.
        dtype: A name such as "float32"; "bfloat16" is among them.
        offset: Where the data starts, in bytes from the start of the file.
        nbytes: Size of the data in the file, in bytes.
        version: Format of the array, 0 to 3.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    nbytes: int
    version: int

    @property
    def role(self) -> str:
        """Return "arg" or "aux": the kind, or else BatchNorm's moving statistics are "aux"."""
        return self.kind or ("aux" if self.name.endswith(_AUX_SUFFIXES) else "arg")


class ParamsFile(Mapping[str, Array]):
    """An open `.params` file: a read-only mapping of stored names to arrays, read when asked for.

    Keys are the names as stored, prefix included. `file[name]` reads a fresh, aligned, writable
    array; bfloat16 comes widened to float32, which is exact. The file stays readable while
    another replaces it. Reads move one file position: use it from one thread at a time.

    Attributes:
        path: Path as given.
        entries: Stored name -> `Entry`, in the order of the file.
        metadata: Texts that the file says of itself; a `.params` file has none.
    """

    def __init__(
        self,
        path: PathLike,
        file: FileIO,
        entries: dict[str, Entry],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.entries = entries
        self.metadata = dict(metadata or {})
        self._file = file

    def __getitem__(self, name: str) -> Array:
        if name not in self.entries:
            raise KeyError(f"{self.path} holds no {name!r} among its {len(self)} arrays")
        entry = self.entries[name]
        array = np.empty(entry.shape, _STORED[entry.dtype])
        self._fill(array, entry)
        if entry.dtype == "bfloat16":  # the upper half of a float32
            wide = np.empty(entry.shape, "<f4")
            np.left_shift(array, 16, out=wide.view("<u4"), dtype="<u4")
            return wide
        if entry.dtype == "bool" and (array.view(np.uint8) > 1).any():
            at = entry.offset + int((array.view(np.uint8) > 1).argmax())
            expected, cause = "0 or 1", "the file is damaged"
            raise _error(self.path, at, f"a bad bool in {name!r}", expected=expected, cause=cause)
        return array

    def _fill(self, array: Array, entry: Entry) -> None:
        """Read an entry's bytes into `array`."""
        rest = array.reshape(-1).view(np.uint8).data
        self._file.seek(entry.offset)
        while rest:  # the system reads at most 2 GiB at once
            size = self._file.readinto(rest)
            if not size:
                found = f"the file ends {len(rest)} bytes early"
                cause = "another program changed the file after it was opened"
                at = entry.offset + entry.nbytes - len(rest)
                raise _error(self.path, at, found, expected=f"all of {entry.name!r}", cause=cause)
            rest = rest[size:]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the array
        return name in self.entries

    def start_md5(self) -> Future[str]:
        """Start hashing the file and return what waits for its MD5, beside any reads."""
        return start_md5(self._file)

    def close(self) -> None:
        """Close the file; its `entries` stay."""
        self._file.close()

    def __enter__(self) -> ParamsFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_params(path: PathLike) -> ParamsFile:
    """Return an open file with all its headers checked and none of its numbers read.

    Data is skipped, so the time depends on the number of arrays, not on their size, and no size
    that the file states is allocated before the file is known to hold as much.

    Raises:
        FileNotFoundError: There is no such file.
        ParamsError: It is not a `.params` file, or a damaged, truncated or sparse one.
    """
    with open_to_keep(path) as file:
        return open_headers(path, file)


def open_headers(path: PathLike, file: FileIO) -> ParamsFile:
    """Return what :func:`open_params` does, of a file that is open; `path` is for messages."""
    return ParamsFile(path, file, _read_entries(path, file))


def load(path: PathLike) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return `(arg_params, aux_params)`: names without prefix -> arrays, in the file's order.

    Names stored without a prefix go by their ending: `moving_mean`, `moving_var` (gluon:
    `running_mean`, `running_var`) are auxiliary, all else arguments. Arrays are fresh, aligned
    and writable; bfloat16 is widened to float32, which is exact.

    Raises:
        FileNotFoundError: There is no such file.
        ParamsError: It is not a `.params` file, or a damaged, truncated or sparse one.
    """
    params: dict[str, dict[str, Array]] = {"arg": {}, "aux": {}}
    with open_params(path) as file:
        for stored, entry in file.entries.items():
            params[entry.role][entry.name] = file[stored]
    return params["arg"], params["aux"]


def save(
    path: PathLike,
    arg_params: Mapping[str, Array],
    aux_params: Mapping[str, Array],
    *,
    version: int = 2,
    prefixed: bool = True,
) -> None:
    """Write a `.params` file; the old one stays whole until the new one is.

    Args:
        path: Where to. A symbolic link is followed.
        arg_params: Names without `arg:` -> arrays of at least one dimension.
        aux_params: Names without `aux:` -> the same.
        version: Array format, by the oldest MXNet that must read it: 2 for 0.12 and later, 1 for
            0.11, 0 for all before. Later ones read the earlier formats too (tried with 0.9.5,
            0.10.0, 0.11.0, 0.12.0 and 1.9.1). A dtype must be known as well: int8 came with
            0.10, int64 with 0.11, bool after 0.12.
        prefixed: Store names as `arg:…` and `aux:…`, as MXNet's modules read them; gluon's
            `load_parameters` takes names without.

    Raises:
        ValueError: A name is empty, prefixed or in both mappings, or an array is not numpy's, has
            a dtype that the format lacks, or no dimension; nothing is written then.
        OSError: The disk is full, the folder is missing, …; the old file is as it was.
    """
    if version not in (0, 1, 2):
        raise InputError(f"{path}: cannot write version {version!r}; expected 0, 1 or 2")
    both = sorted(set(arg_params) & set(aux_params))
    if both:
        raise InputError(f"{path}: {both} given as argument and as auxiliary: keep one of each")
    arrays = {f"arg:{name}": array for name, array in arg_params.items()}
    arrays.update((f"aux:{name}", array) for name, array in aux_params.items())
    names = [_checked_name(path, stored) for stored in arrays]
    headers = [_array_header(f"{path}: {name}", arrays[name], version) for name in arrays]
    with replacing(path) as file:
        file.write(_MAGIC + struct.pack("<QQ", 0, len(arrays)))
        for header, array in zip(headers, arrays.values()):
            file.write(header)
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        file.write(struct.pack("<Q", len(names)))
        for name in names if prefixed else (name[len(b"arg:") :] for name in names):
            file.write(struct.pack("<Q", len(name)) + name)


def file_size(shapes: Mapping[str, tuple[int, ...]], *, version: int) -> int:
    """Return the bytes of a file of float32 arrays of these shapes, see :func:`save`.

    Args:
        shapes: Parameter names without `arg:` or `aux:` -> shapes.
        version: Array format, 0 to 2.
    """
    size = len(_MAGIC) + struct.calcsize("<QQQ")  # two numbers behind it, that of the names later
    for name, shape in shapes.items():
        array = np.broadcast_to(np.float32(0), shape)
        size += len(_array_header(name, array, version)) + array.nbytes
        size += struct.calcsize("<Q") + len(f"arg:{name}".encode())
    return size


def stored_version(start: bytes) -> int:
    """Return the version of a file's first array by the file's first 28 bytes.

    It is 2 for version 3, which differs in what numbers mean, and 0 where the file ends before.
    """
    return min(2, _VERSIONS.get(int.from_bytes(start[24:28], "little"), 0))


def check_finite(found: Mapping[str, Array], *, source: str) -> None:
    """Raise CheckpointMismatch if a number is nan or infinite, which MXNet's ReLU would make 0.

    Args:
        found: name -> array.
        source: the file, for the message.
    """
    for name, values in found.items():
        bad = values.size - np.count_nonzero(np.isfinite(values))
        if bad:
            raise CheckpointMismatch(
                f"{source}: {bad} of {values.size} numbers of {name} are nan or infinite: the file "
                "is damaged, or of a training that failed; `ademx weights verify` lists them all"
            )


def check_parameters(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, HasShape],
    *,
    source: str,
    allow_missing: Collection[str] = (),
) -> None:
    """Check that a file's parameters are a network's, names and shapes.

    Args:
        expected: The network's names (without `arg:`, `aux:`) -> shapes.
        found: The file's names -> arrays or entries.
        source: What was read, for the message: the file's path.
        allow_missing: Names that the file may lack, such as new layers before fine-tuning.

    Raises:
        CheckpointMismatch: Some do not fit. One message has all the missing, unexpected and
            misshapen ones (of each kind the first 20 and their number).
    """
    problems = {
        "missing": [n for n in expected if n not in found and n not in allow_missing],
        "unexpected": [n for n in found if n not in expected],
        "misshapen": [
            f"{name} is {tuple(found[name].shape)}, expected {tuple(shape)}"
            for name, shape in expected.items()
            if name in found and tuple(found[name].shape) != tuple(shape)
        ],
    }
    lines = [
        f"{len(names)} {kind}: {first_few(names, shown=20, separator='; ')}"
        for kind, names in problems.items()
        if names
    ]
    if lines:
        raise CheckpointMismatch(
            f"{source} does not fit the network:\n  " + "\n  ".join(lines) + "\n"
            "Give the label that the file was trained with.",
            lines,
        )


def _error(path: PathLike, at: int, found: str, *, expected: str, cause: str) -> ParamsError:
    return ParamsError(
        f"{os.fspath(path)}: at byte {at}: {found}; expected {expected}; likely cause: {cause}"
    )


class _Cursor:
    """A position in an open file that never reads past its end, should it be cut short too."""

    def __init__(self, path: PathLike, file: FileIO) -> None:
        self.path = path
        self.at = 0
        self.size = os.fstat(file.fileno()).st_size
        # So many bytes are read at a time: headers and names are small and close together.
        self._file = BufferedReader(FileIO(file.fileno(), closefd=False), 1 << 12)

    @property
    def left(self) -> int:
        """Bytes from here to the end."""
        return self.size - self.at

    def peek(self, at: int, size: int) -> bytes:
        """Return so many bytes from a place on, fewer where the file ends before."""
        self._file.seek(at)
        return self._file.read(size)

    def error(self, found: str, *, expected: str, cause: str, back: int = 0) -> ParamsError:
        """Return the error about what stands `back` bytes before this position."""
        return _error(self.path, self.at - back, found, expected=expected, cause=cause)

    def require(self, size: int, what: str) -> None:
        """Raise an error if the file holds fewer than `size` bytes from here on."""
        missing = size - self.left
        if missing <= 0:
            return
        cause = "the file was cut off: an interrupted download or copy, or a full disk"
        if missing >= _IMPLAUSIBLE:
            cause = "the header is damaged: no such file can exist"
        found = f"the file ends after {self.left} more bytes, at least {missing} are missing"
        raise self.error(found, expected=f"{size} bytes of {what}", cause=cause)

    def skip(self, size: int, what: str) -> int:
        """Move on by `size` bytes, which must be there, and return where they started."""
        self.require(size, what)
        self.at += size
        return self.at - size

    def read(self, layout: str, what: str) -> tuple[int, ...]:
        """Return the little-endian numbers here, of a `struct` layout, and move past them."""
        layout = f"<{layout}"
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))

    def take(self, size: int, what: str) -> bytes:
        """Return the bytes here and move past them."""
        found = self.peek(self.skip(size, what), size)
        if len(found) < size:
            cause = "another program changed the file after it was opened"
            raise self.error("the file ends here", expected=what, cause=cause, back=size)
        return found


def _read_entries(path: PathLike, file: FileIO) -> dict[str, Entry]:
    """Return all entries of an open file, by stored name."""
    cursor = _Cursor(path, file)
    if not cursor.size:
        cause = "a download or a save that failed at its start"
        raise cursor.error("the file is empty", expected="a .params file", cause=cause)
    arrays = [_read_array(cursor) for _ in range(_read_count(cursor))]
    entries = _read_names(cursor, arrays)
    if cursor.left:
        raise cursor.error(
            f"{cursor.left} bytes follow the last name",
            expected="the end of the file",
            cause="two files were joined, or the header is damaged",
        )
    return entries


def _read_count(cursor: _Cursor) -> int:
    """Return the number of arrays, after the file's own header."""
    _check_kind(cursor)
    _, reserved = cursor.read("QQ", "the file header")
    if reserved:
        raise cursor.error(
            f"{reserved:#x} in the reserved field", expected="0", cause="damaged header", back=8
        )
    (count,) = cursor.read("Q", "the number of arrays")
    cursor.require(count * _SMALLEST_ITEM, f"{count} arrays and their names")
    return count


def is_other_kind(start: bytes) -> bool:
    """Return whether a file with these first 32 bytes is none of weights, such as a web page."""
    return _foreign(start) is not None


def _foreign(head: bytes) -> tuple[str, str] | None:
    """Return what a file that starts so is, and how it got here; None where that is unknown."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")  # a byte order mark, blanks
    for start, what, reason in reversed(_FOREIGN):
        if text.startswith(start) or head.startswith(start):
            return what, reason
    return None


def _check_kind(cursor: _Cursor) -> None:
    """Raise an error that says what the file is, if it does not start like a `.params` file."""
    head = cursor.peek(0, 64)
    if _MAGIC.startswith(head[:8]):  # a shorter one was cut off, which the cursor reports
        return
    found, cause = f"bytes {head[:8].hex(' ')}", "this is no .params file, or a damaged one"
    # First, because the length that safetensors starts with may look like any of the others.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < cursor.size:
        found, cause = "a safetensors file", "wrong format: `ademx convert` reads it"
    else:
        found, cause = _foreign(head) or (found, cause)
    raise cursor.error(found, expected=f"bytes {_MAGIC.hex(' ')} (0x112)", cause=cause)


def _read_array(cursor: _Cursor) -> Entry:
    """Return an array's entry, which has no name yet, and move past it."""
    version, shape = _read_shape(cursor)
    cursor.skip(8, "the device")  # where the array lived: of no interest here
    (code,) = cursor.read("i", "the dtype")
    if code not in _DTYPES:
        known = ", ".join(f"{key} {name}" for key, (name, _) in _DTYPES.items())
        raise cursor.error(
            f"dtype code {code}", expected=f"one of {known}", cause="damaged header", back=4
        )
    name, stored = _DTYPES[code]
    nbytes = math.prod(shape) * stored.itemsize
    # Beside a dimension of 0 the others count towards numpy's limit all the same.
    if math.prod(size or 1 for size in shape) * stored.itemsize >= 1 << 63:
        raise cursor.error(
            f"shape {shape}",
            expected="an array of less than 2**63 bytes",
            cause="the header is damaged: no such file can exist",
        )
    offset = cursor.skip(nbytes, f"data of an array of shape {shape}, {name}")
    return Entry("", "", shape, name, offset, nbytes, version)


def _read_shape(cursor: _Cursor) -> tuple[int, tuple[int, ...]]:
    """Return an array's version and shape, and move past them."""
    (marker,) = cursor.read("I", "an array")
    version, ndim = _VERSIONS.get(marker, 0), marker
    if version >= 2:
        (storage,) = cursor.read("i", "the storage type")
        if storage != 0:
            raise cursor.error(
                f"storage type {storage}",
                expected="0, a dense array",
                cause="a sparse array (convert it with MXNet's `tostype('default')`) or damage",
                back=4,
            )
    if version:
        (ndim,) = cursor.read("i", "the number of dimensions")
    _check_ndim(cursor, ndim, version)
    shape = cursor.read(f"{ndim}{'q' if version else 'I'}", "dimensions")
    if min(shape, default=0) < 0:
        raise cursor.error(
            f"shape {shape}",
            expected="no negative dimension",
            cause="saved before its shape was known, or damage",
            back=8 * ndim,
        )
    return version, shape


def _check_ndim(cursor: _Cursor, ndim: int, version: int) -> None:
    """Raise an error if the number of dimensions, just read, cannot be."""
    least = 0 if version == 3 else 1
    if least <= ndim <= _MAX_NDIM:
        return
    found, cause = f"{ndim} dimensions", "the header is damaged"
    if ndim == least - 1:
        found, cause = "an array without a shape", "saved before it was initialised"
    elif not version:
        found, cause = f"array marker {ndim:#x}", "damage, or a newer format than MXNet 1.9's"
    expected = f"{least} to {_MAX_NDIM} dimensions, or a marker of versions 1 to 3"
    raise cursor.error(found, expected=expected, cause=cause, back=4)


def _read_names(cursor: _Cursor, arrays: list[Entry]) -> dict[str, Entry]:
    """Return the arrays with their names, by stored name."""
    (count,) = cursor.read("Q", "the number of names")
    if count != len(arrays):
        cause = "the name table is damaged"
        if count == 0:
            cause = "saved from a list: save a dict of name -> array"
        raise cursor.error(
            f"{count} names", expected=f"{len(arrays)}, one an array", cause=cause, back=8
        )
    entries: dict[str, Entry] = {}
    taken: set[str] = set()
    for array in arrays:
        stored, kind, name = _read_name(cursor)
        if name in taken:
            raise cursor.error(
                f"the name {stored!r} for a second array",
                expected="each name once, whatever its prefix",
                cause="the name table is damaged, or its writer made an error",
                back=len(stored.encode()),
            )
        taken.add(name)
        entries[stored] = replace(array, name=name, kind=kind)
    return entries


def _read_name(cursor: _Cursor) -> tuple[str, str, str]:
    """Return a name as stored, its kind and the name without prefix, and move past it."""
    (length,) = cursor.read("Q", "the length of a name")
    raw = cursor.take(length, "a name")
    try:
        stored = raw.decode("utf-8")
    except UnicodeDecodeError:
        found, cause = f"the name {raw[:40]!r}", "the name table is damaged"
        raise cursor.error(found, expected="UTF-8", cause=cause, back=length) from None
    kind, colon, name = stored.partition(":")
    if not colon or kind not in ("arg", "aux"):
        kind, name = "", stored
    if not name:
        found, cause = f"the empty name {stored!r}", "the name table is damaged"
        raise cursor.error(found, expected="a parameter's name", cause=cause, back=length)
    return stored, kind, name


def _checked_name(path: PathLike, stored: str) -> bytes:
    """Return a name with its prefix as it is stored."""
    name = stored[len("arg:") :]
    if not name or name.startswith(("arg:", "aux:")):
        raise InputError(f"{path}: bad name {name!r}; expected one, without `arg:` or `aux:`")
    try:
        return stored.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{path}: bad name {name!r}; expected valid Unicode") from None


def _array_header(where: str, array: Array, version: int) -> bytes:
    """Return the bytes before an array's data, or raise what is wrong with it."""
    if not isinstance(array, np.ndarray):
        kind = type(array).__name__
        raise InputError(f"{where}: found {kind}; expected a numpy array (MXNet: `.asnumpy()`)")
    if array.dtype.name not in _CODES:
        known = ", ".join(_CODES)
        raise InputError(f"{where}: found dtype {array.dtype}; expected one of {known}: convert it")
    if array.ndim == 0:
        raise InputError(f"{where}: found a scalar; expected a dimension: reshape it to (1,)")
    if version == 0 and max(array.shape) >= 1 << 32:
        raise InputError(f"{where}: found shape {array.shape}; version 0 ends at 2**32 - 1")
    start = {
        0: b"",
        1: struct.pack("<I", _MARKERS[1]),
        2: struct.pack("<Ii", _MARKERS[2], 0),
    }[version]
    dimensions = f"<I{array.ndim}{'q' if version else 'I'}"
    code = _CODES[array.dtype.name]
    shape = struct.pack(dimensions, array.ndim, *array.shape)
    return start + shape + struct.pack("<iii", *_CPU, code)

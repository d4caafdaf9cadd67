"""Where the bytes of a sample lie: files of their own, or records in a RecordIO file."""

from __future__ import annotations

import logging
import os
import shlex
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ademx.compat import InputError, MissingFile
from iters.decode import BrokenImage
from iters.files import open_file, read_file, read_text

_log = logging.getLogger(__name__)

# A record: magic, then 3 bits that say which part of a record this is and 29 bits of length,
# then the data, filled up to a multiple of 4 bytes. Where the data holds the magic at such a
# multiple, it is split there into several parts and the magic is left out.
_MAGIC = struct.pack("<I", 0xCED7230A)
_FRAME = struct.Struct("<4sI")
_LENGTH_BITS = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)

# What im2rec puts before the image: number of further labels, label, two ids.
_HEADER = struct.Struct("<IfQQ")


class Record(NamedTuple):
    """An image in a RecordIO file.

    Attributes:
        key: its number in the index.
        offset: where it begins, bytes.
        label: class id.
    """

    key: int
    offset: int
    label: int


def read_bytes(path: str | Path, offset: int | None = None) -> bytes:
    """Return an encoded image.

    Args:
        path: the image, or a RecordIO file.
        offset: where the image's record begins, bytes; None for a file of its own.

    Raises:
        OSError: the file cannot be read.
        BrokenImage: there is no whole record at the offset.
    """
    if offset is None:
        return read_file(path)
    with open_file(path) as file:
        file.seek(offset)
        try:
            data = _read_record(file)
            num_labels = _HEADER.unpack_from(data)[0]
        except (InputError, struct.error) as error:
            raise BrokenImage(f"{path}, record at byte {offset}: {error}") from None
    return data[_HEADER.size + 4 * num_labels :]


def _read_record(file: BinaryIO) -> bytes:
    """Return the data of the record that begins here.

    Raises:
        ValueError: there is none, or it is cut short.
    """
    parts: list[bytes] = []
    while True:
        kind, length = _parse_frame(file.read(_FRAME.size))
        if kind not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
            raise InputError(f"part {len(parts)} of the record is of kind {kind}")
        data = file.read(length)
        if len(data) < length:
            raise InputError(f"the file ends after {len(data)} of {length} bytes")
        parts.append(data)
        if kind in (_WHOLE, _LAST):
            return _MAGIC.join(parts)
        file.seek(-length % 4, 1)


def _parse_frame(frame: bytes) -> tuple[int, int]:
    """Return which part of a record follows, and its length in bytes."""
    if len(frame) < _FRAME.size or frame[:4] != _MAGIC:
        raise InputError(f"found {frame[:4].hex() or 'the end'}: expected {_MAGIC.hex()}")
    value = _FRAME.unpack(frame)[1]
    return value >> _LENGTH_BITS, value & ((1 << _LENGTH_BITS) - 1)


def read_record_file(path: str | Path) -> list[Record]:
    """Return the records of a RecordIO file as im2rec packs them, in the order of its index.

    The index lies beside it, `.idx` in place of `.rec`. Without one, the records are taken in the
    order of the file, and numbered so. The labels lie in the records, so that each is visited;
    the images are not read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it or its index is malformed, or holds something else than images of one
            class each; the message names the file and the line or the record.
    """
    path = Path(path)
    index = path.with_suffix(".idx")
    if not path.exists() or not index.exists():
        records = [record for record, _ in walk_records(path)]
        _log.info(
            "%s: no such file: took the %d records in their order; `ademx data index %s` keeps it",
            *(index, len(records), shlex.quote(str(path))),
        )
        return records
    with open_file(path) as file:
        size = _size(path, file)
        return [_find(path, file, size, *place)[0] for place in _read_index(index)]


def walk_records(path: str | Path) -> Iterator[tuple[Record, int]]:
    """Yield the records of a RecordIO file in its order, numbered so, and where each ends, bytes.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_record_file`.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFile(f"RecordIO file {path}: no such file")
    with open_file(path) as file:
        size = _size(path, file)
        number = end = 0
        while end < size:
            record, end = _find(path, file, size, number, end)
            yield record, end
            number += 1


def _size(path: Path, file: BinaryIO) -> int:
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise InputError(f"{path}: the file is empty: pack it again")
    return size


def _find(path: Path, file: BinaryIO, size: int, key: int, offset: int) -> tuple[Record, int]:
    """Return the record that begins here, and where the next one does."""
    try:
        label, end = _read_label(file, offset, size)
    except (InputError, struct.error) as error:
        other = _something_else(file, offset, size)
        raise InputError(
            f"{path}, record {key} at byte {offset}: "
            + (
                f"found {other}: expected one class id, as im2rec packs it"
                if other
                else f"{error}: pack the file again"
            )
        ) from None
    return Record(key, offset, label), end


def _something_else(file: BinaryIO, offset: int, size: int) -> str:
    """Return what is here in place of an image of one class, or "" for a damaged record."""
    if not 0 <= offset < size:
        return ""
    head = os.pread(file.fileno(), 13, offset)
    if len(head) == 13 and head[:4] != _MAGIC:
        (length,) = struct.unpack_from("<Q", head)
        # Length, its checksum, a protobuf message whose first field is the first, a checksum.
        is_tensorflow = length + 16 <= size and head[12] == 0x0A
        return "a record of TensorFlow's (TFRecord)" if is_tensorflow else ""
    try:
        file.seek(offset)
        data = _read_record(file)
        if _is_protobuf(data):
            return "a protobuf message, such as SageMaker's"
        num_labels = _HEADER.unpack_from(data)[0]
        if num_labels <= 1:
            return ""
        labels = struct.unpack_from(f"<{num_labels}f", data, _HEADER.size)
    except (InputError, struct.error, MemoryError):
        return ""
    if len(data) == _HEADER.size + 4 * num_labels:
        return f"{num_labels} labels and no image, as InsightFace's files of faces begin"
    # How wide the header of the labels is, and each object: class, box, perhaps more.
    header, width = labels[:2]
    if header >= 2 and width >= 5 and (num_labels - header) % width == 0:
        return f"boxes of {(num_labels - header) / width:.0f} objects, for detection"
    return f"{num_labels} labels"


def _is_protobuf(data: bytes) -> bool:
    """Return whether all of the data are fields of a protobuf message.

    What im2rec packs is none: zeros follow the first byte, and no field has the number 0.

    Source: Protocol Buffers, "Encoding".
    """
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind not in (0, 1, 2, 5) or not 1 <= key >> 3 < 1 << 29:
            return False
        if kind == 0:
            _, place = _varint(data, place)
        elif kind == 2:
            length, place = _varint(data, place)
            place += length
        else:
            place += 8 if kind == 1 else 4
    return place == len(data) > 0


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number that begins here, in groups of 7 bits, and where it ends."""
    value = 0
    for shift, byte in enumerate(data[place : place + 10]):
        value |= (byte & 127) << (7 * shift)
        if byte < 128:
            return value, place + shift + 1
    return 0, len(data) + 1


def write_records(
    images: Iterable[tuple[int, int, bytes]], *, record_file: BinaryIO, index_file: BinaryIO
) -> None:
    """Write a RecordIO file as im2rec packs it, and its index.

    Args:
        images: key, class id and encoded image of each record.
        record_file: what a name in `.rec` is for, open for writing, at its beginning.
        index_file: the same of `.idx`.

    Raises:
        ValueError: an image is too long for a record.
    """
    for key, label, encoded in images:
        index_file.write(f"{key}\t{record_file.tell()}\n".encode())
        try:
            _write_record(record_file, _HEADER.pack(0, label, key, 0) + encoded)
        except InputError as error:
            raise InputError(f"record {key}: {error}") from None


def _write_record(file: BinaryIO, data: bytes) -> None:
    """Write a record, in several parts where the data holds the magic at a multiple of 4."""
    if len(data) >> _LENGTH_BITS:
        raise InputError(f"found {len(data)} bytes: expected less than {1 << _LENGTH_BITS}")
    start, found = 0, data.find(_MAGIC)
    while found >= 0:
        if found % 4 == 0:
            _write_part(file, _MIDDLE if start else _FIRST, data[start:found])
            start = found + 4
        found = data.find(_MAGIC, max(start, found + 1))
    _write_part(file, _LAST if start else _WHOLE, data[start:])


def _write_part(file: BinaryIO, kind: int, data: bytes) -> None:
    file.write(_FRAME.pack(_MAGIC, kind << _LENGTH_BITS | len(data)))
    file.write(data + bytes(-len(data) % 4))


def _read_index(path: Path) -> list[tuple[int, int]]:
    """Return key and offset of each record."""
    places = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            key, offset = (int(field) for field in line.split("\t"))
        except ValueError:
            raise InputError(
                f"{path}, line {number}: found {line!r}: expected a number and an offset in "
                "bytes, separated by a tab"
            ) from None
        places.append((key, offset))
    if not places:
        raise InputError(f"{path}: the index is empty: without it, the file is taken in its order")
    return places


def _read_label(file: BinaryIO, offset: int, size: int) -> tuple[int, int]:
    """Return the class id in the record that begins at this offset, and where the record ends.

    Not by mapping the file, which ends the process where the file is cut short meanwhile.
    """
    length = _FRAME.size + _HEADER.size + 4
    head = os.pread(file.fileno(), length, offset) if 0 <= offset < size else b""
    kind, length = _parse_frame(head[: _FRAME.size])
    data = head[_FRAME.size : _FRAME.size + length]
    end = offset + _FRAME.size + length
    if kind != _WHOLE or end > size:  # seldom: in parts, or broken
        file.seek(offset)
        data = _read_record(file)
        end = file.tell()
    num_labels, label = _HEADER.unpack_from(data)[:2]
    if num_labels == 1:
        (label,) = struct.unpack_from("<f", data, _HEADER.size)
    if num_labels > 1 or label < 0 or not label.is_integer():
        raise InputError(f"{num_labels or 1} label(s), {label}: expected one class id")
    return int(label), end + -(end - offset) % 4

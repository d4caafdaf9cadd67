"""`.params` files written by the format's description, independently of `ademx.params`."""

from __future__ import annotations

import struct

MARKERS = {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}
CODES = {
    "float32": 0,
    "float64": 1,
    "float16": 2,
    "uint8": 3,
    "int32": 4,
    "int8": 5,
    "int64": 6,
    "bool": 7,
    "bfloat16": 12,
}


def encode_array(shape, code, data, *, version=2, device=(1, 0), storage=0) -> bytes:
    """Write an array by the format's description, with any lie the caller asks for."""
    head = b""
    if version:
        head += struct.pack("<I", MARKERS[version])
    if version >= 2:
        head += struct.pack("<i", storage)
    head += struct.pack(f"<i{len(shape)}{'q' if version else 'I'}", len(shape), *shape)
    return head + struct.pack("<iii", *device, code) + data


def encode_names(names) -> bytes:
    table = struct.pack("<Q", len(names))
    return table + b"".join(struct.pack("<Q", len(name)) + name for name in names)


def encode_file(arrays: dict[bytes, bytes]) -> bytes:
    head = struct.pack("<QQQ", 0x112, 0, len(arrays))
    return head + b"".join(arrays.values()) + encode_names(list(arrays))

"""Damaged `.params` files: any edit of a valid one gives a `ParamsError` or what the bytes say.

ADEMX_FUZZ_EXAMPLES=50000 runs many more examples than the few hundred of a usual test run.
"""

from __future__ import annotations

import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from params_bytes import CODES, MARKERS, encode_array, encode_names

from ademx.params import ParamsError, load, open_params

EXAMPLES = int(os.environ.get("ADEMX_FUZZ_EXAMPLES", "200"))
WIDTHS = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2}
HEADER = 24  # bytes of the file's own header

FUZZ = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def valid_files(draw) -> bytes:
    """Draw a valid file of up to four small arrays of any version, dtype and device."""
    names = draw(st.lists(st.text("abé:_", min_size=1, max_size=6), max_size=4, unique=True))
    arrays = []
    for _ in names:
        version = draw(st.sampled_from([0, 1, 2, 3]))
        least = 0 if version == 3 else 1
        shape = draw(st.lists(st.integers(0, 4), min_size=least, max_size=3))
        dtype = draw(st.sampled_from(sorted(CODES)))
        size = int(np.prod(shape, dtype=int)) * WIDTHS.get(dtype, 1)
        data = bytes(draw(st.binary(min_size=size, max_size=size)))
        if dtype == "bool":
            data = bytes(value & 1 for value in data)
        device = (draw(st.sampled_from([1, 2])), draw(st.integers(0, 7)))
        arrays.append(encode_array(shape, CODES[dtype], data, version=version, device=device))
    prefixed = [draw(st.sampled_from(["arg:", "aux:", ""])) + name for name in names]
    head = struct.pack("<QQQ", 0x112, 0, len(names))
    return head + b"".join(arrays) + encode_names([name.encode() for name in prefixed])


TELLING = [0, 1, 2, 3, 4, 7, 8, 12, 32, 33, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**60]
TELLING += [2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 0x112, *MARKERS.values()]


@st.composite
def damaged_files(draw) -> bytes:
    """Draw a valid file with one to three edits, some of them to whole numbers of its headers."""
    content = draw(valid_files())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        edit = draw(st.sampled_from(["number", "byte", "cut", "insert", "delete", "repeat"]))
        if edit == "number":
            width = draw(st.sampled_from([4, 8]))
            at -= at % 4
            number = draw(st.sampled_from(TELLING)) % (1 << 8 * width)
            content = content[:at] + number.to_bytes(width, "little") + content[at + width :]
        elif edit == "byte":
            content = content[:at] + draw(st.binary(min_size=1, max_size=1)) + content[at + 1 :]
        elif edit == "cut":
            content = content[:at]
        elif edit == "insert":
            content = content[:at] + draw(st.binary(min_size=1, max_size=9)) + content[at:]
        else:
            end = min(len(content), at + draw(st.integers(1, 40)))
            content = content[:at] + content[at:end] * (edit == "repeat") + content[end:]
            if edit == "repeat":
                content = content[:end] + content[at:]
    return content


def encoded_again(path) -> tuple[bytes, list[int]]:
    """Return what was read, written as the format says, and where its arrays' devices stand."""
    arrays, devices = [], []
    with open_params(path) as file:
        for name, entry in file.entries.items():
            array = file[name]
            if entry.dtype == "bfloat16":
                array = (array.view(np.uint32) >> 16).astype(np.uint16)
            code, data = CODES[entry.dtype], array.tobytes()
            arrays.append(encode_array(array.shape, code, data, version=entry.version))
            devices.append(entry.offset - 12)
        names = [name.encode() for name in file]
    head = struct.pack("<QQQ", 0x112, 0, len(names))
    return head + b"".join(arrays) + encode_names(names), devices


def assert_read_as_written(path, content: bytes) -> None:
    """Check that what was read is all that the bytes say, the devices aside."""
    again, devices = encoded_again(path)
    on_cpu = bytearray(content)
    for at in devices:
        on_cpu[at : at + 8] = struct.pack("<ii", 1, 0)
    assert bytes(on_cpu) == again


def read(path, content: bytes) -> bool:
    """Read a file; return whether it was taken for valid. Its names must be unique."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        load(path)
    except ParamsError as error:
        message = str(error)
        assert message.startswith(f"{path}: at byte ")
        assert 0 <= int(message[len(f"{path}: at byte ") :].split(":")[0]) <= len(content)
        assert "; expected " in message
        assert "; likely cause: " in message
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # The objects that describe an array, and an error, take some kilobytes.
        assert peak < 60_000 + 4 * len(content)
    return True


@FUZZ
@given(content=valid_files())
def test_valid_files_are_read_whole(tmp_path, content):
    path = tmp_path / "a.params"
    if read(path, content):
        assert_read_as_written(path, content)
    else:  # the one reason: `x` and `arg:x`, or an empty name behind a prefix
        with pytest.raises(ParamsError, match=r"for a second array|the empty name"):
            load(path)


@FUZZ
@given(content=damaged_files())
def test_damaged_files_are_refused_or_read_as_they_are(tmp_path, content):
    path = tmp_path / "a.params"
    if read(path, content):
        assert_read_as_written(path, content)


@FUZZ
@given(tail=st.binary(max_size=200), count=st.sampled_from([0, 1, 2, 3, 2**60, 2**64 - 1]))
def test_noise_behind_a_valid_start(tmp_path, tail, count):
    path = tmp_path / "a.params"
    content = struct.pack("<QQQ", 0x112, 0, count) + tail
    if read(path, content):
        assert_read_as_written(path, content)


@FUZZ
@given(content=st.binary(max_size=100))
def test_noise(tmp_path, content):
    assert not read(tmp_path / "a.params", content)

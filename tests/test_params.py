"""`.params` files: MXNet itself referees what is read and written, by version and dtype."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import resource
import stat
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from params_bytes import CODES, encode_array, encode_file, encode_names

from ademx.params import (
    CheckpointMismatch,
    Entry,
    ParamsError,
    check_parameters,
    load,
    open_params,
    save,
)

WRITABLE = [name for name in CODES if name != "bfloat16"]


def numbers(dtype: str) -> np.ndarray:
    """Return a (2, 3) array; bfloat16 comes as its uint16 bit patterns."""
    values = np.array([[0, 1, 3], [-2, 0.375, 100]])
    if dtype == "bfloat16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    return np.abs(values).astype(dtype) if dtype == "uint8" else values.astype(dtype)


def small(version=2, **options) -> bytes:
    """Return a file of one (2, 3) float32 array, `arg:w`: 24 bytes of file header first."""
    array = encode_array((2, 3), 0, numbers("float32").tobytes(), version=version, **options)
    return encode_file({b"arg:w": array})


def mxnet_load(path, *, numpy_shapes=False) -> dict[str, np.ndarray]:
    from ademx.compat import import_mxnet

    mx = import_mxnet()
    with mx.util.np_shape(numpy_shapes):
        loaded = mx.nd.load(str(path))
        for name, array in loaded.items():
            if np.dtype(
                array.dtype
            ).names:  # bfloat16, which asnumpy gives as raw bytes: MXNet widens it
                loaded[name] = array.astype("float32")
        return {name: array.asnumpy() for name, array in loaded.items()}


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_reads_what_mxnet_reads(tmp_path, version, dtype):
    pytest.importorskip("mxnet")
    path = tmp_path / "a.params"
    data = numbers(dtype).tobytes()
    w = encode_array((2, 3), CODES[dtype], data, version=version)
    m = encode_array((6,), CODES[dtype], data, version=version, device=(2, 3))  # from a GPU
    path.write_bytes(encode_file({b"arg:w": w, b"aux:m": m}))

    arg_params, aux_params = load(path)

    theirs = mxnet_load(path, numpy_shapes=version == 3)
    assert_same(arg_params["w"], theirs["arg:w"])
    assert_same(aux_params["m"], theirs["aux:m"])
    assert np.any(arg_params["w"])
    with open_params(path) as file:
        assert {(e.version, e.dtype) for e in file.entries.values()} == {(version, dtype)}


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_empty_arrays_read_like_mxnet(tmp_path, version):
    pytest.importorskip("mxnet")
    path = tmp_path / "a.params"
    path.write_bytes(encode_file({b"arg:w": encode_array((0, 3), 0, b"", version=version)}))
    assert_same(load(path)[0]["w"], mxnet_load(path, numpy_shapes=version == 3)["arg:w"])


def test_reads_what_mxnet_saves_with_numpy_shapes(tmp_path):
    pytest.importorskip("mxnet")
    from ademx.compat import import_mxnet

    mx = import_mxnet()
    path = tmp_path / "a.params"
    with mx.util.np_shape(True):
        arrays = {"arg:scalar": mx.nd.array(7.5), "arg:w": mx.nd.array([[True]], dtype="bool")}
        arrays["aux:none"] = mx.nd.zeros((2, 0), dtype="float64")
        mx.nd.save(str(path), {name: a for name, a in arrays.items()})
        theirs = {name: a.asnumpy() for name, a in arrays.items()}
    with open_params(path) as file:
        assert {entry.version for entry in file.entries.values()} == {3}
        for name in theirs:
            assert_same(file[name], theirs[name])


@pytest.mark.parametrize("dtype", WRITABLE)
@pytest.mark.parametrize("version", [0, 1, 2])
def test_mxnet_reads_what_we_write(tmp_path, version, dtype):
    pytest.importorskip("mxnet")
    path = tmp_path / "a.params"
    save(path, {"w": numbers(dtype)}, {"m": numbers(dtype)[0]}, version=version)
    theirs = mxnet_load(path)
    assert list(theirs) == ["arg:w", "aux:m"]
    assert_same(theirs["arg:w"], numbers(dtype))
    assert_same(theirs["aux:m"], numbers(dtype)[0])


def test_version_2_is_what_mxnet_writes_byte_for_byte(tmp_path):
    pytest.importorskip("mxnet")
    from ademx.compat import import_mxnet

    mx = import_mxnet()
    arrays = {f"w_{dtype}": numbers(dtype) for dtype in WRITABLE}
    theirs = {f"arg:{n}": mx.nd.array(a, dtype=a.dtype) for n, a in arrays.items()}
    mx.nd.save(str(tmp_path / "theirs"), theirs)
    save(tmp_path / "ours", arrays, {})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("version", [0, 1, 2])
def test_bytes_of_each_version(tmp_path, version):
    # MXNet 0.9.5 and 0.10.0 were found to read version 0 alone, 0.11.0 versions 0 and 1, 0.12.0
    # all three.
    save(tmp_path / "a.params", {"w": numbers("float32")}, {}, version=version)
    assert (tmp_path / "a.params").read_bytes() == small(version)


def test_names_without_prefix(tmp_path):
    names = [b"conv_weight", b"bn_moving_mean", b"bn_moving_var", b"0.running_var", b"a:b"]
    array = encode_array((1,), 0, bytes(4))
    (tmp_path / "a.params").write_bytes(encode_file({name: array for name in names}))
    arg_params, aux_params = load(tmp_path / "a.params")
    assert list(arg_params) == ["conv_weight", "a:b"]
    assert list(aux_params) == ["bn_moving_mean", "bn_moving_var", "0.running_var"]


def test_stored_prefix_beats_the_ending(tmp_path):
    array = encode_array((1,), 0, bytes(4))
    (tmp_path / "a.params").write_bytes(encode_file({b"arg:x_moving_mean": array}))
    assert list(load(tmp_path / "a.params")[0]) == ["x_moving_mean"]


def test_entries(tmp_path):
    path = tmp_path / "a.params"
    path.write_bytes(small())
    with open_params(path) as file:
        # 24 bytes of file header; marker, storage, ndim: 12; two dimensions: 16; device, dtype: 12
        assert file.entries == {"arg:w": Entry("w", "arg", (2, 3), "float32", 64, 24, 2)}
        assert file.path == path
        assert (list(file), len(file), "arg:w" in file, "w" in file) == (["arg:w"], 1, True, False)
        assert_same(file["arg:w"], numbers("float32"))
        with pytest.raises(KeyError, match=r"a\.params holds no 'w' among its 1 arrays"):
            file["w"]
    with pytest.raises(ValueError, match="closed file"):
        file["arg:w"]


def test_arrays_are_owned_aligned_writable_and_outlive_the_file(tmp_path):
    path = tmp_path / "a.params"
    path.write_bytes(
        encode_file(
            {
                b"arg:odd_length": encode_array((3,), 3, b"abc"),
                b"arg:w": encode_array((2,), 1, np.ones(2).tobytes()),
            }
        )
    )
    w = load(path)[0]["w"]
    path.write_bytes(b"")
    flags = w.flags
    assert (flags.owndata, flags.aligned, flags.writeable, flags.c_contiguous) == (True,) * 4
    w += 1
    np.testing.assert_array_equal(w, [2, 2])


def test_an_open_file_survives_its_replacement(tmp_path):
    path = tmp_path / "a.params"
    save(path, {"w": np.zeros(3, np.float32)}, {})
    with open_params(path) as file:
        save(path, {"other": np.ones(9, np.float32)}, {})
        np.testing.assert_array_equal(file["arg:w"], np.zeros(3))


def test_a_file_cut_after_it_was_opened(tmp_path):
    path = tmp_path / "a.params"
    path.write_bytes(small())
    with open_params(path) as file:
        os.truncate(path, 70)
        with pytest.raises(ParamsError, match=r"at byte 70: the file ends 18 bytes early.*changed"):
            file["arg:w"]


@pytest.mark.parametrize("kept", [0, 20, 4000, 30_000])
def test_a_file_cut_while_its_headers_are_read(tmp_path, monkeypatch, kept):
    """No memory map: a page of one that the file no longer has would end the process."""
    path = tmp_path / "a.params"
    save(path, {f"w{i}": np.zeros(1, np.float32) for i in range(1000)}, {})
    found = os.stat(path)

    def cut_behind_its_back(_descriptor):
        os.truncate(path, kept)
        return found

    monkeypatch.setattr("ademx.params.os.fstat", cut_behind_its_back)
    with pytest.raises(ParamsError, match=r"the file ends here|cut off|no \.params"):
        open_params(path)


def test_what_is_no_regular_file_is_named(tmp_path):
    path = tmp_path / "a.params"
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"a\.params: found a named pipe: expected a file; write"):
        load(path)  # would wait for a writer
    with pytest.raises(OSError, match="found a folder: expected a file"):
        load(tmp_path)


def test_names_cannot_act_on_a_terminal():
    found = {"bad\x1b[2J\a\nname": np.zeros(1)}
    with pytest.raises(CheckpointMismatch, match=r"bad\\x1b\[2J\\x07\\nname"):
        check_parameters({}, found, source="x")


def test_names_without_prefix_are_written_for_gluon(tmp_path):
    path = tmp_path / "a.params"
    save(path, {"w": np.ones(2)}, {"running_mean": np.zeros(1)}, prefixed=False)
    with open_params(path) as file:
        assert list(file.entries) == ["w", "running_mean"]
    assert list(load(path)[1]) == ["running_mean"]


def test_no_mxnet_is_needed(tmp_path):
    code = (
        "import sys; sys.modules['mxnet'] = None\n"
        "from ademx.params import load, save; import numpy as np\n"
        "save(sys.argv[1], {'w': np.ones(2)}, {}); assert load(sys.argv[1])[0]['w'].sum() == 2"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.params")], check=True)


def test_memory_of_listing_and_loading(tmp_path):
    path = tmp_path / "a.params"
    save(path, {f"w{i}": np.ones((1000, 250), np.float32) for i in range(20)}, {})
    size = path.stat().st_size  # 20 MB
    tracemalloc.start()
    try:
        with open_params(path) as file:
            assert file.entries["arg:w19"].shape == (1000, 250)
        assert tracemalloc.get_traced_memory()[1] < 100_000
        load(path)
        assert size <= tracemalloc.get_traced_memory()[1] + 10_000 < 1.1 * size
    finally:
        tracemalloc.stop()


# Files that are not `.params`: how each is made, what the message must say.
def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", "x")


FOREIGN = {
    "html": (lambda p: p.write_text("\n <!DOCTYPE html><html>Quota"), "a web page.*download it"),
    "zip": (zipped, "a zip archive.*PyTorch checkpoint.*ademx convert"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1}, 2)), "a Python pickle"),
    "pickle 5": (lambda p: p.write_bytes(pickle.dumps({"a": 1}, 5)), "a Python pickle"),
    "empty": (lambda p: p.write_bytes(b""), "the file is empty; expected a .params file"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(small())), "a gzip file.*gunzip"),
    "onnx": (lambda p: p.write_bytes(b"\x08\x07\x12\x07pytorch" + bytes(99)), "an ONNX model"),
    "json": (lambda p: p.write_text(json.dumps({"nodes": []})), "JSON.*-symbol.json"),
    "safetensors": (
        lambda p: p.write_bytes(struct.pack("<Q", 60) + b'{"w":' + b" " * 55 + bytes(9)),
        "a safetensors file",
    ),
    "lfs": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "big endian": (lambda p: p.write_bytes(struct.pack(">QQQ", 0x112, 0, 1)), "big-endian machine"),
    "noise": (lambda p: p.write_bytes(bytes(range(99, 199))), "bytes 63 64 65.*no .params file"),
    "stub": (lambda p: p.write_bytes(b"\x12\x01"), "ends after 2 more bytes, at least 14 are"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_named(tmp_path, kind):
    make, message = FOREIGN[kind]
    path = tmp_path / "a.params"
    make(path)
    with pytest.raises(ParamsError, match=rf"a\.params: at byte 0: .*{message}"):
        load(path)


def with_patch(at: int, new: bytes) -> bytes:
    return small()[:at] + new + small()[at + len(new) :]


def with_names(*names: bytes) -> bytes:
    arrays = [encode_array((1,), 0, bytes(4))] * len(names)
    return struct.pack("<QQQ", 0x112, 0, len(names)) + b"".join(arrays) + encode_names(names)


I32 = struct.Struct("<i").pack
I64 = struct.Struct("<q").pack
# `small()`: 24 marker, 28 storage, 32 ndim, 36 and 44 dimensions, 60 dtype, 64 data, 88 number of
# names, 96 length of the name, 104 the name, 109 the end.
DAMAGED = {
    "reserved": (with_patch(8, b"\x01"), "byte 8: 0x1 in the reserved field; expected 0"),
    "count": (with_patch(16, I64(1 << 60)), r"byte 24: .*after 85 more bytes.*header is damaged"),
    "one array more": (with_patch(16, I64(2)), r"byte 104: dtype code 979"),
    "marker": (with_patch(24, b"\xff" * 4), "byte 24: array marker 0xffffffff"),
    "csr": (small(storage=2), r"byte 28: storage type 2; expected 0, a dense.*tostype"),
    "no shape": (with_patch(32, I32(0)), "byte 32: an array without a shape.*initialised"),
    "unknown shape": (small(3)[:32] + I32(-1) + small(3)[36:], "byte 32: an array without a shape"),
    "ndim": (with_patch(32, I32(33)), "byte 32: 33 dimensions; expected 1 to 32"),
    "negative ndim": (with_patch(32, I32(-5)), "byte 32: -5 dimensions"),
    "negative": (with_patch(44, I64(-1)), r"byte 36: shape \(2, -1\); expected no negative"),
    "dtype": (with_patch(60, I32(8)), "byte 60: dtype code 8; expected one of 0 float32, "),
    "bool": (
        encode_file({b"b": encode_array((2, 2), 7, b"\x00\x01\x02\x00")}),
        "byte 66: a bad bool in 'b'",
    ),
    "2**60": (with_patch(36, I64(1 << 60) + I64(1)), "byte 64: .*45 more bytes.*no such file"),
    "wraps to 0": (with_patch(36, I64(1 << 32) * 2), "byte 64: shape .*less than 2.*63 bytes"),
    "hidden by 0": (with_patch(36, I64(0) + I64(1 << 62)), "byte 64: shape .*less than 2"),
    "list": (small()[:88] + bytes(8), "byte 88: 0 names; expected 1.*saved from a list"),
    "names": (with_patch(88, I64(2)), "byte 88: 2 names; expected 1"),
    "name length": (with_patch(96, I64(6)), "byte 104: .*after 5 more bytes, at least 1 are"),
    "name length 2**63": (with_patch(96, I64(-1)), "byte 104: .*header is damaged"),
    "utf-8": (with_patch(104, b"\xff"), r"byte 104: the name b'\\xffrg:w'; expected UTF-8"),
    "empty name": (with_names(b"arg:"), "byte 76: the empty name 'arg:'"),
    "twice": (with_names(b"arg:w", b"arg:w"), "byte 125: the name 'arg:w' for a second array"),
    "as both": (with_names(b"arg:w", b"aux:w"), "byte 125: the name 'aux:w' for a second array"),
    "bare and not": (with_names(b"arg:w", b"w"), "byte 125: the name 'w' for a second array"),
    "trailing": (small() + b"xyz", "byte 109: 3 bytes follow the last name"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_named_and_allocates_nothing(tmp_path, kind):
    content, message = DAMAGED[kind]
    path = tmp_path / "a.params"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ParamsError, match=rf"a\.params: at {message}"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_file_cut_anywhere_says_so(tmp_path, version):
    path = tmp_path / "a.params"
    whole = small(version)
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ParamsError, match=r"missing.*the file was cut off") as caught:
            load(path)
        missing = int(str(caught.value).split("at least ")[1].split()[0])
        assert 0 < missing <= len(whole) - size


def test_missing_bytes_of_data(tmp_path):
    path = tmp_path / "a.params"
    path.write_bytes(small()[:80])  # the 24 bytes of data start at 64
    with pytest.raises(ParamsError, match=r"at byte 64: .* 16 more bytes, at least 8 are missing"):
        load(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.params"):
        load(tmp_path / "a.params")


@pytest.mark.parametrize("order", ["big endian", "Fortran", "strided", "broadcast"])
def test_any_memory_layout_is_saved(tmp_path, order):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    array = {
        "big endian": base.astype(">f4"),
        "Fortran": np.asfortranarray(base),
        "strided": base[::2, ::-1],
        "broadcast": np.broadcast_to(base[0], (3, 6)),
    }[order]
    save(tmp_path / "a.params", {"w": array}, {})
    np.testing.assert_array_equal(load(tmp_path / "a.params")[0]["w"], array)


def test_no_arrays_and_empty_arrays(tmp_path):
    save(tmp_path / "none.params", {}, {})
    assert load(tmp_path / "none.params") == ({}, {})
    save(tmp_path / "empty.params", {"w": np.zeros((0, 4), np.int64)}, {})
    assert load(tmp_path / "empty.params")[0]["w"].shape == (0, 4)


ONE = np.ones(1, np.float32)
REFUSED = {
    "dtype": (({"w": np.ones(1, np.uint16)}, {}), "arg:w: found dtype uint16; expected one of"),
    "object": (({"w": np.array([None])}, {}), "found dtype object"),
    "list": (({"w": [1.0]}, {}), "found list; expected a numpy array"),
    "scalar": (({"w": np.ones(())}, {}), "found a scalar; expected a dimension"),
    "both": (({"w": ONE}, {"w": ONE}), r"\['w'\] given as argument and as auxiliary"),
    "prefix": (({"arg:w": ONE}, {}), "bad name 'arg:w'"),
    "empty name": (({}, {"": ONE}), "bad name ''"),
    "surrogate": (({"\ud800": ONE}, {}), "expected valid Unicode"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_saved_is_refused_and_the_old_file_stays(tmp_path, kind):
    path = tmp_path / "a.params"
    save(path, {"old": ONE}, {})
    (arg_params, aux_params), message = REFUSED[kind]
    with pytest.raises(ValueError, match=rf"a\.params: .*{message}"):
        save(path, arg_params, aux_params)
    assert list(load(path)[0]) == ["old"]
    assert os.listdir(tmp_path) == ["a.params"]


@pytest.mark.parametrize("version", [3, -1, "2"])
def test_unknown_versions_are_refused(tmp_path, version):
    with pytest.raises(ValueError, match=r"cannot write version .*; expected 0, 1 or 2"):
        save(tmp_path / "a.params", {}, {}, version=version)


def test_version_0_has_no_long_dimensions(tmp_path):
    long = np.zeros((1 << 32, 0), np.float32)
    with pytest.raises(ValueError, match="version 0 ends at"):
        save(tmp_path / "a.params", {"w": long}, {}, version=0)


def test_a_disk_that_fills_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.params"
    save(path, {"old": ONE}, {})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # a disk of 1 MB, in effect
    try:
        with pytest.raises(OSError, match=r"File too large; nothing was replaced.*a\.params"):
            save(path, {"new": np.zeros(1 << 20, np.float32)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.params"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.params"
    save(path, {"old": ONE}, {})

    def interrupted(_):
        raise KeyboardInterrupt("stop")

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        save(path, {"new": ONE}, {})
    assert list(load(path)[0]) == ["old"]
    assert os.listdir(tmp_path) == ["a.params"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none/a\.params"):
        save(tmp_path / "none" / "a.params", {}, {})


def test_new_files_have_usual_permissions_and_links_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.params").symlink_to(tmp_path / "disk" / "a.params")
    before = os.umask(0o027)
    try:
        save(tmp_path / "link.params", {"w": ONE}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "link.params").is_symlink()
    assert stat.S_IMODE((tmp_path / "disk" / "a.params").stat().st_mode) == 0o640


def test_a_checkpoint_that_fits():
    expected = {"w": (2, 3), "new_weight": (4,)}
    found = {"w": Entry("w", "arg", (2, 3), "float32", 0, 24, 2)}
    assert check_parameters(expected, found, source="a", allow_missing=["new_weight"]) is None


def test_all_mismatches_come_in_one_message():
    expected = {"w": (2, 3), "b": (3,), "gamma": (7,), "beta": (7,)}
    found = {"w": np.ones((3, 2)), "gamma": np.ones(7), "extra": ONE, "b": np.ones((1, 3))}
    with pytest.raises(CheckpointMismatch, match=r"^a\.params does not fit the network") as caught:
        check_parameters(expected, found, source="a.params")
    assert str(caught.value).splitlines()[1:4] == [
        "  1 missing: beta",
        "  1 unexpected: extra",
        "  2 misshapen: w is (3, 2), expected (2, 3); b is (1, 3), expected (3,)",
    ]


def test_long_lists_are_cut_after_twenty_names():
    expected = {f"w{i:02}": (1,) for i in range(25)}
    with pytest.raises(CheckpointMismatch, match=r"25 missing: w00; .*; w19; and 5 more\n"):
        check_parameters(expected, {}, source="a.params")
    with pytest.raises(CheckpointMismatch, match="1 missing: w24\n"):
        check_parameters(
            expected,
            {},
            source="a.params",
            allow_missing=[name for name in expected if name != "w24"],
        )

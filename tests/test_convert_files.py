"""Files of weights: from one kind to another, against MXNet's, PyTorch's and safetensors' own."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from fill import fill
from weights_files import read_arrays

from ademx import params
from ademx.convert import files
from ademx.convert.safetensors_files import write_safetensors
from ademx.convert.writing import KINDS, Writing, convert
from ademx.labels import parse_label
from ademx.networks.graph import parameter_shapes
from ademx.params import CheckpointMismatch

torch = pytest.importorskip("torch")

WIDTH = 1 / 32
A1 = "ilsvrc-cls_rna-a1_cls1000"


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / f"{A1}_ep-0001.params", A1)


def write(path, label):
    values = {n: fill(n, s) for n, s in parameter_shapes(label, width=WIDTH).items()}
    aux = {name: value for name, value in values.items() if "_moving_" in name}
    params.save(path, {n: v for n, v in values.items() if n not in aux}, aux)
    return path


def assert_same_parameters(path, source):
    for found, expected in zip(params.load(path), params.load(source)):
        assert found.keys() == expected.keys()
        assert all(found[name].tobytes() == value.tobytes() for name, value in expected.items())


@pytest.mark.parametrize("layout", ["release", "native", "resnet38d", "wider_resnet_a2"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back_is_bit_identical(source, suffix, layout, tmp_path):
    middle, back = tmp_path / f"weights{suffix}", tmp_path / "back.params"
    convert(source, middle, writing=Writing(layout=layout, with_head=True))
    assert (
        files.read_weights(middle).parameters.keys() == files.read_weights(source).parameters.keys()
    )
    convert(middle, back)
    assert_same_parameters(back, source)


@pytest.mark.parametrize("suffix", KINDS[:3])
def test_a_file_is_opened_once_and_hashed_as_it_is_read(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"voc_rna-a1_cls21_s8{suffix}"
    label = parse_label(write(path.with_suffix(".params"), path.stem))
    if suffix != ".params":
        convert(path.with_suffix(".params"), path)
    content, real_open = path.read_bytes(), files.open_weights

    def open_and_replace(path):
        opened = real_open(path)
        path.unlink()
        path.write_bytes(bytes(len(content)))
        return opened

    monkeypatch.setattr(files, "open_weights", open_and_replace)
    weights = files.read_weights(path)
    assert weights.md5 == hashlib.md5(content).hexdigest()
    assert np.array_equal(weights.parameters["conv1a_weight"], fill("conv1a_weight", (2, 3, 3, 3)))
    found = (weights.label, weights.width, weights.head, weights.stride)
    assert found == (label, WIDTH, "2conv", 8)


def test_a_legacy_file_is_a_pickle_as_before_pytorch_1_6_that_all_read(source, tmp_path):
    path = tmp_path / "a.pth"
    writing = Writing(layout="resnet38d", with_head=True, wrap_state_dict=True, legacy=True)
    convert(source, path, writing=writing)
    with open(path, "rb") as file:  # PyTorch's magic number, version, and platform
        assert [pickle.load(file) for _ in range(2)] == [0x1950A86A20F9469CFC6C, 1001]
    state = torch.load(path, weights_only=True)["state_dict"]
    weight = params.load(source)[0]["conv1a_weight"]
    assert np.array_equal(state["conv1a.weight"].numpy(), weight)
    convert(path, tmp_path / "b.params")
    assert_same_parameters(tmp_path / "b.params", source)


def test_a_chain_through_every_kind_is_bit_identical(source, tmp_path):
    chain = [
        ("a.pth", {"layout": "wider_resnet", "norm_suffix": ".0", "module_prefix": True}),
        ("b.safetensors", {"layout": "resnet38d", "with_head": True, "module_prefix": True}),
        ("c.pth", {"layout": "native", "wrap_state_dict": True, "module_prefix": True}),
        ("d.params", {}),
    ]
    previous = source
    for name, options in chain:
        convert(previous, tmp_path / name, writing=Writing(**options))
        previous = tmp_path / name
    assert_same_parameters(previous, source)


def test_safetensors_reads_what_is_written(source, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    path = tmp_path / "a1.safetensors"
    convert(source, path, writing=Writing(layout="resnet38d", with_head=True))
    arg_params, aux_params = params.load(source)
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
        assert np.array_equal(
            file.get_tensor("b2.bn_branch2a.weight"), arg_params["bn2a_branch2a_gamma"]
        )
        assert np.array_equal(file.get_tensor("bn7.running_var"), aux_params["bn7_moving_var"])
        assert len(file.keys()) == len(arg_params) + len(aux_params)
    assert metadata["label"] == A1
    assert metadata["layout"] == "resnet38d"
    assert metadata["source_md5"] == hashlib.md5(source.read_bytes()).hexdigest()
    assert json.loads(metadata["mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(metadata["std"]) == [0.229, 0.224, 0.225]


def test_what_safetensors_writes_is_read(tmp_path):
    numpy_format = pytest.importorskip("safetensors.numpy")
    arrays = {
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 2), np.float32),
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "double": np.array([np.nan, -0.0]),
        "flags": np.array([True, False]),
        "bytes": np.array([[255]], np.uint8),
    }
    numpy_format.save_file(arrays, tmp_path / "x.safetensors", {"layout": "none"})
    found, metadata = read_arrays(tmp_path / "x.safetensors")
    assert metadata == {"layout": "none"}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_bfloat16_is_widened_exactly(tmp_path):
    torch_format = pytest.importorskip("safetensors.torch")
    tensor = torch.tensor([1.5, -3e38, float("inf"), 1e-40]).bfloat16()
    torch_format.save_file({"x": tensor}, tmp_path / "x.safetensors")
    torch.save({"x": tensor}, tmp_path / "x.pth")
    for path in (tmp_path / "x.safetensors", tmp_path / "x.pth"):
        found, _ = read_arrays(path)
        assert found["x"].dtype == np.float32
        assert np.array_equal(found["x"], tensor.float().numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read_by_their_content(source, zipped, tmp_path):
    convert(source, tmp_path / "a.pth", writing=Writing(layout="native"))
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    assert torch.equal(
        state["conv1a.weight"], torch.from_numpy(params.load(source)[0]["conv1a_weight"])
    )
    torch.save(state, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    convert(tmp_path / "a.bin", tmp_path / "b.params")
    assert_same_parameters(tmp_path / "b.params", source)


class Payload:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Payload(), "expected a PyTorch file of tensors alone"),
        ([1, 2], "holds list, expected a state dict"),
        ({"state_dict": {"x": 3}}, "'x' is int, expected a tensor"),
        ({"x": torch.zeros(1)}, "the keys are not of any of the layouts .*the first are x"),
        ({}, "it is empty, expected a tensor"),
    ],
)
def test_a_torch_file_that_is_no_state_dict_is_named(content, message, tmp_path, capsys):
    path = tmp_path / "x.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"x\.pth: .*{message}"):
        files.read_weights(path)
    assert capsys.readouterr().out == ""  # no code of the file ran


@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_values_beside_the_weights_are_passed_over(source, zipped, tmp_path):
    convert(source, tmp_path / "a.pth", writing=Writing(layout="native"))
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    beside = {
        "mean_iu": np.nanmean([0.5, np.nan]),
        "args": argparse.Namespace(snapshot=Path("x/y"), epochs=np.int64(3), lrs=[np.float32(0.1)]),
        "best": OrderedDict(
            iu=np.float64(0.3), hist=np.ones((2, 2)), when=datetime.date(2019, 1, 1)
        ),
        "dtype": [np.dtype("float16"), torch.float16, torch.Size([3])],
    }
    checkpoint = {"state_dict": state, **beside}
    torch.save(checkpoint, tmp_path / "b.pth", _use_new_zipfile_serialization=zipped)
    convert(tmp_path / "b.pth", tmp_path / "b.params")
    assert_same_parameters(tmp_path / "b.params", source)


def test_harmless_values_are_not_made(tmp_path):
    """numpy's `dtype.__setstate__` ends the process on some damaged states."""
    path = tmp_path / "x.pth"
    torch.save(
        {"x": torch.zeros(1), "y": np.float64(3)}, path, _use_new_zipfile_serialization=False
    )
    whole = path.read_bytes()
    state = b"K\x03X\x01\0\0\0<"  # of a dtype: version 3, little endian, …
    assert state in whole
    path.write_bytes(whole.replace(state, b"K\x63X\x01\0\0\0?"))
    assert list(read_arrays(path)[0]) == ["x"]


class Mine:
    """Another project's own class."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("value", "name"), [(Mine(), r"\w+\.Mine"), (os.system, "posix.system")])
def test_a_global_that_is_in_the_way_is_named(value, name, zipped, tmp_path):
    path = tmp_path / "x.pth"
    content = {"x": torch.zeros(1), "mine": value}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"x\.pth: `{name}` is in the way") as error:
        files.read_weights(path)
    assert "weights_only" not in str(error.value)  # torch's advice, to switch safety off


def unreadable_bytes():
    yield from (b"\x80", b"\x80\x02", b"\x80\x02.", b"\x80\x02}q", b"\x80\x05\x95" + bytes(9))
    yield from (b"PK", b"PK\x03\x04" + bytes(40), b"\x80\x04" + b"(" * 50_000, b"", b"\0" * 9)
    yield from (deep(b"["), deep(b'{"a":'), b"\x01\0\0\0\0\0\0\0{", b"\x02\0\0\0\0\0\0\0{}x")


def deep(text):
    return struct.pack("<Q", 200_000 * len(text) + 1) + b"{" + text * 200_000


@pytest.mark.parametrize("content", unreadable_bytes(), ids=lambda content: str(content[:12]))
def test_bytes_that_are_nothing_end_in_one_error(content, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.bin: ") as error:
        files.read_weights(path)
    assert str(error.value).count(str(path)) == 1


@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_a_file_with_any_byte_changed_is_read_or_refused(kind, tmp_path):
    rng = np.random.default_rng(0)
    path, edited = tmp_path / "x", tmp_path / "y"
    if kind == "safetensors":
        arrays = {"conv1a.weight": np.zeros((2, 3), np.float32), "ids": np.ones(4, np.int8)}
        write_safetensors(path, arrays, {"layout": "native"})
    else:
        small = {"conv1a.weight": torch.zeros(2), "n": np.float64(2), "s": {"epoch": 3}}
        torch.save(small, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for _ in range(300):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        edited.write_bytes(changed)
        with contextlib.suppress(ValueError):  # anything else fails the test
            read_arrays(edited)


def test_a_compressed_checkpoint_cannot_fill_the_memory(tmp_path):
    torch.save({"conv1a.weight": torch.zeros(1_000_000)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"y\.pth: a compressed archive of 4,\d+,\d+ bytes"):
        read_arrays(tmp_path / "y.pth")


def test_few_numbers_cannot_be_many(source, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"conv1a.weight": torch.zeros(1).expand(1 << 40)}, path)
    with pytest.raises(ValueError, match=r"'conv1a\.weight' has 4,398,046,511,104 bytes, the file"):
        read_arrays(path)
    convert(source, path, writing=Writing(layout="native"))
    state = torch.load(path, weights_only=True)
    largest = max(value.numel() for value in state.values())
    pool = torch.zeros(largest)
    shared = {key: pool[: value.numel()].view(value.shape) for key, value in state.items()}
    torch.save(shared, path)
    with pytest.raises(ValueError, match=r"x\.pth: its tensors take .*they share their numbers"):
        files.read_weights(path)


OTHER_TYPES = {"U16": 2, "U32": 4, "U64": 8, "I16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}


@pytest.mark.parametrize("dtype", OTHER_TYPES)
def test_types_that_no_weights_have_are_told_from_damage(dtype, source, tmp_path):
    path = tmp_path / "x.safetensors"
    size = 2 * OTHER_TYPES[dtype]
    field = {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}
    path.write_bytes(header(**{"conv1a.weight": field}) + bytes(size))
    with pytest.raises(
        ValueError, match=rf"'conv1a\.weight' is {dtype}: there are no weights"
    ) as e:
        read_arrays(path)
    assert "download" not in str(e.value)


def test_a_head_of_another_type_can_be_dropped(source, tmp_path):
    torch_format = pytest.importorskip("safetensors.torch")
    path = tmp_path / "x.safetensors"
    convert(source, tmp_path / "a.pth", writing=Writing(layout="native"))
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    torch_format.save_file({**state, "ids": torch.zeros(3, dtype=torch.int16)}, path)
    convert(path, tmp_path / "b.params", reading=files.Reading(drop_extra=True))
    assert_same_parameters(tmp_path / "b.params", source)


def test_absolute_weights_of_inplace_abn(source, tmp_path):
    arg_params, aux_params = params.load(source)
    arg_params["bn7_gamma"][:2] = (-2, 0.5)
    params.save(source, arg_params, aux_params)
    convert(source, tmp_path / "a.pth", writing=Writing(layout="wider_resnet_a2"))
    reading = files.Reading(abn=True, source_layout="wider_resnet_a2")
    found = files.read_weights(tmp_path / "a.pth", reading=reading)
    assert found.layout == "wider_resnet_a2"
    for name, value in arg_params.items():
        expected = np.abs(value) if name.endswith("_gamma") else value
        assert np.array_equal(found.parameters[name], expected)


@pytest.mark.parametrize("layout", ["resnet38d", "wider_resnet", "wider_resnet_a2", "gluoncv"])
def test_what_comes_back_to_its_own_label_is_not_warned_of(layout, source, tmp_path, caplog):
    """A safetensors file says which network its weights are of."""
    convert(source, tmp_path / "a.safetensors", writing=Writing(layout=layout))
    caplog.clear()
    convert(tmp_path / "a.safetensors", tmp_path / "b.params", label=A1)
    assert not caplog.records


def test_what_is_no_file_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    os.mkfifo(path)
    for read in (files.read_weights, read_arrays, lambda path: convert(path, "y.pth")):
        with pytest.raises(OSError, match=r"x\.pth: found a named pipe: expected a file; write"):
            read(path)


def header(**tensors):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Q", 1 << 40) + b"{}", "the header is 1099511627776 bytes long"),
        (struct.pack("<Q", 4) + b"{abc", "Expecting property name"),
        (header(x={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}), "cut off"),
        (
            header(x={"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}) + b"1234",
            r"shape \[2\] of F32 does not take bytes 0 to 4",
        ),
        (header(x={"dtype": "F8", "shape": [2], "data_offsets": [0, 2]}) + b"12", "F8"),
        (header(x={"shape": [2]}), "data_offsets"),
        (header(x=3), "mapping"),
        (
            header(
                x={"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                y={"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            )
            + b"1234",
            "the data of 'y' does not follow",
        ),
        (
            header(x={"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}) + b"1234",
            "the data of 'x' does not follow",
        ),
        (header(x={"dtype": "U8", "shape": [0, 1 << 63], "data_offsets": [0, 0]}), "shape"),
        (header(x={"dtype": "U8", "shape": [2.0], "data_offsets": [0, 2]}) + b"12", "shape"),
        (header() + b"12", "2 bytes follow"),
        (header(x={"dtype": "U8", "shape": [-1], "data_offsets": [1, 0]}), "shape"),
    ],
)
def test_a_damaged_safetensors_file_is_named(content, message, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.safetensors: .*{message}.*download it again"):
        read_arrays(path)


def test_truncated_files_of_every_kind_are_refused(source, tmp_path):
    for name in ("a.pth", "a.safetensors"):
        convert(source, tmp_path / name, writing=Writing(layout="native"))
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=rf"{name}: "):
            files.read_weights(tmp_path / name)
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"ep-0001\.params: "):
        files.read_weights(source)


def test_what_is_no_file_of_weights_is_named(tmp_path):
    (tmp_path / "x.params").write_text("<html>gone</html>")
    with pytest.raises(ValueError, match="a web page or XML"):
        read_arrays(tmp_path / "x.params")
    with pytest.raises(FileNotFoundError, match="absent"):
        read_arrays(tmp_path / "absent.pth")


def test_the_label_is_found_and_held_against_the_weights(source, tmp_path):
    target = tmp_path / "a1.safetensors"
    assert str(convert(source, target)) == f"{A1}"
    unnamed = tmp_path / "weights.params"
    convert(target, unnamed)  # by its metadata
    assert str(convert(target, unnamed)) == A1
    assert convert(unnamed, tmp_path / "b.pth") is None
    with pytest.raises(CheckpointMismatch, match="bn3b1_branch2a_gamma"):
        convert(unnamed, tmp_path / "c.pth", label="ilsvrc-cls_rna-c_cls1000")
    with pytest.raises(CheckpointMismatch, match="linear365_weight"):
        convert(unnamed, tmp_path / "c.pth", label="places_rna-a1_cls365")
    assert not (tmp_path / "c.pth").exists()


def test_weights_without_a_head_keep_their_label(source, tmp_path):
    convert(source, tmp_path / "a.safetensors", writing=Writing(layout="resnet38d"))
    found = convert(tmp_path / "a.safetensors", tmp_path / "b.params")
    assert str(found) == A1
    assert not any(name.startswith("linear") for name in params.load(tmp_path / "b.params")[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.onnx2", {}, r"cannot write \.onnx2; expected a name that ends in \.params, \.pth"),
        ("x.params", {"layout": "native"}, "take layout release"),
        ("x.safetensors", {"wrap_state_dict": True}, "no place for a `state_dict` key"),
        ("x.params", {"legacy": True}, "--legacy: a .params file has one format only"),
        ("x.pth", {"layout": "native", "norm_suffix": ".0"}, "layout native has none"),
    ],
)
def test_choices_that_do_not_fit_are_refused_before_writing(
    source, name, options, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / name, writing=Writing(**options))
    assert not (tmp_path / name).exists()


def test_a_failure_leaves_the_old_file(source, tmp_path, monkeypatch):
    target = tmp_path / "a.safetensors"
    target.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="nothing was replaced"):
        convert(source, target)
    assert target.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {source.name, target.name}


def full_disk(_descriptor):
    raise OSError(28, "No space left on device")


def test_safetensors_need_neither_torch_nor_mxnet(source, tmp_path):
    script = """
import sys
sys.modules["mxnet"] = sys.modules["torch"] = None  # makes importing them fail
from ademx.convert.writing import Writing, convert
convert(sys.argv[1], sys.argv[2], writing=Writing(layout="resnet38d", with_head=True))
convert(sys.argv[2], sys.argv[3])
"""
    middle, back = tmp_path / "a.safetensors", tmp_path / "b.params"
    command = [sys.executable, "-c", script, source, middle, back]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert_same_parameters(back, source)


@pytest.mark.parametrize(
    ("given", "stated", "source", "expected"),
    [
        ("a", "b", "c", "a"),
        (None, "b", "c", "b"),
        (None, None, "c", "c"),
    ],
)
def test_a_label_is_what_was_given_or_the_file_says_or_its_name(given, stated, source, expected):
    named = {letter: f"voc_rna-a1_cls21_s8_{letter}" for letter in "abc"}
    weights = files.NetworkWeights(
        {},
        f"models/{named[source]}_ep-0001.params",
        given and parse_label(named[given]),
        metadata={"label": named[stated]} if stated else {},
    )
    assert weights.label.tags == (expected,)


def test_weights_without_a_label_say_what_one_looks_like():
    with pytest.raises(ValueError, match=r"label 'models/mine\.pth': expected .*, such as"):
        _ = files.NetworkWeights({}, "models/mine.pth").label

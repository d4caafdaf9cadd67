"""Files of weights: from one kind to another, against MXNet's, PyTorch's and safetensors' own."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from fill import fill

from ademx import params
from ademx.convert import files
from ademx.params import CheckpointMismatch
from ademx.shapes import parameter_shapes

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
    files.convert(source, middle, layout=layout, with_head=True)
    assert (
        files.read_weights(middle).parameters.keys() == files.read_weights(source).parameters.keys()
    )
    files.convert(middle, back)
    assert_same_parameters(back, source)


def test_a_chain_through_every_kind_is_bit_identical(source, tmp_path):
    chain = [
        ("a.pth", {"layout": "wider_resnet", "norm_suffix": ".0", "module_prefix": True}),
        ("b.safetensors", {"layout": "resnet38d", "with_head": True, "module_prefix": True}),
        ("c.pth", {"layout": "native", "wrap_state_dict": True, "module_prefix": True}),
        ("d.params", {}),
    ]
    previous = source
    for name, options in chain:
        files.convert(previous, tmp_path / name, **options)
        previous = tmp_path / name
    assert_same_parameters(previous, source)


def test_safetensors_reads_what_is_written(source, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    path = tmp_path / "a1.safetensors"
    files.convert(source, path, layout="resnet38d", with_head=True)
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
    found, metadata = files.read_arrays(tmp_path / "x.safetensors")
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
        found, _ = files.read_arrays(path)
        assert found["x"].dtype == np.float32
        assert np.array_equal(found["x"], tensor.float().numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read_by_their_content(source, zipped, tmp_path):
    files.convert(source, tmp_path / "a.pth", layout="native")
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    assert torch.equal(
        state["conv1a.weight"], torch.from_numpy(params.load(source)[0]["conv1a_weight"])
    )
    torch.save(state, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    files.convert(tmp_path / "a.bin", tmp_path / "b.params")
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
        (header(x={"dtype": "U8", "shape": [-1], "data_offsets": [1, 0]}), "shape"),
    ],
)
def test_a_damaged_safetensors_file_is_named(content, message, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.safetensors: .*{message}.*download it again"):
        files.read_arrays(path)


def test_truncated_files_of_every_kind_are_refused(source, tmp_path):
    for name in ("a.pth", "a.safetensors"):
        files.convert(source, tmp_path / name, layout="native")
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
        files.read_arrays(tmp_path / "x.params")
    with pytest.raises(FileNotFoundError, match="absent"):
        files.read_arrays(tmp_path / "absent.pth")


def test_the_label_is_found_and_held_against_the_weights(source, tmp_path):
    target = tmp_path / "a1.safetensors"
    assert str(files.convert(source, target)) == f"{A1}"
    unnamed = tmp_path / "weights.params"
    files.convert(target, unnamed)  # by its metadata
    assert str(files.convert(target, unnamed)) == A1
    assert files.convert(unnamed, tmp_path / "b.pth") is None
    with pytest.raises(CheckpointMismatch, match="bn3b1_branch2a_gamma"):
        files.convert(unnamed, tmp_path / "c.pth", label="ilsvrc-cls_rna-c_cls1000")
    with pytest.raises(CheckpointMismatch, match="linear365_weight"):
        files.convert(unnamed, tmp_path / "c.pth", label="places_rna-a1_cls365")
    assert not (tmp_path / "c.pth").exists()


def test_weights_without_a_head_keep_their_label(source, tmp_path):
    files.convert(source, tmp_path / "a.safetensors", layout="resnet38d")
    found = files.convert(tmp_path / "a.safetensors", tmp_path / "b.params")
    assert str(found) == A1
    assert not any(name.startswith("linear") for name in params.load(tmp_path / "b.params")[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.onnx2", {}, r"cannot write \.onnx2; expected a name that ends in \.params, \.pth"),
        ("x.params", {"layout": "native"}, "take layout release"),
        ("x.safetensors", {"wrap_state_dict": True}, "no place for a `state_dict` key"),
        ("x.pth", {"layout": "native", "norm_suffix": ".0"}, "layout native has none"),
    ],
)
def test_choices_that_do_not_fit_are_refused_before_writing(
    source, name, options, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        files.convert(source, tmp_path / name, **options)
    assert not (tmp_path / name).exists()


def test_a_failure_leaves_the_old_file(source, tmp_path, monkeypatch):
    target = tmp_path / "a.safetensors"
    target.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="nothing was replaced"):
        files.convert(source, target)
    assert target.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {source.name, target.name}


def full_disk(_descriptor):
    raise OSError(28, "No space left on device")


def test_safetensors_need_neither_torch_nor_mxnet(source, tmp_path):
    script = """
import sys
sys.modules["mxnet"] = sys.modules["torch"] = None  # makes importing them fail
from ademx.convert.files import convert
convert(sys.argv[1], sys.argv[2], layout="resnet38d", with_head=True)
convert(sys.argv[2], sys.argv[3])
"""
    middle, back = tmp_path / "a.safetensors", tmp_path / "b.params"
    command = [sys.executable, "-c", script, source, middle, back]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert_same_parameters(back, source)

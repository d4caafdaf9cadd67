"""`ademx weights`: what it says of good, cut, altered, foreign and mislabelled files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import make_runner

from ademx import params
from ademx.cli import main
from ademx.convert.genuine import guess_model, released_files, statistics, verify
from ademx.convert.layouts import LAYOUTS
from ademx.convert.writing import Writing, convert
from ademx.labels import parse_label
from ademx.networks.graph import parameter_shapes
from ademx.published import RELEASED_FILES
from ademx.training.initial import load_weights

ILSVRC = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"
VOC = "voc_rna-a1_cls21_s8_ep-0001.params"
COCO = "voc_rna-a1_cls21_s8_coco_ep-0001.params"
# Bytes that `params.save(version=0)` wrote for float32 arrays of Model A1's full shapes.
FULL_A1_BYTES = 436_873_620


def narrow(label: str, *, seed: int = 0, **options) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    arg_params, aux_params = {}, {}
    for name, shape in parameter_shapes(label, width=1 / 16, **options).items():
        values = rng.normal(size=shape).astype(np.float32)
        is_state = "moving" in name
        (aux_params if is_state else arg_params)[name] = (
            np.abs(values) + 0.1 if is_state else values
        )
    return arg_params, aux_params


def write(folder: Path, name: str, *, label: str | None = None, seed: int = 0, **options) -> Path:
    path = folder / name
    params.save(path, *narrow(label or name, seed=seed, **options), version=0)
    return path


@pytest.fixture
def genuine(tmp_path, monkeypatch) -> Path:
    """A narrow file whose MD5 stands in the table as that of the released VOC model."""
    path = write(tmp_path, VOC)
    monkeypatch.setitem(RELEASED_FILES, VOC, hashlib.md5(path.read_bytes()).hexdigest())
    return path


def run(*arguments: object):
    return make_runner().invoke(main, ["weights", *map(str, arguments)])


def test_released_file(genuine):
    result = run("verify", genuine)
    assert result.exit_code == 0
    assert "released file: MD5 and structure fine" in result.stdout


def test_released_file_under_another_name(genuine, tmp_path):
    renamed = tmp_path / "downloaded (1).params"
    shutil.copy(genuine, renamed)
    verdict = verify(renamed)
    assert (verdict.ok, verdict.status) == (True, "released")
    assert verdict.message.startswith(f"released file, there named {VOC}")


@pytest.mark.parametrize("name", [COCO, ILSVRC])
def test_released_file_under_the_name_of_another(genuine, tmp_path, name):
    """With the same structure only the MD5 can tell."""
    wrong = tmp_path / name
    shutil.copy(genuine, wrong)
    verdict = verify(wrong)
    assert (verdict.ok, verdict.status) == (False, "another model")
    assert "another model under this name" in verdict.message
    assert f"the released {VOC}" in verdict.message


def test_altered_file(genuine):
    data = bytearray(genuine.read_bytes())
    data[5000] ^= 1  # within the first array's numbers: nothing else shows it
    genuine.write_bytes(data)
    result = run("verify", genuine)
    assert result.exit_code == 1
    assert "altered file" in result.stdout and "structure fine" in result.stdout
    assert hashlib.md5(data).hexdigest() in result.stdout and RELEASED_FILES[VOC] in result.stdout


def test_file_of_own_training(tmp_path):
    result = run("verify", write(tmp_path, "voc_rna-a1_cls21_s8_x1-64_ep-0064.params"))
    assert result.exit_code == 0
    assert "not a released file; structure fine" in result.stdout
    assert "21 classes, segmentation (voc); 2conv head; width 0.0625" in result.stdout


@pytest.mark.parametrize("kept", [20, 60, 100_000])
def test_truncated_download(tmp_path, kept):
    path = write(tmp_path, ILSVRC)
    path.write_bytes(path.read_bytes()[:kept])
    verdict = verify(path)
    assert (verdict.ok, verdict.status) == (False, "truncated")
    assert f"{FULL_A1_BYTES - kept:,} bytes of 436.9 MB are missing" in verdict.message


def test_truncated_file_of_own_training(tmp_path):
    path = write(tmp_path, "voc_rna-a1_cls21_s8_mine_ep-0064.params")
    path.write_bytes(path.read_bytes()[:-1])
    verdict = verify(path)
    assert verdict.status == "truncated"
    assert "at least 1 are missing" in verdict.problems[0]


def test_empty_file(tmp_path):
    path = tmp_path / ILSVRC
    path.touch()
    verdict = verify(path)
    assert verdict.status == "truncated" and f"{FULL_A1_BYTES:,} bytes" in verdict.message


def test_web_page(tmp_path):
    path = tmp_path / ILSVRC
    path.write_text("\n<!DOCTYPE html><html><head><title>Sign in </title></head></html>")
    result = run("verify", path)
    assert result.exit_code == 1
    assert "a web page in place of the file, titled 'Sign in'" in result.stdout


def test_archive(tmp_path):
    path = tmp_path / ILSVRC
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner.params", b"")
    verdict = verify(path)
    assert (verdict.ok, verdict.status) == (False, "unreadable")
    assert "a zip archive" in verdict.message


def test_another_model(tmp_path):
    path = write(tmp_path, "voc_rna-a1_cls21_s8_ep-0003.params", label="ade20k_rna-c_cls150_s8")
    verdict = verify(path)
    assert (verdict.ok, verdict.status) == (False, "another model")
    assert "the file is rna-c; 150 classes, segmentation (ade20k)" in verdict.message
    assert "unexpected: linear150_weight; linear150_bias" in verdict.problems[1]


def test_missing_parameter(tmp_path):
    path = tmp_path / "voc_rna-a1_cls21_s8_ep-0003.params"
    arg_params, aux_params = narrow(path.name)
    del arg_params["res4b3_branch2b1_weight"]
    params.save(path, arg_params, aux_params)
    verdict = verify(path)
    assert (verdict.ok, verdict.status) == (False, "misfit")
    assert verdict.problems == ("1 missing: res4b3_branch2b1_weight",)


def test_numbers_that_cannot_be(tmp_path):
    path = tmp_path / "voc_rna-c_cls21_s8_ep-0003.params"
    arg_params, aux_params = narrow(path.name)
    arg_params["conv1a_weight"][0, 0] = np.nan
    arg_params["bn7_beta"][3] = -np.inf
    aux_params["bn7_moving_var"][:2] = (0, -1)
    params.save(path, arg_params, aux_params)
    result = run("verify", path)
    assert result.exit_code == 1
    assert "conv1a_weight: 9 of 108 numbers are nan or infinite" in result.stdout
    assert "bn7_beta: 1 of 256 numbers are nan or infinite" in result.stdout
    assert "bn7_moving_var: 2 of 256 variances are not positive" in result.stdout


def test_unknown_name(tmp_path):
    path = write(tmp_path, "model.params", label="voc_rna-c_cls21_s8")
    result = run("verify", path)
    assert result.exit_code == 1 and "unknown model: label" in result.stdout
    assert run("verify", path, "--model", "voc_rna-c_cls21_s8").exit_code == 0


GIT_LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:97714773\nsize 1757080\n"


@pytest.mark.parametrize("name", ["resnet_38d.params", "resnet_38d.pth", "x.safetensors", VOC])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "a web page in place of the file"),
        (GIT_LFS.encode(), "a Git LFS pointer"),
        (b"\x80", "damaged, or no checkpoint|cut off|truncated"),
        (b"PK\x03\x04 and no more", "truncated download"),
        (b"", "truncated download|the file is empty"),
        (b"\x12\x01\0\0\0\0\0\0 cut off", "truncated download|reserved field"),
        (b"\x08\0\0\0\0\0\0\0{", "truncated download"),
    ],
)
def test_damage_comes_before_the_label_and_the_path_once(tmp_path, name, content, message):
    pytest.importorskip("torch")
    path = tmp_path / name
    path.write_bytes(content)
    result = run("verify", path)
    assert result.exit_code == 1
    assert re.search(message, result.stdout), result.stdout
    assert "unknown model" not in result.stdout
    assert result.stdout.count(str(path)) == 1


def test_the_path_of_a_whole_file_comes_once(tmp_path):
    path = write(tmp_path, "model.params", label="voc_rna-c_cls21_s8")
    stdout = run("verify", path).stdout
    assert stdout.count(str(path)) == 1
    assert "of rna-c; 21 classes, segmentation (voc)" in stdout
    path.write_bytes(path.read_bytes()[:-20])
    result = run("show", path)
    assert result.exit_code == 1 and result.stderr.count(str(path)) == 1


# Layout, suffix, of PyTorch before 1.6, with head.
KINDS = [
    *((layout, suffix, False, True) for layout in LAYOUTS for suffix in (".pth", ".safetensors")),
    *((layout, ".params", False, True) for layout in ("release", "gluoncv")),
    *(("resnet38d", ".pth", True, with_head) for with_head in (True, False)),
    ("gluoncv", ".params", False, False),
]


@pytest.mark.parametrize(("layout", "suffix", "legacy", "with_head"), KINDS)
def test_every_kind_and_layout_is_verified_shown_and_trained_from(
    tmp_path, layout, suffix, legacy, with_head
):
    pytest.importorskip("torch")
    name = "voc_rna-a1_cls21_s8_x1-64_ep-0064"
    source = write(tmp_path, f"{name}.params")
    path = tmp_path / "a" / f"{name}{suffix}"
    path.parent.mkdir()
    convert(source, path, writing=Writing(layout=layout, with_head=with_head, legacy=legacy))
    top = "21 classes, segmentation (voc); 2conv head"
    guess = f"rna-a or rna-a1 or rna-a2 (same parameters); {top if with_head else 'a trunk with'}"
    result = run("verify", path)
    assert result.exit_code == 0 and guess in result.stdout, result.output
    assert run("verify", path, "--model", "voc_rna-c_cls21_s8").exit_code == 1
    shown = run("show", path).stdout
    told = "wider_resnet" if layout == "wider_resnet_a2" and suffix == ".pth" else layout
    assert f"model: {guess}" in shown and f"\nlayout: {told}\n" in shown
    shapes = parameter_shapes(name, width=1 / 16)
    tuned = parse_label("voc_rna-a1_cls21_s8_mine")  # of another label, whose head may be new
    found = load_weights(path, tuned, shapes)
    arg_params, aux_params = params.load(source)
    assert found.keys() == {
        key for key in shapes if with_head or not key.startswith(("linear", "conv6a"))
    }
    for key, value in found.items():
        np.testing.assert_array_equal(value, {**arg_params, **aux_params}[key], err_msg=key)


def test_heads_of_other_projects_are_named_and_dropped(tmp_path):
    torch = pytest.importorskip("torch")
    source, path = write(tmp_path, ILSVRC), tmp_path / "seam.pth"
    convert(source, path, writing=Writing(layout="resnet38d"))
    state = {**torch.load(path), "fc8.weight": torch.zeros(20, 256, 1, 1)}
    torch.save(state, path)
    options = ("verify", path, "--model", "voc_rna-a1_cls21_s8")
    result = run(*options)
    assert "fc8.weight; --drop-extra leaves these out" in result.stdout
    result = run(*options, "--drop-extra")  # what is left is a trunk
    assert result.exit_code == 0 and "a trunk without its head" in result.stdout
    assert "layout: resnet38d" in run("show", path).stdout


def test_names_cannot_act_on_a_terminal(tmp_path):
    path = tmp_path / "x.params"
    params.save(path, {"\x1b[2J\a\nname": np.ones(2)}, {})
    for command in ("show", "verify"):
        output = run(command, path).output
        assert "\\x1b[2J\\x07\\nname" in output
        assert "\x1b" not in output and "\a" not in output


def test_a_pipe_is_refused(tmp_path):
    path = tmp_path / "x.params"
    os.mkfifo(path)
    for command in ("show", "verify"):
        result = run(command, path)
        assert result.exit_code == 1 and "found a named pipe" in result.stderr


def test_one_bad_file_among_good_ones(tmp_path):
    good = write(tmp_path, "voc_rna-c_cls21_s8_ep-0003.params")
    bad = tmp_path / VOC
    bad.write_text("<html>")
    result = run("verify", bad, good)
    assert result.exit_code == 1
    assert f"{good}: not a released file; structure fine" in result.stdout
    assert "1 of 2 files did not pass" in result.stderr


def test_list(genuine):
    (genuine.parent / ILSVRC).write_text("<html>")
    rows = {row.name: row for row in released_files(genuine.parent)}
    assert list(rows) == list(RELEASED_FILES)
    assert rows[VOC].state == "present, genuine"
    assert rows[ILSVRC].state == "present, NOT genuine"
    assert rows[COCO].state == "absent"
    assert rows[ILSVRC].nbytes == FULL_A1_BYTES
    text = run("list", "--models", genuine.parent).stdout
    assert "MD5 ff21f45d6bf03284100dcbec571edfad" in text
    assert "top-1 error 19.54 %, top-5 error 4.75 %" in text
    assert "host that served these files has shut down" in text
    assert "computed from the parameters' shapes" in text


def test_list_without_a_folder(tmp_path):
    assert "absent" not in run("list").stdout
    result = run("list", "--models", tmp_path / "none")
    assert result.exit_code == 1 and "no such folder" in result.stderr


@pytest.mark.parametrize("version", [0, 1, 2])
def test_computed_size_is_the_files(tmp_path, version):
    path = tmp_path / "x.params"
    params.save(path, *narrow("voc_rna-b_cls21_s8"), version=version)
    shapes = parameter_shapes("voc_rna-b_cls21_s8", width=1 / 16)
    assert params.file_size(shapes, version=version) == path.stat().st_size


def test_show(tmp_path):
    path = tmp_path / "x.params"
    weight = np.array([[1, 2], [3, 6]], np.float32)
    ids = np.array([7, 9], np.int64)
    params.save(path, {"linear2_weight": weight, "ids": ids}, {"bn_moving_var": np.ones(3, "f2")})
    result = run("show", path, "--json", tmp_path / "x.json")
    assert result.exit_code == 0
    # By hand: mean 3; deviations -2, -1, 0, 3; squares 14 / 4 = 3.5; root 1.871.
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("linear2_weight"))
    assert line.split() == ["linear2_weight", "arg", "2×2", "float32", "1", "3", "6", "1.871"]
    assert "3 arrays, 6 parameters, 3 moving statistics" in result.stdout
    assert "model: none that is known here" in result.stdout
    assert "--overwrite" in run("show", path, "--json", tmp_path / "x.json").stderr
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["model"] is None
    assert record["arrays"][1] == {
        "name": "ids",
        "kind": "arg",
        "shape": [2],
        "dtype": "int64",
        "minimum": 7,
        "mean": 8,
        "maximum": 9,
        "std": 1,
    }


def test_statistics_over_several_blocks(tmp_path):
    values = np.random.default_rng(0).normal(1000, 0.01, 2_500_001).astype(np.float32)
    params.save(tmp_path / "x.params", {"a": values}, {})
    with params.open_params(tmp_path / "x.params") as file:
        (row,) = statistics(file)
    exact = values.astype(np.float64)
    assert row.mean == pytest.approx(math.fsum(exact) / exact.size, rel=1e-12)
    assert row.std == pytest.approx(exact.std(), rel=1e-9)


@pytest.mark.parametrize(
    ("label", "networks"),
    [
        ("ilsvrc-cls_rna-a1_cls1000", ("rna-a", "rna-a1", "rna-a2")),
        ("voc_rna-a2_cls21_s8", ("rna-a", "rna-a1", "rna-a2")),
        ("cityscapes_rna-b_cls19_s8", ("rna-b",)),
        ("places_rna-56-2-1-2-1-3-1-2_cls365", ("rna-224-2-1-2-1-3-1-2",)),
        ("ilsvrc-cls_rn-101_cls1000", ("rn-101", "rn-101b")),
        ("ilsvrc-cls_rn-34a_cls1000", ("rn-plain34", "rn-34a")),
    ],
)
@pytest.mark.parametrize("width", [1, 1 / 16])
@pytest.mark.parametrize("head", ["1conv", "2conv"])
def test_guess(label, networks, width, head):
    shapes = parameter_shapes(label, width=width, head=head)
    guess = guess_model({name: SimpleNamespace(shape=shape) for name, shape in shapes.items()})
    assert guess.networks == networks
    assert guess.datasets == (label.split("_")[0],)
    assert guess.width == width
    assert guess.head == (head if "_s8" in label else "")


def test_needs_no_mxnet(tmp_path):
    path = write(tmp_path, "voc_rna-c_cls21_s8_ep-0003.params")
    code = (
        "import sys; sys.modules['mxnet'] = None; sys.modules['torch'] = None\n"
        "from ademx.cli import main\n"
        "main(sys.argv[1:])"
    )
    for arguments in (["list"], ["verify", str(path)], ["show", str(path)]):
        subprocess.run(
            [sys.executable, "-c", code, "weights", *arguments], capture_output=True, check=True
        )

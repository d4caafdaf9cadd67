"""`ademx convert`, and `ademx evaluate --backend torch`."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from commands import make_runner
from fill import fill
from PIL import Image
from weights_files import read_arrays

from ademx import params
from ademx.cli import main
from ademx.networks.graph import parameter_shapes

torch = pytest.importorskip("torch")

A1 = "ilsvrc-cls_rna-a1_cls1000"
VOC = "voc_rna-a1_cls21_s8"


def write_weights(folder, label, *, width):
    """Write weights whose scores react to images."""
    shapes = parameter_shapes(label, width=width)
    values = {name: fill(name, shape) for name, shape in shapes.items()}
    for name in values:
        if name.startswith("linear"):
            values[name] *= 8
    aux = {name: value for name, value in values.items() if "_moving_" in name}
    path = folder / f"{label}_ep-0001.params"
    params.save(path, {n: v for n, v in values.items() if n not in aux}, aux)
    return path


@pytest.fixture
def weights(tmp_path):
    return write_weights(tmp_path, A1, width=1 / 32)


def run(*arguments):
    return make_runner().invoke(main, [*map(str, arguments)])


def test_one_command_gives_a_pytorch_file(weights, tmp_path):
    target = tmp_path / "a1.pth"
    result = run("convert", weights, target, "--layout", "resnet38d")
    assert result.exit_code == 0, result.output
    assert f"names and shapes are those of {A1}" in result.output
    assert "resnet38d.Net computes at output stride 8" in result.output
    state = torch.load(target, weights_only=True)
    expected = params.load(weights)[0]["res6a_branch2b2_weight"]
    assert np.array_equal(state["b6.conv_branch2b2.weight"].numpy(), expected)
    assert not any("linear" in key for key in state)
    assert "left out, unless --with-head is given: the head, linear1000_weight" in result.output
    result = run("symbol", target.rename(weights.with_suffix(".pth")), "-o", tmp_path / "a1.json")
    assert result.exit_code == 1
    assert ".pth: a trunk without its head (linear1000_weight, linear1000_bias)" in result.output


def test_options_shape_the_keys(weights, tmp_path):
    target = tmp_path / "a1.pth"
    options = ["--norm-suffix", ".0", "--module-prefix", "--wrap-state-dict", "--label", A1]
    result = run("convert", weights, target, "--layout", "wider_resnet_a2", *options)
    assert result.exit_code == 0, result.output
    assert "scores will be wrong" in result.output
    state = torch.load(target, weights_only=True)["state_dict"]
    assert "module.mod2.block1.bn1.0.running_mean" in state
    assert "module.classifier.fc.bias" in state
    result = run("convert", weights, target, "--layout", "resnet38d", "--with-head", "--overwrite")
    assert result.exit_code == 0, result.output
    assert "linear1000.bias" in torch.load(target, weights_only=True)
    assert "left out" not in result.output


def test_an_old_pytorch_gets_its_format(weights, tmp_path):
    target = tmp_path / "a1.pth"
    assert run("convert", weights, target, "--legacy").exit_code == 0
    assert target.read_bytes()[:2] == b"\x80\x02"  # a pickle's
    assert "conv1a.weight" in torch.load(target, weights_only=True)
    result = run("convert", weights, tmp_path / "a.safetensors", "--legacy")
    assert result.exit_code == 1 and "--legacy: a .safetensors file has one" in result.output


def test_layouts_have_defaults(weights, tmp_path):
    for name, key in (("a.safetensors", "res2a.branch2a.weight"), ("b.params", "conv1a_weight")):
        assert run("convert", weights, tmp_path / name).exit_code == 0
        assert key in read_arrays(tmp_path / name)[0]


def test_an_existing_file_stays_without_overwrite(weights, tmp_path):
    target = tmp_path / "a1.pth"
    target.write_bytes(b"mine")
    result = run("convert", weights, target, "--layout", "native")
    assert result.exit_code == 1
    assert "--overwrite" in result.output
    assert target.read_bytes() == b"mine"


def test_mistakes_end_in_one_line(weights, tmp_path):
    assert run("convert", weights, tmp_path / "x.pth", "--layout", "keras").exit_code == 2
    assert run("convert", tmp_path / "absent.params", tmp_path / "x.pth").exit_code == 2
    result = run("convert", weights, tmp_path / "x.npz")
    assert result.exit_code == 1
    assert "expected a name that ends in .params, .pth, .safetensors" in result.output
    result = run("convert", weights, tmp_path / "x.pth", "--label", VOC)
    assert result.exit_code == 1
    assert "linear21_weight" in result.output


def evaluate(weights, root, output, *options):
    return [
        *("evaluate", "segmentation", "--weights", weights, "--data-root", root),
        *("--list-file", root / "val.lst", "--test-scales", 160, "--batch-images", 3),
        *("--output", output, *options),
    ]


def label_images(folder):
    return {path.stem: np.array(Image.open(path)) for path in (folder / "labels").iterdir()}


HIDES_MXNET = """
import json, sys
sys.modules["mxnet"] = None  # makes `import mxnet` fail
from ademx.cli import main
for arguments in json.loads(sys.argv[1]):
    main(arguments, standalone_mode=False)
"""


def test_evaluation_by_torch_needs_no_mxnet(golden, tmp_path):
    source = write_weights(tmp_path, VOC, width=1 / 32)
    commands = []
    for suffix in (".params", ".pth", ".safetensors"):
        weights, output = source.with_suffix(suffix), tmp_path / suffix[1:]
        if suffix != ".params":
            options = ("--layout", "resnet38d", "--with-head")
            assert run("convert", source, weights, *options).exit_code == 0
        arguments = evaluate(weights, golden / "voc_val", output, "--backend", "torch")
        commands.append(list(map(str, arguments)))
    command = [sys.executable, "-c", HIDES_MXNET, json.dumps(commands)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for name in ("params", "pth", "safetensors"):
        scores = json.loads((tmp_path / name / "scores.json").read_text())
        assert scores["settings"]["backend"] == "torch"
        assert scores["versions"]["torch"] == metadata.version("torch")
        assert len(label_images(tmp_path / name)) == 3


@pytest.fixture
def rrm_file(tmp_path):
    """A checkpoint as RRM's: a wrapped trunk with two heads, of which one is the release's top."""
    source, path = write_weights(tmp_path, VOC, width=1 / 32), tmp_path / f"{VOC}_rrm.pth"
    assert run("convert", source, path, "--layout", "resnet38d", "--with-head").exit_code == 0
    state = {f"module.{key}": value for key, value in torch.load(path).items()}
    state["module.fc8.weight"] = torch.zeros(20, 128, 1, 1)
    torch.save({"state_dict": state, "mean_iu": np.float64(0.5)}, path)
    return source, path


@pytest.mark.parametrize("backend", ["mxnet", "torch"])
def test_evaluation_takes_other_projects_files(backend, rrm_file, golden, tmp_path):
    if backend == "mxnet":
        pytest.importorskip("mxnet")
    found = []
    for weights in rrm_file:
        arguments = evaluate(weights, golden / "voc_val", tmp_path / weights.suffix[1:])
        options = ("--backend", backend, "--cpus", 1)
        if weights.suffix == ".pth":
            result = run(*arguments, *options)
            assert result.exit_code == 1
            assert "1 do not fit: module.fc8.weight; --drop-extra" in result.output.replace(
                "state_dict.", ""
            )
            options += ("--drop-extra", "--overwrite")
        result = run(*arguments, *options)
        assert result.exit_code == 0, result.output
        found.append(label_images(tmp_path / weights.suffix[1:]))
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[image], theirs[image]) for image in ours)


def test_prediction_takes_other_projects_files(rrm_file, golden, tmp_path):
    image = next((golden / "voc_val").rglob("*.jpg"))
    texts = []
    for weights in rrm_file:
        options = ("--output", tmp_path / weights.suffix[1:], "--backend", "torch", "--drop-extra")
        result = run("predict", image, "--weights", weights, *options, "--test-scales", 160)
        assert result.exit_code == 0, result.output
        texts.append(result.stdout)
    assert texts[0] == texts[1]


def test_the_label_chooses_between_layouts_with_the_same_keys(tmp_path):
    label = "ilsvrc-cls_rna-a2_cls1000"
    source = write_weights(tmp_path, label, width=1 / 32)
    middle, back = tmp_path / "x.pth", tmp_path / "back.params"
    assert run("convert", source, middle, "--layout", "wider_resnet_a2").exit_code == 0
    result = run("convert", middle, back, "--label", label)
    assert result.exit_code == 0 and "scores will be wrong" not in result.output
    assert back.read_bytes() == source.read_bytes()
    told = ("--label", label, "--source-layout", "wider_resnet", "--overwrite")
    assert (
        "scores will be wrong: down-sampling differs" in run("convert", middle, back, *told).output
    )


def test_gluoncv_s_names_are_written_without_prefix(weights, tmp_path):
    target = tmp_path / "gluon.params"
    assert run("convert", weights, target, "--layout", "gluoncv").exit_code == 0
    with params.open_params(target) as file:
        assert "mod2.0.bn1.0.gamma" in file.entries and "classifier.1.weight" in file.entries
    assert run("convert", target, tmp_path / "back.params", "--label", A1).exit_code == 0
    assert (tmp_path / "back.params").read_bytes() == weights.read_bytes()

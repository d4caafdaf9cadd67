"""`ademx symbol`: plain MXNet reads the graph beside our weights, and computes what we do."""

from __future__ import annotations

import numpy as np
import pytest
from commands import make_runner
from narrow import ILSVRC, VOC, WIDTH, write_weights

from ademx import params
from ademx.cli import main
from ademx.convert.files import read_weights
from ademx.devices import Devices
from ademx.engines.mxnet.predict import Predictor

mx = pytest.importorskip("mxnet")


def run(*arguments):
    return make_runner().invoke(main, ["symbol", *map(str, arguments)])


@pytest.mark.filterwarnings("ignore:Data provided by label_shapes")  # it says so in every test
@pytest.mark.parametrize("label", [VOC, ILSVRC])
def test_plain_mxnet_runs_the_weights(tmp_path, label):
    weights = write_weights(tmp_path, label)
    result = run(weights)
    prefix = str(tmp_path / f"{label}_ep")
    assert (result.exit_code, result.stdout) == (0, f"{prefix}-symbol.json\n")
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    expected = Predictor(read_weights(weights), devices=Devices())(images, batch=2)
    graph, arg_params, aux_params = mx.model.load_checkpoint(prefix, 1)
    assert set(arg_params) == set(graph.list_arguments()) - {"data", "softmax_label"}
    assert set(aux_params) == set(graph.list_auxiliary_states())
    assert graph.list_outputs() == ["softmax_output"]
    module = mx.mod.Module.load(prefix, 1)
    module.bind([("data", images.shape)], for_training=False)
    module.forward(mx.io.DataBatch([mx.nd.array(images)]), is_train=False)
    found = module.get_outputs()[0].asnumpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.std() > 1e-4  # else any graph would do


def test_a_label_alone_takes_the_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--width", WIDTH, "--head", "1conv", "--pool", "full"]
    assert run("voc_rna-a_cls21_s16", *options).exit_code == 0
    graph = mx.sym.load("voc_rna-a_cls21_s16_ep-symbol.json")
    shapes = dict(zip(graph.list_arguments(), graph.infer_shape(data=(1, 3, 64, 64))[0]))
    assert shapes["conv1a_weight"] == (4, 3, 3, 3) and "conv6a_weight" not in shapes
    assert graph.attr_dict()["pool1"]["pooling_convention"] == "full"
    assert graph.attr_dict()["linear21_bias"]["__lr_mult__"] == "2.0"


def test_summary_takes_width_and_head_from_a_file_too(tmp_path):
    """Its parameters are those of the file; of the label they are about 256 times as many."""
    weights = write_weights(tmp_path, VOC)
    count = sum(value.size for value in params.load(weights)[0].values())
    found = make_runner().invoke(main, ["summary", str(weights)])
    assert found.exit_code == 0 and "width ×0.0625" in found.stdout
    (total,) = (line for line in found.stdout.splitlines() if line.startswith("total "))
    assert f"{count:,}" in total.split()
    refused = make_runner().invoke(main, ["summary", str(weights), "--width", "1"])
    assert refused.exit_code == 2 and "--width goes with a label alone" in refused.stderr


@pytest.mark.parametrize("name", ["x.onnx", f"{VOC}_ep-0001.onnx"])
def test_a_file_that_is_none_of_weights_is_told_whatever_its_name(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"\x08\x07\x12\x05ademx")  # as an ONNX file begins
    result = run(path)
    assert result.exit_code == 1
    assert "an ONNX model" in result.stderr
    assert "give the weights that it was made from" in result.stderr
    assert "label '" not in result.stderr


def test_mistakes_end_in_one_line(tmp_path):
    weights = write_weights(tmp_path, VOC)
    target = tmp_path / f"{VOC}_ep-symbol.json"
    target.write_text("mine")
    result = run(weights)
    assert result.exit_code == 1 and "exists: choose another name or add --overw" in result.stderr
    assert target.read_text() == "mine"
    result = run(tmp_path / "absent.params")
    assert result.exit_code == 1 and "absent.params: there is no such file" in result.stderr
    result = run(weights, "--width", "0.5", "--overwrite")
    assert result.exit_code == 2 and "--width goes with a label alone" in result.stderr
    assert target.read_text() == "mine"
    arg_params, aux_params = params.load(weights)
    del arg_params["conv1a_weight"]
    params.save(weights, arg_params, aux_params)
    result = run(weights, "-o", tmp_path / "new.json")
    assert result.exit_code == 1 and "conv1a_weight" in result.stderr
    assert not (tmp_path / "new.json").exists()

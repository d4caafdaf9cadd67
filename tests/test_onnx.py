"""ONNX files run by onnxruntime, against MXNet's graphs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from concurrent.futures import Future

import numpy as np
import pytest
from commands import make_runner

import ademx
from ademx import params
from ademx.cli import main
from ademx.compat import import_mxnet
from ademx.convert import split
from ademx.convert.files import NetworkWeights
from ademx.convert.onnx import FILE_VERSION, OPSET, build_model, read_onnx, write_onnx
from ademx.convert.writing import convert
from ademx.devices import Devices
from ademx.engines.onnx.predict import OnnxPredictor
from ademx.labels import parse_label
from ademx.networks.graph import parameter_shapes
from ademx.params import CheckpointMismatch

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NARROW = 1 / 16
TOLERANCE = 1e-4  # of the largest score: float32 sums in another order
VOC = "voc_rna-a1_cls21_s8"

CLASSIFIERS = [f"ilsvrc-cls_rna-{name}_cls1000" for name in ("a", "a1", "a2", "b", "c")]
BASELINES = [f"ilsvrc-cls_rn-{name}_cls1000" for name in ("plain34", "34a", "34b", "34c", "50")]
DILATED = [
    f"voc_rna-{name}_cls21_s{stride}" for name in ("a1", "a2", "b", "c") for stride in (8, 16, 32)
] + [f"voc_{name}" for name in ("rna-a_cls21_s8", "rna-a_cls21", "rn-34a_cls21_s8")]


def random_parameters(label: str, *, width: float = NARROW, head: str = "2conv"):
    """Return weights of variance 2/fan_in and normalisations that are near the identity."""
    rng = np.random.default_rng(0)
    arg_params, aux_params = {}, {}
    for name, shape in parameter_shapes(label, width=width, head=head).items():
        noise = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("_weight"):
            arg_params[name] = noise * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name.endswith("_moving_var"):
            aux_params[name] = np.exp(noise / 4) * 2
        elif name.endswith("_moving_mean"):
            aux_params[name] = noise / 4
        else:
            arg_params[name] = noise / 4 + name.endswith("_gamma")
    return arg_params, aux_params


def images(size: tuple[int, int] = (97, 129), *, count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, *size)).astype(np.float32)


def mxnet_outputs(label, arg_params, aux_params, data, *, width=NARROW, pool="pad", head="2conv"):
    """Return the graph's scores and probabilities."""
    mx = import_mxnet()
    graph = ademx.build_symbol(label, width=width, pool=pool, head=head)
    scores = graph.get_internals()[f"linear{parse_label(label).num_classes}_output"]
    outputs = mx.sym.Group([scores, mx.sym.softmax(scores, axis=1)])
    arrays = {name: mx.nd.array(value) for name, value in {**arg_params, "data": data}.items()}
    states = {name: mx.nd.array(value) for name, value in aux_params.items()}
    executor = outputs.bind(mx.cpu(), arrays, aux_states=states, grad_req="null")
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def weights_of(label, arg_params, aux_params, source="here"):
    return NetworkWeights({**arg_params, **aux_params}, source, parse_label(label))


def onnx_outputs(label, arg_params, aux_params, data, **options):
    """Return the file's scores, which it does not give out by itself, and its probabilities."""
    model = build_model(weights_of(label, arg_params, aux_params), **options)
    onnx.checker.check_model(model, full_check=True)
    scores = f"linear{parse_label(label).num_classes}"
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(scores))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run([scores, "probabilities"], {"data": data})


def check_same(label, *, pool="pad", head="2conv", width=NARROW, size=(97, 129), count=2):
    pytest.importorskip("mxnet")
    parameters = random_parameters(label, width=width, head=head)
    data = images(size, count=count)
    expected = mxnet_outputs(label, *parameters, data, width=width, pool=pool, head=head)
    found = onnx_outputs(label, *parameters, data, pool=pool)
    assert [array.shape for array in found] == [array.shape for array in expected]
    scores, wanted = found[0], expected[0]
    assert np.abs(wanted - wanted.mean(axis=1, keepdims=True)).max() > 0.1  # they say something
    assert np.abs(scores - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    np.testing.assert_allclose(found[1], expected[1], atol=TOLERANCE)


@pytest.mark.parametrize("label", CLASSIFIERS + BASELINES + DILATED)
def test_same_as_mxnet(label):
    check_same(label)


@pytest.mark.parametrize("pool", ["caffe", "full"])
@pytest.mark.parametrize(
    "label",
    ["ilsvrc-cls_rna-a_cls1000", "voc_rna-a_cls21_s8", "voc_rna-a2_cls21_s8"]
    + ["ilsvrc-cls_rn-34a_cls1000"],
)
def test_pool_geometries(label, pool):
    # Sides that "full" and "caffe" tell apart at every level, and one that they do not.
    check_same(label, pool=pool, size=(98, 131))


def test_one_convolution_at_the_top():
    check_same(VOC, head="1conv")


@pytest.mark.full_width
def test_full_width():
    check_same("ilsvrc-cls_rna-224-1-1-1-1-1-1-1_cls1000", width=1, count=1)


@pytest.mark.parametrize("input_size", [None, (97, 129)])
def test_names_and_shapes(tmp_path, input_size):
    parameters = random_parameters(VOC)
    path = tmp_path / "x.onnx"
    write_onnx(path, weights_of(VOC, *parameters), input_size=input_size)
    model = onnx.load(path)
    assert (model.ir_version, model.opset_import[0].version) == (FILE_VERSION, OPSET)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert (given.name, output.name) == ("data", "probabilities")
    if input_size:
        assert given.shape == ["batch", 3, 97, 129]
        assert output.shape == ["batch", 21, 13, 17]  # 97 / 8 and 129 / 8, rounded up
    else:
        assert given.shape == ["batch", 3, "height", "width"]
        assert output.shape == ["batch", 21, "rows", "columns"]
    probabilities = session.run(None, {"data": images()})[0]
    assert probabilities.shape == (2, 21, 13, 17)
    assert set(parameter_shapes(VOC)) <= {item.name for item in model.graph.initializer}


@pytest.mark.parametrize("label", ["ilsvrc-cls_rna-a_cls1000", "voc_rna-a_cls21_s16"])
def test_an_input_that_is_too_small(label):
    weights = weights_of(label, *random_parameters(label))
    with pytest.raises(ValueError, match="an input of 8x8 pixels is too small for this network"):
        build_model(weights, input_size=(8, 8), pool="caffe")


def test_metadata_and_parameters_read_back(tmp_path):
    path = tmp_path / "x.onnx"
    given = random_parameters(VOC)
    digest: Future[str] = Future()
    digest.set_result("ab" * 16)
    weights = weights_of(VOC, *given, "models/w.params")
    write_onnx(path, dataclasses.replace(weights, digest=digest))
    read = read_onnx(path)
    found, metadata = split(read.parameters), read.metadata
    for ours, theirs in zip(found, given):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert metadata["label"] == VOC
    assert metadata["source"] == "w.params" and metadata["source_md5"] == "ab" * 16
    assert json.loads(metadata["mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(metadata["std"]) == [0.229, 0.224, 0.225]
    assert float(metadata["scale"]) == 1 / 255
    assert (metadata["width"], metadata["head"], metadata["pool"]) == ("0.0625", "2conv", "pad")


def test_predictor_in_memory_and_from_a_file(tmp_path):
    weights = weights_of(VOC, *random_parameters(VOC))
    path = tmp_path / "x.onnx"
    write_onnx(path, weights, input_size=(64, 72))
    data = images((64, 72), count=3)
    in_memory = OnnxPredictor(weights, devices=Devices())
    from_file = OnnxPredictor.from_onnx(path, devices=Devices())
    assert (in_memory.input_size, from_file.input_size) == (None, (64, 72))
    one_by_one = from_file(data, batch=1)
    assert one_by_one.shape == (3, 21, 8, 9)
    # Batches are split among threads otherwise, so sums come in another order.
    np.testing.assert_allclose(in_memory(data, batch=2), one_by_one, atol=1e-5)
    with pytest.raises(ValueError, match=r"takes inputs of 64×72 pixels only, found 64×64"):
        from_file(images((64, 64)), batch=1)


def test_label_and_parameters_must_fit(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"old")
    parameters = random_parameters("voc_rna-c_cls21_s8")
    with pytest.raises(CheckpointMismatch, match=r"x\.params does not fit the network"):
        write_onnx(path, weights_of(VOC, *parameters, "x.params"))
    assert path.read_bytes() == b"old"


def test_convert_command(tmp_path):
    source, target = tmp_path / f"{VOC}_ep-0001.params", tmp_path / "x.onnx"
    params.save(source, *random_parameters(VOC))
    run = make_runner().invoke
    arguments = ["convert", str(source), str(target)]
    assert run(main, [*arguments, "--input", "64x72", "--pool", "full"]).exit_code == 0
    metadata = read_onnx(target).metadata
    assert metadata["source_md5"] == hashlib.md5(source.read_bytes()).hexdigest()
    assert (metadata["label"], metadata["pool"]) == (VOC, "full")
    assert OnnxPredictor.from_onnx(target, devices=Devices()).input_size == (64, 72)
    assert "exists: choose another name" in run(main, arguments).stderr
    assert run(main, [*arguments, "--overwrite", "--input", "free"]).exit_code == 0
    assert OnnxPredictor.from_onnx(target, devices=Devices()).input_size is None


def test_the_label_is_the_source_s_or_the_target_s(tmp_path):
    source = tmp_path / "mine.params"
    params.save(source, *random_parameters(VOC))
    with pytest.raises(ValueError, match=r"mine\.params: its name is no model label: give --label"):
        convert(source, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
    assert str(convert(source, tmp_path / f"{VOC}.onnx")) == VOC
    named = source.rename(tmp_path / f"{VOC}_ep-0001.params")
    assert str(convert(named, tmp_path / "x.onnx")) == VOC
    assert read_onnx(tmp_path / "x.onnx").metadata["label"] == VOC


def test_weights_that_say_what_they_are_of_may_have_another_network_s_name(tmp_path):
    params.save(tmp_path / f"{VOC}.params", *random_parameters(VOC))
    other = tmp_path / f"{VOC.replace('_s8', '_s16')}.safetensors"
    convert(tmp_path / f"{VOC}.params", other, label=VOC)
    assert str(convert(other, tmp_path / "x.onnx")) == VOC
    assert read_onnx(tmp_path / "x.onnx").metadata["label"] == VOC
    asked = convert(other, tmp_path / "y.onnx", label=other.stem)
    assert str(asked) == read_onnx(tmp_path / "y.onnx").metadata["label"] == other.stem


@pytest.mark.parametrize("source", ["mine", "ilsvrc-cls_rn-50b_cls1000"])
@pytest.mark.parametrize("target", ["x", "ilsvrc-cls_rn-50b_cls1000"])
def test_they_say_how_their_input_is_normalised_too(tmp_path, source, target):
    label = "ilsvrc-cls_rn-50b_cls1000_meanstd"
    params.save(tmp_path / f"{label}.params", *random_parameters(label))
    convert(tmp_path / f"{label}.params", tmp_path / "said.safetensors")
    said = (tmp_path / "said.safetensors").rename(tmp_path / f"{source}.safetensors")
    assert str(convert(said, tmp_path / f"{target}.onnx")) == label
    assert read_onnx(tmp_path / f"{target}.onnx").metadata["label"] == label


@pytest.mark.parametrize(
    ("target", "option", "message"),
    [
        (
            "x.onnx",
            ["--input", "64"],
            "expected height x width in pixels, such as 504x504, or free",
        ),
        ("x.onnx", ["--layout", "resnet38d"], "has its own names and always a head"),
        ("x.pth", ["--input", "64x64"], "--input and --pool are for .onnx files"),
    ],
)
def test_convert_options_that_do_not_fit(tmp_path, target, option, message):
    source = tmp_path / f"{VOC}_ep-0001.params"
    params.save(source, *random_parameters(VOC))
    result = make_runner().invoke(main, ["convert", str(source), str(tmp_path / target), *option])
    assert result.exit_code == 2 and message in (result.stdout + result.stderr)
    assert not (tmp_path / target).exists()


def test_foreign_files(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"<html>" * 9)
    with pytest.raises(ValueError, match=r"x\.onnx: onnxruntime cannot use it"):
        OnnxPredictor.from_onnx(path, devices=Devices())
    with pytest.raises(ValueError, match=r"x\.onnx: not an ONNX file, or a damaged one"):
        read_onnx(path)
    graph = onnx.helper.make_graph([], "g", [], [])
    onnx.save(onnx.helper.make_model(graph, producer_name="pytorch"), path)
    with pytest.raises(ValueError, match=r"an ONNX file by pytorch: expected one that `ademx"):
        read_onnx(path)


def test_devices_and_precisions_that_are_not_to_be_had():
    weights = weights_of(VOC, *random_parameters(VOC))
    with pytest.raises(ValueError, match=r"precision 'bfloat16': onnxruntime computes float32"):
        OnnxPredictor(weights, devices=Devices(), precision="bfloat16")
    with pytest.raises(ValueError, match=r"--gpus 0,1: onnxruntime takes one"):
        OnnxPredictor(weights, devices=Devices(gpus=(0, 1)))


def test_needs_neither_mxnet_nor_torch():
    code = (
        "import sys; sys.modules['mxnet'] = sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from ademx.labels import parse_label\n"
        "from ademx.convert.files import NetworkWeights\n"
        "from ademx.engines.onnx.predict import OnnxPredictor\n"
        "from ademx.devices import Devices\n"
        "from ademx.networks.graph import parameter_shapes\n"
        f"shapes = parameter_shapes({VOC!r}, width=1 / 16)\n"
        "values = {name: np.ones(shape, 'f4') for name, shape in shapes.items()}\n"
        f"weights = NetworkWeights(values, 'x', parse_label({VOC!r}))\n"
        "net = OnnxPredictor(weights, devices=Devices())\n"
        "print(net(np.zeros((1, 3, 16, 16), 'f4'), batch=1).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 21, 2, 2)"

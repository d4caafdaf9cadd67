"""`.caffemodel` files of ResNets: OpenCV's own run of them against our networks."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from caffe_files import drawn_blobs, layers, write_caffemodel, write_prototxt, write_resnet
from commands import make_runner
from mxnet_scores import scores_of

from ademx import params
from ademx.cli import main
from ademx.convert import files

cv2 = pytest.importorskip("cv2")

WIDTH = 1 / 16


def run(*arguments: object):
    return make_runner().invoke(main, ["convert", *map(str, arguments)])


@pytest.mark.parametrize(
    ("variant", "bias", "size"),
    [
        ("50", True, (64, 64)),
        ("50", False, (75, 98)),
        ("101", False, (64, 64)),
        ("152", False, (64, 64)),
    ],
)
def test_the_network_computes_what_opencv_computes(variant, bias, size, tmp_path):
    """The images are RGB here and BGR there; ResNet-50's first convolution has a bias."""
    pytest.importorskip("mxnet")
    text, model = write_resnet(tmp_path, variant, bias=bias)
    result = run(model, tmp_path / "out.params", "--layout", "caffe")
    label = f"ilsvrc-cls_rn-{variant}_cls1000"
    assert (result.exit_code, result.stdout.split()[-1]) == (0, label), result.output
    assert "test, and write .onnx, by --pool full" in result.stderr
    images = np.random.default_rng(1).normal(size=(2, 3, *size)).astype(np.float32)
    network = cv2.dnn.readNetFromCaffe(str(text), str(model))
    network.setInput(np.ascontiguousarray(images[:, ::-1]))
    expected = network.forward()
    arg_params, aux_params = params.load(tmp_path / "out.params")
    values = {**arg_params, **aux_params}
    found = scores_of(label, values, images, width=WIDTH, pool="full")
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_file_is_used_as_it_is_and_by_any_layout(tmp_path):
    _, model = write_resnet(tmp_path)
    weights = files.read_weights(model)
    assert (weights.layout, str(weights.label)) == ("caffe", "ilsvrc-cls_rn-50_cls1000")
    assert weights.width == WIDTH
    assert run(model, tmp_path / "x.safetensors", "--layout", "native").exit_code == 0
    again = files.read_weights(tmp_path / "x.safetensors")
    assert all(np.array_equal(again.parameters[n], v) for n, v in weights.parameters.items())
    assert again.metadata["std"] == "[1.0, 1.0, 1.0]"


def test_a_file_is_verified_as_the_network_that_it_is(tmp_path):
    """Whose parameters are also those of the network that strides elsewhere."""
    _, model = write_resnet(tmp_path)
    result = make_runner().invoke(main, ["weights", "verify", str(model)])
    assert result.exit_code == 0, result.output
    other = tmp_path / "ilsvrc-cls_rn-50b_cls1000_ep-0001.caffemodel"
    model.rename(other)
    result = make_runner().invoke(main, ["weights", "verify", str(other)])
    assert result.exit_code == 1
    assert "is of rn-50b, and this file of rn-50 " in result.output


def test_a_classifier_of_another_name_is_missed(tmp_path):
    _, model = write_resnet(tmp_path, classes=7)  # called fc7
    result = run(model, tmp_path / "out.params")
    assert result.exit_code == 0
    assert "caffe: there is no classifier of its usual name" in result.stderr
    assert "call them …_rn-50_…_ep-0001.params" in result.stderr
    assert not any(name.startswith("linear") for name in params.load(tmp_path / "out.params")[0])


def test_sums_of_no_batch_are_zeros(tmp_path):
    network = list(layers("50", width=4, classes=1000))
    blobs = drawn_blobs(network)
    blobs["bn2a_branch1"][2][:] = 0
    write_caffemodel(tmp_path / "x.caffemodel", network, blobs)
    found = files.read_weights(tmp_path / "x.caffemodel").parameters
    assert (
        not found["bn2a_branch1_moving_mean"].any() and not found["bn2a_branch1_moving_var"].any()
    )


def cut(network, blobs, path):
    write_caffemodel(path, network, blobs)
    path.write_bytes(path.read_bytes()[:-100])


def write_less(network, blobs, path):
    write_caffemodel(path, network, {n: b for n, b in blobs.items() if "4c" not in n})


def write_more(network, blobs, path):
    extra = ("res3b7_branch2a", "Convolution", "data", "x", "")
    write_caffemodel(path, [*network, extra], {**blobs, extra[0]: blobs["res2a_branch2a"]})


def write_single(network, blobs, path):
    write_caffemodel(path, network, {**blobs, "scale2a_branch1": blobs["scale2a_branch1"][:1]})


def write_noise(network, blobs, path):
    path.write_text("404")


def write_page(network, blobs, path):
    path.write_text("<html>404</html>")


def write_pointer(network, blobs, path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 102462397\n")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (cut, "x.caffemodel: damaged, or no .caffemodel; expected a whole one"),
        (write_noise, "x.caffemodel: damaged, or no .caffemodel"),
        (write_page, "x.caffemodel: at byte 0: a web page or XML; .* download it again"),
        (write_pointer, "x.caffemodel: at byte 0: a Git LFS pointer; .* `git lfs pull`"),
        (write_less, "missing in ResNet-50: res4c_branch2a, bn4c_branch2a, .* and 1 more"),
        (write_more, "not in a ResNet-50: res3b7_branch2a"),
        (write_single, "scale2a_branch1: 1 arrays, expected 2"),
    ],
)
def test_other_files_are_refused(write, message, tmp_path):
    network = list(layers("50", width=4, classes=1000))
    write(network, drawn_blobs(network), tmp_path / "x.caffemodel")
    result = run(tmp_path / "x.caffemodel", tmp_path / "out.params")
    assert result.exit_code == 1
    assert re.search(message, result.stderr) and "Traceback" not in result.stderr
    assert not (tmp_path / "out.params").exists()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("ilsvrc-cls_rn-50b_cls1000", "of rn-50b, and this file of rn-50 "),
        (
            "ilsvrc-cls_rn-50_cls1000_meanstd",
            "want it less the mean alone: call them ilsvrc",
        ),
    ],
)
def test_a_label_that_says_another_thing_is_refused(label, message, tmp_path):
    _, model = write_resnet(tmp_path)
    result = run(model, tmp_path / "out.params", "--label", label)
    assert result.exit_code == 1
    assert message in result.stderr


def test_layout_caffe_is_read_and_not_written(tmp_path):
    params.save(tmp_path / "x.params", {"conv1_weight": np.zeros((4, 3, 7, 7), np.float32)}, {})
    result = run(tmp_path / "x.params", tmp_path / "out.params", "--layout", "caffe")
    assert result.exit_code == 1
    assert "x.params: layout caffe is of .caffemodel files alone" in result.stderr
    write_prototxt(tmp_path / "x.prototxt", list(layers("50", width=4, classes=1000)))
    result = run(tmp_path / "x.prototxt", tmp_path / "out.params", "--layout", "caffe")
    assert result.exit_code == 1
    assert "x.prototxt: at byte 0: a Caffe .prototxt; " in result.stderr
    assert "the weights are in the .caffemodel beside it" in result.stderr


def test_without_opencv_it_is_named(tmp_path, monkeypatch):
    _, model = write_resnet(tmp_path)
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = run(model, Path(tmp_path) / "out.params")
    assert result.exit_code == 1
    assert "run `pip install 'ademx[caffe]'`" in result.stderr

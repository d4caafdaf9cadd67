"""ResNets of torchvision and gluoncv as input, against networks with their names and strides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import make_runner, run_evaluate
from gluoncv_beside_torch import import_gluoncv
from mxnet_scores import scores_of
from PIL import Image
from scenes import voc_scene

import ademx
from ademx import params
from ademx.cli import main
from ademx.compat import import_mxnet
from ademx.convert import files, from_torch
from ademx.convert.torch_model import build
from ademx.convert.writing import convert
from iters import transforms

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402  (needs torch)

WIDTH = 1 / 16
# Two float32 libraries over up to 101 layers, relative to the largest score.
TOLERANCE = 1e-5


def image_batch():
    return np.random.default_rng(1).normal(size=(2, 3, 75, 96)).astype(np.float32)


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(expected - expected.mean(axis=0)).max() > 1e-3 * np.abs(expected).max()
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


# ---- gluoncv -----------------------------------------------------------------------------------


@pytest.fixture(params=["34b", "50", "101"])
def gluon(request, tmp_path):
    """Give a narrow network of gluoncv's with drawn parameters, its file, and its label."""
    pytest.importorskip("mxnet")
    mx = import_mxnet()
    import_gluoncv()
    from gluoncv.model_zoo import resnet

    blocks = {"34b": [3, 4, 6, 3], "50": [3, 4, 6, 3], "101": [3, 4, 23, 3]}[request.param]
    kind, channels = resnet.BottleneckV1, [4, 16, 32, 64, 128]
    if request.param == "34b":
        kind, channels = resnet.BasicBlockV1, [4, 4, 8, 16, 32]
    network = resnet.ResNetV1(kind, blocks, channels)
    network.initialize()
    network(mx.nd.zeros((1, 3, 64, 64)))  # settles the shapes
    random = np.random.default_rng(0)
    for name, parameter in network.collect_params().items():
        values = random.normal(0, 0.5, parameter.shape)
        if name.endswith("weight"):
            values /= np.sqrt(np.prod(parameter.shape[1:])) / 2
        if name.endswith(("gamma", "var")):
            values = random.uniform(0.5, 1.5, parameter.shape)
        parameter.set_data(mx.nd.array(values))
    path = tmp_path / "saved.params"
    network.save_parameters(str(path))
    return network, path, f"ilsvrc-cls_rn-{request.param}_cls1000_meanstd"


def test_gluoncv_s_weights_compute_the_same_here(gluon, tmp_path, caplog):
    network, path, label = gluon
    images = image_batch()
    expected = network(import_mxnet().nd.array(images)).asnumpy()
    with caplog.at_level("WARNING"):
        assert str(convert(path, tmp_path / "ours.params")) == label
    assert f"call them {label}_ep-0001.params" in caplog.text
    found = params.load(tmp_path / "ours.params")
    values = {**found[0], **found[1]}
    assert_close(scores_of(label, values, images, width=WIDTH), expected)
    told = files.read_weights(path, reading=files.Reading(source_layout="gluoncv"))
    assert (told.layout, str(told.label)) == ("gluoncv", label)
    assert all(np.array_equal(told.parameters[name], found[0][name]) for name in found[0])


# ---- torchvision -------------------------------------------------------------------------------


class Block(nn.Module):
    """A block with torchvision's names; of three convolutions the second strides."""

    def __init__(self, before, width, after, stride, *, kernels):
        super().__init__()
        strider = len(kernels) // 2 if len(kernels) == 3 else 0
        channels = [before, *[width] * (len(kernels) - 1), after]
        self.count = len(kernels)
        for number, kernel in enumerate(kernels):
            step = stride if number == strider else 1
            convolution = nn.Conv2d(
                *channels[number : number + 2], kernel, step, kernel // 2, bias=False
            )
            setattr(self, f"conv{number + 1}", convolution)
            setattr(self, f"bn{number + 1}", nn.BatchNorm2d(channels[number + 1]))
        self.downsample = None
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, data):
        shortcut = data if self.downsample is None else self.downsample(data)
        for number in range(1, self.count + 1):
            data = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(data))
            data = torch.relu(data if number < self.count else data + shortcut)
        return data


class ResNet(nn.Module):
    """A narrow ResNet with torchvision's names."""

    def __init__(self, blocks, *, bottleneck, classes=1000):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4)
        before, kernels = 4, (1, 3, 1) if bottleneck else (3, 3)
        for level, count in enumerate(blocks):
            width = 4 * 2**level
            after = width * 4 if bottleneck else width
            members = []
            for number in range(count):
                stride = 2 if level and not number else 1
                members.append(Block(before, width, after, stride, kernels=kernels))
                before = after
            setattr(self, f"layer{level + 1}", nn.Sequential(*members))
        self.fc = nn.Linear(before, classes)

    def forward(self, data):
        data = torch.relu(self.bn1(self.conv1(data)))
        data = nn.functional.max_pool2d(data, 3, 2, 1)
        for level in range(1, 5):
            data = getattr(self, f"layer{level}")(data)
        return self.fc(data.mean(dim=(2, 3)))


def drawn(variant="50b"):
    """Return such a network in evaluation mode with drawn parameters and statistics."""
    blocks = {"34b": (3, 4, 6, 3), "50b": (3, 4, 6, 3), "152b": (3, 8, 36, 3)}[variant]
    network = ResNet(blocks, bottleneck=variant != "34b").eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            value.normal_(0, (1 / value[0].numel()) ** 0.5, generator=generator)
        elif value.is_floating_point():
            low, high = (0.5, 1.5) if name.endswith(("weight", "var")) else (-0.3, 0.3)
            value.uniform_(low, high, generator=generator)
    return network


@pytest.mark.parametrize("variant", ["34b", "50b", "152b"])
def test_torchvision_s_weights_compute_the_same_here(variant, tmp_path, caplog):
    network, label = drawn(variant), f"ilsvrc-cls_rn-{variant}_cls1000_meanstd"
    torch.save({"state_dict": nn.DataParallel(network).state_dict()}, tmp_path / "resnet.pth")
    with torch.inference_mode():
        expected = network(torch.from_numpy(image_batch())).numpy()
    assert str(convert(tmp_path / "resnet.pth", tmp_path / "ours.params")) == label
    assert f"torchvision: a ResNet as rn-{variant}, whose input" in caplog.text
    arg_params, aux_params = params.load(tmp_path / "ours.params")
    found = scores_of(label, {**arg_params, **aux_params}, image_batch(), width=WIDTH)
    assert_close(found, expected)
    ours = build(label, width=WIDTH).eval()
    ours.load_state_dict(ademx.convert.to_torch(*from_torch(network.state_dict()), "native"))
    with torch.inference_mode():
        assert_close(ours(torch.from_numpy(image_batch())).numpy(), expected)


def test_gluoncv_s_v1b_has_torchvision_s_names_in_mxnet_s_words(tmp_path):
    words = {"weight": "gamma", "bias": "beta"}
    state = {}
    for key, value in drawn().state_dict().items():
        module, _, word = key.rpartition(".")
        is_norm = "bn" in module or module.endswith("downsample.1")
        state[f"{module}.{words.get(word, word) if is_norm else word}"] = value.numpy()
    del_counts = {key: value for key, value in state.items() if "num_batches" not in key}
    params.save(tmp_path / "v1b.params", del_counts, {}, prefixed=False)
    found = files.read_weights(tmp_path / "v1b.params")
    assert (found.layout, found.label.network) == ("torchvision", "rn-50b")
    expected, _ = from_torch(drawn().state_dict())
    assert all(np.array_equal(found.parameters[name], value) for name, value in expected.items())


def test_the_layout_decides_what_the_parameters_leave_open(tmp_path):
    """Which convolution of a bottleneck strides is not in the shapes."""
    torch.save(drawn().state_dict(), tmp_path / "resnet.pth")
    for command in ("verify", "show"):
        result = make_runner().invoke(main, ["weights", command, str(tmp_path / "resnet.pth")])
        assert result.exit_code == 0, result.stderr
        assert "rn-50b; 1000 classes" in result.stdout


def test_a_trunk_and_what_is_around_it():
    network = drawn()
    state = {f"backbone.{key}": v for key, v in network.state_dict().items() if "fc" not in key}
    state["classifier.4.weight"] = torch.zeros(21, 8, 1, 1)
    found, _ = from_torch(state, drop_extra=True)
    assert "linear1000_weight" not in found
    np.testing.assert_array_equal(
        found["res4b1_branch2b_weight"], network.layer3[1].conv2.weight.detach().numpy()
    )


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("ilsvrc-cls_rn-50_cls1000_meanstd", "of rn-50, and this file of rn-50b .* call it ilsvrc"),
        ("ilsvrc-cls_rn-50b_cls1000", "call them ilsvrc-cls_rn-50b_cls1000_meanstd"),
        ("voc_rn-50b_cls21_s8", "call them voc_rn-50b_cls21_s8_meanstd"),
        ("voc_rna-a1_cls21_s8", "of rna-a1, and this file of rn-50b"),
    ],
)
def test_a_label_that_says_another_thing_is_refused(label, message, tmp_path):
    torch.save(drawn().state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=rf"resnet.pth: the label .*{message}"):
        convert(tmp_path / "resnet.pth", tmp_path / "ours.params", label=label)
    assert not (tmp_path / "ours.params").exists()


def test_other_resnets_are_refused():
    """ResNet-18, of which there is none here, and one with three convolutions at its start."""
    eighteen = ResNet((2, 2, 2, 2), bottleneck=False).state_dict()
    with pytest.raises(ValueError, match=r"torchvision \(as rn-34b\): .*missing: .*layer1\.2"):
        from_torch(eighteen)
    deep = {key.replace("conv1.w", "conv1.0.w", 1): v for key, v in drawn().state_dict().items()}
    with pytest.raises(ValueError, match="torchvision"):
        from_torch(deep)
    with pytest.raises(ValueError, match="layout 'torchvision': choose one of release, native"):
        ademx.convert.to_torch(*from_torch(drawn().state_dict()), "torchvision")


# ---- the normalisation of the input ------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """Return the file of such weights under the name that they have to have."""
    folder = tmp_path_factory.mktemp("resnet")
    torch.save(drawn().state_dict(), folder / "resnet50.pth")
    target = folder / "ilsvrc-cls_rn-50b_cls1000_meanstd_ep-0001.params"
    result = make_runner().invoke(main, ["convert", str(folder / "resnet50.pth"), str(target)])
    assert result.exit_code == 0, result.stderr
    return target


def test_images_are_normalised_as_the_weights_want(converted, tmp_path):
    """In a test of the converted file, and of the original one under the same label."""
    image = voc_scene(np.random.default_rng(0))[0][:64, :64]
    Image.fromarray(image).save(tmp_path / "0.png")
    (tmp_path / "val.lst").write_text("0\t3\t0.png\n")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    data = ((image / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.inference_mode():
        expected = drawn()(torch.from_numpy(data)).softmax(1).numpy()
    label = converted.name.removesuffix("_ep-0001.params")
    for file, options in ((converted, []), (converted.parent / "resnet50.pth", ["--model", label])):
        output = tmp_path / file.name
        result = run_evaluate("classification", file, tmp_path, output, *options)
        assert result.exit_code == 0, result.stderr
        np.testing.assert_allclose(np.load(output / "predictions" / "64.npy"), expected, rtol=1e-3)


def test_a_safetensors_file_says_it_itself(converted, tmp_path):
    convert(converted, tmp_path / "x.safetensors")
    with files.open_weights(tmp_path / "x.safetensors") as file:
        said = file.metadata
    assert (said["label"], json.loads(said["std"])) == (
        "ilsvrc-cls_rn-50b_cls1000_meanstd",
        list(transforms.RNA.std),
    )


def test_weights_are_not_used_with_another_normalisation(converted, tmp_path):
    for command in (
        ["evaluate", "classification", "--model", "ilsvrc-cls_rn-50b_cls1000"],
        ["train", "segmentation", "--model", "voc_rn-50b_cls21_s8", "--to-epoch", "1"],
    ):
        command += ["--weights", str(converted), "--data-root", str(tmp_path), "--gpus", ""]
        (tmp_path / "val.lst").write_text("0\t3\t0.png\n")
        (tmp_path / "train.lst").write_text("0.png\t0.png\n")
        result = make_runner().invoke(main, [*command, "--output", str(tmp_path / "out")])
        assert result.exit_code == 1, result.output
        assert "one of the two divides its input by the standard deviation" in result.stderr

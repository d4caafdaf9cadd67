"""The ResNet baselines against two other implementations with the same weights."""

from __future__ import annotations

import numpy as np
import pytest

import ademx
from ademx.convert.torch_model import build

mx = pytest.importorskip("mxnet")
torch = pytest.importorskip("torch")
F = torch.nn.functional

# Two float32 libraries over up to 152 layers, relative to the largest score; 5e-7 is usual, and
# a BatchNorm epsilon of 1e-3 makes 7e-4.
TOLERANCE = 1e-5
BN_EPSILON = 1.001e-5

# Blocks on levels 2 to 5, bottleneck or not, shortcut option (arXiv:1512.03385, Table 1). With a
# "b" the bottleneck's second convolution strides, as in torchvision.
NETWORKS = {
    "plain34": ((3, 4, 6, 3), False, None),
    "34a": ((3, 4, 6, 3), False, "A"),
    "34b": ((3, 4, 6, 3), False, "B"),
    "34c": ((3, 4, 6, 3), False, "C"),
    "50": ((3, 4, 6, 3), True, "B"),
    "101": ((3, 4, 23, 3), True, "B"),
    "152": ((3, 8, 36, 3), True, "B"),
    "50b": ((3, 4, 6, 3), True, "B"),
    "101b": ((3, 4, 23, 3), True, "B"),
}
# (stride, dilation of the first block's convolution that strides, of the rest) by level.
NATIVE = {2: (1, 1, 1), 3: (2, 1, 1), 4: (2, 1, 1), 5: (2, 1, 1)}
STRIDE_16 = NATIVE | {5: (1, 1, 2)}
STRIDE_8 = NATIVE | {4: (1, 1, 2), 5: (1, 2, 4)}


def random_parameters(symbol, data_shape, *, gain=1.0):
    """Weights that keep the signal's size: a plain network needs a gain of 2 for its ReLUs."""
    generator = np.random.default_rng(0)
    arguments, _, auxiliary = symbol.infer_shape(data=data_shape)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    parameters = {}
    for name, shape in zip(names, arguments + auxiliary):
        if name in ("data", "softmax_label"):
            continue
        if name.endswith("_weight"):
            value = generator.normal(0, np.sqrt(gain / np.prod(shape[1:])), shape)
        elif name.endswith(("_gamma", "_var")):
            value = generator.uniform(0.5, 1.5, shape)
        else:
            value = generator.normal(0, 0.1, shape)
        parameters[name] = value.astype(np.float32)
    return parameters


def scores_of_symbol(symbol, parameters, data):
    scores = symbol.get_internals()[next(n for n in outputs(symbol) if n.startswith("linear"))]
    arrays = {name: mx.nd.array(value) for name, value in parameters.items()}
    executor = scores.bind(
        mx.cpu(),
        {"data": mx.nd.array(data), **{n: arrays[n] for n in scores.list_arguments()[1:]}},
        aux_states={n: arrays[n] for n in scores.list_auxiliary_states()},
        grad_req="null",
    )
    return executor.forward(is_train=False)[0].asnumpy()


def outputs(symbol):
    return [name for name in symbol.get_internals().list_outputs() if name.endswith("_output")]


class Referee:
    """A ResNet in torch's functions, reading the same dict of parameters by name."""

    def __init__(self, parameters):
        self.p = {name: torch.from_numpy(value) for name, value in parameters.items()}

    def conv(self, x, name, *, stride=1, dilation=1):
        weight = self.p[f"{name}_weight"]
        side = weight.shape[-1]
        dilation = dilation if side == 3 else 1
        padding = dilation * (side - 1) // 2
        return F.conv2d(x, weight, self.p.get(f"{name}_bias"), stride, padding, dilation)

    def norm(self, x, name):
        keys = ("moving_mean", "moving_var", "gamma", "beta")
        return F.batch_norm(x, *(self.p[f"{name}_{key}"] for key in keys), eps=BN_EPSILON)

    def block(self, x, name, stages, *, strider, stride, entry_dilation, dilation, shortcut):
        y = x
        for stage in stages:
            y = self.conv(
                y,
                f"res{name}_branch2{stage}",
                stride=stride if stage == strider else 1,
                dilation=entry_dilation if stage == strider else dilation,
            )
            y = self.norm(y, f"bn{name}_branch2{stage}")
            y = y if stage == stages[-1] else F.relu(y)
        if shortcut == "project":
            x = self.conv(x, f"res{name}_branch1", stride=stride)
            y = y + self.norm(x, f"bn{name}_branch1")
        elif shortcut == "pad":
            x = x[:, :, ::stride, ::stride]
            y = y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return F.relu(y)

    def features(self, x, variant, levels):
        blocks, bottleneck, option = NETWORKS[variant]
        x = F.relu(self.norm(self.conv(x, "conv1", stride=2), "bn_conv1"))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for level, count in zip((2, 3, 4, 5), blocks):
            stride, entry_dilation, dilation = levels[level]
            for number in range(count):
                first = number == 0
                grows = first and (bottleneck or level > 2)
                project = option == "C" or (option == "B" and grows)
                x = self.block(
                    x,
                    f"{level}a" if first else f"{level}b{number}",
                    "abc" if bottleneck else "ab",
                    strider="b" if variant in ("50b", "101b") else "a",
                    stride=stride if first else 1,
                    entry_dilation=entry_dilation if first else dilation,
                    dilation=dilation,
                    shortcut="project" if project else "pad" if option else None,
                )
        return x

    def classify(self, data, variant):
        features = self.features(torch.from_numpy(data), variant, NATIVE)
        weight, bias = self.p["linear10_weight"], self.p["linear10_bias"]
        return F.linear(features.mean(dim=(2, 3)), weight, bias).numpy()

    def segment(self, data, variant, levels):
        x = self.features(torch.from_numpy(data), variant, levels)
        x = F.relu(self.conv(x, "conv6a", dilation=12))
        return self.conv(x, "linear21", dilation=12).numpy()


def assert_close(ours, expected):
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


def image_batch(height, width, *, batch=2):
    return np.random.default_rng(1).normal(0, 1, (batch, 3, height, width)).astype(np.float32)


@pytest.mark.parametrize("variant", NETWORKS)
def test_classification_scores_are_those_of_torch(variant):
    data = image_batch(75, 96)  # an odd side shows how strides and paddings round
    symbol = ademx.build_symbol(f"ilsvrc-cls_rn-{variant}_cls10", width=0.125)
    parameters = random_parameters(symbol, data.shape, gain=2 if variant == "plain34" else 1)
    expected = Referee(parameters).classify(data, variant)
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()  # the image matters
    assert_close(scores_of_symbol(symbol, parameters, data), expected)


@pytest.mark.parametrize(
    ("variant", "stride", "levels"),
    [("50", 8, STRIDE_8), ("50b", 8, STRIDE_8), ("34b", 16, STRIDE_16)],
)
def test_dilated_segmentation_scores_are_those_of_torch(variant, stride, levels):
    data = image_batch(64, 96, batch=1)
    symbol = ademx.build_symbol(f"voc_rn-{variant}_cls21_s{stride}", width=0.125)
    parameters = random_parameters(symbol, data.shape)
    expected = Referee(parameters).segment(data, variant, levels)
    assert expected.shape == (1, 21, 64 // stride, 96 // stride)
    assert_close(scores_of_symbol(symbol, parameters, data), expected)


@pytest.mark.full_width
@pytest.mark.parametrize(("variant", "zoo"), [("34b", "resnet34_v1"), ("50", "resnet50_v1")])
def test_classification_scores_are_those_of_gluon(variant, zoo):
    """Gluon's v1 networks: other names in the same order, and biases before some BatchNorms."""
    data = image_batch(64, 64, batch=1)
    symbol = ademx.build_symbol(f"ilsvrc-cls_rn-{variant}_cls10")
    parameters = random_parameters(symbol, data.shape)
    net = mx.gluon.model_zoo.vision.get_model(zoo, classes=10)
    net.initialize(mx.init.Zero())
    net(mx.nd.array(data))  # settles the shapes
    theirs = [
        parameter
        for name, parameter in net.collect_params().items()
        if not ("conv" in name and name.endswith("_bias"))
    ]
    weights = iter([p for p in theirs if "running" not in p.name])
    statistics = iter([p for p in theirs if "running" in p.name])
    for name in symbol.list_arguments()[1:-1]:
        next(weights).set_data(mx.nd.array(parameters[name]))
    for name in symbol.list_auxiliary_states():
        next(statistics).set_data(mx.nd.array(parameters[name]))
    assert not list(weights) + list(statistics)
    expected = net(mx.nd.array(data)).asnumpy()
    assert_close(scores_of_symbol(symbol, parameters, data), expected)


def test_channels_of_zeros_pass_gradients_whatever_the_width():
    """oneDNN cannot take 10 + 10 channels, or 40 + 40, apart again; PyTorch's gradient is right."""
    label, width = "ilsvrc-cls_rn-34a_cls1000", 10 / 64
    data = np.random.default_rng(1).normal(0, 1, (2, 3, 64, 64)).astype(np.float32)
    symbol = ademx.build_symbol(label, width=width, frozen_statistics=True)
    parameters = random_parameters(symbol, data.shape)
    executor = symbol.simple_bind(mx.cpu(), data=data.shape, softmax_label=(2,))
    executor.copy_params_from(
        {n: mx.nd.array(parameters[n]) for n in symbol.list_arguments() if n in parameters},
        {n: mx.nd.array(parameters[n]) for n in symbol.list_auxiliary_states()},
    )
    executor.forward(is_train=True, data=mx.nd.array(data), softmax_label=mx.nd.array([3, 5]))
    executor.backward()
    found = executor.grad_dict["conv1_weight"].asnumpy()

    network = build(label, width=width).eval()
    network.load_state_dict(
        ademx.convert.to_torch(
            {n: parameters[n] for n in symbol.list_arguments() if n in parameters},
            {n: parameters[n] for n in symbol.list_auxiliary_states()},
            "native",
        )
    )
    scores = network(torch.from_numpy(data))
    F.cross_entropy(scores, torch.tensor([3, 5]), reduction="sum").backward()
    expected = next(
        value for value in network.parameters() if value.shape[2:] == (7, 7)
    ).grad.numpy()
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-3)

"""The PyTorch twin against the MXNet graph, and what PyTorch does with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from fill import image_batch
from filled import fill

import ademx
from ademx.convert import to_torch
from ademx.networks.graph import parameter_shapes

torch = pytest.importorskip("torch")
from ademx.convert.torch_model import build  # noqa: E402  # needs torch

WIDTH = 1 / 8
SIZE = (97, 129)  # odd, and no multiple of anything
# Both compute float32 with sums in another order.
TOLERANCE = 1e-4  # of the largest score
A1 = "ilsvrc-cls_rna-a1_cls1000"
VOC = "voc_rna-a1_cls21_s8"

CLASSIFIERS = [f"ilsvrc-cls_rna-{variant}_cls1000" for variant in ("a", "a1", "a2", "b", "c")]
SEGMENTERS = [
    f"voc_rna-{variant}_cls21{stride}"
    for variant in ("a", "a1", "a2", "b", "c")
    for stride in ("", "_s16", "_s8")
]
BASELINES = [
    f"ilsvrc-cls_rn-{variant}_cls1000"
    for variant in ("plain34", "34a", "34b", "34c", "50", "101", "152")
] + ["voc_rn-50_cls21_s8", "voc_rn-34a_cls21_s16"]


def random_parameters(label, **options):
    """Weights that keep activations of one size, so that no error hides behind a large one."""
    shapes = parameter_shapes(label, **options)
    return {name: fill(name, shape) for name, shape in shapes.items()}


def split(parameters):
    aux = {name: value for name, value in parameters.items() if "_moving_" in name}
    return {name: value for name, value in parameters.items() if name not in aux}, aux


def twin(label, parameters, **options):
    network = build(label, **options).eval()
    network.load_state_dict(to_torch(*split(parameters), "native"), strict=True)
    return network


def mxnet_outputs(label, parameters, images, names, **options):
    """Return the graph's internal outputs by name."""
    mx = pytest.importorskip("mxnet")
    graph = ademx.build_symbol(label, **options).get_internals()
    wanted = mx.sym.Group([graph[f"{name}_output"] for name in names])
    values = {**parameters, "data": images}
    executor = wanted.bind(
        mx.cpu(),
        {name: mx.nd.array(values[name]) for name in wanted.list_arguments()},
        aux_states={name: mx.nd.array(values[name]) for name in wanted.list_auxiliary_states()},
        grad_req="null",
    )
    outputs = [output.asnumpy() for output in executor.forward(is_train=False)]
    return dict(zip(names, outputs))


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def assert_twin_agrees(label, *, width=WIDTH, pool="pad", head="2conv"):
    parameters = random_parameters(label, width=width, head=head)
    images = image_batch((1, 3, *SIZE))
    top = f"linear{label.split('cls')[-1].split('_')[0]}"
    expected = mxnet_outputs(label, parameters, images, [top], width=width, pool=pool, head=head)[
        top
    ]
    network = twin(label, parameters, width=width, pool=pool, head=head)
    with torch.inference_mode():
        assert_close(network(torch.from_numpy(images)).numpy(), expected)


@pytest.mark.parametrize("label", CLASSIFIERS + SEGMENTERS + BASELINES)
def test_scores_are_the_graph_s(label):
    assert_twin_agrees(label)


@pytest.mark.parametrize("pool", ["caffe", "full"])
@pytest.mark.parametrize(
    "label",
    ["ilsvrc-cls_rna-a_cls1000", "voc_rna-a_cls21_s16", "voc_rna-a_cls21_s8", BASELINES[1]]
    + ["voc_rna-a2_cls21_s8"],
)
def test_pool_geometries_are_the_graph_s(label, pool):
    assert_twin_agrees(label, pool=pool)


@pytest.mark.parametrize("label", ["voc_rna-a1_cls21_s8", "cityscapes_rna-a2_cls19_s16"])
def test_a_head_of_one_convolution_is_the_graph_s(label):
    assert_twin_agrees(label, head="1conv")


@pytest.mark.full_width
@pytest.mark.parametrize("label", ["ilsvrc-cls_rna-224-1-1-1-1-1-1-1_cls1000", VOC])
def test_scores_are_the_graph_s_at_full_width(label):
    assert_twin_agrees(label, width=1.0)


@pytest.mark.parametrize("label", [A1, VOC, "ilsvrc-cls_rna-a_cls1000", "ilsvrc-cls_rn-50_cls1000"])
def test_every_block_is_the_graph_s(label):
    parameters = random_parameters(label, width=WIDTH)
    network = twin(label, parameters, width=WIDTH)
    found = {}
    for name, module in network.named_children():
        module.register_forward_hook(
            # A copy: the ReLU that follows writes over what it gets.
            lambda _module, _input, output, name=name: found.update({name: output.clone()})
        )
    images = image_batch((1, 3, *SIZE))
    with torch.inference_mode():
        network(torch.from_numpy(images))
    # An `rn` block ends in a ReLU, which is a layer of its own in the graph.
    block_end = "{}_relu" if "rn-" in label.split("_")[1] else "{}"
    names = {n: block_end.format(n) if n.startswith("res") else n for n in found}
    expected = mxnet_outputs(label, parameters, images, list(names.values()), width=WIDTH)
    assert sum(name.startswith("res") for name in found) >= 16
    for name, output in found.items():
        assert_close(output.numpy(), expected[names[name]])


def test_dilations_at_stride_8_are_the_spec_s():
    network = build(VOC, width=WIDTH)
    dilations = {
        name: module.dilation[0]
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3)
    }
    first = dilations.pop("res5a.branch2a")
    levels = {
        level: {d for name, d in dilations.items() if name.startswith(f"res{level}")}
        for level in "234567"
    }
    assert first == 1
    assert levels == {"2": {1}, "3": {1}, "4": {1}, "5": {2}, "6": {4}, "7": {4}}
    assert dilations["conv6a"] == dilations["linear21"] == 12


def test_full_pooling_halves_224_to_7():
    network = build("ilsvrc-cls_rna-a_cls1000", width=1 / 64, pool="full").eval()
    sizes = []
    for module in network:
        if isinstance(module, torch.nn.MaxPool2d):
            module.register_forward_hook(lambda _m, _i, output: sizes.append(output.shape[-1]))
    with torch.inference_mode():
        network(torch.zeros(1, 3, 224, 224))
    assert sizes == [112, 56, 28, 14, 7]


@pytest.mark.parametrize("label", [A1, VOC])
def test_epsilon_is_the_release_s_everywhere(label):
    norms = [m for m in build(label, width=WIDTH).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 15 * 2 + 2 * 3 + 1  # blocks of two and three convolutions, bn7
    assert {module.eps for module in norms} == {1.001e-5}


def test_training_moves_a_classifier_s_statistics_and_not_a_segmenter_s():
    torch.manual_seed(0)  # of a few channels, none may have died before its first update
    for label, moves in ((A1, True), (VOC, False)):
        network = build(label, width=WIDTH).train()
        norm = network.res2a.bn_branch2a
        before = norm.running_mean.clone()
        network(torch.from_numpy(image_batch((2, 3, 64, 64)))).square().mean().backward()
        assert (not torch.equal(before, norm.running_mean)) is moves
        assert norm.weight.grad.abs().max() > 0
        assert norm.training is moves


def test_only_a_segmenter_in_training_drops_out():
    images = torch.from_numpy(image_batch((2, 3, 64, 64)))
    for label, drops in ((A1, False), (VOC, True)):
        network = build(label, width=WIDTH)
        dropped = {
            name: module.p
            for name, module in network.named_modules()
            if isinstance(module, torch.nn.Dropout) and module.p > 0
        }
        assert dropped == ({"res6a.dropout": 0.3, "res7a.dropout": 0.5} if drops else {})
        with torch.no_grad():
            assert torch.equal(network(images), network(images)) is not drops
            network.eval()
            assert torch.equal(network(images), network(images))


def test_autocast_and_channels_last_give_nearly_the_same_scores():
    network = twin(VOC, random_parameters(VOC, width=WIDTH), width=WIDTH)
    images = torch.from_numpy(image_batch((1, 3, *SIZE)))
    with torch.inference_mode():
        expected = network(images)
        last = network.to(memory_format=torch.channels_last)
        assert_close(
            last(images.contiguous(memory_format=torch.channels_last)).numpy(), expected.numpy()
        )
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images)
    assert half.dtype == torch.bfloat16
    # bfloat16 has 8 bits, so one rounding is 0.4 %; some forty follow each other.
    assert (half.float() - expected).abs().max() <= 0.05 * expected.abs().max()


def test_the_compiler_takes_a_whole_network_as_one_graph():
    label = "voc_rna-224-1-1-1-1-1-1-1_cls21_s8"  # every kind of block and level
    network = twin(label, random_parameters(label, width=1 / 32), width=1 / 32)
    images = torch.from_numpy(image_batch((1, 3, *SIZE)))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert_close(compiled(images).numpy(), network(images).numpy())


def test_a_compiled_block_gives_the_same_features():
    from torch.utils import cpp_extension

    if shutil.which(cpp_extension.get_cxx_compiler()) is None:
        pytest.skip("torch.compile needs a C++ compiler")
    block = twin(VOC, random_parameters(VOC, width=1 / 8), width=1 / 8).res2a
    features = torch.from_numpy(image_batch((1, 8, 33, 37)))
    with torch.inference_mode():
        expected = block(features).numpy()
        # Whatever another kind of CPU has left in a shared cache is not to be taken.
        compiled = torch.compile(block, fullgraph=True, options={"fx_graph_cache": False})
        assert_close(compiled(features).numpy(), expected)


def test_names_and_shapes_are_those_of_the_table():
    for label in (A1, VOC, "ilsvrc-cls_rna-b_cls1000", "ilsvrc-cls_rn-34c_cls1000"):
        network = build(label, width=WIDTH)
        parameters = random_parameters(label, width=WIDTH)
        expected = to_torch(*split(parameters), "native")
        found = {
            key: tuple(value.shape)
            for key, value in network.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
        assert found == {key: tuple(value.shape) for key, value in expected.items()}


def test_an_unknown_choice_is_named():
    with pytest.raises(ValueError, match=r"pool 'same': choose one of pad, caffe, full"):
        build(A1, pool="same")
    with pytest.raises(ValueError, match=r"head '3conv': choose one of 1conv, 2conv"):
        build(VOC, head="3conv")


def test_building_and_converting_load_no_mxnet():
    script = """
import json, sys
sys.modules["mxnet"] = None  # makes `import mxnet` fail
import ademx
from ademx.convert.torch_model import build
network = build("voc_rna-a1_cls21_s8", width=1 / 64)
arg_params, aux_params = ademx.convert.from_torch(network.state_dict(), "native")
print(json.dumps([len(arg_params), len(aux_params)]))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    # 43 convolutions (36 + 6 projections + the stem) and two of the head with biases, 37 norms.
    assert json.loads(result.stdout) == [43 + 2 * 2 + 37 * 2, 37 * 2]

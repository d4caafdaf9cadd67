"""Parameter names of every layout, against small networks that have those names by their build."""

from __future__ import annotations

import logging
from collections import OrderedDict

import numpy as np
import pytest
from fill import fill, image_batch

import ademx
from ademx.convert import layouts, torch_model
from ademx.networks.graph import parameter_shapes

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402, N812  # needs torch
from torch import nn  # noqa: E402  # needs torch

WIDTH = 1 / 32
A1 = "ilsvrc-cls_rna-a1_cls1000"
LABELS = [
    *(f"ilsvrc-cls_rna-{variant}_cls1000" for variant in ("a", "a1", "a2", "b", "c")),
    "voc_rna-a1_cls21_s8",
]


def weights(label):
    values = {n: fill(n, s) for n, s in parameter_shapes(label, width=WIDTH).items()}
    aux = {name: value for name, value in values.items() if "_moving_" in name}
    return {name: value for name, value in values.items() if name not in aux}, aux


def same(found, expected):
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and found[name].tobytes() == value.tobytes()
        for name, value in expected.items()
    )


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
@pytest.mark.parametrize("label", LABELS)
def test_there_and_back_is_bit_identical(label, layout):
    arg_params, aux_params = weights(label)
    state = ademx.convert.to_torch(arg_params, aux_params, layout, with_head=True)
    assert len(state) == len(arg_params) + len(aux_params)
    for given in (layout, None):
        found = ademx.convert.from_torch(state, given)
        assert same(found[0], arg_params)
        assert same(found[1], aux_params)


@pytest.mark.parametrize("label", ["ilsvrc-cls_rn-34a_cls1000", "voc_rn-101_cls21_s8"])
def test_baselines_go_there_and_back_in_our_own_layouts(label):
    params = weights(label)
    for layout in ("release", "native"):
        state = ademx.convert.to_torch(*params, layout)
        assert all(map(same, ademx.convert.from_torch(state), params))
    with pytest.raises(ValueError, match="resnet38d has no name for conv1_weight"):
        ademx.convert.to_torch(*params, "resnet38d")


def test_nan_and_every_dtype_survive():
    arg_params, aux_params = weights(A1)
    arg_params["conv1a_weight"][0] = np.nan
    arg_params["bn7_gamma"] = arg_params["bn7_gamma"].astype(np.float16)
    arg_params["bn7_beta"] = arg_params["bn7_beta"].astype(np.float64)
    state = ademx.convert.to_torch(arg_params, aux_params, "resnet38d", with_head=True)
    assert same(ademx.convert.from_torch(state, "resnet38d")[0], arg_params)


def test_tensors_share_the_arrays_memory():
    arg_params, aux_params = weights(A1)
    state = ademx.convert.to_torch(arg_params, aux_params, "native")
    arg_params["conv1a_weight"][0, 0, 0, 0] = 42
    assert state["conv1a.weight"][0, 0, 0, 0] == 42
    found, _ = ademx.convert.from_torch(state)
    assert np.shares_memory(found["conv1a_weight"], arg_params["conv1a_weight"])


@pytest.mark.parametrize(
    ("layout", "names"),
    {
        "resnet38d": {
            "conv1a_weight": "conv1a.weight",
            "res2a_branch2a_weight": "b2.conv_branch2a.weight",
            "bn2b1_branch2b1_moving_mean": "b2_1.bn_branch2b1.running_mean",
            "res4b5_branch2a_weight": "b4_5.conv_branch2a.weight",
            "res5a_branch1_weight": "b5.conv_branch1.weight",
            "res6a_branch2b2_weight": "b6.conv_branch2b2.weight",
            "bn7_gamma": "bn7.weight",
            "bn7_beta": "bn7.bias",
        },
        "wider_resnet": {
            "conv1a_weight": "mod1.conv1.weight",
            "bn2a_branch2a_gamma": "mod2.block1.bn1.weight",
            "res2b2_branch2a_weight": "mod2.block3.convs.conv1.weight",
            "bn4b1_branch2b1_moving_var": "mod4.block2.convs.bn2.running_var",
            "res6a_branch2b2_weight": "mod6.block1.convs.conv3.weight",
            "bn7a_branch2b2_beta": "mod7.block1.convs.bn3.bias",
            "res3a_branch1_weight": "mod3.block1.proj_conv.weight",
            "bn7_moving_mean": "bn_out.running_mean",
            "linear1000_weight": "classifier.fc.weight",
        },
        "gluoncv": {
            "conv1a_weight": "mod1.0.weight",
            "bn2a_branch2a_gamma": "mod2.0.bn1.0.gamma",
            "res2b2_branch2a_weight": "mod2.2.convs.0.weight",
            "bn4b1_branch2b1_moving_var": "mod4.1.convs.1.0.running_var",
            "res4b1_branch2b1_weight": "mod4.1.convs.2.weight",
            "res6a_branch2b2_weight": "mod6.0.convs.5.weight",
            "bn7a_branch2b2_beta": "mod7.0.convs.3.0.beta",
            "res3a_branch1_weight": "mod3.0.proj_conv.weight",
            "bn7_moving_mean": "bn_out.0.running_mean",
            "linear1000_weight": "classifier.1.weight",
        },
        "native": {
            "res4b1_branch2a_weight": "res4b1.branch2a.weight",
            "bn4b1_branch2b1_moving_var": "res4b1.bn_branch2b1.running_var",
            "linear1000_bias": "linear1000.bias",
        },
        "release": {"bn7_moving_mean": "bn7_moving_mean"},
    }.items(),
)
def test_names_are_those_of_the_projects(layout, names):
    arg_params, aux_params = weights(A1)
    state = ademx.convert.to_torch(arg_params, aux_params, layout)
    values = {**arg_params, **aux_params}
    for name, key in names.items():
        assert np.array_equal(state[key].numpy(), values[name])


# Networks with the foreign projects' names, down-sampling and dilation, written for these tests.


class Psa(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1a = conv(3, width, 3)
        self.blocks = []
        inputs = width
        rows = {2: 3, 3: 3, 4: 6, 5: 3, 6: 1, 7: 1}
        for level, count in rows.items():
            channels = [round(c * width / 64) for c in CHANNELS[level]]
            for number in range(count):
                block = nn.Module()
                stages = ["2a", "2b1", "2b2"][: len(channels)]
                kernels = [3, 3] if len(channels) == 2 else [1, 3, 1]
                sizes = [inputs, *channels]
                for position, stage in enumerate(stages):
                    block.add_module(f"bn_branch{stage}", nn.BatchNorm2d(sizes[position]))
                    block.add_module(
                        f"conv_branch{stage}",
                        conv(sizes[position], sizes[position + 1], kernels[position]),
                    )
                if number == 0:
                    block.conv_branch1 = conv(inputs, channels[-1], 1)
                self.blocks.append((block, stages, level, number == 0))
                self.add_module(f"b{level}_{number}" if number else f"b{level}", block)
                inputs = channels[-1]
        self.bn7 = nn.BatchNorm2d(inputs)

    def forward(self, x):
        x = F.conv2d(x, self.conv1a.weight, padding=1)
        for block, stages, level, first in self.blocks:
            stride = 2 if first and level < 5 else 1
            branch, shortcut = x, x
            for stage in stages:
                branch = F.relu(getattr(block, f"bn_branch{stage}")(branch))
                if first and stage == "2a":
                    shortcut = F.conv2d(branch, block.conv_branch1.weight, stride=stride)
                weight = getattr(block, f"conv_branch{stage}").weight
                dilation = {5: 2, 6: 4, 7: 4}.get(level, 1)
                if weight.shape[-1] == 1 or (first and level == 5 and stage == "2a"):
                    dilation = 1
                padding = dilation * (weight.shape[-1] // 2)
                entry = stride if stage == "2a" else 1
                branch = F.conv2d(branch, weight, None, entry, padding, dilation)
            x = branch + shortcut
        return F.relu(self.bn7(x))


class Wider(nn.Module):
    def __init__(self, width, norm, classes=0, pooled=(2, 3, 4, 5, 6)):
        super().__init__()
        self.pooled = pooled
        self.mod1 = nn.Sequential(OrderedDict(conv1=conv(3, width, 3)))
        inputs = width
        for level, count in zip(range(2, 8), (3, 3, 6, 3, 1, 1)):
            channels = [round(c * width / 64) for c in CHANNELS[level]]
            blocks = OrderedDict()
            for number in range(count):
                blocks[f"block{number + 1}"] = wider_block(inputs, channels, norm, number == 0)
                inputs = channels[-1]
            self.add_module(f"mod{level}", nn.Sequential(blocks))
        self.bn_out = norm(inputs)
        if classes:
            self.classifier = nn.Sequential(OrderedDict(fc=nn.Linear(inputs, classes)))

    def forward(self, x):
        x = F.conv2d(x, self.mod1.conv1.weight, padding=1)
        for level in range(2, 8):
            if level in self.pooled:
                x = F.max_pool2d(x, 3, 2, padding=1)
            for number, block in enumerate(self.get_submodule(f"mod{level}")):
                strides = number == 0 and level < 7 and level not in self.pooled
                branch = F.relu(block.bn1(x))
                shortcut = x
                if number == 0:
                    shortcut = F.conv2d(branch, block.proj_conv.weight, stride=1 + strides)
                for name, layer in block.convs.named_children():
                    if name.startswith("bn"):
                        branch = F.relu(layer(branch))
                    else:
                        stride = 1 + (strides and name == "conv1")
                        padding = layer.weight.shape[-1] // 2
                        branch = F.conv2d(branch, layer.weight, None, stride, padding)
                x = branch + shortcut
        return F.relu(self.bn_out(x))


CHANNELS = {
    2: (128, 128),
    3: (256, 256),
    4: (512, 512),
    5: (512, 1024),
    6: (512, 1024, 2048),
    7: (1024, 2048, 4096),
}


def conv(inputs, outputs, kernel):
    return nn.Conv2d(inputs, outputs, kernel, bias=False)


def wider_block(inputs, channels, norm, projects):
    kernels = [3, 3] if len(channels) == 2 else [1, 3, 1]
    block = nn.Module()
    block.bn1 = norm(inputs)
    sizes = [inputs, *channels]
    layers = OrderedDict()
    for number, kernel in enumerate(kernels, start=1):
        if number > 1:
            layers[f"bn{number}"] = norm(sizes[number - 1])
        layers[f"conv{number}"] = conv(sizes[number - 1], sizes[number], kernel)
    block.convs = nn.Sequential(layers)
    if projects:
        block.proj_conv = conv(inputs, channels[-1], 1)
    return block


def norm_and_relu(channels):
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


FOREIGN = {
    "resnet38d": (lambda: Psa(2), {}),
    "wider_resnet": (lambda: Wider(2, nn.BatchNorm2d, classes=1000), {}),
    "wider_resnet_a2": (
        lambda: Wider(2, norm_and_relu),
        {"norm_suffix": ".0", "with_head": False},
    ),
}


@pytest.mark.parametrize("layout", FOREIGN)
def test_a_network_with_those_names_loads_strictly_and_reads_back(layout):
    make, options = FOREIGN[layout]
    params = weights(A1)
    network = make()
    network.load_state_dict(ademx.convert.to_torch(*params, layout, **options), strict=True)

    state = network.state_dict()  # with the counters of batches
    assert any(key.endswith("num_batches_tracked") for key in state)
    found = ademx.convert.from_torch(state, layout)
    kept = {n: v for n, v in params[0].items() if layout == "wider_resnet" or "linear" not in n}
    assert same(found[0], kept)
    assert same(found[1], params[1])


@pytest.mark.parametrize(
    ("layout", "label", "make"),
    [
        ("resnet38d", "voc_rna-a1_cls21_s8", lambda: Psa(2)),
        ("wider_resnet", "voc_rna-a_cls21", lambda: Wider(2, nn.BatchNorm2d)),
        (
            "wider_resnet_a2",
            "voc_rna-a2_cls21",
            lambda: Wider(2, nn.BatchNorm2d, pooled=(2, 3)),
        ),
    ],
)
def test_a_network_with_those_names_computes_the_graph_s_features(layout, label, make):
    mx = pytest.importorskip("mxnet")
    arg_params, aux_params = weights(label)
    images = image_batch((1, 3, 97, 129))
    graph = ademx.build_symbol(label, width=WIDTH).get_internals()["relu7_output"]
    values = {**arg_params, **aux_params, "data": images}
    executor = graph.bind(
        mx.cpu(),
        {name: mx.nd.array(values[name]) for name in graph.list_arguments()},
        aux_states={name: mx.nd.array(values[name]) for name in graph.list_auxiliary_states()},
        grad_req="null",
    )
    expected = executor.forward(is_train=False)[0].asnumpy()

    network = make().eval()
    state = ademx.convert.to_torch(arg_params, aux_params, layout, with_head=False)
    network.load_state_dict(state, strict=True)
    with torch.inference_mode():
        found = network(torch.from_numpy(images)).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * expected.max()


def test_the_head_stays_where_the_layout_has_one():
    heads = {}
    for label in (A1, "voc_rna-a1_cls21_s8"):
        for layout in layouts.LAYOUTS:
            for kept in (None, True, False):
                state = ademx.convert.to_torch(*weights(label), layout, with_head=kept)
                head = {key.rsplit(".", 1)[0] for key in state if "fc" in key or "linear" in key}
                heads[label, layout, kept] = head
    assert heads[A1, "resnet38d", None] == set()
    assert heads[A1, "resnet38d", True] == {"linear1000"}
    assert heads[A1, "wider_resnet", None] == {"classifier.fc"}
    assert heads[A1, "native", None] == {"linear1000"}
    assert heads["voc_rna-a1_cls21_s8", "wider_resnet_a2", None] == set()
    assert heads["voc_rna-a1_cls21_s8", "wider_resnet_a2", True] == {"linear21"}
    assert not any(head for (_, _, kept), head in heads.items() if kept is False)


@pytest.mark.parametrize("suffix", ["", ".0", ".bn"])
def test_the_name_of_a_normalisation_is_found(suffix):
    params = weights(A1)
    state = ademx.convert.to_torch(*params, "wider_resnet", norm_suffix=suffix)
    assert f"mod2.block1.bn1{suffix}.running_var" in state
    assert f"bn_out{suffix}.weight" in state
    assert all(map(same, ademx.convert.from_torch(state), params))


def test_wrappings_come_off():
    params = weights(A1)
    state = ademx.convert.to_torch(*params, "wider_resnet")
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
    assert all(map(same, ademx.convert.from_torch(wrapped), params))


def test_bfloat16_is_widened_exactly():
    params = weights(A1)
    state = ademx.convert.to_torch(*params, "native")
    state["bn7.weight"] = state["bn7.weight"].bfloat16()
    found, _ = ademx.convert.from_torch(state)
    assert found["bn7_gamma"].dtype == np.float32
    assert np.array_equal(found["bn7_gamma"], state["bn7.weight"].float().numpy())


def refused(state, layout=None):
    with pytest.raises(ValueError, match=r"the keys are not") as error:
        ademx.convert.from_torch(state, layout)
    return str(error.value)


def test_an_unknown_layout_is_refused_with_its_first_keys():
    state = {"layer1.0.conv1.weight": torch.zeros(1), "layer1.0.bn1.weight": torch.zeros(1)}
    message = refused(state)
    assert "layer1.0.conv1.weight, layer1.0.bn1.weight" in message
    assert "resnet38d" in message


def test_mixed_and_extended_layouts_are_refused_with_the_keys_that_do_not_fit():
    params = weights(A1)
    psa = ademx.convert.to_torch(*params, "resnet38d")
    wider = ademx.convert.to_torch(*params, "wider_resnet")
    mixed = {**psa, "mod7.block1.bn1.weight": wider["mod7.block1.bn1.weight"]}
    assert "1 do not fit: mod7.block1.bn1.weight" in refused(mixed)
    message = refused({**psa, "fc8.weight": torch.zeros(20, 4096, 1, 1)})
    assert "closest layout, resnet38d: 1 do not fit: fc8.weight" in message
    del psa["b4_3.bn_branch2a.running_var"]
    assert "1 are missing: b4_3.bn_branch2a.running_var" in refused(psa)
    assert "not of layout native" in refused(wider, "native")


def test_what_is_no_tensor_or_no_layout_is_named():
    with pytest.raises(ValueError, match=r"'epoch' is int, expected a tensor"):
        ademx.convert.from_torch({"epoch": 3})
    with pytest.raises(ValueError, match=r"layout 'caffe': choose one of release, native"):
        ademx.convert.to_torch({}, {}, "caffe")
    with pytest.raises(ValueError, match=r"norm_suffix '.0': layout native has none"):
        ademx.convert.to_torch({}, {}, "native", norm_suffix=".0")
    with pytest.raises(ValueError, match=r"has no name for resnet_weight"):
        ademx.convert.to_torch({"resnet_weight": np.zeros(1)}, {}, "native")


# Other projects' files, in their form: trunks with heads, wrappers and prefixes.

PSA_HEADS = {
    "psa classification": ["fc8.weight"],
    "AffinityNet": ["f8_3.weight", "f8_4.weight", "f8_5.weight", "f9.weight"],
    "SEAM": ["fc8.weight", "f8_3.weight", "f8_4.weight", "f9.weight"],
    "EPS": ["fc8.weight", "fc8.bias"],
    "SC-CAM": ["fc8.weight", "fc8_20.weight", "fc8_200.weight"],
    "MCTformer": ["fc8_seg_conv1.weight", "fc8_seg_conv1.bias", "fc8_seg_conv2.weight"],
}


@pytest.mark.parametrize("project", PSA_HEADS)
def test_heads_of_other_projects_are_named_and_left_out_when_told(project, caplog):
    arg_params, aux_params = weights(A1)
    state = ademx.convert.to_torch(arg_params, aux_params, "resnet38d")
    heads = PSA_HEADS[project]
    state |= {key: torch.zeros(20, 128, 1, 1) for key in heads}
    message = refused(state)
    if project == "MCTformer":  # the release's top, of which the last bias is lost
        assert "1 are missing: fc8_seg_conv2.bias" in message
        return
    assert f"{len(heads)} do not fit: {', '.join(heads)}" in message
    assert "--drop-extra leaves these out" in message
    with caplog.at_level(logging.WARNING):
        found = ademx.convert.from_torch(state, drop_extra=True)
    assert f"left out: {', '.join(heads)}" in caplog.text
    assert same(found[0], {n: v for n, v in arg_params.items() if not n.startswith("linear")})
    assert same(found[1], aux_params)


class PsaSegmentation(Psa):
    """The trunk with the release's top under the names of RRM and MCTformer."""

    def __init__(self, width):
        super().__init__(width)
        atrous = {"padding": 12, "dilation": 12}
        self.fc8_seg_conv1 = nn.Conv2d(64 * width, 8 * width, 3, **atrous)
        self.fc8_seg_conv2 = nn.Conv2d(8 * width, 21, 3, **atrous)

    def forward(self, x):
        return self.fc8_seg_conv2(F.relu(self.fc8_seg_conv1(super().forward(x))))


def test_a_top_of_two_convolutions_is_the_release_s():
    label = "voc_rna-a1_cls21_s8"
    params = weights(label)
    network = PsaSegmentation(2).eval()
    state = ademx.convert.to_torch(*params, "resnet38d", with_head=True)
    network.load_state_dict(state, strict=True)
    for wrapped in (state, {"fc8.weight": torch.zeros(20, 128, 1, 1), **network.state_dict()}):
        assert all(map(same, ademx.convert.from_torch(wrapped, drop_extra=True), params))
    trunk_apart = {k if "fc8" in k else f"backbone.{k}": v for k, v in state.items()}
    assert all(map(same, ademx.convert.from_torch(trunk_apart), params))

    twin = torch_model.build(label, width=WIDTH).eval()
    twin.load_state_dict(ademx.convert.to_torch(*params, "native"))
    images = torch.from_numpy(image_batch((1, 3, 97, 129)))
    with torch.inference_mode():
        expected, found = twin(images), network(images)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_what_was_written_under_our_own_names_is_read():
    params = weights("voc_rna-a1_cls21_s8")
    state = ademx.convert.to_torch(*params, "resnet38d", with_head=True)
    ours = {"fc8_seg_conv1": "conv6a", "fc8_seg_conv2": "linear21"}
    renamed = {}
    for key, value in state.items():
        module, _, parameter = key.rpartition(".")
        renamed[f"{ours.get(module, module)}.{parameter}"] = value
    assert all(map(same, ademx.convert.from_torch(renamed), params))


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize("layout", ["native", "resnet38d", "wider_resnet_a2", "gluoncv"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": prefixed("module.", state), "epoch": 3},
        lambda state: {"model": state, "optimizer": {"param_groups": [], "state": {"x": BIG}}},
        lambda state: {"net": prefixed("module.module.", state), "rng": BIG},
        lambda state: {"model_state_dict": prefixed("backbone.", state)},
        lambda state: {"ema": prefixed("_orig_mod.", state), "best": {"mean_iu": 3.0}},
        lambda state: {"model": {"state_dict": prefixed("encoder.model.", state)}},
        lambda state: prefixed("module.backbone._orig_mod.", state),
    ],
)
def test_wrappers_and_prefixes_come_off(wrap, layout):
    arg_params, aux_params = weights(A1)
    state = ademx.convert.to_torch(arg_params, aux_params, layout, with_head=True)
    found = ademx.convert.from_torch(wrap(state))
    assert same(found[0], arg_params)
    assert same(found[1], aux_params)


BIG = torch.zeros(3)


def test_mapillary_s_vistas_file_is_body_head_and_classes():
    params = weights("voc_rna-a2_cls21_s8")
    body = ademx.convert.to_torch(*params, "wider_resnet_a2")
    head = {"map_convs.0.weight": torch.zeros(1), "red_conv.weight": torch.zeros(1)}
    wrapped = {"state_dict": {"body": body, "head": head, "cls": {"weight": torch.zeros(1)}}}
    message = refused(wrapped)
    assert "3 do not fit: state_dict.head.map_convs.0.weight, state_dict.head.red_conv" in message
    found, _ = ademx.convert.from_torch(wrapped, drop_extra=True)
    assert same(found, {n: v for n, v in params[0].items() if not layouts.is_head(n)})


def test_two_networks_in_a_file_are_said():
    state = ademx.convert.to_torch(*weights(A1), "resnet38d")
    message = refused_as({"model": state, "ema": dict(prefixed("module.", state))})
    assert "2 networks, whose keys start with 'ema.module.', 'model.'" in message
    # The same dict twice is one network.
    assert ademx.convert.from_torch({"model": state, "net": state})


def refused_as(state):
    with pytest.raises(ValueError, match=r"save the one that you want") as error:
        ademx.convert.from_torch(state)
    return str(error.value)


def test_a_head_under_two_names_is_said():
    params = weights("voc_rna-a1_cls21_s8")
    state = ademx.convert.to_torch(*params, "resnet38d", with_head=True)
    state["linear21.weight"], state["linear21.bias"] = torch.zeros(21, 3), torch.zeros(21)
    with pytest.raises(ValueError, match=r"are both linear21_weight: keep one"):
        ademx.convert.from_torch(state)


def test_very_many_networks_take_no_time():
    state = {f"{number}.conv1a.weight": torch.zeros(1) for number in range(3000)}
    with pytest.raises(ValueError, match="3000 keys are of a network's first layer"):
        ademx.convert.from_torch(state)


def test_dicts_that_hold_themselves_come_to_an_end():
    state = dict(ademx.convert.to_torch(*weights(A1), "native"))
    state["self"] = state
    doubled = {"x": state}
    for _ in range(60):  # 2**60 paths
        doubled = {"a": doubled, "b": doubled}
    assert ademx.convert.from_torch(state)
    with pytest.raises(ValueError, match="expected a tensor"):
        ademx.convert.from_torch(doubled)


def test_a_trunk_without_its_last_normalisation_is_a_trunk():
    params = weights("cityscapes_rna-a2_cls19_s8")
    for layout in ("wider_resnet_a2", "gluoncv"):
        state = ademx.convert.to_torch(*params, layout)
        state = {key: value for key, value in state.items() if not key.startswith("bn_out")}
        state["aspp.features.0.0.weight"] = torch.zeros(1)
        found = ademx.convert.from_torch(prefixed("module.", state), drop_extra=True)
        for values, all_values in zip(found, params):
            assert same(values, {n: v for n, v in all_values.items() if is_trunk(n)})
    del state["mod4.2.convs.0.weight"]
    assert "are missing: mod4.2.convs.0.weight" in refused(state)


def is_trunk(name):
    return not layouts.is_head(name) and not name.startswith("bn7_")


@pytest.mark.parametrize("variant", ["a", "a2"])
def test_the_label_chooses_between_layouts_with_the_same_keys(caplog, variant):
    """What comes back to the bit is not warned of; what does hold is said."""
    layout = "wider_resnet" if variant == "a" else "wider_resnet_a2"
    label = f"ilsvrc-cls_rna-{variant}_cls1000"
    found = caveats(caplog, layout, label, reading=True, told=False)
    assert found.startswith(layout + ":")
    for text in ("scores will be wrong", "same keys", "dilation=True"):
        assert text not in found
    other = "wider_resnet_a2" if variant == "a" else "wider_resnet"
    assert "scores will be wrong" in caveats(caplog, other, label, reading=True)


def test_the_caveat_of_a2_at_stride_8_is_said_in_reading(caplog):
    label = "cityscapes_rna-a2_cls19_s8"
    found = caveats(caplog, "wider_resnet_a2", label, reading=True, told=False)
    assert "mod5.block1.convs.conv1 has dilation 2 in WiderResNetA2 and 1 here" in found
    assert "scores will be wrong" not in found


def test_negative_weights_of_a_normalisation_are_warned_of_in_reading(caplog):
    params = weights(A1)
    params[0]["bn7_gamma"][0] = -1
    state = ademx.convert.to_torch(*params, "wider_resnet")
    caplog.clear()
    ademx.convert.from_torch(state)
    assert "1 BatchNorm weights are negative" in caplog.text
    assert "only with --abn" in caplog.text


def caveats(caplog, layout, label, *, reading=False, told=True):
    params = weights(label or A1)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        state = ademx.convert.to_torch(*params, layout, label=label)
        if reading:
            caplog.clear()
            ademx.convert.from_torch(state, layout if told else None, label=label)
    return " | ".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("layout", "variant", "wrong"),
    [
        ("resnet38d", "a1", ""),
        ("resnet38d", "a", "2 (pooling in rna-a, stride in resnet38d.Net), 3 "),
        ("resnet38d", "b", "2 (none in rna-b, stride in resnet38d.Net);"),
        ("wider_resnet", "a", ""),
        ("wider_resnet", "a1", "6 (stride in rna-a1, pooling in WiderResNet)"),
        ("wider_resnet_a2", "a2", ""),
        ("wider_resnet_a2", "a1", "3 (stride in rna-a1, pooling in WiderResNetA2);"),
        ("wider_resnet_a2", "a", "4 (pooling in rna-a, stride in WiderResNetA2), 5 "),
    ],
)
def test_a_network_that_down_samples_otherwise_is_warned_of(caplog, layout, variant, wrong):
    label = f"ilsvrc-cls_rna-{variant}_cls1000"
    for reading in (False, True):
        found = caveats(caplog, layout, label, reading=reading)
        assert ("scores will be wrong" in found) is bool(wrong)
        assert wrong in found


def test_what_names_do_not_show_is_warned_of(caplog):
    found = caveats(caplog, "wider_resnet_a2", "voc_rna-a2_cls21_s8")
    for text in ("leaky ReLU", "dilation=True", "mod5.block1.convs.conv1", "epsilon 1e-5"):
        assert text in found
    found = caveats(caplog, "wider_resnet", A1, reading=True, told=False)
    for text in ("same keys", "leaky ReLU", "epsilon 1e-3"):
        assert text in found
    assert "output stride 8 and ilsvrc-cls_rna-a1_cls1000 at 32" in caveats(caplog, "resnet38d", A1)
    assert "--label tells" in caveats(caplog, "resnet38d", None)
    assert "cannot have 0-1-1-1-3-1-1 blocks" in caveats(
        caplog, "resnet38d", "ilsvrc-cls_rna-c_cls1000"
    )
    assert "structure=[1, 1, 1, 3, 1, 1]" in caveats(
        caplog, "wider_resnet", "ilsvrc-cls_rna-c_cls1000"
    )
    for layout in ("release", "native"):
        assert caveats(caplog, layout, A1, reading=True) == ""


def test_negative_batch_norm_weights_are_counted(caplog):
    arg_params, aux_params = weights(A1)
    arg_params["bn7_gamma"][:3] = -1
    with caplog.at_level(logging.WARNING):
        ademx.convert.to_torch(arg_params, aux_params, "wider_resnet")
    assert "3 BatchNorm weights are negative" in caplog.text


def test_the_bound_on_the_other_epsilon_holds():
    variances = np.logspace(-12, 3, 1000)
    change = np.sqrt((variances + 1.001e-5) / (variances + 1e-5)) - 1
    assert 0.0004 < change.max() < 0.0005

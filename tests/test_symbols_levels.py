"""The tables of the family against the paper, by hand, and the graphs that they make."""

from __future__ import annotations

import math

import pytest

import ademx
from ademx.networks.graph import list_layers
from symbols import levels
from symbols.levels import get_network, parse_block_spec, with_output_stride, with_width

mx = pytest.importorskip("mxnet")


# Block spec of each named network: blocks on levels 1 to 7.
RNA_BLOCKS = {
    "a": (0, 3, 3, 6, 3, 1, 1),
    "a1": (0, 3, 3, 6, 3, 1, 1),
    "a2": (0, 3, 3, 6, 3, 1, 1),
    "b": (1, 1, 1, 1, 9, 1, 1),
    "c": (0, 1, 1, 1, 3, 1, 1),
}
# Channels and kernel sides of a block's convolutions on each level.
RNA_CONVOLUTIONS = {
    1: ((64, 3), (64, 3)),
    2: ((128, 3), (128, 3)),
    3: ((256, 3), (256, 3)),
    4: ((512, 3), (512, 3)),
    5: ((512, 3), (1024, 3)),
    6: ((512, 1), (1024, 3), (2048, 1)),
    7: ((1024, 1), (2048, 3), (4096, 1)),
}


def count_rna_parameters(blocks, num_classes):
    """Sum over a pre-activation network: BatchNorm before each convolution, then the rest."""
    total, channels = 3 * 3 * 3 * 64, 64
    for level, count in enumerate(blocks, start=1):
        for number in range(count):
            if number == 0 and level > 1:
                total += channels * RNA_CONVOLUTIONS[level][-1][0]  # the projection
            for width, side in RNA_CONVOLUTIONS[level]:
                total += 2 * channels + channels * side * side * width
                channels = width
    return total + 2 * channels + channels * num_classes + num_classes


def sum_projections(*widths):
    """1×1 convolutions (in, out) without bias, each with a BatchNorm."""
    return sum(before * after + 2 * after for before, after in widths)


# torchvision's count of its resnet34, whose shortcuts are option B.
RN_34B = 21_797_672
GROWING = [(64, 128), (128, 256), (256, 512)]
STAYING = 3 * [(64, 64)] + 3 * [(128, 128)] + 5 * [(256, 256)] + 2 * [(512, 512)]

# Network: (parameters with 1000 classes, depth).
SIZES = {
    **{
        f"rna-{name}": (
            count_rna_parameters(blocks, 1000),
            1 + 2 * sum(blocks[:5]) + 3 * sum(blocks[5:]) + 1,
        )
        for name, blocks in RNA_BLOCKS.items()
    },
    "rna-224-0-1-1-1-1-1-1": (count_rna_parameters((0, 1, 1, 1, 1, 1, 1), 1000), 16),
    "rna-56-2-1-1-1-1-1-2": (count_rna_parameters((2, 1, 1, 1, 1, 1, 2), 1000), 23),
    "rn-plain34": (RN_34B - sum_projections(*GROWING), 34),
    "rn-34a": (RN_34B - sum_projections(*GROWING), 34),
    "rn-34b": (RN_34B, 34),
    "rn-34c": (RN_34B + sum_projections(*STAYING), 34),
    # As torchvision counts its resnet50, 101 and 152, which are those with a "b".
    "rn-50": (25_557_032, 50),
    "rn-101": (44_549_160, 101),
    "rn-152": (60_192_808, 152),
    "rn-50b": (25_557_032, 50),
    "rn-101b": (44_549_160, 101),
    "rn-152b": (60_192_808, 152),
}


def shapes(symbol, *, size, batch=1):
    """Shape of each parameter, and of each layer's output."""
    arguments, _, _ = symbol.infer_shape(data=(batch, 3, size, size))
    internals = symbol.get_internals()
    _, outputs, _ = internals.infer_shape(data=(batch, 3, size, size))
    parameters = dict(zip(symbol.list_arguments(), arguments))
    del parameters["data"], parameters["softmax_label"]
    return parameters, dict(zip(internals.list_outputs(), outputs))


def layer_attribute(symbol, name, attribute):
    return symbol.get_internals()[f"{name}_output"].list_attr().get(attribute)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_depth(name):
    symbol = ademx.build_symbol(f"ilsvrc-cls_{name}_cls1000")
    network = get_network(*name.split("-", 1))
    parameters, _ = shapes(symbol, size=network.crop)
    # The stem, the blocks without projections, the classifier.
    depth = 1 + sum(level.blocks * len(level.kernels) for level in network.levels) + 1
    assert (sum(map(math.prod, parameters.values())), depth) == SIZES[name]


def test_the_published_size_of_model_a():
    assert SIZES["rna-a"] == (109_167_912, 38)


def test_every_named_network_has_its_size_tested():
    named = [
        f"{n.family}-{n.variant}"
        for n in (*levels.RNA_NETWORKS.values(), *levels.RN_NETWORKS.values())
    ]
    assert set(named) <= set(SIZES)


# How each level is entered: "-" at full size, "s" by a stride, "p" through a pooling.
@pytest.mark.parametrize(
    ("name", "first", "entries"),
    [
        ("rna-a", 1, "-ppppp-"),
        ("rna-a1", 1, "-sssss-"),
        ("rna-a2", 1, "-ppsss-"),
        ("rna-b", 1, "--ssss-"),
        ("rna-c", 1, "-sssss-"),
        ("rna-56-0-1-1-1-1-1-1", 1, "---sss-"),
        ("rna-7-0-1-1-1-1-1-1", 1, "-------"),
        ("rn-50", 2, "-sss"),
    ],
)
def test_how_levels_are_entered(name, first, entries):
    network = get_network(*name.split("-", 1))
    found = {
        level.index: "p" if level.pooled else "s" if level.stride == 2 else "-"
        for level in network.levels
    }
    assert found == dict(enumerate(entries, start=first))


@pytest.mark.parametrize("variant", ["a", "a1", "a2", "b", "c", "56-0-1-1-1-1-1-1"])
def test_each_network_ends_at_7_pixels(variant):
    symbol = ademx.build_symbol(f"ilsvrc-cls_rna-{variant}_cls10")
    _, outputs = shapes(symbol, size=get_network("rna", variant).crop)
    assert outputs["relu7_output"] == (1, 4096, 7, 7)


# Sizes after the poolings 1 to 5 of Model A, by MXNet's formulas, of side n: pad gives
# ⌊(n − 1) / 2⌋ + 1, caffe ⌊(n − 3) / 2⌋ + 1 and full ⌈(n − 3) / 2⌉ + 1.
@pytest.mark.parametrize(
    ("pool", "sides"),
    [
        ("pad", [112, 56, 28, 14, 7]),
        ("caffe", [111, 55, 27, 13, 6]),
        ("full", [112, 56, 28, 14, 7]),
    ],
)
def test_pooling_geometries(pool, sides):
    _, outputs = shapes(ademx.build_symbol("ilsvrc-cls_rna-a_cls10", pool=pool), size=224)
    found = [outputs[f"pool{level}_output"][2:] for level in range(1, 6)]
    assert found == [(side, side) for side in sides]


def test_the_geometries_differ_where_the_side_is_odd():
    sides = {}
    for pool in ("pad", "caffe", "full"):
        symbol = ademx.build_symbol("ilsvrc-cls_rna-a_cls10", pool=pool).get_internals()
        sides[pool] = symbol["pool1_output"].infer_shape(data=(1, 3, 15, 15))[1][0][-1]
    assert sides == {"pad": 8, "caffe": 7, "full": 7}


# (dilation of the first block's first convolution, of the rest) by level.
@pytest.mark.parametrize(
    ("name", "stride", "dilations"),
    [
        ("rna-a1", 32, {4: (1, 1), 5: (1, 1), 6: (1, 1), 7: (1, 1)}),
        ("rna-a1", 16, {4: (1, 1), 5: (1, 1), 6: (1, 2), 7: (2, 2)}),
        ("rna-a1", 8, {4: (1, 1), 5: (1, 2), 6: (2, 4), 7: (4, 4)}),
        # B down-samples four times: what is at stride 8 has lost one of them.
        ("rna-b", 16, {4: (1, 1), 5: (1, 1), 6: (1, 1), 7: (1, 1)}),
        ("rna-b", 8, {4: (1, 1), 5: (1, 1), 6: (1, 2), 7: (2, 2)}),
        ("rn-50", 8, {3: (1, 1), 4: (1, 2), 5: (2, 4)}),
        ("rn-50", 16, {3: (1, 1), 4: (1, 1), 5: (1, 2)}),
    ],
)
def test_a_smaller_output_stride_dilates(name, stride, dilations):
    network = with_output_stride(get_network(*name.split("-", 1)), stride)
    found = {level.index: (level.entry_dilation, level.dilation) for level in network.levels}
    assert {index: found[index] for index in dilations} == dilations
    assert levels.native_stride(network) == min(
        stride, levels.native_stride(get_network(*name.split("-", 1)))
    )


def test_dilations_reach_the_graph():
    symbol = ademx.build_symbol("voc_rna-a1_cls21_s8")
    expected = {
        "res4a_branch2a": "(1, 1)",
        "res5a_branch2a": "(1, 1)",
        "res5a_branch2b1": "(2, 2)",
        "res5b1_branch2a": "(2, 2)",
        "res5a_branch1": "(1, 1)",
        "res6a_branch2a": "(1, 1)",
        "res6a_branch2b1": "(4, 4)",
        "res7a_branch2b1": "(4, 4)",
        "res7a_branch2b2": "(1, 1)",
    }
    assert {name: layer_attribute(symbol, name, "dilate") for name in expected} == expected
    assert layer_attribute(symbol, "res7a_branch2b1", "pad") == "(4, 4)"


@pytest.mark.parametrize("pool", ["pad", "full"])
def test_model_a_at_stride_16_keeps_the_size_where_it_lost_its_last_stride(pool):
    _, outputs = shapes(ademx.build_symbol("voc_rna-a_cls21_s16", pool=pool), size=224)
    assert outputs["pool4_output"][2:] == (14, 14)
    assert outputs["pool5_output"][2:] == (14, 14)
    assert outputs["softmax_output"] == (1, 21, 14, 14)


def test_a_pooling_that_lost_its_stride_dilates_all_that_follows_it():
    """Also its level's first convolution, which keeps its dilation where it lost the stride."""
    layers = {layer.name: layer for layer in list_layers("voc_rna-a_cls21_s8")}
    expected = {"pool3": 1, "pool4": 1, "res5a_branch2a": 2, "res5b2_branch2b1": 2, "pool5": 2}
    expected |= {"res6a_branch2a": 1, "res6a_branch2b1": 4, "res7a_branch2b1": 4}
    assert {name: layers[name].dilation for name in expected} == expected
    assert (layers["pool3"].stride, layers["pool5"].stride, layers["pool5"].padding) == (2, 1, 2)


@pytest.mark.parametrize("stride", [0, 4, 12, 64])
def test_other_output_strides_are_refused(stride):
    with pytest.raises(ValueError, match=f"output stride {stride}: choose 8, 16 or 32"):
        ademx.build_symbol(f"voc_rna-a1_cls21_s{stride}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("224-0-3-3-6-3-1", "block spec '224-0-3-3-6-3-1': expected eight numbers"),
        ("224-0-3-3-6-3-1-1-1", "expected eight numbers, the training crop and the blocks"),
        ("224-0-3-x-6-3-1-1", "expected eight numbers"),
        ("224-0-3--6-3-1-1", "expected eight numbers"),
        ("100-0-3-3-6-3-1-1", "a training crop of 100 does not halve .* 7, 14, 28, 56, 112, 224"),
        ("448-0-3-3-6-3-1-1", "a training crop of 448 does not halve to 7 × 7"),
        ("224-0-3-3-0-3-1-1", "levels 2 to 7 need at least one block each"),
    ],
)
def test_malformed_block_specs_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        parse_block_spec(spec, spec, origin="spec")


@pytest.mark.parametrize(
    ("family", "variant", "choices"),
    [
        ("rna", "d", "unknown network rna-d: choose one of rna-a, rna-a1, .* rna-<block spec>"),
        ("rn", "18", "unknown network rn-18: choose one of rn-plain34, .* rn-152"),
        ("vgg", "16", "unknown network vgg-16: choose one of rna-<variant>, rn-<variant>"),
    ],
)
def test_unknown_networks_list_the_choices(family, variant, choices):
    with pytest.raises(ValueError, match=choices):
        get_network(family, variant)


def test_only_b_and_c_are_reconstructed():
    origins = {name: network.origin for name, network in levels.RNA_NETWORKS.items()}
    assert origins == {
        "a": "released",
        "a1": "released",
        "a2": "drawn",
        "b": "reconstructed",
        "c": "reconstructed",
    }


def test_the_block_spec_of_model_a1_builds_its_graph():
    by_name = ademx.build_symbol("ilsvrc-cls_rna-a1_cls10")
    by_spec = ademx.build_symbol("ilsvrc-cls_rna-224-0-3-3-6-3-1-1_cls10")
    assert by_spec.tojson() == by_name.tojson()


def test_width_multiplies_every_layer_but_the_classifier():
    full, _ = shapes(ademx.build_symbol("voc_rna-a1_cls21_s8"), size=64)
    thin, _ = shapes(ademx.build_symbol("voc_rna-a1_cls21_s8", width=0.25), size=64)
    assert thin["conv1a_weight"] == (16, 3, 3, 3)
    assert thin["conv6a_weight"] == (128, 1024, 3, 3)
    assert thin["linear21_weight"] == (21, 128, 3, 3)
    assert {name: shape[0] for name, shape in thin.items() if "linear" not in name} == {
        name: shape[0] // 4 for name, shape in full.items() if "linear" not in name
    }


def test_a_tiny_width_leaves_one_channel():
    network = with_width(get_network("rna", "a1"), 1e-6)
    assert {width for level in network.levels for width in level.channels} == {1}


@pytest.mark.parametrize("width", [0, -1, float("nan")])
def test_a_width_that_is_not_positive_is_refused(width):
    with pytest.raises(ValueError, match=r"width multiplier .*: expected a positive number"):
        ademx.build_symbol("ilsvrc-cls_rna-a1_cls10", width=width)


def test_heads():
    one, _ = shapes(ademx.build_symbol("voc_rna-a1_cls21_s8", head="1conv"), size=64)
    two, _ = shapes(ademx.build_symbol("voc_rna-a1_cls21_s8", head="2conv"), size=64)
    assert one["linear21_weight"] == (21, 4096, 3, 3)
    assert two["linear21_weight"] == (21, 512, 3, 3)
    assert set(two) - set(one) == {"conv6a_weight", "conv6a_bias"}
    symbol = ademx.build_symbol("voc_rna-a1_cls21_s8", head="1conv")
    assert layer_attribute(symbol, "linear21", "dilate") == "(12, 12)"
    assert layer_attribute(symbol, "linear21", "pad") == "(12, 12)"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"pool": "same"}, "pool 'same': choose one of pad, caffe, full"),
        ({"head": "3conv"}, "head '3conv': choose one of 1conv, 2conv"),
        ({"loss": "dice"}, "loss 'dice': choose one of softmax, ohem"),
        ({"multipliers": "alex100"}, "multipliers 'alex100': choose one of none, alex, alex10"),
    ],
)
def test_unknown_choices_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        ademx.build_symbol("voc_rna-a1_cls21_s8", **choice)


def test_ohem_is_for_segmentation_only():
    with pytest.raises(ValueError, match="loss of classification 'ohem': choose one of softmax"):
        ademx.build_symbol("ilsvrc-cls_rna-a1_cls1000", loss="ohem")


# (learning rate, weight decay) of weights and gammas, of biases and betas.
@pytest.mark.parametrize(
    ("label", "multipliers", "weights", "biases"),
    [
        ("voc_rna-a1_cls21_s8", None, None, (2, 0)),
        ("voc_rna-a1_cls21_s8", "alex10", (10, 1), (20, 0)),
        ("voc_rna-a1_cls21_s8", "none", None, None),
        ("ilsvrc-cls_rna-a1_cls10", None, None, None),
        ("ilsvrc-cls_rna-a1_cls10", "alex", None, (2, 0)),
    ],
)
def test_multipliers(label, multipliers, weights, biases):
    symbol = ademx.build_symbol(label, multipliers=multipliers)
    attributes = symbol.attr_dict()
    for name in set(symbol.list_arguments()) - {"data", "softmax_label"}:
        found = attributes.get(name, {})
        pair = tuple(found.get(key) for key in ("__lr_mult__", "__wd_mult__"))
        expected = biases if name.endswith(("_bias", "_beta")) else weights
        if expected is None:
            assert pair == (None, None), name
        else:
            assert tuple(map(float, pair)) == expected, name


@pytest.mark.parametrize(
    ("label", "frozen_statistics", "expected"),
    [
        ("ilsvrc-cls_rna-a1_cls10", None, "False"),
        ("voc_rna-a1_cls21_s8", None, "True"),
        ("ilsvrc-cls_rn-50_cls10", True, "True"),
        ("voc_rna-a1_cls21_s8", False, "False"),
    ],
)
def test_batch_norm_uses_moving_statistics_by_task(label, frozen_statistics, expected):
    attributes = ademx.build_symbol(label, frozen_statistics=frozen_statistics).attr_dict()
    norms = [found for found in attributes.values() if "use_global_stats" in found]
    assert len(norms) >= 33
    assert {found["use_global_stats"] for found in norms} == {expected}
    assert {found["fix_gamma"] for found in norms} == {"False"}
    assert {float(found["eps"]) for found in norms} == {1.001e-5}


def test_dropout_is_in_segmentation_graphs_only():
    segmentation = ademx.build_symbol("voc_rna-a1_cls21_s8").attr_dict()
    found = {name: float(row["p"]) for name, row in segmentation.items() if name.endswith("_do")}
    assert found == {"res6a_branch2b2_do": 0.3, "res7a_branch2b2_do": 0.5}
    classification = ademx.build_symbol("ilsvrc-cls_rna-a1_cls10").attr_dict()
    assert not [name for name in classification if name.endswith("_do")]

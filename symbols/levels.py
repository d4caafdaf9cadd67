"""The networks as tables: levels, blocks, widths, strides and dilations. Loads no MXNet.

A network is a :class:`Network`: a row of facts and one :class:`LevelSpec` per level. The builders
read every column and add no number of their own.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ademx.compat import InputError

# The network of arXiv:1611.10080 ends at 7 × 7 whatever it is trained at.
FINAL_SIZE = 7

# The smallest epsilon that cuDNN takes is 1e-5; the release stays just above it.
BN_EPSILON = 1.001e-5

POOL_GEOMETRIES = ("pad", "caffe", "full")
HEADS = ("1conv", "2conv")
LOSSES = ("softmax", "ohem")
# The paper's "2 conv" top.
HEAD_CHANNELS = 512
HEAD_DILATION = 12


@dataclass(frozen=True)
class LevelSpec:
    """One level: blocks that work at one resolution.

    Attributes:
        index: 1 to 7 in the `rna` family, 2 to 5 in `rn`; part of every parameter's name.
        blocks: number of residual blocks.
        channels: output channels of each convolution of a block.
        kernels: kernel side of each convolution of a block, pixels.
        stride: factor of down-sampling *on entry* to this level (1 or 2).
        pooled: whether the down-sampling is a max pooling at the end of the level before; else
            the first block's convolutions stride.
        strider: which convolution of the first block then strides, 0 for the first.
        project: whether the first block's shortcut is a projection.
        dropout: fraction dropped before a block's last convolution, in segmentation graphs.
        entry_dilation: dilation of the pooling if there is one, else of the first block's
            convolutions up to the one that strides.
        dilation: dilation of all other 3×3 convolutions.
    """

    index: int
    blocks: int
    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    stride: int = 1
    pooled: bool = False
    strider: int = 0
    project: bool = True
    dropout: float = 0.0
    entry_dilation: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class Network:
    """One member of the family.

    Attributes:
        family: "rna", the paper's own, or "rn", the baselines.
        variant: "a1", "50", …
        crop: side of the training crop, pixels.
        stem_channels: output channels of the first convolution.
        levels: the levels in order of computation.
        shortcut: how `rn` shortcuts change dimensions: "none", "A", "B" or "C".
        origin: "released", "drawn" (a drawing but no code), "reconstructed" (neither: our
            reading of the paper), "baseline" (arXiv:1512.03385) or "spec" (asked for by numbers).
    """

    family: str
    variant: str
    crop: int
    stem_channels: int
    levels: tuple[LevelSpec, ...]
    origin: str
    shortcut: str = ""


# Channels, kernels and dropout of a block on each level (dropout only in segmentation).
_RNA_BLOCKS = {
    1: ((64, 64), (3, 3), 0.0),
    2: ((128, 128), (3, 3), 0.0),
    3: ((256, 256), (3, 3), 0.0),
    4: ((512, 512), (3, 3), 0.0),
    5: ((512, 1024), (3, 3), 0.0),
    6: ((512, 1024, 2048), (1, 3, 1), 0.3),
    7: ((1024, 2048, 4096), (1, 3, 1), 0.5),
}
_RNA_STEM_CHANNELS = 64
# Down-sampling happens on entry to these levels in a network trained at 224.
_RNA_DOWN_LEVELS = (2, 3, 4, 5, 6)


def parse_block_spec(
    variant: str, spec: str, *, pooled: tuple[int, ...] = (), origin: str
) -> Network:
    """Return the network of a block spec `input-B1-B2-B3-B4-B5-B6-B7`.

    A network trained at 112 (56) has one (two) down-samplings fewer, the first ones, so that it
    too ends at 7 × 7.

    Args:
        variant: the name that the network is to carry within the family.
        spec: the training crop in pixels and the number of blocks on levels 1 to 7.
        pooled: levels that are entered through a max pooling rather than a stride.
        origin: see :class:`Network`.

    Raises:
        ValueError: the spec is malformed, or its crop is not 7 times a power of two up to 224.
    """
    fields = spec.split("-")
    if len(fields) != 8 or not all(field.isdecimal() for field in fields):
        raise InputError(
            f"block spec {spec!r}: expected eight numbers, the training crop and the blocks of "
            "levels 1 to 7, such as 224-0-3-3-6-3-1-1"
        )
    crop, *blocks = map(int, fields)
    crops = {FINAL_SIZE * 2**count: count for count in range(len(_RNA_DOWN_LEVELS) + 1)}
    if crop not in crops:
        raise InputError(
            f"block spec {spec!r}: a training crop of {crop} does not halve to 7 × 7; "
            f"choose one of {', '.join(map(str, sorted(crops)))}"
        )
    if 0 in blocks[1:]:
        raise InputError(f"block spec {spec!r}: levels 2 to 7 need at least one block each")
    down_levels = _RNA_DOWN_LEVELS[len(_RNA_DOWN_LEVELS) - crops[crop] :]
    return Network(
        family="rna",
        variant=variant,
        crop=crop,
        stem_channels=_RNA_STEM_CHANNELS,
        levels=tuple(
            _rna_level(index, count, down=index in down_levels, pooled=index in pooled)
            for index, count in enumerate(blocks, start=1)
        ),
        origin=origin,
    )


def _rna_level(index: int, blocks: int, *, down: bool, pooled: bool) -> LevelSpec:
    channels, kernels, dropout = _RNA_BLOCKS[index]
    return LevelSpec(
        index=index,
        blocks=blocks,
        channels=channels,
        kernels=kernels,
        stride=2 if down else 1,
        pooled=down and pooled,
        project=index > 1,
        dropout=dropout,
    )


_SPEC_38 = "224-0-3-3-6-3-1-1"

RNA_NETWORKS = {
    "a": parse_block_spec("a", _SPEC_38, pooled=(2, 3, 4, 5, 6), origin="released"),
    "a1": parse_block_spec("a1", _SPEC_38, origin="released"),
    "a2": parse_block_spec("a2", _SPEC_38, pooled=(2, 3), origin="drawn"),
    "b": parse_block_spec("b", "112-1-1-1-1-9-1-1", origin="reconstructed"),
    "c": parse_block_spec("c", "224-0-1-1-1-3-1-1", origin="reconstructed"),
}

# Blocks of levels 2 to 5, basic or bottleneck block, shortcut option (arXiv:1512.03385, Table 1),
# and which convolution strides: in torchvision's bottlenecks, ours with a "b", the 3×3 one.
_RN_ROWS = {
    "plain34": ((3, 4, 6, 3), "basic", "none", 0),
    "34a": ((3, 4, 6, 3), "basic", "A", 0),
    "34b": ((3, 4, 6, 3), "basic", "B", 0),
    "34c": ((3, 4, 6, 3), "basic", "C", 0),
    "50": ((3, 4, 6, 3), "bottleneck", "B", 0),
    "101": ((3, 4, 23, 3), "bottleneck", "B", 0),
    "152": ((3, 8, 36, 3), "bottleneck", "B", 0),
    "50b": ((3, 4, 6, 3), "bottleneck", "B", 1),
    "101b": ((3, 4, 23, 3), "bottleneck", "B", 1),
    "152b": ((3, 8, 36, 3), "bottleneck", "B", 1),
}


def _rn_network(variant: str) -> Network:
    blocks, kind, shortcut, strider = _RN_ROWS[variant]
    kernels = {"basic": (3, 3), "bottleneck": (1, 3, 1)}[kind]
    levels = []
    for position, count in enumerate(blocks):
        width = 64 * 2**position
        channels = {"basic": (width, width), "bottleneck": (width, width, 4 * width)}[kind]
        grows = position > 0 or kind == "bottleneck"
        levels.append(
            LevelSpec(
                index=position + 2,
                blocks=count,
                channels=channels,
                kernels=kernels,
                stride=2 if position > 0 else 1,
                strider=strider,
                project=shortcut == "C" or (shortcut == "B" and grows),
            )
        )
    return Network(
        family="rn",
        variant=variant,
        crop=224,
        stem_channels=64,
        levels=tuple(levels),
        origin="baseline",
        shortcut=shortcut,
    )


RN_NETWORKS = {variant: _rn_network(variant) for variant in _RN_ROWS}
# The stem of `rn` strides by 2 and is followed by a pooling of stride 2.
_STEM_STRIDE = {"rna": 1, "rn": 4}


def get_network(family: str, variant: str) -> Network:
    """Return the network of a family ("rna" or "rn") by its variant's name or block spec.

    Raises:
        ValueError: there is no such family or variant; the message lists the choices.
    """
    networks = {"rna": RNA_NETWORKS, "rn": RN_NETWORKS}.get(family, {})
    if variant in networks:
        return networks[variant]
    if family == "rna" and variant[:1].isdecimal():
        return parse_block_spec(variant, variant, origin="spec")
    choices = [f"{family}-{name}" for name in networks] or ["rna-<variant>", "rn-<variant>"]
    if family == "rna":
        choices.append("rna-<block spec>")
    raise InputError(f"unknown network {family}-{variant}: choose one of {', '.join(choices)}")


def native_stride(network: Network) -> int:
    """Return the output stride of a network whose every down-sampling is kept, pixels."""
    return _STEM_STRIDE[network.family] * math.prod(level.stride for level in network.levels)


def with_output_stride(network: Network, output_stride: int) -> Network:
    """Return the network with its last down-samplings turned into dilation.

    What would have strided keeps the dilation so far, and everything after it doubles it: on
    entry to a level the first block's first convolution, or the pooling before it
    (ademxapp:util/symbol/resnet_v2.py, rna_feat). After a pooling the first convolution dilates
    with the rest, so that the dense output holds every cell of the one that strides. That shows for
    Model A at output stride 8 alone: at 16 the convolution is 1×1.

    Args:
        network: a row of the tables above.
        output_stride: 32, 16 or 8 pixels. One that is at or above the network's own is that of
            the network itself: a label without a stride says 32.

    Raises:
        ValueError: another output stride.
    """
    if output_stride not in (8, 16, 32):
        name = f"{network.family}-{network.variant}"
        raise InputError(f"{name}: output stride {output_stride}: choose 8, 16 or 32")
    kept = min(output_stride, native_stride(network))
    stride = _STEM_STRIDE[network.family]
    dilation = 1
    levels = []
    for level in network.levels:
        entry_dilation = dilation
        if level.stride > 1 and stride >= kept:
            dilation *= level.stride
            level = dataclasses.replace(level, stride=1)
        stride *= level.stride
        levels.append(dataclasses.replace(level, entry_dilation=entry_dilation, dilation=dilation))
    return dataclasses.replace(network, levels=tuple(levels))


def with_width(network: Network, width: float) -> Network:
    """Return the network with every convolution's channels multiplied, for small experiments.

    Args:
        network: a row of the tables above.
        width: positive multiplier; products are rounded, at least 1 channel.

    Raises:
        ValueError: the multiplier is not positive.
    """
    if not width > 0:
        raise InputError(f"width multiplier {width}: expected a positive number, such as 0.25")

    def scale(channels: int) -> int:
        return max(1, round(channels * width))

    return dataclasses.replace(
        network,
        stem_channels=scale(network.stem_channels),
        levels=tuple(
            dataclasses.replace(level, channels=tuple(map(scale, level.channels)))
            for level in network.levels
        ),
    )


def block_names(level: LevelSpec) -> tuple[str, ...]:
    """Return the released names of a level's blocks: `4a 4b1 4b2 …`, on level 1 `1b1 1b2 …`."""
    if level.index == 1:
        return tuple(f"1b{number}" for number in range(1, level.blocks + 1))
    return (f"{level.index}a",) + tuple(
        f"{level.index}b{number}" for number in range(1, level.blocks)
    )


def check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError, listing the choices, where `value` is not one of them."""
    if value not in choices:
        raise InputError(f"{argument} {value!r}: choose one of {', '.join(choices)}")

"""Names of the same parameters in several projects, by rule. Loads neither torch nor MXNet.

A layout is a way to name parameters; shapes and numbers are the same in all. `release` is the
`.params` files' own, `native` that of :func:`ademx.convert.torch_model.build`, `resnet38d` that
of jiwoon-ahn/psa and what is built on it, `wider_resnet` and `wider_resnet_a2` those of
mapillary/inplace_abn and NVIDIA/semantic-segmentation (the two have the same names; their
networks down-sample differently), `gluoncv` that of gluoncv's WiderResNetA2, in MXNet. Two are
read and not written, ResNets': `gluoncv` of its `resnet50_v1` and kin, and `torchvision`.

    release          res4b1_branch2a_weight             bn4b1_branch2b1_moving_var
    native           res4b1.branch2a.weight             res4b1.bn_branch2b1.running_var
    resnet38d        b4_1.conv_branch2a.weight          b4_1.bn_branch2b1.running_var
    wider_resnet*    mod4.block2.convs.conv1.weight     mod4.block2.convs.bn2.running_var
    gluoncv          mod4.1.convs.0.weight              mod4.1.convs.1.0.running_var
      a ResNet       features.6.1.body.0.weight         features.6.1.body.4.running_var
    torchvision      layer3.1.conv1.weight              layer3.1.bn2.running_var
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ademx.errors import InputError
from ademx.params import HasShape
from ademx.text import first_few
from symbols.levels import check_choice

LAYOUTS = ("release", "native", "resnet38d", "wider_resnet", "wider_resnet_a2", "gluoncv")
SOURCE_LAYOUTS = (*LAYOUTS, "torchvision")
WIDER_LAYOUTS = LAYOUTS[3:5]
# Layout -> variants of ours that compute what the project's ResNets do.
RESNETS = {
    "torchvision": ("34b", "50b", "101b", "152b"),
    "gluoncv": ("34b", "50", "101", "152"),
    "caffe": ("50", "101", "152"),
}
# Of networks without our segmentation top, whose files have a classifier or nothing.
_CLASSIFIERS = ("wider_resnet", "wider_resnet_a2", "gluoncv")

_Parameter = TypeVar("_Parameter", bound=HasShape)

# BatchNorm's parameters; every other has a weight and perhaps a bias.
_BN_TO_TORCH = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}
_NAME = re.compile(r"(\w+)_(weight|bias|gamma|beta|moving_mean|moving_var)")
_IN_BLOCK = re.compile(r"(?:res|bn)(\d)(a|b\d+)_(branch1|branch2[a-c]\d?)")
_AT_TOP = re.compile(r"conv1a|conv1|bn_conv1|bn7|conv6a|linear\d+")
_STAGES = ("branch2a", "branch2b1", "branch2b2")

# What a key of a block looks like: its level, and which block of the level it is.
_BLOCK_KEYS = {
    "release": re.compile(r"res(\d)(a|b\d+)_"),
    "native": re.compile(r"res(\d)(a|b\d+)\."),
    "resnet38d": re.compile(r"b(\d)(|_\d+)\."),
    "wider_resnet": re.compile(r"mod(\d)\.block(\d+)\."),
    "gluoncv": re.compile(r"mod(\d)\.(\d+)\.(?:bn1|convs|proj_conv)\."),
}
_BLOCK_KEYS["wider_resnet_a2"] = _BLOCK_KEYS["wider_resnet"]


class LayoutError(InputError):
    """Names are of no layout, or not of the one that was asked for."""


@dataclass(frozen=True)
class Place:
    """Where a parameter belongs.

    Attributes:
        module: its layer's released name, such as "bn4b1_branch2a".
        parameter: what it is of the layer, in PyTorch's word.
        block: such as "4b1", "" outside the blocks.
        level: of the block.
        number: of the block in its level, from 0.
        stage: such as "branch2a".
    """

    module: str
    parameter: str
    block: str = ""
    level: int = 0
    number: int = 0
    stage: str = ""

    @property
    def is_bn(self) -> bool:
        """Whether it is a normalisation's."""
        return self.module.startswith("bn")


def rename_to(
    parameters: Mapping[str, _Parameter],
    layout: str,
    *,
    with_head: bool | None = None,
    norm_suffix: str = "",
) -> dict[str, _Parameter]:
    """Return parameters under the names that a layout has for them; the values are the same.

    Args:
        parameters: released name -> array, moving statistics among them.
        layout: one of :data:`LAYOUTS`.
        with_head: keep the head, under our names where the layout has none for it (`resnet38d`
            has: a top of two convolutions is `fc8_seg_conv1` and `fc8_seg_conv2`); by default
            it is kept where the layout's own network can have it (not in `resnet38d`; in
            `wider_resnet`, `wider_resnet_a2` and `gluoncv` a classifier only).
        norm_suffix: what follows the name of a normalisation in `wider_resnet` and
            `wider_resnet_a2`: "" in mapillary's, ".0" in NVIDIA's.

    Raises:
        LayoutError: a name is no released one, or the layout has none for it.
        ValueError: an unknown layout, or a suffix that it does not have.
    """
    check_choice("layout", layout, LAYOUTS)
    if norm_suffix and layout not in WIDER_LAYOUTS:
        raise InputError(
            f"norm_suffix {norm_suffix!r}: layout {layout} has none; {' and '.join(WIDER_LAYOUTS)} "
            "have"
        )
    top = _top(len(v.shape) for n, v in parameters.items() if is_head(n) and n.endswith("_weight"))
    if with_head is None:
        with_head = layout != "resnet38d" and (top == "linear" or layout not in _CLASSIFIERS)
    renamed, unfit = {}, []
    for name, value in parameters.items():
        place = find_place(name)
        if place is None or not _has_name(place, layout):
            unfit.append(name)
        elif with_head or not is_head(name):
            renamed[key_of(name, place, layout, norm_suffix, top=top)] = value
    if unfit:
        raise LayoutError(
            f"layout {layout} has no name for {first_few(unfit)}: these are not the parameters of "
            f"{'a network of this project' if layout in LAYOUTS[:2] else 'an rna network'}"
        )
    return renamed


def is_head(name: str) -> bool:
    """Return whether a released name is of the network's top: `conv6a` or `linear<classes>`."""
    return name.startswith(("conv6a", "linear"))


def missing_of_trunk(expected: Iterable[str], found: Collection[str]) -> list[str]:
    """Return which of a network's released names are not found, of those that a trunk may lack.

    They are the head's, and the last normalisation's if all of that is absent.
    """
    bare = not any(name.startswith("bn7_") for name in found)
    return [
        name
        for name in expected
        if name not in found and (is_head(name) or (bare and name.startswith("bn7_")))
    ]


def count_blocks(keys: Iterable[str], layout: str = "release") -> tuple[int, ...]:
    """Return the number of blocks on levels 1 to 7, by the keys of a layout."""
    blocks = {match.groups() for match in map(_BLOCK_KEYS[layout].match, keys) if match}
    return tuple(sum(int(level) == index for level, _ in blocks) for index in range(1, 8))


def find_place(name: str) -> Place | None:
    """Return where a parameter belongs by its released name, None for a name of no network."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    module, parameter = match.groups()
    if module.startswith("bn") != (parameter in _BN_TO_TORCH):
        return None
    parameter = _BN_TO_TORCH.get(parameter, parameter)
    if _AT_TOP.fullmatch(module):
        return Place(module, parameter)
    match = _IN_BLOCK.fullmatch(module)
    if match is None:
        return None
    level, letters, stage = match.groups()
    number = int(letters[1:] or 0) - (level == "1")  # level 1 has no block "a"
    return Place(module, parameter, level + letters, int(level), number, stage)


def _has_name(place: Place, layout: str) -> bool:
    """Return whether a layout names this: the foreign ones know the paper's networks only."""
    if layout in LAYOUTS[:2]:
        return True
    if not place.block:
        return place.module not in ("conv1", "bn_conv1")
    stages = _STAGES if place.is_bn else ("branch1", *_STAGES)
    return place.stage in stages


def _top(dimensions: Iterator[int]) -> str:
    """Return which top has weights of so many dimensions: "linear", "1conv", "2conv" or ""."""
    found = list(dimensions)
    if 2 in found:
        return "linear"
    return {0: "", 1: "1conv"}.get(len(found), "2conv")


def key_of(name: str, place: Place, layout: str, norm_suffix: str, *, top: str) -> str:
    """Return the key of a released name in a layout, beside a top as `_top` names it."""
    if layout == "release":
        return name
    if layout == "gluoncv":
        return _gluoncv_key(name, place, top)
    if layout in WIDER_LAYOUTS:
        module = _wider_module(place, norm_suffix, classifies=top == "linear")
    elif layout == "resnet38d" and top == "2conv" and is_head(place.module):
        module = f"fc8_seg_conv{1 if place.module == 'conv6a' else 2}"
    elif not place.block:
        module = place.module
    elif layout == "native":
        module = f"res{place.block}.{'bn_' if place.is_bn else ''}{place.stage}"
    else:
        block = f"b{place.level}_{place.number}" if place.number else f"b{place.level}"
        module = f"{block}.{'bn' if place.is_bn else 'conv'}_{place.stage}"
    return f"{module}.{place.parameter}"


def _wider_module(place: Place, norm_suffix: str, *, classifies: bool) -> str:
    if not place.block:
        at_top = {"conv1a": "mod1.conv1", "bn7": f"bn_out{norm_suffix}"}
        if is_head(place.module) and classifies:
            return "classifier.fc"
        return at_top.get(place.module, place.module)
    block = f"mod{place.level}.block{place.number + 1}"
    if place.stage == "branch1":
        return f"{block}.proj_conv"
    position = _STAGES.index(place.stage) + 1
    if not place.is_bn:
        return f"{block}.convs.conv{position}"
    return f"{block}.{'' if position == 1 else 'convs.'}bn{position}{norm_suffix}"


def _gluoncv_key(name: str, place: Place, top: str) -> str:
    parameter = name.rsplit("_", 1)[-1]
    if place.is_bn:
        parameter = {"mean": "running_mean", "var": "running_var"}.get(parameter, parameter)
    if not place.block:
        at_top = {"conv1a": "mod1.0", "bn7": "bn_out.0"}
        if is_head(place.module) and top == "linear":
            return f"classifier.1.{parameter}"
        return f"{at_top.get(place.module, place.module)}.{parameter}"
    # On level 1 the first convolution comes before the blocks.
    block = f"mod{place.level}.{place.number + (place.level == 1)}"
    if place.stage == "branch1":
        return f"{block}.proj_conv.{parameter}"
    position = _STAGES.index(place.stage)
    if place.is_bn:
        module = f"convs.{2 * position - 1}.0" if position else "bn1.0"
    else:  # before the last of three convolutions there is a dropout
        module = f"convs.{2 * position + (position == 2)}"
    return f"{block}.{module}.{parameter}"


def resnet_key(place: Place, layout: str, *, in_mxnet: bool) -> str:
    """Return the key of a ResNet's released name in layout `gluoncv` or `torchvision`.

    Args:
        place: of the parameter, which is not the head's.
        layout: one of the two.
        in_mxnet: whether normalisations' parameters have MXNet's words, as in gluoncv's files.
    """
    words = {"weight": "gamma", "bias": "beta"} if in_mxnet and place.is_bn else {}
    parameter = words.get(place.parameter, place.parameter)
    first = place.module in ("conv1", "bn_conv1")
    position = "abc".index(place.stage[-1]) if place.stage.startswith("branch2") else 0
    if layout == "torchvision":
        module = f"{'bn' if place.is_bn else 'conv'}{position + 1}"
        block = f"layer{place.level - 1}.{place.number}"
    else:
        module = f"body.{3 * position + place.is_bn}"
        block = f"features.{place.level + 2}.{place.number}"
    if first:
        module = module if layout == "torchvision" else f"features.{int(place.is_bn)}"
        return f"{module}.{parameter}"
    if place.stage == "branch1":
        module = f"downsample.{int(place.is_bn)}"
    return f"{block}.{module}.{parameter}"

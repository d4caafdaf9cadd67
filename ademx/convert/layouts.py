"""Names of the same parameters in several projects, by rule. Loads neither torch nor MXNet.

A layout is a way to name parameters; shapes and numbers are the same in all. `release` is the
`.params` files' own, `native` that of :func:`ademx.convert.torch_model.build`, `resnet38d` that
of jiwoon-ahn/psa and what is built on it, `wider_resnet` and `wider_resnet_a2` those of
mapillary/inplace_abn and NVIDIA/semantic-segmentation (the two have the same names; their
networks down-sample differently).

    release          res4b1_branch2a_weight             bn4b1_branch2b1_moving_var
    native           res4b1.branch2a.weight             res4b1.bn_branch2b1.running_var
    resnet38d        b4_1.conv_branch2a.weight          b4_1.bn_branch2b1.running_var
    wider_resnet*    mod4.block2.convs.conv1.weight     mod4.block2.convs.bn2.running_var
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ademx.labels import Label
from ademx.params import HasShape
from ademx.shapes import parameter_shapes
from symbols.levels import RN_NETWORKS, check_choice

LAYOUTS = ("release", "native", "resnet38d", "wider_resnet", "wider_resnet_a2")
WIDER_LAYOUTS = LAYOUTS[3:]

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
_HEAD_KEY = re.compile(r"(linear\d+|conv6a|classifier\.fc)[._](weight|bias)")
_STAGES = ("branch2a", "branch2b1", "branch2b2")

# What a key of a block looks like: its level, and which block of the level it is.
_BLOCK_KEYS = {
    "release": re.compile(r"res(\d)(a|b\d+)_"),
    "native": re.compile(r"res(\d)(a|b\d+)\."),
    "resnet38d": re.compile(r"b(\d)(|_\d+)\."),
    "wider_resnet": re.compile(r"mod(\d)\.block(\d+)\."),
}
_BLOCK_KEYS["wider_resnet_a2"] = _BLOCK_KEYS["wider_resnet"]
_BN_SUFFIX = re.compile(r"mod2\.block1\.bn1(.*)\.running_mean")

_KEYS_SHOWN = 5


class LayoutError(ValueError):
    """Names are of no layout, or not of the one that was asked for."""


@dataclass(frozen=True)
class _Place:
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
        with_head: keep the head, under its own names where the layout has none for it; by default
            it is kept where the layout's own network can have it (not in `resnet38d`; in
            `wider_resnet` and `wider_resnet_a2` a classifier only).
        norm_suffix: what follows the name of a normalisation in `wider_resnet` and
            `wider_resnet_a2`: "" in mapillary's, ".0" in NVIDIA's.

    Raises:
        LayoutError: a name is no released one, or the layout has none for it.
        ValueError: an unknown layout, or a suffix that it does not have.
    """
    check_choice("layout", layout, LAYOUTS)
    if norm_suffix and layout not in WIDER_LAYOUTS:
        raise ValueError(
            f"norm_suffix {norm_suffix!r}: layout {layout} has none; {_listed(WIDER_LAYOUTS)} have"
        )
    classifies = any(len(v.shape) == 2 for n, v in parameters.items() if is_head(n))
    if with_head is None:
        with_head = layout != "resnet38d" and (classifies or layout not in WIDER_LAYOUTS)
    renamed, unfit = {}, []
    for name, value in parameters.items():
        place = _place(name)
        if place is None or not _has_name(place, layout):
            unfit.append(name)
        elif with_head or not is_head(name):
            renamed[_key(name, place, layout, norm_suffix, classifies=classifies)] = value
    if unfit:
        raise LayoutError(
            f"layout {layout} has no name for {_first(unfit)}: these are not the parameters of "
            f"{'a network of this project' if layout in LAYOUTS[:2] else 'an rna network'}"
        )
    return renamed


def rename_from(
    state: Mapping[str, _Parameter], layout: str | None = None
) -> tuple[dict[str, _Parameter], str]:
    """Return parameters under their released names, and the layout that they were in.

    Counters of batches (`num_batches_tracked`) are dropped: the release has none. The head may be
    absent; everything else must be there. A suffix of the normalisations' names (see
    :func:`rename_to`) is found by itself.

    Args:
        state: key -> array, without a `module.` prefix.
        layout: one of :data:`LAYOUTS`; by default it is recognised by its keys, and then
            `wider_resnet` stands for `wider_resnet_a2` too.

    Raises:
        LayoutError: the keys are of no layout or of several, or not of the one that was asked
            for; the message has the first that do not fit.
    """
    if layout is not None:
        check_choice("layout", layout, LAYOUTS)
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    choices = LAYOUTS[:4] if layout is None else (layout,)
    # The layout that leaves the fewest keys unexplained; an earlier one where two are alike.
    best = min(choices, key=lambda choice: _count_unfit(state, choice))
    names = _expected(state, best)
    unexpected = [key for key in state if key not in names]
    if len(unexpected) == len(state):
        shown = _first(list(state)) if state else "none"
        asked = f"layout {layout}" if layout else f"any of the layouts {_listed(LAYOUTS)}"
        raise LayoutError(f"the keys are not of {asked}: the first are {shown}")
    missing = [key for key in names if key not in state]
    problems = [("do not fit: ", unexpected), ("are missing: ", missing)]
    lines = [f"{len(keys)} {text}{_first(keys)}" for text, keys in problems if keys]
    if lines:
        found = f"layout {layout}" if layout else f"the closest layout, {best}"
        raise LayoutError(f"the keys are not those of {found}: {'; '.join(lines)}")
    return {names[key]: value for key, value in state.items()}, best


def is_head(name: str) -> bool:
    """Return whether a released name is of the network's top: `conv6a` or `linear<classes>`."""
    return name.startswith(("conv6a", "linear"))


def count_blocks(keys: Iterable[str], layout: str = "release") -> tuple[int, ...]:
    """Return the number of blocks on levels 1 to 7, by the keys of a layout."""
    blocks = {match.groups() for match in map(_BLOCK_KEYS[layout].match, keys) if match}
    return tuple(sum(int(level) == index for level, _ in blocks) for index in range(1, 8))


def _count_unfit(state: Mapping[str, HasShape], layout: str) -> int:
    return len(_expected(state, layout).keys() ^ state.keys())


def _expected(state: Mapping[str, HasShape], layout: str) -> dict[str, str]:
    """Return key -> released name of the network whose blocks and head the keys have."""
    heads = _head_names(state)
    suffix = ""
    if layout in WIDER_LAYOUTS:
        suffix = next((m[1] for m in map(_BN_SUFFIX.fullmatch, state) if m), "")
    classifies = any(len(v.shape) == 2 for key, v in state.items() if _HEAD_KEY.fullmatch(key))
    candidates = []
    for variant in _variants(state, layout):
        body = [name for name in parameter_shapes(variant) if not is_head(name)]
        places = {name: _place(name) for name in (*body, *heads)}
        candidates.append(
            {
                _key(name, place, layout, suffix, classifies=classifies): name
                for name, place in places.items()
                if place
            }
        )
    return min(candidates, key=lambda names: len(names.keys() ^ state.keys()))


def _variants(state: Mapping[str, HasShape], layout: str) -> list[Label]:
    """Return labels of the networks that the keys can be of."""
    if layout in LAYOUTS[:2] and any(key.startswith("bn_conv1") for key in state):
        networks = [("rn", variant) for variant in RN_NETWORKS]
    else:
        first, *others = count_blocks(state, layout)
        blocks = "-".join(str(max(1, count)) for count in others)
        networks = [("rna", f"224-{first}-{blocks}")]
    return [Label("ilsvrc-cls", family, variant, 1000) for family, variant in networks]


def _head_names(state: Mapping[str, HasShape]) -> list[str]:
    """Return the released names of the head's parameters, where the keys have a head."""
    modules: dict[str, None] = {}  # an ordered set
    for key, value in state.items():
        match = _HEAD_KEY.fullmatch(key)
        if match:
            rows = value.shape[0] if value.shape else 0
            fc = match[1] == "classifier.fc"
            modules[f"linear{rows}" if fc else match[1]] = None
    return [f"{module}_{parameter}" for module in modules for parameter in ("weight", "bias")]


def _place(name: str) -> _Place | None:
    """Return where a parameter belongs by its released name, None for a name of no network."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    module, parameter = match.groups()
    if module.startswith("bn") != (parameter in _BN_TO_TORCH):
        return None
    parameter = _BN_TO_TORCH.get(parameter, parameter)
    if _AT_TOP.fullmatch(module):
        return _Place(module, parameter)
    match = _IN_BLOCK.fullmatch(module)
    if match is None:
        return None
    level, letters, stage = match.groups()
    number = int(letters[1:] or 0) - (level == "1")  # level 1 has no block "a"
    return _Place(module, parameter, level + letters, int(level), number, stage)


def _has_name(place: _Place, layout: str) -> bool:
    """Return whether a layout names this: the foreign ones know the paper's networks only."""
    if layout in LAYOUTS[:2]:
        return True
    if not place.block:
        return place.module not in ("conv1", "bn_conv1")
    stages = _STAGES if place.is_bn else ("branch1", *_STAGES)
    return place.stage in stages


def _key(name: str, place: _Place, layout: str, norm_suffix: str, *, classifies: bool) -> str:
    """Return the key of a released name in a layout."""
    if layout == "release":
        return name
    if layout in WIDER_LAYOUTS:
        module = _wider_module(place, norm_suffix, classifies=classifies)
    elif not place.block:
        module = place.module
    elif layout == "native":
        module = f"res{place.block}.{'bn_' if place.is_bn else ''}{place.stage}"
    else:
        block = f"b{place.level}_{place.number}" if place.number else f"b{place.level}"
        module = f"{block}.{'bn' if place.is_bn else 'conv'}_{place.stage}"
    return f"{module}.{place.parameter}"


def _wider_module(place: _Place, norm_suffix: str, *, classifies: bool) -> str:
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


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _first(keys: list[str]) -> str:
    more = len(keys) - _KEYS_SHOWN
    return ", ".join(keys[:_KEYS_SHOWN]) + (f" and {more} more" if more > 0 else "")

"""What the keys of a file are: which layout, behind which prefix, and which of them are extra.

Loads neither torch nor MXNet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ademx.convert.layouts import (
    LAYOUTS,
    RESNETS,
    SOURCE_LAYOUTS,
    WIDER_LAYOUTS,
    LayoutError,
    count_blocks,
    find_place,
    is_head,
    key_of,
    resnet_key,
)
from ademx.labels import Label
from ademx.networks.graph import parameter_shapes
from ademx.params import HasShape
from ademx.text import first_few, printable
from symbols.levels import RN_NETWORKS, check_choice

# The head's keys in any layout, and which layouts have a spelling for themselves.
_HEAD_KEY = re.compile(
    r"(linear\d+|conv6a|classifier\.fc|classifier\.1|fc8_seg_conv[12]|fc|output)[._]"
    r"(weight|bias)"
)
_OWN_HEADS = {
    "classifier.fc": WIDER_LAYOUTS,
    "classifier.1": ("gluoncv",),
    "output": ("gluoncv",),
    "fc": ("torchvision",),
    "fc8_seg_conv1": ("resnet38d",),
    "fc8_seg_conv2": ("resnet38d",),
}
# Networks that hold a trunk under a name of its own have this top beside it.
_OUTER_HEAD = re.compile(r"(?:.*\.)?(fc8_seg_conv[12]\.(?:weight|bias))")
# A network's first layer, by which it is found whatever stands before its keys.
_FIRST_LAYER = re.compile(
    r"(?:.*\.)?"
    r"(?=(?:conv1a[._]weight|mod1\.conv1\.weight|mod1\.0\.weight|bn_conv1(?:\.weight|_gamma)|"
    r"layer1\.0\.conv1\.weight|features\.4\.0\.body\.0\.weight)$)"
)
_MAX_NETWORKS = 20  # in one file: each is looked at in every layout
_BN_SUFFIX = re.compile(r"mod2\.block1\.bn1(.*)\.running_mean")


@dataclass(frozen=True)
class Recognised:
    """What the keys of a file are.

    Attributes:
        layout: of the network among them.
        names: key -> released name, of the network's parameters.
        extra: keys of something else, such as other projects' heads.
        known: whether the layout is; else `wider_resnet` stands for `wider_resnet_a2` too.
        biases: key -> released name of the moving mean that has to be less by it, of convolutions
            that have a bias there and none here.
        resnet: network of ours that computes what another project's ResNet does, such as
            "rn-50b"; "" for other networks.
    """

    layout: str
    names: Mapping[str, str]
    extra: tuple[str, ...] = ()
    known: bool = True
    biases: Mapping[str, str] = field(default_factory=dict)
    resnet: str = ""


def recognise(
    state: Mapping[str, HasShape],
    layout: str | None = None,
    *,
    drop_extra: bool = False,
    label: Label | None = None,
) -> Recognised:
    """Return which of the keys are a network's, and in which layout.

    What stands before all its keys, such as `module.` or `state_dict.module.backbone.`, is found
    by itself, as is a suffix of the normalisations' names, such as ".0" in NVIDIA's. Counters of
    batches (`num_batches_tracked`) do not count. The head may be absent, and without it the last
    normalisation in a foreign layout; everything else must be there.

    Args:
        state: key -> array.
        layout: one of :data:`SOURCE_LAYOUTS`; by default it is recognised by its keys.
        drop_extra: accept keys of something else, and leave them out.
        label: of the network that they are for; it chooses between the two layouts that share
            their keys.

    Raises:
        LayoutError: the keys are of no layout, not of the one that was asked for, or of several
            networks; the message has the first that do not fit.
    """
    if layout is not None:
        check_choice("layout", layout, SOURCE_LAYOUTS)
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    choices = tuple(name for name in SOURCE_LAYOUTS if name != "wider_resnet_a2")
    ways = [
        _Way(prefix, state, choice)
        for prefix in _prefixes(state)
        for choice in (choices if layout is None else (layout,))
    ]
    whole = {way.prefix for way in ways if not way.missing}
    if len(whole) > 1:
        places = ", ".join(repr(printable(prefix)) for prefix in sorted(whole))
        raise LayoutError(
            f"there are {len(whole)} networks, whose keys start with {places}: save the one that "
            "you want by itself"
        )
    # The way that leaves the fewest keys unexplained; an earlier one where two are alike.
    best = min(
        (way for way in ways if not whole or way.prefix in whole),
        key=lambda way: len(way.missing) + len(way.unexpected),
    )
    extra = [key for key in state if key not in best.names and key not in best.biases]
    _check_once(best.names)
    _check_way(best, extra, len(state), layout, drop_extra=drop_extra)
    known, found = layout is not None or best.layout not in WIDER_LAYOUTS, best.layout
    if not known and label and label.network in ("rna-a", "rna-a2"):
        known, found = True, "wider_resnet" if label.variant == "a" else "wider_resnet_a2"
    return Recognised(
        found, best.names, tuple(extra), known=known, biases=best.biases, resnet=best.resnet
    )


def _check_once(names: Mapping[str, str]) -> None:
    """Raise LayoutError if two keys are of one parameter, such as a head's under two names."""
    keys: dict[str, str] = {}
    for key, name in names.items():
        if name in keys:
            raise LayoutError(f"{keys[name]!r} and {key!r} are both {name}: keep one of them")
        keys[name] = key


def _check_way(
    way: _Way, extra: list[str], count: int, layout: str | None, *, drop_extra: bool
) -> None:
    """Raise LayoutError unless a way explains the keys."""
    if len(extra) == count:
        shown = first_few(extra) if extra else "none"
        asked = f"layout {layout}" if layout else f"any of the layouts {', '.join(SOURCE_LAYOUTS)}"
        raise LayoutError(f"the keys are not of {asked}: the first are {shown}")
    problems = [("do not fit: ", extra), ("are missing: ", way.missing)]
    lines = [f"{len(keys)} {text}{first_few(keys)}" for text, keys in problems if keys]
    if way.missing or (extra and not drop_extra):
        found = f"layout {layout}" if layout else f"the closest layout, {way.layout}"
        found += f" (as {way.resnet})" if way.resnet else ""
        advice = "" if way.missing else "; --drop-extra leaves these out"
        raise LayoutError(f"the keys are not those of {found}: {'; '.join(lines)}{advice}")


class _Way:
    """A way to explain keys: by a layout, behind a prefix.

    Attributes:
        prefix: what stands before the network's keys.
        layout: one of :data:`SOURCE_LAYOUTS`.
        names: key -> released name.
        biases: see :class:`Recognised`.
        resnet: the same.
        missing: keys that the network should have.
        unexpected: keys behind the prefix that it has not.
    """

    def __init__(self, prefix: str, state: Mapping[str, HasShape], layout: str) -> None:
        inner = {k[len(prefix) :]: k for k in state if k.startswith(prefix)}
        for match in filter(None, map(_OUTER_HEAD.fullmatch, state)):
            inner.setdefault(match[1], match[0])
        shapes = {short: state[key] for short, key in inner.items()}
        network, expected = _expected(shapes, layout)
        is_resnet = layout in RESNETS and network.family == "rn"
        biases = _biases(shapes, expected) if is_resnet else {}
        self.prefix, self.layout = prefix, layout
        self.missing = [prefix + short for short in expected if short not in inner]
        self.unexpected = [k for short, k in inner.items() if short not in {**expected, **biases}]
        self.names = {key: expected[short] for short, key in inner.items() if short in expected}
        self.biases = {inner[short]: mean for short, mean in biases.items()}
        self.resnet = network.network if is_resnet else ""


def is_first_layer(key: str) -> bool:
    """Return whether a key is that of a network's first layer."""
    return _FIRST_LAYER.match(key) is not None


def _prefixes(state: Iterable[str]) -> list[str]:
    """Return what may stand before a network's keys: what stands before a first layer."""
    found = {match[0] for match in map(_FIRST_LAYER.match, state) if match}
    if len(found) > _MAX_NETWORKS:
        raise LayoutError(f"{len(found)} keys are of a network's first layer: expected one")
    return sorted(found) or [""]


def _expected(state: Mapping[str, HasShape], layout: str) -> tuple[Label, dict[str, str]]:
    """Return the network whose blocks and head the keys have, and key -> its released name."""
    heads = _heads(state, layout)
    suffix = ""
    if layout in WIDER_LAYOUTS:
        suffix = next((m[1] for m in map(_BN_SUFFIX.fullmatch, state) if m), "")
    in_mxnet = any(key.endswith(".gamma") for key in state)
    candidates = []
    for variant in _variants(state, layout):
        is_resnet = layout in RESNETS and variant.family == "rn"
        body = {
            resnet_key(place, layout, in_mxnet=in_mxnet)
            if is_resnet
            else key_of(name, place, layout, suffix, top=""): name
            for name in parameter_shapes(variant)
            if not is_head(name) and (place := find_place(name))
        }
        last = [key for key, name in body.items() if name.startswith("bn7_")]
        if layout not in LAYOUTS[:2] and not heads and not any(key in state for key in last):
            body = {key: name for key, name in body.items() if key not in last}
        candidates.append((variant, {**body, **heads}))
    return min(candidates, key=lambda candidate: len(candidate[1].keys() ^ state.keys()))


def _biases(state: Mapping[str, HasShape], expected: Mapping[str, str]) -> dict[str, str]:
    """Return key -> the moving mean behind it, of biases that convolutions here have not."""
    found = {}
    for key, name in expected.items():
        bias = re.sub("weight$", "bias", key)
        if name.startswith(("res", "conv1")) and bias in state:
            module = name.removesuffix("_weight")
            mean = f"bn_{module}" if module == "conv1" else module.replace("res", "bn", 1)
            found[bias] = f"{mean}_moving_mean"
    return found


def _variants(state: Mapping[str, HasShape], layout: str) -> list[Label]:
    """Return labels of the networks that the keys can be of."""
    if layout in LAYOUTS[:2] and any(key.startswith("bn_conv1") for key in state):
        networks = [("rn", variant) for variant in RN_NETWORKS]
    elif layout == "torchvision" or (
        layout == "gluoncv" and any(key.startswith("features.") for key in state)
    ):
        networks = [("rn", variant) for variant in RESNETS[layout]]
    else:
        first, *others = count_blocks(state, layout)
        blocks = "-".join(str(max(1, count)) for count in others)
        networks = [("rna", f"224-{first}-{blocks}")]
    return [Label("ilsvrc-cls", family, variant, 1000) for family, variant in networks]


def _heads(state: Mapping[str, HasShape], layout: str) -> dict[str, str]:
    """Return key -> released name of the head's parameters, where the keys have a head."""
    modules: dict[str, str] = {}  # the module's key -> its released name
    for key, value in state.items():
        match = _HEAD_KEY.fullmatch(key)
        if match and layout in _OWN_HEADS.get(match[1], LAYOUTS):
            own = match[1] in _OWN_HEADS and match[1] != "fc8_seg_conv1"
            rows = value.shape[0] if value.shape else 0
            renamed = {"fc8_seg_conv1": "conv6a"}.get(match[1], match[1])
            modules[match[1]] = f"linear{rows}" if own else renamed
    if not {"fc8_seg_conv1", "fc8_seg_conv2"} <= modules.keys():  # one alone is something else
        modules = {key: name for key, name in modules.items() if not key.startswith("fc8_seg")}
    separator = "_" if layout == "release" else "."
    return {
        f"{key}{separator}{parameter}": f"{name}_{parameter}"
        for key, name in modules.items()
        for parameter in ("weight", "bias")
    }

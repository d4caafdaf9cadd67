"""What the names in a layout do not show, and what follows from it. Loads neither torch nor MXNet.

The foreign layouts belong to networks that down-sample, dilate, rectify and normalise in their own
way. Names and shapes fit all the same, so that a mistake shows only in the scores.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ademx.convert.layouts import WIDER_LAYOUTS, count_blocks, is_head
from ademx.convert.recognise import Recognised
from ademx.convert.resnets import resnet_caveat
from ademx.labels import Label
from ademx.params import Array
from ademx.text import printable
from symbols.levels import BN_EPSILON, RNA_NETWORKS, LevelSpec, get_network

Parameters = Mapping[str, Array]  # released name -> array

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Home:
    """The network that a foreign layout belongs to.

    Attributes:
        name: of its class.
        variant: the network of ours that down-samples like it.
        output_strides: that it can be built with, pixels.
        level5: its first convolution of level 5.
    """

    name: str
    variant: str
    output_strides: tuple[int, ...]
    level5: str = "mod5.block1.convs.conv1"


# Read from jiwoon-ahn/psa: network/resnet38d.py; mapillary/inplace_abn:
# scripts/models/wider_resnet.py; NVIDIA/semantic-segmentation: network/wider_resnet.py;
# gluoncv: model_zoo/wideresnet.py.
_HOMES = {
    "resnet38d": _Home("resnet38d.Net", "a1", (8,)),
    "wider_resnet": _Home("WiderResNet", "a", (32,)),
    "wider_resnet_a2": _Home("WiderResNetA2", "a2", (32, 8)),
    "gluoncv": _Home("gluoncv's WiderResNetA2", "a2", (32, 8), "mod5[0].convs[0]"),
}


def warn_of_writing(layout: str, parameters: Parameters, label: Label | None) -> None:
    """Log what to know before weights are used in a foreign layout's network.

    Args:
        layout: the layout that is written.
        parameters: of the network.
        label: of the network that the weights were trained in, where it is known.
    """
    for caveat in _of_writing(layout, parameters, label):
        _log.warning("%s: %s", layout, caveat)


def warn_of_reading(
    found: Recognised,
    parameters: Parameters,
    *,
    label: Label | None,
    written_from: Label | None = None,
) -> None:
    """Log what is left out of a file of weights, and what was taken for granted of the rest.

    Args:
        found: what the file's keys are.
        parameters: of the network.
        label: of the network that the weights are to be used in, where it is known.
        written_from: label that the file itself states: of one network, nothing differs.
    """
    if found.extra:
        _log.warning("left out: %s", ", ".join(map(printable, found.extra)))
    for caveat in _of_reading(found, parameters, label, written_from):
        _log.warning("%s: %s", found.layout, caveat)


def _of_writing(layout: str, parameters: Parameters, label: Label | None) -> Iterator[str]:
    if layout not in _HOMES:
        return
    home = _HOMES[layout]
    yield from _geometry(home, label)
    yield from _blocks(home, parameters)
    if layout in WIDER_LAYOUTS:
        yield (
            f"build {home.name} with ReLU: mapillary's normalisation is a leaky ReLU (slope 0.01) "
            "unless it is told otherwise, and then the scores are wrong; NVIDIA's is a ReLU"
        )
        yield from _negative_scale_warnings(parameters, "use its ABN, or BatchNorm2d and ReLU")
    yield (
        f"{home.name} normalises with epsilon 1e-5, these weights with {BN_EPSILON:g}: no channel "
        "changes by more than 0.05 %; set it for the same numbers"
    )


def _of_reading(
    found: Recognised, parameters: Parameters, label: Label | None, written_from: Label | None
) -> Iterator[str]:
    if found.resnet:
        yield resnet_caveat(found, label)
        if not any(map(is_head, parameters)):
            yield "there is no classifier of its usual name"
        return
    if found.layout not in _HOMES:
        return
    home = _HOMES[found.layout]
    if not any(name.startswith("bn7_") for name in parameters):
        yield "a trunk without its last normalisation: a training draws that anew"
    if label and written_from and _have_same_features(label, written_from):
        return
    yield from _geometry(home, label, reading=True)
    yield from _blocks(home, parameters)
    if not found.known:
        yield (
            "WiderResNet and WiderResNetA2 have the same keys: take label rna-a for the first, "
            "which pools before levels 2 to 6, and rna-a2 for the second; with the other, scores "
            "are wrong (--source-layout says which it is)"
        )
    if found.layout in WIDER_LAYOUTS:
        cure = "if the file comes from it, scores are right only with --abn"
        yield from _negative_scale_warnings(parameters, cure)
    yield (
        "the file does not say with which activation and epsilon it was trained: ReLU and "
        f"{BN_EPSILON:g} are used here; weights trained with leaky ReLU (mapillary's) or epsilon "
        "1e-3 (Keras ports) give wrong scores"
    )


def _have_same_features(one: Label, other: Label) -> bool:
    """Return whether two labels' networks compute the same features."""
    return (one.network, one.output_stride) == (other.network, other.output_stride)


def _negative_scale_warnings(parameters: Parameters, cure: str) -> Iterator[str]:
    """Yield that weights of normalisations are negative, if some are."""
    count = sum(int((v < 0).sum()) for n, v in parameters.items() if n.endswith("_gamma"))
    if count:
        yield (
            f"{count} BatchNorm weights are negative, and mapillary's InPlaceABN takes their "
            f"absolute value: {cure}"
        )


def _geometry(home: _Home, label: Label | None, *, reading: bool = False) -> Iterator[str]:
    """Yield how strides, pooling and dilation differ between a network and the layout's own."""
    if label is None or label.family != "rna":
        yield (
            f"{home.name} down-samples as rna-{home.variant} does: scores of any other network's "
            "weights are wrong in it (--label tells which network these are for)"
        )
    else:
        yield from _down_sampling(home, label)
        yield from _output_stride(home, label, reading=reading)
        if label.variant == home.variant == "a":
            yield (
                f"{home.name} pools with padding 1; the released Model A was trained without "
                'padding (pool="full") and is tested with pool="caffe": its scores change a little'
            )
    if home.variant == "a2" and (label is None or label.output_stride == 8):
        cure = "" if reading else ": set its dilation and padding to 1 for the same scores"
        yield (
            f"with dilation=True {home.level5} has dilation 2 in {home.name} and 1 here at output "
            f"stride 8{cure}"
        )


def _down_sampling(home: _Home, label: Label) -> Iterator[str]:
    theirs = RNA_NETWORKS[home.variant].levels
    ours = get_network(label.family, label.variant).levels
    differing = [pair for pair in zip(ours, theirs) if _entry(pair[0]) != _entry(pair[1])]
    if differing:
        levels = ", ".join(
            f"{own.index} ({_entry(own)} in {label.network}, {_entry(other)} in {home.name})"
            for own, other in differing
        )
        yield (
            f"scores will be wrong: down-sampling differs on entry to levels {levels}; use "
            "a network that down-samples as theirs did, such as that of layout native"
        )


def _output_stride(home: _Home, label: Label, *, reading: bool) -> Iterator[str]:
    if label.output_stride not in home.output_strides:
        yield (
            f"{home.name} computes at output stride {home.output_strides[0]} and {label} at "
            f"{label.output_stride}: the same weights give other features"
        )
    elif label.output_stride == 8 and home.variant == "a2" and not reading:
        yield f"build {home.name} with dilation=True for output stride 8"


def _entry(level: LevelSpec) -> str:
    if level.stride == 1:
        return "none"
    return "pooling" if level.pooled else "stride"


def _blocks(home: _Home, parameters: Parameters) -> Iterator[str]:
    """Yield how the numbers of blocks differ."""
    theirs = tuple(level.blocks for level in RNA_NETWORKS[home.variant].levels)
    ours = count_blocks(parameters)
    if ours == theirs:
        return
    found = "-".join(map(str, ours))
    if home.variant == "a1" or ours[0]:
        yield f"{home.name} cannot have {found} blocks on levels 1 to 7: extend it to load these"
    else:
        yield f"build {home.name} with structure={list(ours[1:])}"

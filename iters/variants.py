"""Datasets as people have them: known forms of each that are not the one that is read.

A variant is told by any of what it says of itself: files, a split's number of images, the numbers
or the colours of its labels. Who finds something missing or odd asks here what it may be.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from iters import palettes
from iters.datasets import VOID, Dataset, allowed_values
from iters.decode import BrokenImage, ColouredLabel, decode_numbers
from iters.samples import Sample
from iters.sources import read_bytes

_log = logging.getLogger(__name__)

Values = Collection[int]


@dataclass(frozen=True)
class Variant:
    """A form of a dataset that is often taken for the one that is read.

    Attributes:
        message: what it is, and what to do.
        files: patterns below the root, with `{split}` in them; a file or folder that one of them
            finds shows it,
        unless: unless one of these finds something.
        is_listed: `ademx data lists` reads it, and what it makes is read by the others.
        counts: split -> the number of images that shows it.
        is_whole: nothing is missing where the counts are these.
        values: whether the numbers of a label, some of which are not allowed, show it.
        of_split: whether the numbers of all labels of a split do, all of which are allowed.
        in_colours: labels in colours show it.
    """

    message: str
    files: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    is_listed: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    is_whole: bool = False
    values: Callable[[Values], bool] = lambda values: False
    of_split: Callable[[Values], bool] = lambda values: False
    in_colours: bool = False


def explain_files(
    dataset: Dataset, root: Path, split: str | None = None, *, by_lists: bool = False
) -> str:
    """Return what lies in a root in place of a split, and what to do; "" where that is open.

    Args:
        dataset: the dataset.
        root: its folder.
        split: None is any.
        by_lists: it is `ademx data lists` that asks, which reads more.
    """
    name = "*" if split is None else glob.escape(split)
    for variant in _VARIANTS.get(dataset.name, ()):
        if not (by_lists and variant.is_listed) and not _find(root, variant.unless, name):
            found = _find(root, variant.files, name)
            if found is not None:
                return f"found {found}: {variant.message}"
    return ""


def _find(root: Path, patterns: Iterable[str], split: str) -> Path | None:
    found = (path for pattern in patterns for path in root.glob(pattern.format(split=split)))
    return next(found, None)


def warn_of_labels(dataset: Dataset, samples: Sequence[Sample]) -> None:
    """Log what a split's first label probably is, where it is known not to be the dataset's."""
    path = samples[0].label
    if not isinstance(path, Path):
        return
    hint = ""
    try:
        values = set(np.unique(decode_numbers(read_bytes(path))).tolist())
        hint = explain_values(dataset, values) if values - allowed_values(dataset) else ""
    except ColouredLabel:
        hint = explain_colours(dataset)
    except (BrokenImage, OSError):  # said where it is read for its own sake
        return
    if hint:
        _log.warning("%s: %s", path, hint)


def explain_count(dataset: Dataset, split: str, number: int) -> Variant | None:
    """Return the variant of which a split has this number of images, None where none is known."""
    known = (one for one in _VARIANTS.get(dataset.name, ()) if one.counts.get(split) == number)
    return None if dataset.splits.get(split) == number else next(known, None)


def explain_values(dataset: Dataset, values: Values) -> str:
    """Return what the numbers of a label with wrong ones probably are, "" where that is open."""
    return _message(dataset, lambda variant: variant.values(values))


def explain_split_values(dataset: Dataset, values: Values) -> str:
    """Return what the numbers of a split's labels show, though each is allowed; "" is nothing."""
    return _message(dataset, lambda variant: variant.of_split(values))


def explain_colours(dataset: Dataset) -> str:
    """Return what to do about labels that are colours."""
    known = _message(dataset, lambda variant: variant.in_colours)
    return known or "store the number of its class for each pixel"


def _message(dataset: Dataset, is_shown: Callable[[Variant], bool]) -> str:
    return next((one.message for one in _VARIANTS.get(dataset.name, ()) if is_shown(one)), "")


# ---- what shows a variant -----------------------------------------------------------------------


def _within(*groups: Iterable[int]) -> Callable[[Values], bool]:
    known = frozenset(value for group in groups for value in group)
    return known.issuperset


def _exceeds(bound: int) -> Callable[[Values], bool]:
    return lambda values: max(values) > bound


def _greys(colours: Iterable[palettes.Colour]) -> set[int]:
    """Return the grey of colours, 0 to 255, rounded as any library may."""
    greys = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in colours]
    return {int(grey + part) for grey in greys for part in (0, 0.5)}


# ---- the variants of each dataset; the first that matches is told -------------------------------

# Images of VOC's segmentation task in other years, by the releases' own statistics.
_VOC_YEARS = {
    2007: {"train": 209, "val": 213, "trainval": 422, "test": 210},
    2008: {"train": 511, "val": 512, "trainval": 1023},
    2009: {"train": 749, "val": 750, "trainval": 1499},
    2010: {"train": 964, "val": 964, "trainval": 1928},
    2011: {"train": 1112, "val": 1111, "trainval": 2223},
}
_VOC_2012 = ("VOC2012", "VOCdevkit/VOC2012")


def _voc_year(year: int, counts: Mapping[str, int]) -> Variant:
    return Variant(
        f"this is VOC {year}: the networks, the published scores and the lists are of VOC 2012: "
        "unpack VOCtrainval_11-May-2012.tar there",
        files=(f"VOC{year}/ImageSets", f"VOCdevkit/VOC{year}/ImageSets"),
        unless=_VOC_2012,
        counts=counts,
    )


_RGB = Variant(
    "take the palette PNGs of the archive, not copies that were saved in RGB", in_colours=True
)
_VOC = (
    *(_voc_year(year, counts) for year, counts in _VOC_YEARS.items()),
    Variant(
        "these are the palette's colours, turned into grey: take the palette PNGs of the archive",
        values=_within(_greys([*palettes.VOC[:21], palettes.VOC[VOID]])),
    ),
    _RGB,
)


def _cityscapes(kind: str, archive: str) -> tuple[Variant, ...]:
    """Return the variants of the fine or of the coarse labels."""
    labels = f"{kind}/{{split}}/*/*_{kind}_{{kind}}.png"
    cure = f"take *_labelIds.png, which {archive} has too, not"
    unless = (labels.replace("{kind}", "labelIds"),)
    return (
        Variant(
            f"these are train ids: {cure} *_labelTrainIds.png",
            files=(labels.replace("{kind}", "labelTrainIds"),),
            unless=unless,
            values=_within(range(20), [VOID]),
        ),
        Variant(
            f"these are instance ids: {cure} *_instanceIds.png",
            files=(labels.replace("{kind}", "instanceIds"),),
            unless=unless,
            values=_exceeds(999),
        ),
        Variant(
            f"these are colours: {cure} *_color.png",
            files=(labels.replace("{kind}", "color"),),
            unless=unless,
            in_colours=True,
        ),
    )


_ADE20K = (
    Variant(
        "labels in RGB and JSON are those of the full ADE20K, of thousands of classes: take "
        "SceneParsing's of 150, ADEChallengeData2016.zip, not *_seg.png",
        files=(
            *("index_ade20k.*", "ADE20K_20*", "images/ADE/*"),
            *("images/*/*_seg.png", "images/*/*/*/*_seg.png"),
        ),
        unless=("ADEChallengeData2016", "annotations/*/*.png"),
        in_colours=True,
    ),
    Variant(
        "these are classes from 0 and void 255: stored are classes from 1 and void 0",
        values=_within(range(150), [VOID]),
    ),
    Variant(
        "these may be the classes of the full ADE20K: take those of SceneParsing, "
        "ADEChallengeData2016",
        values=_exceeds(150),
    ),
)

_CONTEXT_FOLDERS = ("", "VOCdevkit/", "VOC2010/", "VOCdevkit/VOC2010/")
_CONTEXT = (
    Variant(
        "this is PASCAL Context as the Detail API has it: make labels and lists of it by `ademx "
        "data lists pascal-context`",
        files=tuple(f"{folder}trainval_merged.json" for folder in _CONTEXT_FOLDERS),
        unless=("trainval", "VOCdevkit/trainval"),
        is_listed=True,
    ),
    Variant(
        "these are the lists of a converter, whose PNGs have the classes in another order: make "
        "labels and lists of them by `ademx data lists pascal-context`",
        files=tuple(f"{folder}ImageSets/SegmentationContext" for folder in _CONTEXT_FOLDERS),
        unless=("trainval", "VOCdevkit/trainval"),
        is_listed=True,
    ),
    Variant(
        "this is VOC 2012: Context labels the images of VOC 2010, and splits them so: unpack "
        "VOCtrainval_03-May-2010.tar there",
        files=tuple(f"{folder}/JPEGImages" for folder in _VOC_2012),
        unless=("VOC2010/JPEGImages", "VOCdevkit/VOC2010/JPEGImages", "JPEGImages"),
    ),
    Variant(
        "these are the images of the Detail API's trainval_merged.json, two and one fewer than "
        "the distribution's 4,998 and 5,105: scores of them are not those of all",
        counts={"train": 4996, "val": 5104},
        is_whole=True,
    ),
    Variant(
        "these are labels of 59 classes from 0 with the background as 255; here it is 0, and the "
        "classes are 1 to 59: make them anew by `ademx data lists pascal-context`, which reads "
        "trainval/*.mat, trainval_merged.json and a converter's grey PNGs, or describe them as "
        "your own dataset by a YAML file",
        of_split=lambda values: VOID in values and 59 not in values,
    ),
    Variant(
        "these may be the labels of 459 classes: make those of 59 by "
        "`ademx data lists pascal-context`",
        values=_exceeds(59),
    ),
    _RGB,
)

_COCO = (
    Variant(
        "these may be class ids, 0 to 80: stored are category ids, 0 to 90",
        values=_within(range(81), [VOID]),
    ),
    Variant(
        "these may be the classes of COCO-Stuff: make the labels by `ademx data lists coco`",
        values=_within(range(256)),
    ),
    _RGB,
)
_COCO20 = (
    *(variant for variant in _VOC if not variant.counts),
    Variant(
        "these may be COCO's category ids: make the labels by `ademx data lists coco20`",
        values=_within(range(91), [VOID]),
    ),
)

_VARIANTS: dict[str, tuple[Variant, ...]] = {
    "voc": _VOC,
    "voc-sbd": _VOC,
    "coco": _COCO,
    "coco20": _COCO20,
    "cityscapes": _cityscapes("gtFine", "gtFine_trainvaltest.zip"),
    "cityscapes-coarse": _cityscapes("gtCoarse", "gtCoarse.zip"),
    "ade20k": _ADE20K,
    "pascal-context": _CONTEXT,
    "pascal-context-59": _CONTEXT,
}

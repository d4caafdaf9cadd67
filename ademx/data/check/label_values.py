"""Which numbers a dataset's label files may store, and what other numbers point to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iters import palettes
from iters.datasets import VOID, Dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CITYSCAPES = ("cityscapes", "cityscapes-coarse")
_CONTEXT = ("pascal-context", "pascal-context-59")
_VOC = ("voc", "voc-sbd", "coco20")

# Numbers without a class that official label files store beside the void id.
_OTHER_VOID: dict[str, Iterable[int]] = {
    # All label ids; that of a licence plate is -1.
    **dict.fromkeys(_CITYSCAPES, range(-1, 34)),
    # Its files are those of pascal-context.
    "pascal-context-59": (VOID,),
}

_Values = Collection[int]


def allowed_values(dataset: Dataset) -> frozenset[int]:
    """Return the numbers that a label file of a dataset for segmentation may store."""
    ids = range(dataset.num_classes) if dataset.stored_ids is None else dataset.stored_ids
    return frozenset([*ids, dataset.void_id, *_OTHER_VOID.get(dataset.name, ())])


def count_values(numbers: NDArray[Any]) -> dict[int, int]:
    """Return the numbers in a label -> how many pixels.

    Numbers above 255, which the iterators take as void, are told apart.
    """
    if numbers.dtype == np.uint8:
        counts = np.bincount(numbers.reshape(-1), minlength=256)
        return {value: count for value, count in enumerate(counts.tolist()) if count}
    values, counts = np.unique(numbers, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist()))


@dataclass(frozen=True)
class _MixUp:
    """Labels that are often taken for a dataset's.

    Attributes:
        datasets: names of the datasets.
        matches: whether the numbers of a label, some of which are not allowed, are such.
        hint: what they are, and what to do.
    """

    datasets: tuple[str, ...]
    matches: Callable[[_Values], bool]
    hint: str


def _within(*groups: Iterable[int]) -> Callable[[_Values], bool]:
    known = frozenset(value for group in groups for value in group)
    return known.issuperset


def _exceeds(bound: int) -> Callable[[_Values], bool]:
    return lambda values: max(values) > bound


def _greys(colours: Iterable[palettes.Colour]) -> set[int]:
    """Return the grey of colours, 0 to 255, rounded as any library may."""
    greys = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in colours]
    return {int(grey + part) for grey in greys for part in (0, 0.5)}


# The first that matches is told.
_MIX_UPS = (
    _MixUp(
        _CITYSCAPES,
        _within(range(20), [VOID]),
        "these are train ids: take *_labelIds.png, not *_labelTrainIds.png",
    ),
    _MixUp(
        _CITYSCAPES,
        _exceeds(999),
        "these are instance ids: take *_labelIds.png, not *_instanceIds.png",
    ),
    _MixUp(
        ("ade20k",),
        _within(range(150), [VOID]),
        "these are classes from 0 and void 255: stored are classes from 1 and void 0",
    ),
    _MixUp(
        ("ade20k",),
        _exceeds(150),
        "these may be the classes of the full ADE20K: take those of SceneParsing, "
        "ADEChallengeData2016",
    ),
    _MixUp(
        _CONTEXT,
        _exceeds(59),
        "these may be the labels of 459 classes: make those of 59 by "
        "`ademx data lists pascal-context`",
    ),
    _MixUp(
        ("coco",),
        _within(range(81), [VOID]),
        "these may be class ids, 0 to 80: stored are category ids, 0 to 90",
    ),
    _MixUp(
        ("coco",),
        _within(range(256)),
        "these may be the classes of COCO-Stuff: make the labels by `ademx data lists coco`",
    ),
    _MixUp(
        _VOC,
        _within(_greys([*palettes.VOC[:21], palettes.VOC[VOID]])),
        "these are the palette's colours, turned into grey: take the palette PNGs of the archive",
    ),
    _MixUp(
        ("coco20",),
        _within(range(91), [VOID]),
        "these may be COCO's category ids: make the labels by `ademx data lists coco20`",
    ),
)

_COLOUR_HINTS = {
    **dict.fromkeys(_CITYSCAPES, "take *_labelIds.png, not *_color.png"),
    "ade20k": "take SceneParsing's, ADEChallengeData2016, not *_seg.png of the full ADE20K",
    **dict.fromkeys(
        (*_VOC, *_CONTEXT, "coco"),
        "take the palette PNGs of the archive, not copies that were saved in RGB",
    ),
}


def explain_values(dataset: Dataset, values: _Values) -> str:
    """Return what the numbers of a label with wrong ones probably are, "" where that is open."""
    for mix_up in _MIX_UPS:
        if dataset.name in mix_up.datasets and mix_up.matches(values):
            return mix_up.hint
    return ""


def explain_colours(dataset: Dataset) -> str:
    """Return what to do about labels that are colours."""
    return _COLOUR_HINTS.get(dataset.name, "store the number of its class for each pixel")

"""Which numbers a dataset's label files may store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from iters.datasets import VOID, Dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CITYSCAPES = ("cityscapes", "cityscapes-coarse")

# Numbers without a class that official label files store beside the void id.
_OTHER_VOID: dict[str, Iterable[int]] = {
    # All label ids; that of a licence plate is -1.
    **dict.fromkeys(_CITYSCAPES, range(-1, 34)),
    # Its files are those of pascal-context.
    "pascal-context-59": (VOID,),
}


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

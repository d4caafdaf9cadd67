"""Small drawn datasets in the layouts of the real ones, so that every command can be tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ademx.data.drawn import annotated, classification, segmentation
from ademx.data.drawn.files import Drawing
from ademx.data.new_folder import new_folder
from ademx.errors import InputError
from ademx.iteration import progress_bar
from iters.datasets import DATASETS

_WRITERS: dict[str, Callable[[Drawing], None]] = {
    "ilsvrc-cls": classification.write_ilsvrc,
    "places": classification.write_places,
    "voc": segmentation.write_voc,
    "voc-sbd": segmentation.write_voc_sbd,
    "coco": annotated.write_coco,
    "coco20": annotated.write_coco,
    "cityscapes": segmentation.write_cityscapes,
    "cityscapes-coarse": segmentation.write_cityscapes_coarse,
    "ade20k": segmentation.write_ade20k,
    "pascal-context": segmentation.write_pascal_context,
    "pascal-context-59": segmentation.write_pascal_context,
    "labelme": annotated.write_labelme,
}

# Not made: what other splits are put together to, and COCO's older year.
_OTHER_SPLITS = ("trainval", "trainaug", "train2014", "val2014")


def make_dataset(
    name: str, root: Path, *, images: int | Mapping[str, int], seed: int = 0
) -> dict[str, int]:
    """Draw a dataset in the layout in which the real one is distributed.

    The truth can be drawn again by :mod:`iters.drawn`. The files are written beside each other
    under another name first, so that a root never holds half a dataset.

    Args:
        name: key of :data:`iters.datasets.DATASETS`, or "labelme".
        root: the dataset's folder, new or empty.
        images: number of images of each split, or of all that the archives have; "train+" is
            that of VOC and SBD together.
        seed: the same one draws the same bytes, and fewer images are the first of more.

    Returns:
        The number of images of each split that was made.

    Raises:
        ValueError: the dataset or a split is unknown, a number is too small, or the root holds
            something.
        ademx.compat.MissingDependency: scipy, for MATLAB files, is not installed.
        OSError: the files cannot be written.
    """
    counts = _counts(name, images)
    if seed < 0:
        raise InputError(f"seed {seed}: expected 0 or above")
    with (
        new_folder(root, "--root") as folder,
        progress_bar(total=sum(counts.values()), unit="image", desc=name) as bar,
    ):
        _WRITERS[name](Drawing(folder, counts, seed, bar.update))
    return counts


def _counts(name: str, images: int | Mapping[str, int]) -> dict[str, int]:
    """Return the number of images of each split, in the order of the dataset's table."""
    if name not in _WRITERS:
        raise InputError(f"unknown dataset {name!r}: expected one of {', '.join(_WRITERS)}")
    known = DATASETS[name].splits if name in DATASETS else (annotated.LABELME_SPLIT,)
    splits = [split for split in known if split not in _OTHER_SPLITS]
    if not isinstance(images, Mapping):
        images = dict.fromkeys(splits, images)
    for split, count in images.items():
        if split not in splits:
            raise InputError(
                f"no split {split!r} of {name} can be drawn: expected one of {', '.join(splits)}"
            )
        if count < 1:
            raise InputError(f"{count} images of {split!r}: expected 1 or more")
    return {split: images[split] for split in splits if split in images}

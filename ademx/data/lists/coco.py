"""COCO's lists, and label images of 81 classes or of VOC's 21 from its annotations."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.data.lists.label_files import import_data_library
from ademx.data.lists.plans import Entries, Entry, Plan, Request, check_files
from ademx.errors import InputError
from ademx.text import first_few
from iters.datasets import DATASETS
from iters.files import open_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

FARTHEST = 1e5  # pixels from the image's corner; a point beyond is damage

# VOC's classes that have another name in COCO.
_COCO_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


@dataclass(frozen=True)
class CocoLabel:
    """The annotations of an image, from which its label is drawn.

    Attributes:
        file: the annotation file, for messages.
        height: of the image, pixels.
        width: the same.
        annotations: of the image, in the order of the file.
        stored_ids: stored id of each category id that is drawn.
        unlabelled: stored id where there is no annotation.
        order: which of overlapping annotations wins, "first" or "last".
    """

    file: Path
    height: int
    width: int
    annotations: tuple[dict[str, Any], ...]
    stored_ids: Mapping[int, int]
    unlabelled: int = 0
    order: str = "first"

    def read(self) -> NDArray[np.uint8]:
        """Return the stored ids, (H, W) uint8; see :class:`ademx.data.lists.plans.LabelSource`.

        Crowds are drawn as any object.

        Source: gluoncv, COCOSegmentation, which pre-trains for VOC by the same rule, the first.
        """
        coco = import_data_library("pycocotools.coco").COCO()
        masks = import_data_library("pycocotools.mask")
        stored = np.full((self.height, self.width), self.unlabelled, np.uint8)
        for annotation in self.annotations if self.order == "last" else self.annotations[::-1]:
            coco.imgs[annotation["image_id"]] = {"height": self.height, "width": self.width}
            try:
                shape, size = annotation["segmentation"], (self.height, self.width)
                if isinstance(shape, dict) and not fits_run_lengths(shape, size):
                    raise InputError("run lengths of another size")
                encoded = coco.annToRLE(annotation)
                left, top, width, height = map(int, masks.toBbox(encoded))
                inner = slice(top, top + height), slice(left, left + width)
                mask = masks.decode(encoded)[inner] > 0
                stored[inner][mask] = self.stored_ids[annotation["category_id"]]
            except Exception as error:  # pycocotools raises plain exceptions of several kinds
                cause = error if isinstance(error, InputError) else repr(error)
                raise InputError(
                    f"{self.file}: annotation {annotation.get('id')} of image "
                    f"{annotation['image_id']} cannot be drawn: {cause}"
                ) from error
        return stored


def category_ids(name: str) -> dict[int, int]:
    """Return the stored id of each category id of COCO.

    Args:
        name: "coco", whose label files store the category ids, or "coco20": VOC's class ids,
            for the 20 categories that are classes of VOC.
    """
    coco = DATASETS["coco"]
    ids = dict(zip(coco.class_names, coco.stored_ids or ()))
    if name == "coco":
        return {number: number for number in ids.values() if number}
    classes = DATASETS["coco20"].class_names
    return {
        ids[_COCO_NAMES.get(class_name, class_name)]: class_id
        for class_id, class_name in enumerate(classes)
        if class_id
    }


def plan_coco(request: Request) -> Plan:
    """Return the lists of the splits whose annotations and images are there.

    Raises:
        FileNotFoundError: none is there.
        MissingDependency: pycocotools is not installed.
    """
    import_data_library("pycocotools.coco")
    lists: dict[str, Entries] = {}
    for split in request.dataset.splits:
        parts = (
            request.root / "annotations" / f"instances_{split}.json",
            request.root / split,
        )
        there = [part.exists() for part in parts]
        if all(there):
            lists[split] = partial(_entries, request, split, parts[0])
        elif any(there):
            _log.warning("%s is left out: there is no %s", split, parts[there.index(False)])
    return Plan(lists)


def _entries(request: Request, split: str, path: Path) -> list[Entry]:
    """Return the samples of a split's annotation file in the order of the images' ids.

    Raises:
        ValueError: the annotation file is damaged.
        FileNotFoundError: images are missing.
    """
    stored_ids = category_ids(request.dataset.name)
    folder = request.root / ("labels20" if request.dataset.name == "coco20" else "labels81") / split
    coco = read_annotations(path)
    try:
        _check_categories(coco.cats, path)
        entries: list[Entry] = []
        skipped: list[str] = []
        for number in sorted(coco.imgs):
            image = coco.imgs[number]
            annotations = [a for a in coco.imgToAnns[number] if a["category_id"] in stored_ids]
            drawn = tuple(_without_degenerate(annotations, skipped))
            source = CocoLabel(path, image["height"], image["width"], drawn, stored_ids)
            file = request.root / split / image["file_name"]
            entries.append(Entry(file, folder / f"{file.stem}.png", source))
    except (KeyError, TypeError, AttributeError) as error:
        raise malformed(path, error) from error
    if skipped:
        _log.warning(
            "%s: skipped %d polygons of fewer than three points, or of points that lie nowhere: %s",
            *(path, len(skipped), first_few(skipped)),
        )
    check_files((entry.image for entry in entries), request)
    return entries


def _without_degenerate(
    annotations: Sequence[dict[str, Any]], skipped: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield annotations without their polygons that enclose nothing, and note those.

    Pycocotools takes four numbers for a box, refuses fewer, and may end the process where a point
    is far away.
    """
    for annotation in annotations:
        shape = annotation.get("segmentation")
        if isinstance(shape, list):  # of polygons; else run lengths
            kept = [polygon for polygon in shape if not is_degenerate(polygon)]
            if len(kept) < len(shape) or not kept:
                name = f"annotation {annotation.get('id')} of image {annotation['image_id']}"
                _log.debug("skipped polygons of %s", name)
                skipped += [name] * max(1, len(shape) - len(kept))
                annotation = {**annotation, "segmentation": kept}
            if not kept:
                continue
        yield annotation


def is_degenerate(polygon: Any) -> bool:
    """Return whether a list of x, y, x, y, … is no polygon; what is no list is found later."""
    if not isinstance(polygon, list):
        return False
    is_short = len(polygon) < 6 or len(polygon) % 2 == 1
    return is_short or any(
        isinstance(value, (int, float)) and not abs(value) <= FARTHEST for value in polygon
    )


def fits_run_lengths(shape: Mapping[str, Any], size: tuple[int, int]) -> bool:
    """Return whether run lengths, as numbers or compressed, are of an image of this size.

    Pycocotools writes beyond its memory where they are not.
    """
    counts = shape.get("counts")
    if not isinstance(shape.get("size"), list) or tuple(shape["size"]) != size:
        return False
    if isinstance(counts, str):
        counts = _unpacked(counts)
    return (
        isinstance(counts, list)
        and all(type(count) is int and count >= 0 for count in counts)
        and sum(counts) == math.prod(size)
    )


def _unpacked(text: str) -> list[int]:
    """Return compressed run lengths as numbers; of a damaged text none, or some below 0.

    A character above "0" holds five bits of a number, the lowest first, and a sixth where another
    follows; the last one's highest bit is the sign. From the fourth on, numbers are differences
    to the second last one before.

    Source: COCO API, maskApi.c, rleFrString.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64 or shift > 25:
            return []
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    return [] if shift else counts


def read_annotations(path: Path) -> Any:
    """Return pycocotools' index of an annotation file."""
    _log.info("reading %s", path)
    library = import_data_library("pycocotools.coco")
    try:
        # It would wait for a pipe; and stdout is for results.
        with open_file(path), contextlib.redirect_stdout(io.StringIO()):
            return library.COCO(str(path))
    except OSError:
        raise
    except Exception as error:  # of JSON, of missing keys, and pycocotools' own assertions
        raise malformed(path, error) from error


def malformed(path: Path, error: Exception) -> InputError:
    """Return the error for a file that is none of COCO's instances."""
    return InputError(f"{path}: not an annotation file of COCO's instances: {error!r}")


def _check_categories(categories: Mapping[int, dict[str, Any]], path: Path) -> None:
    """Raise ValueError where the file numbers other categories than COCO's."""
    coco = DATASETS["coco"]
    names = dict(zip(coco.stored_ids or (), coco.class_names))
    del names[0]  # the background, which is no category
    for number, category in categories.items():
        if category["name"] != names.get(number):
            expected = repr(names[number]) if number in names else "no such number"
            raise InputError(
                f"{path}: category {number} is {category['name']!r}: expected {expected}: another "
                "set of categories than COCO's: `ademx data import coco` makes a dataset of it"
            )

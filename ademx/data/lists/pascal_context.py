"""PASCAL Context's lists, and labels of 59 classes from the distribution's 459, or from others.

Source: Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in
the Wild", CVPR 2014: the 59 most frequent classes are told apart, the others are background.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ademx.data.lists.coco import CocoLabel
from ademx.data.lists.label_files import NumberedLabel, import_data_library
from ademx.data.lists.plans import (
    Entry,
    LabelSource,
    Plan,
    Request,
    check_files,
    read_lines,
)
from ademx.errors import InputError
from iters.datasets import DATASETS, VOID
from iters.decode import DECODING_ERRORS
from iters.files import read_file
from iters.images import load_label
from iters.lists import voc_folders
from iters.variants import explain_split_values

_log = logging.getLogger(__name__)

_NUM_LABELS = 459
_LABELS = "SegmentationClassContext"  # folder of our PNGs, and of those of the usual converters
_LABELS_BESIDE = "labels60"  # of ours, where the converters' are in the other
_DETAIL = "trainval_merged.json"
_MAX_SIDE = 10_000  # pixels; VOC's images have 500
_NUM_LOOKED_AT = 200  # PNGs, to find out how they number the classes

# What the distribution's label maps store for each of the 59 classes.
LABEL_IDS = {
    **{"aeroplane": 2, "bag": 9, "bed": 18, "bedclothes": 19, "bench": 22, "bicycle": 23},
    **{"bird": 25, "boat": 31, "book": 33, "bottle": 34, "building": 44, "bus": 45},
    **{"cabinet": 46, "car": 59, "cat": 65, "ceiling": 68, "chair": 72, "cloth": 80},
    **{"computer": 85, "cow": 98, "cup": 104, "curtain": 105, "dog": 113, "door": 115},
    **{"fence": 144, "floor": 158, "flower": 159, "food": 162, "grass": 187, "ground": 189},
    **{"horse": 207, "keyboard": 220, "light": 232, "motorbike": 258, "mountain": 259},
    **{"mouse": 260, "person": 284, "plate": 295, "platform": 296, "pottedplant": 308},
    **{"road": 324, "rock": 326, "sheep": 347, "shelves": 349, "sidewalk": 354, "sign": 355},
    **{"sky": 360, "snow": 366, "sofa": 368, "table": 397, "track": 415, "train": 416},
    **{"tree": 420, "truck": 424, "tvmonitor": 427, "wall": 440, "water": 445},
    **{"window": 454, "wood": 458},
}
_OTHER_NAMES = {"diningtable": "table"}  # VOC's name


def _class_ids(numbers: Mapping[str, int], *, size: int, others: int) -> bytes:
    """Return the class id of each number from 0 on, for :class:`NumberedLabel`.

    Args:
        numbers: of each of the 59 classes.
        size: how many numbers there are.
        others: class id of all other numbers.
    """
    table = bytearray([others]) * size
    for class_id, name in enumerate(DATASETS["pascal-context"].class_names[1:], start=1):
        table[numbers[name]] = class_id
    return bytes(table)


def plan_pascal_context(request: Request) -> Plan:
    """Return the lists of VOC 2010's images that have a label.

    Labels are the distribution's label maps, else the Detail API's annotations, else PNGs that a
    converter has left.

    Raises:
        FileNotFoundError: VOC 2010 or the labels are missing.
        ValueError: the labels are numbered in another way, or damaged.
        MissingDependency: scipy or pycocotools is not installed.
    """
    bases = [f for f in voc_folders(request.root, "2010") if (f / "JPEGImages").is_dir()]
    if not bases:
        raise request.not_found("no images")
    base = bases[0]
    folders = list(dict.fromkeys([request.root, base, base.parent]))
    maps = next((f / "trainval" for f in folders if any((f / "trainval").glob("*.mat"))), None)
    merged = next((f / _DETAIL for f in folders if (f / _DETAIL).is_file()), None)
    first = _first_number(base / _LABELS, request)
    labels = base / (_LABELS if first is None else _LABELS_BESIDE)
    sources: Mapping[str, LabelSource | None]
    splits: Mapping[str, Sequence[str]] = {}
    sets = [base / "ImageSets" / "Main"]
    if maps is not None:
        sources = _label_maps(maps)
    elif merged is not None:
        sources, splits = _detail_labels(merged)
    elif any((base / _LABELS).glob("*.png")):
        sources = _pngs(base / _LABELS, first)
        sets = [base / "ImageSets" / "SegmentationContext", *sets]  # of a converter
    else:
        looked = ", ".join(map(str, folders))
        raise request.not_found(
            f"no labels (looked for trainval/*.mat and {_DETAIL} in {looked}, and for "
            f"{base / _LABELS}/*.png)"
        )
    lists = {}
    for split in request.dataset.splits:
        names = splits[split] if split in splits else _listed_names(split, sets, request)
        lists[split] = [
            Entry(base / "JPEGImages" / f"{name}.jpg", labels / f"{name}.png", sources[name])
            for name in names
            if name in sources
        ]
        check_files((entry.image for entry in lists[split]), request)
    return Plan(lists)


def _listed_names(split: str, folders: Sequence[Path], request: Request) -> list[str]:
    """Return the names that the first of the folders that has a split's list has in it."""
    places = [folder / f"{split}.txt" for folder in folders]
    path = next((path for path in places if path.is_file()), places[-1])
    check_files([path], request)
    return read_lines(path)


def _label_maps(maps: Path) -> dict[str, NumberedLabel]:
    """Return the label maps of 459 classes."""
    import_data_library("scipy.io")
    _check_names(maps)
    ids = _class_ids(LABEL_IDS, size=_NUM_LABELS + 1, others=0)
    return {path.stem: NumberedLabel(path, ids, "LabelMap") for path in maps.glob("*.mat")}


def _pngs(folder: Path, first: int | None) -> Mapping[str, LabelSource | None]:
    """Return the PNGs in a folder, ours, which are used as they are, or a converter's.

    A converter (mmsegmentation's, gluoncv's) numbers the 59 names in alphabetical order, from 1 on,
    where the background is 0, or from 0 on, where it is 255.
    """
    paths = {path.stem: path for path in folder.glob("*.png")}
    if first is None:
        return dict.fromkeys(paths)
    numbers = {name: number for number, name in enumerate(sorted(LABEL_IDS), start=first)}
    ids = bytearray(_class_ids(numbers, size=256, others=VOID))
    ids[0 if first else VOID] = 0
    return {name: NumberedLabel(path, bytes(ids)) for name, path in paths.items()}


def _first_number(folder: Path, request: Request) -> int | None:
    """Return the number of the first class in a converter's PNGs; None where there are none.

    Ours, and the authors' own of 59 classes, have a palette, and number the classes otherwise.

    Raises:
        ValueError: PNGs with a palette number the classes from 0.
    """
    paths = sorted(folder.glob("*.png"))
    seen: dict[bool, set[int]] = {True: set(), False: set()}
    for path in paths[:: max(1, len(paths) // _NUM_LOOKED_AT)]:
        with contextlib.suppress(*DECODING_ERRORS):  # a damaged one is found where it is read
            with Image.open(path) as image:
                has_palette = image.mode == "P"
            seen[has_palette].update(np.unique(load_label(path)).tolist())
    if not seen[False]:
        hint = explain_split_values(request.dataset, seen[True])
        if hint:
            raise InputError(f"{folder}: {hint}")
        return None
    first = 0 if VOID in seen[False] and len(LABEL_IDS) not in seen[False] else 1
    _log.warning(
        "%s: grey PNGs, as mmsegmentation and gluoncv write them: classes in alphabetical order, "
        "from %d, the background %d: labels in this project's order go into %s",
        *(folder, first, 0 if first else VOID, folder.with_name(_LABELS_BESIDE)),
    )
    return first


def _detail_labels(path: Path) -> tuple[dict[str, CocoLabel], dict[str, list[str]]]:
    """Return the labels in the Detail API's annotation file, and the names of each split.

    Labels are drawn as it does, the last on top.

    Raises:
        ValueError: it is no such file.
    """
    import_data_library("pycocotools.coco")
    _log.info("reading %s", path)
    try:
        content = json.loads(read_file(path))
        classes = _detail_classes(content["categories"])
        masks: dict[int, list[dict[str, Any]]] = {}
        for part in content["annos_segmentation"]:
            drawn = {name: part[name] for name in ("image_id", "category_id", "segmentation")}
            masks.setdefault(part["image_id"], []).append({"id": part.get("id"), **drawn})
        sources: dict[str, CocoLabel] = {}
        splits: dict[str, list[str]] = {"train": [], "val": []}
        for image in content["images"]:
            if image["phase"] in splits:
                name, parts = Path(image["file_name"]).stem, tuple(masks.get(image["image_id"], ()))
                height, width = int(image["height"]), int(image["width"])
                if not (0 < height < _MAX_SIDE and 0 < width < _MAX_SIDE):
                    raise InputError(f"{name} has {width}×{height} pixels")
                splits[image["phase"]].append(name)
                sources[name] = CocoLabel(path, height, width, parts, classes, order="last")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not the Detail API's annotation file: {error!r}") from error
    return sources, {split: sorted(names) for split, names in splits.items()}


def _detail_classes(categories: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Return the class id of each category of the Detail API; its others are background."""
    names = DATASETS["pascal-context"].class_names
    by_name = {name: class_id for class_id, name in enumerate(names)}
    by_label = {LABEL_IDS[name]: class_id for name, class_id in by_name.items() if class_id}
    classes = {}
    for category in categories:
        number, name = category["category_id"], _OTHER_NAMES.get(category["name"], category["name"])
        classes[number] = by_name.get(name, by_label.get(number, 0))
    missing = sorted(set(range(1, len(names))) - set(classes.values()))
    if missing:
        raise InputError(f"no category is {names[missing[0]]!r}")
    return classes


def _check_names(maps: Path) -> None:
    """Compare our names with the distribution's, where its `labels.txt` is there.

    Raises:
        ValueError: they differ, or the file is malformed.
    """
    for path in (maps / "labels.txt", maps.parent / "labels.txt"):
        if path.is_file():
            names = dict(_parse_name(line, path) for line in read_lines(path))
            for name, number in LABEL_IDS.items():
                found = names.get(number)
                if _OTHER_NAMES.get(str(found), found) != name:
                    raise InputError(
                        f"{path}: label {number} is {found}: expected {name}: these are not the "
                        "labels of the distribution with 459 classes"
                    )
            return


def _parse_name(line: str, path: Path) -> tuple[int, str]:
    number, colon, name = line.partition(":")
    if not (colon and number.strip().isdecimal()):
        raise InputError(f"{path}: found {line!r}: expected a number, a colon and a name")
    return int(number), name.strip()

"""PASCAL Context's lists, and labels of 59 classes from the distribution's 459.

Source: Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in
the Wild", CVPR 2014: the 59 most frequent classes are told apart, the others are background.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ademx.data.lists.label_files import checked_label, import_data_library, read_matlab
from ademx.data.lists.plans import (
    Entry,
    Plan,
    PlannedList,
    Request,
    check_files,
    read_lines,
)
from ademx.errors import InputError
from iters.datasets import DATASETS
from iters.lists import voc_folders

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUM_LABELS = 459

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


@dataclass(frozen=True)
class ContextLabel:
    """A label of PASCAL Context.

    Attributes:
        path: a MATLAB file whose `LabelMap` is (H, W) label ids, 0 to 459.
    """

    path: Path

    def read(self) -> NDArray[np.uint8]:
        """Return the class ids, (H, W) uint8; see :class:`ademx.data.lists.plans.LabelSource`."""
        content = read_matlab(self.path)
        if "LabelMap" not in content:
            names = [name for name in content if not name.startswith("__")]
            raise InputError(
                f"{self.path}: found {', '.join(names) or 'nothing'}: expected LabelMap"
            )
        stored = checked_label(content["LabelMap"], path=self.path, max_id=_NUM_LABELS)
        table = np.zeros(_NUM_LABELS + 1, np.uint8)
        for class_id, name in enumerate(DATASETS["pascal-context"].class_names[1:], start=1):
            table[LABEL_IDS[name]] = class_id
        classes: NDArray[np.uint8] = table[stored]
        return classes


def plan_pascal_context(request: Request) -> Plan:
    """Return the lists of VOC 2010's images that have a label map.

    Raises:
        FileNotFoundError: VOC 2010 or the label maps are missing.
        ValueError: the distribution numbers its labels in another way.
        MissingDependency: scipy is not installed.
    """
    import_data_library("scipy.io")
    bases = [f for f in voc_folders(request.root, "2010") if (f / "JPEGImages").is_dir()]
    if not bases:
        raise request.not_found("no images")
    base = bases[0]
    maps = _find_maps(base, request)
    _check_names(maps)
    names_with_map = {path.stem for path in maps.glob("*.mat")}
    lists = []
    for split in request.dataset.splits:
        names_file = base / "ImageSets" / "Main" / f"{split}.txt"
        check_files([names_file], request)
        entries = [
            Entry(
                base / "JPEGImages" / f"{name}.jpg",
                base / "SegmentationClassContext" / f"{name}.png",
                ContextLabel(maps / f"{name}.mat"),
            )
            for name in read_lines(names_file)
            if name in names_with_map
        ]
        check_files((entry.image for entry in entries), request)
        lists.append(PlannedList(split, entries))
    return Plan(lists)


def _find_maps(base: Path, request: Request) -> Path:
    folders = [folder / "trainval" for folder in dict.fromkeys([request.root, base, base.parent])]
    for folder in folders:
        if any(folder.glob("*.mat")):
            return folder
    raise request.not_found(f"no label maps (looked in {', '.join(map(str, folders))})")


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

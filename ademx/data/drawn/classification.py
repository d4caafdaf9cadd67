"""Drawn images in the layouts in which the datasets for classification are distributed."""

from __future__ import annotations

import string
from collections import Counter
from typing import Any

import numpy as np

from ademx.data.drawn.files import Drawing, save_image, save_lines, save_mat
from ademx.data.lists.classification import PLACES_FILES
from iters.datasets import DATASETS

_SYNSETS = 1000
_PLACES = 365

# The devkit's file of synsets also has those above the 1000: a few stand for them.
_PARENT_SYNSETS = 3


def write_ilsvrc(drawing: Drawing) -> None:
    """Write train in a folder for each synset, val and test flat, and the devkit with val's truth.

    All synsets have a folder, as their order numbers the classes; an empty one, where there are
    fewer images than synsets. Their numbers are made up: WordNet's end far below 90000000.
    """
    synsets = [f"n{90000000 + 7 * class_id}" for class_id in range(_SYNSETS)]
    # The devkit numbers the synsets in another order than that of their names.
    devkit_ids = [619 * class_id % _SYNSETS + 1 for class_id in range(_SYNSETS)]
    in_class: Counter[int] = Counter()
    truth = []
    for split in drawing.counts:
        if split == "train":
            for synset in synsets:
                (drawing.folder / split / synset).mkdir(parents=True)
        for number, (image, class_id) in enumerate(drawing.class_images(_SYNSETS, split), start=1):
            name = f"ILSVRC2012_{split}_{number:08d}.JPEG"
            if split == "train":
                in_class[class_id] += 1
                name = f"{synsets[class_id]}/{synsets[class_id]}_{in_class[class_id]}.JPEG"
            if split == "val":
                truth.append(str(devkit_ids[class_id]))
            save_image(drawing.folder / split / name, image)
    devkit = drawing.folder / "ILSVRC2012_devkit_t12" / "data"
    save_mat(devkit / "meta.mat", {"synsets": _synset_structs(synsets, devkit_ids, in_class)})
    if "val" in drawing.counts:
        save_lines(devkit / "ILSVRC2012_validation_ground_truth.txt", truth)


def _synset_structs(synsets: list[str], devkit_ids: list[int], images: Counter[int]) -> Any:
    """Return the struct array of the devkit's meta.mat: the leaves in order of their ids first."""
    names = DATASETS["ilsvrc-cls"].class_names
    rows: list[tuple[Any, ...]] = sorted(
        (float(devkit_id), synset, name, "drawn shapes", 0.0, [], 0.0, float(images[class_id]))
        for class_id, (devkit_id, synset, name) in enumerate(zip(devkit_ids, synsets, names))
    )
    for number in range(_PARENT_SYNSETS):
        children = [float(child) for child in range(1 + number, _SYNSETS + 1, _PARENT_SYNSETS)]
        # A number among those of the leaves: who sorts all rows by it gets wrong classes.
        synset = f"n{90000001 + 700 * number}"
        row = (_SYNSETS + 1.0 + number, synset, "shapes", "", len(children), children, 1.0, 0.0)
        rows.append(row)
    fields = "ILSVRC2012_ID WNID words gloss num_children children wordnet_height num_train_images"
    structs = np.empty((len(rows), 1), [(field, object) for field in fields.split()])
    for position, row in enumerate(rows):
        structs[position, 0] = row
    return structs


def write_places(drawing: Drawing) -> None:
    """Write data_256, val_256, test_256 and their lists; the names of the classes are made up."""
    classes = [_place(class_id) for class_id in range(_PLACES)]
    save_lines(
        drawing.folder / "categories_places365.txt",
        (f"{name} {class_id}" for class_id, name in enumerate(classes)),
    )
    for split in drawing.counts:
        file, folder = PLACES_FILES[split]
        in_class: Counter[int] = Counter()
        lines = []
        for number, (image, class_id) in enumerate(drawing.class_images(_PLACES, split), start=1):
            in_class[class_id] += 1
            name = f"Places365_{split}_{number:08d}.jpg"
            if split == "train":
                name = f"{classes[class_id]}/{in_class[class_id]:08d}.jpg"
            save_image(drawing.folder / folder / name.lstrip("/"), image)
            lines.append(name if split == "test" else f"{name} {class_id}")
        save_lines(drawing.folder / file, sorted(lines))


def _place(class_id: int) -> str:
    """Return "/<letter>/<class>", of every seventh class with a part more, as the dataset has."""
    letter = string.ascii_lowercase[class_id * 26 // _PLACES]
    return f"/{letter}/{letter}_place_{class_id:03d}" + ("/indoor" if class_id % 7 == 0 else "")

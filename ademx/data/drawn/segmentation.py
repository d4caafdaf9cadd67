"""Drawn scenes in the layouts in which the datasets for segmentation are distributed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.data.drawn.files import (
    Drawing,
    save_image,
    save_label,
    save_lines,
    save_mat,
)
from ademx.data.lists.label_files import import_data_library
from ademx.data.lists.pascal_context import LABEL_IDS
from iters.datasets import DATASETS, VOID, encode_label
from iters.drawn import BONNET_HEIGHT, Scene, draw_for_segmentation

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CITIES = {
    "train": ("aachen", "bochum"),
    "val": ("frankfurt", "lindau"),
    "test": ("berlin", "bielefeld"),
    "train_extra": ("augsburg", "bayreuth"),
}
# Cityscapes' label ids without a class: not labelled, the camera's own car, anything static.
_UNLABELED, _EGO_VEHICLE, _STATIC = 0, 1, 4
_FIRST_WITH_INSTANCES = 24  # person; all above have instances too

_ADE20K_FOLDERS = {"train": "training", "val": "validation"}

# Two of the 459 ids that have no class among PASCAL-Context's 59: the first and the last.
_CONTEXT_BACKGROUND = (1, 459)


# ---- VOC, and its images with the labels of SBD -------------------------------------------------


def write_voc(drawing: Drawing) -> None:
    """Write VOCdevkit/VOC2012: images, palette labels, and the lists of the splits."""
    base = drawing.folder / "VOCdevkit" / "VOC2012"
    names: dict[str, list[str]] = {}
    for split, name, scene in _voc_scenes(drawing, "voc", base, year=2007):
        names.setdefault(split, []).append(name)
        if split != "test":
            _save_voc_label(base, name, scene)
    _write_lists(base / "ImageSets" / "Segmentation", names)


def write_voc_sbd(drawing: Drawing) -> None:
    """Write VOC's folder and SBD's, benchmark_RELEASE.

    Half of "train+" is VOC's train, the rest has labels in SBD alone. SBD also has every other
    image of VOC's train and val, with labels that reach the objects' borders.
    """
    base = drawing.folder / "VOCdevkit" / "VOC2012"
    sbd = drawing.folder / "benchmark_RELEASE" / "dataset"
    names: dict[str, list[str]] = {}
    sbd_names = []
    num_voc = (drawing.counts.get("train+", 0) + 1) // 2  # those behind are SBD's alone
    for split, name, scene in _voc_scenes(drawing, "voc", base, year=2008):
        number = len(names.setdefault(split, []))
        names[split].append(name)
        is_vocs = split == "val" or number < num_voc
        if is_vocs:
            _save_voc_label(base, name, scene)
        if not is_vocs or number % 2 == 0:
            sbd_names.append(name)
            label = draw_for_segmentation("sbd", split, number, seed=drawing.seed).label
            save_image(sbd / "img" / f"{name}.jpg", scene.image)
            save_mat(sbd / "cls" / f"{name}.mat", {"GTcls": _sbd_struct(label)})
    if "train+" in names:
        names["train"] = names.pop("train+")[:num_voc]
    _write_lists(base / "ImageSets" / "Segmentation", names)
    save_lines(sbd / "train.txt", sbd_names[::2])
    save_lines(sbd / "val.txt", sbd_names[1::2])


def _voc_scenes(
    drawing: Drawing, scenery: str, base: Path, *, year: int
) -> Iterator[tuple[str, str, Scene]]:
    """Write the images, numbered throughout; yield split, name and scene of each."""
    first = 1
    for split, count in drawing.counts.items():
        for number, scene in enumerate(drawing.scenes(scenery, split), start=first):
            name = f"{year}_{number:06d}"
            save_image(base / "JPEGImages" / f"{name}.jpg", scene.image)
            yield split, name, scene
        first += count


def _write_lists(folder: Path, names: dict[str, list[str]]) -> None:
    for split, its_names in names.items():
        save_lines(folder / f"{split}.txt", its_names)
    save_lines(folder / "trainval.txt", [*names.get("train", ()), *names.get("val", ())])


def _save_voc_label(base: Path, name: str, scene: Scene) -> None:
    dataset = DATASETS["voc"]
    path = base / "SegmentationClass" / f"{name}.png"
    save_label(path, encode_label(dataset, scene.label), palette=dataset.palette)


def _sbd_struct(label: NDArray[np.uint8]) -> dict[str, Any]:
    """Return what SBD's file of an image holds: its classes, and each one's border pixels."""
    sparse = import_data_library("scipy.sparse")
    erode = import_data_library("scipy.ndimage").binary_erosion
    boundaries = np.empty((20, 1), object)
    for class_id in range(1, 21):
        mask = label == class_id
        # The image's edge is no border.
        boundaries[class_id - 1, 0] = sparse.csc_matrix(mask & ~erode(mask, border_value=1))
    present = np.unique(label)
    return {
        "Boundaries": boundaries,
        "Segmentation": label,
        "CategoriesPresent": present[present > 0][:, None],
    }


# ---- Cityscapes, fine and coarse ----------------------------------------------------------------


def write_cityscapes(drawing: Drawing) -> None:
    """Write leftImg8bit and gtFine; the labels of test tell no class, as in the archive.

    Beside each label lies that of its instances.
    """
    for path, scene in _street_scenes(drawing, "cityscapes"):
        split = path.parts[0]
        label = np.full_like(scene.label, VOID) if split == "test" else scene.label
        stored, truth = _with_void_ids(label), drawing.folder / "gtFine" / path
        _save_city_label(truth, "gtFine_labelIds", stored)
        _save_city_label(truth, "gtFine_instanceIds", _instance_ids(stored, scene.things))


def write_cityscapes_coarse(drawing: Drawing) -> None:
    """Write leftImg8bit and gtCoarse."""
    for path, scene in _street_scenes(drawing, "cityscapes-coarse"):
        stored = encode_label(DATASETS["cityscapes"], scene.label)
        _save_city_label(drawing.folder / "gtCoarse" / path, "gtCoarse_labelIds", stored)


def _street_scenes(drawing: Drawing, scenery: str) -> Iterator[tuple[Path, Scene]]:
    """Write the images; yield `<split>/<city>/<what file names begin with>` with each scene."""
    for split, count in drawing.counts.items():
        first, second = _CITIES[split]
        half = (count + 1) // 2
        for number, scene in enumerate(drawing.scenes(scenery, split)):
            city, sequence = (first, number) if number < half else (second, number - half)
            path = Path(split, city, f"{city}_{sequence:06d}_000019")
            image = path.with_name(f"{path.name}_leftImg8bit.png")
            save_image(drawing.folder / "leftImg8bit" / image, scene.image)
            yield path, scene


def _save_city_label(path: Path, kind: str, stored: NDArray[Any]) -> None:
    save_label(path.with_name(f"{path.name}_{kind}.png"), stored)


def _instance_ids(stored: NDArray[np.uint8], things: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return label ids, and for classes with instances a thousand times that and a number."""
    ids = stored.astype(np.uint16)
    for label_id in np.unique(stored[stored >= _FIRST_WITH_INSTANCES]):
        is_class = stored == label_id
        for number, thing in enumerate(np.unique(things[is_class])):
            ids[is_class & (things == thing)] = 1000 * int(label_id) + number
    return ids


def _with_void_ids(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return label ids, in which what has no class is the own car (below) or static."""
    stored = encode_label(DATASETS["cityscapes"], label)
    rows = np.arange(len(label))[:, None]
    void = np.where(rows >= (1 - BONNET_HEIGHT) * len(label), _EGO_VEHICLE, _STATIC)
    return np.where(label == VOID, void, stored).astype(np.uint8)


# ---- ADE20K and PASCAL-Context ------------------------------------------------------------------


def write_ade20k(drawing: Drawing) -> None:
    """Write ADEChallengeData2016, images and labels, and the images of release_test."""
    base = drawing.folder / "ADEChallengeData2016"
    for split in drawing.counts:
        for number, scene in enumerate(drawing.scenes("ade20k", split), start=1):
            name = f"ADE_{split}_{number:08d}"
            if split == "test":
                save_image(drawing.folder / "release_test/testing" / f"{name}.jpg", scene.image)
                continue
            folder = _ADE20K_FOLDERS[split]
            save_image(base / "images" / folder / f"{name}.jpg", scene.image)
            stored = encode_label(DATASETS["ade20k"], scene.label)
            save_label(base / "annotations" / folder / f"{name}.png", stored)


def write_pascal_context(drawing: Drawing) -> None:
    """Write VOCdevkit/VOC2010 with its lists, and the labels of 459 classes."""
    base = drawing.folder / "VOCdevkit" / "VOC2010"
    names: dict[str, list[str]] = {}
    for split, name, scene in _voc_scenes(drawing, "pascal-context", base, year=2008):
        names.setdefault(split, []).append(name)
        save_mat(
            drawing.folder / "trainval" / f"{name}.mat", {"LabelMap": _context_ids(scene.label)}
        )
    _write_lists(base / "ImageSets" / "Main", names)


def _context_ids(label: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return ids of the 459 classes; the background is one on the left, another on the right."""
    names: Sequence[str] = DATASETS["pascal-context"].class_names
    ids = np.array([0, *(LABEL_IDS[name] for name in names[1:])], np.uint16)
    left = np.arange(label.shape[1]) < label.shape[1] // 2
    background = np.where(left, *_CONTEXT_BACKGROUND)
    return np.where(label == 0, background, ids[label]).astype(np.uint16)

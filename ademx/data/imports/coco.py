"""Annotations in the form of COCO's instances, whatever their categories."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ademx.data.imports.classes import Classes
from ademx.data.imports.source import Picture, Source, find_image, fits, usable
from ademx.data.imports.write import CocoImportOptions, Imported, import_dataset
from ademx.data.lists.coco import (
    CocoLabel,
    fits_run_lengths,
    is_degenerate,
    malformed,
    read_annotations,
)
from ademx.errors import InputError, MissingFile
from ademx.text import first_few
from iters.files import read_file

_log = logging.getLogger(__name__)

_SPLITS = ("train", "val", "test")


def import_coco(source: Path, options: CocoImportOptions) -> Imported:
    """Make a dataset of annotations in COCO's form; see :func:`import_dataset`.

    Args:
        source: an annotation file, or a folder with one for each split.
        options: what to make.

    Raises:
        ValueError, OSError: see :func:`import_dataset`.
        ademx.compat.MissingDependency: pycocotools is not installed.
    """
    return import_dataset(lambda: _read(source, options), options)


def _read(source: Path, options: CocoImportOptions) -> Source:
    paths = _annotation_files(source) if source.is_dir() else [source]
    pictures: list[Picture] = []
    labels: dict[str, None] = {}
    skipped: Counter[str] = Counter()
    for path, (said, split) in zip(paths, _splits(paths)):
        folders = [options.images] if options.images else _image_folders(path, said)
        index = read_annotations(path)
        try:
            images = list(index.imgs.values())
            file = _File(path, split, index, _names(index), folders, options.exif)
            _check_ids(file)
            if lost := sum(len(index.imgToAnns[key]) for key in {*index.imgToAnns} - {*index.imgs}):
                skipped["annotation of an image that the file does not list"] += lost
            labels.update(dict.fromkeys(file.names.values()))
            pictures += usable(
                images,
                partial(file.read, skipped=skipped),
                skip_broken=options.skip_broken,
                unit="image",
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise malformed(path, error) from error
    _warn_of_shared(pictures)
    return Source(pictures, list(labels), skipped)


def _warn_of_shared(pictures: Iterable[Picture]) -> None:
    splits: dict[str, list[str | None]] = {}
    for picture in pictures:
        splits.setdefault(str(picture.file), []).append(picture.split)
    shared = [file for file, of in splits.items() if len(set(of)) > 1]
    if shared:
        _log.warning(
            "%d images are in more than one split, as in %s: a test on one of the splits is not "
            "on unseen images: %s",
            *(len(shared), " and ".join(map(str, splits[shared[0]])), first_few(shared)),
        )


@dataclass(frozen=True)
class _File:
    """An annotation file.

    Attributes:
        path: its path.
        split: of its images; None where the import splits.
        index: pycocotools' index of it.
        names: of the category ids.
        folders: where its images may be.
        rule: when an image is turned.
    """

    path: Path
    split: str | None
    index: Any
    names: Mapping[Any, str]
    folders: Sequence[Path]
    rule: str

    def read(self, image: Mapping[str, Any], *, skipped: Counter[str]) -> Picture:
        """Return an image with its annotations, and note those that cannot be drawn.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it has another size than the file states, or is damaged.
        """
        said = image["file_name"]
        path = find_image(said, self.folders)
        if path is None:
            places = ", ".join(str(folder) for folder in self.folders if folder.is_dir())
            raise MissingFile(f"{said}: no such image in {places}: --images says where they are")
        try:
            size, orientation, turned = fits(
                read_file(path),
                height=image.get("height"),
                width=image.get("width"),
                rule=self.rule,
            )
        except InputError as error:
            raise InputError(f"{path} {error}") from None
        annotations = tuple(_drawable(self.index.imgToAnns[image["id"]], size, skipped))
        parts = PurePosixPath(said.replace("\\", "/")).parts
        inner = [part for part in parts if part not in ("/", "..") and ":" not in part]
        name = PurePosixPath(self.split or "", *inner).with_suffix("").as_posix()
        return Picture(
            name=name,
            file=path,
            read=partial(read_file, path),
            suffix=path.suffix,
            orientation=orientation,
            turned=turned,
            counts=Counter(self.names[one["category_id"]] for one in annotations),
            labelled=partial(self._labelled, size, annotations),
            split=self.split,
        )

    def _labelled(
        self, size: tuple[int, int], annotations: Iterable[dict[str, Any]], classes: Classes
    ) -> CocoLabel:
        known = classes.ids
        ids = {number: known[name] for number, name in self.names.items() if name in known}
        drawn = tuple(one for one in annotations if one["category_id"] in ids)
        return CocoLabel(self.path, *size, drawn, ids, classes.unlabelled, classes.order)


def _check_ids(file: _File) -> None:
    """Raise ValueError where there is no image, or where two images or categories share an id."""
    listed = file.index.dataset.get("images", [])
    if not listed:
        raise InputError(
            f"{file.path}: no images: expected annotations in COCO's form; those of labelme are "
            "imported by `ademx data import labelme`"
        )
    for kind in ("images", "categories"):
        counts = Counter(item["id"] for item in file.index.dataset.get(kind, []))
        number, count = max(counts.items(), key=lambda item: item[1], default=(None, 1))
        if count > 1:
            raise InputError(f"{file.path}: {count} {kind} have the id {number}: expected one each")


def _names(index: Any) -> dict[Any, str]:
    """Return a name for each category id, those of the file first, in order of the ids."""
    numbers = list(index.cats)
    if all(isinstance(number, int) for number in numbers):
        numbers.sort()
    used = (one["category_id"] for one in index.dataset.get("annotations", []))
    found: dict[Any, str] = {}
    for number in dict.fromkeys([*numbers, *used]):
        name = index.cats.get(number, {}).get("name")
        is_named = isinstance(name, str) and name.strip()
        found[number] = name if is_named else f"category {number}"
    return found


def _drawable(
    annotations: Iterable[dict[str, Any]], size: tuple[int, int], skipped: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield the annotations that pycocotools can draw, without what encloses nothing."""
    for annotation in annotations:
        shape = annotation.get("segmentation")
        if isinstance(shape, list):
            kept = [polygon for polygon in shape if _is_polygon(polygon)]
            if lost := len(shape) - len(kept):
                skipped["polygon of fewer than three points, or that lies nowhere"] += lost
            if kept:
                yield {**annotation, "segmentation": kept}
        if not shape:
            skipped["annotation without an outline, of a box alone"] += 1
        elif isinstance(shape, dict) and fits_run_lengths(shape, size):
            yield annotation
        elif not isinstance(shape, list):
            skipped["run lengths that are not of the image"] += 1


def _is_polygon(polygon: Any) -> bool:
    return (
        isinstance(polygon, list)
        and all(isinstance(value, (int, float)) for value in polygon)
        and not is_degenerate(polygon)
    )


def _annotation_files(folder: Path) -> list[Path]:
    """Return the annotation files in a folder, in those in it, and in annotations/."""
    found = sorted({*folder.glob("*.json"), *folder.glob("*/*.json")})
    instances = [path for path in found if path.name.startswith("instances_")]
    if not found:
        raise MissingFile(
            f"{folder}: no .json file: expected annotations in COCO's form in it, in "
            "annotations/ or in a folder for each split"
        )
    return instances or found


def _splits(paths: Sequence[Path]) -> list[tuple[str, str | None]]:
    """Return what each file calls its split, or its folder if all files are alike, and the split.

    That is train, val or test if the name begins so and is alone; None of a single file.
    """
    said = [path.stem.replace("instances_", "") for path in paths]
    if len(paths) == 1:
        return [(said[0], None)]
    if len(set(said)) == 1:
        said = [path.parent.name for path in paths]
    names = [re.sub(r"[^\w-]+", "-", name) for name in said]
    short = [next((one for one in _SPLITS if name.startswith(one)), name) for name in names]
    splits = [one if short.count(one) == 1 else name for one, name in zip(short, names)]
    if len(set(splits)) < len(splits):
        raise InputError(
            f"{', '.join(map(str, paths))}: expected a name of its own for each split: import one "
            "at a time"
        )
    return list(zip(said, splits))


def _image_folders(path: Path, split: str) -> list[Path]:
    """Return where the images of an annotation file may be."""
    bases = dict.fromkeys([path.parent, path.parent.parent])
    return [base / inner for base in bases for inner in ("", split, "images", f"images/{split}")]

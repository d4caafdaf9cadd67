"""The lists of the datasets for classification: ILSVRC and Places365-Standard, small images.

ILSVRC's are made from folders, the development kit or Kaggle's files. Its classes are numbered in
the sorted order of their synsets ("n01440764"), as in the release.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ademx.data.lists.label_files import read_matlab
from ademx.data.lists.plans import Entry, Plan, Request, check_files, read_lines
from ademx.errors import InputError
from ademx.iteration import progress_bar
from iters.lists import check_class_folders, folder_names, images_in

_log = logging.getLogger(__name__)


# Split -> the distribution's list, and the folder that its paths are relative to.
PLACES_FILES = {
    "train": ("places365_train_standard.txt", "data_256"),
    "val": ("places365_val.txt", "val_256"),
    "test": ("places365_test.txt", "test_256"),
}

_DEVKIT = "ILSVRC2012_devkit_t12/data"


@dataclass(frozen=True)
class _Files:
    """What was found of the distribution.

    Attributes:
        request: where it was looked for.
        base: folder of train, val and test.
        devkit_ids: the development kit's ILSVRC2012_ID of each synset; empty without the kit.
    """

    request: Request
    base: Path
    devkit_ids: dict[str, int]


def plan_ilsvrc(request: Request) -> Plan:
    """Return the lists of the splits that are there, and the server's number of each class.

    Raises:
        FileNotFoundError: no split is there, or the truth of val is missing.
        ValueError: a file is damaged, or names a class that is not one of train's.
        MissingDependency: the development kit is there and scipy is not installed.
    """
    files = _find_files(request)
    classes = _find_classes(files)
    synsets = _find_synsets(files) if request.options.class_ids else classes
    if len(classes) != request.dataset.num_classes:
        _log.warning(
            "found %d classes, expected %d: class ids are those of the classes that are here",
            *(len(classes), request.dataset.num_classes),
        )
    ids = {name: i for names in (synsets, classes) for i, name in enumerate(names)}
    texts = {}
    if synsets and set(synsets) <= set(files.devkit_ids):
        texts["class_ids.txt"] = "".join(f"{files.devkit_ids[name]}\n" for name in synsets)
    return Plan(_find_entries(files, ids), texts)


def _find_entries(files: _Files, classes: dict[str, int]) -> dict[str, list[Entry]]:
    """Return the samples of each split that is there."""
    train, val, test = (files.base / split for split in ("train", "val", "test"))
    entries = {}
    if train.is_dir():
        bar = progress_bar(iterable=classes.items(), desc="train", unit="class")
        entries["train"] = [
            Entry(path, label) for name, label in bar for path in images_in(train / name)
        ]
    if val.is_dir():
        entries["val"] = _val_entries(val, files, classes)
    if test.is_dir():
        _log.info("test.lst: the labels are not public: it has 0 in their place")
        entries["test"] = [Entry(path, 0) for path in images_in(test)]
    return entries


def _find_files(request: Request) -> _Files:
    root = request.root
    kaggle = root / "ILSVRC" / "Data" / "CLS-LOC"
    bases = [
        base for base in (root, kaggle) if (base / "train").is_dir() or (base / "val").is_dir()
    ]
    if not bases:
        raise request.not_found("neither train nor val")
    meta = root / _DEVKIT / "meta.mat"
    return _Files(request, bases[0], _read_meta(meta) if meta.is_file() else {})


def _read_meta(path: Path) -> dict[str, int]:
    """Return the ILSVRC2012_ID of each synset that images are labelled with: the leaves."""
    content = read_matlab(path)
    try:
        return {
            str(synset["WNID"].item()): int(synset["ILSVRC2012_ID"].item())
            for synset in content["synsets"].ravel()
            if int(synset["num_children"].item()) == 0
        }
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected the development kit's synsets with WNID, ILSVRC2012_ID and "
            f"num_children: {error!r}"
        ) from error


def _find_classes(files: _Files) -> list[str]:
    """Return the names of the classes' folders, the synsets, in the order of their class ids."""
    request = files.request
    if request.options.class_ids is not None:
        return _read_classes(request.options.class_ids, files)
    for split in ("train", "val"):
        names = folder_names(files.base / split)
        check_class_folders(request.dataset, files.base / split, names)
    folders = folder_names(files.base / "train")
    names = folders or _find_synsets(files) or folder_names(files.base / "val")
    if names:
        return names
    raise request.not_found("neither class folders nor a list of the synsets")


def _find_synsets(files: _Files) -> list[str]:
    """Return the synsets that the development kit or Kaggle's list has, sorted; none without."""
    if files.devkit_ids:
        return sorted(files.devkit_ids)
    mapping = files.request.root / "LOC_synset_mapping.txt"  # Kaggle's
    return sorted(line.split()[0] for line in read_lines(mapping)) if mapping.is_file() else []


def _read_classes(path: Path, files: _Files) -> list[str]:
    """Return the names of the classes' folders that a file gives in the order of the classes."""
    names = read_lines(path)
    again = [name for name, count in Counter(names).items() if count > 1]
    if again:
        raise InputError(f"{path}: names {again[0]!r} more than once: expected each folder once")
    for folder in (files.base / "train", files.base / "val"):
        strange = sorted(set(folder_names(folder)) - set(names))
        if strange:
            raise InputError(
                f"{path}: has no line for the folder {folder / strange[0]}: expected the names of "
                "all folders, one a line, in the order of the classes"
            )
    return names


def _val_entries(folder: Path, files: _Files, classes: dict[str, int]) -> list[Entry]:
    """Return val's samples, from a folder for each class or from one for all of them."""
    names = folder_names(folder)
    if names:
        origin = folder
        pairs = [(path, name) for name in names for path in images_in(folder / name)]
    else:
        origin, truth = _read_truth(files)
        pairs = [(path, truth.get(path.stem, "")) for path in images_in(folder)]
    for path, name in pairs:
        if name not in classes:
            raise InputError(
                f"{path}: its class is {name or 'not given'} in {origin}: expected one of the "
                f"{len(classes)} synsets of train or of the development kit"
            )
    return [Entry(path, classes[name]) for path, name in pairs]


def _read_truth(files: _Files) -> tuple[Path, dict[str, str]]:
    """Return where val's truth was found, and the synset of each image's name."""
    ground_truth = files.request.root / _DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
    solution = files.request.root / "LOC_val_solution.csv"  # Kaggle's
    if files.devkit_ids and ground_truth.is_file():
        synsets = {str(number): name for name, number in files.devkit_ids.items()}
        return ground_truth, {
            f"ILSVRC2012_val_{number:08d}": synsets.get(line, line)
            for number, line in enumerate(read_lines(ground_truth), start=1)
        }
    if solution.is_file():
        fields = [line.replace(",", " ").split() for line in read_lines(solution)[1:]]
        return solution, {row[0]: row[1] for row in fields if len(row) > 1}
    raise files.request.not_found("no truth for the images in val")


def plan_places(request: Request) -> Plan:
    """Return the lists of the splits whose list and images are there.

    Raises:
        FileNotFoundError: none is there, or images are missing.
        ValueError: a list is malformed.
    """
    lists = {}
    for split, names in PLACES_FILES.items():
        file, folder = (request.root / name for name in names)
        if file.is_file() and folder.is_dir():
            lists[split] = _places_entries(file, folder, has_labels=split != "test")
            check_files((entry.image for entry in lists[split]), request)
            if split == "test":
                _log.info("test.lst: the labels are not public: it has 0 in their place")
    return Plan(lists)


def _places_entries(file: Path, folder: Path, *, has_labels: bool) -> list[Entry]:
    entries = []
    for line in read_lines(file):
        name, _, label = line.rpartition(" ") if has_labels else (line, "", "0")
        if not (name and label.isascii() and label.isdigit()):
            raise InputError(f"{file}: found {line!r}: expected a path and a class id")
        # The paths of train begin with "/".
        entries.append(Entry(folder / name.strip("/ "), int(label)))
    return entries

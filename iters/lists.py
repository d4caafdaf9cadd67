"""Which images and labels a split consists of: list files and the datasets' own folders."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ademx.compat import InputError, MissingFile
from iters.datasets import Dataset
from iters.files import read_text
from iters.find_dataset import get_dataset
from iters.samples import Sample
from iters.sources import read_record_file
from iters.variants import explain_files

_Pairs = list[tuple[Path, "Path | int | None"]]


def find_samples(
    dataset: str | Dataset,
    root: str | Path,
    split: str,
    *,
    list_file: str | Path | None = None,
) -> list[Sample]:
    """Return the samples of a split, in the order of the list or of the file names.

    The first of these that is there decides: `list_file`; the dataset's own list, of one that a
    YAML file describes; the layout in which the dataset is distributed (VOC, Cityscapes, ADE20K);
    the list in the root, `<split>.lst` (:attr:`Dataset.list_prefix` before it, where datasets
    share a root); for classification also `<split>.rec` there, and a folder for each
    class. The images and labels themselves are not looked for here.

    Args:
        dataset: a dataset or its name, as :func:`iters.find_dataset.get_dataset` takes it.
        root: folder of the dataset.
        split: such as "train" or "val". The truth of "test" is not public: its labels are None,
            whatever the list says, but for a dataset that a YAML file describes.
        list_file: a list, with paths that are absolute or relative to `root`, or a RecordIO
            file, `.rec`.

    Raises:
        ValueError: the dataset is unknown, or the list or the RecordIO file is malformed.
        FileNotFoundError: the root, the list or the split is missing; the message names the paths
            that were looked for.
    """
    dataset = get_dataset(dataset) if isinstance(dataset, str) else dataset
    root = Path(root)
    if not root.is_dir():
        raise MissingFile(f"{root}: no such folder: give the root of {dataset.name}")
    if list_file is None and dataset.lists:
        if split not in dataset.lists:
            raise MissingFile(
                f"{dataset.name} has no split {split!r}: its file has lists of "
                f"{', '.join(dataset.lists)}"
            )
        list_file = dataset.lists[split]
    if list_file is not None:
        samples = _read_samples(Path(list_file), task=dataset.task, root=root)
    else:
        samples = _look_for_samples(dataset, root, split)
    if split == "test" and not dataset.lists:
        return [dataclasses.replace(sample, label=None) for sample in samples]
    return samples


def _look_for_samples(dataset: Dataset, root: Path, split: str) -> list[Sample]:
    task, layout = dataset.task, _LAYOUTS.get(dataset.name)
    found = find_official_samples(dataset, root, split)
    if found:
        return found
    for name in _list_names(dataset, split):
        if (root / name).is_file():
            return _read_samples(root / name, task=task, root=root)
    pairs = _find_class_folders(dataset, root, split) if task == "classification" else []
    if pairs:
        return _make_samples(pairs)
    places = [layout.description] if layout else []
    places += _list_names(dataset, "<split>")
    places += ["<split>/<class>/*.JPEG"] if task == "classification" else []
    instead = explain_files(dataset, root, split) or (
        f"looked there for {', and for '.join(places).replace('<split>', split)}: "
        f"correct the root or the split, make the lists by `ademx data lists {dataset.name} "
        f"--root {shlex.quote(str(root))}`, or give one with --list-file"
    )
    raise MissingFile(f"no {split!r} split of {dataset.name} in {root}: {instead}")


def find_official_samples(dataset: Dataset, root: Path, split: str) -> list[Sample]:
    """Return the samples of a split in the layout that the dataset is distributed in.

    None where they are not there, or where that layout needs a list (all but VOC, Cityscapes and
    ADE20K).

    Raises:
        ValueError: its labels are a known variant's, which is not read; the message says what to
            do.
    """
    layout = _LAYOUTS.get(dataset.name)
    pairs = layout.find(root, split) if layout else []
    if split == "test":
        pairs = [(image, None) for image, _ in pairs]
    elif pairs and not any(label.is_file() for _, label in pairs if isinstance(label, Path)):
        instead = explain_files(dataset, root, split)
        if instead:
            raise InputError(
                f"no label of the {split!r} split of {dataset.name} in {root}: {instead}"
            )
    return _make_samples(pairs)


def _list_names(dataset: Dataset, split: str) -> list[str]:
    """Return the names that a split's list may have in the root."""
    names = [dataset.list_name(split)]
    return [*names, f"{split}.rec"] if dataset.task == "classification" else names


def _read_samples(path: Path, *, task: str, root: Path) -> list[Sample]:
    if path.suffix != ".rec":
        return read_list_file(path, task=task, root=root)
    if task != "classification":
        raise InputError(f"{path}: a RecordIO file has class ids, and no labels for {task}")
    return [
        Sample(index, path, record.label, f"{record.key:08d}", record.offset)
        for index, record in enumerate(read_record_file(path))
    ]


def read_list_file(path: str | Path, *, task: str, root: str | Path) -> list[Sample]:
    r"""Return the samples that a list file names.

    Args:
        path: text file with a line for each sample, fields separated by tabs:
            `index\tlabel\timage` for classification, where the index is checked but not used;
            `image\tlabel` or, throughout the file, `image` for segmentation. Blank lines, a
            byte order mark, and spaces around a field do not count. Labels may be written as
            MXNet's im2rec.py does, `3.000000`.
        task: "classification" or "segmentation".
        root: folder that the paths in the list are relative to.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the task is unknown, or a line is malformed; the message names the line.
    """
    if task not in _PARSERS:
        raise InputError(f"unknown task {task!r}: expected one of {', '.join(_PARSERS)}")
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise MissingFile(f"list file {path}: no such file") from None
    pairs: _Pairs = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.rstrip().split("\t")]
        try:
            image, label = _PARSERS[task](fields, Path(root))
            if pairs and (label is None) != (pairs[0][1] is None):
                raise InputError("some lines have a label and some have none")
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        pairs.append((image, label))
    if not pairs:
        raise InputError(f"{path}: the list is empty")
    return _make_samples(pairs)


def _parse_classification(fields: list[str], root: Path) -> tuple[Path, int]:
    if len(fields) != 3 or not all(fields):
        raise InputError(f"found {fields}: expected index, label and image, separated by tabs")
    _whole_number("index", fields[0])
    return root / fields[2], _whole_number("label", fields[1])


_WHOLE_NUMBER = re.compile(r"([0-9]+)(\.0*)?")  # im2rec.py writes 3 as 3.000000


def _whole_number(what: str, value: str) -> int:
    found = _WHOLE_NUMBER.fullmatch(value)
    if found is None:
        raise InputError(f"{what} {value!r}: expected an integer, 0 or above")
    return int(found[1])


def _parse_segmentation(fields: list[str], root: Path) -> tuple[Path, Path | None]:
    if len(fields) > 2 or not all(fields):
        raise InputError(f"found {fields}: expected image and label, separated by a tab")
    return root / fields[0], root / fields[1] if len(fields) == 2 else None


_PARSERS: dict[str, Callable[[list[str], Path], tuple[Path, Path | int | None]]] = {
    "classification": _parse_classification,
    "segmentation": _parse_segmentation,
}


def _make_samples(pairs: _Pairs) -> list[Sample]:
    """Number and name the samples; where two would share a name, all names get their number."""
    stems = [image.stem for image, _ in pairs]
    if len(set(stems)) < len(stems):
        stems = [f"{index:06d}_{stem}" for index, stem in enumerate(stems)]
    return [
        Sample(index, image, label, name)
        for index, ((image, label), name) in enumerate(zip(pairs, stems))
    ]


@dataclass(frozen=True)
class _Layout:
    """How a dataset is distributed.

    Attributes:
        description: the paths that are looked for, with `<split>` in them.
        find: gives the images of a split in a root, with where their labels should be; none where
            the layout or the split is not there. A missing label is reported when its turn comes,
            as for a list, and does not keep the others from being tested.
    """

    description: str
    find: Callable[[Path, str], _Pairs]


def voc_folders(root: Path, year: str = "2012") -> tuple[Path, ...]:
    """Return where a year's folder of VOC may be: at the root or below."""
    return root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"


def _find_voc(root: Path, split: str) -> _Pairs:
    for base in voc_folders(root):
        names = read_voc_names(base, split)
        if names:
            return [(base / "JPEGImages" / f"{name}.jpg", voc_label(base, name)) for name in names]
    return []


def voc_label(base: Path, name: str) -> Path:
    """Return VOC's own label of an image or, where it has none, what may be SBD's, by custom."""
    own = base / "SegmentationClass" / f"{name}.png"
    others = base / "SegmentationClassAug" / own.name
    return others if others.is_file() and not own.is_file() else own


def voc_image_set(base: Path, split: str) -> Path:
    """Return the file that names the images of one of VOC's splits, or where it should be."""
    sets = base / "ImageSets"
    places = [sets / "Segmentation" / f"{split}.txt"]
    if split == "trainaug":  # not VOC's own
        names = ("trainaug.txt", "train_aug.txt")
        folders = (sets / "Segmentation", sets / "SegmentationAug")
        places = [folder / name for folder in folders for name in names]
    return next((place for place in places if place.is_file()), places[0])


def read_voc_names(base: Path, split: str) -> list[str]:
    """Return the names of the images of one of VOC's splits; none where its file is not there.

    Lists of "trainaug" also come with the paths of image and label in a line.
    """
    path = voc_image_set(base, split)
    if not path.is_file():
        return []
    text = read_text(path)
    if split == "trainaug" and "/" in text:
        return [Path(line.split()[0]).stem for line in text.split("\n") if line.strip()]
    return text.split()


def _find_cityscapes(root: Path, split: str, *, kind: str = "gtFine") -> _Pairs:
    suffix, label_suffix = "_leftImg8bit.png", f"_{kind}_labelIds.png"
    images = sorted((root / "leftImg8bit" / split).glob(f"*/*{suffix}"))
    labels = root / kind / split
    return [
        (image, labels / image.parent.name / image.name.replace(suffix, label_suffix))
        for image in images
    ]


_ADE20K_FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


def _find_ade20k(root: Path, split: str) -> _Pairs:
    folder = _ADE20K_FOLDERS.get(split, split)
    bases = (root, root / "ADEChallengeData2016")
    places = [(base / "images" / folder, base / "annotations" / folder) for base in bases]
    if split == "test":  # an archive of its own
        places += [(base / folder, base) for base in (root / "release_test", root)]
    for images, labels in places:
        found = sorted(images.glob("*.jpg"))
        if found:
            return [(image, labels / f"{image.stem}.png") for image in found]
    return []


_IMAGE_SUFFIXES = {".jpeg", ".jpg", ".png"}  # of class folders' images


def _find_class_folders(dataset: Dataset, root: Path, split: str) -> _Pairs:
    """Return the images below `<root>/<split>/<class>`, the classes in sorted order.

    The folders of "train" number the classes of all splits: another one may lack some.

    Raises:
        ValueError: the split has a class that "train" has not, or the order of the folders'
            names is not that of the dataset's classes.
    """
    names = folder_names(root / split)
    if not names:
        return []
    folder = root / "train" if folder_names(root / "train") else root / split
    known = folder_names(folder)
    check_class_folders(dataset, folder, known)
    strange = sorted(set(names) - set(known))
    if strange:
        raise InputError(
            f"{root / split / strange[0]}: there is no such class in {root / 'train'}: "
            "expected the folders of train, or some of them"
        )
    pairs: _Pairs = []
    for label, name in enumerate(known):
        if name in names:
            pairs += [(path, label) for path in images_in(root / split / name)]
    return pairs


_SYNSET = re.compile("n[0-9]{8}")


def check_class_folders(dataset: Dataset, folder: Path, names: Sequence[str]) -> None:
    """Raise ValueError where the order of ILSVRC's class folders is not that of its classes.

    Folders that are called 1 to 1000, or by words, have another order than the synsets: nearly
    every image would count as wrong, or be learnt as another class.
    """
    others = [name for name in names if not _SYNSET.fullmatch(name)]
    if dataset.name == "ilsvrc-cls" and others:
        raise InputError(
            f"{folder}: found class folders that are no synsets: {', '.join(others[:3])}"
            f"{', …' if len(others) > 3 else ''}: expected n########, such as n01440764, whose "
            "sorted order numbers the classes: say which is which by `ademx data lists ilsvrc-cls "
            "--class-ids FILE`, with the folder of each class a line, in the order of the synsets; "
            "classes of your own are described by a YAML file"
        )


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted; none where it is not there."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def images_in(folder: Path) -> list[Path]:
    """Return the images in a folder by their names, sorted; none where it is not there."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [folder / name for name in names if os.path.splitext(name)[1].lower() in _IMAGE_SUFFIXES]


_VOC_LAYOUT = _Layout(
    "ImageSets/Segmentation/<split>.txt (also in VOC2012/ and VOCdevkit/VOC2012/)", _find_voc
)
_LAYOUTS = {
    "voc": _VOC_LAYOUT,
    "voc-sbd": _VOC_LAYOUT,
    "cityscapes": _Layout("leftImg8bit/<split>/*/*_leftImg8bit.png", _find_cityscapes),
    "cityscapes-coarse": _Layout(
        "leftImg8bit/<split>/*/*_leftImg8bit.png", partial(_find_cityscapes, kind="gtCoarse")
    ),
    "ade20k": _Layout(
        "images/{training,validation}/*.jpg (also in ADEChallengeData2016/), for test "
        "release_test/testing/*.jpg",
        _find_ade20k,
    ),
}

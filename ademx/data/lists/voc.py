"""VOC's lists, and those of VOC with SBD and COCO, on which the release trained.

SBD (Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011) labels more of VOC's
images than VOC does, without void borders. The release calls VOC's train and all of SBD, without
the images of VOC's val, "train+"; with COCO it is "train++".
"""

from __future__ import annotations

import dataclasses
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from ademx.data.lists.label_files import NumberedLabel, import_data_library
from ademx.data.lists.plans import (
    Entry,
    Plan,
    Request,
    check_files,
    read_lines,
)
from ademx.errors import MissingFile
from ademx.text import first_few
from iters.datasets import DATASETS
from iters.lists import read_list_file, read_voc_names, voc_folders, voc_image_set, voc_label

_log = logging.getLogger(__name__)

# The splits of COCO that make up "train++": both pairs are the same images.
_COCO_SPLITS = (("train2014", "val2014"), ("train2017", "val2017"))


def plan_voc(request: Request) -> Plan:
    """Return the lists of VOC 2012's own splits, those whose image set is there.

    Raises:
        FileNotFoundError: none is there, or images or labels are missing.
    """
    base = _find_voc(request)
    lists = {
        split: _voc_entries(base, split, request)
        for split in request.dataset.splits
        if voc_image_set(base, split).is_file()
    }
    if _find_sbd(base, request):
        _log.info("SBD is here too: `ademx data lists voc-sbd` makes its train+.lst")
    return Plan(lists)


def plan_voc_sbd(request: Request) -> Plan:
    """Return the lists "train+" and "val", and with a root of COCO "train++".

    Where SBD is not there, its labels may be as PNGs, in SegmentationClassAug, and the names of
    "train+" in trainaug.txt.

    Raises:
        FileNotFoundError: VOC, SBD or COCO's lists are missing, or images or labels of them.
        MissingDependency: scipy is not installed.
    """
    base = _find_voc(request)
    sbd = _find_sbd(base, request)
    aug = voc_image_set(base, "trainaug")
    if sbd is None and (not aug.is_file() or request.options.sbd is not None):
        places = ", ".join(map(str, _sbd_folders(base, request)))
        raise MissingFile(
            f"no SBD: looked for cls, train.txt and val.txt in {places}: give its folder with "
            f"--sbd, or put its labels as PNGs into {base / 'SegmentationClassAug'} and their "
            f"names into {aug}"
        )
    for path in (voc_image_set(base, "train"), voc_image_set(base, "val")):
        check_files([path], request)
    larger = _train_aug(base, request) if sbd is None else _train_plus(base, sbd, request)
    if aug.is_file():
        _compare_names(aug, read_voc_names(base, "trainaug"), larger)
    lists = {"train+": larger, "val": _voc_entries(base, "val", request)}
    if request.options.coco is not None:
        made = [dataclasses.replace(entry, source=None) for entry in larger]
        lists["train++"] = made + _coco_entries(request.options.coco.absolute())
    return Plan(lists)


def _train_aug(base: Path, request: Request) -> list[Entry]:
    """Return the samples of "train+", in the order of their names, by trainaug.txt and PNGs."""
    entries = {
        entry.image.stem: entry
        for split in ("trainaug", "train")
        for entry in _voc_entries(base, split, request)
    }
    for name in read_lines(voc_image_set(base, "val")):
        entries.pop(name, None)
    _log.info("train+: by trainaug.txt and SegmentationClassAug, for want of SBD's own files")
    return [entries[name] for name in sorted(entries)]


def _compare_names(path: Path, names: Sequence[str], larger: Sequence[Entry]) -> None:
    """Say where the names in trainaug.txt differ from those of "train+"."""
    ours, theirs = {entry.image.stem for entry in larger}, set(names)
    if ours == theirs:
        _log.info("%s: the same %d names as train+", path, len(ours))
        return
    _log.warning(
        "%s: its %d names are not the %d of train+, which is VOC's train and SBD without VOC's "
        "val; only the former has %s; only the latter has %s",
        *(path, len(theirs), len(ours)),
        *(first_few(sorted(rest)) or "none" for rest in (theirs - ours, ours - theirs)),
    )


def _train_plus(base: Path, sbd: Path, request: Request) -> list[Entry]:
    """Return the samples of "train+", in the order of their names."""
    import_data_library("scipy.io")
    # With void borders, which SBD does not have.
    own = {entry.image.stem: entry for entry in _voc_entries(base, "train", request)}
    names = {name for split in ("train", "val") for name in read_lines(sbd / f"{split}.txt")}
    names -= {*own, *read_lines(voc_image_set(base, "val"))}
    check_files((sbd / "cls" / f"{name}.mat" for name in sorted(names)), request)
    others = []
    for name in names:
        image = base / "JPEGImages" / f"{name}.jpg"
        if not image.is_file():
            image = sbd / "img" / image.name
        label = base / "SegmentationClassAug" / f"{name}.png"
        others.append(Entry(image, label, _sbd_label(sbd, name)))
    entries = sorted([*own.values(), *others], key=lambda entry: entry.image.stem)
    check_files((entry.image for entry in entries), request)
    return entries


def _sbd_label(sbd: Path, name: str) -> NumberedLabel:
    """Return SBD's label of an image: class ids as VOC's, without borders."""
    class_ids = bytes(range(DATASETS["voc"].num_classes))
    return NumberedLabel(sbd / "cls" / f"{name}.mat", class_ids, "GTcls.Segmentation")


def _voc_entries(base: Path, split: str, request: Request) -> list[Entry]:
    """Return the samples of one of VOC's splits with VOC's own labels, where it has some."""
    names = read_voc_names(base, split) or read_lines(voc_image_set(base, split))
    images = [base / "JPEGImages" / f"{name}.jpg" for name in names]
    check_files(images, request)
    if split == "test":
        return [Entry(image, None) for image in images]
    labels = [base / "SegmentationClass" / f"{name}.png" for name in names]
    if split == "trainaug":  # the others' are SBD's
        labels = [voc_label(base, name) for name in names]
    check_files(labels, request)
    return [Entry(image, label) for image, label in zip(images, labels)]


def _coco_entries(root: Path) -> list[Entry]:
    """Return the samples of `coco20` in a root of COCO."""
    choices = [tuple(map(DATASETS["coco20"].list_name, splits)) for splits in _COCO_SPLITS]
    for names in choices:
        paths = [root / name for name in names]
        if all(path.is_file() for path in paths):
            _log.info("train++: with %s", ", ".join(map(str, paths)))
            samples = [
                sample
                for path in paths
                for sample in read_list_file(path, task="segmentation", root=root)
            ]
            return [Entry(sample.image, sample.label) for sample in samples]
    wanted = ", or ".join(map(" and ".join, choices))
    raise MissingFile(
        f"no lists of coco20 in {root}: looked there for {wanted}: make them by "
        f"`ademx data lists coco20 --root {shlex.quote(str(root))}`"
    )


def _find_voc(request: Request) -> Path:
    for base in voc_folders(request.root):
        if any(
            voc_image_set(base, split).is_file() for split in ("train", "val", "trainval", "test")
        ):
            return base
    raise request.not_found("no image set")


def _find_sbd(base: Path, request: Request) -> Path | None:
    """Return the folder with SBD's `cls` and its lists, or None."""
    return next(
        (
            folder
            for folder in _sbd_folders(base, request)
            if all((folder / name).exists() for name in ("cls", "train.txt", "val.txt"))
        ),
        None,
    )


def _sbd_folders(base: Path, request: Request) -> list[Path]:
    """Return where SBD's files may be: in the folder that was given, or in or beside VOC's."""
    if request.options.sbd is not None:
        sbd = request.options.sbd.absolute()
        return [sbd, sbd / "dataset", sbd / "benchmark_RELEASE" / "dataset"]
    # VOC's folder is <parents>/VOCdevkit/VOC2012.
    folders = dict.fromkeys([request.root, base, base.parent, base.parent.parent])
    return [folder / "benchmark_RELEASE" / "dataset" for folder in folders]

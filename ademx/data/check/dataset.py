"""What is wrong with a dataset on disk: every file that its splits list is decoded to its end."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ademx.compat import usable_cores
from ademx.data.check.problems import Problem
from ademx.data.check.samples import Found, look_for_files, read_files
from ademx.data.check.unlisted import Folders, label_ending
from ademx.errors import MissingFile, UserError
from ademx.iteration import prefetched, progress_bar
from ademx.text import first_few
from iters.datasets import VOID, Dataset
from iters.find_dataset import get_dataset
from iters.lists import find_samples, folder_names
from iters.samples import Sample
from iters.variants import explain_count, explain_files, explain_split_values

# Datasets whose splits are all that lies in a folder -> how the images' names end.
_ENDINGS = {
    "ade20k": ".jpg",
    "cityscapes": "_leftImg8bit.png",
    "cityscapes-coarse": "_leftImg8bit.png",
}
# Collected from the web: an image may be in the official files twice, under two names.
_COLLECTED = ("ilsvrc-cls", "places")
_WITH_BORDERS = ("voc", "voc-sbd")  # every object in VOC's own labels has a void border
_RENAME = "rename it, or correct the list"
_REDUCED = "unpack the official files anew; check a copy that was reduced or drawn with --no-counts"


@dataclass(frozen=True)
class DatasetCheck:
    """What is wrong with a dataset on disk.

    Attributes:
        dataset: its name.
        root: its folder.
        quick: whether no file was opened.
        counts: split that is there -> number of its images, and the published one or None.
        problems: what makes results wrong or impossible.
        remarks: what need not be wrong.
    """

    dataset: str
    root: Path
    quick: bool
    counts: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def check_dataset(
    dataset: str | Dataset,
    root: str | Path,
    *,
    splits: Sequence[str] | None = None,
    list_files: Mapping[str, str | Path] | None = None,
    quick: bool = False,
    expect_counts: bool = True,
) -> DatasetCheck:
    """Return what is wrong with a dataset on disk.

    A file that several splits list (VOC's trainval is train and val) is read once, and its
    problems are told of the first. Damage that the decoders of training and testing pass over is
    not found.

    Args:
        dataset: a dataset or its name, as :func:`iters.find_dataset.get_dataset` takes it.
        root: folder of the dataset.
        splits: those to check; None checks all that are there.
        list_files: split -> list file or RecordIO file in place of the dataset's own.
        quick: open no image and no label: count them, look whether they are there, and compare
            names and class ids.
        expect_counts: whether a number of images other than the published one is a problem.

    Raises:
        ValueError: the dataset is unknown, or a YAML file that describes it is malformed.
        FileNotFoundError: there is no such root.
        OSError: a folder or a list cannot be read.
    """
    dataset = get_dataset(dataset) if isinstance(dataset, str) else dataset
    if not Path(root).is_dir():
        raise MissingFile(f"{root}: no such folder: give the root of {dataset.name}")
    checker = _Checker(dataset, Path(root), quick=quick)
    checker.find_splits(splits, list_files or {})
    checker.check_lists(expect_counts=expect_counts)
    checker.check_files()
    checker.check_duplicates()
    if dataset.task == "segmentation":
        checker.check_unlisted()
    return checker.found


@dataclass
class _Tally:
    """What the labels of a split hold together."""

    num_labels: int = 0
    values: Counter[int] = field(default_factory=Counter)  # number in a label -> pixels
    without_void: list[str] = field(default_factory=list)


class _Checker:
    """Collects what is wrong, step by step."""

    def __init__(self, dataset: Dataset, root: Path, *, quick: bool) -> None:
        self.found = DatasetCheck(dataset.name, root, quick)
        self._problems, self._remarks = self.found.problems, self.found.remarks
        self._dataset = dataset
        self._root = root
        self._splits: dict[str, list[Sample]] = {}
        self._folders = Folders({})
        self._digests: dict[str, bytes] = {}

    def find_splits(
        self, asked: Sequence[str] | None, list_files: Mapping[str, str | Path]
    ) -> None:
        """Find the samples of the splits that were asked for; None asks for all that are there."""
        known = list(self._dataset.lists or self._dataset.splits)
        # A file is told of the first split that lists it: "val" goes before "trainval".
        splits = known if asked is None else sorted(asked, key=[*known, *asked].index)
        # The files of other splits may lie in the same folders.
        is_walked = self._dataset.task == "segmentation"
        others = [split for split in known if is_walked and split not in splits]
        found: dict[str, list[Sample]] = {}
        absent = []
        for split in progress_bar(iterable=[*splits, *others], unit="split", leave=False):
            try:
                found[split] = find_samples(
                    self._dataset, self._root, split, list_file=list_files.get(split)
                )
            except FileNotFoundError as error:
                is_official = asked is not None or split != "trainaug"
                if split in splits and is_official:
                    absent.append(Problem("split", split, None, str(error)))
            except (UserError, OSError) as error:
                if split in splits:
                    self._problems.append(Problem("list", split, None, str(error)))
        self._splits = {split: found[split] for split in splits if split in found}
        self._folders = Folders(found)
        nothing_there = not self._splits and not self._problems
        instead = "" if self._splits else explain_files(self._dataset, self._root)
        if instead:  # which is said once, not of each split
            whole = Problem("split", None, None, f"none of {self._dataset.name}: {instead}")
            absent = [whole] if nothing_there else []
        is_required = asked is not None or nothing_there
        (self._problems if is_required else self._remarks).extend(absent)

    def check_lists(self, *, expect_counts: bool) -> None:
        """Compare what the lists say with the dataset's table."""
        for split, samples in self._splits.items():
            expected = self._dataset.splits.get(split)
            self.found.counts[split] = len(samples), expected
            if expect_counts and expected not in (None, len(samples)):
                detail = f"{len(samples):,} images: expected {expected:,}"
                known = explain_count(self._dataset, split, len(samples))
                hint = _REDUCED if known is None else known.message
                is_whole = known is not None and known.is_whole
                found = self._remarks if is_whole else self._problems
                found.append(Problem("count", split, None, detail, hint))
            unlabelled = sum(sample.label is None for sample in samples)
            if unlabelled and split != "test":
                detail = f"{unlabelled:,} of {len(samples):,} images"
                self._remarks.append(Problem("unlabelled", split, None, detail))
            if self._dataset.task == "classification":
                self._check_class_ids(split, samples)
                self._check_class_folders(split, samples)

    def _check_class_ids(self, split: str, samples: Sequence[Sample]) -> None:
        num_classes = self._dataset.num_classes
        ids = {sample.label for sample in samples if isinstance(sample.label, int)}
        hint = ""
        if ids and min(ids) == 1 and max(ids) == num_classes:
            hint = "the ids begin with 1: they must begin with 0"
        for sample in samples:
            if isinstance(sample.label, int) and sample.label >= num_classes:
                detail = f"class id {sample.label}: expected 0 to {num_classes - 1}"
                self._problems.append(Problem("class", split, str(sample), detail, hint))
        if ids:
            self._remark_empty(split, ids, what="image")

    def _check_class_folders(self, split: str, samples: Sequence[Sample]) -> None:
        """Compare the number of class folders, where it is their order that numbers the classes."""
        if samples[0].image.parent.parent != self._root / split:
            return
        train = self._root / "train"
        folder = train if train.is_dir() else self._root / split
        names = folder_names(folder)
        ids = {name: class_id for class_id, name in enumerate(names)}
        if len(names) == self._dataset.num_classes or any(
            ids.get(sample.image.parent.name) != sample.label for sample in samples
        ):
            return
        problem = Problem(
            "class",
            None,
            str(folder),
            f"{len(names):,} class folders: expected {self._dataset.num_classes:,}",
            "the sorted folders number the classes: where one is missing, later ids are wrong",
        )
        if problem not in self._problems:  # val's folders are numbered by train's
            self._problems.append(problem)

    def _remark_empty(self, split: str, present: Collection[int | None], *, what: str) -> None:
        """Remark on the class ids that are not among those that are present."""
        dataset = self._dataset
        names = [
            f"{class_id} {dataset.class_names[class_id]}" if dataset.class_names else str(class_id)
            for class_id in range(dataset.num_classes)
            if class_id not in present
        ]
        if names:
            detail = f"no {what} of {len(names):,} of {dataset.num_classes:,} classes"
            self._remarks.append(Problem("empty", split, None, f"{detail}: {first_few(names)}"))

    def check_files(self) -> None:
        """Read every image and label once."""
        jobs: dict[tuple[object, ...], tuple[str, Sample]] = {}
        for split, samples in self._splits.items():
            for sample in samples:
                jobs.setdefault((sample.image, sample.label, sample.offset), (split, sample))
        tallies = {split: _Tally() for split in self._splits}
        examine = look_for_files if self.found.quick else partial(read_files, self._dataset)
        # Threads suffice: of 2 ms for a photograph they hold the interpreter for some 0.1 ms.
        examined = prefetched(jobs.values(), examine, threads=usable_cores() or 1)
        with (
            warnings.catch_warnings(),
            progress_bar(total=len(jobs), unit="image", leave=False) as bar,
        ):
            warnings.simplefilter("ignore")  # Pillow's, of odd metadata, tear the bar
            for (split, sample), found in examined:
                self._note(sample, found, tallies[split])
                if found.problems:
                    bar.set_postfix(trouble=len(self._problems), refresh=False)
                bar.update()
        for split, tally in tallies.items():
            self._check_tally(split, tally)

    def _note(self, sample: Sample, found: Found, tally: _Tally) -> None:
        """Keep what reading a sample's files showed."""
        for problem in found.problems:
            is_missing = problem.kind == "missing"
            self._problems.append(self._explain(problem, sample) if is_missing else problem)
        self._remarks += [] if found.exif is None else [found.exif]
        if found.digest is not None:
            self._digests[str(sample)] = found.digest
        if found.values is not None:
            tally.num_labels += 1
            tally.values.update(found.values)
            if VOID not in found.values:
                tally.without_void.append(str(sample.label))

    def _explain(self, problem: Problem, sample: Sample) -> Problem:
        """Return the problem of a missing file with what is there in its place."""
        path = Path(str(problem.path))
        spelling = self._folders.other_spelling(path)
        if spelling is not None:
            return dataclasses.replace(
                problem, kind="misnamed", detail=f"not there, but {spelling} is", hint=_RENAME
            )
        if not path.parent.is_dir():
            return dataclasses.replace(problem, hint=f"there is no folder {path.parent}")
        if path == sample.label:
            others = self._folders.unlisted(path.parent, label_ending(sample))
            if others:
                hint = f"{path.parent} has labels of no image: {first_few(others)}"
                return dataclasses.replace(problem, kind="misnamed", hint=hint)
        return problem

    def _check_tally(self, split: str, tally: _Tally) -> None:
        dataset = self._dataset
        if tally.num_labels:
            ids = dataset.stored_ids or range(dataset.num_classes)
            present = {class_id for class_id, stored in enumerate(ids) if stored in tally.values}
            self._remark_empty(split, present, what="pixel")
            hint = explain_split_values(dataset, tally.values)
            if hint:
                numbers = first_few([str(value) for value in sorted(tally.values)[-3:]])
                detail = f"of {tally.num_labels:,} labels, whose highest numbers are {numbers}"
                self._problems.append(Problem("value", split, None, detail, hint))
        if split == "val" and dataset.name in _WITH_BORDERS:
            hint = (
                f"{len(tally.without_void):,} of {tally.num_labels:,} labels have none: copies "
                "with the borders filled in: take SegmentationClass of VOC's own archive"
            )
            for path in tally.without_void:
                self._problems.append(Problem("void", split, path, f"no pixel is {VOID}", hint))

    def check_duplicates(self) -> None:
        """Compare the names and the bytes of the images."""
        for split, samples in self._splits.items():
            self._remark_repeated(split, samples)
            for other in self._splits:
                if _is_apart(other, split):
                    self._compare(split, other)

    def _remark_repeated(self, split: str, samples: Sequence[Sample]) -> None:
        """Remark on images that a split has twice."""
        paths: set[str] = set()
        by_digest: dict[bytes, str] = {}
        for path in map(str, samples):
            digest = self._digests.get(path)
            twin = path if digest is None else by_digest.setdefault(digest, path)
            if path in paths:
                self._remarks.append(Problem("duplicate", split, path, "listed twice"))
            elif twin != path:
                self._remarks.append(Problem("duplicate", split, path, f"the bytes of {twin}"))
            paths.add(path)

    def _compare(self, test: str, train: str) -> None:
        """Look for the images of `test` among those of `train`."""
        dataset = self._dataset
        # The first of several that are alike is told.
        paths = dict.fromkeys(map(str, reversed(self._splits[train])))
        by_digest = {self._digests[path]: path for path in paths if path in self._digests}
        # Elsewhere every class, or every split, may number its images from 1.
        has_unique_names = dataset.task == "segmentation" and not dataset.lists
        by_name = {Path(path).name: path for path in paths} if has_unique_names else {}
        for sample in self._splits[test]:
            path, name = str(sample), sample.image.name
            twin = by_digest.get(self._digests.get(path, b""))
            found = self._problems
            if path in paths:
                detail = f"{train} lists it too"
            elif twin is not None:
                detail = f"the bytes of {twin}, of {train}"
                if dataset.name in _COLLECTED and Path(twin).name != name:
                    found = self._remarks
            elif name in by_name:
                detail = f"the name of {by_name[name]}, of {train}"
            else:
                continue
            found.append(Problem("duplicate", test, path, detail))

    def check_unlisted(self) -> None:
        """Look for files that no split lists."""
        ending = _ENDINGS.get(self._dataset.name)
        images: dict[Path, tuple[str, Sample]] = {}
        labels: dict[Path, Sample] = {}
        for split, samples in self._splits.items():
            for sample in samples:
                images[sample.image.parent] = split, sample
                if isinstance(sample.label, Path):
                    labels[sample.label.parent] = sample
        for folder, (split, sample) in images.items():
            names = self._folders.unlisted(folder)
            if ending is not None and sample.image.name.endswith(ending):
                for name in names:
                    detail = f"the name does not end in {ending}: the image is in no split"
                    path = str(folder / name)
                    self._problems.append(Problem("misnamed", split, path, detail, _RENAME))
            else:
                self._remark_unlisted(folder, names, what="images that no split lists")
        for folder, sample in labels.items():
            if folder not in images:
                names = self._folders.unlisted(folder, label_ending(sample))
                self._remark_unlisted(folder, names, what="labels of no image")

    def _remark_unlisted(self, folder: Path, names: Sequence[str], *, what: str) -> None:
        if names:
            detail = f"{what} ({len(names):,}): {first_few(names)}"
            self._remarks.append(Problem("unlisted", None, str(folder), detail))


def _is_apart(train: str, test: str) -> bool:
    """Return whether no image of a training split may be in a split for testing."""
    if not train.startswith("train") or test.startswith("train"):
        return False
    if train.startswith("trainval") and test.startswith("val"):
        return False
    # COCO's splits of 2017 share out the images of 2014 anew.
    return _year(train) == _year(test)


def _year(split: str) -> str:
    return split[-4:] if split[-4:].isdigit() else ""

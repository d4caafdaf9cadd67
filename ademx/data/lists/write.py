"""The release's `.lst` files from each dataset's official distribution."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ademx.data.lists.classification import plan_ilsvrc, plan_places
from ademx.data.lists.coco import plan_coco
from ademx.data.lists.label_files import make_labels
from ademx.data.lists.pascal_context import plan_pascal_context
from ademx.data.lists.plans import Entries, Entry, ListOptions, Plan, Request, check_files
from ademx.data.lists.voc import plan_voc, plan_voc_sbd
from ademx.errors import FileInTheWay, InputError, MissingFile
from ademx.files import replacing
from ademx.iteration import progress_bar
from iters.datasets import Dataset
from iters.files import read_file
from iters.find_dataset import get_dataset
from iters.lists import find_official_samples
from iters.sources import write_records
from iters.variants import explain_count

_log = logging.getLogger(__name__)

UNLISTABLE = "a name with tabs, line breaks or outer spaces cannot be listed"


def _plan_split_folders(request: Request) -> Plan:
    """Return the lists of Cityscapes or ADE20K, whose images and labels lie in folders of splits.

    Raises:
        FileNotFoundError: a split lacks labels.
    """
    lists = {}
    for split in request.dataset.splits:
        samples = find_official_samples(request.dataset, request.root, split)
        check_files((s.label for s in samples if isinstance(s.label, Path)), request)
        if samples:
            lists[split] = [Entry(sample.image, sample.label) for sample in samples]
    return Plan(lists)


_PLANNERS: Mapping[str, Callable[[Request], Plan]] = {
    "ilsvrc-cls": plan_ilsvrc,
    "places": plan_places,
    "voc": plan_voc,
    "voc-sbd": plan_voc_sbd,
    "coco": plan_coco,
    "coco20": plan_coco,
    "cityscapes": _plan_split_folders,
    "cityscapes-coarse": _plan_split_folders,
    "ade20k": _plan_split_folders,
    "pascal-context": plan_pascal_context,
    "pascal-context-59": plan_pascal_context,
}


@dataclass(frozen=True)
class WrittenList:
    """A list that was made.

    Attributes:
        path: its file.
        split: name of the split.
        num_samples: its lines.
        expected: published number of images of the split, or that of a known variant that is
            whole; None where there is none.
    """

    path: Path
    split: str
    num_samples: int
    expected: int | None

    @property
    def agrees(self) -> bool:
        """Whether the number of samples is the published one, where there is one."""
        return self.expected in (None, self.num_samples)


def make_lists(
    name: str, root: str | Path, options: ListOptions | None = None
) -> list[WrittenList]:
    """Write the lists of all splits of a dataset that are in a folder.

    Labels that are distributed in another form are made into label images beside the images'
    folders; those that are there are kept. A list that is there with the same content counts as
    written. Nothing is written where something is missing.

    Args:
        name: key of `iters.datasets.DATASETS`.
        root: folder of the dataset, which the paths in the lists are relative to.
        options: how they are made; None: as by default.

    Raises:
        ValueError: an unknown dataset, or a damaged file, which the message names.
        FileNotFoundError: the dataset is not there or is incomplete.
        FileExistsError: a list with another content is there.
        ademx.compat.MissingDependency: scipy or pycocotools is needed and not installed.
    """
    options = options or ListOptions()
    if name not in _PLANNERS:
        raise InputError(f"no lists are made of {name!r}: choose one of {', '.join(_PLANNERS)}")
    dataset = get_dataset(name)
    if options.rec and dataset.task != "classification":
        raise InputError(f"{name}: RecordIO files are for classification")
    root = Path(root).absolute()
    if not root.is_dir():
        raise MissingFile(f"{root}: no such folder: give the root of {name}")
    request = Request(dataset, root, options)
    plan = _PLANNERS[name](request)
    if not plan.lists:
        raise request.not_found("no split")
    folder = root if options.output is None else options.output.absolute()
    if not options.overwrite:
        _check_existing(plan, request, folder)
    paths = {split: folder / dataset.list_name(split) for split in plan.lists}
    contents = {
        paths[split]: _make_content(split, entries, request)
        for split, entries in plan.lists.items()
    }
    contents |= {folder / name: text.encode() for name, text in plan.texts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        with replacing(path) as file:
            file.write(content)
    if options.rec:
        for split, entries in plan.lists.items():
            _write_record_files(entries, paths[split])
    return [
        _written(split, path, dataset, num_samples=contents[path].count(b"\n"))
        for split, path in paths.items()
    ]


def _check_existing(plan: Plan, request: Request, folder: Path) -> None:
    """Raise FileExistsError, before any work is done, for a file that would be replaced.

    One that would stay as it is may exist. Where that shows only after long work, it may not.
    """
    contents: dict[str, bytes | None] = {name: text.encode() for name, text in plan.texts.items()}
    for split, entries in plan.lists.items():
        path = folder / request.dataset.list_name(split)
        contents[path.name] = None
        if path.exists() and not callable(entries):
            contents[path.name] = list_content(split, entries, root=request.root)
        if request.options.rec:
            contents.update(dict.fromkeys([f"{path.stem}.rec", f"{path.stem}.idx"]))
    for name, content in contents.items():
        path = folder / name
        if path.exists() and (content is None or read_file(path) != content):
            raise FileInTheWay(
                f"{path} exists: choose another folder with --output or add --overwrite"
            )


def _make_content(split: str, entries: Entries, request: Request) -> bytes:
    """Make the labels of a list and return what its file is to hold."""
    found = entries() if callable(entries) else entries
    needed = make_labels(
        found,
        palette=request.dataset.palette or (),
        min_pixels=request.options.min_pixels if request.dataset.name == "coco20" else None,
        jobs=request.options.jobs,
        title=f"{request.dataset.name} {split}",
    )
    if found and not needed:
        raise InputError(f"{split}: found no image with enough labelled pixels to list")
    return list_content(split, needed, root=request.root)


def list_content(split: str, entries: Sequence[Entry], *, root: Path) -> bytes:
    """Return a split's list as the bytes of its file.

    Raises:
        ValueError: it would be empty, or a path cannot stand in a list.
    """
    if not entries:
        raise InputError(f"{split}: found no image to list")
    lines = [_line(index, entry, root) for index, entry in enumerate(entries)]
    return "".join(lines).encode(errors="surrogateescape")


def _line(index: int, entry: Entry, root: Path) -> str:
    image = _relative(entry.image, root)
    if isinstance(entry.label, int):
        return f"{index}\t{entry.label}\t{image}\n"
    return f"{image}\n" if entry.label is None else f"{image}\t{_relative(entry.label, root)}\n"


def _relative(path: Path, root: Path) -> str:
    """Return a path as a list in the root gives it.

    Raises:
        ValueError: it has characters that separate the fields of a list.
    """
    try:
        text = path.relative_to(root).as_posix()
    except ValueError:  # elsewhere; and ".." goes up from where a link leads to
        above = Path(os.path.relpath(_resolved(path.parent), _resolved(root)))
        text = (above / path.name).as_posix()
    if not is_listable(text):
        raise InputError(f"{str(path)!r}: {UNLISTABLE}")
    return text


def is_listable(text: str) -> bool:
    """Return whether a path has no character that separates the fields of a list."""
    return text == text.strip() and set(text).isdisjoint("\t\n\r")


@functools.lru_cache(maxsize=1000)
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def _write_record_files(entries: Entries, path: Path) -> None:
    """Pack the images of a list for classification into `.rec` and `.idx` beside its file."""
    listed = () if callable(entries) else entries
    bar = progress_bar(iterable=listed, desc=f"{path.stem}.rec", unit="image")
    images = (
        (key, entry.label, read_file(entry.image))
        for key, entry in enumerate(bar)
        if isinstance(entry.label, int)
    )
    # The index is in place before the records, which is what readers look for.
    with (
        replacing(path.with_suffix(".rec")) as record_file,
        replacing(path.with_suffix(".idx")) as index_file,
    ):
        write_records(images, record_file=record_file, index_file=index_file)


def _written(split: str, path: Path, dataset: Dataset, *, num_samples: int) -> WrittenList:
    expected = dataset.splits.get(split)
    known = explain_count(dataset, split, num_samples)
    if expected not in (None, num_samples):
        reason = "" if known is None else f": {known.message}"
        _log.warning("%s: %d samples, expected %d%s", path, num_samples, expected, reason)
    if known is not None and known.is_whole:
        expected = num_samples
    return WrittenList(path, split, num_samples, expected)

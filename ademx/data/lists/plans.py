"""What a dataset's lists are to hold, found before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Union

from ademx import options as declare
from ademx.errors import InputError, MissingFile
from ademx.options import option
from iters.files import read_text
from iters.variants import explain_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from iters.datasets import Dataset


class LabelSource(Protocol):
    """What a label image is made from. It is sent to other processes."""

    def read(self) -> NDArray[np.uint8]:
        """Return the stored ids, (H, W) uint8.

        Raises:
            ValueError: the source is damaged; the message names its file.
            OSError: it cannot be read.
        """


@dataclass(frozen=True)
class Entry:
    """A line of a list.

    Attributes:
        image: the image's file.
        label: the label image's file, the class id, or None where a list of images without
            labels is made.
        source: what the label image is made from; None where it is part of the distribution.
    """

    image: Path
    label: Path | int | None
    source: LabelSource | None = None


Entries = Union[Sequence[Entry], "Callable[[], Sequence[Entry]]"]


@dataclass(frozen=True)
class Plan:
    """All that can be made of a dataset.

    Attributes:
        lists: split -> the lines of its list, or a function that returns them, where that takes
            long; in the order in which the lists are made.
        texts: name and content of other files to write beside the lists.
    """

    lists: Mapping[str, Entries]
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ListOptions:
    """How a dataset's lists are made."""

    output: Path | None = option(None, "Folder of the lists.  [default: the root]", path="output")
    overwrite: bool = option(False, "Replace lists that exist with other content.")
    sbd: Path | None = option(
        None, "voc-sbd: SBD's folder.  [default: in the root or beside VOC]", path="folder"
    )
    coco: Path | None = option(
        None, "voc-sbd: COCO with lists of coco20: make train++ too.", path="folder"
    )
    # gluoncv's rule for images of COCO that are to help on VOC.
    min_pixels: int = option(
        1000, "coco20: list images with more labelled pixels than this.", least=0
    )
    class_ids: Path | None = option(
        None,
        "ilsvrc-cls: which folder is which class: the folders' names, one a line, in the order of "
        "the synsets.  [default: the folders are the synsets]",
        path="file",
    )
    rec: bool = option(False, "Classification: RecordIO files (.rec, .idx) too.")
    jobs: int | None = option(None, "Processes that make labels.  [default: the cores]", least=1)

    def __post_init__(self) -> None:
        declare.check(self)


@dataclass(frozen=True)
class Request:
    """What to look for, and where.

    Attributes:
        dataset: the dataset.
        root: its folder, absolute.
        options: how its lists are made.
    """

    dataset: Dataset
    root: Path
    options: ListOptions

    def not_found(self, what: str) -> MissingFile:
        """Return the error for a distribution that is not in the root, or in another form."""
        instead = explain_files(self.dataset, self.root, by_lists=True) or (
            f"looked there for {'; '.join(self.dataset.layout)}: correct --root, or unpack the "
            "official files there"
        )
        return MissingFile(f"{what} of {self.dataset.name} in {self.root}: {instead}")


def check_files(paths: Iterable[Path], request: Request) -> None:
    """Raise FileNotFoundError where files are missing, naming the first of them.

    Folders are listed rather than files asked for one by one, which takes minutes for millions.
    """
    folders: dict[Path, set[str]] = {}
    missing = []
    for path in paths:
        if path.parent not in folders:
            folders[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        if path.name not in folders[path.parent]:
            missing.append(path)
    if missing:
        others = f" nor {len(missing) - 1} others" if len(missing) > 1 else ""
        raise request.not_found(f"{missing[0]} is not there{others}: incomplete files")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a list of the distribution, but for blank ones.

    Raises:
        ValueError: there are none, or it is no text.
        OSError: the file cannot be read.
    """
    lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if not lines:
        raise InputError(f"{path}: the file is empty: unpack it again")
    return lines

"""What can be wrong with a dataset on disk, in words."""

from __future__ import annotations

from dataclasses import dataclass

# Kind of problem or remark -> heading.
KINDS = {
    "split": "splits that are not there",
    "list": "splits whose list cannot be used",
    "count": "splits of another number of images",
    "class": "wrong class ids",
    "missing": "files that are not there",
    "misnamed": "files of another name",
    "unreadable": "files that cannot be decoded",
    "size": "labels of another size than their image",
    "value": "labels with numbers that are not the dataset's",
    "exif": "images that their EXIF data turn",
    "unseen": "images that their EXIF data turn, though no size shows whether to",
    "void": "val labels without a void pixel",
    "duplicate": "images that occur again",
    "unlabelled": "images without a label",
    "unlisted": "files that no split lists",
    "empty": "classes that do not occur",
}


@dataclass(frozen=True)
class Problem:
    """Something wrong with a dataset, or, among the remarks, something to know of it.

    Attributes:
        kind: key of :data:`KINDS`.
        split: where it is; None where it concerns no single split.
        path: the file or folder; None where it concerns no single one.
        detail: what was found, and what was expected.
        hint: what it probably is and what to do, often the same for many problems; may be "".
    """

    kind: str
    split: str | None
    path: str | None
    detail: str
    hint: str = ""

"""The lists of Places365-Standard, small images."""

from __future__ import annotations

import logging
from pathlib import Path

from ademx.data.lists.plans import Entry, Plan, Request, check_files, read_lines
from ademx.errors import InputError

_log = logging.getLogger(__name__)

# Split -> the distribution's list, and the folder that its paths are relative to.
FILES = {
    "train": ("places365_train_standard.txt", "data_256"),
    "val": ("places365_val.txt", "val_256"),
    "test": ("places365_test.txt", "test_256"),
}


def plan_places(request: Request) -> Plan:
    """Return the lists of the splits whose list and images are there.

    Raises:
        FileNotFoundError: none is there, or images are missing.
        ValueError: a list is malformed.
    """
    lists = {}
    for split, names in FILES.items():
        file, folder = (request.root / name for name in names)
        if file.is_file() and folder.is_dir():
            lists[split] = _entries(file, folder, has_labels=split != "test")
            check_files((entry.image for entry in lists[split]), request)
            if split == "test":
                _log.info("test.lst: the labels are not public: it has 0 in their place")
    return Plan(lists)


def _entries(file: Path, folder: Path, *, has_labels: bool) -> list[Entry]:
    entries = []
    for line in read_lines(file):
        name, _, label = line.rpartition(" ") if has_labels else (line, "", "0")
        if not (name and label.isascii() and label.isdigit()):
            raise InputError(f"{file}: found {line!r}: expected a path and a class id")
        # The paths of train begin with "/".
        entries.append(Entry(folder / name.strip("/ "), int(label)))
    return entries

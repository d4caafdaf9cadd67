"""The lists of datasets that are distributed as images and labels in folders of splits."""

from __future__ import annotations

from pathlib import Path

from ademx.data.lists.plans import Entry, Plan, PlannedList, Request, check_files
from iters.lists import find_official_samples


def plan_split_folders(request: Request) -> Plan:
    """Return the lists of Cityscapes or ADE20K.

    Raises:
        FileNotFoundError: no split is there, or one lacks labels.
    """
    lists = []
    for split in request.dataset.splits:
        samples = find_official_samples(request.dataset, request.root, split)
        check_files((s.label for s in samples if isinstance(s.label, Path)), request)
        if samples:
            entries = [Entry(sample.image, sample.label) for sample in samples]
            lists.append(PlannedList(split, entries))
    return Plan(lists)

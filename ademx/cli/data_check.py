"""`ademx data check`: what is wrong with the files of a dataset."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from ademx.cli import options as shared
from ademx.cli.tables import aligned
from ademx.data.check.dataset import DatasetCheck, check_dataset
from ademx.data.check.problems import KINDS, Problem
from ademx.options import option
from ademx.text import printable

_NUM_PROBLEMS, _NUM_REMARKS = 10, 3  # of each kind that are printed


@click.command()
@click.argument("dataset")
@shared.from_signature
def check(
    dataset: str,
    root: Path = option(help="Folder of the dataset.", path="folder"),
    splits: tuple[str, ...] = option(
        (), "Split to check; may be given again.  [default: all]", names=("--split",)
    ),
    list_file: Path | None = option(
        None, "The samples of the one split, paths relative to the root.", path="file"
    ),
    expect_counts: bool = option(
        True, "Expect any number of images: a reduced copy.", names=("--no-counts",)
    ),
    quick: bool = option(False, "Look whether the files are there, and open none."),
    json_file: Path | None = shared.json_file("Write all that was found here."),
    overwrite: bool = shared.overwrite("Replace a file that exists."),
) -> None:
    """Check every file of a DATASET.

    DATASET is a name, as for `ademx data lists`, or the YAML file that describes your own.

    Compared are the number of images with the published one; images and labels with each other,
    after decoding them to their end; the numbers in labels with the dataset's classes; class ids;
    and the images of train with those of val and test. The exit status is 1 where something is
    wrong. Remarks are on what need not be.
    """
    if list_file is not None and len(splits) != 1:
        raise click.UsageError("--list-file is the list of one split: give that with --split")
    found = check_dataset(
        dataset,
        root,
        splits=splits or None,
        list_files={} if list_file is None else {splits[0]: list_file},
        quick=quick,
        expect_counts=expect_counts,
    )
    shared.write_record(json_file, _record(found))
    click.echo("\n".join(_text(found)))
    if not found.ok:
        counts = Counter(KINDS[problem.kind] for problem in found.problems)
        kinds = ", ".join(f"{heading} ({count:,})" for heading, count in counts.items())
        where = printable(f"{found.dataset} in {root}")
        raise click.ClickException(f"{where} is not in order: {kinds}")


def _record(found: DatasetCheck) -> dict[str, Any]:
    troubles = Counter(problem.split for problem in found.problems)
    return {
        "dataset": found.dataset,
        "root": str(found.root),
        "ok": found.ok,
        "quick": found.quick,
        "splits": {
            split: {"images": images, "expected": expected, "problems": troubles[split]}
            for split, (images, expected) in found.counts.items()
        },
        "problems": [dataclasses.asdict(problem) for problem in found.problems],
        "remarks": [dataclasses.asdict(remark) for remark in found.remarks],
    }


def _text(found: DatasetCheck) -> Iterator[str]:
    troubles = Counter(problem.split for problem in found.problems)
    rows = [("split", "images", "expected", "problems")]
    for split, (images, expected) in found.counts.items():
        published = "" if expected is None else f"{expected:,}"
        rows.append((split, f"{images:,}", published, f"{troubles[split]:,}"))
    yield aligned(rows)
    yield from _problem_lines(found.problems, limit=_NUM_PROBLEMS, title="")
    yield from _problem_lines(found.remarks, limit=_NUM_REMARKS, title="remark: ")
    if found.ok:
        opened = "no file was opened" if found.quick else "every file was read"
        where = printable(f"{found.dataset} in {found.root}")
        yield f"\nnothing is wrong with {where}; {opened}"


def _problem_lines(problems: Sequence[Problem], *, limit: int, title: str) -> Iterator[str]:
    """Yield the problems under the heading of their kind, the first ones of each."""
    for kind, heading in KINDS.items():
        cases = [problem for problem in problems if problem.kind == kind]
        if not cases:
            continue
        yield f"\n{title}{heading}: {len(cases):,}"
        for case in cases[:limit]:
            yield "  " + printable(": ".join(filter(None, (case.split, case.path, case.detail))))
        if len(cases) > limit:
            yield f"  … and {len(cases) - limit:,} more"
        for hint in dict.fromkeys(case.hint for case in cases if case.hint):
            yield f"  → {printable(hint)}"

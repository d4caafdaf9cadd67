"""`ademx doctor`: what the engines find on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.cli.tables import aligned
from ademx.doctor import examine


@click.command()
@shared.from_signature
def doctor(
    json_file: Path | None = shared.json_file("Write what was found as JSON."),
    overwrite: bool = shared.overwrite("Replace a file that exists."),
) -> None:
    """Print what the engines find on this machine, and a line with its cure for each problem.

    The exit status is 0 if MXNet or PyTorch computes, else 1.
    """
    report = examine()
    click.echo(aligned(list(report.facts.items()), num_texts=2))
    for problem in report.problems:
        click.echo(f"PROBLEM: {problem.what}: {problem.cure}")
    shared.write_record(json_file, dataclasses.asdict(report))
    click.get_current_context().exit(0 if report.usable else 1)

"""`ademx doctor`: what MXNet finds on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.files import write_json


@click.command()
@click.option("--json", "json_file", type=shared.ANY_PATH, help="Write what was found as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@click.pass_context
def doctor(ctx: click.Context, json_file: Path | None, overwrite: bool) -> None:
    """Print what MXNet finds on this machine, and a line with its cure for each problem.

    The exit status is 0 if MXNet can be used, else 1.
    """
    from ademx.doctor import examine

    shared.check_writable([json_file], overwrite=overwrite)
    report = examine()
    width = max(map(len, report.facts))
    for name, found in report.facts.items():
        click.echo(f"{name:{width}}  {found}")
    for problem in report.problems:
        click.echo(f"PROBLEM: {problem.what}: {problem.cure}")
    if json_file:
        write_json(json_file, dataclasses.asdict(report))
    ctx.exit(0 if report.usable else 1)

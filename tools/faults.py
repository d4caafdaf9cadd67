"""What a hard life does to the commands: `python tools/faults.py --help`.

A whole campaign takes about a quarter of an hour on two cores. It needs Linux and what the tests
need (`make test` installs it); what needs root besides is said not to have been tried without.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import faults_disk
import faults_edits
import faults_environment
import faults_files
import faults_kill
import faults_pairs
import faults_processes
from faults_base import Bench, Fault, Row, try_fault
from tqdm import tqdm

_MODULES = (
    faults_kill,
    faults_processes,
    faults_disk,
    faults_pairs,
    faults_edits,
    faults_files,
    faults_environment,
)
FAULTS = tuple(fault for module in _MODULES for fault in module.FAULTS)
_SHOWN = 5  # losses of a row that are told; the file has all


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="Faults that begin so: see --list.")
@click.option("--list", "listed", is_flag=True, help="Print the faults' names, and end.")
@click.option("--trials", type=click.IntRange(1), help="Of each fault.  [default: each its own]")
@click.option(
    "--seconds", type=float, default=1500, show_default=True, help="Begin no trial after these."
)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="At once.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("faults.md"),
    show_default=True,
    help="File that the table is written to; an earlier one is replaced.",
)
def main(
    only: tuple[str, ...],
    listed: bool,
    trials: int | None,
    seconds: float,
    jobs: int,
    seed: int,
    output: Path,
) -> None:
    """Disturb the commands in every way that we know, and print what came of it.

    Each trial runs on drawn data in a folder of its own; what it leaves is compared to the bit
    with what an undisturbed run leaves. The exit status is 1 if anything was lost: a wrong
    result, a half-written file, a traceback, a hang, a process left behind.
    """
    chosen = [fault for fault in FAULTS if not only or fault.name.startswith(only)]
    if listed or not chosen:
        click.echo("\n".join(f"{fault.name:24} {fault.what}" for fault in FAULTS))
        if not listed:
            raise click.UsageError(f"--only {' '.join(only)}: no fault begins so")
        return
    rows = campaign(chosen, trials=trials, seconds=seconds, jobs=jobs, seed=seed)
    output.write_text(table(rows), encoding="utf-8")
    click.echo(table(rows, shown=_SHOWN), nl=False)
    if any(row.losses for row in rows):
        click.get_current_context().exit(1)


def campaign(
    faults: Sequence[Fault], *, trials: int | None, seconds: float, jobs: int, seed: int
) -> list[Row]:
    """Try the faults one after another, in a temporary folder, and return a row for each."""
    deadline = time.monotonic() + seconds
    folder = Path(tempfile.mkdtemp(prefix="ademx-faults-"))
    times = [trials or fault.times for fault in faults]
    rows = []
    try:
        bench = Bench(folder, seed)
        with tqdm(total=sum(times), unit="trial", disable=None) as bar:
            for fault, count in zip(faults, times):
                bar.set_description(fault.name)
                rows.append(
                    try_fault(
                        fault, bench, times=count, jobs=jobs, deadline=deadline, tick=bar.update
                    )
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def table(rows: Sequence[Row], *, shown: int | None = None) -> str:
    """Return the rows as a table in Markdown, and below it the losses of each, or the first."""
    lines = ["| what was tried | times | lost | what came of it |", "|---|---:|---:|---|"]
    for row in rows:
        came = f"{len(row.losses)} losses, below" if row.losses else "nothing lost"
        said = "; ".join(part for part in (came if row.tried else "", row.remark) if part)
        lines.append(f"| {row.what} | {row.tried} | {len(row.losses)} | {said} |")
    for row in rows:
        if row.losses:
            lines += ["", f"{row.what}:", ""]
            lines += [f"- {' '.join(loss.split())}" for loss in row.losses[:shown]]
            if len(row.losses) > len(row.losses[:shown]):
                lines.append(f"- and {len(row.losses[shown:])} more")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

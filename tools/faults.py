"""What a hard life does to the commands: `python tools/faults.py --help`.

A campaign begins no trial after `--seconds`, 45 minutes, but the first of each fault: these take
seven minutes of a core together, and what the time did not suffice for is said in the table. It
needs Linux and what the tests need (`make test` installs it); what needs root besides is said not
to have been tried without.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import click
import faults_commands
import faults_edits
import faults_environment
import faults_files
import faults_processes
from faults_base import ROOT, Bench, Fault, Pace, Row, judge, make_trial, set_pace
from faults_work import TRAINING
from tqdm import tqdm

_MODULES = (
    faults_commands,
    faults_processes,
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
@click.option("--full", is_flag=True, help="50 kills of each of five commands, not of all.")
@click.option(
    "--seconds",
    type=float,
    default=2700,
    show_default=True,
    help="Begin no trial after these, but the first of each fault.",
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
    full: bool,
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
    times = [trials or (full and fault.full) or fault.times for fault in chosen]
    commit, begun, rows = _commit(), time.monotonic(), []
    for rows in campaign(chosen, times=times, seconds=seconds, jobs=jobs, seed=seed):
        output.write_text(table(rows) + _tried_on(commit, seed, begun), encoding="utf-8")
    click.echo(table(rows, shown=_SHOWN) + _tried_on(commit, seed, begun), nl=False)
    if any(row.losses for row in rows):
        click.get_current_context().exit(1)


def campaign(
    faults: Sequence[Fault], *, times: Sequence[int], seconds: float, jobs: int, seed: int
) -> Iterator[list[Row]]:
    """Try the faults in a temporary folder, and yield the rows so far after each trial.

    The first trial of every fault comes first, then each fault's others are spread over the rest:
    what the time does not suffice for is a share of every row.
    """
    folder = Path(tempfile.mkdtemp(prefix="ademx-faults-"))
    order = sorted((n / count, index, n) for index, count in enumerate(times) for n in range(count))
    outcomes: list[list[Exception | None]] = [[] for _ in faults]
    try:
        bench = Bench(folder, seed)
        measure_pace(bench)
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(order), disable=None) as bar:
            waiting = {
                pool.submit(make_trial, faults[index], bench, n, deadline=deadline): index
                for _, index, n in order
            }
            try:
                for done in as_completed(waiting):
                    outcomes[waiting[done]].append(done.result())
                    bar.update()
                    rows = zip(faults, outcomes, times)
                    yield [judge(fault, made, times=count) for fault, made, count in rows]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_pace(bench: Bench) -> None:
    """Set the limits for this machine, as fast and as busy as it is now."""
    set_pace(TRAINING.undisturbed(bench).seconds)


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


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _tried_on(commit: str, seed: int, begun: float) -> str:
    """Return a line on what was tried, and how long it took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        f"\nCommit {commit}, seed {seed}: {time.monotonic() - begun:.0f} s, "
        f"{used.ru_utime + used.ru_stime:.0f} s of a core; limits of an idle machine "
        f"times {Pace.slowness:.1f}.\n"
    )


if __name__ == "__main__":
    main()

"""`ademx weights list`, `verify` and `show`."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.cli.tables import aligned
from ademx.convert.files import Reading, open_weights
from ademx.convert.genuine import (
    GONE,
    ArrayStatistics,
    ReleasedFile,
    Verdict,
    guess_model_of,
    released_files,
    statistics,
)
from ademx.convert.genuine import verify as verify_file
from ademx.iteration import progress_bar
from ademx.labels import parse_label
from ademx.options import option
from ademx.text import printable


@click.group()
def weights() -> None:
    """The released weights: list them, verify files, show what a file holds. Needs no MXNet.

    The host that served the released files has shut down. A file from any mirror is genuine if
    its MD5 is the one that `list` shows, which is that of the release's own checksum file;
    `verify` compares it.
    """


@weights.command("list")
@shared.from_signature
def list_files(models: Path | None = option(None, "Folder to look for the files in.")) -> None:
    """The released files, what was published of them, their sizes and MD5."""
    click.echo("\n\n".join(_released(row) for row in released_files(models)))
    click.echo("\nSizes are computed from the parameters' shapes; no file is read for them.")
    click.echo(textwrap.fill(GONE, 100))


def _released(row: ReleasedFile) -> str:
    facts = [f"{row.label.task}, {row.nbytes / 1e6:.1f} MB, MD5 {row.md5}", *row.results]
    if row.state:
        facts.append(row.state)
    return "\n".join([row.name, *(f"  {fact}" for fact in facts)])


@weights.command()
@click.argument("files", type=shared.EXISTING_FILE, nargs=-1, required=True)
@shared.from_signature
@shared.as_object("reading", Reading)
def verify(
    files: tuple[Path, ...],
    *,
    model: str | None = option(
        None, "Label that the files should have.  [default: from each file's name]"
    ),
    reading: Reading,
) -> None:
    """Say of each FILE whether it is a released one, and whether it can be used.

    A FILE is a .params, .pth or .safetensors file in any layout that `ademx convert` reads.

    Compared are the MD5 with the released one, names and shapes of all parameters with the
    model's, and whether the numbers can be a network's: none nan or infinite, variances positive.
    The exit status is 0 if every file is a released one, or one of own training that fits.
    """
    label = parse_label(model) if model else None
    total = sum(path.stat().st_size for path in files)
    with progress_bar(total=total, unit="B", unit_scale=True, leave=False) as bar:
        verdicts = [
            verify_file(path, label=label, advance=bar.update, reading=reading) for path in files
        ]
    for verdict in verdicts:
        click.echo(_verdict(verdict))
    failed = sum(not verdict.ok for verdict in verdicts)
    if failed:
        raise click.ClickException(f"{failed} of {len(files)} files did not pass")


def _verdict(verdict: Verdict) -> str:
    lines = [f"{verdict.path}: {verdict.message}", *(f"  {p}" for p in verdict.problems)]
    return "\n".join(printable(line, keep="\t") for line in lines)


@weights.command()
@click.argument("file", type=shared.EXISTING_FILE)
@shared.from_signature
@shared.as_object("reading", Reading)
def show(
    file: Path,
    *,
    json_file: Path | None = shared.json_file("Write all of it as JSON too."),
    reading: Reading,
    overwrite: bool = shared.overwrite("Replace a file that exists."),
) -> None:
    """Names, shapes, dtypes and statistics of all arrays of a FILE of weights, and its model.

    A FILE is a .params, .pth or .safetensors file; its names are shown as they are in it.
    """
    with open_weights(file) as opened:
        each = statistics(opened)
        rows = list(progress_bar(iterable=each, total=len(opened), unit="array", leave=False))
    layout, guess = guess_model_of(opened, reading)
    record = {
        "file": str(file),
        "layout": layout or None,
        "model": dataclasses.asdict(guess) if guess else None,
        "arrays": [dataclasses.asdict(row) for row in rows],
    }
    shared.write_record(json_file, record)
    click.echo(_table(rows))
    learnt, states = (
        sum(math.prod(row.shape) for row in rows if row.kind == kind) for kind in ("arg", "aux")
    )
    click.echo(f"\n{len(rows)} arrays, {learnt:,} parameters, {states:,} moving statistics")
    click.echo(f"model: {guess or 'none that is known here'}")
    if layout:
        click.echo(f"layout: {layout}")


def _table(rows: Sequence[ArrayStatistics]) -> str:
    """Return the rows aligned: texts to the left, numbers to the right."""
    cells = [("name", "kind", "shape", "dtype", "min", "mean", "max", "std")]
    for row in rows:
        numbers = (f"{x:.4g}" for x in (row.minimum, row.mean, row.maximum, row.std))
        shape = "×".join(map(str, row.shape)) or "scalar"
        cells.append((row.name, row.kind, shape, row.dtype, *numbers))  # type: ignore[arg-type]
    return aligned(cells, num_texts=4)

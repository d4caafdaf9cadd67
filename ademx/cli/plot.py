"""`ademx plot`: the curves of training runs."""

from __future__ import annotations

from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.files import replacing
from ademx.options import option
from ademx.training.curves import draw, load_runs


@click.command()
@click.argument("runs", metavar="RUN…", nargs=-1, required=True, type=shared.ANY_PATH)
@shared.from_signature
def plot(
    runs: tuple[Path, ...],
    output: Path = option(Path("curves.png"), "Picture: a .pdf, .png or .svg file.", path="new"),
    overwrite: bool = shared.overwrite("Replace a file that exists."),
) -> None:
    """Draw loss, val score, learning rate and speed of each RUN, an --output folder of training.

    All are drawn over updates. Thin lines are parts of an epoch, dots whole epochs, dashed lines
    the val split, of runs that `ademx train --validate-every` tested on it.
    """
    loaded = load_runs(runs)
    with replacing(output) as file:
        draw(loaded, file, output.suffix.lstrip(".").lower())
    click.echo(output)

"""`ademx plot`: the curves of training runs."""

from __future__ import annotations

from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.files import replacing


@click.command()
@click.argument("runs", metavar="RUN…", nargs=-1, required=True, type=shared.ANY_PATH)
@click.option(
    "--output",
    type=shared.ANY_PATH,
    default=Path("curves.png"),
    show_default=True,
    help="Picture: a .pdf, .png or .svg file.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
def plot(runs: tuple[Path, ...], output: Path, overwrite: bool) -> None:
    """Draw loss, val score, learning rate and speed of each RUN, an --output folder of training.

    All are drawn over updates. Thin lines are parts of an epoch, dots whole epochs, dashed lines
    the val split, of runs that `ademx train --validate-every` tested on it.
    """
    from ademx.training.curves import draw, load_runs

    shared.check_writable([output], overwrite=overwrite)
    loaded = load_runs(runs)
    with replacing(output) as file:
        draw(loaded, file, output.suffix.lstrip(".").lower())
    click.echo(output)

"""`ademx demo`."""

from __future__ import annotations

from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.cli.evaluate import segmentation_table


@click.command()
@click.option(
    "--output",
    type=shared.ANY_PATH,
    default=Path("demo"),
    show_default=True,
    help="Folder for the data, the weights, the scores and the pictures.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws other images.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier demo in the folder.")
def demo(output: Path, seed: int, overwrite: bool) -> None:
    """Fit a narrow Model A1 to drawn shapes, test it, and save pictures of its labels.

    Takes a few minutes on two cores. Scores are those of 16 held-out images.
    """
    from ademx.demo import run_demo

    result = run_demo(output, overwrite=overwrite, seed=seed)
    click.echo(segmentation_table(result.report))
    click.echo(f"\nweights   {result.weights}")
    click.echo(f"scores    {output / 'val' / 'scores.json'}")
    click.echo(f"pictures  {result.pictures[0].parent}/ ({len(result.pictures)} PNG files)")

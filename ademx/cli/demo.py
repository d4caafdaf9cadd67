"""`ademx demo`."""

from __future__ import annotations

from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.cli.evaluate import scores_table


@click.command()
@click.option(
    "--output",
    type=shared.ANY_PATH,
    default=Path("demo"),
    show_default=True,
    help="Folder for the data, the weights, the scores and the pictures.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws other images.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted demo.")
def demo(output: Path, seed: int, resume: bool) -> None:
    """Train a narrow Model A1 on drawn shapes, test it, and show its labels.

    Takes a few minutes on two cores. Scores are those of 16 images that it was not trained on. An
    earlier demo in the folder is replaced.
    """
    from ademx.demo import run_demo

    result = run_demo(output, resume=resume, seed=seed)
    click.echo(scores_table(result.report.record))
    click.echo(f"\nweights   {result.weights}")
    click.echo(f"scores    {output / 'val' / 'scores.json'}")
    click.echo(f"report    {result.page}")
    if result.curves is not None:
        click.echo(f"curves    {result.curves}")
    click.echo(f"pictures  {result.pictures[0].parent}/ ({len(result.pictures)} PNG files)")

"""`ademx demo`: a small run of everything on drawn data."""

from __future__ import annotations

from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.cli.evaluate import scores_table
from ademx.demo import run_demo
from ademx.options import option


@click.command()
@shared.from_signature
def demo(
    output: Path = option(
        Path("demo"), "Folder for the data, the weights, the scores and the pictures."
    ),
    seed: int = option(0, "Draws other images."),
    resume: bool = option(False, "Go on with an interrupted demo."),
) -> None:
    """Train a narrow Model A1 on drawn shapes, test it, and show its labels.

    Takes a few minutes on two cores. Scores are those of 16 images that it was not trained on. An
    earlier demo in the folder is replaced.
    """
    report, files = run_demo(output, resume=resume, seed=seed)
    click.echo(scores_table(report.record) + "\n")
    for name, path in files.items():
        content = f"/ ({len(list(path.iterdir()))} PNG files)" if path.is_dir() else ""
        click.echo(f"{name:10}{path}{content}")

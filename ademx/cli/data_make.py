"""`ademx data make`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.options import option
from ademx.text import printable
from iters.datasets import DATASETS


@click.command()
@click.argument("dataset", metavar="DATASET", type=click.Choice([*DATASETS, "labelme"]))
@shared.from_signature
def make(
    dataset: str,
    root: Path = option(help="The dataset's folder, new or empty.", path="output"),
    images: int = option(8, "Number of images of each split.", least=1),
    seed: int = option(0, "Draws other images.", least=0),
) -> None:
    """Draw a small DATASET in the layout of the real one.

    Every command can be tried with it, without a download. Shapes stand for some of the classes,
    and the labels are true, in the numbers of the real files. "labelme" draws photographs with
    labelme's JSON files, for `ademx data import`, and new.jpg, without one.
    """
    from ademx.data.drawn.make import make_dataset

    counts = make_dataset(dataset, root, images=images, seed=seed)
    click.echo(f"{dataset}: drawn scenes in {printable(root)}")
    for split, count in counts.items():
        click.echo(f"  {split:<12}{count:>6} images" + ", no labels" * (split == "test"))
    where = printable(shlex.quote(str(root)))
    if dataset == "labelme":
        click.echo(f"next: ademx data import labelme {where} --output own")
    else:
        click.echo(f"next: ademx data lists {dataset} --root {where}")

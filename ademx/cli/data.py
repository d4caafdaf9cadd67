"""`ademx data`: lists, imports, checks and drawings of datasets."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.cli.data_check import check
from ademx.cli.data_import import import_
from ademx.cli.data_lists import lists
from ademx.data.drawn.make import make_dataset
from ademx.data.record_index import write_index
from ademx.options import option
from ademx.text import printable
from iters.datasets import DATASETS


@click.group()
def data() -> None:
    """Datasets on disk: the release's lists, one of your own, checks of files, drawn ones."""


for _command in (lists, import_, check):
    data.add_command(_command)


@data.command()
@click.argument("file", type=shared.EXISTING_FILE)
@shared.from_signature
def index(
    file: Path,
    output: Path | None = option(None, "The index.  [default: FILE with .idx]"),
    overwrite: bool = shared.overwrite("Replace an index that exists."),
) -> None:
    """Write the index of a RecordIO FILE that came without one.

    It is `key⇥offset` a line, and lies beside the file, `.idx` in place of `.rec`: MXNet needs it
    to shuffle. Records are numbered in the order of the file. Every record is looked at, and one
    that is no image of one class is named: boxes for detection, several labels, protobuf messages.

    `ademx train` and `evaluate` do not need it: without one they go through the file when they
    start.
    """
    number = write_index(file, output, overwrite=overwrite)
    click.echo(f"{printable(output or file.with_suffix('.idx'))}: {number:,} records")


@data.command()
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
    counts = make_dataset(dataset, root, images=images, seed=seed)
    click.echo(f"{dataset}: drawn scenes in {printable(root)}")
    for split, count in counts.items():
        click.echo(f"  {split:<12}{count:>6} images" + ", no labels" * (split == "test"))
    where = printable(shlex.quote(str(root)))
    if dataset == "labelme":
        click.echo(f"next: ademx data import labelme {where} --output own")
    else:
        click.echo(f"next: ademx data lists {dataset} --root {where}")

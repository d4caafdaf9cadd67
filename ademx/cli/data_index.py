"""`ademx data index`."""

from __future__ import annotations

from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.options import option
from ademx.text import printable


@click.command()
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
    from ademx.data.record_index import write_index

    number = write_index(file, output, overwrite=overwrite)
    click.echo(f"{printable(output or file.with_suffix('.idx'))}: {number:,} records")

"""`ademx data`: lists, imports, checks and drawings of datasets."""

from __future__ import annotations

import click

from ademx.cli.data_check import check
from ademx.cli.data_import import import_
from ademx.cli.data_index import index
from ademx.cli.data_lists import lists
from ademx.cli.data_make import make


@click.group()
def data() -> None:
    """Datasets on disk: the release's lists, one of your own, checks of files, drawn ones."""


for _command in (lists, import_, index, check, make):
    data.add_command(_command)

"""`ademx data lists`, `ademx data check` and `ademx data make`."""

from __future__ import annotations

import click

from ademx.cli.data_check import check
from ademx.cli.data_lists import lists
from ademx.cli.data_make import make


@click.group()
def data() -> None:
    """Datasets on disk: make the release's lists, check every file, or draw a small dataset."""


for _command in (lists, check, make):
    data.add_command(_command)

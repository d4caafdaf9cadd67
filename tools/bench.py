"""Benchmarks, each against the plain way of doing the same: `python tools/bench.py --help`."""

from __future__ import annotations

from typing import Any

import click
from bench_evaluation import evaluation
from bench_iterators import iterators
from bench_networks import networks
from bench_training import training
from bench_weights import convert, params

from ademx.errors import UserError


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a user's mistake becomes one line on stderr and exit status 1."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, commands=[convert, evaluation, iterators, networks, params, training])
def main() -> None:
    """Measure how fast parts of ademx are, most as ratios between two things run in turns."""


if __name__ == "__main__":
    main()

"""Benchmarks, each against the plain way of doing the same: `python tools/bench.py --help`."""

from __future__ import annotations

import click
from bench_convert import convert
from bench_evaluation import evaluation
from bench_iterators import iterators
from bench_params import params
from bench_training import training


@click.group()
def main() -> None:
    """Measure how fast parts of ademx are, as ratios between two things run in turns."""


main.add_command(convert)
main.add_command(evaluation)
main.add_command(iterators)
main.add_command(params)
main.add_command(training)

if __name__ == "__main__":
    main()

"""`ademx train classification` and `ademx train segmentation`."""

from __future__ import annotations

from typing import Any

import click

from ademx.cli import options as shared
from ademx.engines.backends import worker_devices
from ademx.training.options import (
    ClassificationTrainOptions,
    SegmentationTrainOptions,
    TrainOptions,
)

# Release: options of its one script for both phases that say nothing about training.
_WITHOUT_EFFECT = ("--test-scales", "--test-steps")
_WITHOUT_EFFECT_FLAGS = (
    "--no-save-results",
    "--save-predictions",
    "--test-3crops",
    "--test-flipping",
)


@click.group()
def train() -> None:
    """Train a network: checkpoints, metrics.jsonl and run.json go to --output.

    --model says which network, such as voc_rna-a1_cls21_s8. --weights of another label give the
    values of all layers but a new head; --weights of the same label are gone on from.

    A run that was stopped or killed goes on by --resume and ends with the same weights. SIGTERM,
    Ctrl-C and a terminal that closes (SIGHUP) save first; the exit status is then 143, 130 or 129.
    --validate-every tests checkpoints on the val split while training, and keeps the best.
    """


def _options(options: type[TrainOptions]) -> shared.Decorator:
    """Add the options of a task."""
    return shared.stacked(
        shared.from_class(options),
        shared.log_file,
        shared.without_effect(*_WITHOUT_EFFECT, flags=_WITHOUT_EFFECT_FLAGS),
    )


@train.command()
@_options(ClassificationTrainOptions)
def classification(**arguments: Any) -> None:
    """Train a classifier; the defaults are those of Model A from scratch.

    The release's 90 epochs: --lr-type linear --to-epoch 90. Tuning A1 from A: --lr-type linear
    --base-lr 0.01 --to-epoch 9 --weights ilsvrc-cls_rna-a_cls1000_ep-0001.params.
    """
    _run(ClassificationTrainOptions, arguments)


@train.command()
@_options(SegmentationTrainOptions)
def segmentation(**arguments: Any) -> None:
    """Train a segmentation network; the defaults are those of the Cityscapes recipe.

    That is --to-epoch 140, then --base-lr 0.0008 --lr-type linear --to-epoch 64 from its result
    as the --weights of another --model.
    """
    _run(SegmentationTrainOptions, arguments)


def _run(options: type[TrainOptions], arguments: dict[str, Any]) -> None:
    arguments["devices"] = worker_devices(
        arguments["backend"], arguments["devices"], precision=arguments["precision"]
    )
    chosen = options(**arguments)

    # `ademx launch`, which reads these options, and --help do without it.
    from ademx.training.run import train as run_training

    report = run_training(chosen)
    if report.params_path is not None:
        click.echo(report.params_path)
    if report.signal is not None:
        click.get_current_context().exit(128 + report.signal)

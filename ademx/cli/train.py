"""`ademx train classification` and `ademx train segmentation`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ademx.cli import options as shared

if TYPE_CHECKING:
    from ademx.training.options import TrainOptions

# Release: options of its one script for both phases that say nothing about training.
_WITHOUT_EFFECT = ("--test-scales", "--test-steps")
_WITHOUT_EFFECT_FLAGS = (
    "--no-save-results",
    "--save-predictions",
    "--test-3crops",
    "--test-flipping",
)


class _Range(click.ParamType):
    """Two numbers separated by a comma, as a tuple."""

    name = "LOW,HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            low, high = map(float, value.split(","))
            return low, high
        except ValueError:
            self.fail(f"{value!r}: expected two numbers separated by a comma", param, ctx)


@click.group()
def train() -> None:
    """Train a network: checkpoints, metrics.jsonl and run.json go to --output.

    --model says which network, such as voc_rna-a1_cls21_s8. --weights of another label give the
    values of all layers but a new head; --weights of the same label are gone on from.

    A run that was stopped or killed goes on by --resume and ends with the same weights. SIGTERM
    and Ctrl-C save first; the exit status is then 143 or 130.
    """


def _number(name: str, help_text: str, **attributes: Any) -> Callable[..., Any]:
    least = attributes.pop("least", 1)
    kind = click.IntRange(min=least)
    attributes.setdefault("show_default", "default" in attributes)
    return click.option(name, type=kind, help=help_text, **attributes)


def _data_options() -> list[Callable[..., Any]]:
    return [
        click.option("--model", help="Label of the network.  [default: the weights']"),
        click.option(
            "--weights",
            type=shared.EXISTING_FILE,
            help=".params, .pth or .safetensors file to start from.",
        ),
        shared.reading,
        shared.data_root,
        click.option("--split", default="train", show_default=True, help="Part of the dataset."),
        shared.list_file,
        shared.dataset,
        click.option(
            "--output",
            type=shared.ANY_PATH,
            default=Path("output"),
            show_default=True,
            help="Folder for checkpoints.",
        ),
        click.option(
            "--sampler",
            type=click.Choice(["shuffled", "fixed", "balanced"]),
            default="shuffled",
            show_default=True,
            help='Order of the samples; "balanced" draws classes evenly.',
        ),
        click.option(
            "--no-choose-interp-method",
            "choose_interp_method",
            is_flag=True,
            flag_value=False,
            default=True,
            help="Always resize by the bicubic filter.",
        ),
        shared.exif,
    ]


def _schedule_options(base_lr: float, weight_decay: float) -> list[Callable[..., Any]]:
    return [
        click.option(
            "--lr-type",
            type=click.Choice(["fixed", "step", "linear"]),
            default="fixed",
            show_default=True,
            help="How the learning rate falls.",
        ),
        click.option(
            "--base-lr", type=float, default=base_lr, show_default=True, help="Rate to start with."
        ),
        click.option(
            "--lr-steps",
            type=shared.INTEGERS,
            default=(),
            help='Updates at which "step" falls to a tenth.',
        ),
        click.option(
            "--momentum", type=float, default=0.9, show_default=True, help="Of the optimiser."
        ),
        click.option(
            "--weight-decay",
            type=float,
            default=weight_decay,
            show_default=True,
            help="Of all weights.",
        ),
        _number("--to-epoch", "Epochs of the whole training.", required=True),
        _number("--from-epoch", "Epochs that count as done.  [default: the weights']", least=0),
        _number("--stop-epoch", "Epoch to stop after.  [default: the last]"),
        _number("--seed", "Of all that is random.", default=0, least=0),
    ]


def _network_options() -> list[Callable[..., Any]]:
    return [
        click.option(
            "--width", type=float, default=1.0, show_default=True, help="Times all channels."
        ),
        click.option(
            "--pool",
            "--pool-top-infer-style",
            type=click.Choice(["pad", "caffe", "full"]),
            default="pad",
            show_default=True,
            help="Geometry of max pooling.",
        ),
        click.option(
            "--frozen-statistics/--batch-statistics",
            default=None,
            help="BatchNorm uses its moving statistics, or the batch's own, which a network "
            "without --weights learns from.  [default: frozen for segmentation]",
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "float16", "bfloat16"]),
            default="float32",
            show_default=True,
            help="float16 is for GPUs, bfloat16 for CPUs that have it.",
        ),
        click.option(
            "--backward-do-mirror",
            is_flag=True,
            help="Recompute cheap layers; in MXNet 1.9.1 it saves no memory on these networks.",
        ),
    ]


def _machine_options() -> list[Callable[..., Any]]:
    kinds = ["local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async"]
    return [
        click.option(
            "--kvstore",
            type=click.Choice(kinds),
            default="device",
            show_default=True,
            help="How gradients are added up; dist… needs `ademx launch`.",
        ),
        click.option(
            "--prefetcher",
            type=click.Choice(["process", "thread"]),
            default="process",
            show_default=True,
            help="What reads images ahead.",
        ),
        _number("--prefetch-threads", "How many read images ahead.", default=1, least=0),
        click.option(
            "--cache-images",
            type=click.BOOL,
            default=False,
            show_default=True,
            help="Keep encoded images in memory (0 or 1).",
        ),
        _number("--max-broken", "Broken images to put up with.", default=10, least=0),
        shared.devices,
    ]


def _run_options(check_step: int) -> list[Callable[..., Any]]:
    return [
        _number("--check-start", "First epoch with a checkpoint.", default=1),
        _number("--check-step", "Epochs between checkpoints.", default=check_step),
        click.option("--resume", is_flag=True, help="Go on with the newest checkpoint, if any."),
        click.option("--overwrite", is_flag=True, help="Remove the label's checkpoints first."),
        click.option("--tensorboard", type=shared.ANY_PATH, help="Folder for TensorBoard."),
        click.option("--log-file", type=shared.ANY_PATH, help="Append the log to this file too."),
        *(click.option(name, hidden=True) for name in _WITHOUT_EFFECT),
        *(click.option(name, is_flag=True, hidden=True) for name in _WITHOUT_EFFECT_FLAGS),
    ]


def _shared_options(
    *, base_lr: float, weight_decay: float, batch_images: int, crop_size: int, check_step: int
) -> Callable[..., Any]:
    """Add the options of both tasks, with the defaults of one."""
    add = [
        *_data_options(),
        _number("--batch-images", "Images of an update, over all devices.", default=batch_images),
        _number("--crop-size", "Side of a sample, pixels.", default=crop_size),
        *_schedule_options(base_lr, weight_decay),
        *_network_options(),
        *_machine_options(),
        *_run_options(check_step),
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(add):
            command = option(command)
        return command

    return decorate


@train.command()
@_shared_options(base_lr=0.1, weight_decay=1e-4, batch_images=256, crop_size=224, check_step=1)
def classification(**arguments: Any) -> None:
    """Train a classifier; the defaults are those of Model A from scratch.

    The release's 90 epochs: --lr-type linear --to-epoch 90. Tuning A1 from A: --lr-type linear
    --base-lr 0.01 --to-epoch 9 --weights ilsvrc-cls_rna-a_cls1000_ep-0001.params.
    """
    from ademx.training.options import ClassificationTrainOptions

    _prepare(arguments)
    _run(ClassificationTrainOptions(**arguments))


@train.command()
@_shared_options(base_lr=0.0016, weight_decay=5e-4, batch_images=16, crop_size=500, check_step=4)
@click.option(
    "--origin-size",
    type=click.IntRange(1),
    help="Longer side at scale 1, pixels.  [default: 2048 for Cityscapes, else 500]",
)
@click.option(
    "--scale-rate-range",
    type=_Range(),
    default=(0.7, 1.3),
    show_default="0.7,1.3",
    help="Smallest and largest scale.",
)
@click.option(
    "--loss",
    type=click.Choice(["ohem", "softmax"]),
    default="ohem",
    show_default=True,
    help="ohem learns from the hard pixels only.",
)
@click.option(
    "--head",
    type=click.Choice(["2conv", "1conv"]),
    default="2conv",
    show_default=True,
    help="Top of the network.",
)
def segmentation(**arguments: Any) -> None:
    """Train a segmentation network; the defaults are those of the Cityscapes recipe.

    That is --to-epoch 140, then --base-lr 0.0008 --lr-type linear --to-epoch 64 from its result
    as the --weights of another --model.
    """
    from ademx.training.options import SegmentationTrainOptions

    _prepare(arguments)
    _run(SegmentationTrainOptions(**arguments))


def _prepare(arguments: dict[str, Any]) -> None:
    """Turn command-line arguments into those of the options class."""
    for name in (*_WITHOUT_EFFECT, *_WITHOUT_EFFECT_FLAGS):
        arguments.pop(name[2:].replace("-", "_"))
    gpus, cpus = arguments.pop("gpus"), arguments.pop("cpus")
    arguments["devices"] = shared.chosen_devices(gpus, cpus)
    shared.log_to(arguments.pop("log_file"))


def _run(options: TrainOptions) -> None:
    from ademx.training.run import TrainingDiverged
    from ademx.training.run import train as run_training
    from iters.workers import WorkerError

    try:
        report = run_training(options)
    except (TrainingDiverged, WorkerError) as error:
        raise click.ClickException(str(error)) from error
    if report.params_path is not None:
        click.echo(report.params_path)
    if report.signal is not None:
        click.get_current_context().exit(128 + report.signal)

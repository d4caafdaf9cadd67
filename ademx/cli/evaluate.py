"""`ademx evaluate classification` and `ademx evaluate segmentation`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ademx.cli import options as shared
from ademx.files import write_json
from ademx.labels import parse_label

if TYPE_CHECKING:
    from ademx.classification import ClassificationReport
    from ademx.segmentation import SegmentationReport

T = TypeVar("T")

# Release: options of its one script for both phases that say nothing about testing.
_WITHOUT_EFFECT = (
    "--base-lr",
    "--cache-images",
    "--check-start",
    "--check-step",
    "--crop-size",
    "--from-epoch",
    "--kvstore",
    "--lr-steps",
    "--lr-type",
    "--prefetcher",
    "--stop-epoch",
    "--to-epoch",
)


@click.group()
def evaluate() -> None:
    """Test weights on a dataset: scores to stdout and to DIR/scores.json, log to stderr.

    The weights' file name says which network to build, such as
    voc_rna-a1_cls21_s8_ep-0001.params; --model says it for other names. DATA_ROOT is the
    dataset's own folder as it is distributed; --list-file names the samples instead.

    Images that cannot be read are named, counted and left out; the exit status is then 1.
    """


def _shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of both tasks."""
    add = [
        click.option(
            "--weights",
            type=shared.EXISTING_FILE,
            multiple=True,
            required=True,
            help="File of weights; several average their probabilities.",
        ),
        shared.data_root,
        click.option("--split", default="val", show_default=True, help='"test" has no labels.'),
        shared.list_file,
        click.option("--model", help="Label of the weights.  [default: from their file name]"),
        shared.dataset,
        click.option(
            "--output",
            type=shared.ANY_PATH,
            help="Folder for results.  [default: output/<weights>_<split>]",
        ),
        click.option(
            "--json", "json_file", type=shared.ANY_PATH, help="Write the scores here too."
        ),
        click.option("--test-flipping", is_flag=True, help="Average with the mirrored image."),
        click.option(
            "--no-choose-interp-method",
            "choose_interp_method",
            is_flag=True,
            flag_value=False,
            default=True,
            help="Always resize by the bicubic filter.",
        ),
        click.option(
            "--pool",
            "--pool-top-infer-style",
            type=click.Choice(["pad", "caffe", "full"]),
            default="pad",
            show_default=True,
            help='Geometry of max pooling; the released Model A is tested with "caffe".',
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bfloat16"]),
            default="float32",
            show_default=True,
            help="bfloat16 is twice as fast on CPUs that have it.",
        ),
        click.option(
            "--backend",
            type=click.Choice(["mxnet", "torch"]),
            default="mxnet",
            show_default=True,
            help="torch needs no MXNet, and reads .pth and .safetensors weights too.",
        ),
        click.option(
            "--batch-images",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Network inputs that a device computes at a time.",
        ),
        click.option(
            "--prefetch-threads",
            type=click.IntRange(min=1),
            default=2,
            show_default=True,
            help="Threads that read images ahead of the network.",
        ),
        shared.devices,
        click.option("--resume", is_flag=True, help="Go on with an interrupted run."),
        click.option("--overwrite", is_flag=True, help="Replace the results in the output folder."),
        click.option("--log-file", type=shared.ANY_PATH, help="Append the log to this file too."),
        click.option("--backward-do-mirror", is_flag=True, hidden=True, expose_value=False),
        *(click.option(name, hidden=True, expose_value=False) for name in _WITHOUT_EFFECT),
    ]
    for option in reversed(add):
        command = option(command)
    return command


@evaluate.command()
@_shared_options
@click.option(
    "--test-scales",
    type=shared.INTEGERS,
    help="Lengths of the shorter side; each is scored alone and all of them averaged.  "
    "[default: 320]",
)
@click.option("--test-3crops", is_flag=True, help="Average three crops along the longer side.")
@click.option(
    "--class-ids",
    type=shared.EXISTING_FILE,
    help="For submissions: the server's number of each class, one a line.",
)
def classification(**arguments: Any) -> None:
    """Test a classifier: top-1 and top-5 error.

    Writes DIR/predictions/<scale>.npy, the (N, classes) probabilities, and for splits without
    labels DIR/submission.txt, five guesses a line.
    """
    from ademx.classification import ClassificationOptions, evaluate_classification

    json_file = _prepare(arguments)
    report = evaluate_classification(_checked(ClassificationOptions, arguments))
    click.echo(classification_table(report))
    _finish(report.record, json_file, arguments["output"])


@evaluate.command()
@_shared_options
@click.option(
    "--test-scales",
    type=shared.INTEGERS,
    help="Lengths of the longer side; probabilities of several are averaged.  "
    "[default: 2048 for Cityscapes, else 500]",
)
@click.option(
    "--test-steps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Predictions along each axis for a cell of the output.",
)
@click.option(
    "--absent-classes",
    type=click.Choice(["zero", "skip"]),
    help="What a class without pixels counts in a mean: 0 as in the release, or not at all.  "
    "[default: as the dataset's official tool]",
)
@click.option("--save-predictions", is_flag=True, help="Write DIR/scores/<image>.npz.")
@click.option(
    "--no-save-results",
    "save_results",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Write no label images; such a run cannot be resumed.",
)
def segmentation(**arguments: Any) -> None:
    """Test a segmentation network: pixel accuracy, mean accuracy, mean IoU, IoU by class.

    Writes DIR/labels/<image>.png in the dataset's own label ids, as its server takes them, and
    DIR/correct/<image>.png (127 correct, 0 wrong, 255 void).
    """
    from ademx.segmentation import SegmentationOptions, evaluate_segmentation

    json_file = _prepare(arguments)
    report = evaluate_segmentation(_checked(SegmentationOptions, arguments))
    click.echo(segmentation_table(report))
    _finish(report.record, json_file, arguments["output"])


def classification_table(report: ClassificationReport) -> str:
    """Return the errors, by scale and of their mean, with the published ones beside them."""
    published = report.published.values if report.published else {}
    if report.errors is None:
        return "no labels in this split: predictions only"
    rows = [("scale", "top-1 error %", "top-5 error %")]
    rows += [
        (str(scale), _percent(errors[1]), _percent(errors[5]))
        for scale, errors in report.scale_errors.items()
    ]
    if len(report.scale_errors) > 1:
        rows.append(("mean", _percent(report.errors[1]), _percent(report.errors[5])))
    if published:
        top1, top5 = published["top1_error"], published["top5_error"]
        rows.append(("published", f"{top1:.2f}", f"{top5:.2f}"))
    return _aligned(rows)


def segmentation_table(report: SegmentationReport) -> str:
    """Return the scores class by class and overall, with the published ones beside them."""
    if report.scores is None:
        return "no labels in this split: predictions only"
    scores = report.scores
    rows = [("class", "IoU %", "accuracy %")]
    rows += [
        (name, _percent(iou), _percent(accuracy))
        for name, iou, accuracy in zip(report.class_names, scores.class_iou, scores.class_accuracy)
    ]
    rows.append(("mean", _percent(scores.mean_iou), _percent(scores.mean_accuracy)))
    lines = [_aligned(rows), "", f"pixel accuracy  {_percent(scores.pixel_accuracy)} %"]
    counted = {"skip": "are left out of the means", "zero": "count 0"}[scores.absent_classes]
    lines.append(f"mean IoU        {_percent(scores.mean_iou)} %  (absent classes {counted})")
    if report.published:
        for metric, value in report.published.values.items():
            lines.append(f"published {metric.replace('_', ' ')}  {value:.2f} %")
    return "\n".join(lines)


def _prepare(arguments: dict[str, Any]) -> Path | None:
    """Turn command-line arguments into those of the options class; return the JSON file."""
    from ademx.evaluation import default_test_scale

    if arguments["test_scales"] is None:
        label = parse_label(arguments["model"] or arguments["weights"][0])
        arguments["test_scales"] = (default_test_scale(label, arguments["dataset"]),)
    gpus, cpus = arguments.pop("gpus"), arguments.pop("cpus")
    arguments["devices"] = shared.chosen_devices(gpus, cpus, backend=arguments["backend"])
    if arguments["output"] is None:
        stem = arguments["weights"][0].stem
        arguments["output"] = Path("output") / f"{stem}_{arguments['split']}"
    shared.log_to(arguments.pop("log_file"))
    json_file: Path | None = arguments.pop("json_file")
    if json_file is not None and not json_file.parent.is_dir():
        raise click.UsageError(f"--json {json_file}: there is no folder {json_file.parent}")
    return json_file


def _checked(options: type[T], arguments: dict[str, Any]) -> T:
    """Return the options object; arguments that contradict each other are a usage error."""
    try:
        return options(**arguments)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _finish(record: dict[str, Any], json_file: Path | None, output: Path) -> None:
    if json_file is not None:
        write_json(json_file, record)
    click.echo(f"\nscores and predictions: {output}", err=True)
    if record["num_broken"]:
        raise click.ClickException(
            f"{record['num_broken']} of {record['num_images']} images could not be tested and "
            f'are left out of the scores; "broken" in {output / "scores.json"} lists them'
        )


def _percent(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    """Return rows as lines: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(f.rjust(w) for f, w in zip(row[1:], widths[1:]))])
        for row in rows
    )

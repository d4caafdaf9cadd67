"""`ademx evaluate classification` and `ademx evaluate segmentation`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ademx.cli import options as shared
from ademx.cli.tables import aligned
from ademx.files import write_json
from ademx.labels import parse_label
from ademx.published import METRIC_NAMES
from ademx.text import printable

if TYPE_CHECKING:
    from ademx.testing.classification import ClassificationReport
    from ademx.testing.crf import CrfParameters
    from ademx.testing.segmentation import SegmentationReport
    from ademx.testing.submissions import Submission

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


@dataclass(frozen=True)
class _Files:
    """What is written beside the run's folder: the scores, and a page to look at."""

    json: Path | None
    report: Path | None


@click.group()
def evaluate() -> None:
    """Test weights on a dataset: scores to stdout and to DIR/scores.json, log to stderr.

    The weights' file name says which network to build, such as
    voc_rna-a1_cls21_s8_ep-0001.params; --model says it for other names. DATA_ROOT is the
    dataset's own folder as it is distributed; --list-file names the samples instead.

    Images that cannot be read are named, counted and left out; the exit status is then 1.

    The truth of --split test is with the benchmarks' servers: for VOC, Cityscapes, ADE20K and
    ILSVRC the file to send is written, checked by the server's rules, and named on stdout.
    """


def _shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of both tasks."""
    add = [
        click.option(
            "--weights",
            type=shared.EXISTING_FILE,
            multiple=True,
            required=True,
            help=".params, .pth or .safetensors file; several average their probabilities.",
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
        click.option(
            "--report",
            "report_file",
            type=shared.ANY_PATH,
            help="Write an HTML file of scores, confusions, best and worst images.",
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
        shared.exif,
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
            help="bfloat16 is twice as fast on some CPUs and slower on others; "
            "`python tools/bench.py evaluation` tells.",
        ),
        click.option(
            "--backend",
            type=click.Choice(["mxnet", "torch"]),
            default="mxnet",
            show_default=True,
            help="torch needs no MXNet.",
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
        shared.reading,
        shared.devices,
        click.option("--resume", is_flag=True, help="Go on with an interrupted run."),
        click.option("--overwrite", is_flag=True, help="Replace earlier results."),
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
    from ademx.testing.classification import ClassificationOptions, evaluate_classification

    files = _prepare(arguments)
    report = evaluate_classification(_checked(ClassificationOptions, arguments))
    _finish(report, classification_table(report), files, arguments["output"])


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
@click.option(
    "--crf",
    is_flag=True,
    help="Refine the averaged probabilities by a fully connected CRF over the image's pixels, "
    "at the original size: 2 to 4 s an image of VOC, 27 s of Cityscapes, on one core, and 40 "
    "bytes of memory a pixel and class.  Needs `pip install 'ademx[crf]'`.",
)
@click.option(
    "--crf-params",
    metavar="NAME=VALUE[,…]",
    help="Of --crf, with their defaults, which DeepLab v2 published for VOC: "
    "bilateral_weight=4, bilateral_xy=67 pixels and bilateral_rgb=3 of 255 (neighbours alike in "
    "colour), gaussian_weight=3, gaussian_xy=1 pixel (close neighbours), iterations=10.",
)
def segmentation(**arguments: Any) -> None:
    """Test a segmentation network: pixel accuracy, mean accuracy, mean IoU, IoU by class.

    Writes DIR/labels/<image>.png in the dataset's own label ids and DIR/correct/<image>.png (127
    correct, 0 wrong, 255 void); for splits without labels DIR/submission/, what the server takes.
    """
    from ademx.testing.segmentation import SegmentationOptions, evaluate_segmentation

    files = _prepare(arguments)
    arguments["crf"] = _crf_parameters(arguments["crf"], arguments.pop("crf_params"))
    report = evaluate_segmentation(_checked(SegmentationOptions, arguments))
    _finish(report, segmentation_table(report), files, arguments["output"])


def classification_table(report: ClassificationReport) -> str:
    """Return the errors, by scale and of their mean, with the published ones beside them."""
    if report.errors is None:
        return "no labels in this split: predictions only"
    rows = [("scale", "top-1 error %", "top-5 error %")]
    rows += [
        (str(scale), _percent(errors[1]), _percent(errors[5]))
        for scale, errors in report.scale_errors.items()
    ]
    if len(report.scale_errors) > 1:
        rows.append(("mean", _percent(report.errors[1]), _percent(report.errors[5])))
    if report.published:
        printed = report.published.printed
        rows.append(("published", printed("top1_error"), printed("top5_error")))
    return aligned(rows)


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
    lines = [aligned(rows), "", f"pixel accuracy  {_percent(scores.pixel_accuracy)} %"]
    counted = {"skip": "are left out of the means", "zero": "count 0"}[scores.absent_classes]
    lines.append(f"mean IoU        {_percent(scores.mean_iou)} %  (absent classes {counted})")
    if report.published:
        for metric in report.published.values:
            name = METRIC_NAMES[metric]
            lines.append(f"published {name}  {report.published.printed(metric)} %")
    return "\n".join(lines)


def _prepare(arguments: dict[str, Any]) -> _Files:
    """Turn command-line arguments into those of the options class; return the other files."""
    from ademx.testing.session import default_test_scale

    if arguments["test_scales"] is None:
        label = parse_label(arguments["model"] or arguments["weights"][0])
        arguments["test_scales"] = (default_test_scale(label, arguments["dataset"]),)
    gpus, cpus = arguments.pop("gpus"), arguments.pop("cpus")
    arguments["devices"] = shared.chosen_devices(gpus, cpus, backend=arguments["backend"])
    if arguments["output"] is None:
        stem = arguments["weights"][0].stem
        arguments["output"] = Path("output") / f"{stem}_{arguments['split']}"
    shared.log_to(arguments.pop("log_file"))
    files = _Files(arguments.pop("json_file"), arguments.pop("report_file"))
    # A run that goes on writes what it has written before.
    overwrite = arguments["overwrite"] or arguments["resume"]
    shared.check_writable(
        [files.json, files.report], overwrite=overwrite, made_later=arguments["output"]
    )
    return files


def _crf_parameters(wanted: bool, text: str | None) -> CrfParameters | None:
    """Return the parameters of `--crf` and `--crf-params`; None without the former."""
    if text is not None and not wanted:
        raise click.UsageError("--crf-params has no effect without --crf: add it")
    if not wanted:
        return None
    from ademx.testing.crf import parse_crf_parameters

    try:
        return parse_crf_parameters(text or "")
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _checked(options: type[T], arguments: dict[str, Any]) -> T:
    """Return the options object; arguments that contradict each other are a usage error."""
    try:
        return options(**arguments)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def submission_text(submission: Submission) -> str:
    """Return which file to send where, what it was found to hold, and what speaks against it."""
    rows = [
        ("submission", printable(submission.path)),
        ("send it to", submission.server),
        ("it holds", submission.content),
        *(("but", warning) for warning in submission.warnings),
    ]
    return "\n".join(f"{name:<12}{text}" for name, text in rows)


def _finish(
    report: ClassificationReport | SegmentationReport, table: str, files: _Files, output: Path
) -> None:
    """Write and print what was found: first the files, as stdout may have no reader any more."""
    record = report.record
    if files.json is not None:
        write_json(files.json, record.to_json())
    if files.report is not None:
        from ademx.reports.page import write_run_report

        write_run_report(files.report, report, output)
    click.echo(table)
    if report.submission is not None:
        click.echo(submission_text(report.submission))
    click.echo(f"\nscores and predictions: {printable(output)}", err=True)
    if record.num_broken:
        raise click.ClickException(
            f"{record.num_broken} of {record.num_images} images could not be tested and "
            f'are left out of the scores; "broken" in {output / "scores.json"} lists them'
        )


def _percent(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"

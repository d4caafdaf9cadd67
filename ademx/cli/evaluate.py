"""`ademx evaluate classification` and `ademx evaluate segmentation`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ademx.cli import options as shared
from ademx.cli.tables import aligned, number
from ademx.errors import InputError
from ademx.labels import chosen_label
from ademx.options import option
from ademx.published import METRIC_NAMES
from ademx.testing.cityscapes import score_tables
from ademx.testing.crf import CrfParameters, parse_crf_parameters
from ademx.testing.evaluate import evaluate as run_test
from ademx.testing.options import (
    ClassificationOptions,
    EvaluationOptions,
    SegmentationOptions,
    default_test_scale,
)
from ademx.testing.record import RunRecord
from ademx.testing.submissions import Submission
from ademx.text import printable

_ERRORS = ("top1_error", "top5_error")

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
    """What is written beside the run's folder."""

    json_file: Path | None = option(None, "Write the scores here too.", names=("--json",))
    report_file: Path | None = option(
        None,
        "Write an HTML file of scores, confusions, best and worst images.",
        names=("--report",),
    )


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


def _options(options: type[EvaluationOptions]) -> shared.Decorator:
    """Add the options of a task."""
    return shared.stacked(
        shared.from_class(options),
        shared.as_object("files", _Files),
        shared.log_file,
        shared.without_effect(*_WITHOUT_EFFECT, flags=("--backward-do-mirror",)),
    )


@evaluate.command()
@_options(ClassificationOptions)
def classification(files: _Files, **arguments: Any) -> None:
    """Test a classifier: top-1 and top-5 error.

    Writes DIR/predictions/<scale>.npy, the (N, classes) probabilities, and for splits without
    labels DIR/submission.txt, five guesses a line.
    """
    _run(ClassificationOptions, files, arguments)


@evaluate.command()
@_options(SegmentationOptions)
@click.option(
    "--crf-params",
    metavar="NAME=VALUE[,…]",
    help="Of --crf, with their defaults, which DeepLab v2 published for VOC: "
    "bilateral_weight=4, bilateral_xy=67 pixels and bilateral_rgb=3 of 255 (neighbours alike in "
    "colour), gaussian_weight=3, gaussian_xy=1 pixel (close neighbours), iterations=10.",
)
def segmentation(files: _Files, **arguments: Any) -> None:
    """Test a segmentation network: pixel accuracy, mean accuracy, mean IoU, IoU by class.

    Writes DIR/labels/<image>.png in the dataset's own label ids and DIR/correct/<image>.png (127
    correct, 0 wrong, 255 void); for splits without labels DIR/submission/, what the server takes.
    """
    _run(SegmentationOptions, files, arguments)


def scores_table(record: RunRecord) -> str:
    """Return the scores of a test, in parts and overall, with the published ones beside them."""
    if not record.scores:
        return "no labels in this split: predictions only"
    if "mean_iou" in record.scores:
        return _segmentation_table(record)
    scales = record.scales or {}
    of = [*scales.items(), *([("mean", record.scores)] if len(scales) > 1 else [])]
    rows = [("scale", "top-1 error %", "top-5 error %")]
    rows += [(str(name), *(number(errors[error]) for error in _ERRORS)) for name, errors in of]
    if record.published:
        rows.append(("published", *map(record.published.printed, _ERRORS)))
    return aligned(rows)


def _segmentation_table(record: RunRecord) -> str:
    scores = {name: number(score) for name, score in record.scores.items()}
    accuracies = record.class_accuracy or {}
    rows = [("class", "IoU %", "accuracy %")]
    rows += [
        (name, number(iou), number(accuracies.get(name)))
        for name, iou in (record.class_iou or {}).items()
    ]
    rows.append(("mean", scores["mean_iou"], scores["mean_accuracy"]))
    lines = [aligned(rows), "", f"pixel accuracy  {scores['pixel_accuracy']} %"]
    counted = {"skip": "are left out of the means", "zero": "count 0"}[record.absent_classes]
    lines.append(f"mean IoU        {scores['mean_iou']} %  (absent classes {counted})")
    if record.published:
        for metric in record.published.values:
            name = METRIC_NAMES[metric]
            lines.append(f"published {name}  {record.published.printed(metric)} %")
    if record.cityscapes is not None:
        for kind, values in score_tables(record.cityscapes, record.class_iou or {}).items():
            rows = [(kind, "IoU %", "iIoU %")]
            rows += [(name, number(iou), number(iiou)) for name, iou, iiou in values]
            lines += ["", aligned(rows)]
    return "\n".join(lines)


def _complete(arguments: dict[str, Any]) -> None:
    """Put the defaults that follow from the weights in place of None."""
    weights = arguments["weights"][0]
    if arguments["test_scales"] is None:
        label = chosen_label(arguments["model"], weights)
        ten = arguments.get("test_10crops", False)
        scale = default_test_scale(label, arguments["dataset"], test_10crops=ten)
        arguments["test_scales"] = (scale,)
    if arguments["output"] is None:
        arguments["output"] = Path("output") / f"{weights.stem}_{arguments['split']}"


def _crf_parameters(wanted: bool, text: str | None) -> CrfParameters | None:
    """Return the parameters of `--crf` and `--crf-params`; None without the former."""
    if text is not None and not wanted:
        raise InputError("--crf-params has no effect without --crf: add it")
    return parse_crf_parameters(text or "") if wanted else None


def submission_text(submission: Submission) -> str:
    """Return which file to send where, what it was found to hold, and what speaks against it."""
    rows = [
        ("submission", str(submission.path)),
        ("send it to", submission.server),
        ("it holds", submission.content),
        *(("but", warning) for warning in submission.warnings),
    ]
    return aligned(rows, num_texts=2)


def _run(
    kind: type[ClassificationOptions | SegmentationOptions],
    files: _Files,
    arguments: dict[str, Any],
) -> None:
    """Test, then write and print what was found: first files, as stdout may have no reader."""
    _complete(arguments)
    try:
        if "crf" in arguments:
            arguments["crf"] = _crf_parameters(arguments["crf"], arguments.pop("crf_params"))
        options = kind(**arguments)
    except InputError as error:  # arguments that contradict each other
        raise click.UsageError(str(error)) from error
    output = options.output
    shared.check_writable(
        [files.json_file, files.report_file],
        overwrite=options.overwrite or options.resume,  # what has been written before
        made_later=output,
    )
    report = run_test(options)
    record = report.record
    shared.write_record(files.json_file, record.to_json())
    if files.report_file is not None:
        from ademx.reports.page import write_run_report  # loads jinja2, which only pages need

        write_run_report(files.report_file, report)
    click.echo(scores_table(record))
    if report.submission is not None:
        click.echo(submission_text(report.submission))
    click.echo(f"\nscores and predictions: {printable(output)}", err=True)
    if record.num_broken:
        raise click.ClickException(
            f"{record.num_broken} of {record.num_images} images could not be tested and "
            f'are left out of the scores; "broken" in {output / "scores.json"} lists them'
        )

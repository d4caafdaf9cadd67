"""`ademx compare`: two or more test runs beside each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.cli.tables import aligned, number
from ademx.options import option
from ademx.testing.compare import FEW_IMAGES, LEVEL, Change, Comparison, ImageChange
from ademx.testing.compare import compare as compare_runs
from ademx.testing.finished_runs import load_run
from ademx.text import printable

# Task -> the score of a class, that of an image, what is shown of its predictions.
_TITLES = {
    "segmentation": ("IoU", "mean IoU", "label images"),
    "classification": ("top-1 error", "probability of its class", "guesses"),
}


@click.command()
@click.argument("runs", metavar="RUN RUN…", nargs=-1, type=shared.ANY_PATH)
@shared.from_signature
def compare(
    runs: tuple[Path, ...],
    resamples: int = option(1000, "Bootstrap resamples of the images.", least=100),
    seed: int = option(0, "Of the resamples.", least=0),
    top: int = option(10, "Classes, and images of either sign, to name.", least=1),
    json_file: Path | None = shared.json_file("Write the comparison here too."),
    overwrite: bool = shared.overwrite("Replace a file that exists."),
) -> None:
    """Hold each further RUN against the first: scores, and the classes and images that moved.

    A RUN is the --output folder of `ademx evaluate` on a split with labels. Runs on partly
    different images are compared on those that they share.

    The interval of the difference of mean IoU, or of the top-1 error, is a paired bootstrap over
    images. It says how far another set of such images might move the difference between these
    very networks, not how far another training might.
    """
    if len(runs) < 2:
        raise click.UsageError("expected two or more RUNs: the first is the baseline")
    baseline, *others = map(load_run, runs)
    comparisons = [
        compare_runs(baseline, other, resamples=resamples, seed=seed, top=top) for other in others
    ]
    records = [comparison.record() for comparison in comparisons]
    shared.write_record(json_file, {"seed": seed, "comparisons": records})
    click.echo("\n\n\n".join(map(_report, comparisons)))


def _report(comparison: Comparison) -> str:
    class_title, image_title, prediction_title = _TITLES[comparison.before.task]
    sections = [
        _images(comparison),
        _table("score, %", comparison.scores),
        _interval(comparison),
        _settings(comparison),
        _class_table(f"class, {class_title} %", comparison.classes),
        *(
            _image_table(f"image that {verb}, {image_title} %", changes, prediction_title)
            for verb, changes in (("gained", comparison.gained), ("lost", comparison.lost))
        ),
    ]
    return "\n\n".join(filter(None, sections))


def _images(comparison: Comparison) -> str:
    lines = [
        f"before: {printable(comparison.before.folder)}",
        f"after:  {printable(comparison.after.folder)}",
        f"images: {comparison.num_images}",
    ]
    before, after = comparison.num_left_out
    if before or after:
        lines[-1] += f" in both; left out: {before} only in before, {after} only in after"
    return "\n".join(lines)


def _interval(comparison: Comparison) -> str:
    interval, num_images = comparison.interval, comparison.num_images
    counts = f"after is better in {interval.num_better}"
    if interval.num_equal:
        counts += f" and equal in {interval.num_equal}"
    text = (
        f"{LEVEL} % bootstrap interval of the difference of {interval.metric}: "
        f"{interval.low:+.2f} to {interval.high:+.2f}\n"
        f"({counts} of {interval.num_resamples} resamples of the images)"
    )
    if num_images < FEW_IMAGES:
        text += f"\n(too narrow, as are all from fewer than {FEW_IMAGES} images: here {num_images})"
    return text


def _settings(comparison: Comparison) -> str:
    if not comparison.settings:
        return "settings that differ: none"
    lines = [
        f"  {name}: {_json(before)} → {_json(after)}"
        for name, (before, after) in comparison.settings.items()
    ]
    return "\n".join(["settings that differ, before → after:", *lines])


def _json(value: object) -> str:
    return printable(json.dumps(value, ensure_ascii=False))


def _class_table(title: str, classes: Sequence[Change]) -> str:
    table = _table(title, classes)
    if any(change.difference != change.difference for change in classes):
        table += "\n(– is in no label and in no prediction, and does not count in the mean)"
    return table


def _image_table(title: str, images: Sequence[ImageChange], prediction_title: str) -> str:
    """Return the table with what was predicted behind each row."""
    ends = [prediction_title]
    for image in images:
        before, after = (printable(found or "–") for found in image.predictions)
        truth = "" if image.truth is None else f", is {printable(image.truth)}"
        ends.append(f"{before} → {after}{truth}" if truth else f"{before}  {after}")
    return "\n".join(f"{row}  {end}" for row, end in zip(_table(title, images).splitlines(), ends))


def _table(title: str, changes: Sequence[Change]) -> str:
    """Return names to the left and numbers to the right; nothing for no changes."""
    if not changes:
        return ""
    rows = [(title, "before", "after", "difference")]
    rows += [
        (one.name, number(one.before), number(one.after), number(one.difference, "+.2f"))
        for one in changes
    ]
    return aligned(rows)

"""What a report's templates are given: the numbers and texts of its tables, bars and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape

from ademx import pictures
from ademx.metrics import segmentation_scores
from ademx.published import METRIC_NAMES, release_state
from ademx.testing.cityscapes import score_tables
from ademx.testing.tiles import shared_pixels
from ademx.text import ISOLATES, isolated, printable
from iters.datasets import Dataset

if TYPE_CHECKING:
    from ademx.reports.choice import HardClass
    from ademx.testing.record import Report, RunRecord

_ASSETS = Path(__file__).with_name("assets")
_NUM_CONFUSIONS = 10

# A shape and a word beside the colour, which not everybody sees.
_VERDICTS = {
    "reproduced": ("✓", "good"),
    "differs": ("≠", "bad"),
    "unverified": ("?", "unsure"),
    "not run": ("○", "idle"),
    "failed": ("✕", "bad"),
}

_MEASURES = {**METRIC_NAMES, "mean_accuracy": "mean class accuracy"}
_OF_TASK = {
    "segmentation": ("mean_iou", "pixel_accuracy", "mean_accuracy"),
    "classification": ("top1_error", "top5_error"),
}


def class_names(dataset: Dataset) -> list[str]:
    """Return the classes' names as they are shown, or numbers where the dataset has no names."""
    return [isolated(dataset.class_name(number)) for number in range(dataset.num_classes)]


def class_colours(dataset: Dataset) -> list[str | None]:
    """Return the colour of each class as "#rrggbb"; None for classification."""
    if dataset.task != "segmentation":
        return [None] * dataset.num_classes
    return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in pictures.class_colours(dataset)]


def run_section(
    run: Report,
    anchor: str,
    *,
    num_shown: int,
    of_classes: Sequence[int],
    hardest: Sequence[HardClass],
    notes: Sequence[str],
) -> Markup:
    """Return a run's section; the page's script adds the heat map and the pictures.

    Args:
        run: the run.
        anchor: id of the section, which those of its parts begin with.
        num_shown: how many images there are pictures of.
        of_classes: number of the run's images that have each class; empty where that is unknown.
        hardest: of a classifier, the classes with the highest error.
        notes: what could not be shown, and why.
    """
    record, names = run.record, class_names(run.dataset)
    published = record.published.values if record.published else {}
    of_task = [name for name in _OF_TASK[run.dataset.task] if name in record.scores]
    is_segmented = run.dataset.task == "segmentation" and record.confusion
    present = [number for number, count in enumerate(of_classes) if count]
    section = TEMPLATES.get_template("run.html").render(
        run=run,
        record=record,
        anchor=anchor,
        num_shown=num_shown,
        of_classes=of_classes,
        hardest=hardest,
        notes=notes,
        summary=_summary(run),
        published=published,
        of_task=of_task,
        measures=[
            *of_task,
            *(name for name in _MEASURES if name in published and name not in of_task),
        ],
        class_names=names,
        class_colours=class_colours(run.dataset),
        bars=_class_bars(record) if is_segmented else [],
        confusions=_largest_confusions(record) if is_segmented else [],
        to_choose=sorted(present, key=lambda number: names[number].casefold()),
        official=score_tables(record.cityscapes, record.class_iou or {})
        if record.cityscapes
        else {},
    )
    return Markup(section)


def _summary(run: Report) -> list[str]:
    settings = run.record.settings
    scales, steps = settings.test_scales, settings.test_steps
    facts = [
        " and ".join(settings.labels),
        f"{run.dataset.name} {settings.split}".strip(),
        f"{_plural('scale', len(scales))} {', '.join(map(str, scales))}" if scales else "",
        "flipped too" if settings.test_flipping else "",
        "three crops" if settings.test_3crops else "",
        "ten crops" if settings.test_10crops else "",
        f"{steps} test steps" if steps > 1 else "",
        _tiles(settings.tile, settings.overlap) if settings.tile else "",
        "CRF" if settings.crf else "",
    ]
    return [fact for fact in facts if fact]


def _tiles(tile: Sequence[int], overlap: int | None) -> str:
    size = "×".join(map(str, tile))
    return f"tiles of {size} pixels, of which neighbours share {shared_pixels(tile, overlap)}"


def _class_bars(record: RunRecord) -> list[tuple[int, float, float]]:
    """Return each class with its IoU and accuracy, percent, nan if absent; highest IoU first."""
    confusion = np.array(record.confusion, np.int64)
    scores = segmentation_scores(confusion, absent_classes=record.absent_classes or "skip")
    pixels = confusion.sum(axis=0) + confusion.sum(axis=1)
    iou = np.where(pixels == 0, np.nan, scores.class_iou)
    order = np.argsort(-iou, kind="stable").tolist()
    return [(number, iou[number], scores.class_accuracy[number]) for number in order]


def _largest_confusions(record: RunRecord) -> list[tuple[int, int, float, int]]:
    """Return truth, prediction, percent of the truth and pixels, largest percentage first."""
    counts = np.array(record.confusion, np.int64)
    total = counts.sum(axis=1, keepdims=True)
    np.fill_diagonal(counts, 0)
    shares = 100 * counts / np.maximum(total, 1)
    order = np.argsort(-shares, axis=None, kind="stable")[:_NUM_CONFUSIONS]
    return [
        (truth, predicted, shares[truth, predicted], counts[truth, predicted])
        for truth, predicted in zip(*np.unravel_index(order, counts.shape))
        if counts[truth, predicted]
    ]


def _plain(value: Any) -> str:
    """Return a JSON value as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "–"
    return "–" if value is None else str(value)


def _with_code(text: str) -> Markup:
    """Return escaped text with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(printable(text)))))


def _points(value: float | None, decimals: int = 2) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.{decimals}f}"


def _difference(published: float | None, ours: float | None) -> str:
    if published is None or ours is None or np.isnan(published - ours):
        return "–"
    return f"{round(ours - published, 2) + 0.0:+.2f}".replace("-", "−")


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _safe_text(value: object) -> object:
    # The marks of :func:`isolated` may stay: the element around a name ends what they began.
    return value if isinstance(value, Markup) else printable(value, keep=ISOLATES)


def _template(path: Path) -> str:
    """Return a template in which a line break between two tags is no space on the page."""
    return re.sub(r"(?<=[>}])\s*\n\s*(?=[<{])", "", path.read_text(encoding="utf-8"))


TEMPLATES = Environment(
    loader=DictLoader({path.name: _template(path) for path in _ASSETS.glob("*.html")}),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_safe_text,
)
TEMPLATES.filters.update(points=_points, with_code=_with_code)
TEMPLATES.filters.update(measure=_MEASURES.__getitem__, plain=_plain, plural=_plural)
TEMPLATES.globals.update(difference=_difference, verdict_marks=_VERDICTS, state=release_state)

"""What a report's templates are given: the numbers and texts of its tables, bars and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape

from ademx.metrics import segmentation_scores
from ademx.published import METRIC_NAMES, release_state
from ademx.testing.cityscapes import score_tables
from ademx.text import ISOLATES, isolated, printable
from iters import palettes
from iters.datasets import Dataset, encode_label

if TYPE_CHECKING:
    from ademx.reports.choice import HardClass
    from ademx.reports.runs import RunToShow
    from ademx.testing.record import RunRecord

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


@dataclass(frozen=True)
class ShownImages:
    """What a run's section says of its images, beside showing them.

    Attributes:
        num_shown: how many there are pictures of.
        of_classes: number of the run's images that have each class; empty where that is not known.
        hardest: of a classifier, the classes with the highest error.
        notes: what could not be shown, and why.
    """

    num_shown: int = 0
    of_classes: tuple[int, ...] = ()
    hardest: tuple[HardClass, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class _ClassBar:
    """A class with its IoU and accuracy, percent; None where they are not known."""

    number: int
    name: str
    iou: float | None
    accuracy: float | None
    colour: str | None
    num_images: int | None

    @property
    def title(self) -> str:
        """All of it in words."""
        text = f"{self.name}: absent" if self.iou is None else f"{self.name}: IoU {self.iou:.2f} %"
        if None not in (self.iou, self.accuracy):
            text += f", accuracy {self.accuracy:.2f} %"
        count = self.num_images
        return text if count is None else f"{text}, in {count} {_plural('image', count)}"


def class_name(dataset: Dataset, number: int) -> str:
    """Return a class's name as it is shown, or its number where the dataset has no names."""
    return isolated(dataset.class_names[number]) if dataset.class_names else f"class {number}"


def class_colours(dataset: Dataset) -> list[str | None]:
    """Return the colour of each class as "#rrggbb"; None for classification."""
    if dataset.task != "segmentation":
        return [None] * dataset.num_classes
    stored = encode_label(dataset, np.arange(dataset.num_classes)).tolist()
    palette = dataset.palette or palettes.VOC
    return ["#{:02x}{:02x}{:02x}".format(*palette[number]) for number in stored]


def run_section(run: RunToShow, anchor: str, images: ShownImages) -> Markup:
    """Return a run's section; the page's script adds the heat map and the pictures."""
    record, dataset = run.record, run.dataset
    published = record.published.values if record.published else {}
    of_task = [name for name in _OF_TASK[dataset.task] if name in record.scores]
    confusion = record.confusion or [] if dataset.task == "segmentation" else []
    present = [number for number, count in enumerate(images.of_classes) if count]
    section = TEMPLATES.get_template("run.html").render(
        run=run,
        record=record,
        anchor=anchor,
        images=images,
        summary=_summary(run),
        published=published,
        of_task=of_task,
        measures=[
            *of_task,
            *(name for name in _MEASURES if name in published and name not in of_task),
        ],
        bars=_class_bars(run, confusion, images) if confusion else [],
        confusions=_largest_confusions(confusion) if confusion else [],
        class_name=lambda number: class_name(dataset, number),
        to_choose=sorted(present, key=lambda number: class_name(dataset, number).casefold()),
        official=score_tables(record.cityscapes, record.class_iou or {})
        if record.cityscapes
        else {},
        files=_files(record),
    )
    return Markup(section)


def _summary(run: RunToShow) -> list[str]:
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
        f"tiles of {'×'.join(map(str, settings.tile))} pixels" if settings.tile else "",
        "CRF" if settings.crf else "",
    ]
    return [fact for fact in facts if fact]


def _class_bars(
    run: RunToShow, counts: Sequence[Sequence[int]], images: ShownImages
) -> list[_ClassBar]:
    """Return the classes, highest IoU first, absent ones last."""
    confusion = np.array(counts, np.int64)
    rule = run.record.absent_classes or "skip"
    scores = segmentation_scores(confusion, absent_classes=rule)
    pixels = confusion.sum(axis=0) + confusion.sum(axis=1)
    iou = np.where(pixels == 0, np.nan, scores.class_iou)
    colours = class_colours(run.dataset)
    return [
        _ClassBar(
            number,
            class_name(run.dataset, number),
            iou=_known(iou[number]),
            accuracy=_known(scores.class_accuracy[number]),
            colour=colours[number],
            num_images=images.of_classes[number] if images.of_classes else None,
        )
        for number in np.argsort(-iou, kind="stable").tolist()
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _largest_confusions(
    confusion: Sequence[Sequence[int]],
) -> list[tuple[int, int, float, int]]:
    """Return truth, prediction, percent of the truth and pixels, largest percentage first."""
    counts = np.array(confusion, np.int64)
    np.fill_diagonal(counts, 0)
    total = np.array(confusion, np.int64).sum(axis=1, keepdims=True)
    shares = 100 * counts / np.maximum(total, 1)
    order = np.argsort(-shares, axis=None, kind="stable")[:_NUM_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, counts.shape))
    return [
        (int(truth), int(predicted), float(shares[truth, predicted]), int(counts[truth, predicted]))
        for truth, predicted in pairs
        if counts[truth, predicted]
    ]


def _files(record: RunRecord) -> list[tuple[str, str, str]]:
    """Return name, MD5 and state of what the run read."""
    files = [(f"samples of {record.settings.split}", record.settings.samples_md5, "")]
    for weights in record.weights:
        name = PurePath(weights.file).name
        files.append((name, weights.md5, release_state(name, weights.md5)))
    return files


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


def _measure(name: str) -> str:
    return _MEASURES.get(name, name.replace("_", " "))


def _points(value: float | None, decimals: int = 2) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.{decimals}f}"


def _difference(published: float | None, ours: float | None) -> str:
    if published is None or ours is None or np.isnan(published - ours):
        return "–"
    return f"{round(ours - published, 2) + 0.0:+.2f}".replace("-", "−")


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _shown(value: object) -> object:
    # The marks of :func:`isolated` may stay: the element around a name ends what they began.
    return value if isinstance(value, Markup) else printable(value, keep=ISOLATES)


def _template(path: Path) -> str:
    """Return a template in which a line break between two tags is no space on the page."""
    return re.sub(r"(?<=[>}])\s*\n\s*(?=[<{])", "", path.read_text(encoding="utf-8"))


TEMPLATES = Environment(
    loader=DictLoader({path.name: _template(path) for path in _ASSETS.glob("*.html")}),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
)
TEMPLATES.filters.update(points=_points, with_code=_with_code)
TEMPLATES.filters.update(measure=_measure, plain=_plain, plural=_plural)
TEMPLATES.globals.update(difference=_difference, verdict_marks=_VERDICTS)

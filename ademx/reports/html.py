"""The parts of a report that are plain HTML: tables, scores, bars and settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.metrics import segmentation_scores
from ademx.published import METRIC_NAMES, release_state
from ademx.text import ISOLATES, isolated, printable
from iters import palettes
from iters.datasets import Dataset, encode_label

if TYPE_CHECKING:
    from ademx.reports.choice import HardClass
    from ademx.reports.runs import RunToShow, TableRow

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

# The style puts the numbers where the square root of the share puts them.
_RAMP = (
    '<div class="ramp" aria-hidden="true"><canvas width="256" height="1"></canvas><span>0</span>'
    "<span>1</span><span>10</span><span>25</span><span>50</span><span>100 %</span></div>"
)


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


def class_name(dataset: Dataset, number: int) -> str:
    """Return a class's name as it is shown, or its number where the dataset has no names."""
    return isolated(dataset.class_names[number]) if dataset.class_names else f"class {number}"


def _foreign(text: object) -> str:
    """Return, as HTML, a text that holds names which are not ours."""
    # The marks of :func:`isolated` may stay: the element ends what they began.
    return f"<bdi>{escape(printable(text, keep=ISOLATES))}</bdi>"


def class_colours(dataset: Dataset) -> list[str | None]:
    """Return the colour of each class as "#rrggbb"; None for classification."""
    if dataset.task != "segmentation":
        return [None] * dataset.num_classes
    stored = encode_label(dataset, np.arange(dataset.num_classes)).tolist()
    palette = dataset.palette or palettes.VOC
    return ["#{:02x}{:02x}{:02x}".format(*palette[number]) for number in stored]


def overview(rows: Sequence[TableRow], anchors: Mapping[str, str]) -> str:
    """Return the table of published results beside ours, "" without rows.

    Args:
        rows: from top to bottom.
        anchors: title of a run -> id of its section, for links.
    """
    if not rows:
        return ""
    verdicts = [row.verdict for row in rows]
    counts = [f"{verdicts.count(name)} {name}" for name in _VERDICTS if name in verdicts]
    numbers = ("Published", "Ours", "Difference")
    table = _table(
        ["Row", "Setting", "Measure", *numbers, "Verdict"],
        "".join(_overview_row(row, anchors.get(row.name)) for row in rows),
        numbers=numbers,
        kind="overview",
    )
    return (
        '<section aria-labelledby="overview"><h2 id="overview">Published and ours</h2>'
        f"<p>{len(rows)} {_plural('row', len(rows))}: {escape(', '.join(counts))}. Percent; "
        f"differences in points.</p>{table}</section>"
    )


def _overview_row(row: TableRow, anchor: str | None) -> str:
    """Return a row as a <tbody>, with a line for each measure and one for the detail."""
    name = f'<a href="#{anchor}">{escape(row.name)}</a>' if anchor else escape(row.name)
    measures = list(row.published.items()) or [("", float("nan"))]
    span = len(measures)
    lines = []
    for number, (measure, published) in enumerate(measures):
        ours = (row.ours or {}).get(measure)
        numbers = {
            "published": _points(published, row.decimals),
            "ours": _points(ours),
            "difference": _difference(published, ours),
        }
        values = f'<td class="measure">{escape(_measure(measure))}</td>' + "".join(
            f'<td class="number" data-label="{label}">{text}</td>'
            for label, text in numbers.items()
        )
        if number == 0:
            values = (
                f'<th scope="rowgroup" rowspan="{span}">{name}<small>{escape(row.task)}</small>'
                f'</th><td rowspan="{span}">{escape(row.setting)}<small>{escape(row.source)}'
                f'</small></td>{values}<td class="verdict" rowspan="{span}">'
                f"{_verdict(row.verdict)}</td>"
            )
        lines.append(f"<tr>{values}</tr>")
    if row.detail:
        lines.append(f'<tr class="detail"><td colspan="7">{_with_code(row.detail)}</td></tr>')
    return f"<tbody>{''.join(lines)}</tbody>"


def _verdict(verdict: str) -> str:
    if not verdict:
        return ""
    shape, kind = _VERDICTS.get(verdict, ("", "idle"))
    return f'<span class="{kind}"><span aria-hidden="true">{shape}</span> {escape(verdict)}</span>'


def run_section(run: RunToShow, anchor: str, images: ShownImages) -> str:
    """Return a run's section; the page's script adds the heat map and the pictures."""
    parts = [
        f'<section class="run" id="{anchor}" aria-labelledby="{anchor}-title">'
        f'<h2 id="{anchor}-title">{_foreign(run.title)}</h2>',
        _summary(run),
        _scores(run),
        _broken(run.record),
    ]
    if run.dataset.task == "segmentation" and run.record.get("confusion"):
        parts.append(_classes(run, anchor, images))
        parts.append(_confusion(run, anchor))
    if images.hardest:
        parts.append(_hardest(run.dataset, images.hardest))
    parts.append(_gallery(run.dataset, anchor, images))
    parts.append(_provenance(run.record))
    return "\n".join([*parts, "</section>"])


def _summary(run: RunToShow) -> str:
    settings = run.record.get("settings", {})
    scales, steps = settings.get("test_scales", ()), settings.get("test_steps", 1)
    facts = [
        " and ".join(map(str, settings.get("labels", ()))),
        f"{run.dataset.name} {settings.get('split', '')}".strip(),
        f"{_plural('scale', len(scales))} {', '.join(map(str, scales))}" if scales else "",
        "flipped too" if settings.get("test_flipping") else "",
        "three crops" if settings.get("test_3crops") else "",
        f"{steps} test steps" if steps > 1 else "",
        "CRF" if settings.get("crf") else "",
    ]
    text = " · ".join(_foreign(fact) for fact in facts if fact)
    return f'<p class="summary">{text}</p>'


def _scores(run: RunToShow) -> str:
    record, task = run.record, run.dataset.task
    published = record.get("published") or {}
    measures = [name for name in _OF_TASK[task] if name in record]
    if not measures:
        return "<p>This split has no labels, so there are no scores.</p>"
    measures += [name for name in _MEASURES if name in published and name not in measures]
    tiles = "".join(_tile(name, record.get(name), published) for name in measures)
    parts = [f'<dl class="scores">{tiles}</dl>']
    if len(record.get("scales", ())) > 1:
        parts.append(_scale_table(record))
    if published:
        setting, source = (escape(str(published.get(key, ""))) for key in ("setting", "source"))
        parts.append(f'<p class="small">Published: {setting} ({source}).</p>')
    else:
        parts.append('<p class="small">Nothing is published for this label and these options.</p>')
    rules = {
        "skip": "Classes neither in the truth nor predicted are left out of the means.",
        "zero": "Classes without truth count 0 in the means.",
    }
    rule = rules.get(record.get("absent_classes", ""))
    return "".join([*parts, f'<p class="small">{rule}</p>' if rule else ""])


def _tile(name: str, ours: float | None, published: Mapping[str, Any]) -> str:
    beside = ""
    if name in published:
        beside = (
            f"<dd>published {_points(published[name], published.get('decimals', 2))}</dd>"
            f"<dd>difference {_difference(published[name], ours)}</dd>"
        )
    return (
        f'<div><dt>{escape(_measure(name))}</dt><dd class="value">{_points(ours)}'
        f"<small> %</small></dd>{beside}</div>"
    )


def _scale_table(record: Mapping[str, Any]) -> str:
    names = [name for name in _OF_TASK["classification"] if name in record]
    lines = [*record["scales"].items(), ("mean of the probabilities", record)]
    rows = "".join(
        f'<tr><th scope="row">{escape(str(scale))}</th>'
        f"{_number_cells(_points(values.get(name)) for name in names)}</tr>"
        for scale, values in lines
    )
    numbers = [f"{_measure(name)} %" for name in names]
    return _table(["Scale", *numbers], f"<tbody>{rows}</tbody>", numbers=numbers)


def _broken(record: Mapping[str, Any]) -> str:
    total, broken = record.get("num_images", 0), record.get("broken", ())
    text = f"{total - len(broken)} of {total} images tested."
    if not broken:
        return f'<p class="small">{text}</p>'
    items = "".join(f"<li>{_foreign(entry.get('error', entry))}</li>" for entry in broken)
    return (
        f'<details class="warning"><summary>{text} {len(broken)} could not be and '
        f"{'is' if len(broken) == 1 else 'are'} left out of the scores</summary>"
        f"<ul>{items}</ul></details>"
    )


def _classes(run: RunToShow, anchor: str, images: ShownImages) -> str:
    """Return a bar for each class, highest IoU first, absent ones last."""
    confusion = np.array(run.record["confusion"], np.int64)
    rule = run.record.get("absent_classes", "skip")
    scores = segmentation_scores(confusion, absent_classes=rule)
    pixels = confusion.sum(axis=0) + confusion.sum(axis=1)
    iou = np.where(pixels == 0, np.nan, scores.class_iou)
    colours = class_colours(run.dataset)
    bars = "".join(
        _bar(
            number,
            class_name(run.dataset, number),
            iou=float(iou[number]),
            accuracy=scores.class_accuracy[number],
            colour=colours[number],
            num_images=images.of_classes[number] if images.of_classes else None,
        )
        for number in np.argsort(-iou, kind="stable").tolist()
    )
    return (
        f'<section class="classes" aria-labelledby="{anchor}-classes">'
        f'<h3 id="{anchor}-classes">IoU by class</h3><div class="toolbar" role="group" '
        'aria-label="Order of the classes"><button type="button" data-order="iou" '
        'aria-pressed="true">By IoU</button><button type="button" data-order="name" '
        'aria-pressed="false">By name</button><span class="hint">A click on a class shows its '
        f'images.</span></div><ol class="bars">{bars}</ol></section>'
    )


def _bar(
    number: int,
    name: str,
    *,
    iou: float,
    accuracy: float,
    colour: str | None,
    num_images: int | None,
) -> str:
    absent = np.isnan(iou)
    of_images = "" if num_images is None else f", in {num_images} {_plural('image', num_images)}"
    title = f"{name}: absent" if absent else f"{name}: IoU {iou:.2f} %"
    title += "" if np.isnan(accuracy) or absent else f", accuracy {accuracy:.2f} %"
    return (
        f'<li data-name="{escape(name)}" data-iou="{"" if absent else f"{iou:.4f}"}">'
        f'<button type="button" class="bar" data-class="{number}" aria-pressed="false" '
        f'title="{escape(title + of_images)}">{_swatch(colour)}<span class="name">{_foreign(name)}'
        '</span><svg class="track" viewBox="0 0 100 10" preserveAspectRatio="none" '
        f'aria-hidden="true"><rect width="{0 if absent else iou:.2f}" height="10"/></svg>'
        f'<span class="number">{"–" if absent else f"{iou:.1f}"}</span></button></li>'
    )


def _swatch(colour: str | None) -> str:
    if colour is None:
        return ""
    return (
        '<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true">'
        f'<rect width="10" height="10" rx="2" fill="{colour}"/></svg>'
    )


def _confusion(run: RunToShow, anchor: str) -> str:
    """Return the place of the heat map, and the largest confusions as a table."""
    rows = "".join(
        f'<tr><th scope="row">{_foreign(class_name(run.dataset, truth))}</th>'
        f"<td>{_foreign(class_name(run.dataset, predicted))}</td>"
        f"{_number_cells([f'{share:.1f}', f'{pixels:,}'.replace(',', chr(0x202F))])}</tr>"
        for truth, predicted, share, pixels in _largest_confusions(run.record["confusion"])
    )
    numbers = ("% of truth", "Pixels")
    table = _table(["Truth", "Predicted as", *numbers], f"<tbody>{rows}</tbody>", numbers=numbers)
    return (
        f'<section class="confusion" aria-labelledby="{anchor}-confusion">'
        f'<h3 id="{anchor}-confusion">Confusion matrix</h3>'
        '<p class="small">Rows are the truth, columns the prediction; colours follow the square '
        "root of the share of the row, so that small confusions show. Point, tap, or use the "
        'arrow keys to read a cell.</p><div class="pair"><div class="heat">'
        f'<div class="toolbar">{_RAMP}<button type="button" class="larger" aria-pressed="false">'
        'Larger cells</button></div><div class="map"><canvas tabindex="0" role="application" '
        f'aria-labelledby="{anchor}-confusion"></canvas></div>'
        '<p class="readout" role="status"></p></div>'
        f"<div><h4>Largest confusions</h4>{table if rows else '<p>There are none.</p>'}</div>"
        "</div></section>"
    )


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


def _hardest(dataset: Dataset, hardest: Iterable[HardClass]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><button type="button" class="link" data-class="{found.number}">'
        f"{_foreign(class_name(dataset, found.number))}</button></th>"
        f"{_number_cells([f'{found.error:.1f}', str(found.num_images)])}"
        f"<td>{'–' if found.taken_for is None else _foreign(class_name(dataset, found.taken_for))}"
        "</td></tr>"
        for found in hardest
    )
    numbers = ("Top-1 error %", "Images")
    table = _table(
        ["Class", *numbers, "Most often taken for"], f"<tbody>{rows}</tbody>", numbers=numbers
    )
    return f"<section><h3>Hardest classes</h3>{table}</section>"


def _gallery(dataset: Dataset, anchor: str, images: ShownImages) -> str:
    """Return the place of the pictures, with the list of classes to choose from."""
    notes = "".join(f"<li>{_foreign(note)}</li>" for note in images.notes)
    if notes:
        count = len(images.notes)
        notes = (
            f'<details class="warning"><summary>{count} {_plural("note", count)} on what is not '
            f"shown</summary><ul>{notes}</ul></details>"
        )
    head = (
        f'<section class="gallery" aria-labelledby="{anchor}-images">'
        f'<h3 id="{anchor}-images" tabindex="-1">Images</h3>{notes}'
    )
    if not images.num_shown:
        return f"{head}<p>There are no pictures to show.</p></section>"
    present = [number for number, count in enumerate(images.of_classes) if count]
    present.sort(key=lambda number: class_name(dataset, number).casefold())
    options = "".join(
        f'<option value="{number}">{escape(class_name(dataset, number))} '
        f"({images.of_classes[number]})</option>"
        for number in present
    )
    chooser = (
        f'<label>Images with <select><option value="">any class</option>{options}</select></label>'
        '<button type="button" class="all" hidden>Show all classes</button>'
    )
    hint = '<span class="hint">Errors: red is wrong, hatched is void.</span>'
    hint = hint if options and dataset.task == "segmentation" else ""
    return (
        f'{head}<div class="toolbar">{chooser if options else ""}<span class="count" '
        f'role="status"></span>{hint}</div><noscript><p>The pictures and the heat map need '
        'JavaScript.</p></noscript><div class="cards"></div></section>'
    )


def _provenance(record: Mapping[str, Any]) -> str:
    """Return the run's options, files and versions."""
    settings = {
        key: value
        for key, value in record.get("settings", {}).items()
        if key not in ("weights_md5", "samples_md5")
    }
    files = [(f"samples of {settings.get('split', 'the split')}", _samples_md5(record), "")]
    for weights in record.get("weights", ()):
        name = PurePath(weights["file"]).name
        files.append((name, weights["md5"], release_state(name, weights["md5"])))
    rows = "".join(
        f'<tr><th scope="row">{_foreign(name)}</th><td><code>{escape(md5)}</code></td>'
        f"<td>{escape(state)}</td></tr>"
        for name, md5, state in files
    )
    table = _table(["File", "MD5", "Released"], f"<tbody>{rows}</tbody>", numbers=())
    machine = {
        "devices": record.get("devices", ()),
        "seconds": record.get("seconds", "–"),
        "images per second": record.get("images_per_second", "–"),
        **record.get("versions", {}),
    }
    return (
        '<section class="provenance"><h3>Options, files and versions</h3><div class="pair">'
        f"<div><h4>Options</h4>{_definitions(settings)}</div>"
        f"<div><h4>Machine and versions</h4>{_definitions(machine)}</div></div>"
        f'<h4>Files</h4><div class="scroll" tabindex="0" role="group" aria-label="Files">'
        f"{table}</div></section>"
    )


def _samples_md5(record: Mapping[str, Any]) -> str:
    return str(record.get("settings", {}).get("samples_md5", "–"))


def _definitions(values: Mapping[str, Any]) -> str:
    items = "".join(
        f"<div><dt>{escape(str(key).replace('_', ' '))}</dt>"
        f"<dd>{_foreign(_plain(value))}</dd></div>"
        for key, value in values.items()
    )
    return f'<dl class="facts">{items}</dl>'


def _plain(value: Any) -> str:
    """Return a JSON value as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "–"
    return "–" if value is None else str(value)


def _with_code(text: str) -> str:
    """Return escaped text with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(printable(text)))


def _measure(name: str) -> str:
    return _MEASURES.get(name, name.replace("_", " "))


def _points(value: float | None, decimals: int = 2) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.{decimals}f}"


def _difference(published: float | None, ours: float | None) -> str:
    if published is None or ours is None or np.isnan(published - ours):
        return "–"
    return f"{round(ours - published, 2) + 0.0:+.2f}".replace("-", "−")


def _number_cells(texts: Iterable[str]) -> str:
    return "".join(f'<td class="number">{escape(text)}</td>' for text in texts)


def _table(head: Sequence[str], body: str, *, numbers: Sequence[str], kind: str = "") -> str:
    """Return a table; `numbers` are the headings of columns of numbers, which end at the right."""
    cells = "".join(
        f'<th scope="col"{" class=number" if text in numbers else ""}>{escape(text)}</th>'
        for text in head
    )
    opening = f'<table class="{kind}">' if kind else "<table>"
    return f"{opening}<thead><tr>{cells}</tr></thead>{body}</table>"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"

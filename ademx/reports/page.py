"""The report that people look at: one HTML file that opens from disk, with no network.

`assets/` holds the page's templates, style and script. Here its parts are put together:
`sections` finds what the templates say without a script, `choice` which images are shown,
`pictures` draws them.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from markupsafe import Markup

import ademx
from ademx.errors import MissingFile, UserError
from ademx.files import replacing
from ademx.iteration import prefetched, progress_bar
from ademx.reports.choice import (
    ClassificationImages,
    RunImages,
    SegmentationImages,
    choose,
    hardest_classes,
)
from ademx.reports.pictures import PictureEncoder, check_encoder, load_panels
from ademx.reports.sections import TEMPLATES, class_colours, class_names, run_section
from ademx.text import isolated
from iters.decode import BrokenImage

if TYPE_CHECKING:
    from ademx.published import Result
    from ademx.reports.pictures import Panels
    from ademx.testing.record import Report

_FILE_BYTES = 16_000_000  # of the whole report, about
_SECTION_BYTES = 400_000  # of a run's tables and its confusion matrix: 150 × 150 numbers
_PICTURE_BYTES = 24_000  # what a picture should have at least; there are fewer rather than smaller
_HARDEST = 20
_THREADS = 2

_PAGE = Path(__file__).with_name("assets")
_SCRIPTS = ("helpers", "theme", "heat_map", "gallery", "viewer", "start")  # joined in this order


@dataclass(frozen=True)
class TableRow:
    """A published result beside ours.

    Attributes:
        published: the row of the published table.
        verdict: "reproduced", "differs", "not run", "unverified" or "".
        ours: measure -> our score, percent, as far as it was run.
        detail: such as what is missing; what stands between backticks is shown as code.
        findings: what may have made ours another score, the most likely first; the same.
    """

    published: Result
    verdict: str
    ours: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""
    findings: Sequence[str] = ()


def write_run_report(path: Path, report: Report) -> None:
    """Write the report of one test run.

    Args:
        path: HTML file to write or replace.
        report: what :func:`ademx.testing.evaluate.evaluate` returned.

    Raises:
        OSError, MissingDependency: see :func:`write_report`.
    """
    settings = report.record.settings
    title = f"{' and '.join(settings.labels)} on {report.dataset.name} {settings.split}"
    write_report(path, [report], title=title)


def write_report(
    path: Path, runs: Sequence[Report], *, title: str, rows: Sequence[TableRow] = ()
) -> None:
    """Write the report of some runs as one HTML file of about 16 MB at the most.

    Pictures are drawn from the runs' folders and the samples' files. One that is missing or
    damaged is left out, and the report says so.

    Args:
        path: file to write or replace, in one go.
        runs: from top to bottom; they share the file's size.
        title: of the page.
        rows: of the table at the top; without rows there is none.

    Raises:
        OSError: the file cannot be written.
        MissingDependency: Pillow was built without WebP.
    """
    check_encoder()
    anchors = {run.title: f"run-{number}" for number, run in enumerate(runs, 1)}
    style = _page_file("page.css")
    script = "\n".join(_page_file(f"{name}.js") for name in _SCRIPTS)
    now = datetime.datetime.now(datetime.timezone.utc)
    with replacing(path) as file:
        texts = TEMPLATES.get_template("page.html").generate(
            title=isolated(title),
            policy=_content_policy(style, script),
            style=Markup(style),
            script=Markup(script),
            rows=rows,
            anchors=anchors,
            runs=runs,
            parts=_parts(runs, file),
            date=f"{now:%Y-%m-%d %H:%M} UTC",
            version=ademx.__version__,
        )
        for text in texts:
            # A file name that is not UTF-8 has surrogates, which no HTML can hold.
            file.write(text.encode(errors="replace"))


def _parts(runs: Sequence[Report], file: BinaryIO) -> Iterator[Markup]:
    """Yield the parts of all runs; each gets its share of what the file may still hold."""
    for number, run in enumerate(runs, 1):
        left = (_FILE_BYTES - file.tell()) // (len(runs) - number + 1) - _SECTION_BYTES
        yield from _run_parts(run, f"run-{number}", num_bytes=max(0, left))


def _page_file(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _content_policy(style: str, script: str) -> str:
    """Return a policy under which a browser runs what is written here, and fetches nothing."""
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    ]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _run_parts(run: Report, anchor: str, *, num_bytes: int) -> Iterator[Markup]:
    """Yield a run's pictures, then its section, which says how many there are, then its data."""
    notes: list[str] = []
    images = _run_images(run, notes)
    shown: list[dict[str, Any]] = []
    if images is not None:
        for index, group, picture in _pictures(run, images, num_bytes=num_bytes, notes=notes):
            key = f"{anchor}-image-{len(shown)}"
            yield _data_element(key, picture)
            name = isolated(images.samples[index].name)
            shown.append({"key": key, "name": name, "group": group, **images.facts(index)})
    of_classes = [len(rows) for rows in images.of_classes()] if images is not None else []
    hardest = (
        hardest_classes(images, at_most=_HARDEST)
        if isinstance(images, ClassificationImages)
        else []
    )
    yield run_section(
        run, anchor, num_shown=len(shown), of_classes=of_classes, hardest=hardest, notes=notes
    )
    data = {
        "task": run.dataset.task,
        "classes": [
            {"name": name, "colour": colour}
            for name, colour in zip(class_names(run.dataset), class_colours(run.dataset))
        ],
        "numTested": len(images.samples) if images is not None else 0,
        "numImages": of_classes,
        "confusion": run.record.confusion,
        "images": shown,
    }
    yield _data_element(f"{anchor}-data", json.dumps(data))


def _run_images(run: Report, notes: list[str]) -> RunImages | None:
    """Return the images of a run that pictures can be made of, or None and add a note."""
    try:
        if run.dataset.task == "classification":
            return ClassificationImages(run)
        if not (run.folder / "labels").is_dir():
            raise MissingFile(
                f"{run.folder / 'labels'}: no such folder: a run with --no-save-results has no "
                "label images to make pictures of"
            )
        return SegmentationImages(run)
    except (UserError, OSError) as error:
        notes.append(str(error))
        return None


def _pictures(
    run: Report, images: RunImages, *, num_bytes: int, notes: list[str]
) -> Iterator[tuple[int, str, str]]:
    """Yield index, group and picture, as JSON, of the chosen images that can be shown."""
    chosen = choose(images, at_most=num_bytes // _PICTURE_BYTES)
    encoder = PictureEncoder(run.dataset, num_bytes=num_bytes, num_pictures=len(chosen))

    def attempt(index: int) -> Panels | Exception:
        try:
            return load_panels(run, images.samples[index])
        except (BrokenImage, OSError) as error:
            return error

    with progress_bar(total=len(chosen), unit="picture", desc=run.title) as bar:
        for index, panels in prefetched(chosen, attempt, threads=_THREADS):
            bar.update()
            if isinstance(panels, Exception):
                encoder.encode(None)
                notes.append(str(panels))
                continue
            picture = encoder.encode(panels)
            if picture is None:
                notes.append(f"{images.samples[index]}: too large for this report")
                continue
            yield index, chosen[index], picture


def _data_element(key: str, text: str) -> Markup:
    """Return JSON as an element that a script reads; no text in it can end the element."""
    text = text.replace("<", r"\u003c")
    return Markup(f'<script type="application/json" id="{key}">{text}</script>\n')

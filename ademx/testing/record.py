"""What a test run leaves in `scores.json`: its scores, and all that tells how they came about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ademx.errors import InputError, MissingFile
from ademx.files import write_json
from ademx.forms import FLAG, NUMBER, TEXT, WHOLE, form_of, json_field, misfit, parse, short_json
from ademx.metrics import ABSENT_CLASSES
from ademx.published import METRIC_NAMES, Result
from iters.datasets import Dataset
from iters.samples import Sample

if TYPE_CHECKING:
    from ademx.testing.submissions import Submission

_FILE = "scores.json"

_PERCENT = (*NUMBER, type(None))
_BY_NAME = {...: _PERCENT}
_SCORES = dict.fromkeys(
    ("pixel_accuracy", "mean_accuracy", "mean_iou", "top1_error", "top5_error"), _PERCENT
)
_CITYSCAPES = {
    **{f"mean_{kind}": _PERCENT for kind in ("iiou", "category_iou", "category_iiou")},
    **{kind: _BY_NAME for kind in ("class_iiou", "category_iou", "category_iiou")},
}
_PUBLISHED = {
    **dict.fromkeys(METRIC_NAMES, _PERCENT),
    **{"decimals": WHOLE, "setting": TEXT, "source": TEXT},
}


@dataclass(frozen=True)
class WeightsRead:
    """A file of weights that was tested, and its MD5."""

    file: str = json_field(TEXT)
    md5: str = json_field(TEXT)


@dataclass(frozen=True)
class LeftOut:
    """An image that could not be tested, and why."""

    image: str = json_field(TEXT)
    error: str = json_field(TEXT)


@dataclass(frozen=True)
class RunSettings:
    """All that decides the scores, `as_json`, and what of it has readers.

    The defaults are what older runs did that did not record it. Options have the names and
    meanings of :mod:`ademx.testing.options`.

    Attributes:
        command: "evaluate segmentation" or "evaluate classification".
        labels: of the weights.
        weights_md5: of their files.
        dataset: its name, or the content of the YAML file that describes it.
        samples_md5: of the samples' names and labels.
    """

    as_json: Mapping[str, Any] = field(default_factory=dict)
    command: str = json_field(TEXT, "")
    labels: Sequence[str] = json_field([TEXT], ())
    weights_md5: Sequence[str] = json_field([TEXT], ())
    dataset: str | Mapping[str, Any] = json_field((str, dict), "")
    split: str = json_field(TEXT, "")
    samples_md5: str = json_field(TEXT, "–")
    test_scales: Sequence[int] = json_field([WHOLE], ())
    test_steps: int = json_field(WHOLE, 1)
    test_flipping: bool = json_field(FLAG, False)
    tile: Sequence[int] | None = json_field([WHOLE], None)
    overlap: int | None = json_field(WHOLE, None)
    test_3crops: bool = json_field(FLAG, False)
    test_10crops: bool = json_field(FLAG, False)
    exif: str = json_field(TEXT, "auto")
    crf: Mapping[str, float] | None = json_field({...: NUMBER}, None)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunSettings:
        """Return the settings that `run.json` or a record holds."""
        settings: RunSettings = parse(cls, value)
        return replace(settings, as_json=value)


@dataclass(frozen=True)
class RunRecord:
    """The content of `scores.json`, which has these names; scores are in percent.

    Attributes:
        scores: measure -> score, nan where no image could be tested; empty without labels.
        class_iou: name -> IoU of each class, and so on; None of a classifier or without labels.
        absent_classes: the rule for those in segmentation, "zero" or "skip", else "".
        confusion: pixels, rows are truth.
        cityscapes: of :func:`ademx.testing.cityscapes.further_scores`.
        scales: of a classifier, test scale -> its own `scores`.
        dataset: name of what was tested on.
        num_images: those of the split.
        broken: those that could not be tested.
        exif: how many images were turned, and how many not though their EXIF data turn them.
        weights: in the order of the command line.
        settings: all that decides the scores.
        seconds: of the last part of a run that was resumed; so are the images per second.
        devices: where it was computed.
        versions: name -> version of each library.
        published: the published result with the same label, split and options, if any; of a file
            no more than its values and digits, and what its source says.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    class_iou: Mapping[str, float] | None = json_field(_BY_NAME, None)
    class_accuracy: Mapping[str, float] | None = json_field(_BY_NAME, None)
    absent_classes: str = json_field(TEXT, "")
    confusion: Sequence[Sequence[int]] | None = json_field([[WHOLE]], None)
    cityscapes: Mapping[str, Any] | None = json_field(_CITYSCAPES, None)
    scales: Mapping[Any, Mapping[str, float]] | None = json_field({...: _SCORES}, None)
    dataset: str = json_field(TEXT, "")
    num_images: int = json_field(WHOLE, 0)
    num_broken: int = json_field(WHOLE, 0)
    broken: Sequence[LeftOut] = json_field([LeftOut], ())
    exif: Mapping[str, int] | None = json_field({...: WHOLE}, None)
    weights: Sequence[WeightsRead] = json_field([WeightsRead], ())
    settings: RunSettings = json_field(RunSettings, make=RunSettings)
    seconds: float | None = json_field(NUMBER, None)
    images_per_second: float | None = json_field(NUMBER, None)
    devices: Sequence[str] = json_field([TEXT], ())
    versions: Mapping[str, str] = json_field({...: TEXT}, make=dict)
    published: Result | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as the file has it: what a task does not have is not there."""
        values = {
            **vars(self),
            "broken": [asdict(one) for one in self.broken],
            "weights": [asdict(one) for one in self.weights],
            "settings": self.settings.as_json,
        }
        scores, published = values.pop("scores"), values.pop("published")
        if published is not None:
            facts = {name: getattr(published, name) for name in ("decimals", "setting", "source")}
            published = {**published.values, **facts}
        given = {name: value for name, value in values.items() if value not in (None, "")}
        return {**scores, **given, "published": published}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRecord:
        """Return what :meth:`to_json` gave, also by an older version."""
        scores = {name: value[name] for name in _SCORES if name in value}
        published = value.get("published")
        record: RunRecord = parse(cls, value)
        return replace(
            record,
            scores={name: float("nan") if one is None else one for name, one in scores.items()},
            settings=replace(record.settings, as_json=value.get("settings", {})),
            published=_read_published(published) if published else None,
        )

    def write(self, folder: Path) -> None:
        """Write it to a run's folder."""
        write_json(folder / _FILE, self.to_json())


@dataclass(frozen=True)
class Report:
    """What a test found, and where it lies.

    Attributes:
        folder: what `ademx evaluate` wrote: `scores.json`, `images.npz`, `labels/`, ….
        record: the whole of `scores.json`.
        dataset: what was tested on.
        samples: the split's, those that could not be tested among them.
        submission: of a test split, what the dataset's server takes; None where it has none, or
            images could not be tested.
        title: heading of its section of a page; a row of the page's table of this name links there.
    """

    folder: Path
    record: RunRecord
    dataset: Dataset
    samples: Sequence[Sample]
    submission: Submission | None = None
    title: str = "Scores"

    @property
    def has_labels(self) -> bool:
        """Whether the truth of the split is known."""
        return bool(self.samples) and self.samples[0].label is not None


def record_file(folder: Path) -> Path:
    """Return the file of a run's folder that holds its record."""
    return folder / _FILE


def read_record(folder: Path) -> RunRecord:
    """Return the record of a finished run, of which every part has its type.

    Raises:
        FileNotFoundError: the folder or the file is missing.
        ValueError: it holds something else.
    """
    path = folder / _FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        problem = (
            misfit(record, {**_SCORES, **form_of(RunRecord)}, "its content")
            or misfit(record.get("published") or {}, _PUBLISHED, "published")
            or _missing_part(record)
        )
    except (FileNotFoundError, NotADirectoryError):
        state = "the run is not finished: go on with it by --resume"
        tests = sorted(path.parent for path in folder.glob(f"*_val/{_FILE}"))
        if tests:
            state = f"a training's folder; its last test is {tests[-1]}"
        elif not (folder / "run.json").is_file():
            state = "expected the --output folder of `ademx evaluate`"
        raise MissingFile(f"{path}: no such file: {state}") from None
    except (ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise InputError(
            f"{path}: not what `ademx evaluate` writes: {problem}: go on with the run by --resume, "
            "which writes it again"
        )
    return RunRecord.from_json(record)


def _read_published(value: Mapping[str, Any]) -> Result:
    """Return what a file, also an older version's, has of a row of the published table."""
    return Result(
        name="",
        dataset="",
        split="",
        network="",
        values={name: value[name] for name in METRIC_NAMES if name in value},
        decimals=value.get("decimals", 2),
        setting=value.get("setting", ""),
        source=value.get("source", ""),
    )


def _missing_part(record: dict[str, Any]) -> str:
    """Return what a record lacks of what every finished run has, or ""."""
    settings = record.get("settings", {})
    command = settings.get("command")
    if command not in ("evaluate segmentation", "evaluate classification"):
        return f"settings' command is {short_json(command)}"
    if not record.get("weights"):
        return "it names no weights"
    absent = [name for name in ("dataset", "devices", "versions") if name not in record]
    absent += [name for name in ("split", "dataset") if name not in settings]
    if "mean_iou" in record and record.get("absent_classes") not in ABSENT_CLASSES:
        return f"absent_classes is {short_json(record.get('absent_classes'))}"
    if "mean_iou" in record:
        wanted = ("pixel_accuracy", "mean_accuracy", "class_iou")
        absent += [name for name in wanted if name not in record]
    if "top1_error" in record:
        absent += [] if "top5_error" in record else ["top5_error"]
        absent += [] if settings.get("test_scales") else ["test_scales"]
    return f"{absent[0]} is missing" if absent else ""

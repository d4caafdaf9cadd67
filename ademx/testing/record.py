"""What a test run leaves in `scores.json`: its scores, and all that tells how they came about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ademx.errors import InputError, MissingFile
from ademx.files import write_json
from ademx.forms import NUMBER, TEXT, WHOLE, misfit, shown
from ademx.metrics import ABSENT_CLASSES
from ademx.published import METRIC_NAMES, Result
from iters.datasets import Dataset
from iters.samples import Sample

if TYPE_CHECKING:
    from ademx.testing.submissions import Submission

_FILE = "scores.json"


@dataclass(frozen=True)
class WeightsRead:
    """A file of weights that was tested, and its MD5."""

    file: str
    md5: str


@dataclass(frozen=True)
class LeftOut:
    """An image that could not be tested, and why."""

    image: str
    error: str


@dataclass(frozen=True)
class RunSettings:
    """All that decides the scores, `as_json`, and what of it has readers.

    The defaults are what older runs did that did not record it. Options have the names and
    meanings of :mod:`ademx.testing.options`.

    Attributes:
        command: "evaluate segmentation" or "evaluate classification".
        labels: of the weights.
        dataset: its name, or the content of the YAML file that describes it.
        samples_md5: of the samples' names and labels.
    """

    as_json: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    labels: Sequence[str] = ()
    dataset: str | Mapping[str, Any] = ""
    split: str = ""
    samples_md5: str = "–"
    test_scales: Sequence[int] = ()
    test_steps: int = 1
    test_flipping: bool = False
    tile: Sequence[int] | None = None
    test_3crops: bool = False
    test_10crops: bool = False
    exif: str = "auto"
    crf: Mapping[str, float] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunSettings:
        """Return the settings that `run.json` or a record holds."""
        return cls(value, **_known_fields(cls, value))


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
    class_iou: Mapping[str, float] | None = None
    class_accuracy: Mapping[str, float] | None = None
    absent_classes: str = ""
    confusion: Sequence[Sequence[int]] | None = None
    cityscapes: Mapping[str, Any] | None = None
    scales: Mapping[Any, Mapping[str, float]] | None = None
    dataset: str = ""
    num_images: int = 0
    num_broken: int = 0
    broken: Sequence[LeftOut] = ()
    exif: Mapping[str, int] | None = None
    weights: Sequence[WeightsRead] = ()
    settings: RunSettings = field(default_factory=RunSettings)
    seconds: float | None = None
    images_per_second: float | None = None
    devices: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
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
        known, published = _known_fields(cls, value), value.get("published")
        scores = {name: value[name] for name in _SCORES if name in value}
        known["scores"] = {n: float("nan") if one is None else one for n, one in scores.items()}
        known["broken"] = [
            LeftOut(**_known_fields(LeftOut, one)) for one in value.get("broken", ())
        ]
        known["weights"] = [
            WeightsRead(**_known_fields(WeightsRead, one)) for one in value.get("weights", ())
        ]
        known["settings"] = RunSettings.from_json(value.get("settings", {}))
        known["published"] = _read_published(published) if published else None
        return cls(**known)

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
            misfit(record, _RECORD, "its content")
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


def _known_fields(kind: type, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a JSON object are fields of a dataclass."""
    return {part.name: value[part.name] for part in fields(kind) if part.name in value}


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
        return f"settings' command is {shown(command)}"
    if not record.get("weights"):
        return "it names no weights"
    absent = [name for name in ("dataset", "devices", "versions") if name not in record]
    absent += [name for name in ("split", "dataset") if name not in settings]
    if "mean_iou" in record and record.get("absent_classes") not in ABSENT_CLASSES:
        return f"absent_classes is {shown(record.get('absent_classes'))}"
    if "mean_iou" in record:
        wanted = ("pixel_accuracy", "mean_accuracy", "class_iou")
        absent += [name for name in wanted if name not in record]
    if "top1_error" in record:
        absent += [] if "top5_error" in record else ["top5_error"]
        absent += [] if settings.get("test_scales") else ["test_scales"]
    return f"{absent[0]} is missing" if absent else ""


_SCORE = (*NUMBER, type(None))
_SCORES = dict.fromkeys(
    ("pixel_accuracy", "mean_accuracy", "mean_iou", "top1_error", "top5_error"), _SCORE
)
_RECORD = {
    **_SCORES,
    "class_iou": {...: _SCORE},
    "class_accuracy": {...: _SCORE},
    "absent_classes": TEXT,
    "confusion": [[WHOLE]],
    "cityscapes": {
        **{f"mean_{kind}": _SCORE for kind in ("iiou", "category_iou", "category_iiou")},
        **{kind: {...: _SCORE} for kind in ("class_iiou", "category_iou", "category_iiou")},
    },
    "scales": {...: _SCORES},
    "dataset": TEXT,
    "num_images": WHOLE,
    "num_broken": WHOLE,
    "broken": [{"image": TEXT, "error": TEXT}],
    "exif": {...: WHOLE},
    "weights": [{"file": TEXT, "md5": TEXT}],
    "settings": {
        "command": TEXT,
        "labels": [TEXT],
        "weights_md5": [TEXT],
        "dataset": (str, dict),
        "split": TEXT,
        "test_scales": [WHOLE],
        "test_steps": WHOLE,
        "tile": [WHOLE],
    },
    "seconds": NUMBER,
    "images_per_second": NUMBER,
    "devices": [TEXT],
    "versions": {...: TEXT},
}
_PUBLISHED = {
    **dict.fromkeys(METRIC_NAMES, _SCORE),
    **{"decimals": WHOLE, "setting": TEXT, "source": TEXT},
}

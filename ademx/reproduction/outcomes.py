"""The reports of `ademx reproduce`: what became of each row, for people and for programs."""

from __future__ import annotations

import datetime
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ademx.errors import InputError, UserError
from ademx.files import locked, replacing, write_json
from ademx.forms import NUMBER, TEXT, form_of, json_field, misfit, parse
from ademx.published import METRIC_NAMES, RESULTS, Result, get_result
from ademx.reports.page import TableRow, write_report
from ademx.reproduction.diagnosis import Finding
from ademx.reproduction.tolerance import Tolerance
from ademx.testing.record import Report, read_record
from ademx.text import printable
from ademx.versions import versions
from iters.datasets import DATASETS
from iters.lists import find_samples
from symbols.levels import check_choice

TITLE = "Published results beside ours"
WHAT_TO_LOOK_AT = "What to look at, most likely first"
# From the best to the worst; the last two are failures.
VERDICTS = ("reproduced", "unverified", "not run", "differs", "failed")

_log = logging.getLogger(__name__)


class MetricTexts(NamedTuple):
    """A metric of a row as all tables show it; "–" and "" stand for what was not tested."""

    metric: str
    published: str
    ours: str
    difference: str
    tolerance: str


@dataclass(frozen=True)
class Outcome:
    """What became of a row.

    Attributes:
        row: the published row.
        verdict: one of :data:`VERDICTS`; :mod:`ademx.reproduction.rows` says what they mean.
        reasons: why it is that verdict, such as what is missing and the command that checks it.
        ours: metric -> our score, percent; none where it was not tested.
        tolerances: metric -> how far that may be from the published one.
        diagnosis: where a score is another one, what the tests for known causes showed, the most
            likely first.
        data_root: the dataset's folder; None where nothing was tested, and so on below.
        weights: the file of weights.
        weights_md5: its MD5, or "".
        command: the same test by `ademx evaluate`, or "".
        date: when the verdict was given, UTC.
    """

    row: Result
    verdict: str = json_field(TEXT)
    reasons: Sequence[str] = json_field([TEXT], ())
    ours: Mapping[str, float] = field(default_factory=dict)
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    diagnosis: Sequence[Finding] = json_field([Finding], ())
    data_root: Path | None = None
    weights: Path | None = None
    weights_md5: str = json_field(TEXT, "")
    command: str = json_field(TEXT, "")
    date: str = json_field(
        TEXT,
        make=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat(
            sep=" ", timespec="seconds"
        ),
    )

    @property
    def is_failure(self) -> bool:
        """Whether the row was tested and its score is another one, or the test broke off."""
        return self.verdict in ("differs", "failed")

    def difference(self, metric: str) -> float | None:
        """Return ours minus the published score, percentage points; None if it was not tested."""
        return self.ours[metric] - self.row.values[metric] if metric in self.ours else None

    def is_same_test(self, other: Outcome) -> bool:
        """Return whether another outcome has the same scores of the same test."""
        ours, theirs = self.as_json(), other.as_json()
        return all(ours[name] == theirs[name] for name in ("metrics", "weights_md5", "command"))

    def texts(self) -> list[MetricTexts]:
        """Return what tables show of each metric."""
        texts = []
        for name in self.row.values:
            ours, difference = self.ours.get(name), self.difference(name)
            texts.append(
                MetricTexts(
                    METRIC_NAMES[name],
                    self.row.printed(name),
                    "–" if ours is None else f"{ours:.2f}",
                    "–" if difference is None else f"{difference:+.2f}",
                    str(self.tolerances.get(name, "")),
                )
            )
        return texts

    def as_json(self) -> dict[str, Any]:
        """Return it as `report.json` has it."""
        return {
            "row": self.row.name,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "metrics": {name: self._metric_json(name) for name in self.row.values},
            "diagnosis": [{**asdict(one), "state": one.state} for one in self.diagnosis],
            "setting": self.row.setting,
            "source": self.row.source,
            "data_root": str(self.data_root) if self.data_root else None,
            "weights": str(self.weights) if self.weights else None,
            "weights_md5": self.weights_md5,
            "command": self.command,
            "date": self.date,
        }

    def _metric_json(self, name: str) -> dict[str, Any]:
        tolerance = self.tolerances.get(name)
        return {
            "published": self.row.values[name],
            "ours": self.ours.get(name),
            "difference": self.difference(name),
            "tolerance": asdict(tolerance) if tolerance else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outcome:
        """Return an outcome that `as_json` gave.

        Raises:
            ValueError: an unknown row or verdict, or a score without a tolerance.
        """
        row, metrics = get_result(value["row"]), value["metrics"]
        check_choice("verdict", value["verdict"], VERDICTS)
        tested = {name: metrics[name] for name in row.values if name in metrics}
        tested = {name: one for name, one in tested.items() if one.get("ours") is not None}
        problem = misfit(
            [one.get("tolerance") for one in tested.values()], [Tolerance], row.name
        ) or misfit(value.get("diagnosis", []), [Finding], "diagnosis")
        if problem:
            raise InputError(problem)
        forms = {name: form for name, form in form_of(cls).items() if name in value}
        return cls(
            row=row,
            ours={name: one["ours"] for name, one in tested.items()},
            tolerances={name: parse(Tolerance, one["tolerance"]) for name, one in tested.items()},
            data_root=Path(value["data_root"]) if value["data_root"] else None,
            weights=Path(value["weights"]) if value["weights"] else None,
            **{name: parse(form, value[name]) for name, form in forms.items()},
        )


class Reports:
    """`report.md`, `report.json` and `report.html` in a folder.

    Args:
        folder: where they are; outcomes of an earlier `report.json` there are kept until the row
            has another one.

    Raises:
        ValueError: the folder's `report.json` is something else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._outcomes = _read_outcomes(folder / "report.json")

    def add(self, outcome: Outcome) -> None:
        """Put an outcome in the place of the row's last one, in `report.json` and `report.md`."""
        with self._newest_held():
            self._outcomes[outcome.row.name] = outcome
            rows = [outcome.as_json() for outcome in self._sorted_outcomes()]
            record = {"title": TITLE, "rows": rows, "versions": versions()}
            write_json(self._folder / "report.json", record)
            with replacing(self._folder / "report.md") as file:
                file.write(markdown(self._sorted_outcomes()).encode(errors="backslashreplace"))

    @contextmanager
    def _newest_held(self) -> Iterator[None]:
        """Hold the newest outcomes, also those of other processes, and keep these waiting."""
        with locked(self._folder, "--output", wait=True):
            self._outcomes = _read_outcomes(self._folder / "report.json")
            yield

    def outcome(self, row: Result) -> Outcome | None:
        """Return what became of a row before, if anything did."""
        return self._outcomes.get(row.name)

    def write_html(self) -> None:
        """Write `report.html`."""
        with self._newest_held():
            outcomes = self._sorted_outcomes()
            runs = [run for run in map(self._run_to_show, outcomes) if run is not None]
            rows = [_table_row(outcome) for outcome in outcomes]
            write_report(self._folder / "report.html", runs, title=TITLE, rows=rows)

    def _run_to_show(self, outcome: Outcome) -> Report | None:
        """Return the test of a row; None where there was none or its files are gone."""
        if outcome.data_root is None:
            return None
        row, folder = outcome.row, self._folder / outcome.row.name
        try:
            record, dataset = read_record(folder), DATASETS[row.dataset]
            if len(record.confusion or ()) not in (0, dataset.num_classes):
                raise InputError(f"{folder / 'scores.json'}: it is of another dataset")
            samples = find_samples(dataset, outcome.data_root, row.split)
        except (UserError, OSError) as error:
            _log.warning("%s: its images are not in report.html: %s", row.name, error)
            return None
        return Report(folder, record, dataset, samples, title=row.name)

    def _sorted_outcomes(self) -> list[Outcome]:
        return [self._outcomes[row.name] for row in RESULTS if row.name in self._outcomes]


def _read_outcomes(path: Path) -> dict[str, Outcome]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        problem = misfit([content], [{"rows": [_ROW]}], "its content")
        if problem:
            raise InputError(problem)
        outcomes = [Outcome.from_json(row) for row in content["rows"]]
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not what `ademx reproduce` writes ({error}): move it away, or choose another "
            "--output"
        ) from None
    return {outcome.row.name: outcome for outcome in outcomes}


_TEXT_OR_NULL = (str, type(None))
_ROW = {
    **{name: form for name, form in form_of(Outcome).items() if name != "diagnosis"},
    "row": TEXT,
    "metrics": {...: {"ours": (*NUMBER, type(None))}},
    "data_root": _TEXT_OR_NULL,
    "weights": _TEXT_OR_NULL,
}


def _table_row(outcome: Outcome) -> TableRow:
    tolerances = [f"{one.metric} {one.tolerance}" for one in outcome.texts() if one.tolerance]
    detail = [*outcome.reasons, *([f"tolerance: {'; '.join(tolerances)}"] if tolerances else [])]
    findings = [one.text for one in outcome.diagnosis]
    return TableRow(outcome.row, outcome.verdict, outcome.ours, "; ".join(detail), findings)


def markdown(outcomes: list[Outcome]) -> str:
    """Return the report as Markdown: a table, what is missing, and each test."""
    numbers_of = Counter(outcome.verdict for outcome in outcomes)
    counts = [f"{numbers_of[verdict]} {verdict}" for verdict in VERDICTS if numbers_of[verdict]]
    lines = [f"# {TITLE}", "", f"Rows: {', '.join(counts)}. All scores in percent."]
    lines += ["", "| row | what | metric | published | ours | difference | verdict | source |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    numbers = numbered_reasons(outcomes)
    for outcome in outcomes:
        lines += _markdown_rows(outcome, numbers)
    if numbers:
        lines += [
            "",
            "## Not run",
            "",
            *(f"{n}. {printable(reason)}" for reason, n in numbers.items()),
        ]
    for outcome in outcomes:
        if outcome.verdict != "not run":
            lines += ["", *_markdown_details(outcome)]
    return "\n".join([*lines, ""])


def numbered_reasons(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Return why rows are not run, each reason once and numbered: most are those of many rows."""
    reasons = dict.fromkeys(
        reason for one in outcomes if one.verdict == "not run" for reason in one.reasons
    )
    return {reason: number for number, reason in enumerate(reasons, start=1)}


def verdict_with_numbers(outcome: Outcome, numbers: Mapping[str, int]) -> str:
    """Return a verdict such as "not run (1, 3)", by what :func:`numbered_reasons` gave."""
    if outcome.verdict != "not run":
        return outcome.verdict
    return f"not run ({', '.join(str(numbers[reason]) for reason in outcome.reasons)})"


def _markdown_rows(outcome: Outcome, numbers: Mapping[str, int]) -> list[str]:
    row, lines = outcome.row, []
    head = (row.name, f"{row.description}: {row.setting}")
    tail = (verdict_with_numbers(outcome, numbers), row.source)
    for texts in outcome.texts():
        lines.append(f"| {' | '.join((*head, *texts[:-1], *tail))} |")
        head, tail = ("", ""), ("", "")
    return lines


def _markdown_details(outcome: Outcome) -> list[str]:
    tested = [one for one in outcome.texts() if one.tolerance]
    facts = [*outcome.reasons, *(f"tolerance of {one.metric}: {one.tolerance}" for one in tested)]
    if outcome.weights is not None:
        facts.append(f"weights: {outcome.weights}, MD5 {outcome.weights_md5}")
    if outcome.command:
        facts.append(f"the same by `{outcome.command}`")
    facts.append(f"judged {outcome.date}")
    lines = [f"- {printable(fact)}" for fact in facts]
    lines = [f"## {outcome.row.name}: {outcome.verdict}", "", *lines]
    if outcome.diagnosis:
        lines += ["", f"{WHAT_TO_LOOK_AT}:", "", *numbered(outcome.diagnosis)]
    return lines


def numbered(diagnosis: Iterable[Finding]) -> list[str]:
    """Return a line for each finding, with its place."""
    return [f"{place}. {printable(one.text)}" for place, one in enumerate(diagnosis, start=1)]

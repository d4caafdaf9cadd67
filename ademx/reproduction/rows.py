"""Published rows tested again: from data and weights on disk to a verdict on each row.

A row's verdict is

* "reproduced": every score lies within the tolerance of :mod:`ademx.reproduction.tolerance`,
* "differs": one does not,
* "unverified": it was tested with data or weights that are not known to be the published ones
  (weights of one's own training are tested like the published ones, and the verdict says so),
* "not run": something is missing, or nothing here can score it,
* "failed": the test broke off, or images could not be read.
"""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ademx.errors import InputError, UserError
from ademx.options import command_line
from ademx.published import METRIC_NAMES, Result
from ademx.reproduction.case import Case
from ademx.reproduction.diagnosis import diagnose
from ademx.reproduction.inputs import FoundInput, find_data, find_row_weights
from ademx.reproduction.options import ReproduceOptions
from ademx.reproduction.outcomes import Outcome, Reports
from ademx.reproduction.recipes import RECIPES
from ademx.reproduction.tolerance import Tolerance, pixel_tolerances, rounding, tie_tolerances
from ademx.testing.evaluate import evaluate
from ademx.testing.finished_runs import mean_probabilities
from ademx.testing.image_counts import load_image_counts, load_image_labels
from ademx.testing.options import SegmentationOptions, published_options
from ademx.testing.record import RunRecord

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plan:
    """A row with what was found of its data and weights.

    Attributes:
        row: the published row.
        data: its dataset.
        weights: its weights.
        obstacles: why it cannot be tested at all.
        doubts: why a score would not tell whether the published one is reproduced.
        notes: what a reader of the verdict should know.
    """

    row: Result
    data: FoundInput
    weights: FoundInput
    obstacles: tuple[str, ...]
    doubts: tuple[str, ...]
    notes: tuple[str, ...] = ()


def reproduce(options: ReproduceOptions) -> Iterator[Outcome]:
    """Test rows, yield the outcome of each, and keep the reports in `options.output` up to date.

    What cannot be tested is told first, then the others are tested, in the order of the table. A
    row that fails does not keep the rest from being tested; rows of earlier calls stay in the
    reports.

    Raises:
        ValueError: the output folder holds a report that is none of these.
        OSError: the reports cannot be written.
    """
    options.output.mkdir(parents=True, exist_ok=True)
    reports = Reports(options.output)
    find = lru_cache(maxsize=None)(lambda name, split: find_data(name, split, options.places))
    waiting = []
    for row in options.chosen():
        plan = _plan_of(row, options, find)
        if plan.obstacles or (plan.doubts and not options.unverified):
            outcome = _untested_outcome(plan)
            reports.add(outcome)
            yield outcome
        else:
            waiting.append(plan)
    reports.write_html()
    for plan in waiting:
        for outcome in _tested_outcomes(plan, options, reports.outcome(plan.row)):
            reports.add(outcome)
        reports.write_html()
        yield outcome


def _plan_of(
    row: Result, options: ReproduceOptions, find: Callable[[str, str], FoundInput]
) -> _Plan:
    places = options.places
    impossible = _reason_against(row)
    if impossible:
        return _Plan(row, FoundInput(None), FoundInput(None), (impossible,), ())
    data, weights = find(row.dataset, row.split), find_row_weights(row, places)
    # To train a network anew is to reproduce a row too, if by a harder way.
    notes = weights.problems if weights.is_own else ()
    published = [found for found in (data, weights) if not found.is_own]
    obstacles = [p for found in published if found.path is None for p in found.problems]
    doubts = [p for found in published if found.path is not None for p in found.problems]
    if "test_scales" not in row.options:
        doubts.append(
            "the source names no scale: it is tested at the usual one, without mirror images"
        )
    if options.precision not in (None, "float32"):
        doubts.append(f"it is tested in {options.precision}, and the tolerance is that of float32")
    return _Plan(row, data, weights, tuple(obstacles), tuple(doubts), notes)


def _reason_against(row: Result) -> str:
    """Return why nothing here can score a row, whatever data and weights there are, or ""."""
    if row.split == "test":
        return (
            "only the benchmark's server can score the test split, and these weights were never "
            "released; `ademx evaluate segmentation --split test` packs what a server takes"
        )
    if row.label is None and row.name not in RECIPES:
        return "no weights were released, and there is no recipe for them"
    return ""


def _untested_outcome(plan: _Plan) -> Outcome:
    reasons = [*plan.obstacles, *plan.doubts, *plan.notes]
    if not plan.obstacles:
        reasons.append("--unverified tests it all the same")
    return Outcome(plan.row, "not run", tuple(reasons))


def _tested_outcomes(
    plan: _Plan, options: ReproduceOptions, earlier: Outcome | None
) -> Iterator[Outcome]:
    """Test a row, or take what an earlier call found with the same settings; then diagnose it.

    Yields the outcome as far as it is known, so that a verdict outlives what comes after it.
    """
    run = _RowTest(plan, options)
    _log.info("%s: `%s`", plan.row.name, run.command)
    try:
        yield from run.outcomes(None if options.overwrite else earlier)
    # RuntimeError is what MXNet and PyTorch raise, of memory that does not suffice, say.
    except (UserError, OSError, RuntimeError) as error:
        _log.error("%s: %s", plan.row.name, error)
        _log.debug("%s", plan.row.name, exc_info=True)
        reasons = (str(error), *plan.doubts, *plan.notes)
        yield Outcome(plan.row, "failed", reasons, command=run.command)


class _RowTest:
    """The test of a row."""

    def __init__(self, plan: _Plan, options: ReproduceOptions) -> None:
        if plan.data.path is None or plan.weights.path is None:
            raise InputError(f"{plan.row.name}: its data or weights are missing")
        self._plan, self._options, self._row = plan, options, plan.row
        self._data_root, self._weights = plan.data.path, plan.weights.path
        self._evaluation = published_options(
            plan.row,
            weights=self._weights,
            data_root=self._data_root,
            output=options.output / plan.row.name,
            **options.of_results(),
        )

    @property
    def command(self) -> str:
        """The same test by `ademx evaluate`."""
        options = self._evaluation
        return shlex.join(["ademx", "evaluate", options.task, *command_line(options)])

    def outcomes(self, earlier: Outcome | None) -> Iterator[Outcome]:
        """Yield the verdict on the scores, computed or found, and if need be again with its causes.

        Args:
            earlier: what an earlier call made of the row; the same scores have the same causes.
        """
        options = replace(self._evaluation, **self._options.of_machine())
        if isinstance(options, SegmentationOptions):
            options = replace(options, near_ties=True)
        record = evaluate(options).record
        scores = {name: record.scores.get(name, math.nan) for name in self._row.values}
        # There are none where no image could be tested.
        ours = {name: score for name, score in scores.items() if not math.isnan(score)}
        tolerances = self._tolerances(record) if ours else {}
        far = self._far(ours, tolerances)
        verdict, reasons = self._verdict(record, far)
        outcome = Outcome(
            self._row,
            verdict,
            (*reasons, *self._plan.doubts, *self._plan.notes),
            ours=ours,
            tolerances=tolerances,
            data_root=self._data_root,
            weights=self._weights,
            weights_md5=record.weights[0].md5,
            command=self.command,
        )
        if far and earlier is not None and earlier.is_same_test(outcome):
            outcome = replace(outcome, diagnosis=earlier.diagnosis)
        yield outcome
        if far and not record.num_broken and not outcome.diagnosis:
            _log.info("%s: looking for what makes its score another one", self._row.name)
            yield replace(outcome, diagnosis=diagnose(Case(self._row, ours, record, options)))

    def _far(self, ours: Mapping[str, float], allowed: Mapping[str, Tolerance]) -> list[str]:
        """Return which scores lie beyond the tolerance, in words."""
        return [
            f"{METRIC_NAMES[name]} {abs(score - self._row.values[name]):.2f} "
            f"{'above' if score > self._row.values[name] else 'below'} the published "
            f"{self._row.printed(name)}"
            for name, score in ours.items()
            if not abs(score - self._row.values[name]) <= allowed[name].total
        ]

    def _verdict(self, record: RunRecord, far: list[str]) -> tuple[str, tuple[str, ...]]:
        broken = record.num_broken
        if broken:
            first = record.broken[0].error
            reason = f"{broken} of {record.num_images} images could not be tested: {first}"
            return "failed", (reason,)
        if self._plan.doubts:
            return "unverified", ()
        return ("differs", tuple(far)) if far else ("reproduced", ())

    def _tolerances(self, record: RunRecord) -> dict[str, Tolerance]:
        options = self._evaluation
        if isinstance(options, SegmentationOptions):
            images = load_image_counts(options.output)
            numerics = pixel_tolerances(images, absent_classes=record.absent_classes)
            cause = "pixels near a tie"
        else:
            mean = mean_probabilities(options.output, options.test_scales)
            tested = np.isfinite(mean).all(axis=1)
            labels = load_image_labels(options.output).labels
            numerics, cause = tie_tolerances(mean[tested], labels[tested]), "near ties"
        exact = rounding(self._row.decimals)
        return {name: Tolerance(exact, numerics[name], cause) for name in self._row.values}

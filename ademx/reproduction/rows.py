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
from collections.abc import Callable, Iterator
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
from ademx.testing.options import ClassificationOptions, SegmentationOptions, published_options
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
    row, data_root, weights = plan.row, plan.data.path, plan.weights.path
    if data_root is None or weights is None:
        raise InputError(f"{row.name}: its data or weights are missing")
    places = {"weights": weights, "data_root": data_root, "output": options.output / row.name}
    evaluation = published_options(row, **places, **options.of_results())
    command = shlex.join(["ademx", "evaluate", evaluation.task, *command_line(evaluation)])
    _log.info("%s: `%s`", row.name, command)
    evaluation = replace(evaluation, **options.of_machine())
    if isinstance(evaluation, SegmentationOptions):
        evaluation = replace(evaluation, near_ties=True)
    try:
        yield from _judge_test(plan, evaluation, command, None if options.overwrite else earlier)
    # RuntimeError is what MXNet and PyTorch raise, of memory that does not suffice, say.
    except (UserError, OSError, RuntimeError) as error:
        _log.error("%s: %s", row.name, error)
        _log.debug("%s", row.name, exc_info=True)
        yield Outcome(row, "failed", (str(error), *plan.doubts, *plan.notes), command=command)


def _judge_test(
    plan: _Plan,
    options: ClassificationOptions | SegmentationOptions,
    command: str,
    earlier: Outcome | None,
) -> Iterator[Outcome]:
    """Yield the verdict on the scores, computed or found, and if need be again with its causes.

    Args:
        plan: the row.
        options: of the test.
        command: the same test by `ademx evaluate`.
        earlier: what an earlier call made of the row; the same scores have the same causes.
    """
    row, record = plan.row, evaluate(options).record
    scores = {name: record.scores.get(name, math.nan) for name in row.values}
    # There are none where no image could be tested.
    ours = {name: score for name, score in scores.items() if not math.isnan(score)}
    tolerances = _tolerances(row, options, record) if ours else {}
    far = [
        f"{METRIC_NAMES[name]} {abs(score - row.values[name]):.2f} "
        f"{'above' if score > row.values[name] else 'below'} the published {row.printed(name)}"
        for name, score in ours.items()
        if not abs(score - row.values[name]) <= tolerances[name].total
    ]
    verdict, reasons = _verdict(plan, record, far)
    outcome = Outcome(
        row,
        verdict,
        (*reasons, *plan.doubts, *plan.notes),
        ours=ours,
        tolerances=tolerances,
        data_root=options.data_root,
        weights=options.weights[0],
        weights_md5=record.weights[0].md5,
        command=command,
    )
    if far and earlier is not None and earlier.is_same_test(outcome):
        outcome = replace(outcome, diagnosis=earlier.diagnosis)
    yield outcome
    if far and not record.num_broken and not outcome.diagnosis:
        _log.info("%s: looking for what makes its score another one", row.name)
        yield replace(outcome, diagnosis=diagnose(Case(row, ours, record, options)))


def _verdict(plan: _Plan, record: RunRecord, far: list[str]) -> tuple[str, list[str]]:
    """Return a verdict and why it is that one, of scores of which some are too far away."""
    if record.num_broken:
        count = f"{record.num_broken} of {record.num_images} images"
        return "failed", [f"{count} could not be tested: {record.broken[0].error}"]
    if plan.doubts:
        return "unverified", []
    return ("differs", far) if far else ("reproduced", [])


def _tolerances(
    row: Result, options: ClassificationOptions | SegmentationOptions, record: RunRecord
) -> dict[str, Tolerance]:
    if isinstance(options, SegmentationOptions):
        images = load_image_counts(options.output)
        numerics = pixel_tolerances(images, absent_classes=record.absent_classes)
        cause = "pixels near a tie"
    else:
        mean = mean_probabilities(options.output, options.test_scales)
        tested = np.isfinite(mean).all(axis=1)
        labels = load_image_labels(options.output).labels
        numerics, cause = tie_tolerances(mean[tested], labels[tested]), "near ties"
    exact = rounding(row.decimals)
    return {name: Tolerance(exact, numerics[name], cause) for name in row.values}

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
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.compat import MissingDependency
from ademx.labels import parse_label
from ademx.published import METRIC_NAMES, RESULTS, Result, get_result
from ademx.reproduction.inputs import FoundInput, SearchFolders, find_data, find_row_weights
from ademx.reproduction.outcomes import Outcome, Reports
from ademx.reproduction.recipes import find_recipe
from ademx.reproduction.tolerance import (
    Tolerance,
    has_near_ties,
    pixel_tolerances,
    rounding,
    tie_tolerances,
)
from ademx.testing import classification, segmentation
from ademx.testing.finished_runs import load_run, mean_probabilities
from ademx.testing.image_counts import load_image_counts
from ademx.testing.options import (
    ClassificationOptions,
    SegmentationOptions,
    default_test_scale,
)
from ademx.testing.record import RunRecord
from ademx.testing.session import RunInputs
from iters.samples import Sample

if TYPE_CHECKING:
    from ademx.devices import Devices

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReproduceOptions:
    """How to test published rows.

    Attributes:
        rows: names of rows as :func:`ademx.published.get_result` takes them; none stands for all.
        places: where data and weights are.
        output: folder of the reports, and of a folder for each row.
        devices: returns where to compute, asked for only if a row is tested.
        batch_images: network inputs that a device computes at a time.
        prefetch_threads: threads that read and transform images ahead of the network.
        precision: "float32" or "bfloat16".
        backend: what computes the networks, "mxnet" or "torch".
        unverified: test also what is not known to be the published data or weights.
        overwrite: test rows again that are done.

    Raises:
        ValueError: a row that there is not.
    """

    rows: tuple[str, ...]
    places: SearchFolders
    output: Path
    devices: Callable[[], Devices]
    batch_images: int = 1
    prefetch_threads: int = 2
    precision: str = "float32"
    backend: str = "mxnet"
    unverified: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in self.rows:
            get_result(name)

    def chosen(self) -> tuple[Result, ...]:
        """Return the rows in the order of the published table."""
        names = [get_result(name).name for name in self.rows]
        return tuple(row for row in RESULTS if not names or row.name in names)


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
        plan = _find_inputs(row, options, find)
        if plan.obstacles or (plan.doubts and not options.unverified):
            outcome = _not_run(plan)
            reports.add(outcome)
            yield outcome
        else:
            waiting.append(plan)
    reports.write_html()
    for plan in waiting:
        outcome = _tested(plan, options)
        reports.add(outcome)
        reports.write_html()
        yield outcome


def _find_inputs(
    row: Result, options: ReproduceOptions, find: Callable[[str, str], FoundInput]
) -> _Plan:
    places = options.places
    impossible = _why_impossible(row)
    if impossible:
        return _Plan(row, FoundInput(None), FoundInput(None), (impossible,), ())
    data, weights = find(row.dataset, row.split), find_row_weights(row, places)
    # To train a network anew is to reproduce a row too, if by a harder way.
    notes = weights.problems if weights.is_own else ()
    published = [found for found in (data, weights) if not found.is_own]
    obstacles = [p for found in published if found.path is None for p in found.problems]
    doubts = [p for found in published if found.path is not None for p in found.problems]
    if row.test_scales is None:
        doubts.append(
            "the source names no scale: it is tested at the usual one, without mirror images"
        )
    if options.precision != "float32":
        doubts.append(f"it is tested in {options.precision}, and the tolerance is that of float32")
    return _Plan(row, data, weights, tuple(obstacles), tuple(doubts), notes)


def _why_impossible(row: Result) -> str:
    """Return why nothing here can score a row, whatever data and weights there are, or ""."""
    if row.split == "test":
        return (
            "only the benchmark's server can score the test split, and these weights were never "
            "released; `ademx evaluate segmentation --split test` packs what a server takes"
        )
    if row.setting == "ten crops":
        return "ten-crop testing is not offered"
    if row.label is None and find_recipe(row) is None:
        return "no weights were released, and there is no recipe for them"
    return ""


def _not_run(plan: _Plan) -> Outcome:
    reasons = [*plan.obstacles, *plan.doubts, *plan.notes]
    if not plan.obstacles:
        reasons.append("--unverified tests it all the same")
    return Outcome(plan.row, "not run", tuple(reasons))


def _tested(plan: _Plan, options: ReproduceOptions) -> Outcome:
    """Test a row, or take what an earlier call found with the same settings."""
    run = _RowTest(plan, options)
    _log.info("%s: `%s`", plan.row.name, run.command)
    try:
        return run.outcome()
    # RuntimeError is what MXNet and PyTorch raise, of memory that does not suffice, say.
    except (ValueError, OSError, RuntimeError, MissingDependency) as error:
        _log.error("%s: %s", plan.row.name, error)
        _log.debug("%s", plan.row.name, exc_info=True)
        reasons = (str(error), *plan.doubts, *plan.notes)
        return Outcome(plan.row, "failed", reasons, command=run.command)


class _RowTest:
    """The test of a row."""

    def __init__(self, plan: _Plan, options: ReproduceOptions) -> None:
        if plan.data.path is None or plan.weights.path is None:
            raise ValueError(f"{plan.row.name}: its data or weights are missing")
        self._plan, self._options, self._row = plan, options, plan.row
        self._data_root, self._weights = plan.data.path, plan.weights.path
        self._folder = options.output / plan.row.name
        self._label = parse_label(self._weights)
        self._scales = plan.row.test_scales or (default_test_scale(self._label),)

    @property
    def command(self) -> str:
        """The same test by `ademx evaluate`."""
        row, task = self._row, self._label.task
        parts = ["ademx", "evaluate", task, "--weights", self._weights]
        parts += ["--data-root", self._data_root, "--split", row.split]
        parts += ["--test-scales", ",".join(map(str, self._scales))]
        parts += ["--test-flipping"] if row.test_flipping else []
        parts += ["--test-3crops"] if row.test_3crops else []
        parts += ["--test-steps", row.test_steps] if row.test_steps > 1 else []
        parts += ["--pool", row.pool] if row.pool != "pad" else []
        for name, value in (("precision", "float32"), ("backend", "mxnet")):
            chosen = getattr(self._options, name)
            parts += [f"--{name}", chosen] if chosen != value else []
        return shlex.join(map(str, [*parts, "--output", self._folder]))

    def outcome(self) -> Outcome:
        """Return the verdict on the scores, computed or found."""
        inputs = RunInputs(self._evaluation())
        record = self._finished(inputs) or self._evaluate()
        scores = {name: record.scores.get(name, math.nan) for name in self._row.values}
        # There are none where no image could be tested.
        ours = {name: score for name, score in scores.items() if not math.isnan(score)}
        tolerances = self._tolerances(record, inputs.samples) if ours else {}
        verdict, reasons = self._verdict(record, ours, tolerances)
        return Outcome(
            self._row,
            verdict,
            (*reasons, *self._plan.doubts, *self._plan.notes),
            ours=ours,
            tolerances=tolerances,
            data_root=self._data_root,
            weights=self._weights,
            weights_md5=record.weights[0]["md5"],
            command=self.command,
        )

    def _verdict(
        self, record: RunRecord, ours: Mapping[str, float], allowed: Mapping[str, Tolerance]
    ) -> tuple[str, tuple[str, ...]]:
        broken = record.num_broken
        if broken:
            first = record.broken[0]["error"]
            reason = f"{broken} of {record.num_images} images could not be tested: {first}"
            return "failed", (reason,)
        if self._plan.doubts:
            return "unverified", ()
        far = [
            f"{METRIC_NAMES[name]} {abs(ours[name] - value):.2f} "
            f"{'above' if ours[name] > value else 'below'} the published {self._row.printed(name)}"
            for name, value in self._row.values.items()
            if not abs(ours[name] - value) <= allowed[name].total
        ]
        return ("differs", tuple(far)) if far else ("reproduced", ())

    def _finished(self, inputs: RunInputs) -> RunRecord | None:
        """Return the record of a complete run with just these settings, if the folder holds one."""
        if self._options.overwrite:
            return None
        try:
            record = load_run(self._folder).record
        except (OSError, ValueError) as error:  # to be gone on with, or damaged: made again
            _log.debug("%s: %s", self._row.name, error)
            return None
        has_the_rule = record.absent_classes in ("", inputs.dataset.absent_classes)
        is_the_same = record.is_finished_with(inputs.settings) and has_the_rule
        return record if is_the_same and self._can_be_judged() else None

    def _can_be_judged(self) -> bool:
        if self._label.task != "segmentation":
            return True
        try:
            known = has_near_ties(load_image_counts(self._folder))
        except (OSError, ValueError):
            known = False
        if not known:
            _log.warning(
                "%s: tested again: the run in %s did not count near ties (an older version's does "
                "not), and how far its score may lie from the published one follows from them",
                self._row.name,
                self._folder,
            )
        return known

    def _evaluation(self, **others: Any) -> ClassificationOptions | SegmentationOptions:
        options, row = self._options, self._row
        common: dict[str, Any] = {
            "weights": (self._weights,),
            "data_root": self._data_root,
            "output": self._folder,
            "test_scales": self._scales,
            "split": row.split,
            "test_flipping": row.test_flipping,
            "pool": row.pool,
            "precision": options.precision,
            "backend": options.backend,
            "batch_images": options.batch_images,
            "prefetch_threads": options.prefetch_threads,
            "resume": not options.overwrite,
            "overwrite": options.overwrite,
            **others,
        }
        if self._label.task == "classification":
            return ClassificationOptions(**common, test_3crops=row.test_3crops)
        return SegmentationOptions(**common, test_steps=row.test_steps, near_ties=True)

    def _evaluate(self) -> RunRecord:
        """Return the record of the test, computed or gone on with."""
        options = self._evaluation(devices=self._options.devices())
        if isinstance(options, ClassificationOptions):
            return classification.evaluate_classification(options).record
        return segmentation.evaluate_segmentation(options).record

    def _tolerances(self, record: RunRecord, samples: list[Sample]) -> dict[str, Tolerance]:
        if self._label.task == "segmentation":
            numerics = pixel_tolerances(
                load_image_counts(self._folder), absent_classes=record.absent_classes
            )
            cause = "pixels near a tie"
        else:
            numerics, cause = self._ties(samples), "near ties"
        exact = rounding(self._row.decimals)
        return {name: Tolerance(exact, numerics[name], cause) for name in self._row.values}

    def _ties(self, samples: list[Sample]) -> dict[str, float]:
        mean = mean_probabilities(self._folder, self._scales)
        tested = np.isfinite(mean).all(axis=1)
        truth = np.array([sample.label for sample in samples])
        return tie_tolerances(mean[tested], truth[tested])

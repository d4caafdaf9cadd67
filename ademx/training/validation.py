"""Validation while training: checkpoints are tested as `ademx evaluate` does, the best is kept.

The best is that of the highest mean IoU, or the lowest top-1 error, in percent; of equal ones the
earliest. `<label>_best.params` is a copy of its checkpoint, and `<label>_best.json` holds its
epoch, metric and score, and all that `scores.json` has of a test.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ademx.errors import InputError, MissingFile, UserError
from ademx.files import copy_file, md5, write_json
from ademx.logs import logged_from
from ademx.metrics import MAIN_METRICS, better_direction
from ademx.options import differences
from ademx.published import METRIC_NAMES
from ademx.testing.checks import find_dataset
from ademx.testing.evaluate import evaluate
from ademx.testing.options import (
    ClassificationOptions,
    EvaluationOptions,
    SegmentationOptions,
    default_test_scale,
)
from ademx.testing.record import RunRecord
from ademx.testing.session import RunInputs
from ademx.training.checkpoints import best_paths
from ademx.training.options import SegmentationTrainOptions, TrainOptions
from ademx.training.progress import METRICS_FILE, Progress, parse_line
from ademx.training.stop_signal import Interrupted, StopSignal
from iters.lists import find_samples

_SPLIT = "val"
# What two tests may differ in and still be compared.
_INCOMPARABLE = ("weights_md5", "backend")

_log = logging.getLogger(__name__)


def check_validation(options: TrainOptions) -> None:
    """Raise, before anything is trained, unless there is what the options want to test on.

    Raises:
        ValueError: the dataset does not fit the label, or the split has no labels.
        FileNotFoundError: the split is not there.
    """
    dataset = find_dataset(options.label, options.dataset)
    listed = options.validate_list_file
    try:
        samples = find_samples(dataset, options.data_root, _split_of(options), list_file=listed)
    except MissingFile as error:
        told = str(error).replace("with --list-file", "with --validate-list-file")
        raise MissingFile(f"--validate-every: {told}") from None
    if samples[0].label is None:
        raise InputError(
            f"--validate-every: the samples of {listed or _split_of(options)} have no "
            "labels to be tested by"
        )


def _split_of(options: TrainOptions) -> str:
    """Return the split to test on: val, of COCO that of the year that is trained on."""
    of_the_year = options.split.replace("train", _SPLIT)
    splits = find_dataset(options.label, options.dataset).splits
    return of_the_year if of_the_year in splits else _SPLIT


@dataclass(frozen=True)
class _Best:
    """The best so far: its epoch, its score in percent, and how it was tested.

    Attributes:
        num_broken: images that could not be read: with more of them no other is better.
        settings: of the test.
    """

    epoch: int
    score: float
    num_broken: int
    settings: Mapping[str, Any]


class Validator:
    """Tests the checkpoints of one run and keeps the best.

    Args:
        options: of the run.
        progress: takes the scores.
        num_batches: updates in an epoch.

    Attributes:
        is_unfinished: a signal came during the last test, which is made when the run is resumed.
    """

    def __init__(self, options: TrainOptions, progress: Progress, *, num_batches: int) -> None:
        self._options, self._progress, self._num_batches = options, progress, num_batches
        self._label = str(options.label)
        self._metric = MAIN_METRICS[options.task]
        self._best = self._read_best()
        self._failed: list[int] = []
        self.is_unfinished = False

    def validate(self, epoch: int, weights: Path, stop: StopSignal) -> None:
        """Test the weights after an epoch, unless that was done so before the run was resumed.

        What goes wrong is logged and listed in `metrics.jsonl`, and ends nothing.

        Args:
            epoch: complete epochs.
            weights: their checkpoint.
            stop: a signal ends the test, whose scores are dropped.
        """
        update = epoch * self._num_batches
        try:
            tested = _test_options(self._options, weights, self._folder)
            if self._is_done(update, tested):
                return
            # What a test says of itself when it starts is the same every time.
            with stop.interrupting(), logged_from(logging.WARNING, "ademx.testing"):
                if stop.agreed:
                    raise Interrupted
                record = evaluate(tested).record
                if math.isnan(record.scores[self._metric]):
                    raise InputError(f"none of {record.num_broken} images could be used")
                told = self._keep_if_best(epoch, weights, record)
        except Interrupted:
            self.is_unfinished = True
            _log.warning("epoch %d is not validated; --resume does it first", epoch)
        except Exception as error:
            found = str(error) or type(error).__name__
            expected = isinstance(error, (UserError, OSError))
            _log.error(
                "the validation after epoch %d failed, training goes on: %s",
                *(epoch, found),
                exc_info=not expected,
            )
            self._failed.append(epoch)
            self._progress.write("val", update, {}, error=found)
        else:
            scores = {self._metric: record.scores[self._metric], **record.scores}
            facts = {"broken": [one.error for one in record.broken]} if record.broken else {}
            self._progress.write("val", update, scores, **facts)
            _log.info("epoch %d: %s", epoch, told)

    def tell_end(self) -> None:
        """Log which epoch was the best, and which could not be tested."""
        if self._failed:
            _log.warning(
                "not validated: epoch %s; %s says why",
                *(", ".join(map(str, self._failed)), self._options.output / METRICS_FILE),
            )
        if self._best is not None:
            path, _ = best_paths(self._options.output, self._label)
            _log.info("the best is %s: %s", self._best_text(self._best), path)

    @property
    def _folder(self) -> Path:
        """Where a test leaves its files, in place of those of the test before."""
        return self._options.output / f"{self._label}_{_SPLIT}"

    def _is_done(self, update: int, options: EvaluationOptions) -> bool:
        """Return whether there is a score of these updates, of a test as the best was tested."""
        path = self._options.output / METRICS_FILE
        lines = map(parse_line, path.read_bytes().splitlines())
        return any(
            line["update"] == update and line.get("kind") == "val" and "error" not in line
            for line in lines
        ) and (
            self._best is None or self._best.settings == _comparable(RunInputs(options).settings)
        )

    def _keep_if_best(self, epoch: int, weights: Path, record: RunRecord) -> str:
        """Keep weights that are better than the best so far; return what was found, in words."""
        score, settings = record.scores[self._metric], _comparable(record.settings.as_json)
        now = _Best(epoch, score, record.num_broken, settings)
        before = self._best
        if before is not None and before.settings != now.settings:
            _log.warning(
                "the best so far was tested in another way (%s): it is replaced",
                differences(self._options, before.settings, now.settings),
            )
            before = None
        told = f"val {METRIC_NAMES[self._metric]} {now.score:.2f} %"
        if before is not None and not self._is_better(now, before):
            return f"{told}; the best is still {self._best_text(before)}"
        path, facts = best_paths(self._options.output, self._label)
        copy_file(weights, path)
        head = {"epoch": epoch, "metric": self._metric, "score": now.score}
        write_json(facts, {**head, **record.to_json()})
        self._best = now
        return f"{told}, the best so far"

    def _is_better(self, one: _Best, other: _Best) -> bool:
        sign = better_direction(self._metric)
        return one.num_broken <= other.num_broken and sign * one.score > sign * other.score

    def _best_text(self, best: _Best) -> str:
        return f"that of epoch {best.epoch}, {METRIC_NAMES[self._metric]} {best.score:.2f} %"

    def _read_best(self) -> _Best | None:
        """Return the best of the runs before; None where a part of it is missing or damaged."""
        path, facts = best_paths(self._options.output, self._label)
        if not path.is_file() and not facts.is_file():
            return None
        try:
            found = json.loads(facts.read_bytes())
            if found["weights"][0]["md5"] != md5(path):
                raise InputError(f"{path.name} is another file")
            facts_of_test = int(found["num_broken"]), _comparable(found["settings"])
            return _Best(int(found["epoch"]), float(found["score"]), *facts_of_test)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            _log.warning("%s: passed over: %s", facts, error)
            return None


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a test's settings that its scores can only be compared by."""
    return {name: value for name, value in settings.items() if name not in _INCOMPARABLE}


def _test_options(
    options: TrainOptions, weights: Path, output: Path
) -> ClassificationOptions | SegmentationOptions:
    """Return how a checkpoint is tested: as by `ademx evaluate`, on the training's devices."""
    scale = default_test_scale(options.label, options.dataset)
    kind: type[EvaluationOptions] = ClassificationOptions
    of_task: dict[str, Any] = {}
    if isinstance(options, SegmentationTrainOptions):
        kind, scale = SegmentationOptions, options.origin_size or scale
        of_task["save_results"] = options.validate_labels
    return kind(  # type: ignore[return-value]
        weights=(weights,),
        data_root=options.data_root,
        output=output,
        test_scales=options.validate_scales or (scale,),
        model=str(options.label),
        dataset=options.dataset,
        split=_split_of(options),
        list_file=options.validate_list_file,
        choose_interp_method=options.choose_interp_method,
        exif=options.exif,
        pool=options.pool,
        backend=options.engine,
        compile=False,  # each checkpoint is another network to PyTorch
        devices=options.devices,
        prefetch_threads=max(EvaluationOptions.prefetch_threads, options.prefetch_threads),
        overwrite=True,
        **of_task,
    )

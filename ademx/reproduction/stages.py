"""Recipes trained: the stages of `RECIPES` one after another, resumable."""

from __future__ import annotations

import dataclasses
import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ademx.errors import InputError, MissingFile
from ademx.files import copy_file, md5
from ademx.options import command_line
from ademx.published import RELEASED_FILES
from ademx.reproduction.inputs import FoundInput, find_data, find_weights
from ademx.reproduction.options import RecipeOptions
from ademx.reproduction.recipes import Stage
from ademx.training import checkpoints
from ademx.training.options import TrainOptions
from ademx.training.resume import find_finished
from ademx.training.run import train

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedStage:
    """A stage that is ready to train, or what keeps it from that.

    Attributes:
        options: of the training.
        problems: what is missing or not known to be the published; see
            :class:`ademx.reproduction.inputs.FoundInput`.
        is_possible: whether nothing is missing.
        finished: the weights, where an earlier call has trained this stage.
    """

    options: TrainOptions
    problems: tuple[str, ...]
    is_possible: bool
    finished: Path | None

    @property
    def result(self) -> Path:
        """The weights that the stage ends with."""
        options = self.options
        return checkpoints.epoch_path(options.output, str(options.label), options.last_epoch)

    @property
    def command(self) -> str:
        """The same training by `ademx train`."""
        options = dataclasses.replace(self.options, resume=True, overwrite=False)
        return shlex.join(["ademx", "train", options.task, *command_line(options)])


def plan_stages(options: RecipeOptions) -> list[PlannedStage]:
    """Return a recipe's stages with what was found of their data and weights."""
    planned: dict[str, PlannedStage] = {}
    for stage in options.stages():
        weights = FoundInput(None)
        if stage.weights in planned:
            weights = FoundInput(planned[stage.weights].result)
        elif stage.weights is not None:
            weights = find_weights(stage.weights, [stage.weights], options.places)
        planned[stage.label] = _plan_stage(stage, weights, options)
    return list(planned.values())


def _plan_stage(stage: Stage, weights: FoundInput, options: RecipeOptions) -> PlannedStage:
    path, problems = weights.path, weights.problems
    is_possible = path is not None or stage.weights is None
    if stage.weights is not None and path is None:
        path = options.places.models / f"{stage.weights}_ep-0001.params"
    if weights.is_own:
        _log.warning("%s", *problems)
        problems = ()
    root = options.places.proposed_root(stage.dataset)
    train_options = dataclasses.replace(stage.options, weights=path, data_root=root)
    finished = find_finished(train_options) if is_possible and not options.overwrite else None
    if finished is not None:
        return PlannedStage(train_options, problems, True, finished)
    data = find_data(stage.dataset, train_options.split, options.places)
    if data.path is not None:
        train_options = dataclasses.replace(train_options, data_root=data.path)
    is_possible = is_possible and data.path is not None
    return PlannedStage(train_options, (*problems, *data.problems), is_possible, None)


def differences_from_recipe(options: RecipeOptions) -> list[str]:
    """Return in what a training departs from the recipe, with the rate of the linear rule.

    The linear rule has the learning rate grow with the batch. The rate is never changed by it.
    """
    lines = []
    for recipe, stage in zip(options.row.stages, options.stages()):
        lines += _stage_differences(recipe, stage, options)
    return list(dict.fromkeys(lines))


def _stage_differences(recipe: Stage, stage: Stage, options: RecipeOptions) -> list[str]:
    lines = []
    wanted, ours = recipe.options, stage.options
    ruled = wanted.base_lr * ours.batch_images / wanted.batch_images
    if ours.batch_images != wanted.batch_images:
        line = f"batch {ours.batch_images} instead of {wanted.batch_images}: the linear rule gives"
        first = options.row.stages[0].options
        rate = first.base_lr * ours.batch_images / first.batch_images
        same = math.isclose(ours.base_lr, ruled, rel_tol=1e-6)
        advice = "" if same else f", by --base-lr {rate:g}; the rate is {ours.base_lr:g}"
        lines.append(f"{stage.label}: {line} {ruled:g}{advice}")
    elif not math.isclose(ours.base_lr, wanted.base_lr, rel_tol=1e-6):
        lines.append(f"{stage.label}: rate {ours.base_lr:g} instead of {wanted.base_lr:g}")
    count = options.devices.count if options.devices else None
    if None not in (count, recipe.num_devices) and count != recipe.num_devices:
        meaning = {
            "classification": "BatchNorm takes the statistics of a device's images",
            "segmentation": "OHEM chooses among the pixels of a device's images",
        }[ours.task]
        devices = "1 device" if count == 1 else f"{count} devices"
        lines.append(
            f"{devices} instead of {recipe.num_devices}: {meaning}; the linear rule asks for no "
            "other rate, which follows the batch alone"
        )
    if ours.crop_size != wanted.crop_size:
        lines.append(
            f"crop {ours.crop_size} instead of {wanted.crop_size}: no rule makes up for it"
        )
    if ours.to_epoch != wanted.to_epoch:
        epochs = "1 epoch" if ours.to_epoch == 1 else f"{ours.to_epoch} epochs"
        lines.append(f"{stage.label}: {epochs} instead of {wanted.to_epoch}: a trial")
    if ours.width != 1:
        lines.append(f"width {ours.width:g} instead of 1: a trial")
    return lines


def train_recipe(options: RecipeOptions, stages: Sequence[PlannedStage]) -> tuple[Path, int | None]:
    """Train stages in order, but those that are finished, and put the weights among the models.

    Args:
        options: the same that the stages were planned with.
        stages: what :func:`plan_stages` gave.

    Returns:
        The newest weights, and the number of the signal that stopped the training or None. A
        training that came to its end has left its weights in the folder of models.

    Raises:
        FileNotFoundError: data or weights are missing.
        ValueError: they are not known to be the published ones and `unverified` is not set; the
            weights would replace others; or as :func:`ademx.training.run.train`.
        OSError: see there too.
        ademx.training.saving.TrainingDiverged: the loss became nan.
    """
    _check_inputs(options, stages)
    target = _target_path(options, stages[-1])
    for number, stage in enumerate(stages, start=1):
        label = stage.options.label
        if stage.finished is not None:
            _log.info("stage %d of %d: %s is done", number, len(stages), label)
            continue
        _log.info("stage %d of %d: %s: `%s`", number, len(stages), label, stage.command)
        report = train(stage.options)
        last = number == len(stages)
        stopped_by = report.signal if last else report.signal or report.late_signal
        if stopped_by is not None:
            return report.params_path or stage.result, stopped_by
    if not target.is_file() or md5(target) != md5(stages[-1].result):
        copy_file(stages[-1].result, target)
    return target, None


def _check_inputs(options: RecipeOptions, stages: Sequence[PlannedStage]) -> None:
    problems = dict.fromkeys(problem for stage in stages for problem in stage.problems)
    text = "\n  ".join((f"{options.recipe} cannot be trained:", *problems))
    if not all(stage.is_possible for stage in stages):
        raise MissingFile(text)
    if problems and not options.unverified:
        raise InputError(f"{text}\n  --unverified trains all the same")


def _target_path(options: RecipeOptions, last: PlannedStage) -> Path:
    """Return where the weights go, before weeks are spent on what may not go there."""
    models = options.places.models
    target = models / last.result.name
    if target.name in RELEASED_FILES:
        raise InputError(
            f"the weights would be called {target.name}, as a released file is: choose another "
            "number of --epochs"
        )
    is_ours = last.result.is_file() and target.is_file() and md5(last.result) == md5(target)
    if target.exists() and not is_ours and not options.overwrite:
        raise InputError(
            f"{target}: holds other weights, which these would replace: move it away, or give "
            "--overwrite"
        )
    models.mkdir(parents=True, exist_ok=True)
    return target

"""Cityscapes' further scores, by the benchmark's own tool: iIoU, and both by category.

The instance-level IoU weighs each pixel of an object by the mean size of its class's objects over
its own, so that large objects do not decide. Categories are groups of classes, such as vehicles.

Source: Cordts et al., "The Cityscapes Dataset", CVPR 2016, §4.1; `cityscapesscripts`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ademx.compat import import_optional, usable_cores
from ademx.errors import InputError, MissingDependency
from ademx.iteration import prefetched, progress_bar
from iters.decode import BrokenImage, decode_numbers, image_size

_log = logging.getLogger(__name__)

_TOOL = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"


def further_scores(predictions: Mapping[Path, Path]) -> dict[str, Any] | None:
    """Return what Cityscapes' own tool finds beyond the IoU of each class.

    Where the tool is not installed, or its files are not there, one line of the log says what to
    do: without the instances' files there is no iIoU.

    Args:
        predictions: label image of the truth -> that of the prediction, both in label ids.

    Returns:
        Percent, nan where the tool gives none: "mean_category_iou" and "category_iou"; "mean_iiou"
        and "class_iiou", of the classes that have instances; "mean_category_iiou" and
        "category_iiou", of their categories. None where nothing could be found.
    """
    try:
        tool = _import_tool()
        missing = _without_instances(predictions)
        if missing:
            _log.warning(
                "no iIoU: %d of %d labels, such as %s, lack the file of their instances, with "
                "instanceIds for labelIds in its path: unpack *_instanceIds.png of "
                "gtFine_trainvaltest.zip, then run this command with --resume, which adds it",
                *(len(missing), len(predictions), missing[0]),
            )
        return _official_scores(tool, predictions, has_instances=not missing)
    except (MissingDependency, InputError) as error:
        _log.warning("no iIoU and no IoU of categories: %s", error)
        return None


def can_be_added(found: Mapping[str, Any] | None, truths: Iterable[Path]) -> bool:
    """Return whether :func:`further_scores` now finds more than it did, without the log's line."""
    try:
        _import_tool()
    except (MissingDependency, InputError):
        return False
    return found is None or ("class_iiou" not in found and not _without_instances(truths))


def score_tables(
    found: Mapping[str, Any], class_iou: Mapping[str, float | None]
) -> dict[str, list[tuple[str, float | None, float | None]]]:
    """Return what to show of :func:`further_scores`: "class" and "category" -> rows.

    Args:
        found: the scores, also as `scores.json` has them.
        class_iou: percent, of each class.

    Returns:
        Name, IoU and iIoU, percent, None where there is none; the last row is the mean. Of the
        classes these are the ones that have instances.
    """
    tables = {}
    iious = found.get("class_iiou", {})
    if iious:
        tables["class"] = [(name, class_iou.get(name), iiou) for name, iiou in iious.items()]
        tables["class"].append(("mean", None, found["mean_iiou"]))
    iious = found.get("category_iiou", {})
    tables["category"] = [
        (name, iou, iious.get(name)) for name, iou in found["category_iou"].items()
    ]
    means = (found["mean_category_iou"], found.get("mean_category_iiou"))
    tables["category"].append(("mean", *means))
    return tables


def _import_tool() -> ModuleType:
    try:
        return import_optional(
            _TOOL,
            "they are computed by Cityscapes' own tool: run `pip install 'ademx[cityscapes]'`, "
            "then this command with --resume, which adds them",
        )
    except ValueError as error:  # CITYSCAPES_EXPORT_DIR is no folder
        raise InputError(str(error)) from error


def _without_instances(truths: Iterable[Path]) -> list[Path]:
    """Return the labels whose instances are not where the tool looks for them.

    For a label of another name it would take the label itself.
    """
    return [one for one in truths if _instances_of(one) == one or not _instances_of(one).is_file()]


def _instances_of(truth: Path | str) -> Path:
    """Return the file of a label's instances; the tool replaces the word all over the path."""
    return Path(str(truth).replace("labelIds", "instanceIds"))


def _official_scores(
    tool: Any, predictions: Mapping[Path, Path], *, has_instances: bool
) -> dict[str, Any]:
    """Return the tool's scores, percent.

    Raises:
        InputError: the tool refuses a file.
    """
    settings = argparse.Namespace(**vars(tool.args))
    settings.evalInstLevelScore = has_instances
    settings.evalPixelAccuracy = False
    confusion, instances = tool.generateMatrix(settings), tool.generateInstanceStats(settings)
    pairs = [(str(predicted), str(truth)) for truth, predicted in predictions.items()]
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        progress_bar(total=len(pairs), unit="image", desc="official tool") as bar,
    ):
        try:
            count = partial(_count_pair, tool, settings)
            for _, counted in prefetched(pairs, count, threads=usable_cores() or 1):
                confusion += counted[0]
                _add(instances, counted[1])
                bar.update()
        except SystemExit:  # is how the tool ends at a file that it cannot use
            first = said.getvalue().strip().partition("\n")[0]  # of what several threads met
            raise InputError(f"Cityscapes' own tool says: {first}") from None
    kinds = {
        "category_iou": {
            name: tool.getIouScoreForCategory(name, confusion, settings)
            for name, labels in tool.category2labels.items()
            if not all(label.ignoreInEval for label in labels)
        }
    }
    if has_instances:
        kinds["class_iiou"] = {
            name: tool.getInstanceIouScoreForLabel(
                tool.name2label[name].id, confusion, instances, settings
            )
            for name in instances["classes"]
        }
        kinds["category_iiou"] = {
            name: tool.getInstanceIouScoreForCategory(name, confusion, instances, settings)
            for name in instances["categories"]
        }
    found: dict[str, Any] = {}
    for kind, scores in kinds.items():
        found[f"mean_{kind.removeprefix('class_')}"] = 100 * tool.getScoreAverage(scores, settings)
        found[kind] = {name: 100 * score for name, score in scores.items()}
    return found


def _count_pair(tool: Any, settings: argparse.Namespace, pair: tuple[str, str]) -> tuple[Any, Any]:
    """Return the confusion matrix of a prediction and its truth, and the counts of instances.

    Raises:
        InputError: the tool would stumble over the instances' file, or count others than it means.
    """
    if settings.evalInstLevelScore:
        _check_instances(tool, Path(pair[1]))
    confusion, instances = tool.generateMatrix(settings), tool.generateInstanceStats(settings)
    tool.evaluatePair(*pair, confusion, instances, {}, settings)
    return confusion, instances


def _check_instances(tool: Any, truth: Path) -> None:
    path = _instances_of(truth)
    try:
        numbers = decode_numbers(path.read_bytes())
    except (BrokenImage, OSError) as error:
        raise InputError(f"{path}: {error}") from error
    size = image_size(truth.read_bytes())
    unknown = {int(label) for label in np.unique(numbers) // 1000} - tool.id2label.keys()
    if numbers.shape != size or unknown:
        found = "×".join(map(str, numbers.shape[::-1])) + " pixels"
        found += f" with instances of label id {min(unknown)}" if unknown else ""
        raise InputError(
            f"{path}: {found}, expected {size[1]}×{size[0]} of Cityscapes' label ids: unpack "
            "gtFine_trainvaltest.zip again, then run this command with --resume"
        )


def _add(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add the counts of some instances to others."""
    for kind, names in part.items():
        for name, counts in names.items():
            for key, value in counts.items():
                if key != "labelIds":
                    total[kind][name][key] += value

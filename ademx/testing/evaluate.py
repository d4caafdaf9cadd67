"""A test by its options alone: of either task, new, gone on with, or finished before."""

from __future__ import annotations

import logging

from ademx.errors import UserError
from ademx.testing import classification, segmentation
from ademx.testing.finished_runs import load_run
from ademx.testing.image_counts import load_image_counts
from ademx.testing.options import ClassificationOptions, SegmentationOptions
from ademx.testing.record import RunRecord
from ademx.testing.session import RunInputs

_log = logging.getLogger(__name__)


def evaluate(options: ClassificationOptions | SegmentationOptions) -> RunRecord:
    """Return the record of a test; one that is finished is not computed again, but by overwriting.

    Raises:
        ValueError, FileNotFoundError: as :func:`ademx.testing.segmentation.evaluate_segmentation`
            and :func:`ademx.testing.classification.evaluate_classification`.
    """
    finished = _finished(options) if options.resume else None
    if finished is not None:
        return finished
    if isinstance(options, ClassificationOptions):
        return classification.evaluate_classification(options).record
    return segmentation.evaluate_segmentation(options).record


def _finished(options: ClassificationOptions | SegmentationOptions) -> RunRecord | None:
    """Return the record of a complete run with just these options, if the folder holds one."""
    inputs = RunInputs(options)
    try:
        record = load_run(options.output).record
    except (UserError, OSError) as error:  # to be gone on with, or damaged: made again
        _log.debug("%s: %s", options.output, error)
        return None
    if not record.is_finished_with(inputs.settings):
        return None
    if isinstance(options, SegmentationOptions):
        rule = options.absent_classes or inputs.dataset.absent_classes
        if record.absent_classes != rule:
            return None
        if options.near_ties and not load_image_counts(options.output).has_near_ties:
            _log.warning(
                "%s: tested again: the run in it did not count near ties (an older version's does "
                "not), and how far its score may lie from the published one follows from them",
                options.output,
            )
            return None
    return record

"""A test by its options alone: of either task, new, gone on with, or finished before."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from ademx.errors import UserError
from ademx.testing.cityscapes import can_be_added
from ademx.testing.classification import ClassificationTester
from ademx.testing.finished_runs import load_run
from ademx.testing.image_counts import load_image_counts
from ademx.testing.options import ClassificationOptions, SegmentationOptions
from ademx.testing.record import Report, record_file
from ademx.testing.segmentation import SegmentationTester
from ademx.testing.session import RunInputs
from iters.samples import Sample

_log = logging.getLogger(__name__)


def evaluate(options: ClassificationOptions | SegmentationOptions) -> Report:
    """Test weights on a split, write what is found under `options.output`, return the report.

    A test that is finished is not computed again, but by overwriting. Images that cannot be read
    are left out, named in the log and listed in the report.

    Raises:
        ValueError, FileNotFoundError: see :class:`ademx.testing.session.Session`, and
            :mod:`ademx.testing.submissions` for what is made of a test split.
        MissingDependency: the CRF's library is not installed.
    """
    finished = _finished(options) if options.resume else None
    if finished is not None:
        _log.info("%s: finished before: nothing is computed again", options.output)
        return finished
    if isinstance(options, ClassificationOptions):
        return ClassificationTester(options).test()
    return SegmentationTester(options).test()


def _finished(options: ClassificationOptions | SegmentationOptions) -> Report | None:
    """Return the report of a complete run with just these options, if the folder holds one."""
    try:
        record = load_run(options.output).record
    except (UserError, OSError) as error:  # to be gone on with, or damaged: made again
        _log.debug("%s: %s", options.output, error)
        return None
    inputs = RunInputs(options)
    if record.num_broken or record.settings.as_json != inputs.settings:
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
        if inputs.dataset.name == "cityscapes" and options.save_results:
            truths = [one.label for one in inputs.samples if isinstance(one.label, Path)]
            if can_be_added(record.cityscapes, truths):
                return None
    if not _is_as_recorded(options, inputs.samples):
        return None
    return Report(options.output, record, inputs.dataset, inputs.samples)


def _is_as_recorded(
    options: ClassificationOptions | SegmentationOptions, samples: Sequence[Sample]
) -> bool:
    """Return whether neither a result nor a label image has changed since the scores were written.

    A label image that an archive or a copy brought may have an old time, but not of its arrival.
    """
    labels = [sample.label for sample in samples if isinstance(sample.label, Path)]
    try:
        written = record_file(options.output).stat().st_mtime_ns
        results = [path.stat() for path in _results(options)]
        arrivals = [label.stat().st_ctime_ns for label in labels]
    except OSError:
        return False
    whole = all(one.st_size or stat.S_ISDIR(one.st_mode) for one in results)
    return whole and max(arrivals + [one.st_mtime_ns for one in results], default=0) < written


def _results(options: ClassificationOptions | SegmentationOptions) -> Iterator[Path]:
    """Yield a run's files for images, and their folders, whose times tell of what was removed."""
    for folder in options.folders(has_labels=True):
        yield options.output / folder
        yield from (options.output / folder).rglob("*")

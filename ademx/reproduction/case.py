"""A row whose score is another one, with what can be read of its test."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from ademx.iteration import spread
from ademx.metrics import MAIN_METRICS, better_direction, confusion_matrix, segmentation_scores
from ademx.published import Result
from ademx.reproduction.retest import Handful
from ademx.testing.finished_runs import FinishedRun, load_run
from ademx.testing.options import ClassificationOptions, SegmentationOptions
from ademx.testing.record import RunRecord
from iters.datasets import DATASETS, VOID, Dataset, decode_label
from iters.decode import image_size
from iters.images import load_label
from iters.lists import find_samples
from iters.samples import Sample
from iters.sources import read_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IMAGES = 50  # whose sizes and labels are read
_BORDER = 5  # pixels across, which VOC's void borders are


class Case:
    """A row whose score is another one, with what its test read and left.

    Attributes:
        row: the published row.
        ours: metric -> our score, percent.
        record: of the test.
        options: of the test.
        dataset: of the row.
        samples: those that were tested.
    """

    def __init__(
        self,
        row: Result,
        ours: Mapping[str, float],
        record: RunRecord,
        options: ClassificationOptions | SegmentationOptions,
    ) -> None:
        self.row, self.ours, self.record, self.options = row, ours, record, options
        self.dataset: Dataset = DATASETS[row.dataset]
        self.samples: list[Sample] = find_samples(self.dataset, options.data_root, row.split)
        metrics = [name for name in MAIN_METRICS.values() if name in row.values]
        self.metric = metrics[0] if metrics else next(iter(row.values))

    @property
    def is_segmentation(self) -> bool:
        """Whether label images are compared."""
        return isinstance(self.options, SegmentationOptions)

    @property
    def shortfall(self) -> float:
        """How much worse than the published score ours is, points; negative where it is better."""
        difference = self.row.values[self.metric] - self.ours[self.metric]
        return better_direction(self.metric) * difference

    @cached_property
    def run(self) -> FinishedRun:
        """What the test left."""
        return load_run(self.options.output)

    @cached_property
    def handful(self) -> Handful:
        """A few images to be tested again."""
        return Handful(self.options, self.samples)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """What was taken for what: pixels or images, (C, C), rows are truth."""
        if self.is_segmentation:
            return np.array(self.record.confusion, np.int64)
        size = self.dataset.num_classes
        pairs = self.run.truth[:, 0] * size + np.asarray(self.run.guesses)
        return np.bincount(pairs, minlength=size * size).reshape(size, size)

    @cached_property
    def labels(self) -> list[tuple[Path, NDArray[np.uint8]]]:
        """Some label images, spread over the split: their files and stored ids."""
        paths = [one.label for one in spread(self.samples, at_most=_IMAGES)]
        return [(path, load_label(path)) for path in paths if isinstance(path, Path)]

    @cached_property
    def within_borders(self) -> tuple[float, float]:
        """The mean IoU of these images, and that without the pixels near a border, percent."""
        size = self.dataset.num_classes
        sums = np.zeros((2, size, size), np.int64)
        for sample, (_, stored) in zip(spread(self.samples, at_most=_IMAGES), self.labels):
            truth = decode_label(self.dataset, stored)
            found = load_label(self.options.output / "labels" / f"{sample.name}.png")
            classes, label = decode_label(self.dataset, found), Image.fromarray(truth)
            highest, lowest = (
                np.asarray(label.filter(kind(_BORDER)))
                for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter)
            )
            inner = np.where(highest == lowest, truth, VOID)
            sums += [confusion_matrix(one, classes, size) for one in (truth, inner)]
        whole, inner = (segmentation_scores(one).mean_iou for one in sums)
        return whole, inner

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of some images, spread over the split; none of RecordIO files."""
        chosen = spread(self.samples, at_most=_IMAGES)
        return [image_size(read_bytes(one.image)) for one in chosen if one.offset is None]

    def of_shortfall(self, gain: float) -> float:
        """Return how much of the shortfall a gain in points explains, 0 to 1."""
        return min(1.0, max(0.0, gain / self.shortfall)) if self.shortfall > 0 else 0.0

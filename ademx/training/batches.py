"""What a training reads: the samples of its split, and the iterator over them."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ademx.engines.trainer import Workers
from ademx.errors import InputError
from ademx.networks.graph import input_normalization, network_stride
from ademx.training.options import SegmentationTrainOptions, TrainOptions
from iters.augment_classification import ClassificationAugmentation
from iters.augment_segmentation import SegmentationAugmentation
from iters.batches import TrainingBatches
from iters.datasets import Dataset
from iters.decode import BrokenImage, image_size, is_turned
from iters.exif import Watch, orientation
from iters.lists import find_samples
from iters.samples import Sample
from iters.sources import read_bytes
from iters.variants import warn_of_labels

_LOOKED_AT = 100  # images, for EXIF data


def find_labelled_samples(options: TrainOptions, dataset: Dataset) -> list[Sample]:
    """Return the samples of the options' split.

    Raises:
        ValueError: they have no labels, or labels that the network has no class for.
        FileNotFoundError: the split is not there.
    """
    samples = find_samples(dataset, options.data_root, options.split, list_file=options.list_file)
    if samples[0].label is None:
        raise InputError(f"--split {options.split}: has no labels to train on")
    if options.task == "classification":
        worst = max(samples, key=lambda sample: sample.label)
        if worst.label >= options.label.num_classes:
            raise InputError(
                f"{worst}: class {worst.label}; {options.label} has classes 0 to "
                f"{options.label.num_classes - 1}: name a label with more, or mend the list"
            )
    warn_of_labels(dataset, samples)
    warn_of_exif(samples, options.exif)
    return samples


def warn_of_exif(samples: Sequence[Sample], rule: str) -> None:
    """Log a warning where EXIF data turn images and nobody said whether to follow them.

    Some images spread over the samples are looked at; what cannot be read is left to the iterator.
    """
    watch = Watch()
    for sample in samples[:: max(1, len(samples) // _LOOKED_AT)] if rule == "auto" else ():
        with contextlib.suppress(BrokenImage, OSError):
            encoded = read_bytes(sample.image, sample.offset)
            found = orientation(encoded)
            if found != 1:
                label = sample.label
                size = image_size(read_bytes(label)) if isinstance(label, Path) else None
                watch.note(str(sample), found, turned=is_turned(encoded, size, rule))


def make_iterator(
    options: TrainOptions, dataset: Dataset, samples: list[Sample], workers: Workers
) -> TrainingBatches:
    """Return the batches of a worker's part of the samples, as arrays of the engine."""
    label = options.label
    common = {
        "normalization": input_normalization(label),
        "choose_interp_method": options.choose_interp_method,
        "exif": options.exif,
    }
    augmentation: Any
    if isinstance(options, SegmentationTrainOptions):
        augmentation = SegmentationAugmentation(
            options.crop_size,
            origin_size=options.origin_size or dataset.origin_size,
            scale_range=options.scale_rate_range,
            stride=network_stride(label),
            dataset=dataset,
            **common,
        )
    else:
        augmentation = ClassificationAugmentation(options.crop_size, **common)
    make: type[TrainingBatches] = TrainingBatches
    if options.engine != "torch":
        make = importlib.import_module("iters.iterators").TrainingIter
    return make(
        samples,
        augmentation=augmentation,
        batch_size=options.batch_images,
        sampler=options.sampler,
        seed=options.seed,
        num_parts=workers.count,
        part_index=workers.rank,
        prefetcher=options.prefetcher,
        num_workers=options.prefetch_threads,
        max_broken=options.max_broken,
        cache_images=options.cache_images,
    )

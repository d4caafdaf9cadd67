"""What has to fit: weights to each other, a dataset to a label, outputs, labels and names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ademx.errors import InputError
from ademx.forms import differing
from ademx.labels import Label
from ademx.networks.graph import input_normalization, network_stride
from iters.datasets import Dataset
from iters.decode import BrokenImage
from iters.find_dataset import get_dataset
from iters.samples import Sample


def finite(output: np.ndarray, weights: object) -> np.ndarray:
    """Return a network's output; raise ValueError if a number of it is nan or infinite."""
    if not np.isfinite(output).all():
        raise InputError(
            f"{weights}: the network's output is nan or infinite: the weights are damaged, or not "
            "those of this label"
        )
    return output


def check_class(sample: Sample, dataset: Dataset) -> None:
    """Raise ValueError unless the class id that a list gives an image is one of the dataset's."""
    if not isinstance(sample.label, int) or not 0 <= sample.label < dataset.num_classes:
        raise InputError(
            f"{sample}: label {sample.label} in the list, but {dataset.name} has classes 0 to "
            f"{dataset.num_classes - 1}"
        )


def check_names(image: object, results: Iterable[Path]) -> None:
    """Raise BrokenImage where the files of an image's results cannot have their names."""
    for path in results:
        try:
            path.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BrokenImage(
                f"{image}: {path} cannot be written: {error.strerror}: give the image a shorter "
                "name"
            ) from error


def find_dataset(label: Label, name: str | None) -> Dataset:
    """Return the dataset of this name, or a label's own for None.

    Raises:
        ValueError: there is none, or it does not fit the label.
    """
    dataset = get_dataset(name or label.dataset)
    if dataset.task != label.task or dataset.num_classes != label.num_classes:
        raise InputError(
            f"{label} has {label.num_classes} classes for {label.task}; {dataset.name} has "
            f"{dataset.num_classes} for {dataset.task}: name a --dataset that fits"
        )
    return dataset


def check_averageable(labels: Sequence[Label]) -> None:
    """Raise ValueError unless the labels' networks take one input and their outputs one shape."""
    first = labels[0]
    for label in labels[1:]:
        for name, (ours, theirs) in differing(_shared_facts(first), _shared_facts(label)).items():
            raise InputError(
                f"weights of {first} and {label} cannot be averaged: {name} is {ours} in one "
                f"and {theirs} in the other"
            )


def _shared_facts(label: Label) -> dict[str, Any]:
    """Return what networks must have in common with a label's."""
    facts = {name: getattr(label, name) for name in ("dataset", "family", "num_classes")}
    facts["what divides the input"] = input_normalization(label).std
    if label.task == "segmentation":
        facts["output_stride"] = network_stride(label)
    return facts

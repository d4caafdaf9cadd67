"""A dataset by its name, or by the YAML file that describes it."""

from __future__ import annotations

from ademx.compat import InputError
from iters.datasets import DATASETS, Dataset


def get_dataset(name: str) -> Dataset:
    """Return the dataset of this name, or the one that a YAML file describes (own_dataset.py).

    Args:
        name: key of :data:`DATASETS`, or path of a file whose name ends in .yaml or .yml.

    Raises:
        ValueError: there is none, the message lists the names; or the file is malformed.
        FileNotFoundError: there is no such file.
    """
    if name.endswith((".yaml", ".yml")):
        from iters.own_dataset import read_dataset

        return read_dataset(name)
    if name.startswith("own-"):
        raise InputError(
            f"{name}: a dataset of your own: give the YAML file that describes it, "
            "--dataset FILE.yaml"
        )
    if name not in DATASETS:
        raise InputError(
            f"unknown dataset {name!r}: expected one of {', '.join(DATASETS)}, or a YAML file "
            "that describes your own"
        )
    return DATASETS[name]

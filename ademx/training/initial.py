"""The parameters that a training starts from: drawn, or read from a file of weights."""

from __future__ import annotations

import logging
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ademx import params
from ademx.convert.files import Reading, read_weights
from ademx.convert.layouts import is_head, missing_of_trunk
from ademx.errors import InputError
from ademx.labels import Label, label_in

Array = npt.NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]

_log = logging.getLogger(__name__)


def initial_values(shapes: Shapes, *, task: str, seed: int) -> dict[str, Array]:
    """Return a value for each parameter and moving statistic of a network.

    Weights are normal with variance 2 / fan_in. In classification the layers named `linear…`,
    weight and bias, are uniform in ±1/√fan_in instead. Gammas and variances are 1; betas, means
    and the other biases 0. A parameter's numbers depend on its name, its shape and the seed only.

    Args:
        shapes: name -> dimensions, of arguments and auxiliary states together.
        task: "classification" or "segmentation".
        seed: of the random numbers, 0 or above.

    Raises:
        ValueError: a name that ends in none of the known ways, or a negative seed.

    Source: ademxapp:util/initializer.py, TorchXavier_Linear.
    """
    if seed < 0:
        raise InputError(f"seed {seed}: expected 0 or above")
    return {name: _initial_value(name, shapes, task, seed) for name in shapes}


def _initial_value(name: str, shapes: Shapes, task: str, seed: int) -> Array:
    shape, kind = shapes[name], name.rpartition("_")[2]
    uniform = task == "classification" and name.startswith("linear")
    if kind in ("gamma", "var"):
        return np.ones(shape, np.float32)
    if kind in ("beta", "mean") or (kind == "bias" and not uniform):
        return np.zeros(shape, np.float32)
    if kind not in ("weight", "bias"):
        raise InputError(f"no initial value for {name!r}: expected …_weight, _bias, _gamma, …")
    fan_in = int(np.prod(shapes[re.sub("_bias$", "_weight", name)][1:]))
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if uniform:
        bound = fan_in**-0.5
        return random.uniform(-bound, bound, shape).astype(np.float32)
    return random.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_in))


def load_weights(
    path: Path, label: Label, shapes: Shapes, *, reading: Reading | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Return a file's parameters for a network, by name; new layers are not among them.

    New layers are those of the head (`linear…`, `conv6a`) that the file has not, or has with
    another shape, and the last normalisation where the file has none; only a file of another
    label may lack any. Head layers of the file that the network has not are left out.

    Args:
        path: a `.params`, `.pth` or `.safetensors` file in any layout.
        label: the network's label.
        shapes: name -> dimensions of the network's parameters and moving statistics.
        reading: what the file does not say of itself.

    Raises:
        ademx.params.CheckpointMismatch: anything else is missing, misshapen or unexpected.
        ValueError, FileNotFoundError: it cannot be read.
    """
    found = read_weights(path, label=label, reading=reading, complete=False).parameters
    new: list[str] = []
    if not same_label(path, label):
        found = {
            name: value
            for name, value in found.items()
            if not is_head(name) or shapes.get(name) == value.shape
        }
        new = missing_of_trunk(shapes, found)
    params.check_parameters(shapes, found, source=str(path), allow_missing=new)
    params.check_finite(found, source=str(path))
    if new:
        _log.info("%s: new layers, drawn at random: %s", path.name, ", ".join(new))
    return found


def same_label(path: Path, label: Label) -> bool:
    """Return whether a file's name says that it is a checkpoint of this label."""
    return str(label_in(path)) == str(label)

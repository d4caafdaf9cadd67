"""What the predictors of all engines have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ademx.devices import Devices
from ademx.errors import InputError
from ademx.gpus import Capability, find_gpus
from symbols.levels import check_choice

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")

# What a backend computes on GPUs; on CPUs all compute the same.
ON_GPUS = {"mxnet": ("float32", "float16"), "torch": PRECISIONS}
_ON_CPUS = ("float32", "bfloat16")
# The compute capability from which a GPU has a precision.
# Source: CUDA C++ Programming Guide, Arithmetic Instructions, and Tensor Cores by capability.
_LEAST: dict[str, Capability] = {"float16": (5, 3), "bfloat16": (8, 0), "tf32": (8, 0)}


def check_precision(precision: str, devices: Devices, *, backend: str) -> None:
    """Raise ValueError for a precision that the devices do not have by the backend.

    Args:
        precision: one of :data:`PRECISIONS`.
        devices: where to compute.
        backend: "mxnet" or "torch".
    """
    check_choice("precision", precision, PRECISIONS)
    if not devices.gpus:
        if precision not in _ON_CPUS:
            raise InputError(f"--precision {precision}: CPUs compute {' and '.join(_ON_CPUS)} only")
        return
    possible = ON_GPUS[backend]
    if precision not in possible:
        raise InputError(
            f"--precision {precision}: MXNet computes {' and '.join(possible)} on GPUs; choose one "
            "of them, or --backend torch"
        )
    least = _LEAST.get(precision, (0, 0))
    for gpu in find_gpus():
        if gpu.number in devices.gpus and gpu.capability and gpu.capability < least:
            raise InputError(
                f"--precision {precision}: {gpu} lacks it, which needs {least[0]}.{least[1]} or "
                f"above: use {'float32' if precision == 'float16' else 'float16 or float32'}"
            )


def check_gpus(devices: Devices, available: int, *, engine: str, why: str = "") -> None:
    """Raise ValueError for a GPU that is not among those that an engine finds available."""
    if min(devices.gpus) < 0 or max(devices.gpus) >= available:
        raise InputError(
            f"--gpus {','.join(map(str, devices.gpus))}: {engine} finds {available} GPUs "
            f'here{why}; use --gpus "" for the CPU'
        )


class SharingPredictor:
    """Shares images out over devices: what the predictors of all backends have in common.

    Attributes:
        starts: one function a device; it starts computing images and returns what waits for the
            output.
    """

    starts: Sequence[Callable[[np.ndarray], Callable[[], np.ndarray]]]

    def __call__(self, images: np.ndarray, *, batch: int) -> np.ndarray:
        """Return the network's output for images of any number.

        Args:
            images: (N, 3, H, W) float32, normalised.
            batch: images that one device computes at a time.

        Returns:
            (N, classes) or (N, classes, H/s, W/s) float32 probabilities.
        """
        chunks = [images[start : start + batch] for start in range(0, len(images), batch)]
        outputs: list[np.ndarray] = []
        for first in range(0, len(chunks), len(self.starts)):
            # A device computes while Python goes on: start every one, then wait for each.
            waits = [start(chunk) for start, chunk in zip(self.starts, chunks[first:])]
            outputs.extend(wait() for wait in waits)
        return np.concatenate(outputs)

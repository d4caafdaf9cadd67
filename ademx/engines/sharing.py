"""What the predictors of all engines have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

PRECISIONS = ("float32", "bfloat16")


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

"""What an update finds in a classifier's output, by plain NumPy."""

from __future__ import annotations

import numpy as np


def classifier_sums() -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return (50, 10) float32 probabilities, 50 labels, and loss, top1, top5 and count of them."""
    random = np.random.default_rng(0)
    scores = random.random((50, 10)).astype(np.float32)
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    labels = random.integers(0, 10, 50)
    order = np.argsort(-probabilities, axis=1)
    sums = [
        -np.log(probabilities[range(50), labels]).sum(),
        (order[:, 0] == labels).sum(),
        (order[:, :5] == labels[:, None]).any(axis=1).sum(),
        50,
    ]
    return probabilities, labels, sums

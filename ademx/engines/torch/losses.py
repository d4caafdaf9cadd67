"""What scores are to learn, and what an update is judged by: as MXNet's output layers do it.

Gradients are with respect to the scores and written out, so that autograd begins below the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from symbols.learning import IGNORE_LABEL, OHEM_MIN_KEPT, OHEM_THRESH

# Keeps the logarithm of a probability that underflowed finite, and lets a nan through.
_TINY = 1e-37
_NEVER = 2.0


def classification_gradient(probabilities: Tensor, label: Tensor) -> Tensor:
    """Return the gradient of the sum of cross-entropies.

    Args:
        probabilities: (N, C) float32.
        label: (N,) int64.
    """
    return probabilities.scatter_add(1, label[:, None], -torch.ones_like(probabilities[:, :1]))


def pixel_gradient(
    probabilities: Tensor,
    label: Tensor,
    *,
    loss: str,
    thresh: float = OHEM_THRESH,
    min_kept: int = OHEM_MIN_KEPT,
) -> Tensor:
    """Return the gradient of the mean cross-entropy over the pixels that count on this device.

    Args:
        probabilities: (N, C, H, W) float32.
        label: (N, H·W) int64; 255 never counts.
        loss: "softmax", where all other pixels count, or "ohem", where the hard ones do, see
            :func:`symbols.ohem_softmax`.
        thresh: of "ohem".
        min_kept: of "ohem".
    """
    flat = probabilities.flatten(2)
    kept = label != IGNORE_LABEL
    index = (label * kept)[:, None]
    if loss == "ohem":
        true = flat.gather(1, index)[:, 0]
        # Above any probability stands for a pixel that must not be kept.
        true = torch.where(kept, true, _NEVER)
        kept = kept & (true <= _threshold(true.flatten(), thresh, min_kept))
    gradient = flat.scatter_add(1, index, -torch.ones_like(flat[:, :1]))
    # `where`, since nan times 0 would be nan.
    gradient = torch.where(kept[:, None], gradient, 0.0) / kept.sum().clamp(min=1)
    return gradient.reshape(probabilities.shape)


def _threshold(true: Tensor, thresh: float, min_kept: int) -> float | Tensor:
    """Return the probability up to which pixels are kept: all where there are few."""
    if min_kept == 0:
        return thresh
    if len(true) < min_kept:
        return _NEVER
    return true.kthvalue(min_kept).values.clamp(min=thresh)


def classification_sums(probabilities: Tensor, label: Tensor) -> Tensor:
    """Return loss, top-1, top-5 and labels, summed, as (4,)."""
    true = probabilities.gather(1, label[:, None])
    rank = (probabilities > true).sum(1)
    return _stacked(-(true + _TINY).log(), rank < 1, rank < 5, torch.ones_like(rank))


def pixel_sums(probabilities: Tensor, label: Tensor) -> Tensor:
    """Return loss, correct pixels, 0 and valid labels, summed, as (4,)."""
    flat = probabilities.flatten(2)
    valid = label != IGNORE_LABEL
    true = flat.gather(1, (label * valid)[:, None])[:, 0]
    correct = (flat.amax(1) == true) & valid
    loss = torch.where(valid, -(true + _TINY).log(), 0.0)
    return _stacked(loss, correct, torch.zeros_like(true), valid)


def _stacked(*values: Tensor) -> Tensor:
    return torch.stack([value.sum().float() for value in values])

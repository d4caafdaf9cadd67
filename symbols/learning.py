"""How a network learns besides its layers: losses, multipliers and statistics. Loads no MXNet."""

from __future__ import annotations

from dataclasses import dataclass

from symbols.levels import LOSSES, check_choice

IGNORE_LABEL = 255

# OHEM of the Cityscapes recipe.
OHEM_THRESH = 0.6
OHEM_MIN_KEPT = 256

# (learning rate, weight decay) multipliers of weights and gammas, and of biases and betas.
_MULTIPLIERS = {
    "none": ((1.0, 1.0), (1.0, 0.0)),
    "alex": ((1.0, 1.0), (2.0, 0.0)),
    "alex10": ((10.0, 1.0), (20.0, 0.0)),
}
MULTIPLIERS = tuple(_MULTIPLIERS)


@dataclass(frozen=True)
class Learning:
    """How a network learns.

    Attributes:
        loss: "softmax", or for segmentation "ohem".
        multipliers: "none", "alex" (biases and betas: lr ×2) or "alex10" (everything 10 times as
            fast as "alex"); biases and betas never decay.
        frozen_statistics: BatchNorm uses its moving statistics in training too.

    Source: the multipliers are attributes of the variables in the release's graphs.
    """

    loss: str
    multipliers: str
    frozen_statistics: bool

    def of(self, name: str) -> tuple[float, float]:
        """Return the multipliers of learning rate and weight decay of a parameter, by its name."""
        weights, biases = _MULTIPLIERS[self.multipliers]
        return biases if name.endswith(("_bias", "_beta")) else weights


def get_learning(
    task: str,
    *,
    loss: str = "softmax",
    multipliers: str | None = None,
    frozen_statistics: bool | None = None,
) -> Learning:
    """Return how a network learns.

    Args:
        task: "classification" or "segmentation".
        loss: see :class:`Learning`.
        multipliers: see :class:`Learning`; by default "none" for classification and "alex" for
            segmentation.
        frozen_statistics: see :class:`Learning`; by default only in segmentation.

    Raises:
        ValueError: an unknown loss or multipliers.
    """
    segmentation = task == "segmentation"
    multipliers = multipliers or ("alex" if segmentation else "none")
    check_choice("multipliers", multipliers, MULTIPLIERS)
    check_choice(
        *(("loss", loss, LOSSES) if segmentation else ("loss of classification", loss, LOSSES[:1]))
    )
    frozen = segmentation if frozen_statistics is None else frozen_statistics
    return Learning(loss, multipliers, frozen)

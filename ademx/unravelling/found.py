"""What is found of a network, and what its numbers mean."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

# Of the sum of the norms of all lengths.
DEPTH_SHARE = 0.95
# Of what the first unit's branch receives.
STARVED_SHARE = 0.01

DEFINITION = (
    "the smallest length d for which the lengths 0 to d have 95 % "
    "of the sum of `norm` over all lengths"
)
DEFINITIONS = {
    "loss": "cross-entropy of an image, the mean over its labelled cells; the mean over images. "
    "Targets are the labels, or the most probable classes where there are none",
    "length": "number of units whose branch a path takes; it takes the shortcut of the others. A "
    "projection is a shortcut; BatchNorm and ReLU before it are part of both ways",
    "norm": "Euclidean norm of an image's gradient of its loss with respect to the input of the "
    "first unit, summed over all paths of the length; the mean over images",
    "mean_path_norm": "the same of a single path, the mean over paths and images",
    "standard_error": "of mean_path_norm over the paths that were drawn; 0 where all were walked, "
    "null where only one was",
    "share": "of the sum of `norm` over all lengths",
    "received": "norm of the gradient at the output of a unit's branch, along all paths; the mean "
    "over images",
    "units_starved": "units whose branch receives less than 1 % of what that of "
    "the first unit does",
    "sum_error": "norm of the difference between the sum over lengths and the ordinary gradient, "
    "as a fraction of the latter's; the worst image",
}


@dataclass(frozen=True)
class LengthRow:
    """A length of paths; see :data:`DEFINITIONS`. What was not measured is None."""

    length: int
    paths: int
    norm: float
    mean_path_norm: float | None
    standard_error: float | None
    share: float


@dataclass(frozen=True)
class UnitRow:
    """What the branch of a unit receives; see :data:`DEFINITIONS`."""

    unit: str
    received: float


@dataclass(frozen=True)
class LesionRow:
    """What comes of a change: the loss and the error, a fraction, and how they moved."""

    units: tuple[str, ...]
    loss: float
    loss_change: float
    error: float
    error_change: float


@dataclass(frozen=True)
class Lesions:
    """What comes of leaving out a unit's branch, and of exchanging neighbours."""

    without_branch: tuple[LesionRow, ...]
    exchanged: tuple[LesionRow, ...]


@dataclass(frozen=True)
class Unravelling:
    """What was found of a network; see :data:`DEFINITIONS`.

    Attributes:
        error: fraction of images, or labelled cells, whose most probable class is not the target.
        settings: of which network, at what, and how.
    """

    units: int
    loss: float
    error: float
    gradient_norm: float
    sum_error: float
    effective_depth: int
    lengths: tuple[LengthRow, ...]
    units_starved: tuple[str, ...]
    received: tuple[UnitRow, ...]
    lesions: Lesions | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all of it with its definitions."""
        values = dataclasses.asdict(self)
        settings = values.pop("settings")
        return {
            **values,
            "definition": DEFINITION,
            "definitions": DEFINITIONS,
            "settings": settings,
        }

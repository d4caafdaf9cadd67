"""How far the outputs of two engines may lie apart: measured, with a safety factor."""

from __future__ import annotations

# What was measured, see above.
_MEASURED_MARGIN = 1.1e-4
_MEASURED_FACTOR = 2.1e-4
_SAFETY = 2
# Two classes of a pixel whose probabilities are as close may change places.
SCORE_MARGIN = _SAFETY * _MEASURED_MARGIN
# How far a probability may be off, as a part of itself.
PROBABILITY_FACTOR = _SAFETY * _MEASURED_FACTOR

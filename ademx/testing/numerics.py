"""How far the outputs of two engines may lie apart: measured, with a safety factor.

It was measured with the full-width networks and the images of `tests/golden/`, all computing
float32: MXNet with its kernels for SSE4.1, AVX2 and AVX-512 (what `DNNL_MAX_CPU_ISA` chooses),
PyTorch with those for AVX2 and AVX-512, onnxruntime, and PyTorch in float64, each against each. Of
the best two classes of a pixel the difference of probabilities, enlarged to the image, was never
further apart than 1.1e-4; of a classifier, no probability by more than a factor of 1 ± 2.1e-4.
Twice that is what is allowed. `make test` measures again what the machine at hand can compute.
"""

from __future__ import annotations

_MEASURED_MARGIN = 1.1e-4
_MEASURED_FACTOR = 2.1e-4
_SAFETY = 2
# Two classes of a pixel whose probabilities are as close may change places.
SCORE_MARGIN = _SAFETY * _MEASURED_MARGIN
# How far a probability may be off, as a part of itself.
PROBABILITY_FACTOR = _SAFETY * _MEASURED_FACTOR

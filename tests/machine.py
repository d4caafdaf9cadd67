"""What a test needs of the machine that not every machine has."""

import pytest

from ademx.compat import mxnet_has_bfloat16

needs_bfloat16 = pytest.mark.skipif(
    not mxnet_has_bfloat16(), reason="MXNet computes bfloat16 with AVX-512 only"
)

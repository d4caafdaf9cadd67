"""Synchronous workers, each as late as it likes: what they add up is known beforehand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("mxnet")

sys.path.append(str(Path(__file__).parent.parent / "tools"))

from faults_dist import one_run


@pytest.mark.parametrize("workers", [2, 3])
def test_sums_and_weights_are_right_however_late_anyone_is(workers):
    assert one_run(workers, seed=1, updates=150) == ""

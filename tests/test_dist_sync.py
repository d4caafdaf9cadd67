"""Synchronous workers, each as late as it likes: what they add up is known beforehand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("mxnet")

sys.path.append(str(Path(__file__).parent.parent / "tools"))

from faults_processes import stress


@pytest.mark.parametrize("workers", [2, 3])
def test_sums_and_weights_are_right_however_late_anyone_is(tmp_path, workers):
    ended = stress(tmp_path, workers, seed=1, updates=150)  # raises what was wrong
    assert ended.status == 0

"""`tools/bench.py params` and `convert`: figures of a narrow file, whose numbers survive."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ademx import params

pytest.importorskip("mxnet")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def bench(monkeypatch):
    """Return the module, whose weights are an eighth as wide as A1's."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import bench_weights

    from ademx.networks.graph import parameter_shapes

    narrow = parameter_shapes(bench_weights.LABEL, width=0.125)
    monkeypatch.setattr(bench_weights, "parameter_shapes", lambda label: narrow)
    return bench_weights


def test_reading_is_measured(bench):
    with bench.weights_file() as path:
        found = bench.measure_reading(path, repeats=1)
        assert found["file_mb"] == path.stat().st_size / 1e6
        assert found["arrays"] == len(params.load(path)[0]) + len(params.load(path)[1])
    assert found["list_ms"] > 0 and found["load_ratio"] > 0
    assert found["load_ratio"] == pytest.approx(found["load_ms"] / found["mxnet_ms"])
    assert set(bench.READING_LIMITS) <= set(found)


def test_converting_is_measured_and_keeps_every_number(bench, monkeypatch):
    # A process of its own imports PyTorch for seconds; the test of reading has one.
    monkeypatch.setattr(bench, "in_own_process", lambda function, *given: function(*given))
    with bench.weights_file() as path:
        before = params.load(path)
        found = bench.measure_converting(path, repeats=1)
        # Written from the .pth file, which was written from the first one.
        after = params.load(path.parent / "a1.params")
        state = torch.load(path.parent / "a1.pth", weights_only=True)
    assert {"b2.conv_branch2a.weight", "linear1000.weight"} <= state.keys()
    for ours, theirs in zip(after, before):
        assert set(ours) == set(theirs)
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array, err_msg=name)
    assert set(bench.CONVERTING_LIMITS) <= set(found)
    assert found["pth_to_params_ratio"] == pytest.approx(
        found["pth_to_params_ms"] / found["bytes_ms"]
    )

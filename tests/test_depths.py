"""`tools/depths.py`: networks at about one cost, and a table of what came of them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from commands import make_runner

from symbols.levels import RN_NETWORKS

pytest.importorskip("mxnet")
TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def depths(monkeypatch):
    """Return the tool, whose networks leave the table afterwards."""
    monkeypatch.syspath_prepend(str(TOOLS))
    known = set(RN_NETWORKS)
    yield importlib.import_module("depths")
    sys.modules.pop("depths")
    for variant in set(RN_NETWORKS) - known:
        del RN_NETWORKS[variant]


def test_width_costs_about_what_depth_does(depths):
    plan = depths.plan()
    for kind in ("plain", "residual"):
        deep = [blocks for k, grows, blocks, _ in plan if (k, grows) == (kind, "depth")]
        wide = [width for k, grows, _, width in plan if (k, grows) == (kind, "width")]
        assert deep == [1, 2, 4, 8]
        for blocks, width in zip(deep[1:], wide):
            by_depth = depths.cost(depths.label_of(kind, blocks), 1.0).macs
            by_width = depths.cost(depths.label_of(kind, 1), width).macs
            assert 0.8 < by_width / by_depth < 1.25


def test_the_table_has_what_the_json_file_has(depths, monkeypatch, tmp_path):
    monkeypatch.setattr(depths, "DEPTHS", (1,))
    file, picture = tmp_path / "rows.json", tmp_path / "rows.png"
    options = ("--images", 30, "--epochs", 1, "--json", file, "--plot", picture)
    result = make_runner().invoke(depths.main, [*map(str, options)])
    assert result.exit_code == 0, result.exception
    plain, residual = json.loads(file.read_text())
    assert (plain["units"], plain["effective_depth"]) == (0, None)
    assert residual["units"] == 3 >= residual["effective_depth"] > 0
    assert plain["parameters"] == residual["parameters"]  # shortcuts have none
    for row, line in zip((plain, residual), result.stdout.splitlines()[1:]):
        assert line.startswith(row["kind"])
        assert f"{100 * row['error']:.1f}" in line.split()
    assert picture.read_bytes().startswith(b"\x89PNG")

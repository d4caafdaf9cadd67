"""`tools/bench.py networks`: what it prints of a narrow network, and what it says of the claim."""

import json
import math
from pathlib import Path

import pytest
from commands import make_runner

from ademx.networks.summary import load_graph

TOOLS = Path(__file__).parents[1] / "tools"
A, RESNET = "ilsvrc-cls_rna-a_cls1000", "ilsvrc-cls_rn-152_cls1000"


@pytest.fixture
def bench(monkeypatch):
    """Return the module, imported as `tools/bench.py` imports it."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import bench_networks

    return bench_networks


def test_a_narrow_network_is_measured(bench, tmp_path):
    pytest.importorskip("mxnet")
    spec, file = "rna-56-0-1-1-1-1-1-1", tmp_path / "table.json"
    options = ["--networks", spec, "--engines", "mxnet", "--width", "0.0625", "--batch", "2"]
    result = make_runner().invoke(bench.networks, [*options, "--repeat", "1", "--json", str(file)])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(file.read_text())["rows"]
    assert row["error"] == ""
    layers = load_graph(spec, batch=2, width=0.0625).layers
    parameters = [one for layer in layers for one in layer.parameters().items()]
    total = sum(math.prod(shape) for name, shape in parameters if "_moving_" not in name)
    assert row["parameters"] == total
    # The stem and the top, two convolutions on levels 2 to 5, three on levels 6 and 7.
    assert row["depth"] == 2 + 4 * 2 + 2 * 3
    assert row["planned_bytes"] > 3 * 4 * total and row["measured_bytes"] > 0
    assert row["train_images_s"] > 0 and row["test_images_s"] > 0
    (line,) = [line for line in result.stdout.splitlines() if line.startswith(spec)]
    assert f"{total / 1e6:.1f} M" in line and "mxnet" in line


def test_the_claim_is_computed_from_the_table(bench):
    def row(label, engine, memory, speed):
        facts = {"depth": 1, "parameters": 1, "macs": 1, "device": "cpu", "engine": engine}
        return bench.Measured(
            "any", label, **facts, measured_bytes=memory, train_images_s=speed, test_images_s=1.0
        )

    rows = [row(A, "mxnet", 600, 3.0), row(RESNET, "mxnet", 1000, 2.0)]
    rows += [row(A, "torch", 900, 1.0), row(RESNET, "torch", 600, 2.0)]
    _, mxnet, torch = bench.claims(rows)
    assert mxnet == "mxnet on cpu: 0.60 of its memory (holds), 1.50 times as fast (holds)"
    assert torch == (
        "torch on cpu: 1.50 of its memory (does not hold), 0.50 times as fast (does not hold)"
    )
    assert "--networks a,rn-152" in bench.claims(rows[:1])[1]
    assert bench.claims([rows[0], row(RESNET, "mxnet", None, 2.0)])[1].endswith("not measured")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--networks", "a,rn-9"], "unknown network rn-9: choose one of rn-plain34"),
        (["--engines", "jax"], "--engines jax: is not an engine"),
        (["--devices", "gpu"], '--devices gpu: expected "cpu" or the number of a GPU'),
        (["--json", "nowhere/table.json"], "there is no folder nowhere"),
    ],
)
def test_mistakes_are_explained(bench, options, message):
    import bench as tool

    result = make_runner().invoke(tool.main, ["networks", *options])
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.stderr.split())

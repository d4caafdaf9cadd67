"""`ademx summary`: costs against arithmetic by hand, the table, the JSON and the drawing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from commands import make_runner
from PIL import Image

import ademx
from ademx.cli import main

mx = pytest.importorskip("mxnet")

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from bench_process import peak_of  # noqa: E402

from ademx.engines.mxnet.memory import inference_memory, training_memory  # noqa: E402
from ademx.networks.drawing import draw  # noqa: E402
from ademx.networks.summary import full_label, load_graph, summarise  # noqa: E402

needs_dot = pytest.mark.skipif(not shutil.which("dot"), reason="graphviz's dot is not installed")

# Multiply-adds of Model A1 at 224 × 224: positions × (weights of the level), by hand.
A1_MACS = {
    "stem": 224**2 * 27 * 64,
    "2": 112**2 * (64 * 128 + 9 * 64 * 128 + 5 * 9 * 128**2),
    "3": 56**2 * (128 * 256 + 9 * 128 * 256 + 5 * 9 * 256**2),
    "4": 28**2 * (256 * 512 + 9 * 256 * 512 + 11 * 9 * 512**2),
    "5": 14**2 * (512 * 1024 + 9 * 512**2 + 3 * 9 * 512 * 1024 + 2 * 9 * 1024 * 512),
    "6": 7**2 * (1024 * 2048 + 1024 * 512 + 9 * 512 * 1024 + 1024 * 2048),
    "7": 7**2 * (2048 * 4096 + 2048 * 1024 + 9 * 1024 * 2048 + 2048 * 4096),
    "top": 4096 * 1000,
}


def summary_of(label, **choices):
    return summarise(load_graph(label, **choices))


def run(*arguments):
    return make_runner().invoke(main, ["summary", *map(str, arguments)])


def test_operations_of_model_a1_by_hand():
    result = summary_of("a1")
    assert {level.name: level.macs for level in result.levels} == A1_MACS
    assert result.macs == sum(A1_MACS.values())
    assert result.macs == pytest.approx(49.5e9, rel=1e-3)


def test_rows_of_model_a1():
    rows = {
        level.name: (level.output_size, level.channels, level.blocks, level.dilations)
        for level in summary_of("a1").levels
    }
    assert rows == {
        "stem": ((224, 224), 64, 0, (1,)),
        "2": ((112, 112), 128, 3, (1,)),
        "3": ((56, 56), 256, 3, (1,)),
        "4": ((28, 28), 512, 6, (1,)),
        "5": ((14, 14), 1024, 3, (1,)),
        "6": ((7, 7), 2048, 1, (1,)),
        "7": ((7, 7), 4096, 1, (1,)),
        "top": ((1, 1), 1000, 0, ()),
    }


def test_rows_of_the_dilated_network():
    graph = load_graph("voc_rna-a1_cls21_s8")
    result = summarise(graph)
    assert graph.input_shape == (1, 3, 504, 504)
    assert result.macs == pytest.approx(580e9, rel=1e-3)
    found = {level.name: (level.output_size[0], level.dilations) for level in result.levels[3:]}
    assert found == {
        "4": (63, (1,)),
        "5": (63, (1, 2)),
        "6": (63, (4,)),
        "7": (63, (4,)),
        "top": (63, (12,)),
    }


@pytest.mark.parametrize("label", ["a", "b", "rn-34a", "rn-50", "voc_rna-a1_cls21_s8"])
def test_parameters_are_those_of_the_symbol(label):
    symbol = ademx.build_symbol(full_label(label))
    arguments, _, auxiliary = symbol.infer_shape(data=(1, 3, 64, 64))
    sizes = dict(zip(symbol.list_arguments(), map(np.prod, arguments)))
    result = summary_of(label)
    assert result.parameters == sum(sizes.values()) - sizes["data"] - sizes["softmax_label"]
    assert result.auxiliary == sum(map(np.prod, auxiliary))


@pytest.mark.parametrize(
    ("label", "depth"),
    [("a1", 38), ("b", 34), ("c", 20), ("rn-34a", 34), ("rn-152", 152)]
    # The released segmentation top has one layer more than the classifier.
    + [("voc_rna-a1_cls21_s8", 39)],
)
def test_depth_is_the_longest_path(label, depth):
    assert summary_of(label).depth == depth


def test_activations_by_hand():
    # Stem: 64 channels. Level 2: the first BatchNorm and ReLU at full size; then per block of two
    # convolutions 4 BatchNorms and ReLUs, 2 convolutions and the sum, and once the projection.
    result = summary_of("a1", batch=3)
    stem, level_2, *_ = result.levels
    assert stem.activation_bytes == 4 * 3 * 64 * 224**2
    assert level_2.activation_bytes == 4 * 3 * (2 * 64 * 224**2 + (3 * 7 - 2 + 1) * 128 * 112**2)
    assert result.activation_bytes == sum(level.activation_bytes for level in result.levels)


def test_operations_and_activations_grow_with_the_batch_and_parameters_do_not():
    one, four = summary_of("rn-50"), summary_of("rn-50", batch=4)
    assert (four.macs, four.activation_bytes) == (4 * one.macs, 4 * one.activation_bytes)
    assert four.parameters == one.parameters


def test_mxnet_allocates_about_two_thirds_of_all_activations():
    shape = {"data": (2, 3, 96, 96)}
    symbol = ademx.build_symbol("ilsvrc-cls_rna-c_cls10", width=0.5)
    executor = symbol.simple_bind(mx.cpu(), grad_req="write", **shape)
    (allocated,) = re.findall(r"Total (\d+) MB allocated", executor.debug_str())
    result = summary_of("ilsvrc-cls_rna-c_cls10", input_size=(96, 96), batch=2, width=0.5)
    assert 0.55 < int(allocated) / (result.activation_bytes / 2**20) < 0.75


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("a1", "ilsvrc-cls_rna-a1_cls1000"),
        ("rna-b", "ilsvrc-cls_rna-b_cls1000"),
        ("rn-50", "ilsvrc-cls_rn-50_cls1000"),
        ("224-0-1-1-1-1-1-1", "ilsvrc-cls_rna-224-0-1-1-1-1-1-1_cls1000"),
        ("voc_rna-a1_cls21_s8", "voc_rna-a1_cls21_s8"),
    ],
)
def test_bare_names_are_imagenet_networks(name, label):
    assert full_label(name) == label


@pytest.mark.parametrize(
    ("label", "choices", "message"),
    [
        ("d", {}, "unknown network rna-d: choose one of rna-a, "),
        ("a1", {"input_size": (0, 224)}, r"input \(0, 224\): expected positive numbers"),
        ("a1", {"batch": 0}, "batch 0, input .*: expected positive numbers"),
        ("a", {"input_size": (8, 8), "pool": "caffe"}, "an input of 8x8 pixels is too small"),
    ],
)
def test_what_cannot_be_counted_is_refused(label, choices, message):
    with pytest.raises(ValueError, match=message):
        load_graph(label, **choices)


def test_the_command_prints_one_aligned_row_a_level():
    result = run("a1")
    assert result.exit_code == 0
    first, second, _, *table = result.stdout.splitlines()
    assert first == "ilsvrc-cls_rna-a1_cls1000: released"
    assert second == "depth 38, input 1×3×224×224"
    table = table[: table.index("")]
    assert len({len(row) for row in table}) == 1
    assert [row.split()[0] for row in table] == ["level", *A1_MACS, "total"]
    assert table[-1].split() == ["total", "17", "109,167,912", "47,744", "49.519", "326.5", "MiB"]


@pytest.mark.parametrize(
    ("label", "mark"),
    [
        ("b", "RECONSTRUCTED from the paper, not released"),
        ("c", "RECONSTRUCTED from the paper, not released"),
        ("a2", "drawn in the release, which has no code for it"),
        ("rn-50", "baseline"),
        ("56-1-1-1-1-1-1-1", "built from a block spec"),
    ],
)
def test_the_command_says_where_a_network_comes_from(label, mark):
    assert mark in run(label).stdout.splitlines()[0]


def test_the_command_takes_every_choice():
    result = run(*["voc_rna-a_cls21_s16", "--input", "96x64", "--batch", "2", "--width", "0.5"])
    assert "input 2×3×96×64, width ×0.5" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert next(row for row in rows if row[:1] == ["top"])[1:3] == ["6×4", "21"]
    two_layers = run("voc_rna-a1_cls21_s8", "--head", "2conv").stdout
    assert "depth 39" in two_layers
    assert "depth 38" in run("voc_rna-a1_cls21_s8", "--head", "1conv").stdout
    assert "6×6" in run("a", "--pool", "caffe").stdout


def test_the_command_writes_json(tmp_path):
    path = tmp_path / "summary.json"
    assert run("a1", "--json", path).exit_code == 0
    written = json.loads(path.read_text())
    assert written["parameters"] == 109_167_912
    assert written["origin"] == "released"
    assert {level["name"]: level["macs"] for level in written["levels"]} == A1_MACS
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_refuses_to_replace_a_file(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text("mine")
    result = run("a1", "--json", path)
    assert result.exit_code == 1
    assert "exists: choose another name or add --overwrite" in result.stderr
    assert path.read_text() == "mine"
    assert run("a1", "--json", path, "--overwrite").exit_code == 0
    assert json.loads(path.read_text())["depth"] == 38


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["z9"], 1, "unknown network rna-z9"),
        (["mnist_rna-a1_cls10"], 1, "unknown dataset 'mnist'"),
        (["a1", "--input", "224"], 2, "expected height x width in pixels, such as 504x504"),
        (["a1", "--batch", "0"], 2, "0 is not in the range x>=1"),
        (["a1", "--plot", "no/such/folder/a1.png"], 2, "there is no folder"),
        (["a1", "--plot", "a1.gif"], 1, "picture format 'gif': choose one of pdf, png, svg"),
    ],
)
def test_the_command_fails_in_one_line(arguments, status, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == status
    assert message in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@needs_dot
@pytest.mark.parametrize(
    ("suffix", "magic"), [("pdf", b"%PDF-"), ("png", b"\x89PNG\r\n"), ("svg", b"<?xml")]
)
def test_the_command_draws_and_leaves_nothing_else(suffix, magic, tmp_path):
    path = tmp_path / f"c.{suffix}"
    result = run("c", "--plot", path)
    assert result.exit_code == 0
    assert path.read_bytes().startswith(magic)
    assert list(tmp_path.iterdir()) == [path]


@needs_dot
def test_the_drawing_is_a_tall_picture(tmp_path):
    path = tmp_path / "a1.png"
    path.write_bytes(draw(load_graph("a1"), "png"))
    with Image.open(path) as image:
        width, height = image.size
    assert height > 4 * width > 4 * 300


@needs_dot
def test_the_drawing_has_every_layer_and_size():
    svg = ElementTree.fromstring(draw(load_graph("voc_rna-a1_cls21_s8"), "svg"))
    texts = [text.text.strip() for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"data", "conv1a: 3×3, 64", "res2a_branch2a: 3×3 / 2, 128", "softmax"} <= set(texts)
    assert {"res7a_branch2b1: 3×3, 2048, dilation 4", "linear21: 3×3, 21, dilation 12"} <= set(
        texts
    )
    assert {"BatchNorm + ReLU + Dropout 0.5", "level 7", "top", "stem"} <= set(texts)
    assert texts.count("add") == 17
    # The stem, two convolutions in 15 blocks and three in 2, six projections, two on top.
    assert sum(": " in text and "×" in text for text in texts) == 1 + 2 * 15 + 3 * 2 + 6 + 2
    assert texts.count("4096×63×63") == 4  # both inputs of the last sum, and the two after it


@needs_dot
@pytest.mark.parametrize(
    ("label", "texts"),
    [
        ("a", {"pool1: max 3×3 / 2", "pool7: avg all", "linear1000: 1000"}),
        ("rn-34a", {"every second pixel", "zero padding", "add + ReLU", "conv1: 7×7 / 2, 64"}),
    ],
)
def test_the_drawing_names_the_other_layers(label, texts):
    svg = draw(load_graph(label), "svg").decode()
    assert {text for text in texts if f">{text}</text>" in svg} == texts
    assert "zeros_like" not in svg


def test_drawing_without_dot_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "c.png"
    result = run("c", "--plot", path)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert "`dot` program" in line and "apt-get install graphviz" in line
    assert not path.exists()


def test_drawing_without_the_package_says_what_to_install(monkeypatch, tmp_path):
    """It comes with MXNet, and not with PyTorch."""
    monkeypatch.setitem(sys.modules, "graphviz", None)
    result = run("c", "--plot", tmp_path / "c.png")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: drawing needs the graphviz package: run `pip install 'ademx[plot]'`\n"
    )


def peak_of_training(batch):
    """Return the peak memory, MiB, of a process that makes two updates of a narrow A1."""
    code = f"""if True:
        import re
        from pathlib import Path
        import ademx
        from ademx.compat import import_mxnet
        mx = import_mxnet()
        data, label = ("data", ({batch}, 3, 64, 64)), ("softmax_label", ({batch},))
        module = mx.mod.Module(ademx.build_symbol("ilsvrc-cls_rna-a1_cls10", width=1 / 8))
        module.bind([data], [label])
        module.init_params()
        module.init_optimizer(kvstore=None, optimizer_params={{"momentum": 0.9}})
        batch = mx.io.DataBatch([mx.nd.zeros(data[1])], [mx.nd.zeros(label[1])])
        for _ in range(2):
            module.forward_backward(batch)
            module.update()
        mx.nd.waitall()
        print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    """
    # MKL-DNN keeps copies in layouts of its own, which a GPU does not. Operators run where they
    # are called: another thread takes the next one's temporaries as early as it finds the time.
    environment = {**os.environ, "MXNET_MKLDNN_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    environment["MXNET_ENGINE_TYPE"] = "NaiveEngine"
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return int(result.stdout) / 1024


def memory_of(label, batch, *, mirror=False, **choices):
    graph = load_graph(label, batch=batch, **choices)
    return training_memory(graph, backward_do_mirror=mirror)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_predicted_memory_is_what_training_takes():
    # The difference of two batches, since a constant part is MXNet itself. 5 %: the batch is there
    # twice (2.2 %), and a plan is whole MiB (1 %); measured: 1.4 %.
    choices = {"input_size": (64, 64), "width": 1 / 8}
    small, large = (memory_of("ilsvrc-cls_rna-a1_cls10", batch, **choices) for batch in (8, 56))
    predicted = (large.total - small.total) / 2**20
    assert peak_of_training(56) - peak_of_training(8) == pytest.approx(predicted, rel=0.05)


def test_the_parts_of_training_memory_by_hand():
    memory = memory_of("a1", 2)
    assert memory.parameters == 4 * (109_167_912 + 47_744)
    assert memory.gradients == memory.momentum == 4 * 109_167_912
    assert memory.inputs == 4 * 2 * (3 * 224**2 + 1)
    assert memory.total == memory.parameters + 2 * memory.gradients + memory.inputs + memory.plan
    assert 0.55 < memory.plan / summary_of("a1", batch=2).activation_bytes < 0.75
    assert memory.workspace == 2**30


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.parametrize("plan", [training_memory, inference_memory])
def test_a_plan_fills_no_memory(plan):
    graph = load_graph("a1", batch=2)
    plan(load_graph("rn-50"))  # what MXNet loads at its first
    mx.nd.waitall()

    def planned():
        plan(graph)
        mx.nd.waitall()  # MXNet fills arrays behind one's back

    weights = 4 * summarise(graph).parameters
    assert peak_of(planned) < weights / 4


def test_a_plan_for_a_batch_that_no_machine_holds_takes_no_memory():
    memory = memory_of("voc_rna-a1_cls21_s8", 512)
    assert memory.plan > 700 * 2**30
    assert memory.plan == pytest.approx(512 * memory_of("voc_rna-a1_cls21_s8", 1).plan, rel=0.02)


def test_mirroring_is_mxnets_own_and_is_put_back(monkeypatch):
    monkeypatch.delenv("MXNET_BACKWARD_DO_MIRROR", raising=False)
    plain = memory_of("rn-50", 2).plan
    asked = memory_of("rn-50", 2, mirror=True).plan
    assert memory_of("rn-50", 2).plan == plain
    monkeypatch.setenv("MXNET_BACKWARD_DO_MIRROR", "1")
    assert memory_of("rn-50", 2).plan == asked != plain


def test_the_command_predicts_the_memory_of_training(tmp_path):
    path = tmp_path / "summary.json"
    result = run("a1", "--batch", "2", "--training", "--json", path)
    assert result.exit_code == 0
    memory = memory_of("a1", 2)
    (total,) = re.findall(r"^total +([\d,.]+) MiB$", result.stdout, re.MULTILINE)
    assert float(total.replace(",", "")) == pytest.approx(memory.total / 2**20, abs=0.05)
    written = json.loads(path.read_text())["training"]
    assert (written["plan"], written["total"]) == (memory.plan, memory.total)
    assert "training by MXNet, float32, batch of 2 on each device:" in result.stdout
    assert "training by" not in run("a1").stdout
    mirrored = run("a1", "--batch", "2", "--training", "--backward-do-mirror").stdout
    planned = memory_of("a1", 2, mirror=True).plan / 2**20
    assert re.search(rf"^activations, planned +{planned:,.1f} MiB$", mirrored, re.MULTILINE)


@pytest.mark.parametrize(
    ("installed", "choice", "planner"),
    [
        (("mxnet", "torch"), [], "mxnet"),
        (("mxnet", "torch"), ["--backend", "torch"], "torch"),
        (("torch",), [], "torch"),
        ((), [], "torch"),
    ],
    ids=str,
)
def test_the_command_plans_for_the_engine_that_trains(
    installed, choice, planner, tmp_path, monkeypatch
):
    monkeypatch.setattr("ademx.engines.backends.find_gpus", list)
    for module in ("ademx.engines.backends", "ademx.cli.summary"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: name in installed or None)
    path = tmp_path / "summary.json"
    result = run("rn-50", "--training", "--json", path, *choice)
    assert result.exit_code == 0, result.output
    assert json.loads(path.read_text())["training"]["backend"] == planner
    name = {"mxnet": "MXNet", "torch": "PyTorch"}[planner]
    assert f"training by {name}, float32" in result.stdout

"""What README says under "Contributing": the places are there, and rows alone are enough."""

from __future__ import annotations

import ast
import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from commands import make_runner, run_evaluate
from PIL import Image
from scenes import voc_scene

from ademx import labels
from ademx.cli import main
from iters import datasets, palettes
from iters.datasets import Dataset
from symbols import levels
from symbols.levels import parse_block_spec

ROOT = Path(__file__).parents[1]
LABEL = "paths_rna-d_cls3_s8"


def contributing() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.partition("\n## Contributing\n")[2].partition("\n## ")[0]


def test_every_place_that_is_named_is_there():
    named = re.findall(r"(?:`(\w+)` (?:or `(\w+)` )?of )?`([\w/]+\.py)`", contributing())
    assert {path for *_, path in named} >= {
        *("iters/datasets.py", "symbols/levels.py", "ademx/engines/backends.py"),
        *("ademx/published.py", "ademx/data/lists/write.py", "ademx/labels.py"),
    }
    for *names, path in named:
        assert (ROOT / path).is_file(), path
        for name in filter(None, names):
            module = import_module(path.removesuffix(".py").replace("/", "."))
            assert hasattr(module, name), f"{path} has no {name}"
    for folder in re.findall(r"`([\w/]+)/`", contributing()):
        assert (ROOT / folder).is_dir(), folder
    ((file, word),) = re.findall(r"(tests/\w+\.py) -k (\w+)", contributing())
    assert re.search(rf"def test\w*{word}", (ROOT / file).read_text())


def test_an_installation_has_every_package_and_file():
    (call,) = [
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    ]
    given = {word.arg: word.value for word in call.keywords}
    packages = set(ast.literal_eval(given["packages"]))
    data = ast.literal_eval(given["package_data"])
    files = [
        path.relative_to(ROOT)
        for top in ("ademx", "symbols", "iters")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    folders = {".".join(path.parent.parts) for path in files if path.name == "__init__.py"}
    assert folders == packages
    packed = {
        path.relative_to(ROOT)
        for package, patterns in data.items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert {path for path in files if path.suffix != ".py"} == packed
    assert {path.parent for path in files if path.suffix == ".py"} == {
        Path(*package.split(".")) for package in packages
    }


@pytest.fixture
def rows(monkeypatch):
    """Add the rows of a dataset and of a network, as README says."""
    dataset = Dataset(
        *("paths", "segmentation", 3),
        class_names=("ground", "path", "wall"),
        palette=palettes.VOC,
        stored_ids=(4, 2, 9),
        void_id=0,
        splits={"train": None, "val": 2},
    )
    network = parse_block_spec("d", "112-0-1-2-1-1-1-1", pooled=(4,), origin="reconstructed")
    monkeypatch.setitem(datasets.DATASETS, "paths", dataset)
    monkeypatch.setitem(labels.TASKS, "paths", "segmentation")
    monkeypatch.setitem(levels.RNA_NETWORKS, "d", network)


def run(*arguments: object):
    result = make_runner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


def test_a_row_of_a_network_is_summarised(rows, tmp_path):
    path = tmp_path / "summary.json"
    run("summary", LABEL, "--json", path)
    # By hand, kernel side² · in · out; the head's two convolutions are 3 × 3 and have biases.
    levels_2_to_5 = 9 * (64 * 128 + 128 * 128 + 128 * 256 + 3 * 256 * 256)
    levels_2_to_5 += 9 * (256 * 512 + 512 * 512 + 512 * 512 + 512 * 1024)
    bottlenecks = 1024 * 512 + 9 * 512 * 1024 + 1024 * 2048
    bottlenecks += 2048 * 1024 + 9 * 1024 * 2048 + 2048 * 4096
    projections = 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1024 + 1024 * 2048 + 2048 * 4096
    head = 9 * 4096 * 512 + 512 + 9 * 512 * 3 + 3
    # A scale and a shift for each input of a block's convolutions, and for the last output.
    normalised = 64 + 128 + (128 + 256) + (256 + 256) + (256 + 512) + (512 + 512)
    normalised += (1024 + 512 + 1024) + (2048 + 1024 + 2048) + 4096
    expected = 9 * 3 * 64 + levels_2_to_5 + bottlenecks + projections + head + 2 * normalised
    assert json.loads(path.read_text())["parameters"] == expected


def test_a_row_of_a_dataset_is_trained_on_and_tested(rows, tmp_path):
    pytest.importorskip("mxnet")
    from narrow import write_weights

    rng, stored, root = np.random.default_rng(0), np.array([4, 2, 9, 0], np.uint8), tmp_path
    truths = {}
    for split in ("train", "val"):
        lines = []
        for number in range(2):
            image, drawn = voc_scene(rng)
            name = f"{split}{number}"
            truths[name] = stored[np.where(drawn == 255, 3, drawn % 3)]
            Image.fromarray(image).save(root / f"{name}.png")
            Image.fromarray(truths[name]).save(root / f"{name}_label.png")
            lines.append(f"{name}.png\t{name}_label.png\n")
        (root / f"{split}.lst").write_text("".join(lines))
    run("data", "check", "paths", "--root", root, "--split", "val")

    weights = write_weights(tmp_path / "weights", LABEL)
    output = tmp_path / "tested"
    assert run_evaluate("segmentation", weights, root, output).exit_code == 0
    scores = json.loads((output / "scores.json").read_text())
    # What is written are stored ids; the intersection over union of each class, set by set.
    truth = np.concatenate([truths[f"val{number}"].ravel() for number in range(2)])
    paths = [output / "labels" / f"val{number}.png" for number in range(2)]
    found = np.concatenate([np.array(Image.open(path)).ravel() for path in paths])
    found = found[truth > 0]
    truth = truth[truth > 0]
    for name, value in zip(("ground", "path", "wall"), (4, 2, 9)):
        both, either = (truth == value) & (found == value), (truth == value) | (found == value)
        assert scores["class_iou"][name] == pytest.approx(100 * both.sum() / either.sum())

    run(
        *("train", "segmentation", "--model", LABEL, "--data-root", root, "--split", "train"),
        *("--width", 1 / 16, "--crop-size", 64, "--batch-images", 2, "--to-epoch", 1),
        *("--cpus", 1, "--prefetch-threads", 0, "--output", tmp_path / "trained"),
    )
    assert (tmp_path / "trained" / f"{LABEL}_ep-0001.params").is_file()

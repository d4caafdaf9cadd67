"""tools/voc.py and tools/ilsvrc.py with the command lines of the release."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from narrow import ILSVRC, VOC, write_weights
from PIL import Image
from scenes import voc_scene

from ademx.data.drawn.make import make_dataset

pytest.importorskip("mxnet")

TOOLS = Path(__file__).parent.parent / "tools"
# Options of the release that decide nothing when testing.
WITHOUT_EFFECT = ["--kvstore", "local", "--prefetcher", "process", "--backward-do-mirror"]


def run_process(tool: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, TOOLS / tool, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TOOLS.parent)},
        timeout=600,
    )


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., subprocess.CompletedProcess]:
    """Return what runs a script as Python runs one, but in this process."""

    def run_here(tool: str, *arguments: object) -> subprocess.CompletedProcess:
        command = [str(TOOLS / tool), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.syspath_prepend(TOOLS)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(command[0], run_name="__main__")
        return subprocess.CompletedProcess(command, ended.value.code or 0, *capsys.readouterr())

    return run_here


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Return a folder with two images and their val.lst for classification."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(voc_scene(rng)[0]).save(root / f"{number}.jpg")
    (root / "val.lst").write_text("0\t3\t0.jpg\n1\t999\t1.jpg\n")
    return root


def test_voc(tmp_path):
    weights = write_weights(tmp_path, VOC)
    make_dataset("voc", tmp_path / "data", images={"val": 2})
    result = run_process(
        "voc.py",
        *("--data-root", tmp_path / "data", "--output", tmp_path / "out", "--phase", "val"),
        *("--weight", weights, "--split", "val", "--test-scales", 64, "--test-flipping"),
        *("--gpus", "", "--cache-images", 0, "--save-predictions", *WITHOUT_EFFECT),
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "out" / f"{VOC}_ep-0001"
    scores = json.loads((folder / "scores.json").read_text())
    assert f"mean IoU        {scores['mean_iou']:.2f} %" in result.stdout
    assert scores["settings"]["test_flipping"] and scores["devices"] == ["cpu(0)"]
    assert len(list((folder / "labels").glob("*.png"))) == 2
    assert len(list((folder / "scores").glob("*.npz"))) == 2
    assert "voc val: 2 images" in (tmp_path / "out" / f"{VOC}_ep-0001.log").read_text()


def test_ilsvrc(run, images, tmp_path):
    label = "ilsvrc-cls_rna-a_cls1000"
    weights = write_weights(tmp_path, label)
    result = run(
        "ilsvrc.py",
        *("--data-root", images, "--output", tmp_path / "out", "--batch-images", 10),
        *("--phase", "val", "--weight", weights, "--split", "val", "--test-scales", "64,80"),
        *("--test-flipping", "--test-3crops", "--no-choose-interp-method"),
        *("--pool-top-infer-style", "caffe", "--gpus", "", *WITHOUT_EFFECT),
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "out" / f"{label}_ep-0001"
    settings = json.loads((folder / "scores.json").read_text())["settings"]
    expected = {
        "labels": [label],
        "test_scales": [64, 80],
        "pool": "caffe",
        "choose_interp_method": False,
        "test_3crops": True,
        "test_flipping": True,
    }
    assert {key: settings[key] for key in expected} == expected
    assert np.load(folder / "predictions" / "80.npy").shape == (2, 1000)


def test_defaults_are_the_releases(run, images, tmp_path):
    """The train split, at the crop's size, into a folder beside the weights."""
    weights = write_weights(tmp_path / "models", ILSVRC)
    (images / "train.lst").write_text("0\t3\t0.jpg\n")
    result = run(
        "ilsvrc.py",
        *("--data-root", images, "--phase=val", "--weights", weights, "--crop-size", 64),
        *("--gpus", "", "--debug"),
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "models" / f"{ILSVRC}_ep-0001_train"
    settings = json.loads((folder / "scores.json").read_text())["settings"]
    assert (settings["split"], settings["test_scales"]) == ("train", [64])
    assert folder.with_suffix(".log").is_file()


def test_the_folder_is_named_after_the_log_file(run, images, tmp_path):
    weights = write_weights(tmp_path / "models", ILSVRC)
    result = run(
        "ilsvrc.py",
        *("--data-root", images, "--output", tmp_path / "out", "--phase", "val"),
        *("--weights", weights, "--split", "val", "--test-scales", 64, "--gpus", ""),
        *("--log-file", "second_try.log"),
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "second_try" / "scores.json").is_file()
    assert (tmp_path / "out" / "second_try.log").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--phase", "val"], 2, "Missing option '--weights'"),
        (["--phase", "test"], 2, "invalid choice: 'test'"),
        (["--phase", "val", "--test-scales", "big"], 2, "expected whole numbers"),
    ],
    ids=str,
)
def test_wrong_usage_is_explained(run, arguments, status, message):
    result = run("voc.py", *arguments)
    assert result.returncode == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr

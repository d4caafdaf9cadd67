"""The command line of `ademx train`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import make_runner
from tiny_training import CLASSIFIER, SEGMENTER, make_data

from ademx.cli import main

TINY = ["--crop-size", "32", "--width", "0.0625", "--gpus", "", "--prefetcher", "thread"]


def run(*arguments: str):
    return make_runner().invoke(main, ["train", *arguments])


def test_help_needs_no_mxnet():
    blocked = "import sys; sys.modules['mxnet'] = None; from ademx.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", blocked, "train", "segmentation", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "--scale-rate-range" in found.stdout


def test_segmentation_as_the_release_spells_it(tmp_path):
    pytest.importorskip("mxnet")
    data = make_data(tmp_path / "data", task="segmentation")
    output = tmp_path / "output"
    result = run(
        *("segmentation", "--model", SEGMENTER, "--data-root", str(data), "--output", str(output)),
        *("--split", "train", "--batch-images", "2", "--origin-size", "48", "--lr-type", "linear"),
        *("--scale-rate-range", "0.8,1.2", "--base-lr", "0.0008", "--to-epoch", "4"),
        *("--stop-epoch", "2", "--kvstore", "local", "--prefetch-threads", "2"),
        *("--cache-images", "0", "--backward-do-mirror", "--check-start", "1", *TINY),
    )
    assert result.exit_code == 0, result.stdout + result.stderr
    path = Path(result.stdout.strip())
    assert path == output / f"{SEGMENTER}_ep-0002.params"
    assert path.is_file()
    settings = json.loads((output / "run.json").read_text())["settings"]
    assert settings["scale_rate_range"] == [0.8, 1.2]
    assert settings["loss"] == "ohem" and settings["head"] == "2conv"
    # Every fourth epoch from the first, and the last.
    assert sorted(path.name[-11:] for path in output.glob("*.params")) == [
        "0001.params",
        "0002.params",
    ]
    again = run(
        *("segmentation", "--weights", str(path), "--data-root", str(data), "--to-epoch", "2"),
        *("--output", str(output), *TINY),
    )
    assert again.exit_code == 1
    assert "from epoch 2, stop at 2, to 2" in (again.stdout + again.stderr)


def test_classification_resumes_and_steps(tmp_path):
    pytest.importorskip("mxnet")
    data = make_data(tmp_path / "data", task="classification")
    common = [
        *("classification", "--model", CLASSIFIER, "--data-root", str(data)),
        *("--list-file", str(data / "train.lst"), "--output", str(tmp_path / "out")),
        *("--batch-images", "3", "--to-epoch", "2", "--lr-type", "step", "--lr-steps", "1,3"),
        *("--sampler", "balanced", "--seed", "4", "--log-file", str(tmp_path / "log"), *TINY),
    ]
    assert run(*common).exit_code == 0
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["lr"] for line in lines if '"update", "label"' in line]
    assert rates == pytest.approx([0.1, 0.01, 0.01, 0.001])
    assert "epoch 2/2, update 4" in (tmp_path / "log").read_text()
    refused = run(*common)
    assert refused.exit_code == 1 and "--resume" in (refused.stdout + refused.stderr)
    assert run(*common, "--resume").exit_code == 0  # nothing is left to do


def test_a_loss_of_nan_is_one_message_without_traceback(tmp_path):
    pytest.importorskip("mxnet")
    data = make_data(tmp_path / "data", task="classification")
    result = run(
        *("classification", "--model", CLASSIFIER, "--data-root", str(data), "--to-epoch", "5"),
        *("--output", str(tmp_path / "out"), "--batch-images", "2", "--base-lr", "1e30", *TINY),
        *("--check-start", "5"),
    )
    assert result.exit_code == 1
    assert "Error: the loss became nan at update" in (result.stdout + result.stderr)
    assert "Traceback" not in (result.stdout + result.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--scale-rate-range", "1"], 2, "expected two numbers separated by a comma"),
        (["--lr-type", "cosine"], 2, "'cosine' is not one of"),
        (["--to-epoch", "0"], 2, "0 is not in the range"),
        (["--precision", "float16"], 1, "CPUs compute float32 and bfloat16 only"),
        (["--model", CLASSIFIER], 1, "ademx train classification"),
        (["--kvstore", "dist_sync"], 1, "ademx launch"),
        (["--gpus", "93"], 1, "--gpus 93: MXNet finds "),
    ],
)
def test_mistakes_are_explained(tmp_path, arguments, code, message):
    pytest.importorskip("mxnet")
    result = run(
        *("segmentation", "--model", SEGMENTER, "--data-root", str(tmp_path), "--to-epoch", "1"),
        *("--output", str(tmp_path / "out"), *TINY, *arguments),
    )
    assert result.exit_code == code
    assert message in " ".join((result.stdout + result.stderr).split())
    assert not (tmp_path / "out").exists()


def test_a_command_line_that_is_wrong_makes_no_log(tmp_path):
    log = ("--log-file", str(tmp_path / "logs" / "log"))
    result = run("segmentation", *log, "--data-root", str(tmp_path), "--to-epoch", "0")
    assert (result.exit_code, "0 is not in the range" in result.stderr) == (2, True)
    assert not (tmp_path / "logs").exists()

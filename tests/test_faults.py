"""The campaign of faults can find some: what it judges is wrong on purpose here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from commands import make_runner

sys.path.append(str(Path(__file__).parents[1] / "tools"))

pytest.importorskip("mxnet")  # which the stress of the workers loads

import faults
import faults_base
from faults_base import Fault, Loss, NotTried, run
from faults_work import must_be_equal, must_be_whole, results

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

PYTHON = {"program": [sys.executable, "-c"]}


def campaign(monkeypatch, tmp_path, *trials, options=()):
    """Run a campaign of faults made here; return its exit status and the file that it wrote."""
    made = [Fault(f"fault-{n}", f"thing {n}", 2, trial, 10) for n, trial in enumerate(trials)]
    monkeypatch.setattr(faults, "FAULTS", made)
    monkeypatch.setattr(faults, "measure_pace", lambda bench: None)
    output = tmp_path / "table.md"
    result = make_runner().invoke(faults.main, ["--output", str(output), *options])
    assert output.read_text().partition("\nCommit")[0] in result.stdout
    return result.exit_code, output.read_text()


def fails_to_resume(trial):
    """A run that was killed and leaves another result than an undisturbed one."""
    (trial.folder / "weights.params").write_bytes(b"after a kill")
    must_be_equal(results(trial.folder), {"weights.params": "of an undisturbed run"})


def has_a_fault_of_its_own(trial):
    raise KeyError("no such thing")


def needs_more(trial):
    raise NotTried("needs root")


def test_nothing_lost_is_exit_status_0_and_leaves_nothing(monkeypatch, tmp_path):
    folders = []
    status, text = campaign(monkeypatch, tmp_path, lambda trial: folders.append(trial.folder))
    assert status == 0
    assert "| thing 0 | 20 | 0 | nothing lost |" in text
    assert len(folders) == 2 and not any(folder.parent.exists() for folder in folders)


def test_a_loss_is_exit_status_1_and_told(monkeypatch, tmp_path):
    status, text = campaign(monkeypatch, tmp_path, lambda trial: None, fails_to_resume)
    assert status == 1
    assert "| thing 0 | 20 | 0 | nothing lost |" in text
    assert "| thing 1 | 20 | 2 | 2 losses, below |" in text
    assert "not as undisturbed: 1 different (weights.params)" in text


def test_an_error_of_the_campaigns_own_is_no_success(monkeypatch, tmp_path):
    status, text = campaign(monkeypatch, tmp_path, has_a_fault_of_its_own)
    assert status == 1 and "the campaign failed: KeyError: 'no such thing'" in text


def test_what_was_not_tried_is_said_and_no_loss(monkeypatch, tmp_path):
    status, text = campaign(monkeypatch, tmp_path, needs_more)
    assert status == 0
    assert "| thing 0 | 0 | 0 | not tried 2 of 2 times: needs root |" in text


def test_when_the_time_is_up_every_fault_has_had_a_trial(monkeypatch, tmp_path):
    tried = []
    trials = [lambda trial, n=n: tried.append((trial.number, n)) for n in range(3)]
    options = ["--seconds", "0", "--jobs", "1"]
    status, text = campaign(monkeypatch, tmp_path, *trials, options=options)
    assert status == 0 and tried == [(0, 0), (0, 1), (0, 2)]
    assert text.count("| 10 | 0 | nothing lost; not tried 1 of 2 times: the time is up |") == 3


def test_no_row_waits_for_the_end_of_another(monkeypatch, tmp_path):
    tried = []
    trials = [lambda trial, n=n: tried.append((trial.number, n)) for n in range(2)]
    campaign(monkeypatch, tmp_path, *trials, options=["--trials", "3", "--jobs", "1"])
    assert tried == [(number, fault) for number in range(3) for fault in range(2)]


def test_a_row_says_while_its_trials_are_not_all_made():
    fault = Fault("fault", "a thing", 3, lambda trial: None, 5)
    row = faults_base.judge(fault, [None, None], times=3)
    assert (row.tried, row.losses, row.remark) == (10, (), "2 of 3 trials made so far")
    assert faults_base.judge(fault, [None] * 3, times=3).remark == ""


def test_limits_grow_with_the_time_of_an_undisturbed_run(monkeypatch):
    monkeypatch.setattr(faults_base.Pace, "slowness", 1.0)
    assert faults_base.scaled(120) == 120
    faults_base.set_pace(60)
    assert faults_base.scaled(120) == 1200
    faults_base.set_pace(0.1)
    assert faults_base.scaled(120) == 120


def test_only_and_trials_choose(monkeypatch, tmp_path):
    options = ["--only", "fault-1", "--trials", "3"]
    _, text = campaign(monkeypatch, tmp_path, fails_to_resume, lambda trial: None, options=options)
    assert "thing 0" not in text and "| thing 1 | 30 | 0 |" in text


def test_what_a_command_does_wrong_is_a_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(faults_base, "_ENDING_SECONDS", 0.2)
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', '%s'])"
    with pytest.raises(Loss, match="1 processes are left"):
        run(tmp_path, [child % "import time; time.sleep(60)"], **PYTHON)
    with pytest.raises(Loss, match="ended by SIGSEGV"):
        run(tmp_path, ["import os; os.kill(os.getpid(), 11)"], **PYTHON)
    with pytest.raises(Loss, match="a traceback, exit status 1"):
        run(tmp_path, ["raise ValueError('a.lst')"], **PYTHON).must_explain("a.lst")
    with pytest.raises(Loss, match="the message names none"):
        run(tmp_path, ["import sys; sys.exit('no file')"], **PYTHON).must_explain("a.lst")
    with pytest.raises(Loss, match="exit status 0, expected 1 or 2"):
        run(tmp_path, ["pass"], **PYTHON).must_explain("a.lst")
    run(tmp_path, ["import sys; sys.exit('a.lst: empty')"], **PYTHON).must_explain("a.lst")
    assert list(tmp_path.iterdir()) == []


def test_results_are_compared_to_the_bit_but_for_the_time(tmp_path):
    (tmp_path / "scores.json").write_text('{"mean_iou": 1.5, "date": "today"}')
    np.savez(tmp_path / "images.npz", counts=np.arange(3))
    first = results(tmp_path)
    (tmp_path / "scores.json").write_text('{"date": "tomorrow", "mean_iou": 1.5}')
    must_be_equal(results(tmp_path), first)
    np.savez(tmp_path / "images.npz", counts=np.array([0, 1, 3]))
    (tmp_path / ".a.tmp").touch()
    with pytest.raises(Loss, match=r"1 left over \(.a.tmp\); 1 different \(images.npz\)"):
        must_be_equal(results(tmp_path), first)
    with pytest.raises(Loss, match=r"half-written under its name: a\.png"):
        must_be_whole({"a.png": "part"}, {"a.png": "whole"})


@pytest.mark.parametrize("kind", ["params", "safetensors", "rec", "idx", "list", "yaml"])
def test_edits_are_judged(tmp_path, kind):
    """Some hundred edits hold; a reader that lets everything pass would be caught by some."""
    trial = faults_base.Trial(faults_base.Bench(tmp_path, 0), 0, tmp_path, None)
    import faults_edits

    program = [sys.executable, faults_edits.__file__]
    ended = run(trial.folder, [kind, "0", 300, tmp_path], program=program)
    assert (ended.status, ended.stdout) == (0, ""), ended

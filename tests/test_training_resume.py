"""Trainings that are stopped and gone on with: what is refused, what is kept, what gets stuck."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_training import (
    CLASSIFIER,
    SEGMENTER,
    assert_same_bits,
    classification,
    interrupt_at,
    make_data,
    metrics,
    segmentation,
)

from ademx.errors import MissingDependency
from ademx.files import locked
from ademx.training.curves import load_runs
from ademx.training.progress import Progress, open_metrics

pytest.importorskip("mxnet")

from ademx.engines.mxnet.train import MxnetWorkers
from ademx.training import run as training
from ademx.training.run import train


@pytest.fixture
def photos(tmp_path):
    return make_data(tmp_path / "photos", task="classification")


@pytest.fixture
def scenes(tmp_path):
    return make_data(tmp_path / "scenes", task="segmentation")


# --- what may go on -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "batch_images", "cure"),
    [
        (2, 2, "updates of 2 images .*1 times 2.*of 4 .2 times 2.: give --batch-images 1,"),
        (3, 2, "of 6 .3 times 2.: give a number of workers that divides 2,"),
        (1, 3, "of 3 .1 times 3.: give --batch-images 2, or start from it by --weights"),
    ],
)
def test_updates_of_another_size_are_refused(
    photos, tmp_path, monkeypatch, count, batch_images, cure
):
    """Positions, rates and the lines of metrics.jsonl are counted in updates."""
    interrupt_at(monkeypatch, 1)
    train(classification(photos, tmp_path / "out"))
    before = (tmp_path / "out" / "metrics.jsonl").read_bytes()
    monkeypatch.undo()
    others = SimpleNamespace(count=count, rank=0, kvstore=None, synchronous=True)
    monkeypatch.setattr(training, "open_workers", lambda *_, **__: nullcontext(others))
    with pytest.raises(ValueError, match=cure):
        train(classification(photos, tmp_path / "out", resume=True, batch_images=batch_images))
    assert (tmp_path / "out" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [
        (classification, "3\t3\t3.png", "3\t2\t3.png"),
        (segmentation, "3.png\t3_label.png", "3.png\t2_label.png"),
    ],
)
def test_other_labels_of_the_same_images_are_refused(request, tmp_path, make, old, new):
    data = request.getfixturevalue({classification: "photos", segmentation: "scenes"}[make])
    train(make(data, tmp_path / "out", to_epoch=2, stop_epoch=1))
    text = (data / "train.lst").read_text()
    assert old in text
    (data / "train.lst").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match="other settings: labels_md5 was '"):
        train(make(data, tmp_path / "out", to_epoch=2, resume=True))
    (data / "train.lst").write_text(text)
    assert train(make(data, tmp_path / "out", to_epoch=2, resume=True)).epoch == 2


def test_damaged_checkpoints_are_not_started_over(photos, tmp_path):
    first = train(classification(photos, tmp_path / "out", to_epoch=1)).params_path
    before, state = first.read_bytes(), first.with_suffix(".state")
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"--resume: .*ep-0001\.state and 0 more are damaged"):
        train(classification(photos, tmp_path / "out", to_epoch=1, resume=True))
    assert first.read_bytes() == before
    state.unlink()  # as a crash before the first state is written leaves it
    train(classification(photos, tmp_path / "out", to_epoch=1, resume=True))
    assert first.read_bytes() == before and state.exists()


def test_a_folder_where_another_process_trains_is_refused(photos, tmp_path):
    output = tmp_path / "out"
    with locked(output, "--output"):
        being_written = output / f".{CLASSIFIER}_ep-0001.params.0.tmp"
        being_written.touch()
        for changes in ({"resume": True}, {"overwrite": True}, {"seed": 1}):
            with pytest.raises(ValueError, match=r"--output .*out: process \d+ on .* at work in"):
                train(classification(photos, output, **changes))
        assert being_written.exists()
    train(classification(photos, output, to_epoch=1))
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


# --- what is stuck ------------------------------------------------------------------------------


def when(condition, action) -> threading.Thread:
    """Do something in another thread once a condition holds, or after five minutes."""

    def wait():
        deadline = time.monotonic() + 300
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize(("prefetcher", "threads"), [("process", 1), ("thread", 2), ("thread", 0)])
def test_sigterm_is_obeyed_while_a_file_cannot_be_read(
    photos, tmp_path, monkeypatch, prefetcher, threads
):
    """As in a dead network drive: the read neither ends nor fails."""
    common = {"sampler": "fixed", "prefetcher": prefetcher, "prefetch_threads": threads}
    whole = train(classification(photos, tmp_path / "whole", to_epoch=1, **common))
    # The file of the third and last update is a FIFO that nobody writes to.
    (photos / "4.png").rename(photos / "kept")
    os.mkfifo(photos / "4.png")
    from iters import workers

    monkeypatch.setattr(workers, "_CLOSING_SECONDS", 0.2)
    monkeypatch.setattr(workers, "read_bytes", lambda path, offset: Path(path).read_bytes())
    if prefetcher == "process":  # a new interpreter, which has its own
        monkeypatch.setattr(workers, "_BOOT", workers._BOOT.replace("main()", PATCHED))
    written, output = [], tmp_path / "parts"

    def is_stuck():
        if not written:
            try:  # succeeds once somebody reads it
                written.append(os.open(photos / "4.png", os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                return False
        return bool(metrics(output, "update"))  # the second update is under way

    over, missed = threading.Event(), []

    def interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        if not over.wait(20):
            missed.append(signal.SIGTERM)
        for file in written:
            os.close(file)  # an end, which makes it a broken image

    thread = when(is_stuck, interrupt)
    report = train(classification(photos, output, to_epoch=1, **common))
    over.set()
    thread.join()
    assert not missed
    assert (report.signal, report.epoch, report.batch) == (signal.SIGTERM, 0, 2)
    assert [line["update"] for line in metrics(output, "update")] == [1, 2]
    (photos / "kept").replace(photos / "4.png")
    resumed = train(classification(photos, output, to_epoch=1, resume=True, **common))
    assert_same_bits(whole.params_path, resumed.params_path)


PATCHED = """
import pathlib, iters.workers
iters.workers.read_bytes = lambda path, offset: pathlib.Path(path).read_bytes()
main()"""


class OneOfTwo(MxnetWorkers):
    """A worker whose partner adds nothing and asks for nothing."""

    def __init__(self, *_, **__):
        super().__init__("local", 1)
        self.count = 2

    def gather(self, key, value):
        return [value]

    def add_up(self, *_, **__):
        pass


def test_one_of_several_workers_adds_zeros_until_all_know(photos, tmp_path, monkeypatch):
    """Else the others wait for ever for the update that was to be their last."""
    monkeypatch.setattr(training, "open_workers", OneOfTwo)
    monkeypatch.setattr(training, "_PATIENCE_SECONDS", 0.1)
    make = training.make_iterator

    def stuck(*arguments):
        iterator = make(*arguments)
        original, calls = iterator.read, iter(range(10**6))

        def read():
            if next(calls) < 2:
                return original()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)

        iterator.read = read
        return iterator

    monkeypatch.setattr(training, "make_iterator", stuck)
    report = train(classification(photos, tmp_path, batch_images=1))
    # It joined in the third and last update of the epoch, at whose end all know.
    assert (report.signal, report.epoch, report.batch) == (signal.SIGTERM, 1, 0)
    assert [line["loss"] > 0 for line in metrics(tmp_path, "update")] == [True, True, False]
    assert report.params_path.name.endswith("_ep-0001.params")


def test_a_signal_before_the_first_update_leaves_nothing_to_go_on_from(
    photos, tmp_path, monkeypatch, caplog
):
    interrupt_at(monkeypatch, 0)
    with caplog.at_level(logging.WARNING):
        report = train(classification(photos, tmp_path / "out"))
    assert (report.signal, report.epoch, report.batch) == (signal.SIGTERM, 0, 0)
    assert "0 complete epochs and 0 batches; --resume starts again" in caplog.text
    assert not list((tmp_path / "out").glob("*.params"))


def test_a_terminal_that_closes_ends_nothing_under_nohup(photos, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 0, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        report = train(classification(photos, tmp_path, to_epoch=1))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (report.signal, report.epoch) == (None, 1)


def test_a_signal_right_after_resuming_touches_no_checkpoint(photos, tmp_path, monkeypatch):
    first = train(classification(photos, tmp_path / "out", to_epoch=2, stop_epoch=1))
    before = first.params_path.stat().st_mtime_ns
    interrupt_at(monkeypatch, 0)
    report = train(classification(photos, tmp_path / "out", to_epoch=2, resume=True))
    assert (report.params_path, report.signal) == (first.params_path, signal.SIGTERM)
    assert first.params_path.stat().st_mtime_ns == before
    assert len(list((tmp_path / "out").glob("*.params"))) == 1


# --- metrics.jsonl and run.json -----------------------------------------------------------------


def progress(folder, *, first=0, state=None, **changes):
    return Progress(
        folder,
        label="x",
        first_update=first,
        last_update=100,
        num_batches=100,
        num_epochs=1,
        state=state,
        **changes,
    )


def update(shown, number):
    """Count an update of 1 to 3 labels whose mean is its number."""
    count = 1 + number % 3
    shown.update(number, lr=0.1, sums={"loss": number * count}, count=count, images=3, wait=0.0)


def test_means_go_on_after_a_stop(tmp_path):
    """A line has the mean of two updates, or of the epoch's hundred; 51 cuts both in two."""
    with progress(tmp_path) as shown:
        for number in range(1, 52):
            update(shown, number)
        state = json.loads(json.dumps(shown.state()))
    with progress(tmp_path, first=51, state=state) as shown:
        shown.start_clock()
        for number in range(52, 101):
            update(shown, number)
    means = {line["update"]: line["loss"] for line in metrics(tmp_path, "update")}
    # Updates 51 and 52 have 1 and 2 labels.
    assert means[52] == pytest.approx((51 + 52 * 2) / 3, abs=1e-6)
    counts = [1 + number % 3 for number in range(1, 101)]
    total = sum(number * count for number, count in enumerate(counts, 1))
    (epoch,) = metrics(tmp_path, "epoch")
    assert epoch["loss"] == pytest.approx(total / sum(counts), abs=1e-6)
    assert epoch["images_per_second"] > 0 and shown.state()["epoch"]["count"] == 0


def test_tensorboard_without_a_writer_is_told_before_anything_begins(photos, tmp_path, monkeypatch):
    for name in ("tensorboardX", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    wanted = classification(photos, tmp_path / "out", tensorboard=tmp_path / "events")
    monkeypatch.setattr(training, "find_labelled_samples", None)
    with pytest.raises(MissingDependency, match=r"events: no writer .*`pip install 'ademx\[tens"):
        train(wanted)
    assert not (tmp_path / "out").exists()


def test_tensorboard_drops_what_will_be_written_again(tmp_path, monkeypatch):
    made = []
    writer = SimpleNamespace(add_scalar=lambda *_: None, close=lambda: None)
    module = SimpleNamespace(SummaryWriter=lambda *given, **named: made.append(named) or writer)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    with progress(tmp_path, first=51, tensorboard=tmp_path):
        pass
    assert made == [{"purge_step": 52}]  # steps from here on are hidden


DAMAGE = {
    "a byte": b'{"update": 3, "loss": 1\xff}',
    "infinite": b'{"kind": "update", "update": 1e400, "loss": 1}',
    "too long": b'{"update": %s}' % (b"9" * 400),
    "digits": b'{"update": %s}' % (b"9" * 5000),
    "nested": b"[" * 100_000,
    "a list": b"[1, 2]",
    "cut off": b'{"kind": "upda',
    "no update": b'{"kind": "update", "loss": 1}',
}


@pytest.mark.parametrize("damaged", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_line_of_metrics_is_named(tmp_path, caplog, damaged):
    good = b'{"kind": "update", "update": %d, "loss": 0.50, "other": "\xc3\xa9"}'
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([good % 1, damaged, good % 2, good % 3]) + b"\n")
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}, line 2: expected a JSON obj"):
        load_runs([tmp_path])
    with caplog.at_level(logging.WARNING):
        open_metrics(tmp_path, keep=2).close()
    assert f"{path}, line 2: left out: expected a JSON object" in caplog.text
    # What is whole stays as it is, to the byte.
    assert path.read_bytes() == b"\n".join([good % 1, good % 2]) + b"\n"
    (run,) = load_runs([tmp_path])
    assert run.curves == {"update": {"loss": {1: 0.5, 2: 0.5}}}


def test_numbers_beyond_floats_are_no_curve(tmp_path):
    numbers = b"1" + b"0" * 400
    line = (
        b'{"kind": "update", "update": 1, "a": 1e400, "b": %s, "c": 1e308, "loss": 2}\n' % numbers
    )
    (tmp_path / "metrics.jsonl").write_bytes(line)
    (run,) = load_runs([tmp_path])
    assert run.curves == {"update": {"a": {1: float("inf")}, "loss": {1: 2.0}}}


def test_a_full_disk_at_the_metrics_names_the_file(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match=r"metrics\.jsonl"), progress(tmp_path) as shown:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
            for number in range(1, 21):
                update(shown, number)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_models_take_turns_in_a_folder_and_keep_their_metrics(photos, tmp_path):
    output, other = tmp_path / "out", f"{CLASSIFIER}_x1"
    train(classification(photos, output, stop_epoch=1))
    train(classification(photos, output, model=other, to_epoch=1))
    train(classification(photos, output, resume=True))
    train(classification(photos, output, model=other, to_epoch=2, overwrite=True))
    lines = map(json.loads, (output / f"{CLASSIFIER}_metrics.jsonl").read_text().splitlines())
    assert [line["update"] for line in lines if line["kind"] == "update"] == [1, 2, 3, 4, 5, 6]
    assert json.loads((output / "run.json").read_text())["label"] == other


def test_a_label_in_run_json_does_not_lead_out_of_the_folder(photos, tmp_path):
    output = tmp_path / "a" / "out"
    output.mkdir(parents=True)
    (output / "run.json").write_text('{"label": "../../elsewhere/x"}')
    (output / "metrics.jsonl").write_text('{"update": 1, "loss": 5}\n')
    outside = sorted(tmp_path.iterdir())
    train(classification(photos, output, to_epoch=1, resume=True))
    assert sorted(tmp_path.iterdir()) == outside
    assert (output / ".._.._elsewhere_x_metrics.jsonl").read_text() == '{"update": 1, "loss": 5}\n'
    assert [line["update"] for line in metrics(output, "update")] == [1, 2, 3]


def test_the_folder_of_another_command_is_left_alone(photos, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "run.json").write_text('{"command": "evaluate segmentation"}')
    with pytest.raises(ValueError, match=r"run\.json: was not written by a training: move it"):
        train(classification(photos, output))
    assert [path.name for path in output.iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_run_json_is_written_anew(scenes, tmp_path, caplog, content):
    output = tmp_path / "out"
    output.mkdir()
    (output / "run.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        train(segmentation(scenes, output, to_epoch=1))
    assert "run.json: damaged" in caplog.text
    assert json.loads((output / "run.json").read_text())["label"] == SEGMENTER

"""Commands that are killed at any moment, that find the disk full, that run two at once.

What is killed, or had no room, is gone on with, and what it leaves compared to the bit with what
an undisturbed run leaves. The disk is a small tmpfs of a size drawn anew each time, so that every
write is hit. Of two commands in one place each does its work or says why it does not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from faults_base import Ended, Fault, Loss, Trial, about, must_run, require, run, running
from faults_work import (
    CONVERSION,
    CONVERSION_PTH,
    DRAWING,
    EVALUATION,
    LISTS,
    REPRODUCE,
    TRAINING,
    WORKS,
    Work,
    must_be_equal,
    must_be_whole,
)

_IN_A_ROW = 5  # kills of one run before it may come to its end
_TRIALS, _FULL = 2, 10  # of that: 50 kills in all, or of each command

_LARGE = "256m"
_PAGE = 4096


def _chain(trial: Trial, *, work: Work, number: signal.Signals) -> None:
    expected, killed = work.undisturbed(trial.bench), 0
    folder, again = _new(work, trial, 0), False
    for attempt in range(1, 4 * _IN_A_ROW):
        moment = trial.random.random() * expected.seconds
        again = _disturb(work, trial, folder, number=number, moment=moment, again=again)
        if again:
            killed += 1
            must_be_whole(work.written(folder), expected.files)
        else:  # it came to its end before
            must_be_equal(work.written(folder), expected.files)
        # Killed when it had done all, there may be nothing to go on with.
        is_done = work.is_refused_again and expected.files.items() <= work.written(folder).items()
        if not again or is_done:
            folder, again = _new(work, trial, attempt), False
        if killed == _IN_A_ROW:
            break
    must_run(folder, work.command(trial.bench, folder, again=again))
    must_be_equal(work.written(folder), expected.files)


def _new(work: Work, trial: Trial, run: int) -> Path:
    folder = trial.folder / str(run)
    folder.mkdir()
    work.prepare(trial.bench, folder)
    return folder


def _disturb(
    work: Work, trial: Trial, folder: Path, *, number: int, moment: float, again: bool
) -> bool:
    """Run a command and send it a signal after some seconds; return whether it was in time."""
    with running(folder, work.command(trial.bench, folder, again=again)) as command:
        try:
            ended = command.wait(moment)
        except Loss:  # it runs still
            command.process.send_signal(number)
            ended = command.wait()
        command.must_leave_nothing()
    if ended.status in (-number, 128 + number):
        ended.must_be_plain()
        return True
    ended.must_succeed()
    return False


def _kills(work: Work, number: signal.Signals, verb: str) -> Fault:
    is_rare = number == signal.SIGTERM or work in (CONVERSION_PTH, DRAWING)
    return Fault(
        f"{'term' if number == signal.SIGTERM else 'kill'}-{work.name.replace(' ', '-')}",
        f"{verb} `{work.name}`, gone on with",
        1 if is_rare else _TRIALS,
        partial(_chain, work=work, number=number),
        _IN_A_ROW,
        _TRIALS if is_rare else _FULL,
    )


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """Give a folder that is a file system of its own, in memory."""
    folder.mkdir()
    require("mount", "-t", "tmpfs", "-o", f"size={_LARGE}", "ademx-faults", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


def _resize(disk: Path, options: str) -> None:
    require("mount", "-o", f"remount,{options}", disk)


def _shrink(trial: Trial, disk: Path, needed: int) -> None:
    """Leave room for a part of what a command writes, or for some files only."""
    held = os.statvfs(disk)
    if trial.number % 4 == 3:
        used = held.f_files - held.f_ffree
        _resize(disk, f"nr_inodes={used + trial.random.randint(1, 25)}")
        return
    used = (held.f_blocks - held.f_bfree) * held.f_bsize
    room = 1 + int(trial.random.uniform(0, 1) ** 2 * needed / _PAGE)
    _resize(disk, f"size={used + room * _PAGE}")


def _full(trial: Trial, *, work: Work) -> None:
    expected = work.undisturbed(trial.bench)
    sizes = [path.stat().st_size for path in expected.out.rglob("*") if path.is_file()]
    with _disk(trial.folder / "disk") as disk:
        work.prepare(trial.bench, disk)
        _shrink(trial, disk, sum(sizes) + _PAGE * len(sizes))
        ended = run(trial.folder, work.command(trial.bench, disk))
        if ended.has_refused("o space left"):
            ended.must_explain(disk)
        must_be_whole(work.written(disk), expected.files)
        _resize(disk, f"size={_LARGE},nr_inodes=100000")
        if ended.status:
            with about("with room again"):
                run(trial.folder, work.command(trial.bench, disk, again=True)).must_succeed()
        must_be_equal(work.written(disk), expected.files)


def _together(trial: Trial, works: tuple[Work, ...]) -> list[Ended]:
    """Start commands within a second of each other, often within a few hundredths."""
    with ExitStack() as stack:
        started = []
        for work in works:
            arguments = work.command(trial.bench, trial.folder)
            started.append(stack.enter_context(running(trial.folder, arguments)))
            time.sleep(trial.random.choice([0, 0, 0.05, trial.random.random()]))
        ended = [command.wait() for command in started]
        for command in started:
            command.must_leave_nothing()
    if all([one.has_refused() for one in ended]):
        raise Loss(f"none was done: {' / '.join(one.last_words() for one in ended)}")
    return ended


def _one_result(trial: Trial, *, works: tuple[Work, ...]) -> None:
    """Two commands with different results: one result has to be there, whole."""
    expected = [work.undisturbed(trial.bench).files for work in works]
    works[0].prepare(trial.bench, trial.folder)
    ended = _together(trial, works)
    # Of the two that were done one came last.
    whole = [files for files, one in zip(expected, ended) if not one.status]
    found = works[0].written(trial.folder)
    if found not in whole:
        with about(f"exit statuses {[one.status for one in ended]}, the result is neither's"):
            must_be_equal(found, whole[0])


def _rows(trial: Trial, *, works: tuple[Work, ...]) -> None:
    """Two `reproduce` into one report: both rows have to be in it in the end."""
    for work, ended in zip(works, _together(trial, works)):
        if ended.status:  # it said that another is at work: now it is not
            must_run(trial.folder, work.command(trial.bench, trial.folder))
    report = json.loads((trial.folder / "out" / "report.json").read_text())
    rows = {row["row"]: row["verdict"] for row in report["rows"]}
    if any(rows.get(work.name) != "unverified" for work in works):
        raise Loss(f"the report has {rows}, expected both rows tested")


def _of_weights(work: Work, weights: str) -> Work:
    return replace(work, name=f"{work.name} {weights}", line=work.line.replace("$weights", weights))


_RESUMED = TRAINING.also("--seed 0 --resume")
_CONVERSION = replace(CONVERSION, line="convert $weights $out/weights.safetensors --overwrite")
_MAKING = Work("data make", "data make voc --root $out")
_PAIRS = (
    (
        "train",
        "two trainings with other seeds in one `--output`",
        (TRAINING.also("--seed 0"), TRAINING.also("--seed 1")),
    ),
    (
        "resume",
        "two of the same training by `--resume` in one `--output`",
        (_RESUMED, _RESUMED),
    ),
    (
        "evaluate",
        "two tests of other weights in one `--output`",
        (EVALUATION, _of_weights(EVALUATION, "$early")),
    ),
    (
        "convert",
        "two conversions into one file",
        (_CONVERSION, _of_weights(_CONVERSION, "$early")),
    ),
    ("data-lists", "two `data lists` in one root", (LISTS, LISTS)),
    (
        "data-make",
        "two `data make` into one root",
        (_MAKING.also("--seed 0"), _MAKING.also("--seed 1")),
    ),
)
_ROWS = tuple(Work(row, f"reproduce {row} {REPRODUCE}") for row in ("voc-a1", "voc-a1-coco"))
FAULTS = [_kills(work, signal.SIGKILL, "kill -9 of") for work in WORKS]
FAULTS += [_kills(work, signal.SIGTERM, "SIGTERM to") for work in WORKS]
FAULTS += [
    Fault(
        f"disk-{work.name.replace(' ', '-')}",
        f"disk full during `{work.name}`, then room again",
        8,
        partial(_full, work=work),
    )
    for work in WORKS
    if work is not CONVERSION_PTH
]
FAULTS += [
    *(Fault(f"pair-{n}", what, 6, partial(_one_result, works=works)) for n, what, works in _PAIRS),
    Fault("pair-reproduce", "two `reproduce` into one report", 4, partial(_rows, works=_ROWS)),
]

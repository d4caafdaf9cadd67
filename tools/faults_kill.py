"""kill -9 and SIGTERM at random moments, gone on with and compared to the bit."""

from __future__ import annotations

import signal
from pathlib import Path

from faults_base import Bench, Fault, Loss, Trial, must_be_equal, must_be_whole, running
from faults_work import CONVERSION_PTH, DRAWING, TRAINING, WORKS, Work

_IN_A_ROW = 5  # kills of one run before it may come to its end
_TRIALS, _FULL = 2, 10  # of that: 50 kills in all, or of each command


def _chain(work: Work, number: signal.Signals) -> Fault:
    def trial(trial: Trial) -> None:
        bench, killed = trial.bench, 0
        expected, seconds = work.undisturbed(bench)
        runs = 0
        folder, again = _new(work, trial, runs), False
        while killed < _IN_A_ROW and runs < 3 * _IN_A_ROW:
            moment = trial.random.random() * seconds
            if _disturb(work, bench, folder, number=number, moment=moment, again=again):
                killed, again = killed + 1, True
                must_be_whole(work.found(folder), expected)
                if work.is_refused_again and expected.items() <= work.found(folder).items():
                    runs += 1  # it was killed when it had done all: there is nothing to go on with
                    folder, again = _new(work, trial, runs), False
            else:  # it came to its end before
                must_be_equal(work.found(folder), expected)
                runs += 1
                folder, again = _new(work, trial, runs), False
        _go_on(work, bench, folder, again=again)
        must_be_equal(work.found(folder), expected)

    verb = {signal.SIGKILL: "kill -9 of", signal.SIGTERM: "SIGTERM to"}[number]
    name = f"{'kill' if number == signal.SIGKILL else 'term'}-{work.name.replace(' ', '-')}"
    what = f"{verb} `{work.name}`, gone on with"
    if number == signal.SIGTERM or work in (CONVERSION_PTH, DRAWING):
        return Fault(name, what, 1, trial, _IN_A_ROW, _TRIALS)
    return Fault(name, what, _TRIALS, trial, _IN_A_ROW, _FULL)


def _new(work: Work, trial: Trial, run: int) -> Path:
    folder = trial.folder / str(run)
    folder.mkdir()
    work.prepare(trial.bench, folder)
    return folder


def _disturb(
    work: Work, bench: Bench, folder: Path, *, number: int, moment: float, again: bool
) -> bool:
    """Run a command and send it a signal after some seconds; return whether it was in time."""
    with running(folder, work.command(bench, folder, again=again)) as command:
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


def _go_on(work: Work, bench: Bench, folder: Path, *, again: bool) -> None:
    with running(folder, work.command(bench, folder, again=again)) as command:
        command.wait().must_succeed()
        command.must_leave_nothing()


FAULTS = [_chain(work, number) for number in (signal.SIGKILL, signal.SIGTERM) for work in WORKS]
FAULTS.sort(key=lambda fault: fault.name != f"kill-{TRAINING.name}")

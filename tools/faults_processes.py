"""kill -9 and SIGSTOP of the processes that a training consists of."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import faults_dist
from faults_base import (
    Bench,
    Command,
    Ended,
    Fault,
    Loss,
    Trial,
    about,
    must_be_equal,
    must_run,
    parent,
    results,
    running,
    scaled,
    soon,
    try_to_signal,
    variable,
)
from faults_work import training

_WORKERS = 2
_READERS = 2
_STOPPED_SECONDS = 3.0
_SAVING = 150.0  # seconds: what `launch` gives its workers to save, and some
_INSIST = 8.0  # seconds after which a second SIGTERM is sent
_ROLES = ("worker 0", "worker 1", "server", "scheduler", "reader of worker 0", "reader of worker 1")


def _launched(bench: Bench, output: Path) -> list[object]:
    command = training(bench, output, "--kvstore", "dist_sync", "--prefetch-threads", _READERS)
    return ["launch", "--workers", _WORKERS, "--", *command, "--resume"]


def _alone(bench: Bench, output: Path) -> list[object]:
    return training(bench, output, "--prefetch-threads", _READERS, "--resume")


def _undisturbed(bench: Bench, kind: str) -> dict[str, str]:
    def make(folder: Path) -> dict[str, str]:
        must_run(folder, _COMMANDS[kind](bench, folder / "out"))
        return results(folder / "out")

    return bench.once(f"processes of {kind}", make)


_COMMANDS = {"launch": _launched, "train": _alone}


def _victim(command: Command, role: str) -> int | None:
    """Return the id of the process that plays a role, once it is there."""
    kind, _, rest = role.partition(" ")
    if kind in ("server", "scheduler"):
        return next(iter(_of_role(command, kind)), None)
    if kind == "worker":
        workers = _workers(command)
        return workers[int(rest)] if len(workers) == _WORKERS else None
    if rest:  # a reader of a worker
        workers = _workers(command)
        owner = workers[int(rest[-1])] if len(workers) == _WORKERS else None
    else:
        owner = command.process.pid
    readers = sorted(pid for pid in command.processes() if owner and parent(pid) == owner)
    return readers[-1] if len(readers) >= _READERS else None


def _of_role(command: Command, role: str) -> list[int]:
    children = (pid for pid in command.processes() if parent(pid) == command.process.pid)
    return sorted(pid for pid in children if variable(pid, "DMLC_ROLE") == role)


def _workers(command: Command) -> list[int]:
    """Return the workers in the order of their ranks, which is that of their start."""
    return _of_role(command, "worker")


def _is_training(output: Path) -> bool:
    lines = output / "metrics.jsonl"
    return lines.is_file() and lines.stat().st_size > 0


def _strike(trial: Trial, kind: str, role: str, command: Command, number: int) -> int | None:
    """Signal the process of a role at a moment of the training; None if it was over before."""
    output = trial.folder / "out"

    def ready() -> bool:
        return command.process.poll() is not None or (
            _victim(command, role) is not None
            and (trial.random.random() < 0.1 or _is_training(output))
        )

    soon(ready, f"the {role} of `{kind}`")
    pid = _victim(command, role) if command.process.poll() is None else None
    return pid if pid and try_to_signal(pid, number) else None


def _of_each(
    trial: Trial,
    *,
    kind: str,
    roles: Sequence[str],
    disturb: Callable[[Trial, str, str, Command], Ended],
) -> None:
    """Disturb a command's processes in turn, and go on: all has to be as without."""
    role = roles[trial.number % len(roles)]
    expected = _undisturbed(trial.bench, kind)
    arguments = _COMMANDS[kind](trial.bench, trial.folder / "out")
    with about(role):
        with running(trial.folder, arguments) as command:
            ended = disturb(trial, kind, role, command)
            command.must_leave_nothing()
        ended.must_be_plain()
        # A reader or the scheduler may be gone unnoticed where there was nothing left to do.
        if not ended.status and len(results(trial.folder / "out")) != len(expected):
            raise Loss("exit status 0, but the training is not complete")
        must_run(trial.folder, arguments)
        must_be_equal(results(trial.folder / "out"), expected)


def _kill(trial: Trial, kind: str, role: str, command: Command) -> Ended:
    _strike(trial, kind, role, command, signal.SIGKILL)
    return command.wait()


def _pause(trial: Trial, kind: str, role: str, command: Command) -> Ended:
    """SIGSTOP, and after some seconds SIGCONT: nothing may come of it."""
    pid = _strike(trial, kind, role, command, signal.SIGSTOP)
    if pid:
        try:
            command.wait(_STOPPED_SECONDS)
        except Loss:  # it waits, as it should
            try_to_signal(pid, signal.SIGCONT)
    ended = command.wait()
    ended.must_succeed()
    return ended


def _stop(
    trial: Trial, kind: str, role: str, command: Command, *, number: int, insist: bool = False
) -> Ended:
    """SIGSTOP for good, then SIGTERM or SIGKILL to the command: all has to end."""
    if _strike(trial, kind, role, command, signal.SIGSTOP):
        command.process.send_signal(number)
    return _insist(command, number) if insist else command.wait(scaled(_SAVING))


def _insist(command: Command, number: int) -> Ended:
    """Return how a command ends that is told twice to."""
    try:
        return command.wait(scaled(_INSIST))
    except Loss:  # it gives its workers time
        command.process.send_signal(number)
        return command.wait(scaled(_INSIST))


def _stress(trial: Trial, *, workers: int) -> None:
    """Updates of workers that are slowed at random: every sum has to be right."""
    seed = trial.random.getrandbits(30)
    seconds = scaled(faults_dist.RUN_SECONDS)
    wrong = faults_dist.one_run(workers, seed, faults_dist.UPDATES, seconds=seconds)
    if wrong:
        raise Loss(f"seed {seed}: {wrong}")


_STOP_BY_TERM, _STOP_BY_KILL = (
    partial(_stop, number=number) for number in (signal.SIGTERM, signal.SIGKILL)
)
FAULTS = [
    Fault(
        "kill-process-launch",
        "kill -9 of each worker, server, scheduler and data worker of a `launch`",
        2 * len(_ROLES),
        partial(_of_each, kind="launch", roles=_ROLES, disturb=_kill),
    ),
    Fault(
        "pause-process-launch",
        "SIGSTOP of each of these, and SIGCONT after some seconds",
        len(_ROLES),
        partial(_of_each, kind="launch", roles=_ROLES, disturb=_pause),
    ),
    Fault(
        "stop-process-launch",
        "SIGSTOP of each of these for good, then SIGTERM to the `launch`, twice",
        len(_ROLES),
        partial(
            _of_each,
            kind="launch",
            roles=_ROLES,
            disturb=partial(_stop, number=signal.SIGTERM, insist=True),
        ),
    ),
    Fault(
        "hang-launch",
        "SIGSTOP of a worker for good, then one SIGTERM to the `launch`",
        1,
        partial(_of_each, kind="launch", roles=("worker 1",), disturb=_STOP_BY_TERM),
    ),
    Fault(
        "kill-reader",
        "kill -9 of a data worker of a training",
        6,
        partial(_of_each, kind="train", roles=("reader",), disturb=_kill),
    ),
    Fault(
        "stop-reader",
        "SIGSTOP of a data worker of a training, then SIGTERM to the training",
        4,
        partial(_of_each, kind="train", roles=("reader",), disturb=_STOP_BY_TERM),
    ),
    Fault(
        "orphan-reader",
        "SIGSTOP of a data worker of a training, then kill -9 of the training",
        4,
        partial(
            _of_each, kind="train", roles=("reader",), disturb=partial(_stop, number=signal.SIGKILL)
        ),
    ),
    *(
        Fault(
            f"stress-{workers}",
            f"{faults_dist.UPDATES} updates of {workers} workers that are slowed at random",
            3,
            partial(_stress, workers=workers),
        )
        for workers in (2, 3)
    ),
]

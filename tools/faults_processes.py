"""kill -9 and SIGSTOP of the processes that a training consists of, and workers that are late.

As a script it is a late worker, for `ademx launch`: SEED UPDATES.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from faults_base import (
    PATIENCE,
    Command,
    Ended,
    Fault,
    Loss,
    Trial,
    about,
    comes_true,
    has_variable,
    must_run,
    parent,
    running,
    scaled,
    try_to_signal,
)
from faults_work import TRAIN, TRAINING, Work, must_be_equal

_WORKERS = 2
_READERS = 2
_STOPPED_SECONDS = 3.0
_SAVING = 150.0  # seconds: what `launch` gives its workers to save, and some
_INSIST = 8.0  # seconds after which a second SIGTERM is sent
_ROLES = ("worker 0", "worker 1", "server", "scheduler", "reader of worker 0", "reader of worker 1")

_OPTIONS = f"--prefetch-threads {_READERS} --resume"
_ALONE = TRAINING.also(_OPTIONS)
_LAUNCH = Work("launch", f"launch --workers {_WORKERS} -- {TRAIN} --kvstore dist_sync {_OPTIONS}")

_UPDATES = 1000
_PIXELS = 16
_LAUNCHER = (
    "import sys; from ademx.training.launch import launch; "
    "sys.exit(launch(sys.argv[2:], workers=int(sys.argv[1]), servers=1))"
)

# Sends a signal to the process that plays a role; returns its id, None where it has ended before.
_Strike = Callable[[int], "int | None"]


def _victim(command: Command, role: str) -> int | None:
    """Return the id of the process that plays a role, once it is there."""
    kind, _, of = role.partition(" of ")
    if kind == "reader":
        readers = _children(command, _victim(command, of) if of else command.process.pid)
        return readers[-1] if len(readers) >= _READERS else None
    kind, _, rank = kind.partition(" ")
    children = _children(command, command.process.pid)
    found = [pid for pid in children if has_variable(pid, "DMLC_ROLE", kind)]
    # Workers are started in the order of their ranks.
    return found[int(rank or 0)] if len(found) == (_WORKERS if rank else 1) else None


def _children(command: Command, pid: int | None) -> list[int]:
    return sorted(child for child in command.processes() if parent(child) == pid)


def _strike(trial: Trial, command: Command, role: str, number: int) -> int | None:
    """Signal the process of a role at a moment of the training; None if it was over before."""
    lines = trial.folder / "out" / "metrics.jsonl"

    def is_over() -> bool:
        return command.process.poll() is not None

    def is_ready() -> bool:
        is_training = lines.is_file() and lines.stat().st_size > 0
        is_there = _victim(command, role) is not None
        return is_over() or (is_there and (is_training or trial.random.random() < 0.1))

    if not comes_true(is_ready, scaled(PATIENCE)):
        raise Loss("waited in vain for it to be there")
    pid = None if is_over() else _victim(command, role)
    return pid if pid and try_to_signal(pid, number) else None


def _of_each(
    trial: Trial,
    *,
    work: Work,
    roles: tuple[str, ...],
    disturb: Callable[[Command, _Strike], Ended],
) -> None:
    """Disturb a command's processes in turn, and go on: all has to be as without."""
    role = roles[trial.number % len(roles)]
    expected = work.undisturbed(trial.bench).files
    arguments = work.command(trial.bench, trial.folder)
    with about(role):
        with running(trial.folder, arguments) as command:
            ended = disturb(command, partial(_strike, trial, command, role))
            command.must_leave_nothing()
        ended.must_be_plain()
        # A reader or the scheduler may be gone unnoticed where there was nothing left to do.
        if not ended.status and len(work.written(trial.folder)) != len(expected):
            raise Loss("exit status 0, but the training is not complete")
        must_run(trial.folder, arguments)
        must_be_equal(work.written(trial.folder), expected)


def _kill(command: Command, strike: _Strike) -> Ended:
    strike(signal.SIGKILL)
    return command.wait()


def _pause(command: Command, strike: _Strike) -> Ended:
    """SIGSTOP, and after some seconds SIGCONT: nothing may come of it."""
    pid = strike(signal.SIGSTOP)
    if pid:
        try:
            command.wait(_STOPPED_SECONDS)
        except Loss:  # it waits, as it should
            try_to_signal(pid, signal.SIGCONT)
    ended = command.wait()
    ended.must_succeed()
    return ended


def _stop(command: Command, strike: _Strike, *, number: int, insist: bool = False) -> Ended:
    """SIGSTOP for good, then SIGTERM or SIGKILL, or SIGTERM twice, to the command: all must end."""
    if strike(signal.SIGSTOP):
        command.process.send_signal(number)
    if not insist:
        return command.wait(scaled(_SAVING))
    try:
        return command.wait(scaled(_INSIST))
    except Loss:  # it gives its workers time
        command.process.send_signal(number)
        return command.wait(scaled(_INSIST))


def stress(folder: Path, workers: int, *, seed: int, updates: int) -> Ended:
    """Train by workers that are slowed at random, all sums and weights known beforehand.

    1,000 updates take 10 to 20 s on 2 cores.

    Raises:
        Loss: a sum or a weight is not right.
    """
    worker = [sys.executable, Path(__file__).resolve(), seed, updates]
    return must_run(folder, [workers, *worker], program=[sys.executable, "-c", _LAUNCHER])


def _stress(trial: Trial, *, workers: int) -> None:
    seed = trial.random.getrandbits(30)
    with about(f"seed {seed}"):
        stress(trial.folder, workers, seed=seed, updates=_UPDATES)


def work(seed: int, updates: int) -> None:
    """Be a late worker; exit with a message unless all that was added up is right."""
    from ademx.engines.mxnet.train import MxnetWorkers

    class LateWorkers(MxnetWorkers):
        """Wait up to 4 ms before one array of five is sent."""

        def add_up(self, key: str, arrays: Any, **options: Any) -> None:
            if draw.random() < 0.2:
                time.sleep(draw.uniform(0, 0.004))
            super().add_up(key, arrays, **options)

    with LateWorkers("dist_sync", 1) as workers:
        draw = random.Random(f"{seed} {workers.rank}")
        wrong = _wrong_updates(workers, updates)
        if wrong:
            sys.exit(f"worker {workers.rank}: {len(wrong)} wrong, the first: {wrong[0]}")


def _wrong_updates(workers: Any, updates: int) -> list[str]:
    """Train, and return each update whose sums are not those of all workers, and wrong weights."""
    from ademx.engines.mxnet.train import mx

    trainer = _trainer(workers)
    everyone, wrong, before = range(workers.count), [], None
    for number in range(updates + 1):
        pending = None
        if number < updates:
            data = mx.nd.array([[_value(workers.rank, number)]])
            label = mx.nd.zeros((1, _PIXELS))
            label[:, _valid(workers.rank, number) :] = 255
            stop = _stops(workers.rank, number)
            pending = trainer.start(data, label, seed=0, stop=stop)
        if before is not None:  # one update late, as in training
            sums, of = before(), number - 1
            expected = (
                sum(_valid(rank, of) for rank in everyone),
                sum(_stops(rank, of) for rank in everyone),
            )
            if (sums.count, sums.stop) != expected:
                wrong.append(f"update {of}: {sums}, expected count and stop {expected}")
        before = pending
    # Whole numbers: exact, in whichever order they were added up.
    weight = -sum(_value(rank, number) for rank in everyone for number in range(updates))
    found = trainer.parameters()[0]["fc_weight"]
    if (found != weight).any():
        wrong.append(f"weights {found.min()} to {found.max()}, expected {weight}")
    return wrong


def _value(rank: int, update: int) -> int:
    return update % 5 + rank


def _valid(rank: int, update: int) -> int:
    return update % 7 + 2 * rank


def _stops(rank: int, update: int) -> bool:
    return (update + rank) % 3 == 0


def _trainer(workers: Any) -> Any:
    """Return what trains one layer whose gradient is its input, at rate 1 without momentum."""
    from ademx.devices import Devices
    from ademx.engines.mxnet.train import MxnetTrainer, mx
    from ademx.schedule import StepSchedule

    scores = mx.sym.FullyConnected(
        mx.sym.Variable("data"), num_hidden=2 * _PIXELS, no_bias=True, name="fc"
    )
    # The label's zero: a graph must have one.
    label = mx.sym.Variable("softmax_label", shape=(1, _PIXELS))
    unused = mx.sym.BlockGrad(mx.sym.sum(0 * label))
    scores = mx.sym.broadcast_add(scores, mx.sym.reshape(unused, (1, 1)))
    graph = mx.sym.MakeLoss(mx.sym.reshape(scores, (0, 2, _PIXELS)), name="softmax")
    return MxnetTrainer(
        graph,
        devices=Devices(),
        data_shape=(1, 1),
        values={"fc_weight": mx.nd.zeros((2 * _PIXELS, 1)).asnumpy()},
        optimizer="sgd",
        optimizer_params={"lr_scheduler": StepSchedule((), 1.0), "wd": 0.0, "rescale_grad": 1.0},
        workers=workers,
    )


_TERMINATE = partial(_stop, number=signal.SIGTERM)
_DISTURBED = (
    (
        *("kill-process-launch", 2 * len(_ROLES), _LAUNCH, _ROLES, _kill),
        "kill -9 of each worker, server, scheduler and data worker of a `launch`",
    ),
    (
        *("pause-process-launch", len(_ROLES), _LAUNCH, _ROLES, _pause),
        "SIGSTOP of each of these, and SIGCONT after some seconds",
    ),
    (
        *("stop-process-launch", len(_ROLES), _LAUNCH, _ROLES, partial(_TERMINATE, insist=True)),
        "SIGSTOP of each of these for good, then SIGTERM to the `launch`, twice",
    ),
    (
        *("hang-launch", 1, _LAUNCH, ("worker 1",), _TERMINATE),
        "SIGSTOP of a worker for good, then one SIGTERM to the `launch`",
    ),
    (
        *("kill-reader", 6, _ALONE, ("reader",), _kill),
        "kill -9 of a data worker of a training",
    ),
    (
        *("stop-reader", 4, _ALONE, ("reader",), _TERMINATE),
        "SIGSTOP of a data worker of a training, then SIGTERM to the training",
    ),
    (
        *("orphan-reader", 4, _ALONE, ("reader",), partial(_stop, number=signal.SIGKILL)),
        "SIGSTOP of a data worker of a training, then kill -9 of the training",
    ),
)
FAULTS = [
    Fault(name, what, times, partial(_of_each, work=work, roles=roles, disturb=disturb))
    for name, times, work, roles, disturb, what in _DISTURBED
]
FAULTS += [
    Fault(
        f"stress-{workers}",
        f"{_UPDATES} updates of {workers} workers that are slowed at random",
        3,
        partial(_stress, workers=workers),
    )
    for workers in (2, 3)
]

if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]))

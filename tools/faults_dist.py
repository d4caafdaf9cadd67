"""Synchronous workers under stress: what they add up must be right, however late anyone is.

    python tools/faults_dist.py [SECONDS]

trains a network whose sums and weights are known beforehand by 2 and by 3 workers, each update
slowed at random: 20 runs of 1,000 updates each, or as many as the time allows (a run takes 10 to
20 s on 2 cores). Expected: no failure. `python tools/faults_dist.py worker SEED UPDATES` is one
worker, for `ademx launch`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RUNS, UPDATES = 20, 1000
RUN_SECONDS = 120.0  # a run that takes longer hangs
_LAUNCH = (
    "import sys; from ademx.training.launch import launch; "
    "sys.exit(launch(sys.argv[2:], workers=int(sys.argv[1]), servers=1))"
)
_PIXELS = 16


def run(seconds: float) -> list[tuple[str, int, int]]:
    """Return what was tried, how often, and how many times it failed.

    Args:
        seconds: time after which no further run is started.
    """
    end = time.monotonic() + seconds
    results = {f"dist_sync, {count} workers, {UPDATES} updates": [0, 0] for count in (2, 3)}
    for seed in range(RUNS):
        for count, result in zip((2, 3), results.values()):
            if time.monotonic() < end:
                result[0] += 1
                result[1] += one_run(count, seed, UPDATES) != ""
    return [(tried, times, failures) for tried, (times, failures) in results.items()]


def one_run(workers: int, seed: int, updates: int, *, seconds: float = RUN_SECONDS) -> str:
    """Return what went wrong in one run; nothing if all sums and weights were right."""
    command = [sys.executable, str(Path(__file__).resolve()), "worker", str(seed), str(updates)]
    launcher = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, str(workers), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        output, _ = launcher.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        launcher.kill()  # its processes end with it
        return f"hung for {seconds:.0f} s: {launcher.communicate()[0]}"
    return "" if launcher.returncode == 0 else output


def work(seed: int, updates: int) -> None:
    """Be one worker; exit with a message unless all that was added up is right."""
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
    from ademx.engines.mxnet.train import MxnetTrainer, mx
    from ademx.schedule import StepSchedule

    scores = mx.sym.FullyConnected(
        mx.sym.Variable("data"), num_hidden=2 * _PIXELS, no_bias=True, name="fc"
    )
    # The label's zero: a graph must have one.
    unused = mx.sym.BlockGrad(mx.sym.sum(0 * mx.sym.Variable("softmax_label")))
    scores = mx.sym.broadcast_add(scores, mx.sym.reshape(unused, (1, 1)))
    graph = mx.sym.MakeLoss(mx.sym.reshape(scores, (0, 2, _PIXELS)), name="softmax")
    return MxnetTrainer(
        graph,
        contexts=[mx.cpu()],
        data_shapes=[mx.io.DataDesc("data", (1, 1))],
        label_shapes=[mx.io.DataDesc("softmax_label", (1, _PIXELS))],
        values={"fc_weight": mx.nd.zeros((2 * _PIXELS, 1)).asnumpy()},
        optimizer="sgd",
        optimizer_params={"lr_scheduler": StepSchedule((), 1.0), "wd": 0.0, "rescale_grad": 1.0},
        workers=workers,
    )


def main() -> None:
    """Be a worker, or print what was tried."""
    if sys.argv[1:2] == ["worker"]:
        work(int(sys.argv[2]), int(sys.argv[3]))
        return
    results = run(float(sys.argv[1]) if sys.argv[1:] else 3600.0)
    for tried, times, failures in results:
        sys.stdout.write(f"{tried}: {times} runs, {failures} failures\n")
    sys.exit(any(failures for *_, failures in results))


if __name__ == "__main__":
    main()

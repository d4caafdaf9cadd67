"""Some updates of small networks; run as a script, it makes them as a worker of PyTorch.

The script's argument is a folder, where each worker writes what it has then.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
from tiny_training import classification, segmentation

from ademx.devices import Devices
from ademx.engines.backends import open_workers
from ademx.training import start_trainer

SHAPE = (4, 3, 64, 64)
TASKS = ("classification", "segmentation")


def batches(task):
    """Yield noise and labels of all workers or devices."""
    random = np.random.default_rng(0)
    for _ in range(4):
        data = random.standard_normal(SHAPE).astype(np.float32)
        size = (SHAPE[0],) if task == "classification" else (SHAPE[0], (SHAPE[2] // 8) ** 2)
        yield data, random.integers(0, 4, size).astype(np.float32)


def open_one(task, *, images, workers=None, **changes):
    """Return a trainer for so many images at a time."""
    make = segmentation if task == "segmentation" else classification
    options = make(Path(), Path(), base_lr=1e-3, to_epoch=2, batch_images=images, **changes)
    shape = (images, *SHAPE[1:])
    return start_trainer(options, data_shape=shape, num_batches=9, dropout=False, workers=workers)


def meet_late(workers):
    """Return all ranks, of which worker 0's comes later than workers wait for each other's sums."""
    from torch.distributed import distributed_c10d as groups

    workers.wait_for_all("in time", 0)
    groups._set_pg_timeout(timedelta(seconds=0.1))
    if workers.rank == 0:
        time.sleep(0.5)
    ranks = workers.wait_for_all("late", workers.rank)
    groups._set_pg_timeout(timedelta(minutes=10))
    return ranks


def main(output):
    with open_workers("device", Devices(), backend="torch") as workers:
        np.savez(output / f"ranks-{workers.rank}.npz", ranks=meet_late(workers))
        images = SHAPE[0] // workers.count
        mine = slice(workers.rank * images, (workers.rank + 1) * images)
        for task in TASKS:
            trainer = open_one(task, images=images, workers=workers, backend="torch")
            steps = [trainer.step(data[mine], label[mine]) for data, label in batches(task)]
            np.savez(
                output / f"{task}-{workers.rank}.npz",
                losses=[step.sums.loss for step in steps],
                **trainer.parameters()[0],
                **trainer.statistics()[0],
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

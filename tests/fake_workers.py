"""Pools with an augmentation that needs no images, and the processes that a test has started.

Workers import this module to find the augmentation: it must not import MXNet.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from iters.decode import BrokenImage
from iters.workers import Job, Row, WorkerPool


class FakeAugmentation:
    """Writes the first bytes of an image and a draw; some bytes stand for trouble."""

    sample_size = 2

    def __init__(self, label_shape=()):
        self.label_shape = label_shape

    def apply(self, encoded, *others):
        if len(others) == 2:
            rng, out = others
        else:
            label, rng, out, out_label = others
            out_label[:] = np.frombuffer(label, np.uint8)[: out_label.size]
        if encoded == b"broken":
            out[:] = -1  # half an image
            raise BrokenImage("not an image")
        if encoded == b"raise":
            raise KeyError("some bug")
        if encoded == b"memory":
            bytearray(1 << 60)
        if encoded == b"killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if encoded == b"exit":
            os._exit(3)
        if encoded == b"slow":
            time.sleep(0.5)
        if encoded == b"stuck":
            time.sleep(60)
        out[0] = int.from_bytes(encoded[:3], "little")
        out[1] = rng.random()
        out[2] = rng.random()


def make_job(num_workers, *, augmentation=None, batch=4, **changes):
    settings = {
        "augmentation": augmentation or FakeAugmentation(),
        "seed": 5,
        "cache_images": False,
        "num_slots": 2,
        "num_workers": num_workers,
        "data_shape": (batch, 3, 2, 2),
        "label_shape": (batch,),
    }
    return Job(**{**settings, **changes})


def make_pool(prefetcher, num_workers, **options):
    job = make_job(num_workers, **options)
    return WorkerPool(job, prefetcher=prefetcher, file_name=lambda sample: f"image-{sample}.jpg")


def write_rows(folder, contents, labels=None):
    paths = [folder / f"{number}.bin" for number in range(len(contents))]
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    return [
        Row(i, 10 + i, i, str(path), None, i * 7 if labels is None else labels[i])
        for i, path in enumerate(paths)
    ]


def receive_all(pool, num_rows):
    broken = {}
    while num_rows:
        outcome = pool.receive()
        num_rows -= outcome.num_rows
        broken.update(outcome.broken)
    return broken


def wait_until(condition, seconds=300):
    """Wait for what must come; the time is only how long to hope."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.01)


def all_done(pool):
    """Return whether the workers have finished all that was handed out."""
    return (pool.memory.states["finished"] == pool._sent).all()


def children():
    """Return the processes that this one has started and not reaped: pid and command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue  # it has ended meanwhile
    return found


def worker_processes():
    return [
        pid for pid, command in children().items() if any(b"iters.workers" in c for c in command)
    ]

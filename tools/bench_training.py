"""`bench.py training`: updates of Model A1 at 224 by both engines, their memory, and the waiting.

Each engine has a process of its own; they update in turns, so that both see the same machine. The
weights are drawn and the images are noise: time does not depend on them. An update of 4 images is
0.6 TMACs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from bench_rows import Row, gpus_option, report, runs_mxnet

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import numpy as np
    from numpy.typing import NDArray

    from ademx.devices import Devices
    from ademx.engines.trainer import Trainer

LABEL = "ilsvrc-cls_rna-a1_cls1000"
BATCH = 4
SIZE = 224
# PyTorch's time for an update, at most so much of MXNet's: set on 2 Zen 5 cores. Where MXNet comes
# near the peak of the CPU already (Zen 4, half as wide), nothing could meet them.
TARGETS = {"float32": 0.65, "bfloat16": 0.6}
WAIT_TARGET = 0.02  # fraction of the time
READ_UPDATES = 8


@click.command()
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(min=1), help="Updates.")
@gpus_option
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def training(repeat: int, gpus: tuple[int, ...], json_file: Path | None) -> None:
    """Time updates of both engines, and of PyTorch with blocks computed again; peak memory.

    On GPUs that MXNet has no code for, PyTorch's bfloat16 beside its float32.
    """
    from ademx.devices import Devices

    devices = Devices(gpus=gpus)
    kept, mirrored = (Engine("torch", "float32", mirror) for mirror in (False, True))
    if runs_mxnet(devices):
        rows = [
            _beside(
                f"update by PyTorch, {precision}",
                (Engine("torch", precision), Engine("mxnet", precision)),
                None if gpus else 1 / target,
                repeat,
                devices,
            )
            for precision, target in TARGETS.items()
            if not (gpus and precision == "bfloat16")  # which MXNet lacks there
        ]
    else:
        pair = Engine("torch", "bfloat16"), kept
        rows = [_beside("update by PyTorch, bfloat16", pair, None, repeat, devices)]
    what = "update by PyTorch, float32, all kept"
    rows.append(_beside(what, (kept, mirrored), None, repeat, devices))
    report(rows, json_file)
    click.echo(wait_share(devices))


class Engine(NamedTuple):
    """What makes updates, and how."""

    backend: str
    precision: str
    mirror: bool = False

    def __str__(self) -> str:
        return " ".join([*self[:2], *(["--backward-do-mirror"] if self.mirror else [])])


def _beside(
    what: str,
    engines: tuple[Engine, Engine],
    target_ratio: float | None,
    repeat: int,
    devices: Devices,
) -> Row:
    """Return the row of two engines that make updates in turns."""
    children = [_Child(engine, devices) for engine in engines]
    try:
        seconds: list[list[float]] = [[], []]
        for _ in range(repeat + 1):  # the first update allocates
            for child, taken in zip(children, seconds):
                taken.append(child.step())
        peaks = [child.finish() for child in children]
    finally:
        for child in children:
            child.kill()
    medians = [statistics.median(taken[1:]) for taken in seconds]
    images = " against ".join(f"{median / BATCH:.3g}" for median in medians)
    memory = " against ".join(f"{peak / 2**30:.2f}" if peak else "–" for peak in peaks)
    note = f"{engines[1]}; {images} s an image, peak {memory} GiB"
    where = "" if not devices.gpus else f", on {', '.join(devices.names())}"
    return Row(f"{what}, A1 at {SIZE}, batch {BATCH}{where}", *medians, target_ratio, note)


class _Child:
    """A process that makes updates when it is told to."""

    def __init__(self, engine: Engine, devices: Devices) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_make_updates, args=(theirs, engine, devices), daemon=True
        )
        self._process.start()
        theirs.close()
        self._ours.recv()  # it is ready

    def step(self) -> float:
        """Return the seconds of an update."""
        self._ours.send("update")
        return float(self._ours.recv())

    def finish(self) -> int | None:
        """Return the most memory that the process has held, bytes, and end it."""
        self._ours.send("end")
        peak: int | None = self._ours.recv()
        self._process.join()
        return peak

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()


def _make_updates(connection: Connection, engine: Engine, devices: Devices) -> None:
    trainer, data, label = noise_updates(
        LABEL,
        (BATCH, 3, SIZE, SIZE),
        backend=engine.backend,
        precision=engine.precision,
        backward_do_mirror=engine.mirror,
        devices=devices,
    )
    connection.send("ready")
    while connection.recv() == "update":
        start = time.perf_counter()
        trainer.step(data, label)
        connection.send(time.perf_counter() - start)
    connection.send(held_bytes(engine.backend, devices, peak=True))


def noise_updates(
    label: str, shape: tuple[int, int, int, int], **options: Any
) -> tuple[Trainer, NDArray[np.float32], NDArray[np.float32]]:
    """Return a trainer of a network with drawn weights, a batch of noise and its truth.

    Args:
        label: of the network.
        shape: (N, 3, H, W) of the batch.
        options: of :class:`ademx.training.TrainOptions`.
    """
    import numpy as np

    from ademx.labels import parse_label
    from ademx.networks.graph import network_stride
    from ademx.training import (
        ClassificationTrainOptions,
        SegmentationTrainOptions,
        start_trainer,
    )

    parsed = parse_label(label)
    truth_shape, kind = (shape[0],), ClassificationTrainOptions
    if parsed.task == "segmentation":
        cells = [-(-side // network_stride(parsed)) for side in shape[2:]]
        truth_shape, kind = (shape[0], cells[0] * cells[1]), SegmentationTrainOptions
    given = kind(data_root=Path(), to_epoch=1, model=label, batch_images=shape[0], **options)
    trainer = start_trainer(given, data_shape=shape, num_batches=100)
    random = np.random.default_rng(0)
    data = random.standard_normal(shape, np.float32)
    truth = random.integers(0, parsed.num_classes, truth_shape).astype(np.float32)
    return trainer, data, truth


def held_bytes(backend: str, devices: Devices, *, peak: bool = False) -> int | None:
    """Return the bytes that are held now, or the most that were, on GPUs those of the first.

    On CPUs they are this process's, None where the system does not tell; on GPUs the engine's.
    """
    if devices.gpus and backend == "torch":
        from ademx.convert import import_torch

        cuda = import_torch().cuda
        measure = cuda.max_memory_allocated if peak else cuda.memory_allocated
        return int(measure(devices.gpus[0]))
    if devices.gpus:
        from ademx.compat import import_mxnet
        from ademx.engines.mxnet.predict import mxnet_contexts

        mxnet_contexts(devices)
        free, total = import_mxnet().context.gpu_memory_info(devices.gpus[0])
        return int(total - free)  # its pool gives nothing back
    name = "VmHWM" if peak else "VmRSS"
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) * 1024


def reset_peak() -> None:
    """Have the most that :func:`held_bytes` tells of this process begin anew, if possible."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def wait_share(devices: Devices) -> str:
    """Return what a run with one reading process waits for its batches, as a line."""
    import json

    from ademx.training import ClassificationTrainOptions
    from ademx.training.run import train

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_photos(root, READ_UPDATES * BATCH)
        options: dict[str, Any] = {"lr_type": "linear", "base_lr": 1e-3}
        train(
            ClassificationTrainOptions(
                data_root=root,
                to_epoch=1,
                model=LABEL,
                batch_images=BATCH,
                backend="torch",
                devices=devices,
                output=root / "output",
                prefetch_threads=1,
                **options,
            )
        )
        lines = map(json.loads, (root / "output" / "metrics.jsonl").read_text().splitlines())
        waits = [line["data_wait"] for line in lines if line["kind"] == "update"][1:]
    share = statistics.mean(waits)
    verdict = "met" if share <= WAIT_TARGET else "missed"
    return (
        f"waiting for data, {len(waits)} updates by PyTorch in float32, one reading process: "
        f"{share:.2%} of the time (target {WAIT_TARGET:.0%}: {verdict})"
    )


def _write_photos(root: Path, count: int) -> None:
    """Write photographs of ILSVRC's usual size, and the list of a "train" split."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8))
        coarse.resize((500, 375), Image.BICUBIC).save(root / f"{number}.jpg", quality=90)
    lines = "".join(f"{number}\t{number}\t{number}.jpg\n" for number in range(count))
    (root / "train.lst").write_text(lines)

"""`bench.py training`: updates of Model A1 at 224 by both engines, their memory, and the waiting.

Each engine has a process of its own; they update in turns, so that both see the same machine. The
weights are drawn and the images are noise: time does not depend on them. An update of 4 images is
0.6 TMACs.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from bench_iterators import write_photos
from bench_process import engine_bytes, own_process
from bench_rows import Row, gpus_option, json_option, report, runs_mxnet, seconds_in_turns
from numpy.typing import NDArray

from ademx.devices import Devices
from ademx.engines.trainer import Trainer
from ademx.labels import parse_label
from ademx.networks.graph import network_stride
from ademx.training import ClassificationTrainOptions, SegmentationTrainOptions, start_trainer
from ademx.training.run import train

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
@json_option
def training(repeat: int, gpus: tuple[int, ...], json_file: Path | None) -> None:
    """Time updates of both engines, and of PyTorch with blocks computed again; peak memory.

    On GPUs that MXNet has no code for, PyTorch's bfloat16 beside its float32.
    """
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
    with ExitStack() as stack:
        calls = {engine: stack.enter_context(own_process()) for engine in engines}
        ways = {str(engine): partial(calls[engine], _update, engine, devices) for engine in engines}
        # The first update allocates.
        medians = seconds_in_turns(ways, repeat, warm_up=True).values()
        peaks = [call(engine_bytes, one.backend, devices, peak=True) for one, call in calls.items()]
    images = " against ".join(f"{median / BATCH:.3g}" for median in medians)
    memory = " against ".join(f"{peak / 2**30:.2f}" if peak else "–" for peak in peaks)
    note = f"{engines[1]}; {images} s an image, peak {memory} GiB"
    where = "" if not devices.gpus else f", on {', '.join(devices.names())}"
    return Row(f"{what}, A1 at {SIZE}, batch {BATCH}{where}", *medians, target_ratio, note)


def _update(engine: Engine, devices: Devices) -> None:
    """Make an update in this process."""
    trainer, data, label = _noise_updates(engine, devices)
    trainer.step(data, label)


@cache
def _noise_updates(
    engine: Engine, devices: Devices
) -> tuple[Trainer, NDArray[np.float32], NDArray[np.float32]]:
    """Return what this process makes updates with."""
    return noise_updates(
        LABEL,
        (BATCH, 3, SIZE, SIZE),
        backend=engine.backend,
        precision=engine.precision,
        backward_do_mirror=engine.mirror,
        devices=devices,
    )


def noise_updates(
    label: str, shape: tuple[int, int, int, int], **options: Any
) -> tuple[Trainer, NDArray[np.float32], NDArray[np.float32]]:
    """Return a trainer of a network with drawn weights, a batch of noise and its truth.

    Args:
        label: of the network.
        shape: (N, 3, H, W) of the batch.
        options: of :class:`ademx.training.TrainOptions`.
    """
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


def wait_share(devices: Devices) -> str:
    """Return what a run with one reading process waits for its batches, as a line."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        samples = write_photos(root)[: READ_UPDATES * BATCH]
        lines = [f"{sample.index}\t{sample.label}\t{sample.image.name}\n" for sample in samples]
        (root / "train.lst").write_text("".join(lines))
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
                lr_type="linear",
                base_lr=1e-3,
            )
        )
        metrics = map(json.loads, (root / "output" / "metrics.jsonl").read_text().splitlines())
        waits = [line["data_wait"] for line in metrics if line["kind"] == "update"][1:]
    share = statistics.mean(waits)
    verdict = "met" if share <= WAIT_TARGET else "missed"
    return (
        f"waiting for data, {len(waits)} updates by PyTorch in float32, one reading process: "
        f"{share:.2%} of the time (target {WAIT_TARGET:.0%}: {verdict})"
    )

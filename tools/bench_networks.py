"""`bench.py networks`: what networks cost, planned and measured, by each engine and device.

Every measurement has a process of its own, so that its memory is its own. Weights are drawn and
images are noise: neither time nor memory depends on them.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from bench_rows import align
from bench_training import held_bytes, noise_updates, reset_peak

from ademx.cli import options as shared
from ademx.compat import import_mxnet
from ademx.convert import import_torch
from ademx.engines.backends import BACKENDS
from ademx.files import write_json
from ademx.iteration import progress_bar
from ademx.text import one_line

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ademx.networks.summary import Graph

NETWORKS = (
    *("a", "a1", "a2", "b", "c"),
    *("rn-plain34", "rn-34a", "rn-34b", "rn-34c", "rn-50", "rn-101", "rn-152"),
)
CPU = "cpu"
_A, _RESNET_152 = "ilsvrc-cls_rna-a_cls1000", "ilsvrc-cls_rn-152_cls1000"


@dataclass(frozen=True)
class Measured:
    """What a network costs by an engine on a device; None where it could not be measured.

    Attributes:
        network: as it was asked for.
        label: of the network.
        depth: weighted layers on the longest path.
        parameters: numbers that training changes by gradient.
        macs: multiply-adds of an image.
        device: "cpu" or the number of a GPU.
        engine: "mxnet" or "torch".
        planned_bytes: memory of training on a batch, by `ademx summary --training`.
        measured_bytes: the most that training held besides the engine itself.
        train_images_s: images a second in training.
        test_images_s: images a second in testing.
        error: why something is missing, or "".
    """

    network: str
    label: str
    depth: int
    parameters: int
    macs: int
    device: str
    engine: str
    planned_bytes: int | None = None
    measured_bytes: int | None = None
    train_images_s: float | None = None
    test_images_s: float | None = None
    error: str = ""


class _Names(click.ParamType):
    """Names with commas between them."""

    name = "NAME,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """Return the names, each once."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        return names or self.fail("expected names with commas between them", param, ctx)


@click.command()
@click.option(
    "--networks",
    type=_Names(),
    default=NETWORKS,
    help=f"Names as `ademx summary` takes them, block specs and labels too.  [default: "
    f"{','.join(NETWORKS)}]",
)
@click.option(
    "--devices", type=_Names(), default=(CPU,), help='"cpu" and numbers of GPUs.  [default: cpu]'
)
@click.option(
    "--engines", type=_Names(), help="Of mxnet and torch.  [default: those that are installed]"
)
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Images.")
@click.option(
    "--input",
    "input_size",
    type=shared.SIZE,
    help="Size of images.  [default: the training crop's]",
)
@click.option("--width", type=click.FloatRange(0, min_open=True), default=1.0, help="For a trial.")
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Of each.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def networks(
    networks: tuple[str, ...],
    devices: tuple[str, ...],
    engines: tuple[str, ...] | None,
    batch: int,
    input_size: tuple[int, int] | None,
    width: float,
    repeat: int,
    json_file: Path | None,
) -> None:
    """Depth, parameters, operations, memory and speed of networks, in float32.

    Planned is the memory of training as `ademx summary --training` has it, measured what a process
    that trains held at the most besides its engine (on a GPU: what its engine allocated). On CPUs
    engines keep copies of the weights in their kernels' layouts, which no plan has. A whole run
    takes about a quarter of an hour on two cores; `--networks a1,rn-50 --repeat 1` less than one
    minute.
    """
    shared.check_writable([json_file], overwrite=True)
    graphs = {name: _graph(name, batch, input_size, width) for name in networks}
    plan = [
        (name, device, engine)
        for name in networks
        for device in _checked(devices)
        for engine in _installed(engines)
    ]
    rows = []
    with progress_bar(delay=0, total=len(plan), unit="measurement") as bar:
        for name, device, engine in plan:
            bar.set_postfix_str(f"{name} by {engine} on {device}")
            rows.append(measure(name, graphs[name], device, engine, repeat))
            bar.update()
    size = "×".join(map(str, input_size)) if input_size else "the training crop"
    trial = "" if width == 1 else f", width ×{width:g}: a trial"
    click.echo(f"batch {batch}, images of {size}, float32{trial}; memory of training\n")
    told = claims(rows) if width == 1 else ["The paper's claim is of networks at full width."]
    for line in [*format_networks(rows), "", *told]:
        click.echo(line)
    if json_file is not None:
        content = {"batch": batch, "width": width, "rows": [asdict(row) for row in rows]}
        write_json(json_file, {**content, "claims": told})


def _graph(name: str, batch: int, input_size: tuple[int, int] | None, width: float) -> Graph:
    from ademx.networks.summary import load_graph

    return load_graph(name, input_size=input_size, batch=batch, width=width)


def _checked(devices: Sequence[str]) -> Sequence[str]:
    for device in devices:
        if device != CPU and not device.isdecimal():
            raise click.UsageError(f'--devices {device}: expected "cpu" or the number of a GPU')
    return devices


def _installed(engines: Sequence[str] | None) -> Sequence[str]:
    found = [engine for engine in BACKENDS if find_spec(engine)]
    for engine in engines or ():
        if engine not in found:
            what = "installed here" if engine in BACKENDS else "an engine"
            raise click.UsageError(f"--engines {engine}: is not {what}: found {', '.join(found)}")
    if not found:
        raise click.UsageError("--engines: neither MXNet nor PyTorch is installed")
    return engines or found


def measure(name: str, graph: Graph, device: str, engine: str, repeat: int) -> Measured:
    """Return what a network costs, measured by a process of its own."""
    from ademx.engines.backends import training_memory
    from ademx.networks.summary import summarise

    summary = summarise(graph)
    row = Measured(
        network=name,
        label=graph.label,
        depth=summary.depth,
        parameters=summary.parameters,
        macs=summary.macs // graph.input_shape[0],
        device=device,
        engine=engine,
        planned_bytes=training_memory(engine, graph, backward_do_mirror=False).total,
    )
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    job = (graph.label, graph.input_shape, graph.width, device, engine, repeat)
    process = context.Process(target=_measure, args=(theirs, *job), daemon=True)
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:  # it ended without a word
        process.join()
        found = {"error": f"its process ended with {process.exitcode}: too little memory?"}
    process.join()
    return replace(row, **found)


def _measure(connection: Connection, *job: Any) -> None:
    """Send what was measured, or why nothing was."""
    from ademx.errors import UserError

    try:
        connection.send(_figures(*job))
    # RuntimeError is what MXNet and PyTorch raise, of memory that does not suffice, say.
    except (UserError, RuntimeError, MemoryError) as error:
        connection.send({"error": one_line(error)})


def _figures(
    label: str,
    shape: tuple[int, int, int, int],
    width: float,
    device: str,
    engine: str,
    repeat: int,
) -> dict[str, Any]:
    from ademx.convert.files import NetworkWeights
    from ademx.devices import Devices
    from ademx.engines.backends import predictor_class

    devices = Devices() if device == CPU else Devices(gpus=(int(device),))
    {"mxnet": import_mxnet, "torch": import_torch}[engine]()
    before = held_bytes(engine, devices)
    trainer, data, truth = noise_updates(label, shape, backend=engine, devices=devices, width=width)
    trainer.step(data, truth)  # the first update allocates
    reset_peak()
    seconds = list(_timed(partial(trainer.step, data, truth), repeat))
    held = held_bytes(engine, devices, peak=True)
    arguments, statistics_ = trainer.parameters()
    del trainer
    weights = NetworkWeights({**arguments, **statistics_}, f"{label}_ep-0001.params")
    predictor = predictor_class(engine)(weights, devices=devices)
    predictor(data, batch=shape[0])
    tests = list(_timed(partial(predictor, data, batch=shape[0]), repeat))
    return {
        "measured_bytes": None if None in (before, held) else held - before,
        "train_images_s": shape[0] / statistics.median(seconds),
        "test_images_s": shape[0] / statistics.median(tests),
    }


def _timed(function: Any, repeat: int) -> Iterator[float]:
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        yield time.perf_counter() - start


def format_networks(rows: Sequence[Measured]) -> list[str]:
    """Return the lines of the table, and what could not be measured."""
    head = ("network", "depth", "parameters", "GMACs", "device", "engine", "planned", "measured")
    cells = [(*head, "testing", "training")]
    for row in rows:
        cells.append(
            (
                *(row.network, str(row.depth), f"{row.parameters / 1e6:.1f} M"),
                *(f"{row.macs / 1e9:.2f}", row.device, row.engine),
                *(_gib(row.planned_bytes), _gib(row.measured_bytes)),
                *(_rate(row.test_images_s), _rate(row.train_images_s)),
            )
        )
    failures = [f"{row.network} by {row.engine}: {row.error}" for row in rows if row.error]
    return align(cells) + failures


def _gib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**30:.2f} GiB"


def _rate(images: float | None) -> str:
    return "–" if images is None else f"{images:.3g}/s"


def claims(rows: Sequence[Measured]) -> list[str]:
    """Return whether the paper's claim of Model A and ResNet-152 holds, on devices by engines."""
    lines = ["The paper: Model A needs less memory than ResNet-152 and trains as fast or faster."]
    for device, engine in dict.fromkeys((row.device, row.engine) for row in rows):
        found = {row.label: row for row in rows if (row.device, row.engine) == (device, engine)}
        lines.append(f"{engine} on {device}: {_claim(found.get(_A), found.get(_RESNET_152))}")
    return lines


def _claim(ours: Measured | None, theirs: Measured | None) -> str:
    if ours is None or theirs is None:
        return "needs both of them: `--networks a,rn-152`"
    figures = ours.measured_bytes, theirs.measured_bytes, ours.train_images_s, theirs.train_images_s
    if None in figures:
        return "not measured"
    bytes_, other_bytes, speed, other_speed = figures
    memory = f"{bytes_ / other_bytes:.2f} of its memory ({_word(bytes_ < other_bytes)})"
    return f"{memory}, {speed / other_speed:.2f} times as fast ({_word(speed >= other_speed)})"


def _word(holds: bool) -> str:
    return "holds" if holds else "does not hold"

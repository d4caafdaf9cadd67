"""`bench.py networks`: what networks cost, planned and measured, by each engine and device.

Every measurement has a process of its own, so that its memory is its own. Weights are drawn and
images are noise: neither time nor memory depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from bench_process import engine_bytes, in_own_process, reset_peak
from bench_rows import json_option, seconds_in_turns
from bench_training import noise_updates

from ademx.cli import options as shared
from ademx.cli.tables import aligned
from ademx.compat import import_mxnet
from ademx.convert import import_torch
from ademx.convert.files import NetworkWeights
from ademx.devices import Devices
from ademx.engines.backends import BACKENDS, predictor_class, training_memory
from ademx.errors import UserError
from ademx.files import write_json
from ademx.iteration import progress_bar
from ademx.networks.summary import Graph, load_graph, summarise
from ademx.text import one_line

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


def _names(_: object, parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    """Return names with commas between them, each once."""
    if text is None:
        return None
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise click.BadParameter("expected names with commas between them", param=parameter)
    return names


names_option = partial(click.option, metavar="NAME,…", callback=_names)


@click.command()
@names_option(
    "--networks",
    default=",".join(NETWORKS),
    show_default=True,
    help="Names as `ademx summary` takes them, block specs and labels too.",
)
@names_option("--devices", default=CPU, show_default=True, help='"cpu" and numbers of GPUs.')
@names_option("--engines", help="Of mxnet and torch.  [default: those that are installed]")
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Images.")
@click.option(
    "--input",
    "input_size",
    type=shared.SIZE,
    help="Size of images.  [default: the training crop's]",
)
@click.option("--width", type=click.FloatRange(0, min_open=True), default=1.0, help="For a trial.")
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Of each.")
@json_option
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
    graphs = {
        name: load_graph(name, input_size=input_size, batch=batch, width=width) for name in networks
    }
    plan = [
        (name, device, engine)
        for name in networks
        for device in _check_devices(devices)
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


def _check_devices(devices: Sequence[str]) -> Sequence[str]:
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
    job = partial(
        _measure,
        graph.label,
        graph.input_shape,
        width=graph.width,
        device=device,
        engine=engine,
        repeat=repeat,
    )
    try:
        found = in_own_process(job)
    except BrokenProcessPool:  # it ended without a word
        found = {"error": "its process was ended by the system: too little memory?"}
    return replace(row, **found)


def _measure(
    label: str,
    shape: tuple[int, int, int, int],
    *,
    width: float,
    device: str,
    engine: str,
    repeat: int,
) -> dict[str, Any]:
    """Return what was measured, or why nothing was."""
    devices = Devices() if device == CPU else Devices(gpus=(int(device),))
    try:
        return _figures(label, shape, width=width, engine=engine, devices=devices, repeat=repeat)
    # RuntimeError is what MXNet and PyTorch raise, of memory that does not suffice, say.
    except (UserError, RuntimeError, MemoryError) as error:
        return {"error": one_line(error)}


def _figures(
    label: str,
    shape: tuple[int, int, int, int],
    *,
    width: float,
    engine: str,
    devices: Devices,
    repeat: int,
) -> dict[str, Any]:
    {"mxnet": import_mxnet, "torch": import_torch}[engine]()
    before = engine_bytes(engine, devices)
    trainer, data, truth = noise_updates(label, shape, backend=engine, devices=devices, width=width)
    trainer.step(data, truth)  # the first update allocates
    reset_peak()
    training = seconds_in_turns({"step": partial(trainer.step, data, truth)}, repeat)["step"]
    held = engine_bytes(engine, devices, peak=True)
    arguments, statistics = trainer.parameters()
    del trainer
    weights = NetworkWeights({**arguments, **statistics}, f"{label}_ep-0001.params")
    predictor = predictor_class(engine)(weights, devices=devices)
    run = partial(predictor, data, batch=shape[0])
    testing = seconds_in_turns({"run": run}, repeat, warm_up=True)["run"]
    return {
        "measured_bytes": None if None in (before, held) else held - before,
        "train_images_s": shape[0] / training,
        "test_images_s": shape[0] / testing,
    }


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
    return [aligned(cells, num_texts=len(cells[0])), *failures]


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

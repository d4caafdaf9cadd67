"""`ademx summary`: what a network costs, level by level, and its drawing."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import click

from ademx import options as declare
from ademx.cli import options as shared
from ademx.cli.symbol import weights_in
from ademx.cli.tables import aligned
from ademx.engines.backends import CHOICES, resolve_backend, training_memory
from ademx.files import replacing
from ademx.networks.drawing import draw
from ademx.networks.summary import (
    Graph,
    LevelSummary,
    Summary,
    TrainingMemory,
    load_graph,
    summarise,
)
from ademx.options import option

_ORIGINS = {
    "released": "released",
    "drawn": "drawn in the release, which has no code for it",
    "reconstructed": "RECONSTRUCTED from the paper, not released",
    "baseline": "baseline of arXiv:1512.03385",
    "spec": "built from a block spec",
}
_HEADER = (
    *("level", "output", "channels", "blocks", "dilation"),
    *("parameters", "moving stats", "GMACs", "activations"),
)


@click.command()
@click.argument("label")
@shared.from_signature
def summary(
    label: str,
    input_size: tuple[int, int] | None = option(
        None,
        "Size of the input, pixels; the training crop, or 504x504 for segmentation.",
        names=("--input",),
        metavar="HxW",
    ),
    batch: int = option(1, "Images.", least=1),
    width: float = declare.width(),
    pool: str = declare.pool(),
    head: str = declare.head("Top of a segmentation network."),
    training: bool = option(False, "Memory of training; the batch is a device's."),
    backend: str = option(
        "auto",
        "Who trains; auto: as `ademx train`, and PyTorch, whose plan needs no package, where "
        "neither is installed.",
        choices=CHOICES,
    ),
    backward_do_mirror: bool = option(False, "As in training: compute layers again."),
    plot: Path | None = shared.plot_file("Draw the graph: a .pdf, .png or .svg file."),
    json_file: Path | None = shared.json_file("Write the numbers as JSON."),
    overwrite: bool = shared.overwrite("Replace files that exist."),
) -> None:
    """Parameters, operations, memory and depth of LABEL, per level.

    LABEL is a model label (voc_rna-a1_cls21_s8), a FILE of weights whose name is one and which
    tells width and head, a block spec (rna-224-0-3-3-6-3-1-1) or a network's name: a, a1, a2, b, c
    (B and C were never released: our reading of the paper), rn-plain34, rn-34a, rn-34b, rn-34c,
    rn-50, rn-101, rn-152, and rn-50b, rn-101b, rn-152b, whose 3×3 convolutions stride as in
    torchvision.
    """
    if weights := weights_in(label, allow_headless=True):
        width, head = weights.width, weights.head
    graph = load_graph(label, input_size=input_size, batch=batch, width=width, pool=pool, head=head)
    result = summarise(graph)
    facts = {name: getattr(graph, name) for name in ("label", "origin", "input_shape", "width")}
    numbers = {**facts, **dataclasses.asdict(result)}
    report = _report(graph, result)
    if training or backward_do_mirror:
        backend = _planner(backend)
        memory = training_memory(backend, graph, backward_do_mirror=backward_do_mirror)
        parts = dataclasses.asdict(memory)
        numbers["training"] = {**parts, "total": memory.total, "backend": backend}
        report += _training_report(memory, batch, backend)
    if plot:
        picture = draw(graph, plot.suffix.lstrip(".").lower())
        with replacing(plot) as file:
            file.write(picture)
    shared.write_record(json_file, numbers)
    click.echo(report)


def _planner(backend: str) -> str:
    """Return whose memory is told."""
    engine = resolve_backend(backend, None)
    return engine if backend != "auto" or find_spec(engine) else "torch"


def _report(graph: Graph, result: Summary) -> str:
    """Return the table with the facts on the whole network around it."""
    rows = [_HEADER, *map(_row, result.levels), _totals(result)]
    width = "" if graph.width == 1 else f", width ×{graph.width:g}"
    return "\n".join(
        [
            f"{graph.label}: {_ORIGINS[graph.origin]}",
            f"depth {result.depth}, input {'×'.join(map(str, graph.input_shape))}{width}",
            "",
            aligned(rows, num_texts=0),
            "",
            "GMACs: 1e9 multiply-adds of convolutions and linear layers, whole batch.",
            "activations: every operator's output as float32, whole batch; training in MXNet",
            "allocates about two thirds of it, as some operators write over their input.",
        ]
    )


def _training_report(memory: TrainingMemory, batch: int, backend: str) -> str:
    """Return the memory of training, a line for each part."""
    rows = {
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "momentum": memory.momentum,
        "inputs": memory.inputs,
        "activations, planned": memory.plan,
        "total": memory.total,
    }
    lines = [f"{name:20}  {value / 2**20:10,.1f} MiB" for name, value in rows.items()]
    by = {"mxnet": "MXNet", "torch": "PyTorch"}[backend]
    title = f"training by {by}, float32, batch of {batch} on each device:"
    workspace = "workspaces"
    if memory.workspace:
        workspace = f"up to {memory.workspace / 2**20:,.0f} MiB of workspace"
    return "\n".join(
        ["\n", title, *lines, f"On a GPU the CUDA context and {workspace} come on top."]
    )


def _row(level: LevelSummary) -> tuple[str, ...]:
    return (
        level.name,
        "×".join(map(str, level.output_size)),
        f"{level.channels:,}",
        str(level.blocks or "-"),
        ", ".join(map(str, level.dilations)) or "-",
        *_costs(level),
    )


def _totals(result: Summary) -> tuple[str, ...]:
    blocks = sum(level.blocks for level in result.levels)
    return ("total", "", "", str(blocks), "", *_costs(result))


def _costs(row: LevelSummary | Summary) -> tuple[str, ...]:
    return (
        f"{row.parameters:,}",
        f"{row.auxiliary:,}",
        f"{row.macs / 1e9:,.3f}",
        f"{row.activation_bytes / 2**20:,.1f} MiB",
    )

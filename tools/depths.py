"""The paper's argument in small: deeper or wider, with shortcuts or without (arXiv:1611.10080, §3).

    python tools/depths.py --plot depths.png --json depths.json

trains plain and residual networks of growing depth, and of growing width at about the same cost,
alike on drawn shapes, and prints their errors beside the effective depths of the residual ones.

What came of it with seed 0: of 50 layers the plain network did not train (73.5 % error) and the
residual one did (0.0 %), at an effective depth of 10 of its 24 units; 12 units have 8, 6 have 6,
3 have 3. At these costs depth did better than width: 14 layers 0.0 %, 8 wider ones 1.5 to 2.7 %.

Two to four minutes on two cores (`pip install 'ademx[cpu,plot]'`, or `torch` in place of `cpu`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from ademx.cli.options import check_writable
from ademx.cli.tables import aligned
from ademx.devices import Devices
from ademx.engines.backends import open_segments
from ademx.files import replacing, write_json
from ademx.iteration import progress_bar
from ademx.labels import parse_label
from ademx.networks import unravel
from ademx.networks.graph import list_layers
from ademx.networks.summary import load_graph, summarise
from ademx.pictures import check_format, new_figure
from ademx.training import ClassificationTrainOptions, start_trainer
from ademx.unravelling.measure import loss_and_gradient, measure
from iters.drawn import draw_for_classification
from iters.transforms import RN, center_crop, normalize
from symbols.levels import RN_NETWORKS, LevelSpec, Network

SIDE, CLASSES, COLOURS, BATCH = 48, 6, 60, 30
CHANNELS = (16, 32, 64)  # of three levels, at 12×12, 6×6 and 3×3
DEPTHS = (1, 2, 4, 8)  # blocks of two convolutions on each level
RATE = 0.05
_KINDS = {"plain": "none", "residual": "A"}  # shortcuts without parameters: at one cost


@dataclass(frozen=True)
class Row:
    """A network and what came of it, means over the seeds; errors are fractions.

    `effective_depth` counts units, and `starved` those without a hundredth of the first's gradient.
    """

    kind: str
    grows: str
    layers: int
    units: int
    width: float
    parameters: int
    macs: int
    loss: float
    train_error: float
    error: float
    effective_depth: float | None = None
    starved: float | None = None


def label_of(kind: str, blocks: int) -> str:
    """Return the label of a network with so many blocks on each level, now one of the table's."""
    variant = f"{kind}{2 + 2 * blocks * len(CHANNELS)}"
    levels = tuple(
        LevelSpec(index, blocks, (width, width), (3, 3), stride=1 + (index > 2), project=False)
        for index, width in enumerate(CHANNELS, start=2)
    )
    RN_NETWORKS[variant] = Network(
        *("rn", variant, SIDE, CHANNELS[0], levels), origin="spec", shortcut=_KINDS[kind]
    )
    return f"own-drawn-cls_rn-{variant}_cls{CLASSES}"


def cost(label: str, width: float) -> Any:
    """Return the summary of a network for one image."""
    return summarise(load_graph(label, input_size=(SIDE, SIDE), width=width))


def width_at_cost(label: str, macs: int) -> float:
    """Return the multiplier of all channels that comes nearest to a cost.

    It is one of halves: MXNet cannot append zeros to channels that are no multiple of 8.
    """
    widths = [halves / 2 for halves in range(2, 17)]
    return min(widths, key=lambda width: abs(cost(label, width).macs - macs))


@functools.cache
def drawn(split: str, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images, (N, 3, 48, 48) float32, and their shapes, (N,) int64, whatever the colours."""
    data, shapes = [], []
    for number in range(images):
        image, class_id = draw_for_classification(COLOURS, split, number, seed=seed)
        small = Image.fromarray(center_crop(image, 96)).resize((SIDE, SIDE), Image.Resampling.BOX)
        data.append(normalize(np.asarray(small), RN) / 64)
        shapes.append(class_id % CLASSES)
    return np.stack(data), np.array(shapes)


def trained(
    label: str, width: float, *, images: int, epochs: int, seed: int
) -> tuple[dict[str, np.ndarray], float]:
    """Return the parameters of a trained network, and its mean loss in the last epoch."""
    options = ClassificationTrainOptions(
        data_root=Path(), to_epoch=epochs, model=label, batch_images=BATCH, width=width, seed=seed,
        base_lr=RATE, lr_type="linear", weight_decay=1e-4,
    )  # fmt: skip
    batches = images // BATCH
    trainer = start_trainer(options, data_shape=(BATCH, 3, SIDE, SIDE), num_batches=batches)
    data, shapes = drawn("train", images, seed)
    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(epochs):
        losses = []
        for rows in rng.permutation(images)[: batches * BATCH].reshape(batches, BATCH):
            found = trainer.step(data[rows], shapes[rows].astype(np.float32))
            losses.append(found.sums.loss / BATCH)
    parameters, statistics = trainer.parameters()
    return {**parameters, **statistics}, float(np.mean(losses))


def result(
    label: str, width: float, *, images: int, epochs: int, seed: int
) -> tuple[float, float, float, float | None, float | None]:
    """Return loss, training and test error, and effective depth and starved units if residual."""
    parameters, loss = trained(label, width, images=images, epochs=epochs, seed=seed)
    layers = list_layers(parse_label(label), width=width)
    options = ClassificationTrainOptions(data_root=Path(), to_epoch=1, model=label)
    engine = open_segments(layers, parameters, backend=options.engine, devices=Devices())
    segments = unravel.cut(layers)

    def error(split: str) -> float:
        data, shapes = drawn(split, images, seed)
        return float(loss_and_gradient(unravel.run(engine, segments, data)[-1], shapes)[1].mean())

    errors = error("train"), error("test")
    if not any(segment.is_unit for segment in segments):
        return loss, *errors, None, None
    data, shapes = drawn("test", BATCH, seed)
    found = measure(engine, layers, data, list(shapes), paths=0)
    return loss, *errors, found.effective_depth, len(found.units_starved)


def plan() -> list[tuple[str, str, int, float]]:
    """Return kind, what grows, blocks a level and width of every network."""
    rows = [(kind, "depth", blocks, 1.0) for kind in _KINDS for blocks in DEPTHS]
    for kind in _KINDS:
        base = label_of(kind, DEPTHS[0])
        for blocks in DEPTHS[1:]:
            macs = cost(label_of(kind, blocks), 1.0).macs
            rows.append((kind, "width", DEPTHS[0], width_at_cost(base, macs)))
    return rows


@click.command()
@click.option("--images", default=480, show_default=True, type=click.IntRange(min=BATCH))
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(min=1))
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--overwrite", is_flag=True)
def main(
    images: int, epochs: int, seeds: int, plot: Path | None, json_file: Path | None, overwrite: bool
) -> None:
    """Train plain and residual networks, deeper and wider, and print what came of them."""
    check_writable([plot, json_file], overwrite=overwrite)
    if plot:
        check_format(plot.suffix[1:])
    rows = []
    for kind, grows, blocks, width in progress_bar(iterable=plan(), unit="network"):
        label = label_of(kind, blocks)
        runs = [result(label, width, images=images, epochs=epochs, seed=s) for s in range(seeds)]
        loss, train_error, error, *depths = (
            None if column[0] is None else float(np.mean(column)) for column in zip(*runs)
        )
        summary = cost(label, width)
        units = blocks * len(CHANNELS) if kind == "residual" else 0
        numbers = (summary.depth, units, width, summary.parameters, summary.macs)
        rows.append(Row(kind, grows, *numbers, loss, train_error, error, *depths))
    if json_file:
        write_json(json_file, [dataclasses.asdict(row) for row in rows])
    if plot:
        with replacing(plot) as file:
            draw(rows, file, plot.suffix[1:])
    click.echo(table(rows))


def table(rows: list[Row]) -> str:
    """Return the rows aligned."""
    cells = [
        (*("network", "grows in", "layers", "width", "parameters", "MMACs"),
         *("loss", "train error %", "error %", "effective depth", "starved"))
    ]  # fmt: skip
    for row in rows:
        effective = "–" if row.units == 0 else f"{row.effective_depth:g} of {row.units}"
        starved = "–" if row.units == 0 else f"{row.starved:g}"
        cost = str(row.layers), f"{row.width:g}", f"{row.parameters:,}", f"{row.macs / 1e6:.1f}"
        errors = f"{100 * row.train_error:.1f}", f"{100 * row.error:.1f}"
        cells.append((row.kind, row.grows, *cost, f"{row.loss:.3f}", *errors, effective, starved))
    return aligned(cells, num_texts=2)


def draw(rows: list[Row], file: Any, picture_format: str) -> None:
    """Draw errors over cost, and effective depths over units."""
    figure = new_figure()
    figure.set_size_inches(10, 4)
    errors, depths = figure.subplots(1, 2)
    for kind, colour in zip(_KINDS, ("C1", "C0")):
        for grows, style in (("depth", "o-"), ("width", "s--")):
            chosen = [r for r in rows if r.kind == kind and (r.grows == grows or is_base(r))]
            places = [row.macs / 1e6 for row in chosen], [100 * row.error for row in chosen]
            errors.plot(*places, style, color=colour, label=f"{kind}, growing {grows}")
    errors.set(xscale="log", xlabel="million multiply-adds an image", title="test error, %")
    errors.set_yscale("symlog", linthresh=1)
    errors.set_ylim(bottom=-0.05)
    deep = [row for row in rows if row.units and row.grows == "depth"]
    units = [row.units for row in deep]
    depths.plot(units, units, ":", color="grey", label="all units")
    depths.plot(units, [row.effective_depth for row in deep], "o-", label="growing depth")
    wide = [row for row in rows if row.units and row.grows == "width"]
    places = [row.units for row in wide], [row.effective_depth for row in wide]
    depths.plot(*places, "s", label="growing width")
    depths.set(xlabel="units", title="effective depth of the residual networks")
    for axes in (errors, depths):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(file, format=picture_format, dpi=120)


def is_base(row: Row) -> bool:
    """Return whether both kinds of growing begin with a network."""
    return row.grows == "depth" and math.isclose(row.layers, 2 + 2 * DEPTHS[0] * len(CHANNELS))


if __name__ == "__main__":
    main()

"""`bench.py evaluation`: the network's forward pass, and what follows it in segmentation.

Each row times ours and a reference in turns, in the same process, and gives their ratio. To add
a row, write a function from the number of runs to a :class:`Row` and list it in `MEASUREMENTS`.
On two cores it takes about six minutes, in three of which PyTorch compiles; `--quick` less than
one. BLAS uses all cores unless told otherwise (`OPENBLAS_NUM_THREADS=1`).

Forward passes of Model A1 are by both engines, and by plain PyTorch. The weights are random: time
does not depend on them. A classifier's image of 224 × 224 takes 49.5 GMACs, one of 504 × 504 at
output stride 8 takes 580. All that is compared for a network and precision is run in turns. With
random weights a network amplifies the last digits more than a trained one does: what results are
worth is the tests' matter, not this one's.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from bench_rows import (
    Row,
    compare,
    gpus_option,
    json_option,
    report,
    runs_mxnet,
    seconds_in_turns,
)
from numpy.typing import NDArray
from PIL import Image

from ademx.compat import cpu_has_bfloat16, import_mxnet
from ademx.convert.files import NetworkWeights
from ademx.devices import Devices
from ademx.labels import parse_label
from ademx.metrics import confusion_matrix
from ademx.networks.graph import build_symbol, parameter_shapes
from ademx.testing.numerics import SCORE_MARGIN
from ademx.testing.score_maps import ScoreResizer, best_class, best_class_and_ties
from ademx.training.initial import initial_values

# A Cityscapes image: height and width, the network's stride, classes.
IMAGE = (1024, 2048)
STRIDE = 8
NUM_CLASSES = 19
# What the rows call a network -> its label and the side of its images, pixels.
NETWORKS = {
    "A1 at 224": ("ilsvrc-cls_rna-a1_cls1000", 224),
    "A1 stride 8 at 504": ("voc_rna-a1_cls21_s8", 504),
}
_WAYS = ("eager", "channels last", "compiled")  # of plain PyTorch


@click.command()
@click.option("--repeat", default=5, show_default=True, type=click.IntRange(min=1), help="Runs.")
@click.option("--quick", is_flag=True, help="One run of each, and nothing compiled.")
@gpus_option
@json_option
def evaluation(repeat: int, quick: bool, gpus: tuple[int, ...], json_file: Path | None) -> None:
    """Time forward passes, the enlarging of score maps, the counting of confusion matrices.

    On GPUs forward passes alone: by PyTorch, and by MXNet where it has code for them.
    """
    repeat, devices = 1 if quick else repeat, Devices(gpus=gpus)
    rows = [] if gpus else [measure(repeat) for measure in MEASUREMENTS]
    for name in NETWORKS:
        rows += measure_network(name, repeat, devices, compiled=not quick)
    report(rows, json_file)


def measure_best_class(repeat: int) -> Row:
    """Time score maps to best class, against Pillow class by class and argmax."""
    scores = make_scores()
    parts = [(_resizer(scores), scores)]
    equal = (best_class(parts) == best_class_by_pillow(scores)).mean()
    return compare(
        f"best class of {NUM_CLASSES} score maps, {IMAGE[0]}x{IMAGE[1]}, stride {STRIDE}",
        lambda: best_class(parts),
        lambda: best_class_by_pillow(scores),
        repeat,
        target_ratio=4,
        note=f"Pillow class by class in one thread, then argmax; {equal:.5%} equal pixels",
    )


def measure_near_ties(repeat: int) -> Row:
    """Time best classes with near ties counted, against best classes alone."""
    scores, (truth, _) = make_scores(), make_labels()
    parts = [(_resizer(scores), scores)]
    equal = (best_class_and_ties(parts, truth, margin=SCORE_MARGIN)[0] == best_class(parts)).all()
    return compare(
        "best class and near ties, where a score is judged",
        lambda: best_class_and_ties(parts, truth, margin=SCORE_MARGIN),
        lambda: best_class(parts),
        repeat,
        target_ratio=1 / 1.3,
        note=f"best class alone; {'equal' if equal else 'NOT EQUAL'}",
    )


def measure_confusion_matrix(repeat: int) -> Row:
    """Time the confusion matrix, against set intersections class by class."""
    label, prediction = make_labels()
    ours = confusion_matrix(label, prediction, NUM_CLASSES)
    equal = (ours == confusion_matrix_by_sets(label, prediction)).all()
    return compare(
        f"confusion matrix of {NUM_CLASSES} classes, {IMAGE[0]}x{IMAGE[1]}",
        lambda: confusion_matrix(label, prediction, NUM_CLASSES),
        lambda: confusion_matrix_by_sets(label, prediction),
        repeat,
        target_ratio=100,
        note=f"set intersection class by class; {'equal' if equal else 'NOT EQUAL'}",
    )


def _resizer(scores: NDArray[np.float32]) -> ScoreResizer:
    return ScoreResizer(grid=scores.shape[1:], canvas=IMAGE, image=IMAGE, original=IMAGE)


def best_class_by_pillow(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the best class by the release's way: every map at full size, then argmax."""
    size = (IMAGE[1], IMAGE[0])
    maps = [np.asarray(Image.fromarray(one).resize(size, Image.BICUBIC)) for one in scores]
    return np.argmax(maps, axis=0)


def confusion_matrix_by_sets(
    label: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Return the confusion matrix from sets of the pixels of each class."""
    truths = [set(np.flatnonzero(label == index)) for index in range(NUM_CLASSES)]
    guesses = [set(np.flatnonzero(prediction == index)) for index in range(NUM_CLASSES)]
    return np.array([[len(truth & guess) for guess in guesses] for truth in truths])


def make_scores() -> NDArray[np.float32]:
    """Return probabilities (C, h, w) float32 that vary smoothly, as a network's do."""
    height, width = (side // STRIDE for side in IMAGE)
    logits = np.random.default_rng(0).standard_normal((NUM_CLASSES, height, width))
    for _ in range(3):
        logits += sum(np.roll(logits, shift, axis) for axis in (1, 2) for shift in (-1, 1))
    exponentials = np.exp(logits / logits.std() * 4)
    return (exponentials / exponentials.sum(0)).astype(np.float32)


def make_labels() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a label of square regions, 5 % of it ignored, and a prediction 90 % right."""
    rng = np.random.default_rng(0)
    regions = rng.integers(NUM_CLASSES, size=(IMAGE[0] // 32, IMAGE[1] // 32), dtype=np.uint8)
    label = regions.repeat(32, axis=0).repeat(32, axis=1)
    guesses = rng.integers(NUM_CLASSES, size=IMAGE, dtype=np.uint8)
    prediction = np.where(rng.random(IMAGE) < 0.1, guesses, label)
    label[rng.random(IMAGE) < 0.05] = 255
    return label, prediction


def measure_network(name: str, repeat: int, devices: Devices, *, compiled: bool) -> list[Row]:
    """Time a network in both precisions by both engines, beside the best of plain PyTorch.

    Args:
        name: a key of :data:`NETWORKS`.
        repeat: runs of each.
        devices: where to compute.
        compiled: time what is compiled too, which takes up to a minute a network and precision.
    """
    rows, of_mxnet = [], {}
    for precision in ("float32", "bfloat16"):
        seconds = _seconds(name, precision, repeat, devices, compiled=compiled)
        best = min(_WAYS, key=lambda way: seconds.get(way, np.inf))
        of_mxnet[precision] = seconds.get("MXNet")
        for ours, target in (("torch", 1 / 1.2), ("torch uncompiled", None), ("MXNet", None)):
            if ours in seconds:
                note = ", ".join(f"{way} {seconds[way]:.2f} s" for way in _WAYS if way in seconds)
                on = "" if not devices.gpus else f" on {', '.join(devices.names())}"
                what = f"forward, {name}, {precision}, by {ours}{on}"
                found = seconds[ours], seconds[best]
                rows.append(Row(what, *found, target, f"plain PyTorch, the best of: {note}"))
    return rows if None in of_mxnet.values() else [*rows, _gain(name, of_mxnet)]


def _gain(name: str, seconds: dict[str, float]) -> Row:
    target, note = (1.6 if "224" in name else 1.7), "MXNet in float32"
    if not cpu_has_bfloat16():
        target, note = None, f"{note}; this CPU has no bfloat16"
    what = f"forward, {name}, bfloat16, by MXNet"
    return Row(what, seconds["bfloat16"], seconds["float32"], target, note)


def _seconds(
    name: str, precision: str, repeat: int, devices: Devices, *, compiled: bool
) -> dict[str, float]:
    """Return the median seconds of each way to compute, all run in turns."""
    runs = dict(_runs(name, precision, devices, compiled=compiled))
    # The first run compiles, lays out weights, binds.
    seconds = seconds_in_turns(runs, repeat, warm_up=True)
    runs.clear()
    gc.collect()  # weights of half a gigabyte
    return seconds


def _runs(
    name: str, precision: str, devices: Devices, *, compiled: bool
) -> Iterator[tuple[str, Callable[[], object]]]:
    from ademx.engines.mxnet.predict import Predictor
    from ademx.engines.torch.predict import TorchPredictor

    label, size = NETWORKS[name]
    images = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    options: dict[str, Any] = {"devices": devices, "precision": precision}
    weights = NetworkWeights(_parameters(label), "random", parse_label(label))

    def on(predictor: Callable[..., np.ndarray]) -> Callable[[], np.ndarray]:
        return lambda: predictor(images, batch=1)

    if runs_mxnet(devices) and not (devices.gpus and precision == "bfloat16"):
        yield "MXNet", on(Predictor(weights, **options))
    yield "torch uncompiled" if compiled else "torch", on(TorchPredictor(weights, **options))
    for way in _WAYS if compiled else _WAYS[:2]:
        yield way, _plain_torch(label, images, precision, way, devices)
    if compiled:
        yield "torch", on(TorchPredictor(weights, compiled=True, **options))


def _plain_torch(
    label: str, images: np.ndarray, precision: str, way: str, devices: Devices
) -> Callable[[], np.ndarray]:
    """Return what computes the network as PyTorch's own documentation tells."""
    import torch

    from ademx.convert import to_torch
    from ademx.convert.torch_model import build
    from ademx.engines.torch.predict import torch_devices

    device = torch_devices(devices)[0]
    layout = torch.contiguous_format if way == "eager" else torch.channels_last
    network = build(label).eval().requires_grad_(False)
    network.load_state_dict(to_torch(_parameters(label), {}, "native"))
    network = network.to(device, getattr(torch, precision)).to(memory_format=layout)
    if way == "compiled":
        network = torch.compile(network, options={"freezing": True})

    def run() -> np.ndarray:
        data = torch.from_numpy(images).to(device, getattr(torch, precision))
        scores = network(data.contiguous(memory_format=layout))
        return scores.float().softmax(1).cpu().numpy()

    return torch.inference_mode()(run)


def measure_bind(repeat: int) -> Row:
    """Time testing by MXNet, against binding the training graph as it is."""
    mx = import_mxnet()  # before anything imports it otherwise, with half of the threads
    label, size = NETWORKS["A1 at 224"]
    values = {name: mx.nd.array(value) for name, value in _parameters(label).items()}
    image = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    inputs = {"data": mx.nd.array(image), "softmax_label": mx.nd.zeros((1,))}
    executor = build_symbol(label).bind(
        mx.cpu(), {**values, **inputs}, aux_states=values, grad_req="null"
    )
    _, ours = next(_runs("A1 at 224", "float32", Devices(), compiled=False))

    def plain() -> np.ndarray:
        scores: np.ndarray = executor.forward(is_train=False)[0].asnumpy()
        return scores

    return compare(
        "forward for testing, A1 at 224, float32",
        ours,
        plain,
        repeat,
        target_ratio=0.97,  # both run the same operators; 3 % are the machine's noise
        note="a plain bind of the training graph",
        warm_up=True,  # binds, lays out weights
    )


@cache
def _parameters(label: str) -> dict[str, np.ndarray]:
    task = parse_label(label).task
    return initial_values(parameter_shapes(label), task=task, seed=0)


MEASUREMENTS: tuple[Callable[[int], Row], ...] = (
    measure_best_class,
    measure_near_ties,
    measure_confusion_matrix,
    measure_bind,
)

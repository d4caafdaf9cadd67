"""`bench.py evaluation`: the network's forward pass, and what follows it in segmentation.

Each row times ours and a reference in turns, in the same process, and gives their ratio. To add
a row, write a function from the number of runs to a :class:`Row` and list it in `MEASUREMENTS`.
On two cores it takes about six minutes, in three of which PyTorch compiles; `--quick` less than
one. BLAS uses all cores unless told otherwise (`OPENBLAS_NUM_THREADS=1`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from bench_rows import Row, gpus_option, report, time_in_turns
from PIL import Image

from ademx.devices import Devices

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# A Cityscapes image: height and width, the network's stride, classes.
IMAGE = (1024, 2048)
STRIDE = 8
NUM_CLASSES = 19


@click.command()
@click.option("--repeat", default=5, show_default=True, type=click.IntRange(min=1), help="Runs.")
@click.option("--quick", is_flag=True, help="One run of each, and nothing compiled.")
@gpus_option
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def evaluation(repeat: int, quick: bool, gpus: tuple[int, ...], json_file: Path | None) -> None:
    """Time forward passes, the enlarging of score maps, the counting of confusion matrices.

    On GPUs forward passes alone: by PyTorch, and by MXNet where it has code for them.
    """
    import bench_forward

    repeat, devices = 1 if quick else repeat, Devices(gpus=gpus)
    on_cpu = (*MEASUREMENTS, bench_forward.measure_bind)
    rows = [] if gpus else [measure(repeat) for measure in on_cpu]
    for name in bench_forward.NETWORKS:
        rows += bench_forward.measure_network(name, repeat, devices, compiled=not quick)
    report(rows, json_file)


def measure_best_class(repeat: int) -> Row:
    """Time score maps to best class, against Pillow class by class and argmax."""
    from ademx.testing.score_maps import ScoreResizer, best_class

    scores = make_scores()
    resizer = ScoreResizer(grid=scores.shape[1:], canvas=IMAGE, image=IMAGE, original=IMAGE)
    equal = (best_class([(resizer, scores)]) == best_class_by_pillow(scores)).mean()
    ours_s, reference_s = time_in_turns(
        lambda: best_class([(resizer, scores)]), lambda: best_class_by_pillow(scores), repeat
    )
    return Row(
        what=f"best class of {NUM_CLASSES} score maps, {IMAGE[0]}x{IMAGE[1]}, stride {STRIDE}",
        ours_s=ours_s,
        reference_s=reference_s,
        target_ratio=4,
        note=f"Pillow class by class in one thread, then argmax; {equal:.5%} equal pixels",
    )


def measure_near_ties(repeat: int) -> Row:
    """Time best classes with near ties counted, against best classes alone."""
    from ademx.testing.numerics import SCORE_MARGIN
    from ademx.testing.score_maps import ScoreResizer, best_class, best_class_and_ties

    scores, (truth, _) = make_scores(), make_labels()
    parts = [
        (ScoreResizer(grid=scores.shape[1:], canvas=IMAGE, image=IMAGE, original=IMAGE), scores)
    ]
    equal = (best_class_and_ties(parts, truth, margin=SCORE_MARGIN)[0] == best_class(parts)).all()
    ours_s, reference_s = time_in_turns(
        lambda: best_class_and_ties(parts, truth, margin=SCORE_MARGIN),
        lambda: best_class(parts),
        repeat,
    )
    return Row(
        what="best class and near ties, where a score is judged",
        ours_s=ours_s,
        reference_s=reference_s,
        target_ratio=1 / 1.3,
        note=f"best class alone; {'equal' if equal else 'NOT EQUAL'}",
    )


def measure_confusion_matrix(repeat: int) -> Row:
    """Time the confusion matrix, against set intersections class by class."""
    from ademx.metrics import confusion_matrix

    label, prediction = make_labels()
    ours = confusion_matrix(label, prediction, NUM_CLASSES)
    equal = (ours == confusion_matrix_by_sets(label, prediction)).all()
    ours_s, reference_s = time_in_turns(
        lambda: confusion_matrix(label, prediction, NUM_CLASSES),
        lambda: confusion_matrix_by_sets(label, prediction),
        repeat,
    )
    return Row(
        what=f"confusion matrix of {NUM_CLASSES} classes, {IMAGE[0]}x{IMAGE[1]}",
        ours_s=ours_s,
        reference_s=reference_s,
        target_ratio=100,
        note=f"set intersection class by class; {'equal' if equal else 'NOT EQUAL'}",
    )


MEASUREMENTS: tuple[Callable[[int], Row], ...] = (
    measure_best_class,
    measure_near_ties,
    measure_confusion_matrix,
)


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

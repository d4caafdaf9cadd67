"""Small finished runs to report on, made from arrays: no network is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ademx.files import write_json
from ademx.metrics import confusion_matrix, segmentation_scores, topk_errors
from ademx.testing.image_counts import ImageCounts, save_image_counts
from ademx.testing.record import Report, RunRecord
from iters.datasets import DATASETS, Dataset, encode_label
from iters.samples import Sample


def write_segmentation_run(
    folder: Path,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    dataset: Dataset = DATASETS["voc"],
    title: str = "voc-a1",
    published: dict | None = None,
) -> Report:
    """Write what a run leaves for (truth, prediction) pairs of class ids, 255 void, and return it.

    An image is its truth as greys, three times.
    """
    labels = folder / "labels"
    labels.mkdir(parents=True)
    samples, counts, total = [], [], 0
    for index, (truth, prediction) in enumerate(pairs):
        name = f"image_{index:03d}"
        image = folder / f"{name}.jpg"
        Image.fromarray(truth * 9).convert("RGB").save(image)
        Image.fromarray(encode_label(dataset, truth)).save(folder / f"{name}.png")
        Image.fromarray(encode_label(dataset, prediction)).save(labels / f"{name}.png")
        samples.append(Sample(index, image, folder / f"{name}.png", name))
        confusion = confusion_matrix(truth, prediction, dataset.num_classes)
        counts.append([confusion.diagonal(), confusion.sum(1), confusion.sum(0)])
        total = total + confusion
    save_image_counts(folder, ImageCounts(tuple(s.name for s in samples), np.array(counts)))
    scores = segmentation_scores(total, absent_classes="skip")
    return _finished(
        folder,
        dataset,
        samples,
        title=title,
        published=published,
        label=f"{dataset.name}_rna-a1_cls{dataset.num_classes}_s8",
        scores={
            "mean_iou": scores.mean_iou,
            "pixel_accuracy": scores.pixel_accuracy,
            "mean_accuracy": scores.mean_accuracy,
            "absent_classes": "skip",
            "confusion": total.tolist(),
        },
    )


def write_classification_run(
    folder: Path,
    probabilities: np.ndarray,
    truth: Sequence[int],
    *,
    title: str = "ilsvrc-a1",
    published: dict | None = None,
) -> Report:
    """Write what a run leaves for (scales, N, 1000) probabilities and N true classes."""
    scales = (256, 320)[: len(probabilities)]
    (folder / "predictions").mkdir(parents=True)
    samples = []
    for index, number in enumerate(truth):
        image = folder / f"photo_{index:03d}.png"
        Image.new("RGB", (24, 16), (index * 9, 120, 60)).save(image)
        samples.append(Sample(index, image, number, image.stem))
    errors = {}
    for scale, rows in zip(scales, probabilities.astype(np.float32)):
        np.save(folder / "predictions" / f"{scale}.npy", rows)
        errors[scale] = _errors(rows, truth)
    return _finished(
        folder,
        DATASETS["ilsvrc-cls"],
        samples,
        title=title,
        published=published,
        label="ilsvrc-cls_rna-a1_cls1000",
        scores={**_errors(probabilities.mean(axis=0), truth), "scales": errors},
        scales=scales,
    )


def _errors(rows: np.ndarray, truth: Sequence[int]) -> dict[str, float]:
    tested = ~np.isnan(rows).any(axis=1)
    found = topk_errors(rows[tested], np.array(truth)[tested])
    return {f"top{rank}_error": error for rank, error in found.items()}


def _finished(
    folder: Path,
    dataset: Dataset,
    samples: Sequence[Sample],
    *,
    title: str,
    label: str,
    scores: dict,
    published: dict | None,
    scales: Sequence[int] = (500,),
) -> Report:
    record = {
        **scores,
        "dataset": dataset.name,
        "num_images": len(samples),
        "num_broken": 0,
        "broken": [],
        "weights": [{"file": f"models/{label}_ep-0001.params", "md5": "0" * 32}],
        "settings": {
            "command": f"evaluate {dataset.task}",
            "labels": [label],
            "dataset": dataset.name,
            "split": "val",
            "samples_md5": "1" * 32,
            "test_scales": list(scales),
            "test_flipping": True,
        },
        "seconds": 2.5,
        "images_per_second": 4.0,
        "devices": ["cpu(0)"],
        "versions": {"ademx": "0.1.0", "numpy": "1.26.4"},
        "published": published,
    }
    write_json(folder / "scores.json", record)
    record = RunRecord.from_json(json.loads((folder / "scores.json").read_text()))
    return Report(folder, record, dataset, samples, title=title)

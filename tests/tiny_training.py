"""Datasets and options so small that a training takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSIFIER = "ilsvrc-cls_rna-224-0-1-1-1-1-1-1_cls4"
SEGMENTER = "voc_rna-224-0-1-1-1-1-1-1_cls21_s8"
WIDTH = 1 / 16

COMMON = {"width": WIDTH, "crop_size": 32, "prefetcher": "thread", "check_step": 1}


def make_data(folder: Path, *, task: str, num_images: int = 6, size: int = 48) -> Path:
    """Write images of noise with labels, and the list of a "train" split."""
    folder.mkdir()
    random = np.random.default_rng(0)
    lines = []
    for number in range(num_images):
        image = random.integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
        lines.append(f"{number}\t{number % 4}\t{number}.png")
        if task == "segmentation":
            label = image[..., 0] // 86
            label[:4] = 255
            Image.fromarray(label).save(folder / f"{number}_label.png")
            lines[-1] = f"{number}.png\t{number}_label.png"
    (folder / "train.lst").write_text("\n".join(lines) + "\n")
    return folder


def segmentation_options(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Return keyword arguments of SegmentationTrainOptions."""
    options = {"model": SEGMENTER, "to_epoch": 3, "batch_images": 2, "origin_size": 48, **COMMON}
    return {**options, "data_root": data, "output": output, **changes}


def classification_options(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Return keyword arguments of ClassificationTrainOptions."""
    options = {"model": CLASSIFIER, "to_epoch": 2, "batch_images": 2, **COMMON}
    return {**options, "data_root": data, "output": output, **changes}

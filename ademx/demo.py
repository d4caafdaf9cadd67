"""A small run of everything on generated data: fit a narrow network, test it, show its labels."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ademx import params
from ademx.compat import import_mxnet
from ademx.evaluation import progress_bar
from ademx.models import build_symbol
from ademx.pictures import colourise, overlay, side_by_side
from ademx.segmentation import SegmentationOptions, SegmentationReport, evaluate_segmentation
from iters import transforms
from iters.datasets import DATASETS, VOID, decode_label
from iters.drawn import write_voc
from iters.lists import Sample, find_samples

LABEL = "voc_rna-a1_cls21_s8"

_WIDTH = 1 / 16
_STRIDE = 8
_CANVAS = 128  # pixels; the drawn images are no larger
_TEST_SCALES = (128, 160)
_BATCH = 8
_UPDATES = 900
_LEARNING_RATE = 2e-3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoResult:
    """Where the demo's files are and what it reached.

    Attributes:
        weights: the `.params` file of the fitted network.
        report: scores on the validation images.
        pictures: overlays beside the truth, one PNG an image.
    """

    weights: Path
    report: SegmentationReport
    pictures: tuple[Path, ...]


def run_demo(output: Path, *, overwrite: bool = False, seed: int = 0) -> DemoResult:
    """Draw a dataset, fit a narrow Model A1 to it, test that and draw its labels.

    Args:
        output: folder for everything.
        overwrite: remove the folder's earlier demo first.
        seed: of the drawn images and the initial weights.

    Raises:
        ValueError: the folder is not empty and `overwrite` is off.
        ademx.compat.MissingDependency: MXNet is not installed.
    """
    _make_empty(output, overwrite=overwrite)
    data = output / "data"
    _log.info("drawing a dataset in VOC's layout: %s", data)
    write_voc(data, train=96, val=16, seed=seed)
    weights = output / "models" / f"{LABEL}_ep-0001.params"
    weights.parent.mkdir()
    params.save(weights, *_fit(find_samples("voc", data, "train"), seed=seed))
    report = evaluate_segmentation(
        SegmentationOptions(
            weights=(weights,),
            data_root=data,
            output=output / "val",
            test_scales=_TEST_SCALES,
            test_flipping=True,
        )
    )
    samples = find_samples("voc", data, "val")
    return DemoResult(weights, report, tuple(_pictures(samples, output)))


def _make_empty(output: Path, *, overwrite: bool) -> None:
    if output.is_dir() and any(output.iterdir()):
        if not overwrite:
            raise ValueError(f"--output {output}: not empty; replace the demo by --overwrite")
        for name in ("data", "models", "val", "pictures"):
            shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)


def _fit(samples: list[Sample], *, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters of a narrow Model A1 after a few hundred updates by Adam.

    Not how the paper trains: whole small images, no augmentation, no schedule, BatchNorm on the
    batch's own statistics. It is enough to have something to test.
    """
    mx = import_mxnet()
    mx.random.seed(seed)
    data, label = _arrays(samples)
    module = mx.mod.Module(build_symbol(LABEL, width=_WIDTH, frozen_statistics=False))
    module.bind(
        [("data", (_BATCH, *data.shape[1:]))], [("softmax_label", (_BATCH, label.shape[1]))]
    )
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    module.init_optimizer(
        kvstore=None,
        optimizer="adam",
        optimizer_params={"learning_rate": _LEARNING_RATE, "rescale_grad": 1.0},
    )
    rng = np.random.default_rng(seed)
    for _ in progress_bar(iterable=range(_UPDATES), unit="update", desc="fitting"):
        chosen = rng.choice(len(data), size=_BATCH, replace=False)
        batch = mx.io.DataBatch([mx.nd.array(data[chosen])], [mx.nd.array(label[chosen])])
        module.forward_backward(batch)
        module.update()
        module.get_outputs()[0].wait_to_read()  # else the bar runs ahead of the work
    return tuple(
        {name: value.asnumpy() for name, value in values.items()} for values in module.get_params()
    )


def _arrays(samples: list[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Return the images on canvases, (N, 3, 128, 128), and a label for each output cell."""
    data = np.zeros((len(samples), 3, _CANVAS, _CANVAS), np.float32)
    label = np.full((len(samples), _CANVAS, _CANVAS), VOID, np.float32)
    for index, sample in enumerate(samples):
        image = transforms.load_image(sample.image)
        height, width = image.shape[:2]
        data[index, :, :height, :width] = transforms.normalize(image, transforms.RNA)
        stored = transforms.load_label(Path(str(sample.label)))
        label[index, :height, :width] = decode_label(DATASETS["voc"], stored)
    cells = slice(_STRIDE // 2, None, _STRIDE)
    return data, label[:, cells, cells].reshape(len(samples), -1)


def _pictures(samples: list[Sample], output: Path) -> Iterator[Path]:
    """Write, and yield the path of, each image beside its prediction and its truth."""
    folder = output / "pictures"
    folder.mkdir()
    palette = DATASETS["voc"].palette or ()
    for sample in samples:
        image = transforms.load_image(sample.image)
        truth = transforms.load_label(Path(str(sample.label)))
        found = transforms.load_label(output / "val" / "labels" / f"{sample.name}.png")
        panels = [
            ("image", image),
            ("prediction", overlay(image, colourise(found, palette))),
            ("truth", overlay(image, colourise(truth, palette))),
        ]
        path = folder / f"{sample.name}.png"
        side_by_side(panels, zoom=2).save(path)
        yield path

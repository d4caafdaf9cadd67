"""A small run of everything on generated data: train a narrow network, test it, show its labels."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from ademx.compat import share_cores
from ademx.data.drawn.make import make_dataset
from ademx.devices import Devices
from ademx.errors import InputError, MissingDependency
from ademx.files import replacing, write_json
from ademx.pictures import colourise, overlay, save_png, side_by_side
from ademx.reports.page import write_run_report
from ademx.testing.evaluate import evaluate
from ademx.testing.options import SegmentationOptions
from ademx.testing.record import Report
from ademx.training import curves
from ademx.training.options import SegmentationTrainOptions
from ademx.training.run import train
from ademx.versions import versions
from iters.datasets import DATASETS
from iters.images import load_image, load_label
from iters.lists import find_samples
from iters.samples import Sample

LABEL = "voc_rna-a1_cls21_s8"

_WIDTH = 1 / 16
_NUM_DEVICES = 2
_TEST_SCALES = (128, 160)
_IMAGES = {"train": 96, "val": 16}
_EPOCHS = 90
_CHECK_STEP = 15
_BASE_LR = 0.05
_MARK = "demo.json"  # says that a folder is a demo's, and how it was made

_log = logging.getLogger(__name__)


def run_demo(
    output: Path, *, resume: bool = False, seed: int = 0
) -> tuple[Report, dict[str, Path]]:
    """Draw a dataset, train a narrow Model A1 on it, test that and draw its labels.

    The network learns from scratch, on two CPU contexts, from the hard pixels (OHEM). Unlike the
    paper's networks, which start from a classifier's weights, it has to learn its features, and
    so BatchNorm uses the batch's own statistics.

    Args:
        output: folder for everything; an earlier demo in it is replaced.
        resume: go on with the folder's demo instead.
        seed: of the drawn images, the initial weights and the augmentation.

    Returns:
        The test on the validation images, and what was written: weights, scores, report (a page
        for the browser), curves (where matplotlib is installed) and pictures (a folder of PNGs of
        each image beside its truth and its prediction).

    Raises:
        ValueError: the folder holds something that is no demo, or `resume` finds none.
        ademx.compat.MissingDependency: MXNet is not installed.
    """
    _open_folder(output, resume=resume, seed=seed)
    data = output / "data"
    _log.info("drawing a dataset in VOC's layout: %s", data)
    shutil.rmtree(data, ignore_errors=True)  # the same is drawn again
    make_dataset("voc", data, images=_IMAGES, seed=seed)
    weights = _train(data, output / "models", resume=resume, seed=seed)
    report = evaluate(
        SegmentationOptions(
            weights=(weights,),
            data_root=data,
            output=output / "val",
            test_scales=_TEST_SCALES,
            devices=Devices(),
            test_flipping=True,
            overwrite=True,
        )
    )
    page = output / "report.html"
    write_run_report(page, report)
    files = {"weights": weights, "scores": output / "val" / "scores.json", "report": page}
    try:
        with replacing(output / "curves.png") as file:
            curves.draw(curves.load_runs([output / "models"]), file, "png")
        files["curves"] = output / "curves.png"
    except MissingDependency as error:
        _log.warning("the curves are not drawn: %s", error)
    files["pictures"] = output / "pictures"
    _draw_pictures(find_samples("voc", data, "val"), output)
    return report, files


def _open_folder(output: Path, *, resume: bool, seed: int) -> None:
    """Make the folder ready; what is not a demo's is never touched."""
    mark = output / _MARK
    if resume:
        try:
            held = json.loads(mark.read_text(encoding="utf-8"))["seed"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"--resume: there is no demo in {output}: run it without") from None
        if held != seed:
            raise InputError(f"--resume: the demo in {output} has --seed {held}, not {seed}")
        return
    if output.is_dir() and any(output.iterdir()) and not mark.is_file():
        raise InputError(f"--output {output}: holds no demo and is not empty; choose another")
    for name in ("data", "models", "val", "pictures"):
        shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    write_json(mark, {"seed": seed, "versions": versions()})


def _train(data: Path, output: Path, *, resume: bool, seed: int) -> Path:
    """Return the weights after the last epoch."""
    share_cores(_NUM_DEVICES)  # before MXNet is loaded, by what follows
    report = train(
        SegmentationTrainOptions(
            data_root=data,
            output=output,
            model=LABEL,
            to_epoch=_EPOCHS,
            check_step=_CHECK_STEP,
            validate_every=_CHECK_STEP,
            validate_scales=_TEST_SCALES[:1],
            batch_images=8,
            crop_size=96,
            origin_size=128,
            lr_type="linear",
            base_lr=_BASE_LR,
            loss="ohem",
            width=_WIDTH,
            frozen_statistics=False,
            devices=Devices(cpus=_NUM_DEVICES),
            cache_images=True,
            seed=seed,
            resume=resume,
        )
    )
    if report.signal is not None or report.params_path is None:
        raise InputError("the training was stopped: `ademx demo --resume` goes on with it")
    return report.params_path


def _draw_pictures(samples: list[Sample], output: Path) -> None:
    """Draw each image beside its truth and its prediction."""
    folder = output / "pictures"
    folder.mkdir(exist_ok=True)
    palette = DATASETS["voc"].palette or ()
    for sample in samples:
        image = load_image(sample.image)
        truth = load_label(Path(str(sample.label)))
        found = load_label(output / "val" / "labels" / f"{sample.name}.png")
        panels = [
            ("image", image),
            ("truth", overlay(image, colourise(truth, palette))),
            ("prediction", overlay(image, colourise(found, palette))),
        ]
        save_png(folder / f"{sample.name}.png", side_by_side(panels, zoom=2))

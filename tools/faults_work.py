"""The commands that the campaign disturbs, on drawn data and networks that take a second."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults_base import Bench, must_run, results

LABEL = "voc_rna-224-0-1-1-1-1-1-1_cls21_s8"
RELEASED = "voc_rna-a1_cls21_s8"

_SIZE = ("--width", 0.0625, "--crop-size", 32, "--origin-size", 64, "--batch-statistics")
_EPOCHS = ("--to-epoch", 20, "--check-step", 5)


@dataclass(frozen=True)
class Work:
    """A command that can be disturbed, gone on with and compared.

    Attributes:
        name: for the table.
        arguments: of `ademx`, given the bench and the folder that it writes to.
        going_on: further arguments with which it goes on.
        prepare: fills the folder before the first call.
        produces: the part of the folder that is compared.
        is_refused_again: it refuses to run where it has run to its end.
    """

    name: str
    arguments: Callable[[Bench, Path], list[object]]
    going_on: tuple[str, ...] = ()
    prepare: Callable[[Bench, Path], None] = lambda bench, folder: None
    produces: str = "out"
    is_refused_again: bool = False

    def found(self, folder: Path) -> dict[str, str]:
        """Return what is there by now."""
        return results(folder / self.produces)

    def command(self, bench: Bench, folder: Path, *, again: bool = False) -> list[object]:
        """Return the arguments, those to go on with where it ran before."""
        return [*self.arguments(bench, folder), *(self.going_on if again else ())]

    def undisturbed(self, bench: Bench) -> tuple[dict[str, str], float]:
        """Return what an undisturbed run leaves, and the seconds that it takes."""

        def make(folder: Path) -> tuple[dict[str, str], float]:
            self.prepare(bench, folder)
            ended = must_run(folder, self.command(bench, folder))
            return self.found(folder), ended.seconds

        return bench.once(f"undisturbed {self.name}", make)


def voc(bench: Bench) -> Path:
    """Return a folder with eight drawn images of VOC for each split."""

    def make(folder: Path) -> Path:
        must_run(folder, ["data", "make", "voc", "--root", folder / "data" / "voc"])
        return folder / "data" / "voc"

    return bench.once("voc", make)


def trained(bench: Bench, epoch: int = 20) -> Path:
    """Return weights of the small network that the undisturbed training leaves."""
    TRAINING.undisturbed(bench)
    return bench.folder / "once-undisturbed train" / "out" / f"{LABEL}_ep-{epoch:04d}.params"


def models(bench: Bench) -> Path:
    """Return a folder with narrow weights under a released file's name."""

    def make(folder: Path) -> Path:
        options = ["--model", RELEASED, "--data-root", voc(bench), "--to-epoch", 1, *_SIZE]
        must_run(folder, ["train", "segmentation", *options, "--gpus", "", "--output", "models"])
        return folder / "models"

    return bench.once("models", make)


def training(bench: Bench, output: Path, *changes: object) -> list[object]:
    """Return the arguments of a training of twenty epochs of four updates each."""
    where = ("--data-root", voc(bench), "--output", output)
    how = ("--batch-images", 2, "--gpus", "", "--lr-type", "linear", *_SIZE, *_EPOCHS)
    return ["train", "segmentation", "--model", LABEL, *where, *how, *changes]


def evaluation(
    bench: Bench, output: Path, *changes: object, weights: Path | None = None
) -> list[object]:
    """Return the arguments of a test on eight images, of the trained weights or of others."""
    where = ("--weights", weights or trained(bench), "--data-root", voc(bench), "--output", output)
    how = ("--test-scales", "64,96,128", "--test-flipping", "--save-predictions", "--cpus", 1)
    return ["evaluate", "segmentation", *where, *how, *changes]


def _reproduction(bench: Bench, folder: Path) -> list[object]:
    where = ("--data", voc(bench).parent, "--models", models(bench), "--output", folder / "out")
    return ["reproduce", "voc-a1", *where, "--unverified", "--cpus", 1]


def _draw_coco(bench: Bench, folder: Path) -> None:
    def make(once: Path) -> Path:
        must_run(once, ["data", "make", "coco", "--root", once / "coco", "--images", 40])
        return once / "coco"

    shutil.copytree(bench.once("coco", make), folder / "out")


def _lists(bench: Bench, folder: Path) -> list[object]:
    return ["data", "lists", "coco20", "--root", folder / "out", "--jobs", 2, "--min-pixels", 50]


def _conversion(suffix: str) -> Callable[[Bench, Path], list[object]]:
    def arguments(bench: Bench, folder: Path) -> list[object]:
        (folder / "out").mkdir(exist_ok=True)
        source = models(bench) / f"{RELEASED}_ep-0001.params"
        return ["convert", source, folder / "out" / f"weights{suffix}"]

    return arguments


TRAINING = Work("train", lambda bench, folder: training(bench, folder / "out"), ("--resume",))
EVALUATION = Work(
    "evaluate", lambda bench, folder: evaluation(bench, folder / "out"), ("--resume",)
)
LISTS = Work("data lists", _lists, ("--overwrite",), prepare=_draw_coco)
CONVERSION = Work("convert", _conversion(".safetensors"), ("--overwrite",))
CONVERSION_PTH = Work("convert to .pth", _conversion(".pth"), ("--overwrite",))
REPRODUCTION = Work("reproduce", _reproduction)
DRAWING = Work(
    "data make",
    lambda bench, folder: ["data", "make", "voc", "--root", folder / "out", "--images", 40],
    is_refused_again=True,
)
WORKS = (TRAINING, EVALUATION, LISTS, CONVERSION, CONVERSION_PTH, REPRODUCTION, DRAWING)

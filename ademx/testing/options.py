"""How to test: options by their command-line names, and what of them decides the results."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ademx import options as declare
from ademx.convert.files import Reading
from ademx.devices import Devices
from ademx.engines.backends import CHOICES
from ademx.engines.sharing import PRECISIONS
from ademx.errors import InputError
from ademx.labels import Label, chosen_label, parse_label
from ademx.metrics import ABSENT_CLASSES
from ademx.options import option, run_option
from ademx.published import Result
from ademx.testing.crf import CrfParameters
from iters.find_dataset import get_dataset
from symbols.levels import get_network


@dataclass(frozen=True)
class EvaluationOptions:
    """How to test, for both tasks; use the class of the task.

    Without devices it is the first GPU that the backend finds, else the CPU.
    """

    task: ClassVar[str]

    weights: tuple[Path, ...] = run_option(
        help=".params, .pth or .safetensors file; several average their probabilities.", path="file"
    )
    data_root: Path = declare.data_root()
    output: Path = run_option(
        help="Folder for results.  [default: output/<weights>_<split>]",
        path="output",
        required=False,
    )
    test_scales: tuple[int, ...] = option(help="Lengths of a side, pixels.", required=False)
    model: str | None = run_option(None, "Label of the weights.  [default: from their file name]")
    dataset: str | None = declare.dataset(decides=False)
    split: str = option("val", '"test" has no labels.')
    list_file: Path | None = declare.list_file()
    test_flipping: bool = declare.test_flipping()
    choose_interp_method: bool = declare.choose_interp_method()
    exif: str = declare.exif()
    pool: str = declare.pool(
        '; the released Model A is tested with "caffe"', names=("--pool", "--pool-top-infer-style")
    )
    precision: str = option(
        "float32",
        "bfloat16 is twice as fast on some CPUs and slower on others; "
        "`python tools/bench.py evaluation` tells.  float16 is for GPUs, by --backend torch so are "
        "bfloat16 and tf32.  Published scores are judged in float32.",
        choices=PRECISIONS,
    )
    backend: str = option(
        "auto",
        "What computes; auto: MXNet if it is installed, has code for the devices and is not the "
        "slower one (bfloat16 segmentation on CPUs), else PyTorch.",
        choices=CHOICES,
    )
    compile: bool | None = run_option(
        None,
        "By --backend torch: compile for each size of image, which takes tens of seconds and then "
        "saves up to a quarter of the time on CPUs.  [default: there, where the "
        "split is large enough]",
        names=("--compile/--no-compile",),
    )
    devices: Devices | None = None
    batch_images: int = run_option(1, "Network inputs that a device computes at a time.", least=1)
    prefetch_threads: int = run_option(2, "Threads that read images ahead of the network.", least=1)
    resume: bool = run_option(False, "Go on with an interrupted run.")
    overwrite: bool = run_option(False, "Replace earlier results.")
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        if not self.weights:
            raise InputError("--weights: expected at least one file")
        if not self.test_scales or min(self.test_scales) < 1:
            raise InputError(f"--test-scales {self.test_scales}: expected lengths above 0")
        if len(set(self.test_scales)) < len(self.test_scales):
            raise InputError(f"--test-scales {self.test_scales}: a scale is given twice")
        declare.check(self)
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite exclude each other: give one of them")

    def folders(self, *, has_labels: bool) -> tuple[str, ...]:
        """Return the folders under the output that hold what is found in images."""
        return ()


@dataclass(frozen=True)
class ClassificationOptions(EvaluationOptions):
    """How to test a classifier.

    Raises:
        ValueError: an option is out of range, or does not go with another or with the weights.
    """

    task = "classification"

    test_scales: tuple[int, ...] = option(
        help="Lengths of the shorter side; each is scored alone and all of them averaged.  "
        "[default: 320, of ten crops 256]",
        required=False,
    )
    test_3crops: bool = option(False, "Average three crops along the longer side.")
    test_10crops: bool = option(
        False,
        "Average ten crops of the side that the network is trained at (224 pixels unless its label "
        "says otherwise): the corners and the centre, each mirrored too.",
        is_recorded=False,
    )
    class_ids: Path | None = run_option(
        None,
        "For submissions (--split test): the server's number of each class, one a line.",
        path="file",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_ids is not None and self.split != "test":
            raise InputError("--class-ids: has no effect without --split test: add it")
        if not self.test_10crops:
            return
        for name in ("test_3crops", "test_flipping"):
            if getattr(self, name):
                raise InputError(
                    f"{declare.option_name(name)} and --test-10crops exclude each other: ten "
                    "crops hold the centre and the mirror images; give one of them"
                )
        labels = [chosen_label(self.model, path) for path in self.weights]
        crops = {training_crop(label): label for label in labels}
        if len(crops) > 1:
            sizes = " and ".join(f"{label} at {crop} pixels" for crop, label in crops.items())
            raise InputError(f"--test-10crops: networks that are trained at one size, not {sizes}")
        (crop,) = crops
        if min(self.test_scales) < crop:
            raise InputError(
                f"--test-scales {min(self.test_scales)}: ten crops of {crop} × {crop} pixels, at "
                f"which the network is trained, do not fit: expected {crop} or above"
            )

    def folders(self, *, has_labels: bool) -> tuple[str, ...]:
        """See :class:`EvaluationOptions`."""
        return ("predictions",)


@dataclass(frozen=True)
class SegmentationOptions(EvaluationOptions):
    """How to test a segmentation network.

    Attributes:
        near_ties: count pixels whose best two classes are about as good, from which the tolerance
            of a published score follows, although no published result is found for this test.
    """

    task = "segmentation"

    test_scales: tuple[int, ...] = option(
        help="Lengths of the longer side; probabilities of several are averaged.  "
        "[default: 2048 for Cityscapes, else 500]",
        required=False,
    )
    test_steps: int = option(1, "Predictions along each axis for a cell of the output.", least=1)
    tile: tuple[int, int] | None = declare.tile()
    overlap: int | None = declare.overlap()
    absent_classes: str | None = run_option(
        None,
        "What a class without pixels counts in a mean: 0 as in the release, or not at all.  "
        "[default: as the dataset's official tool]",
        choices=ABSENT_CLASSES,
    )
    save_predictions: bool = run_option(False, "Write DIR/scores/<image>.npz.")
    save_results: bool = run_option(
        True,
        "Write no label images; such a run cannot be resumed, and has no iIoU of Cityscapes.",
        names=("--no-save-results",),
    )
    crf: CrfParameters | None = option(
        None,
        "Refine the averaged probabilities by a fully connected CRF over the image's pixels, at "
        "the original size: 2 to 4 s an image of VOC, 27 s of Cityscapes, on one core, and 40 "
        "bytes of memory a pixel and class.  Needs `pip install 'ademx[crf]'`.",
        is_recorded=False,
    )
    near_ties: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        declare.check_tile(self)
        if self.split == "test" and not (self.save_results or self.save_predictions):
            raise InputError(
                "--no-save-results with --split test would keep nothing: a test split has no "
                "labels to be scored by; leave it out, or add --save-predictions"
            )

    def folders(self, *, has_labels: bool) -> tuple[str, ...]:
        """See :class:`EvaluationOptions`; here they hold a file for each image."""
        folders = ("labels", "correct")[: 1 + has_labels] if self.save_results else ()
        return (*folders, "scores") if self.save_predictions else folders


def training_crop(label: Label) -> int:
    """Return the side of the images that a label's network is trained at, pixels."""
    return get_network(label.family, label.variant).crop


def default_test_scale(
    label: Label, dataset: str | None = None, *, test_10crops: bool = False
) -> int:
    """Return the scale of the published tests (published.md), pixels.

    Args:
        label: of the weights.
        dataset: as in :class:`EvaluationOptions`.
        test_10crops: as in :class:`ClassificationOptions`.
    """
    if label.task == "classification":
        return 256 if test_10crops else 320
    return get_dataset(dataset or label.dataset).origin_size


def published_options(
    row: Result, *, weights: Path, data_root: Path, output: Path, **others: Any
) -> ClassificationOptions | SegmentationOptions:
    """Return how a row of the published table is tested, at the usual scale if it names none.

    Args:
        row: the row.
        weights: whose name is a label.
        data_root: of the row's dataset.
        output: folder for results.
        others: options that the row says nothing of.
    """
    label = parse_label(weights)
    scales = (default_test_scale(label),)
    given = {"test_scales": scales, "split": row.split, **row.options, **others}
    task = ClassificationOptions if label.task == "classification" else SegmentationOptions
    return task(weights=(weights,), data_root=data_root, output=output, **given)

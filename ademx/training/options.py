"""How to train: options by their command-line names, and what of them decides the weights."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ademx import options as declare
from ademx.convert.files import Reading
from ademx.devices import Devices
from ademx.engines.backends import CHOICES, resolve_backend
from ademx.engines.sharing import check_precision
from ademx.engines.trainer import KVSTORES, PRECISIONS
from ademx.errors import InputError
from ademx.files import md5
from ademx.labels import Label, chosen_label, parse_label
from ademx.networks.graph import list_layers
from ademx.options import option, other_default, run_option
from ademx.schedule import LR_TYPES
from ademx.training.initial import same_label
from iters.datasets import Dataset
from iters.find_dataset import get_dataset
from iters.samplers import SAMPLERS
from iters.samples import Sample
from iters.workers import PREFETCHERS
from symbols.levels import LOSSES


@dataclass(frozen=True)
class TrainOptions:
    """What both tasks need to know; use the class of the task.

    Raises:
        ValueError: an option is out of range, or does not go with another.
    """

    task: ClassVar[str]

    data_root: Path = declare.data_root()
    to_epoch: int = option(help="Epochs of the whole training.", least=1)
    output: Path = run_option(Path("output"), "Folder for checkpoints.", path="output")
    model: str | None = run_option(None, "Label of the network.  [default: the weights']")
    weights: Path | None = run_option(
        None, ".params, .pth or .safetensors file to start from.", path="file"
    )
    dataset: str | None = declare.dataset()
    split: str = option("train", "Part of the dataset.")
    list_file: Path | None = declare.list_file()
    batch_images: int = option(256, "Images of an update, over all devices.", least=1)
    crop_size: int = option(224, "Side of a sample, pixels.", least=1)
    choose_interp_method: bool = declare.choose_interp_method()
    exif: str = declare.exif()
    sampler: str = option(
        "shuffled",
        'Order of the samples; "balanced" draws classes evenly.',
        choices=tuple(SAMPLERS),
    )
    lr_type: str = option("fixed", "How the learning rate falls.", choices=LR_TYPES)
    base_lr: float = option(0.1, "Rate to start with.")
    lr_steps: tuple[int, ...] = option((), 'Updates at which "step" falls to a tenth.')
    momentum: float = option(0.9, "Of the optimiser.")
    weight_decay: float = option(1e-4, "Of all weights.")
    from_epoch: int | None = option(
        None, "Epochs that count as done.  [default: the weights']", least=0
    )
    stop_epoch: int | None = run_option(None, "Epoch to stop after.  [default: the last]", least=1)
    check_start: int = run_option(1, "First epoch with a checkpoint.", least=1)
    check_step: int = run_option(1, "Epochs between checkpoints.", least=1)
    keep: int | None = run_option(
        None, "Keep only the last so many checkpoints, and the best.  [default: all]", least=1
    )
    validate_every: int | None = run_option(
        None,
        "Test every so many epochs, and after the last one, on the val split (of COCO that of the "
        "same year) as `ademx evaluate` does; these epochs have checkpoints.  The best weights, by "
        "mean IoU or top-1 error, are kept as <label>_best.params.  [default: never]",
        least=1,
    )
    validate_scales: tuple[int, ...] | None = run_option(
        None, "Test scales of --validate-every.  [default: --origin-size; 320 for classifiers]"
    )
    validate_list_file: Path | None = run_option(
        None, "The samples of --validate-every, in place of the val split.", path="file"
    )
    seed: int = option(0, "Of all that is random.", least=0)
    width: float = declare.width()
    pool: str = declare.pool(names=("--pool", "--pool-top-infer-style"))
    frozen_statistics: bool | None = option(
        None,
        "BatchNorm uses its moving statistics, or the batch's own, which a network without "
        "--weights learns from.  [default: frozen for segmentation]",
        names=("--frozen-statistics/--batch-statistics",),
    )
    precision: str = option(
        "float32",
        "float16 is for GPUs; bfloat16 for CPUs, and GPUs by PyTorch, that have it.",
        choices=PRECISIONS,
    )
    kvstore: str = run_option(
        "device",
        "How gradients are added up; dist… needs several workers, see `ademx launch --help`.",
        choices=KVSTORES,
    )
    prefetcher: str = run_option("process", "What reads images ahead.", choices=PREFETCHERS)
    prefetch_threads: int = run_option(1, "How many read images ahead.", least=0)
    cache_images: bool = run_option(False, "Keep encoded images in memory (0 or 1).", is_flag=False)
    max_broken: int = run_option(10, "Broken images to put up with.", least=0)
    backward_do_mirror: bool = run_option(
        False,
        "Keep less for the backward pass and compute it again: by PyTorch whole blocks, saving "
        "half of the activations and more; in MXNet 1.9.1 it saves nothing on these networks.",
    )
    backend: str = run_option(
        "auto",
        "What computes; auto: MXNet if it is installed and has code for the devices, else PyTorch.",
        choices=CHOICES,
    )
    devices: Devices = field(default_factory=Devices)
    resume: bool = run_option(False, "Go on with the newest checkpoint, if any.")
    overwrite: bool = run_option(False, "Remove the label's checkpoints first.")
    tensorboard: Path | None = run_option(None, "Folder for TensorBoard.")
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        declare.check(self)
        if not self.base_lr > 0:
            raise InputError(f"--base-lr {self.base_lr}: expected a rate above 0")
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite: choose one")
        self._check_validation()
        if self.batch_images % self.devices.count:
            raise InputError(
                f"--batch-images {self.batch_images}: expected a multiple of the "
                f"{self.devices.count} devices, which share it"
            )
        check_precision(self.precision, self.devices, backend=self.engine)
        label = self.label
        if label.task != self.task:
            raise InputError(f"{label}: a network for {label.task}: `ademx train {label.task}`")
        if not self.first_epoch < self.last_epoch <= self.to_epoch:
            raise InputError(
                f"from epoch {self.first_epoch}, stop at {self.last_epoch}, to {self.to_epoch}: "
                "expected --from-epoch < --stop-epoch <= --to-epoch (weights of the same label "
                "count as their epoch)"
            )

    def _check_validation(self) -> None:
        scales = self.validate_scales
        if scales is not None and (not scales or min(scales) < 1 or len(set(scales)) < len(scales)):
            raise InputError(f"--validate-scales {scales}: expected different lengths above 0")
        names = [one.name for one in dataclasses.fields(self) if one.name.startswith("validate_")]
        given = [name for name in names if getattr(self, name)]
        if given and not self.validate_every:
            raise InputError(
                f"{declare.option_name(given[0])}: has no effect without --validate-every: add it"
            )

    @cached_property
    def engine(self) -> str:
        """What computes, "mxnet" or "torch"."""
        return resolve_backend(self.backend, self.devices, precision=self.precision)

    @property
    def label(self) -> Label:
        """The network's label, without an epoch.

        Raises:
            ValueError: neither `model` nor the weights' name says it.
        """
        if self.model is None and self.weights is None:
            raise InputError("--model: expected a label, or --weights whose name is one")
        return dataclasses.replace(chosen_label(self.model, self.weights or ""), epoch=None)

    @property
    def first_epoch(self) -> int:
        """Epochs that count as done when a fresh run starts."""
        if self.from_epoch is not None:
            return self.from_epoch
        if self.weights is not None and same_label(self.weights, self.label):
            return parse_label(self.weights).epoch or 0
        return 0

    @property
    def last_epoch(self) -> int:
        """Epochs that are done when the run ends."""
        return self.to_epoch if self.stop_epoch is None else self.stop_epoch

    def has_checkpoint(self, epoch: int) -> bool:
        """Return whether there is to be a checkpoint after this number of epochs."""
        due = epoch >= self.check_start and (epoch - self.check_start) % self.check_step == 0
        return due or epoch == self.last_epoch or self.is_validated(epoch)

    def is_validated(self, epoch: int) -> bool:
        """Return whether the network is to be tested after this number of epochs."""
        every = self.validate_every
        return every is not None and (epoch % every == 0 or epoch == self.to_epoch)

    def find_dataset(self) -> Dataset:
        """Return the dataset.

        Raises:
            ValueError: it does not fit the label.
        """
        dataset = get_dataset(self.dataset or self.label.dataset)
        classes = self.label.num_classes
        # A list of one's own may have fewer classes than ILSVRC; a YAML file says how many.
        fits = dataset.num_classes == classes or (
            self.task == "classification" and not dataset.lists
        )
        if dataset.task != self.task or not fits:
            raise InputError(
                f"{self.label} has {classes} classes for {self.task}; {dataset.name} has "
                f"{dataset.num_classes} for {dataset.task}: name a --dataset that fits"
            )
        return dataset

    def settings(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return, as JSON has it, what decides the weights (but for the hardware)."""
        names = (f"{os.path.relpath(s.image, self.data_root)}\t{s.offset}" for s in samples)
        labels = (
            os.path.relpath(s.label, self.data_root) if isinstance(s.label, Path) else str(s.label)
            for s in samples
        )
        return {
            "label": str(self.label),
            **declare.deciding(self),
            "dataset": self.dataset and self.find_dataset().settings,
            "from_epoch": self.first_epoch,
            "weights_md5": md5(self.weights) if self.weights else None,
            **self.reading.settings(),
            "samples_md5": _lines_md5(names),
            "labels_md5": _lines_md5(labels),
        }


@dataclass(frozen=True)
class ClassificationTrainOptions(TrainOptions):
    """How to train a classifier; defaults are those of training Model A from scratch."""

    task: ClassVar[str] = "classification"


@dataclass(frozen=True)
class SegmentationTrainOptions(TrainOptions):
    """How to train a segmentation network; defaults are those of the Cityscapes recipe."""

    task: ClassVar[str] = "segmentation"

    batch_images: int = other_default(TrainOptions, "batch_images", 16)
    crop_size: int = other_default(TrainOptions, "crop_size", 500)
    base_lr: float = other_default(TrainOptions, "base_lr", 0.0016)
    weight_decay: float = other_default(TrainOptions, "weight_decay", 5e-4)
    check_step: int = other_default(TrainOptions, "check_step", 4)
    origin_size: int | None = option(
        None,
        "Longer side at scale 1, pixels.  [default: 2048 for Cityscapes, else 500]",
        least=1,
    )
    scale_rate_range: tuple[float, float] = option((0.7, 1.3), "Smallest and largest scale.")
    loss: str = option("ohem", "ohem learns from the hard pixels only.", choices=LOSSES)
    head: str = declare.head("Top of the network.")
    validate_labels: bool = run_option(
        False, "--validate-every writes the label images of the newest test, to <label>_val/."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.scale_rate_range
        if not 0 < low <= high:
            raise InputError(f"--scale-rate-range {low},{high}: expected 0 < low <= high")
        if self.pool == "caffe" and any(one.kind == "max_pool" for one in list_layers(self.label)):
            raise InputError(
                f"--pool caffe: {self.label.network} then has fewer cells than there are labels, "
                "for want of the last row and column: train with pad or full"
            )


def _lines_md5(lines: Iterable[str]) -> str:
    return hashlib.md5("\n".join(lines).encode(errors="surrogateescape")).hexdigest()

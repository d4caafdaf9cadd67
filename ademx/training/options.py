"""How to train: options by their command-line names, and what of them decides the weights."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ademx.convert.files import Reading
from ademx.devices import Devices
from ademx.files import md5
from ademx.labels import Label, parse_label
from ademx.schedule import Schedule, make_schedule
from ademx.training.initial import same_label
from iters.datasets import Dataset
from iters.find_dataset import get_dataset
from iters.samples import Sample

PRECISIONS = ("float32", "float16", "bfloat16")
LOSSES = ("softmax", "ohem")

# Options that say where, how fast and how long, not which weights come out.
_NOT_DECIDING = (
    *("data_root", "output", "model", "weights", "list_file", "stop_epoch", "check_start"),
    *("check_step", "kvstore", "prefetch_threads", "prefetcher", "cache_images", "max_broken"),
    *("backward_do_mirror", "devices", "resume", "overwrite", "tensorboard", "reading"),
)


@dataclass(frozen=True)
class TrainOptions:
    """What both tasks need to know; use the class of the task.

    Attributes:
        data_root: folder of the dataset.
        output: folder for everything that is written.
        to_epoch: epochs of the whole training, which the learning rate is planned for.
        model: label of the network; the weights' by default.
        weights: a file to start from; None draws all values. One of the same label is
            gone on from: its epoch is `from_epoch`.
        dataset: name of the dataset, or path of the YAML file that describes it, where it is not
            the label's.
        split: such as "train".
        list_file: a list of the samples, in place of the dataset's layout.
        batch_images: images of an update, over all devices of a worker.
        crop_size: side of a sample, pixels.
        choose_interp_method: choose the filter by the sizes, else bicubic always.
        exif: when an image is set upright, see :func:`iters.decode.is_turned`.
        sampler: "shuffled", "fixed" or, for classification, "balanced".
        lr_type: "fixed", "step" or "linear".
        base_lr: learning rate at the start of the whole training.
        lr_steps: where "step" falls to a tenth, updates.
        momentum: of the optimiser.
        weight_decay: of what the network's multipliers do not exempt.
        from_epoch: epochs that count as done; by default those of weights of the same label, or 0.
        stop_epoch: the epoch after which to stop, before `to_epoch`.
        check_start: first epoch with a checkpoint.
        check_step: epochs from one checkpoint to the next; the last epoch has one too.
        seed: of everything that is random.
        width: multiplier of all channels but the classes.
        pool: geometry of max pooling.
        frozen_statistics: BatchNorm uses its moving statistics; the task's own choice by default.
        precision: "float32", "float16" (GPUs) or "bfloat16" (CPUs).
        kvstore: how gradients are added up, see :data:`ademx.engines.mxnet.train.KVSTORES`.
        prefetcher: "process" or "thread".
        prefetch_threads: how many of them read images ahead.
        cache_images: keep the encoded images in memory.
        max_broken: broken images that are put up with.
        backward_do_mirror: save memory by computing cheap layers twice.
        devices: where to compute.
        resume: go on with the newest checkpoint in `output`, if there is one.
        overwrite: remove the label's checkpoints in `output` first.
        tensorboard: folder for TensorBoard's files.
        reading: what the file of weights does not say of itself.

    Raises:
        ValueError: an option is out of range, or does not go with another.
    """

    task: ClassVar[str]

    data_root: Path
    output: Path
    to_epoch: int
    model: str | None = None
    weights: Path | None = None
    dataset: str | None = None
    split: str = "train"
    list_file: Path | None = None
    batch_images: int = 256
    crop_size: int = 224
    choose_interp_method: bool = True
    exif: str = "auto"
    sampler: str = "shuffled"
    lr_type: str = "fixed"
    base_lr: float = 0.1
    lr_steps: tuple[int, ...] = ()
    momentum: float = 0.9
    weight_decay: float = 1e-4
    from_epoch: int | None = None
    stop_epoch: int | None = None
    check_start: int = 1
    check_step: int = 1
    seed: int = 0
    width: float = 1.0
    pool: str = "pad"
    frozen_statistics: bool | None = None
    precision: str = "float32"
    kvstore: str = "device"
    prefetcher: str = "process"
    prefetch_threads: int = 1
    cache_images: bool = False
    max_broken: int = 10
    backward_do_mirror: bool = False
    devices: Devices = field(default_factory=Devices)
    resume: bool = False
    overwrite: bool = False
    tensorboard: Path | None = None
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        for name in ("batch_images", "crop_size", "check_start", "check_step", "to_epoch"):
            _at_least(name, getattr(self, name), 1)
        for name in ("seed", "prefetch_threads", "max_broken"):
            _at_least(name, getattr(self, name), 0)
        if not self.base_lr > 0:
            raise ValueError(f"--base-lr {self.base_lr}: expected a rate above 0")
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite: choose one")
        if self.batch_images % self.num_devices:
            raise ValueError(
                f"--batch-images {self.batch_images}: expected a multiple of the "
                f"{self.num_devices} devices, which share it"
            )
        self.check_precision()
        label = self.label
        if label.task != self.task:
            raise ValueError(f"{label}: a network for {label.task}: `ademx train {label.task}`")
        if not self.first_epoch < self.last_epoch <= self.to_epoch:
            raise ValueError(
                f"from epoch {self.first_epoch}, stop at {self.last_epoch}, to {self.to_epoch}: "
                "expected --from-epoch < --stop-epoch <= --to-epoch (weights of the same label "
                "count as their epoch)"
            )

    def check_precision(self) -> None:
        """Raise ValueError for a precision that the devices do not have."""
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r}: one of {', '.join(PRECISIONS)}")
        if self.precision == "float16" and not self.devices.gpus:
            raise ValueError("--precision float16: MXNet multiplies it on GPUs only; use bfloat16")
        if self.precision == "bfloat16" and self.devices.gpus:
            raise ValueError("--precision bfloat16: MXNet has it on CPUs only; use float16")

    @property
    def num_devices(self) -> int:
        """Devices of this worker."""
        return len(self.devices.gpus) or self.devices.cpus

    @property
    def label(self) -> Label:
        """The network's label, without an epoch.

        Raises:
            ValueError: neither `model` nor the weights' name says it.
        """
        if self.model is None and self.weights is None:
            raise ValueError("--model: expected a label, or --weights whose name is one")
        return dataclasses.replace(parse_label(self.model or self.weights or ""), epoch=None)

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

    @property
    def stop_lr(self) -> float:
        """The floor of the linear schedule."""
        return 1e-6

    def has_checkpoint(self, epoch: int) -> bool:
        """Return whether there is to be a checkpoint after this number of epochs."""
        due = epoch >= self.check_start and (epoch - self.check_start) % self.check_step == 0
        return due or epoch == self.last_epoch

    def schedule(self, num_batches: int, *, offset: int) -> Schedule:
        """Return the learning rate of a run.

        Args:
            num_batches: updates in an epoch.
            offset: updates that come before this run.
        """
        return make_schedule(
            self.lr_type,
            base_lr=self.base_lr,
            num_updates=self.to_epoch * num_batches,
            offset=offset,
            stop_lr=self.stop_lr,
            steps=self.lr_steps,
        )

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
            raise ValueError(
                f"{self.label} has {classes} classes for {self.task}; {dataset.name} has "
                f"{dataset.num_classes} for {dataset.task}: name a --dataset that fits"
            )
        return dataset

    def settings(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return, as JSON has it, what decides the weights (but for the hardware)."""
        decided = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if name not in _NOT_DECIDING
            and (name, value) != ("exif", "auto")  # older checkpoints have no such key
        }
        names = (f"{os.path.relpath(s.image, self.data_root)}\t{s.offset}" for s in samples)
        labels = (
            os.path.relpath(s.label, self.data_root) if isinstance(s.label, Path) else str(s.label)
            for s in samples
        )
        return {
            "label": str(self.label),
            **decided,
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
    """How to train a segmentation network; defaults are those of the Cityscapes recipe.

    Attributes:
        origin_size: length of an image's longer side at scale 1, pixels; by default the
            dataset's: 2048 for Cityscapes and 500 for the others.
        scale_rate_range: smallest and largest scale.
        loss: "ohem" or "softmax".
        head: "2conv" or "1conv".
    """

    task: ClassVar[str] = "segmentation"

    batch_images: int = 16
    crop_size: int = 500
    base_lr: float = 0.0016
    weight_decay: float = 5e-4
    check_step: int = 4
    origin_size: int | None = None
    scale_rate_range: tuple[float, float] = (0.7, 1.3)
    loss: str = "ohem"
    head: str = "2conv"

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.scale_rate_range
        if not 0 < low <= high:
            raise ValueError(f"--scale-rate-range {low},{high}: expected 0 < low <= high")
        if self.loss not in LOSSES:
            raise ValueError(f"--loss {self.loss!r}: choose one of {', '.join(LOSSES)}")

    @property
    def stop_lr(self) -> float:
        """The floor of the linear schedule."""
        return min(self.base_lr / 100, 1e-6)


def _lines_md5(lines: Iterable[str]) -> str:
    return hashlib.md5("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"--{name.replace('_', '-')} {value}: expected {least} or above")

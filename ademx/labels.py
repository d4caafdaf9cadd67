"""Model labels and checkpoint names, parsed once into a typed object."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass

from ademx.errors import InputError

TASKS = {
    "ilsvrc-cls": "classification",
    "places": "classification",
    "voc": "segmentation",
    "cityscapes": "segmentation",
    "ade20k": "segmentation",
    "pascal-context": "segmentation",
    "coco": "segmentation",
}

# A dataset of one's own that a YAML file describes; with "-cls" at the end for classification.
_OWN = re.compile(r"own-[a-z0-9-]+")

# The tag of a ResNet whose input is normalised by mean and standard deviation, as most projects
# do; without it the mean is subtracted alone, as its paper does.
MEAN_STD = "meanstd"

# Behind the label in the name of a training's best weights.
BEST = "_best"

_FORM = "<dataset>_<rna|rn>-<variant>_cls<classes>[_s<stride>][_<tag>…]"
_EXAMPLE = "cityscapes_rna-a1_cls19_s8"
_SUFFIXES = (".params", ".pth", ".safetensors", ".onnx", ".caffemodel", ".json")
_EPOCH = re.compile(r"_ep-(\d{4,})$")
_NETWORK = re.compile(r"(rna|rn)-([a-z0-9-]+)")
_CLASSES = re.compile(r"cls([1-9]\d*)")
_STRIDE = re.compile(r"s(\d+)")


@dataclass(frozen=True)
class Label:
    """A parsed model label.

    Attributes:
        dataset: key of :data:`TASKS`, or "own-…" for a dataset that a YAML file describes.
        family: "rna" or "rn".
        variant: "a1", "50", or a block spec such as "224-0-3-3-6-3-1-1".
        num_classes: classes that the network tells apart.
        output_stride: pixels per cell of the output, 32 where the label names none.
        tags: what follows, such as "coco", "x1-140" or :data:`MEAN_STD`.
        epoch: number of the checkpoint, where the name had one.
    """

    dataset: str
    family: str
    variant: str
    num_classes: int
    output_stride: int = 32
    tags: tuple[str, ...] = ()
    epoch: int | None = None

    @property
    def task(self) -> str:
        """Either "classification" or "segmentation"."""
        own_task = "classification" if self.dataset.endswith("-cls") else "segmentation"
        return TASKS.get(self.dataset, own_task)

    @property
    def network(self) -> str:
        """The network's name, such as "rna-a1"."""
        return f"{self.family}-{self.variant}"

    def __str__(self) -> str:
        stride = () if self.output_stride == 32 else (f"s{self.output_stride}",)
        fields = (self.dataset, self.network, f"cls{self.num_classes}", *stride, *self.tags)
        return "_".join(fields)


def parse_label(text: str | os.PathLike[str] | Label) -> Label:
    """Return the label in a label, a checkpoint's name or a path to a checkpoint.

    Args:
        text: such as `voc_rna-a1_cls21_s8` or `models/voc_rna-a1_cls21_s8_ep-0001.params`; a
            label that is parsed already is returned as it is.

    Raises:
        ValueError: the text is not of the form; the message names the part that does not fit.
    """
    if isinstance(text, Label):
        return text
    text = os.fspath(text)
    stem = re.split(r"[/\\]", text)[-1]
    for suffix in _SUFFIXES:
        if stem.endswith(suffix):
            stem = stem[: -len(suffix)].removesuffix(BEST)
    epoch = _EPOCH.search(stem)
    fields = _EPOCH.sub("", stem).split("_")
    if len(fields) < 3 or "" in fields:
        raise InputError(f"label {text!r}: expected {_FORM}, such as {_EXAMPLE}")
    dataset, network, classes, *rest = fields
    if dataset not in TASKS and not _OWN.fullmatch(dataset):
        raise InputError(
            f"label {text!r}: unknown dataset {dataset!r}: one of {', '.join(TASKS)}; for your "
            "own own-<name>, own-<name>-cls for classification"
        )
    family, variant = _match(_NETWORK, network, text, "network", "rna-a1 or rn-50")
    (num_classes,) = _match(_CLASSES, classes, text, "classes", "cls21")
    stride = _STRIDE.fullmatch(rest[0]) if rest else None
    return Label(
        dataset=dataset,
        family=family,
        variant=variant,
        num_classes=int(num_classes),
        output_stride=int(stride[1]) if stride else 32,
        tags=tuple(rest[1:] if stride else rest),
        epoch=int(epoch[1]) if epoch else None,
    )


def label_in(*texts: str | os.PathLike[str] | None) -> Label | None:
    """Return the first label among texts and names of files; None where there is none."""
    for text in texts:
        with suppress(InputError):
            return parse_label(text or "")
    return None


def chosen_label(
    given: str | None, path: str | os.PathLike[str], *, option: str = "--model"
) -> Label:
    """Return the label that a user gives by an option, else that in the name of a file of weights.

    Raises:
        ValueError: it is none; of a file's name the message says which option gives it.
    """
    if given:
        return parse_label(given)
    try:
        return parse_label(path)
    except InputError as error:
        raise InputError(f"{error}; name the network by {option} LABEL") from None


def _match(
    pattern: re.Pattern[str], field: str, text: str, what: str, example: str
) -> tuple[str, ...]:
    match = pattern.fullmatch(field)
    if match is None:
        raise InputError(
            f"label {text!r}: {field!r} is not a field for {what}, such as {example} "
            f"(the form is {_FORM})"
        )
    return match.groups()

"""What the release and the papers report: every published number, with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ademx.errors import InputError
from ademx.labels import parse_label

_RELEASE = "ademxapp README"
_PAPER = "arXiv:1611.10080, from a summary"
_CITED = "arXiv:1611.10080, Table 4, as cited by others"
_RESNET = "arXiv:1512.03385, from a summary; its authors' README (scale)"

# Released checkpoints and their MD5. The host that served them has shut down; a file from
# elsewhere is checked against this table before anything is claimed of it.
RELEASED_FILES: dict[str, str] = {
    "ilsvrc-cls_rna-a_cls1000_ep-0001.params": "2421c1945b6797cecd3f89db14ca73f6",
    "ilsvrc-cls_rna-a1_cls1000_ep-0001.params": "ff21f45d6bf03284100dcbec571edfad",
    "voc_rna-a1_cls21_s8_ep-0001.params": "a34628a63d5f62dcb98c29c4e281f332",
    "voc_rna-a1_cls21_s8_coco_ep-0001.params": "328c0eca0c45b6345ada2f95edce68d4",
    "cityscapes_rna-a1_cls19_s8_ep-0001.params": "226b3e861a6be7d0dc84e537f4eab154",
    "ade20k_rna-a1_cls150_s8_ep-0001.params": "1faf29850bfa194678f0b8e1cbbffa98",
}

# What tables call the metrics; all are in percent.
METRIC_NAMES: dict[str, str] = {
    "top1_error": "top-1 error",
    "top5_error": "top-5 error",
    "pixel_accuracy": "pixel accuracy",
    "mean_iou": "mean IoU",
    "class_iiou": "class iIoU",
    "category_iou": "category IoU",
    "category_iiou": "category iIoU",
}


@dataclass(frozen=True)
class Result:
    """A row of a published table.

    Attributes:
        name: what users call the row, unique.
        dataset: first field of a model label.
        split: "val" or "test".
        network: such as "rna-a1" or "rn-34a".
        setting: what the source says of the head, the training data and the testing.
        values: percent for each metric that the row reports, of :data:`METRIC_NAMES`.
        source: where the row was read.
        tag: last field of the model label, or "".
        label: label of the weights that the options below test, released or not; None where the
            source says too little of the test, and then they hold no more than it happens to say.
        options: what was chosen of the options in :mod:`ademx.testing.options` but for the split,
            by their fields; the rest is as by default.
        decimals: digits that the source prints after the point.
    """

    name: str
    dataset: str
    split: str
    network: str
    setting: str
    values: Mapping[str, float]
    source: str
    tag: str = ""
    label: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    decimals: int = 2

    @property
    def description(self) -> str:
        """What was tested, such as "rna-a1 on voc val"."""
        return f"{self.network} on {self.dataset} {self.split}"

    @property
    def is_released(self) -> bool:
        """Whether the checkpoint that scored this was released."""
        return f"{self.label}_ep-0001.params" in RELEASED_FILES

    def printed(self, metric: str) -> str:
        """Return a value as the source prints it, such as "19.20"."""
        return f"{self.values[metric]:.{self.decimals}f}"


def _percent(**values: float) -> Mapping[str, float]:
    return MappingProxyType(values)


def _options(*test_scales: int, **others: Any) -> Mapping[str, Any]:
    return MappingProxyType({"test_scales": test_scales, **others})


def _released(
    name: str,
    label: str,
    setting: str,
    values: Mapping[str, float],
    options: Mapping[str, Any],
    source: str = _RELEASE,
) -> Result:
    """Return the row of a released checkpoint, whose label says the rest."""
    parsed = parse_label(label)
    return Result(
        name=name,
        dataset=parsed.dataset,
        split="val",
        network=parsed.network,
        setting=setting,
        values=values,
        source=source,
        tag="_".join(parsed.tags),
        label=label,
        options=options,
    )


def _cityscapes_test(name: str, training: str, testing: str, *scores: float) -> Result:
    metrics = ("mean_iou", "class_iiou", "category_iou", "category_iiou")
    return Result(
        name=name,
        dataset="cityscapes",
        split="test",
        network="rna-a2",
        setting=f"2 conv, {training}, {testing}",
        values=_percent(**dict(zip(metrics, scores))),
        source=_RELEASE,
        options=_options(2048) if testing == "1024×2048" else {},
        decimals=1,
    )


def _resnet(name: str, variant: str, top1_error: float, top5_error: float) -> Result:
    """Return a row of the ResNet paper, whose networks pool as Caffe does (--pool full)."""
    return Result(
        name=name,
        dataset="ilsvrc-cls",
        split="val",
        network=f"rn-{variant}",
        setting="ten crops",
        values=_percent(top1_error=top1_error, top5_error=top5_error),
        source=_RESNET,
        label=f"ilsvrc-cls_rn-{variant}_cls1000",
        options=_options(256, test_10crops=True, pool="full"),
    )


RESULTS: tuple[Result, ...] = (
    _released(
        "ilsvrc-a",
        "ilsvrc-cls_rna-a_cls1000",
        "scale 320, one centre crop, no flip",
        _percent(top1_error=19.20, top5_error=4.73),
        _options(320, pool="caffe"),
    ),
    _released(
        "ilsvrc-a1",
        "ilsvrc-cls_rna-a1_cls1000",
        "scale 320, one centre crop, no flip",
        _percent(top1_error=19.54, top5_error=4.75),
        _options(320),
    ),
    Result(
        name="voc-a-1conv",
        dataset="voc",
        split="val",
        network="rna-a",
        setting="1 conv, VOC+SBD, scale 500, flip",
        values=_percent(mean_iou=78.76),
        source=_PAPER,
        options=_options(500, test_flipping=True, pool="full"),
    ),
    _released(
        "voc-a1",
        "voc_rna-a1_cls21_s8",
        "2 conv, VOC+SBD, scale 500, flip",
        _percent(mean_iou=80.84),
        _options(500, test_flipping=True),
        source=f"{_RELEASE}; {_PAPER}, which names Model A",
    ),
    _released(
        "voc-a1-coco",
        "voc_rna-a1_cls21_s8_coco",
        "2 conv, VOC+SBD+COCO, scale 500, flip",
        _percent(mean_iou=82.86),
        _options(500, test_flipping=True),
    ),
    Result(
        name="voc-test-a1",
        dataset="voc",
        split="test",
        network="rna-a1",
        setting="2 conv, VOC+SBD, scale 500",
        values=_percent(mean_iou=82.5),
        source=f"{_RELEASE}; {_PAPER}",
        options=_options(500),
        decimals=1,
    ),
    Result(
        name="voc-test-a1-scales",
        dataset="voc",
        split="test",
        network="rna-a1",
        setting="2 conv, VOC+SBD, several scales",
        values=_percent(mean_iou=83.1),
        source=_RELEASE,
        decimals=1,
    ),
    Result(
        name="voc-test-a1-coco-scales",
        dataset="voc",
        split="test",
        network="rna-a1",
        setting="2 conv, VOC+SBD+COCO, several scales",
        values=_percent(mean_iou=84.9),
        source=_RELEASE,
        tag="coco",
        decimals=1,
    ),
    _released(
        "cityscapes-a1",
        "cityscapes_rna-a1_cls19_s8",
        "2 conv, fine, 1024×2048, flip",
        _percent(mean_iou=78.08),
        _options(2048, test_flipping=True),
    ),
    _cityscapes_test("cityscapes-test-a2", "fine", "1024×2048", 78.4, 59.1, 90.9, 81.1),
    _cityscapes_test("cityscapes-test-a2-scales", "fine", "several scales", 79.4, 58.0, 91.0, 80.1),
    _cityscapes_test(
        "cityscapes-test-a2-coarse", "fine+coarse", "1024×2048", 79.9, 59.7, 91.2, 80.8
    ),
    _cityscapes_test(
        "cityscapes-test-a2-coarse-scales", "fine+coarse", "several scales", 80.6, 57.8, 91.0, 79.1
    ),
    _released(
        "ade20k-a1",
        "ade20k_rna-a1_cls150_s8",
        "2 conv, scale 500, flip, 2 test steps",
        _percent(pixel_accuracy=80.55, mean_iou=43.34),
        _options(500, test_flipping=True, test_steps=2),
    ),
    Result(
        name="ade20k-a2",
        dataset="ade20k",
        split="val",
        network="rna-a2",
        setting="2 conv, one scale",
        values=_percent(mean_iou=43.73),
        source=_CITED,
    ),
    Result(
        name="context-a2",
        dataset="pascal-context",
        split="val",
        network="rna-a2",
        setting="2 conv, 60 classes",
        values=_percent(mean_iou=48.1),
        source=_PAPER,
        decimals=1,
    ),
    _resnet("ilsvrc-plain34", "plain34", 28.54, 10.02),
    _resnet("ilsvrc-resnet34a", "34a", 25.03, 7.76),
    _resnet("ilsvrc-resnet34b", "34b", 24.52, 7.46),
    _resnet("ilsvrc-resnet34c", "34c", 24.19, 7.40),
    _resnet("ilsvrc-resnet50", "50", 22.85, 6.71),
    _resnet("ilsvrc-resnet101", "101", 21.75, 6.05),
    _resnet("ilsvrc-resnet152", "152", 21.43, 5.71),
)


def release_state(name: str, md5: str) -> str:
    """Return in words whether a file of this name and MD5 is a released one."""
    released = RELEASED_FILES.get(name)
    if released is None:
        return "no released file has this name"
    return "the released file" if released == md5 else "not the released file of this name"


def get_result(name: str) -> Result:
    """Return the row of this name; the label or the file of its weights name it too.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    for row in RESULTS:
        if name in (row.name, row.label, f"{row.label}_ep-0001.params"):
            return row
    names = ", ".join(row.name for row in RESULTS)
    raise InputError(f"unknown row {name!r}: expected one of {names}")


def find_result(label: str, *, split: str, **options: Any) -> Result | None:
    """Return what was published for a label's weights tested in just this way, or None.

    Args:
        label: model label without an epoch, such as "voc_rna-a1_cls21_s8".
        split: such as "val".
        options: what was chosen, as in :class:`Result`, of any kind of test.
    """
    for row in RESULTS:
        if (row.label, row.split) == (label, split) and row.options == options:
            return row
    return None

"""What the release and the papers report: every published number, with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
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


# What a setting says of the test -> the options that it stands for.
_TESTS: dict[str, dict[str, Any]] = {
    "scale 320": {"test_scales": (320,)},
    "scale 500": {"test_scales": (500,)},
    "1024×2048": {"test_scales": (2048,)},
    "flip": {"test_flipping": True},
    "2 test steps": {"test_steps": 2},
    # The ResNet paper's networks pool as Caffe does.
    "ten crops": {"test_scales": (256,), "test_10crops": True, "pool": "full"},
}


def _row(
    name: str,
    setting: str,
    printed: str,
    *,
    label: str | None = None,
    dataset: str = "",
    network: str = "",
    metrics: tuple[str, ...] = ("mean_iou",),
    split: str = "val",
    source: str = _RELEASE,
    **options: Any,
) -> Result:
    """Return a row, see :class:`Result`.

    Args:
        name: what users call it.
        setting: what the source says of the test; options follow from it, see :data:`_TESTS`.
        printed: the values as the source prints them.
        label: of the weights, where the source says enough of the test for it to be made.
        dataset: see :class:`Result`; a label tells it, and the network.
        network: such as "rna-a1".
        metrics: names of the values.
        split: "val" or "test".
        source: where the row was read.
        options: of the test, beyond what the setting stands for.
    """
    if label is not None:
        parsed = parse_label(label)
        dataset, network = parsed.dataset, parsed.network
    values = printed.split()
    for part in setting.split(", "):
        options.update(_TESTS.get(part, {}))
    return Result(
        name=name,
        dataset=dataset,
        split=split,
        network=network,
        setting=setting,
        values=MappingProxyType(dict(zip(metrics, map(float, values)))),
        source=source,
        label=label,
        options=MappingProxyType(options),
        decimals=len(values[0].partition(".")[2]),
    )


# Rows that have the metrics, the split or the source in common.
_errors = partial(_row, metrics=("top1_error", "top5_error"))
_accuracies = partial(_row, metrics=("pixel_accuracy", "mean_iou"))
_test = partial(_row, split="test")
_a2_test = partial(
    _test,
    dataset="cityscapes",
    network="rna-a2",
    metrics=("mean_iou", "class_iiou", "category_iou", "category_iiou"),
)
_resnet = partial(_errors, source=_RESNET)

RESULTS: tuple[Result, ...] = (
    _errors(
        "ilsvrc-a",
        "scale 320, one centre crop, no flip",
        "19.20 4.73",
        label="ilsvrc-cls_rna-a_cls1000",
        pool="caffe",
    ),
    _errors(
        "ilsvrc-a1",
        "scale 320, one centre crop, no flip",
        "19.54 4.75",
        label="ilsvrc-cls_rna-a1_cls1000",
    ),
    _row(
        "voc-a-1conv",
        "1 conv, VOC+SBD, scale 500, flip",
        "78.76",
        dataset="voc",
        network="rna-a",
        source=_PAPER,
        pool="full",
    ),
    _row(
        "voc-a1",
        "2 conv, VOC+SBD, scale 500, flip",
        "80.84",
        label="voc_rna-a1_cls21_s8",
        source=f"{_RELEASE}; {_PAPER}, which names Model A",
    ),
    _row(
        "voc-a1-coco",
        "2 conv, VOC+SBD+COCO, scale 500, flip",
        "82.86",
        label="voc_rna-a1_cls21_s8_coco",
    ),
    _test(
        "voc-test-a1",
        "2 conv, VOC+SBD, scale 500",
        "82.5",
        dataset="voc",
        network="rna-a1",
        source=f"{_RELEASE}; {_PAPER}",
    ),
    _test(
        "voc-test-a1-scales",
        "2 conv, VOC+SBD, several scales",
        "83.1",
        dataset="voc",
        network="rna-a1",
    ),
    _test(
        "voc-test-a1-coco-scales",
        "2 conv, VOC+SBD+COCO, several scales",
        "84.9",
        dataset="voc",
        network="rna-a1",
    ),
    _row(
        "cityscapes-a1",
        "2 conv, fine, 1024×2048, flip",
        "78.08",
        label="cityscapes_rna-a1_cls19_s8",
    ),
    _a2_test("cityscapes-test-a2", "2 conv, fine, 1024×2048", "78.4 59.1 90.9 81.1"),
    _a2_test("cityscapes-test-a2-scales", "2 conv, fine, several scales", "79.4 58.0 91.0 80.1"),
    _a2_test("cityscapes-test-a2-coarse", "2 conv, fine+coarse, 1024×2048", "79.9 59.7 91.2 80.8"),
    _a2_test(
        "cityscapes-test-a2-coarse-scales",
        "2 conv, fine+coarse, several scales",
        "80.6 57.8 91.0 79.1",
    ),
    _accuracies(
        "ade20k-a1",
        "2 conv, scale 500, flip, 2 test steps",
        "80.55 43.34",
        label="ade20k_rna-a1_cls150_s8",
    ),
    _row(
        "ade20k-a2", "2 conv, one scale", "43.73", dataset="ade20k", network="rna-a2", source=_CITED
    ),
    _row(
        "context-a2",
        "2 conv, 60 classes",
        "48.1",
        dataset="pascal-context",
        network="rna-a2",
        source=_PAPER,
    ),
    _resnet("ilsvrc-plain34", "ten crops", "28.54 10.02", label="ilsvrc-cls_rn-plain34_cls1000"),
    _resnet("ilsvrc-resnet34a", "ten crops", "25.03 7.76", label="ilsvrc-cls_rn-34a_cls1000"),
    _resnet("ilsvrc-resnet34b", "ten crops", "24.52 7.46", label="ilsvrc-cls_rn-34b_cls1000"),
    _resnet("ilsvrc-resnet34c", "ten crops", "24.19 7.40", label="ilsvrc-cls_rn-34c_cls1000"),
    _resnet("ilsvrc-resnet50", "ten crops", "22.85 6.71", label="ilsvrc-cls_rn-50_cls1000"),
    _resnet("ilsvrc-resnet101", "ten crops", "21.75 6.05", label="ilsvrc-cls_rn-101_cls1000"),
    _resnet("ilsvrc-resnet152", "ten crops", "21.43 5.71", label="ilsvrc-cls_rn-152_cls1000"),
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
    wanted = (label, split, options)
    return next((row for row in RESULTS if (row.label, row.split, row.options) == wanted), None)

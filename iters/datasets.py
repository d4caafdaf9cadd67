"""The datasets: classes, colours, splits and the numbers that their label files store.

A *class id* is what the network predicts, 0 to `num_classes` - 1. A *stored id* is the number in
a label file. They differ in several datasets, and `decode_label` and `encode_label` are the only
places that know how.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.compat import InputError
from iters import class_names, palettes
from iters.palettes import Colour

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOID = 255  # class id of a pixel that has no class, in every dataset


@dataclass(frozen=True)
class Dataset:
    """What testing and training need to know of a dataset.

    Attributes:
        name: key in :data:`DATASETS`, or what a YAML file says.
        task: "classification" or "segmentation".
        num_classes: classes that a network tells apart, the background among them.
        class_names: a name for each class id; empty where the project needs none.
        palette: RGB colours, 0 to 255, one for each *stored* id; None for classification.
        stored_ids: the stored id of each class id; None where both are the same.
        void_id: the stored id that a pixel without a class is written as.
        other_void: numbers without a class that official label files store beside it.
        canvas: "square" (side: the test scale) or "image" (the image's own sides), each rounded
            up to the stride.
        max_shape: height of the tallest and width of the widest image, pixels; None: any.
        origin_size: length of an image's longer side at scale 1 of the training and in the
            published tests, pixels.
        absent_classes: what the official tool does with a class that is neither in the labels
            nor predicted: "skip" leaves it out of a mean, "zero" counts 0. Context and COCO have
            no such tool and follow VOC's.
        splits: number of images of each split; None where no number is published.
        layout: the folders and files of the official distribution, relative to the root.
        list_prefix: what the names of its lists begin with, where it shares a root with another
            dataset, whose lists must not be taken for its own.
        lists: the list file of each split, of a dataset that a YAML file describes.
    """

    name: str
    task: str
    num_classes: int
    class_names: tuple[str, ...] = ()
    palette: tuple[Colour, ...] | None = None
    stored_ids: tuple[int, ...] | None = None
    void_id: int = VOID
    other_void: tuple[int, ...] = ()
    canvas: str = "square"
    max_shape: tuple[int, int] | None = None
    origin_size: int = 500
    absent_classes: str = "skip"
    splits: Mapping[str, int | None] = field(default_factory=dict)
    layout: tuple[str, ...] = ()
    list_prefix: str = ""
    lists: Mapping[str, Path] = field(default_factory=dict)

    @property
    def settings(self) -> str | dict[str, Any]:
        """What run settings keep, as JSON: the name, or what decides of what a YAML file says."""
        if not self.lists:
            return self.name
        return {
            "name": self.name,
            "classes": list(self.class_names),
            "stored_ids": self.stored_ids and list(self.stored_ids),
            "void": self.void_id,
        }

    def class_name(self, index: int) -> str:
        """Return a class's name, or its number where the project has no names."""
        return self.class_names[index] if self.class_names else f"class {index}"

    def list_name(self, split: str) -> str:
        """Return what the list of a split is called in the root.

        Release: `<split>.lst`.
        """
        return f"{self.list_prefix}{split}.lst"


# Label id of each train id; the other label ids are void.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)

# Category ids run to 90 with ten gaps; 0 is the background.
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_IDS = tuple(number for number in range(91) if number not in _COCO_GAPS)

_VOC = Dataset(
    "voc",
    "segmentation",
    21,
    class_names=class_names.VOC,
    palette=palettes.VOC,
    max_shape=(500, 500),
    # The last is not VOC's own: its train with SBD's labels, as others list the release's train+.
    splits={"train": 1464, "val": 1449, "trainval": 2913, "test": 1456, "trainaug": 10582},
    layout=(
        "VOCdevkit/VOC2012/JPEGImages/*.jpg",
        "VOCdevkit/VOC2012/SegmentationClass/*.png",
        "VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val,trainval,test}.txt",
    ),
)

_CITYSCAPES = Dataset(
    "cityscapes",
    "segmentation",
    19,
    class_names=class_names.CITYSCAPES,
    palette=palettes.CITYSCAPES,
    stored_ids=_CITYSCAPES_IDS,
    void_id=0,
    other_void=tuple(range(-1, 34)),  # all label ids; that of a licence plate is -1
    canvas="image",
    max_shape=(1024, 2048),
    origin_size=2048,
    splits={"train": 2975, "val": 500, "test": 1525},
    layout=(
        "leftImg8bit/{train,val,test}/<city>/*_leftImg8bit.png",
        "gtFine/{train,val}/<city>/*_gtFine_labelIds.png",
    ),
)

_CONTEXT = Dataset(
    "pascal-context",
    "segmentation",
    60,
    class_names=class_names.CONTEXT,
    palette=palettes.VOC,
    max_shape=(500, 500),
    splits={"train": 4998, "val": 5105},
    layout=(
        "VOCdevkit/VOC2010/JPEGImages/*.jpg",
        "VOCdevkit/VOC2010/ImageSets/Main/{train,val}.txt",
        "trainval/*.mat (the labels of 459 classes), or trainval_merged.json (the Detail API's)",
    ),
    list_prefix="pascal-context_",  # VOC's root; both numbers of classes have the same list
)

_COCO = Dataset(
    "coco",
    "segmentation",
    81,
    class_names=class_names.COCO,
    palette=palettes.VOC,
    stored_ids=_COCO_IDS,
    max_shape=(640, 640),
    splits={"train2014": 82783, "val2014": 40504, "train2017": 118287, "val2017": 5000},
    layout=(
        "{train2017,val2017}/*.jpg",
        "annotations/instances_{train2017,val2017}.json (or 2014)",
    ),
)

# Model labels begin with a name of these, but for the variants: voc-sbd, coco20,
# cityscapes-coarse and pascal-context-59 are chosen by `--dataset`.
DATASETS: dict[str, Dataset] = {
    "ilsvrc-cls": Dataset(
        "ilsvrc-cls",
        "classification",
        1000,
        class_names=class_names.IMAGENET,
        splits={"train": 1281167, "val": 50000, "test": 100000},
        layout=(
            "train/<synset>/*.JPEG",
            "val/<synset>/*.JPEG, or val/*.JPEG with one of the next two",
            "ILSVRC2012_devkit_t12/data/ (meta.mat, ILSVRC2012_validation_ground_truth.txt)",
            "ILSVRC/Data/CLS-LOC/{train,val,test}/, LOC_val_solution.csv (Kaggle)",
        ),
    ),
    "places": Dataset(
        "places",
        "classification",
        365,
        splits={"train": 1803460, "val": 36500, "test": 328500},
        layout=(
            "data_256/<letter>/<class>/*.jpg, places365_train_standard.txt",
            "val_256/*.jpg, places365_val.txt",
        ),
    ),
    "voc": _VOC,
    "voc-sbd": dataclasses.replace(
        _VOC,
        name="voc-sbd",
        # Release: "train+" is VOC's train and all of SBD but the images of VOC's val.
        splits={"train+": 10582, "val": 1449},
        layout=(
            *_VOC.layout,
            "benchmark_RELEASE/dataset/cls/*.mat",
            "benchmark_RELEASE/dataset/{train,val}.txt",
            "or VOC2012/SegmentationClassAug/*.png, ImageSets/Segmentation/trainaug.txt",
        ),
    ),
    "coco": _COCO,
    # COCO's images with the labels of VOC's classes, which networks learn from before VOC.
    "coco20": dataclasses.replace(
        _VOC,
        name="coco20",
        max_shape=_COCO.max_shape,
        splits=dict.fromkeys(_COCO.splits),
        layout=_COCO.layout,
        list_prefix="coco20_",
    ),
    "cityscapes": _CITYSCAPES,
    "cityscapes-coarse": dataclasses.replace(
        _CITYSCAPES,
        name="cityscapes-coarse",
        splits={"train": 2975, "val": 500, "train_extra": 19998},
        layout=(
            "leftImg8bit/{train,val,train_extra}/<city>/*_leftImg8bit.png",
            "gtCoarse/{train,val,train_extra}/<city>/*_gtCoarse_labelIds.png",
        ),
        list_prefix="cityscapes-coarse_",
    ),
    "ade20k": Dataset(
        "ade20k",
        "segmentation",
        150,
        class_names=class_names.ADE20K,
        palette=palettes.VOC,
        stored_ids=tuple(range(1, 151)),
        void_id=0,
        max_shape=(2100, 2100),
        absent_classes="zero",
        splits={"train": 20210, "val": 2000, "test": 3352},
        layout=(
            "ADEChallengeData2016/images/{training,validation}/*.jpg",
            "ADEChallengeData2016/annotations/{training,validation}/*.png",
            "release_test/testing/*.jpg",
        ),
    ),
    "pascal-context": _CONTEXT,
    # The same files: what is background there has no class here.
    "pascal-context-59": dataclasses.replace(
        _CONTEXT,
        name="pascal-context-59",
        num_classes=59,
        class_names=class_names.CONTEXT[1:],
        stored_ids=tuple(range(1, 60)),
        void_id=0,
        other_void=(VOID,),
    ),
}


def allowed_values(dataset: Dataset) -> frozenset[int]:
    """Return the numbers that a label file of a dataset for segmentation may store."""
    return frozenset([*_stored_ids(dataset), dataset.void_id, *dataset.other_void])


def decode_label(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the class ids of a label file's numbers.

    Args:
        dataset: one for segmentation.
        stored: any shape, any integer type. A number that the dataset has no class for is void.

    Returns:
        An array of the same shape, uint8, :data:`VOID` where there is no class.

    Raises:
        ValueError: the dataset is not for segmentation, or the numbers are not integers.
    """
    table = np.full(256, VOID, np.uint8)
    ids = _stored_ids(dataset)
    table[list(ids)] = np.arange(len(ids))
    stored = _integers(stored, "stored ids")
    if stored.dtype != np.uint8:
        stored = np.where((stored >= 0) & (stored < 256), stored, dataset.void_id)
    return _looked_up(table, stored)


def encode_label(dataset: Dataset, classes: NDArray[Any]) -> NDArray[np.uint8]:
    """Return what a label file stores for these class ids: the way back from `decode_label`.

    Args:
        dataset: one for segmentation.
        classes: any shape, any integer type, class ids or :data:`VOID`.

    Returns:
        An array of the same shape, uint8, `dataset.void_id` for void.

    Raises:
        ValueError: the dataset is not for segmentation, or an id is not one of its classes.
    """
    ids = _stored_ids(dataset)
    classes = _integers(classes, "class ids")
    void = classes == VOID
    wrong = classes[~void & ((classes < 0) | (classes >= len(ids)))]
    if wrong.size:
        raise InputError(
            f"class id {wrong.flat[0]} is not one of {dataset.name}'s: "
            f"expected 0 to {len(ids) - 1}, or {VOID} for void"
        )
    table = np.full(256, dataset.void_id, np.uint8)
    table[: len(ids)] = ids
    return _looked_up(table, classes)


def _looked_up(table: NDArray[np.uint8], values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a table's entries for numbers 0 to 255: indexing would make 8 bytes of each first."""
    numbers = bytearray(np.ascontiguousarray(values, np.uint8))
    return np.frombuffer(numbers.translate(table.tobytes()), np.uint8).reshape(np.shape(values))


def _stored_ids(dataset: Dataset) -> tuple[int, ...] | range:
    if dataset.task != "segmentation":
        raise InputError(f"{dataset.name} is for {dataset.task}: it has no label images")
    return range(dataset.num_classes) if dataset.stored_ids is None else dataset.stored_ids


def _integers(values: NDArray[Any], what: str) -> NDArray[Any]:
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise InputError(f"{what} are {values.dtype}: expected integers")
    return values

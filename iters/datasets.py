"""The datasets: classes, colours and the numbers that their label files store.

A *class id* is what the network predicts, 0 to `num_classes` - 1. A *stored id* is the number in
a label file. They differ in three datasets, and `decode_label` and `encode_label` are the only
places that know how.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOID = 255  # class id of a pixel that has no class, in every dataset

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Dataset:
    """What testing and training need to know of a dataset.

    Attributes:
        name: key in :data:`DATASETS`, and first field of a model label.
        task: "classification" or "segmentation".
        num_classes: classes that a network tells apart, the background among them.
        class_names: a name for each class id; empty where the project needs none.
        palette: RGB colours, 0 to 255, one for each *stored* id; None for classification.
        stored_ids: the stored id of each class id; None where both are the same.
        void_id: the stored id that a pixel without a class is written as.
        canvas: "square" (side: the test scale) or "image" (the image's own sides), each rounded
            up to the stride.
        max_shape: height of the tallest and width of the widest image, pixels.
        absent_classes: what the official tool does with a class that is neither in the labels
            nor predicted: "skip" leaves it out of a mean, "zero" counts 0. Context and COCO have
            no such tool and follow VOC's.
    """

    name: str
    task: str
    num_classes: int
    class_names: tuple[str, ...] = ()
    palette: tuple[Colour, ...] | None = None
    stored_ids: tuple[int, ...] | None = None
    void_id: int = VOID
    canvas: str = "square"
    max_shape: tuple[int, int] | None = None
    absent_classes: str = "skip"


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


def _voc_colours() -> tuple[Colour, ...]:
    """Return VOC's 256 colours.

    Bits 0, 3 and 6 of an id are red's three highest, highest first; bits 1, 4 and 7 green's;
    bits 2 and 5 blue's two highest.
    """

    def channel(index: int, first_bit: int) -> int:
        return sum((index >> (first_bit + 3 * place) & 1) << (7 - place) for place in range(3))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(256))


# The release colours ADE20K, Context and COCO with this map too.
_VOC_COLOURS = _voc_colours()

_VOC_CLASSES = _names(
    """background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow,
    diningtable, dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"""
)

_CITYSCAPES_CLASSES = _names(
    """road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
    terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle"""
)

# Label id of each train id; the other label ids are void.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)

# Colours of label ids 0 to 33, the void ones among them.
_CITYSCAPES_COLOURS: tuple[Colour, ...] = (
    *((0, 0, 0),) * 5,  # unlabeled, ego vehicle, rectification border, out of roi, static
    (111, 74, 0),  # dynamic
    (81, 0, 81),  # ground
    (128, 64, 128),  # road
    (244, 35, 232),  # sidewalk
    (250, 170, 160),  # parking
    (230, 150, 140),  # rail track
    (70, 70, 70),  # building
    (102, 102, 156),  # wall
    (190, 153, 153),  # fence
    (180, 165, 180),  # guard rail
    (150, 100, 100),  # bridge
    (150, 120, 90),  # tunnel
    (153, 153, 153),  # pole
    (153, 153, 153),  # polegroup
    (250, 170, 30),  # traffic light
    (220, 220, 0),  # traffic sign
    (107, 142, 35),  # vegetation
    (152, 251, 152),  # terrain
    (70, 130, 180),  # sky
    (220, 20, 60),  # person
    (255, 0, 0),  # rider
    (0, 0, 142),  # car
    (0, 0, 70),  # truck
    (0, 60, 100),  # bus
    (0, 0, 90),  # caravan
    (0, 0, 110),  # trailer
    (0, 80, 100),  # train
    (0, 0, 230),  # motorcycle
    (119, 11, 32),  # bicycle
)

# SceneParsing's classes, each by the first of its names.
_ADE20K_CLASSES = _names(
    """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet,
    sidewalk, person, earth, door, table, mountain, plant, curtain, chair, car, water, painting,
    sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe,
    lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
    sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case,
    pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table,
    toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer,
    swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier,
    awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land,
    bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain,
    conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
    tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot,
    animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
    traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower,
    radiator, glass, clock, flag"""
)

# The order of the dataset's own list of 59: VOC's classes first.
_CONTEXT_CLASSES = _names(
    """background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog,
    horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor, bag, bed, bench, book,
    building, cabinet, ceiling, cloth, computer, cup, door, fence, floor, flower, food, grass,
    ground, keyboard, light, mountain, mouse, curtain, platform, sign, plate, road, rock,
    shelves, sidewalk, sky, snow, bedclothes, track, tree, truck, wall, water, window, wood"""
)

_COCO_CLASSES = _names(
    """background, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat,
    traffic light, fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep,
    cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee,
    skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
    tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,
    orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
    dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
    toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
    toothbrush"""
)

# Category ids run to 90 with ten gaps; 0 is the background.
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_IDS = tuple(number for number in range(91) if number not in _COCO_GAPS)


def _imagenet_classes() -> tuple[str, ...]:
    """Return the first name of each synset, in sorted order of their numbers; two occur twice."""
    text = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


DATASETS: dict[str, Dataset] = {
    "ilsvrc-cls": Dataset("ilsvrc-cls", "classification", 1000, class_names=_imagenet_classes()),
    "places": Dataset("places", "classification", 365),
    "voc": Dataset(
        "voc",
        "segmentation",
        21,
        class_names=_VOC_CLASSES,
        palette=_VOC_COLOURS,
        max_shape=(500, 500),
    ),
    "cityscapes": Dataset(
        "cityscapes",
        "segmentation",
        19,
        class_names=_CITYSCAPES_CLASSES,
        palette=_CITYSCAPES_COLOURS,
        stored_ids=_CITYSCAPES_IDS,
        void_id=0,
        canvas="image",
        max_shape=(1024, 2048),
    ),
    "ade20k": Dataset(
        "ade20k",
        "segmentation",
        150,
        class_names=_ADE20K_CLASSES,
        palette=_VOC_COLOURS,
        stored_ids=tuple(range(1, 151)),
        void_id=0,
        max_shape=(2100, 2100),
        absent_classes="zero",
    ),
    "pascal-context": Dataset(
        "pascal-context",
        "segmentation",
        60,
        class_names=_CONTEXT_CLASSES,
        palette=_VOC_COLOURS,
        max_shape=(500, 500),
    ),
    "coco": Dataset(
        "coco",
        "segmentation",
        81,
        class_names=_COCO_CLASSES,
        palette=_VOC_COLOURS,
        stored_ids=_COCO_IDS,
        max_shape=(640, 640),
    ),
}


def get_dataset(name: str) -> Dataset:
    """Return the dataset of this name.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


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
        stored = np.where((stored >= 0) & (stored < 256), stored, 255)  # 255 stores no class
    classes: NDArray[np.uint8] = table[stored]
    return classes


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
        raise ValueError(
            f"class id {wrong.flat[0]} is not one of {dataset.name}'s: "
            f"expected 0 to {len(ids) - 1}, or {VOID} for void"
        )
    table = np.full(256, dataset.void_id, np.uint8)
    table[: len(ids)] = ids
    stored: NDArray[np.uint8] = table[classes]
    return stored


def _stored_ids(dataset: Dataset) -> tuple[int, ...] | range:
    if dataset.task != "segmentation":
        raise ValueError(f"{dataset.name} is for {dataset.task}: it has no label images")
    return range(dataset.num_classes) if dataset.stored_ids is None else dataset.stored_ids


def _integers(values: NDArray[Any], what: str) -> NDArray[Any]:
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise ValueError(f"{what} are {values.dtype}: expected integers")
    return values

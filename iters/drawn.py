"""Drawn scenes: shapes on noisy backgrounds, with the truth of every pixel, for each dataset.

A scene is drawn from (seed, split, number), so that any one can be drawn again by itself.
"""

from __future__ import annotations

import colorsys
import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from iters.datasets import DATASETS, VOID
from iters.palettes import Colour

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COLOUR_NOISE = 25  # standard deviation of a shape's colour around its class's, 0–255
_LAYER_NOISE = 8  # the same of a layer's
_PIXEL_NOISE = 10
BONNET_HEIGHT = 0.12  # of the image's
_BONNET_COLOUR = (35, 35, 40)

# Corners, the angle of the first one, and the stretch across and down.
_SHAPES = {
    "triangle": (3, -np.pi / 2, (1.0, 1.0)),
    "square": (4, np.pi / 4, (1.0, 1.0)),
    "diamond": (4, 0.0, (1.0, 1.0)),
    "ellipse": (40, 0.0, (1.0, 0.7)),
    "hexagon": (6, 0.0, (1.0, 0.8)),
    "bar": (4, np.pi / 4, (0.3, 1.4)),
}


@dataclass(frozen=True)
class Scenery:
    """What the scenes of a dataset show.

    Attributes:
        things: shape and colour of each class of objects; :data:`VOID` is one of no class.
        layers: class and colour of what lies behind them, from the top; none: grey, class 0.
        num_things: fewest and most objects.
        sides: shortest and longest height and width, pixels.
        wide: a width is so many times that.
        apart: each object has a part of the width to itself, so that none hides another.
        void_width: pixels around each object that have no class.
        margin: pixels around each border of two classes that have no class, as where an
            annotator had little time.
        has_bonnet: the camera sees the bonnet of its own car, which has no class.
    """

    things: Mapping[int, tuple[str, Colour]]
    layers: Mapping[int, Colour] = field(default_factory=dict)
    num_things: tuple[int, int] = (1, 3)
    sides: tuple[int, int] = (96, 128)
    wide: int = 1
    apart: bool = False
    void_width: int = 0
    margin: int = 0
    has_bonnet: bool = False


@dataclass(frozen=True)
class Scene:
    """A drawn image with its truth.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        label: (H, W) uint8, class ids, :data:`VOID` where there is none.
        things: (H, W) uint8, the number of the object that is seen, from 1; 0 behind them.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    things: NDArray[np.uint8]


T = TypeVar("T")


def _by_id(dataset: str, by_name: Mapping[str, T]) -> dict[int, T]:
    names = DATASETS[dataset].class_names
    return {names.index(name): value for name, value in by_name.items()}


_VOC_THINGS = _by_id(
    "voc",
    {
        "aeroplane": ("triangle", (210, 60, 50)),
        "car": ("square", (60, 90, 200)),
        "dog": ("ellipse", (60, 170, 80)),
        "person": ("diamond", (225, 190, 60)),
    },
)

_CITYSCAPES = Scenery(
    {
        VOID: ("square", (110, 100, 95)),
        **_by_id(
            "cityscapes",
            {
                "pole": ("bar", (160, 160, 165)),
                "traffic sign": ("triangle", (225, 205, 50)),
                "vegetation": ("ellipse", (70, 140, 60)),
                "person": ("diamond", (205, 50, 70)),
                "car": ("hexagon", (50, 60, 180)),
                "bicycle": ("square", (130, 40, 130)),
            },
        ),
    },
    layers=_by_id(
        "cityscapes",
        {
            "sky": (150, 190, 230),
            "building": (150, 110, 90),
            "sidewalk": (215, 205, 200),
            "road": (75, 75, 80),
        },
    ),
    num_things=(3, 7),
    sides=(128, 128),
    wide=2,
    has_bonnet=True,
)

SCENERIES: dict[str, Scenery] = {
    "voc": Scenery(_VOC_THINGS, void_width=2),
    "sbd": Scenery(_VOC_THINGS),  # the same scenes, whose borders have classes
    "coco": Scenery(
        _by_id(
            "coco",
            {
                "person": ("diamond", (225, 190, 60)),
                "car": ("square", (60, 90, 200)),
                "bottle": ("bar", (50, 140, 140)),
                "tv": ("hexagon", (60, 60, 70)),
                "dog": ("ellipse", (60, 170, 80)),
                "toothbrush": ("triangle", (200, 70, 160)),
            },
        ),
        num_things=(2, 3),
        sides=(192, 256),
        apart=True,
    ),
    "cityscapes": _CITYSCAPES,
    "cityscapes-coarse": dataclasses.replace(_CITYSCAPES, margin=5),
    "ade20k": Scenery(
        _by_id(
            "ade20k",
            {
                "wall": ("square", (170, 140, 110)),
                "tree": ("ellipse", (60, 130, 60)),
                "person": ("diamond", (205, 50, 70)),
                "car": ("hexagon", (50, 60, 180)),
                "flag": ("triangle", (225, 190, 60)),
            },
        ),
        layers=_by_id(
            "ade20k",
            {"sky": (150, 190, 230), "building": (140, 100, 130), "road": (75, 75, 80)},
        ),
        void_width=2,
    ),
    "pascal-context": Scenery(
        _by_id(
            "pascal-context",
            {
                "aeroplane": ("triangle", (210, 60, 50)),
                "dog": ("ellipse", (150, 90, 40)),
                "person": ("diamond", (225, 190, 60)),
                "bag": ("square", (130, 40, 130)),
                "wood": ("bar", (100, 70, 40)),
            },
        ),
        layers=_by_id(
            "pascal-context",
            {"sky": (150, 190, 230), "background": (125, 125, 125), "grass": (90, 170, 70)},
        ),
    ),
}


def draw_for_segmentation(scenery: str, split: str, number: int, *, seed: int) -> Scene:
    """Return a scene of a split; the same arguments draw the same one.

    Args:
        scenery: key of :data:`SCENERIES`. Those that differ in the labels alone draw the same
            images: "voc" and "sbd", "cityscapes" and "cityscapes-coarse".
        split: any text.
        number: of the scene in its split, 0 or above.
        seed: 0 or above.
    """
    return draw_scene(_random_state(split, number, seed), SCENERIES[scenery])


def draw_for_classification(
    num_classes: int, split: str, number: int, *, seed: int
) -> tuple[NDArray[np.uint8], int]:
    """Return an image, (H, W, 3) uint8, and its class id; the same arguments draw the same one.

    The class decides the shape, its colour and that of the background. The first images of a
    split, as many as there are classes, show a class each, far ones first; other splits show the
    classes in the same order.

    Args:
        num_classes: number of classes.
        split: any text.
        number: of the image in its split, 0 or above.
        seed: 0 or above.
    """
    # The golden section leaves the widest gaps, and a step without a common factor leaves none.
    step = next(
        step for step in range(round(0.382 * num_classes), 0, -1) if np.gcd(step, num_classes) == 1
    )
    class_id = number * step % num_classes
    return _draw_class(_random_state(split, number, seed), class_id, num_classes), class_id


def _random_state(split: str, number: int, seed: int) -> np.random.Generator:
    key = (zlib.crc32(split.encode()), number)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def draw_scene(rng: np.random.Generator, scenery: Scenery) -> Scene:
    """Return the scene that a random state draws."""
    shortest, longest = scenery.sides
    height, width = rng.integers(shortest, longest + 1, size=2).tolist()
    width *= scenery.wide
    image, label = map(Image.fromarray, _background(rng, scenery.layers, height, width))
    things = Image.new("L", (width, height), 0)
    count = int(rng.integers(scenery.num_things[0], scenery.num_things[1] + 1))
    for number in range(count):
        class_id = int(rng.choice(list(scenery.things)))
        shape, colour = scenery.things[class_id]
        fill = _bytes(rng.normal(colour, _COLOUR_NOISE))
        part = (number / count, 1 / count) if scenery.apart else None
        outline = _outline(shape, *_place(rng, height, width, part))
        ImageDraw.Draw(image).polygon(outline, fill=tuple(fill.tolist()))
        ImageDraw.Draw(things).polygon(outline, fill=number + 1)
        border = {"outline": VOID, "width": scenery.void_width} if scenery.void_width else {}
        ImageDraw.Draw(label).polygon(outline, fill=class_id, **border)
    if scenery.has_bonnet:
        top, bottom = (1 - BONNET_HEIGHT) * height, (1 + BONNET_HEIGHT) * height
        box = (0.2 * width, top, 0.8 * width, bottom)
        ImageDraw.Draw(image).ellipse(box, fill=_BONNET_COLOUR)
        ImageDraw.Draw(label).ellipse(box, fill=VOID)
        ImageDraw.Draw(things).ellipse(box, fill=0)
    if scenery.margin:
        label = _without_borders(label, scenery.margin)
    return Scene(_with_noise(rng, image), np.array(label), np.array(things))


def _place(
    rng: np.random.Generator, height: int, width: int, part: tuple[float, float] | None
) -> tuple[NDArray[np.float64], float]:
    """Return centre (x, y) and radius of an object, pixels.

    Args:
        rng: random state.
        height: of the image, pixels.
        width: the same.
        part: where the part of the width that the object fills begins, and how wide it is, as
            fractions; None is anywhere, of any size.
    """
    left, right, radii = 0.2 * width, 0.8 * width, (14.0, 34.0)
    if part is not None:
        left = right = (part[0] + part[1] / 2) * width
        radii = (0.35 * part[1] * width, 0.49 * part[1] * width)
    centre = rng.uniform((left, 0.2 * height), (right, 0.8 * height))
    return centre, float(rng.uniform(*radii))


def _draw_class(rng: np.random.Generator, class_id: int, num_classes: int) -> NDArray[np.uint8]:
    height, width = rng.integers(96, 128 + 1, size=2).tolist()
    fill, back = (
        255 * np.array(colorsys.hsv_to_rgb(hue % 1, 0.7, value))
        for hue, value in ((class_id / num_classes, 0.9), (0.618 * class_id, 0.5))
    )
    shade = np.linspace(0.8, 1.2, width)[None, :, None]
    image = Image.fromarray(_bytes(np.broadcast_to(back, (height, width, 3)) * shade))
    shape = list(_SHAPES)[class_id % len(_SHAPES)]
    centre = rng.uniform(0.4, 0.6, size=2) * (width, height)
    outline = _outline(shape, centre, float(rng.uniform(24, 36)))
    ImageDraw.Draw(image).polygon(outline, fill=tuple(_bytes(fill).tolist()))
    return _with_noise(rng, image)


def _background(
    rng: np.random.Generator, layers: Mapping[int, Colour], height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return what lies behind the objects: an image, (H, W, 3), and class ids, (H, W)."""
    left, right = rng.uniform(70, 190, size=2).tolist()
    slope = np.linspace(left, right, num=width)[None, :, None]
    tint = rng.normal(0, 8, size=3)
    grey = np.broadcast_to(slope + tint, (height, width, 3))
    if not layers:
        return _bytes(grey), np.zeros((height, width), np.uint8)
    class_ids = np.array(list(layers), np.uint8)
    colours = rng.normal(list(layers.values()), _LAYER_NOISE)
    cuts = height * (np.arange(1, len(layers)) + rng.uniform(-0.3, 0.3, len(layers) - 1))
    tilts = rng.uniform(-0.1, 0.1, len(layers) - 1)
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    layer = (rows >= cuts / len(layers) + tilts * (columns - width / 2)).sum(axis=2)
    return _bytes(colours[layer] + 0.2 * (grey - 130)), class_ids[layer]


def _outline(shape: str, centre: NDArray[np.float64], radius: float) -> list[tuple[float, float]]:
    corners, turn, stretch = _SHAPES[shape]
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) * stretch
    return [(float(x), float(y)) for x, y in points]


def _without_borders(label: Image.Image, margin: int) -> Image.Image:
    """Return the label with void wherever there is more than one class up to `margin` away."""
    least = most = label
    for _ in range(margin):  # faster than one filter as wide as all of them
        least = least.filter(ImageFilter.MinFilter(3))
        most = most.filter(ImageFilter.MaxFilter(3))
    is_one_class = np.array(least) == np.array(most)
    return Image.fromarray(np.where(is_one_class, np.array(label), np.uint8(VOID)))


def _with_noise(rng: np.random.Generator, image: Image.Image) -> NDArray[np.uint8]:
    pixels = np.array(image)
    return _bytes(pixels + rng.normal(0, _PIXEL_NOISE, size=pixels.shape))


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.clip(values, 0, 255).astype(np.uint8)

"""A generated segmentation dataset: drawn shapes, in the layout in which VOC is distributed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from iters.datasets import DATASETS, VOID

# Class ids of VOC with the shape and the colour that stand for them.
_SHAPES = {
    1: ("triangle", (210, 60, 50)),
    7: ("square", (60, 90, 200)),
    12: ("ellipse", (60, 170, 80)),
    15: ("diamond", (225, 190, 60)),
}
CLASSES = (0, *_SHAPES)

_COLOUR_NOISE = 25  # standard deviation of a shape's colour around its class's, 0–255
_PIXEL_NOISE = 10
_VOID_WIDTH = 2  # pixels of 255 around a shape, as VOC's annotators drew them


def write_voc(root: Path, *, train: int, val: int, seed: int) -> None:
    """Write a dataset of `train` and `val` images with true labels under `root`/VOC2012.

    Args:
        root: folder to write to; made if need be.
        train: number of training images.
        val: number of validation images.
        seed: the same seed draws the same images.
    """
    base = root / "VOC2012"
    folders = [base / name for name in ("JPEGImages", "SegmentationClass")]
    lists = base / "ImageSets" / "Segmentation"
    for folder in (*folders, lists):
        folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    palette = [value for colour in DATASETS["voc"].palette or () for value in colour]
    first = 0
    for split, count in (("train", train), ("val", val)):
        names = [f"2007_{number:06d}" for number in range(first + 1, first + count + 1)]
        first += count
        for name in names:
            image, label = draw_scene(rng)
            Image.fromarray(image).save(folders[0] / f"{name}.jpg", quality=95)
            stored = Image.fromarray(label)
            stored.putpalette(palette)
            stored.save(folders[1] / f"{name}.png")
        (lists / f"{split}.txt").write_text("\n".join([*names, ""]))


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, (H, W, 3) uint8, and its label, (H, W) uint8 class ids with 255 void.

    One to three shapes lie on a shaded background; sides are 96 to 128 pixels.
    """
    height, width = (int(side) for side in rng.integers(96, 129, size=2))
    image = Image.fromarray(_background(rng, height, width))
    label = Image.new("L", (width, height), 0)
    for _ in range(rng.integers(1, 4)):
        class_id = int(rng.choice(list(_SHAPES)))
        kind, colour = _SHAPES[class_id]
        fill = np.clip(rng.normal(colour, _COLOUR_NOISE), 0, 255).astype(int)
        centre = rng.uniform((0.2 * width, 0.2 * height), (0.8 * width, 0.8 * height))
        outline = _outline(kind, centre, float(rng.uniform(14, 34)))
        ImageDraw.Draw(image).polygon(outline, fill=tuple(fill.tolist()))
        ImageDraw.Draw(label).polygon(outline, fill=class_id, outline=VOID, width=_VOID_WIDTH)
    noise = rng.normal(0, _PIXEL_NOISE, size=(height, width, 3))
    return np.clip(np.array(image) + noise, 0, 255).astype(np.uint8), np.array(label)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return grey with a slope of brightness, (H, W, 3) uint8."""
    left, right = rng.uniform(70, 190, size=2).tolist()
    slope = np.linspace(left, right, num=width)[None, :, None]
    tint = rng.normal(0, 8, size=3)
    return np.clip(np.broadcast_to(slope + tint, (height, width, 3)), 0, 255).astype(np.uint8)


def _outline(kind: str, centre: np.ndarray, radius: float) -> list[tuple[float, float]]:
    corners, turn = {
        "triangle": (3, -np.pi / 2),
        "square": (4, np.pi / 4),
        "diamond": (4, 0.0),
        "ellipse": (40, 0.0),
    }[kind]
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    stretch = (1.0, 0.7) if kind == "ellipse" else (1.0, 1.0)
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) * stretch
    return [(float(x), float(y)) for x, y in points]

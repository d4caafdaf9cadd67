"""Pictures of results: coloured label maps, over the image and beside the truth; figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from ademx.compat import import_optional
from ademx.errors import InputError
from ademx.files import PathLike, replacing
from iters import palettes
from iters.datasets import Dataset, encode_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of figures.
FORMATS = ("pdf", "png", "svg")

_MARGIN = 6  # pixels between panels
_CAPTION = 16
_BAND = 64  # rows of an image that are mixed at a time


def colourise(stored_ids: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Return a label map's colours.

    Args:
        stored_ids: (H, W) uint8.
        palette: RGB colour of each stored id; ids beyond it are white.

    Returns:
        (H, W, 3) uint8.
    """
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    colours = np.empty((*stored_ids.shape, 3), np.uint8)
    for row, coloured in zip(stored_ids, colours):  # numpy makes indices of 8 bytes each
        coloured[:] = table[row]
    return colours


def class_colours(dataset: Dataset) -> list[palettes.Colour]:
    """Return the RGB colour of each class of a segmentation; VOC's where a dataset has none."""
    palette = dataset.palette or palettes.VOC
    return [palette[stored] for stored in encode_label(dataset, np.arange(dataset.num_classes))]


def label_image(dataset: Dataset, classes: np.ndarray) -> Image.Image:
    """Return class ids, (H, W) integers, as a label image: the dataset's stored ids and colours."""
    picture = Image.fromarray(encode_label(dataset, classes))
    if dataset.palette:
        picture.putpalette(bytes(chain.from_iterable(dataset.palette)))
    return picture


def save_png(path: PathLike, picture: Image.Image, **options: Any) -> None:
    """Write a picture, one of many that can be made again, by Pillow's options for PNG."""
    with replacing(path, durable=False) as file:
        picture.save(file, "PNG", **options)


def overlay(image: np.ndarray, colours: np.ndarray, *, opacity: float = 0.6) -> np.ndarray:
    """Return an (H, W, 3) uint8 image with a label map's colours laid over it, but for black.

    Black is the background's colour: what is not an object stays as it was.
    """
    mixed = np.empty_like(image)
    for start in range(0, len(image), _BAND):  # a large image's fractions would fill the memory
        rows = slice(start, start + _BAND)
        weight = np.where(colours[rows].any(axis=2, keepdims=True), opacity, 0.0)
        mixed[rows] = np.round(image[rows] * (1 - weight) + colours[rows] * weight)
    return mixed


def side_by_side(panels: Sequence[tuple[str, np.ndarray]], *, zoom: int = 1) -> Image.Image:
    """Return panels, (H, W, 3) uint8 of equal size, in a row with their captions above."""
    height, width = (side * zoom for side in panels[0][1].shape[:2])
    canvas = Image.new(
        "RGB",
        (len(panels) * (width + _MARGIN) - _MARGIN, height + _CAPTION),
        "white",
    )
    draw = ImageDraw.Draw(canvas)
    for position, (caption, pixels) in enumerate(panels):
        left = position * (width + _MARGIN)
        draw.text((left + 2, 2), caption, fill="black")
        panel = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        canvas.paste(panel, (left, _CAPTION))
    return canvas


def check_format(picture_format: str) -> None:
    """Raise InputError unless it is one of :data:`FORMATS`."""
    if picture_format not in FORMATS:
        raise InputError(f"picture format {picture_format!r}: choose one of {', '.join(FORMATS)}")


def new_figure() -> Figure:
    """Return an empty figure that arranges its panels by itself.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    module = import_optional(
        "matplotlib.figure",
        "drawing curves needs matplotlib, which is not installed: run `pip install 'ademx[plot]'`",
    )
    figure: Figure = module.Figure(layout="constrained")
    return figure

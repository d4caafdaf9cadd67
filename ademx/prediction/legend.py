"""A picture of predicted classes: colours and outlines over the image, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ademx.pictures import colourise, overlay
from ademx.text import printable
from iters.palettes import Colour

_MAX_ROWS = 24
_LEAST_SIDE = 400  # pixels; smaller images are enlarged by a whole factor
_INK, _FAINT, _PAPER, _OUTLINE = (32, 33, 36), (128, 132, 138), (255, 255, 255), (255, 255, 255)
_OUTLINE_OPACITY = 0.8


@dataclass(frozen=True)
class ClassShare:
    """A class and what it has of an image.

    Attributes:
        index: class id.
        name: the class's.
        value: its probability, or the fraction of the pixels that it has.
    """

    index: int
    name: str
    value: float


def draw_classes(
    image: np.ndarray,
    classes: np.ndarray,
    palette: Sequence[Colour],
    legend: Sequence[ClassShare],
) -> Image.Image:
    """Return an image with its classes laid over it, and a legend at its right.

    Args:
        image: (H, W, 3) uint8 RGB.
        classes: (H, W) class ids; where they change there is an outline.
        palette: the classes' colours, RGB; black is what is left uncoloured.
        legend: rows from top to bottom; beyond 24 they are counted together.
    """
    zoom = max(1, _LEAST_SIDE // max(image.shape[:2]))
    if zoom > 1:
        image, classes = (
            array.repeat(zoom, axis=0).repeat(zoom, axis=1) for array in (image, classes)
        )
    picture = Image.fromarray(overlay(image, colourise(classes, palette)))
    line = max(1, round(min(image.shape[:2]) / 400))
    mask = Image.fromarray(_outlines(classes, line))
    picture.paste(_OUTLINE, mask=mask)
    panel = _draw_legend(legend, palette, text_height=min(26, max(12, image.shape[0] // 28)))
    canvas = Image.new(
        "RGB", (picture.width + panel.width, max(picture.height, panel.height)), _PAPER
    )
    canvas.paste(picture)
    canvas.paste(panel, (picture.width, 0))
    return canvas


def _outlines(classes: np.ndarray, width: int) -> np.ndarray:
    """Return the opacity, (H, W) uint8, of lines where neighbours differ in class."""
    edges = np.zeros(classes.shape, bool)
    edges[:-1] |= classes[:-1] != classes[1:]
    edges[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    return _thickened(edges, width // 2) * np.uint8(round(255 * _OUTLINE_OPACITY))


def _thickened(edges: np.ndarray, reach: int) -> np.ndarray:
    """Return where an edge is at most `reach` rows and columns away, in few passes."""
    for axis in (0, 1):
        done = 0
        while done < reach:
            step = min(2 * done + 1, reach - done)
            before, edges = edges.swapaxes(0, axis), edges.copy()
            after = edges.swapaxes(0, axis)
            after[step:] |= before[:-step]
            after[:-step] |= before[step:]
            done += step
    return edges


def _draw_legend(
    rows: Sequence[ClassShare], palette: Sequence[Colour], *, text_height: int
) -> Image.Image:
    """Return the panel: a swatch, the name and the share of each class, and how many are left."""
    font = _font(text_height)
    names = [printable(row.name) for row in rows[:_MAX_ROWS]]
    shares = [_percent(row.value) for row in rows[:_MAX_ROWS]]
    if len(rows) > _MAX_ROWS:
        names.append(f"{len(rows) - _MAX_ROWS} more")
        shares.append(_percent(sum(row.value for row in rows[_MAX_ROWS:])))
    gap, pitch = text_height, round(1.75 * text_height)
    widths = [max(font.getlength(text) for text in texts) for texts in (names, shares)]
    swatch = round(1.6 * text_height)
    at_name = gap + swatch + gap // 2
    at_share = at_name + round(widths[0] + 1.5 * gap + widths[1])  # of its right end
    panel = Image.new("RGB", (at_share + gap, 2 * gap + pitch * len(names)), _PAPER)
    draw = ImageDraw.Draw(panel)
    for number, (name, share) in enumerate(zip(names, shares)):
        middle = gap + pitch * number + pitch // 2
        if number < _MAX_ROWS:
            colour = palette[rows[number].index]
            _draw_swatch(draw, (gap, middle, swatch, text_height), colour)
        draw.text((at_name, middle), name, _INK, font, anchor=_anchor(font, "lm"))
        left = at_share - font.getlength(share)
        draw.text((left, middle), share, _FAINT, font, anchor=_anchor(font, "lm"))
    return panel


def _draw_swatch(
    draw: ImageDraw.ImageDraw, place: tuple[int, int, int, int], colour: Colour
) -> None:
    left, middle, width, height = place
    box = (left, middle - height // 2, left + width, middle + height - height // 2)
    painted = any(colour)
    draw.rounded_rectangle(
        box,
        radius=height // 4,
        fill=colour if painted else None,
        outline=None if painted else _FAINT,
    )


def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(height)
    except TypeError:  # Pillow before 10.1 has one small font
        return ImageFont.load_default()


def _anchor(font: object, anchor: str) -> str | None:
    return anchor if isinstance(font, ImageFont.FreeTypeFont) else None


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"

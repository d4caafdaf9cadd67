"""What labelme writes: a JSON file of shapes for each image."""

from __future__ import annotations

import base64
import io
import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ademx import forms
from ademx.data.imports.classes import Classes
from ademx.data.imports.source import Picture, Source, find_image, fits, usable
from ademx.data.imports.write import Imported, ImportOptions, import_dataset
from ademx.data.lists.coco import FARTHEST
from ademx.errors import InputError, MissingFile
from ademx.text import first_few
from iters.decode import DECODING_ERRORS, decode_numbers
from iters.files import read_file, read_text
from iters.images import SUFFIXES

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

_FORM = {
    "shapes": [{"label": forms.TEXT, "points": [[forms.NUMBER]]}],
    "imagePath": forms.TEXT,
}
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png"}  # what labelme embeds

# Kind of shape -> number of points that it needs; "rotation" is a later tool's turned rectangle.
_AREAS = {"polygon": 3, "rotation": 3, "rectangle": 2, "circle": 2, "mask": 2}
_WITHOUT_AREA = ("point", "points", "line", "linestrip")


@dataclass(frozen=True)
class Shape:
    """A shape that can be drawn.

    Attributes:
        label: its text.
        kind: one of labelme's shape types that have an area.
        points: x and y of each, pixels; (0, 0) is the centre of the first pixel.
        group: shapes of one object have the same.
        mask: an encoded image, of a shape that is one.
    """

    label: str
    kind: str
    points: tuple[tuple[float, float], ...]
    group: Any = None
    mask: bytes = b""

    def draw(self, canvas: Image.Image, value: int) -> None:
        """Paint the shape into an image of one channel, by labelme's rule.

        A pixel is in it that its outline touches or whose centre lies inside.
        """
        draw = ImageDraw.Draw(canvas)
        (left, right), (top, bottom) = ((min(axis), max(axis)) for axis in zip(*self.points))
        if self.kind == "circle":
            (x, y), on_rim = self.points
            radius = math.dist((x, y), on_rim)
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, fill=value, outline=value)
        elif self.kind == "rectangle":
            draw.rectangle((left, top, right, bottom), fill=value, outline=value)
        elif self.kind == "mask":
            inside = Image.fromarray(decode_numbers(self.mask) > 0)
            canvas.paste(value, (int(left), int(top)), inside)
        else:
            draw.polygon(self.points, fill=value, outline=value)


@dataclass(frozen=True)
class LabelmeLabel:
    """The shapes of an image, from which its label is drawn.

    Attributes:
        height: of the image, pixels.
        width: the same.
        shapes: in the order of the file.
        classes: how they are drawn.
    """

    height: int
    width: int
    shapes: Sequence[Shape]
    classes: Classes

    def read(self) -> NDArray[np.uint8]:
        """Return the stored ids, (H, W) uint8; see :class:`ademx.data.lists.plans.LabelSource`.

        A shape that lies wholly within others of its label and group is a hole in them; a copy of
        one is none.
        """
        canvas = Image.new("L", (self.width, self.height), self.classes.unlabelled)
        parts = self._parts()
        shapes = [one for one in enumerate(self.shapes) if one[1].label in self.classes.ids]
        for number, shape in shapes if self.classes.order == "last" else reversed(shapes):
            value = self.classes.ids[shape.label]
            if number not in parts:
                shape.draw(canvas, value)
            elif (part := parts[number]) is not None:
                rows, columns = part.box
                canvas.paste(value, (columns.start, rows.start), Image.fromarray(part.mask))
        return np.array(canvas)

    def _parts(self) -> dict[int, _Part | None]:
        """Return, of each shape in a group of several, by number what of it is in no hole."""
        groups: dict[tuple[str, str], list[int]] = {}
        for number, shape in enumerate(self.shapes):
            if shape.group is not None:
                groups.setdefault((shape.label, repr(shape.group)), []).append(number)
        found: dict[int, _Part | None] = {}
        for numbers in groups.values():
            if len(numbers) > 1:
                drawn = {number: self._draw(self.shapes[number]) for number in numbers}
                inside = self._without_holes([part for part in drawn.values() if part is not None])
                for number, part in drawn.items():
                    found[number] = part and _Part(part.box, part.mask & inside[part.box])
        return found

    def _draw(self, shape: Shape) -> _Part | None:
        """Return the pixels of a shape; None if it has none in the image."""
        canvas = Image.new("L", (self.width, self.height))
        shape.draw(canvas, 1)
        box = canvas.getbbox()
        if box is None:
            return None
        left, top, right, bottom = box
        mask = np.asarray(canvas.crop(box)) > 0
        return _Part((slice(top, bottom), slice(left, right)), mask)

    def _without_holes(self, parts: Sequence[_Part]) -> NDArray[np.bool_]:
        """Return which pixels are in shapes of a group; one wholly within others is a hole."""
        inside = np.zeros((self.height, self.width), bool)
        parts = sorted(parts, key=lambda part: np.count_nonzero(part.mask), reverse=True)
        for position, part in enumerate(parts):
            if any(
                part.box == other.box and np.array_equal(part.mask, other.mask)
                for other in parts[:position]
            ):
                continue  # a copy
            around = inside[part.box]
            is_hole = not (part.mask & ~around).any()
            inside[part.box] = around & ~part.mask if is_hole else around | part.mask
        return inside


class _Part(NamedTuple):
    """Some pixels of an image.

    Attributes:
        box: rows and columns of the box that they lie in.
        mask: which pixels of the box they are.
    """

    box: tuple[slice, slice]
    mask: NDArray[np.bool_]


def import_labelme(source: Path, options: ImportOptions) -> Imported:
    """Make a dataset of labelme's JSON files; see :func:`import_dataset`.

    Args:
        source: one, or a folder with them, also in folders below.
        options: what to make.

    Raises:
        ValueError, OSError: see :func:`import_dataset`.
    """
    return import_dataset(lambda: _read(source, options), options)


def _read(source: Path, options: ImportOptions) -> Source:
    folder = source if source.is_dir() else source.parent
    files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    if not files:
        raise MissingFile(
            f"{source}: no .json file in this folder or below: expected labelme's, one an image"
        )
    skipped: Counter[str] = Counter()
    pictures = usable(
        files,
        lambda file: _read_picture(file, folder, options.exif, skipped),
        skip_broken=options.skip_broken,
        unit="file",
    )
    _tell_unannotated(folder, {*files}, pictures)
    labels = sorted({label for picture in pictures for label in picture.counts})
    return Source(pictures, labels, skipped)


def _tell_unannotated(folder: Path, files: Set[Path], pictures: Sequence[Picture]) -> None:
    used = {picture.file for picture in pictures}
    others = [
        path.name
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path not in used
        and path.with_suffix(".json") not in files  # which could not be used
    ]
    if others:
        _log.info("images without a JSON file, left out: %d (%s)", len(others), first_few(others))


def _read_picture(file: Path, folder: Path, rule: str, skipped: Counter[str]) -> Picture:
    """Return a JSON file's image with its shapes, and note those that cannot be drawn.

    Raises:
        ValueError: it is none of labelme's, or does not fit its image.
        FileNotFoundError: the image is neither in a file nor in the JSON file.
    """
    content = _content(file)
    path = find_image(content["imagePath"], [file.parent])
    read = partial(_embedded, file) if path is None else partial(read_file, path)
    try:
        encoded = _embedded(file, content) if path is None else read()
        size, orientation, turned = fits(
            encoded,
            height=content.get("imageHeight"),
            width=content.get("imageWidth"),
            rule=rule,
        )
    except InputError as error:
        raise InputError(f"{file}: its image {path or '(embedded)'} {error}") from None
    suffix = _embedded_suffix(encoded) if path is None else path.suffix
    shapes, wrong = _shapes(content["shapes"])
    skipped.update(wrong)
    return Picture(
        name=file.relative_to(folder).with_suffix("").as_posix(),
        file=path,
        read=read,
        suffix=suffix,
        orientation=orientation,
        turned=turned,
        counts=Counter(shape.label for shape in shapes),
        labelled=partial(LabelmeLabel, *size, shapes),
    )


def _content(file: Path) -> dict[str, Any]:
    """Return what a JSON file of labelme's holds."""
    try:
        text = read_text(file)
        text.encode()
        content = json.loads(text)
    except UnicodeEncodeError:
        raise InputError(f"{file}: not in UTF-8: save it anew as such") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not JSON: {error}") from None
    if isinstance(content, dict) and "annotations" in content:
        raise InputError(f"{file}: it looks like COCO's annotations: `ademx data import coco`")
    wrong = forms.misfit(content, _FORM, "the file", is_item=True)
    if wrong:
        raise InputError(f"{file}: not labelme's: {wrong}")
    return dict(content)


def _embedded(file: Path, content: Mapping[str, Any] | None = None) -> bytes:
    """Return the image that lies in a JSON file, in the bytes of its own format."""
    content = content or _content(file)
    data = content.get("imageData")
    if not data:
        raise MissingFile(
            f"{file}: its image {content['imagePath']!r} is not there, nor in imageData"
        )
    try:
        return _unpacked(data)
    except ValueError as error:
        raise InputError(f"cannot be decoded: imageData: {error}") from None


def _unpacked(data: Any) -> bytes:
    """Return what base64 text holds, in lines or one, also behind the head of a data: address.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(data, str):
        raise InputError(f"expected a text, found {type(data).__name__}")
    return base64.b64decode("".join(data.rpartition(",")[2].split()), validate=True)


def _embedded_suffix(encoded: bytes) -> str:
    with Image.open(io.BytesIO(encoded)) as image:
        return _SUFFIXES.get(str(image.format), f".{image.format}".lower())


def _shapes(items: Sequence[Mapping[str, Any]]) -> tuple[tuple[Shape, ...], Counter[str]]:
    """Return the shapes that can be drawn, and the number of others by what is wrong with them."""
    shapes: list[Shape] = []
    wrong: Counter[str] = Counter()
    for item in items:
        kind = str(item.get("shape_type") or "polygon")
        points = tuple(tuple(point) for point in item["points"])
        problem = _problem(kind, item["label"], points)
        mask = b""
        if not problem and kind == "mask":
            mask = _mask_image(item.get("mask"), points)
            problem = "" if mask else "mask: no image of the size of its box"
        if problem:
            wrong[problem] += 1
        else:
            shapes.append(Shape(item["label"], kind, points, item.get("group_id"), mask))
    return tuple(shapes), wrong


def _problem(kind: str, label: str, points: Sequence[Sequence[float]]) -> str:
    """Return why a shape cannot be drawn, or ""."""
    if kind in _WITHOUT_AREA:
        return f"{kind}: has no area"
    if kind not in _AREAS:
        return f"{kind}: unknown kind of shape"
    if not label.strip():
        return f"{kind}: without a label"
    if len(points) < _AREAS[kind] or (kind == "circle" and len(points) > 2):
        return f"{kind}: {len(points)} points, expected {_AREAS[kind]}"
    if not all(
        len(point) == 2 and all(abs(value) <= FARTHEST for value in point) for point in points
    ):
        return f"{kind}: points that lie nowhere"
    return ""


def _mask_image(data: Any, points: Sequence[Sequence[float]]) -> bytes:
    """Return a mask's image, or nothing where it is none, or not of the size of its box."""
    (left, top), (right, bottom) = ([int(value) for value in point] for point in points[:2])
    try:
        encoded = _unpacked(data)
        found = decode_numbers(encoded).shape == (bottom - top + 1, right - left + 1)
    except DECODING_ERRORS:
        return b""
    return encoded if found else b""

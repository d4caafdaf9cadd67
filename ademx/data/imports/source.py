"""What an import finds: annotated images, and how a label lies on each."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ademx.compat import usable_cores
from ademx.data.imports.classes import Classes
from ademx.data.lists.plans import LabelSource
from ademx.data.lists.write import UNLISTABLE, is_listable
from ademx.errors import InputError, UserError
from ademx.iteration import prefetched, progress_bar
from iters import exif
from iters.decode import Size, decode_image, image_size, sample_size

_log = logging.getLogger(__name__)

_NUM_SHOWN = 20  # problems that are told one by one

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jfif")

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """An annotated image.

    Attributes:
        name: its path in the dataset without suffix, "/" between folders.
        file: the image's file; None where its bytes come from elsewhere.
        read: returns the encoded image.
        suffix: of its file, such as ".jpg".
        orientation: by its EXIF data; 1 is upright.
        turned: whether it is set upright, as its label is.
        counts: number of shapes of each label.
        labelled: returns what the label image is made from.
        split: None where the import splits.
    """

    name: str
    file: Path | None
    read: Callable[[], bytes]
    suffix: str
    orientation: int
    turned: bool
    counts: Mapping[str, int]
    labelled: Callable[[Classes], LabelSource]
    split: str | None = None

    @property
    def file_name(self) -> str:
        """Its path in the dataset; what is set upright is saved anew, as JPEG or as PNG."""
        is_kept = not self.turned or self.suffix.lower() in JPEG_SUFFIXES
        return f"{self.name}{self.suffix if is_kept else '.png'}"


@dataclass(frozen=True)
class Source:
    """All that was found to import.

    Attributes:
        pictures: the images.
        labels: in the order of their classes, where no file says it.
        skipped: number of shapes that cannot be drawn, by what is wrong with them.
    """

    pictures: Sequence[Picture]
    labels: Sequence[str]
    skipped: Mapping[str, int] = field(default_factory=dict)


def usable(
    items: Sequence[T], read: Callable[[T], Picture], *, skip_broken: bool, unit: str
) -> list[Picture]:
    """Return the picture of each item that can be used.

    Raises:
        ValueError: some cannot, and are not to be skipped; they are logged.
    """
    pictures: list[Picture] = []
    problems: list[str] = []
    with progress_bar(total=len(items), desc="reading", unit=unit) as bar:
        for item in items:
            try:
                pictures.append(read(item))
            except (UserError, OSError) as error:
                problems.append(str(error))
            bar.update()
    names = Counter(picture.name for picture in pictures)
    files = Counter(picture.file for picture in pictures if picture.file)
    damage = dict(_damage(pictures))
    problems += damage.values()
    problems += [
        f"{file}: annotated {number} times" for file, number in files.items() if number > 1
    ]
    problems += [
        f"{name}: the name of {number} images" for name, number in names.items() if number > 1
    ]
    pictures = [
        one
        for one in pictures
        if names[one.name] == 1
        and not (one.file and files[one.file] > 1)
        and one.name not in damage
    ]
    for problem in problems[:_NUM_SHOWN]:
        _log.warning("%s%s", "left out: " if skip_broken else "", problem)
    if len(problems) > _NUM_SHOWN:
        _log.warning("… and %d more", len(problems) - _NUM_SHOWN)
    if problems and not (skip_broken and pictures):
        raise InputError(
            f"{len(problems):,} of {len(items):,} {unit}s cannot be used, the first: {problems[0]}"
            ": mend them, or leave them out by --skip-broken"
        )
    return pictures


def _damage(pictures: Sequence[Picture]) -> Iterator[tuple[str, str]]:
    """Yield the names of pictures that cannot be used, with what is wrong with each."""

    def problem(picture: Picture) -> str:
        if not is_listable(picture.file_name):
            return UNLISTABLE
        try:
            decode_image(picture.read())
        except (UserError, OSError) as error:
            return str(error)
        return ""

    looked = prefetched(pictures, problem, threads=usable_cores() or 1)
    bar = progress_bar(
        iterable=looked, total=len(pictures), desc="looking for damage", unit="image"
    )
    for picture, told in bar:
        if told:
            yield picture.name, f"{str(picture.file or picture.name)!r}: {told}"


def find_image(said: str, folders: Sequence[Path]) -> Path | None:
    """Return the image that annotations name in the first folder that has it, or None.

    Where no folder has its path, of Windows too, one has a file of its bare name.
    """
    slashed = said.replace("\\", "/")
    names = (said, slashed, slashed.rpartition("/")[2])
    paths = (folder / name for name in names for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def fits(encoded: bytes, *, height: Any, width: Any, rule: str) -> tuple[Size, int, bool]:
    """Return the size of an image's label, its EXIF orientation, and whether it is set upright.

    Args:
        encoded: the image's file.
        height: by the annotations; what is no number says nothing.
        width: the same.
        rule: one of :data:`iters.exif.RULES`.

    Raises:
        ValueError: it is no image, or has another size than is stated.
    """
    stated = None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        stated = int(height), int(width)
    size, turned = sample_size(encoded, stated, rule)
    if stated not in (None, size):
        why = (
            "that is how it is stored, which --exif auto takes"
            if stated == image_size(encoded)
            else "it was resized or changed since"
        )
        raise InputError(
            f"is {_pixels(size)} pixels (height × width), its annotations are of "
            f"{_pixels(stated)}: {why}"
        )
    return size, exif.orientation(encoded), turned


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"

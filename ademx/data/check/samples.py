"""What is wrong with the files of one sample."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import UnidentifiedImageError

from ademx.data.check.problems import Problem
from ademx.text import first_few
from iters.datasets import Dataset, allowed_values
from iters.decode import (
    DECODING_ERRORS,
    ColouredLabel,
    Size,
    decode_image,
    decode_numbers,
    image_size,
)
from iters.exif import describe_turn, orientation, upright_size
from iters.samples import Sample
from iters.sources import read_bytes
from iters.variants import explain_colours, explain_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BY_EXIF = (
    "evaluate and train turn an image where only that fits its label's size; "
    "--exif turn and --exif ignore say otherwise"
)
_UNSEEN = (
    "look at one beside its label: evaluate and train take them as they are stored, but for "
    "--exif turn"
)


@dataclass
class Found:
    """What reading a sample's files showed.

    Attributes:
        problems: what is wrong with them.
        digest: of the image's file; None where it was not opened or cannot be decoded.
        values: number in the label -> pixels; None where there is no label that was read.
        exif: a remark on an image that its EXIF data turn.
    """

    problems: list[Problem] = field(default_factory=list)
    digest: bytes | None = None
    values: dict[int, int] | None = None
    exif: Problem | None = None


def look_for_files(job: tuple[str, Sample]) -> Found:
    """Look whether the files of a split's sample are there."""
    split, sample = job
    found = Found()
    for path in (sample.image, sample.label):
        if isinstance(path, Path):
            with _reading_errors(found.problems, split, str(path)):
                path.stat()
    return found


def read_files(dataset: Dataset, job: tuple[str, Sample]) -> Found:
    """Decode the image and the label of a split's sample."""
    split, sample = job
    found = Found()
    size = label_size = None
    turn = 1
    with _reading_errors(found.problems, split, str(sample)):
        encoded = read_bytes(sample.image, sample.offset)
        image = decode_image(encoded)
        size, turn = (image.height, image.width), orientation(encoded)
        found.digest = hashlib.blake2b(encoded, digest_size=16).digest()
    if isinstance(sample.label, Path):
        with _reading_errors(found.problems, split, str(sample.label)):
            label_size = _read_label(dataset, split, sample.label, found)
        if size and label_size and label_size not in (size, upright_size(size, turn)):
            sides = (*label_size[::-1], *size[::-1])
            detail = "{}×{} pixels, the image {}×{} (width × height)".format(*sides)
            found.problems.append(Problem("size", split, str(sample.label), detail))
    if size and turn != 1:
        found.exif = _turned(split, sample, size, turn, label_size)
    return found


def _read_label(dataset: Dataset, split: str, path: Path, found: Found) -> Size:
    """Return a label's height and width, and note its numbers and what is wrong with them."""
    encoded = read_bytes(path)
    size = image_size(encoded)
    try:
        found.values = _count_values(decode_numbers(encoded))
    except ColouredLabel as error:
        hint = explain_colours(dataset)
        found.problems.append(Problem("value", split, str(path), str(error), hint))
        return size
    values = found.values
    wrong = {value: values[value] for value in values.keys() - allowed_values(dataset)}
    if wrong:
        hint = explain_values(dataset, values)
        found.problems.append(Problem("value", split, str(path), _wrong_values(wrong), hint))
    return size


def _count_values(numbers: NDArray[Any]) -> dict[int, int]:
    """Return the numbers in a label -> how many pixels.

    Numbers above 255, which the iterators take as void, are told apart.
    """
    if numbers.dtype == np.uint8:  # fifteen times as fast
        counts = np.bincount(numbers.reshape(-1), minlength=256)
        return {value: count for value, count in enumerate(counts.tolist()) if count}
    values, counts = np.unique(numbers, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist()))


def _wrong_values(wrong: Mapping[int, int]) -> str:
    """Return the wrong numbers of a label with their pixels, the most frequent first."""
    ranked = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
    return first_few([f"{value} ({count:,} px)" for value, count in ranked])


def _turned(split: str, sample: Sample, size: Size, turn: int, label_size: Size | None) -> Problem:
    """Return what an image's EXIF data turn it by, and which way its label lies."""
    turned = upright_size(size, turn)
    kind, hint = "exif", _BY_EXIF
    if label_size is None:
        lies = "it has no label that would show whether to turn it"
    elif turned == size:
        lies = "its label's size does not show whether to turn it"
        kind, hint = "unseen", _UNSEEN
    elif label_size == turned:
        lies = "its label has the size of the turned image"
    else:
        lies = "its label has the size of the stored image"
    detail = f"{describe_turn(turn)}: {lies}"
    return Problem(kind, split, str(sample), detail, hint)


@contextmanager
def _reading_errors(problems: list[Problem], split: str, path: str) -> Iterator[None]:
    """Note what is wrong with a file that is being read."""
    try:
        yield
    except FileNotFoundError:
        problems.append(Problem("missing", split, path, "not there"))
    except DECODING_ERRORS as error:
        cause = error.__cause__ or error
        # What the system and the reader say names the file once more.
        detail = getattr(cause, "strerror", None) or str(cause).removeprefix(f"{path}: ")
        if isinstance(cause, UnidentifiedImageError):  # its text gives an address in memory
            detail = "not an image of a known format"
        problems.append(Problem("unreadable", split, path, detail))

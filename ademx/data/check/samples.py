"""What is wrong with the files of one sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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
from iters.exif import described, orientation, upright_size
from iters.samples import Sample
from iters.sources import read_bytes
from iters.variants import explain_colours, explain_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")

_BY_EXIF = (
    "evaluate and train turn an image where only that fits its label's size; "
    "--exif turn and --exif ignore say otherwise"
)
_UNSEEN = (
    "look at one beside its label: evaluate and train take them as they are stored, but for "
    "--exif turn"
)


class Found(NamedTuple):
    """What reading a sample's files showed.

    Attributes:
        problems: what is wrong with them.
        digest: of the image's file; None where it was not opened or cannot be decoded.
        values: number in the label -> pixels; None where there is no label that was read.
        exif: a remark on an image that its EXIF data turn.
    """

    problems: list[Problem]
    digest: bytes | None = None
    values: dict[int, int] | None = None
    exif: Problem | None = None


def look_for_files(job: tuple[str, Sample]) -> Found:
    """Look whether the files of a split's sample are there."""
    split, sample = job
    problems = []
    for path in (sample.image, sample.label):
        if isinstance(path, Path):
            outcome = _attempt(path.stat, split, str(path))
            problems += [outcome] if isinstance(outcome, Problem) else []
    return Found(problems)


def read_files(dataset: Dataset, job: tuple[str, Sample]) -> Found:
    """Decode the image and the label of a split's sample."""
    split, sample = job
    image = _attempt(partial(_read_image, sample), split, str(sample))
    known = None if isinstance(image, Problem) else image
    problems = [image] if isinstance(image, Problem) else []
    digest = None if known is None else known.digest
    if not isinstance(sample.label, Path):
        return Found(problems, digest, exif=_turned(split, sample, known, None))
    path = sample.label
    label = _attempt(partial(_read_label, path), split, str(path))
    if isinstance(label, Problem):
        return Found([*problems, label], digest, exif=_turned(split, sample, known, None))
    fits = known is None or label.size in (
        known.size,
        upright_size(known.size, known.orientation),
    )
    if known is not None and not fits:
        sides = (*label.size[::-1], *known.size[::-1])
        detail = "{}×{} pixels, the image {}×{} (width × height)".format(*sides)
        problems.append(Problem("size", split, str(path), detail))
    exif = _turned(split, sample, known, label.size)
    if label.numbers is None:
        hint = explain_colours(dataset)
        problems.append(Problem("value", split, str(path), label.colours, hint))
        return Found(problems, digest, exif=exif)
    values = _count_values(label.numbers)
    wrong = {value: values[value] for value in values.keys() - allowed_values(dataset)}
    if wrong:
        hint = explain_values(dataset, values)
        problems.append(Problem("value", split, str(path), _wrong_values(wrong), hint))
    return Found(problems, digest, values, exif)


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


class _Image(NamedTuple):
    """An image that could be decoded: height and width, a digest of its file, its orientation."""

    size: Size
    digest: bytes
    orientation: int


def _read_image(sample: Sample) -> _Image:
    encoded = read_bytes(sample.image, sample.offset)
    image = decode_image(encoded)
    digest = hashlib.blake2b(encoded, digest_size=16).digest()
    return _Image((image.height, image.width), digest, orientation(encoded))


class _Label(NamedTuple):
    """A label that could be decoded.

    Attributes:
        size: height and width, pixels.
        numbers: what it stores; None where it has colours.
        colours: what is wrong with those.
    """

    size: Size
    numbers: NDArray[Any] | None
    colours: str = ""


def _read_label(path: Path) -> _Label:
    encoded = read_bytes(path)
    size = image_size(encoded)
    try:
        return _Label(size, decode_numbers(encoded))
    except ColouredLabel as error:
        return _Label(size, None, str(error))


def _turned(
    split: str, sample: Sample, image: _Image | None, label_size: Size | None
) -> Problem | None:
    """Return what an image's EXIF data turn it by, and which way its label lies."""
    if image is None or image.orientation == 1:
        return None
    turned = upright_size(image.size, image.orientation)
    kind, hint = "exif", _BY_EXIF
    if label_size is None:
        lies = "it has no label that would show whether to turn it"
    elif turned == image.size:
        lies = "its label's size does not show whether to turn it"
        kind, hint = "unseen", _UNSEEN
    elif label_size == turned:
        lies = "its label has the size of the turned image"
    else:
        lies = "its label has the size of the stored image"
    detail = f"{described(image.orientation)}: {lies}"
    return Problem(kind, split, str(sample), detail, hint)


def _attempt(read: Callable[[], T], split: str, path: str) -> T | Problem:
    """Return what a function reads, or what is wrong with the file."""
    try:
        return read()
    except FileNotFoundError:
        return Problem("missing", split, path, "not there")
    except DECODING_ERRORS as error:
        cause = error.__cause__ or error
        if isinstance(cause, UnidentifiedImageError):  # its text gives an address in memory
            return Problem("unreadable", split, path, "not an image of a known format")
        # What the system and the reader say names the file once more.
        detail = getattr(cause, "strerror", None) or str(cause).removeprefix(f"{path}: ")
        return Problem("unreadable", split, path, detail)

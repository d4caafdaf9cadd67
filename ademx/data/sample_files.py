"""What is wrong with the files of one sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import UnidentifiedImageError

from ademx.data.label_values import (
    allowed_values,
    count_values,
    explain_colours,
    explain_values,
    open_label,
)
from ademx.data.problems import Problem, first_few
from iters.datasets import Dataset
from iters.decode import decode_image
from iters.lists import Sample
from iters.sources import read_bytes
from iters.transforms import DECODING_ERRORS, LABEL_MODES

T = TypeVar("T")


class Found(NamedTuple):
    """What reading a sample's files showed.

    Attributes:
        problems: what is wrong with them.
        digest: of the image's file; None where it was not opened or cannot be decoded.
        values: number in the label -> pixels; None where there is no label that was read.
    """

    problems: list[Problem]
    digest: bytes | None = None
    values: dict[int, int] | None = None


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
    problems: list[Problem] = []
    image = _attempt(partial(_read_image, sample), split, str(sample))
    size, digest = (None, None) if isinstance(image, Problem) else image
    problems += [image] if isinstance(image, Problem) else []
    if not isinstance(sample.label, Path):
        return Found(problems, digest)
    path = sample.label
    label = _attempt(lambda: open_label(read_bytes(path)), split, str(path))
    if isinstance(label, Problem):
        return Found([*problems, label], digest)
    if size is not None and label.size != size:
        detail = "{}×{} pixels, the image {}×{} (width × height)".format(*label.size, *size)
        problems.append(Problem("size", split, str(path), detail))
    if label.mode not in LABEL_MODES:
        detail = f"mode {label.mode}: expected one number a pixel (a grey or palette PNG)"
        problems.append(Problem("value", split, str(path), detail, explain_colours(dataset)))
        return Found(problems, digest)
    values = count_values(label)
    wrong = {value: values[value] for value in values.keys() - allowed_values(dataset)}
    if wrong:
        hint = explain_values(dataset, values)
        problems.append(Problem("value", split, str(path), _wrong_values(wrong), hint))
    return Found(problems, digest, values)


def _wrong_values(wrong: Mapping[int, int]) -> str:
    """Return the wrong numbers of a label with their pixels, the most frequent first."""
    ranked = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
    return first_few([f"{value} ({count:,} px)" for value, count in ranked])


def _read_image(sample: Sample) -> tuple[tuple[int, int], bytes]:
    """Return width and height, and a digest of the file."""
    encoded = read_bytes(sample.image, sample.offset)
    size = decode_image(encoded).size
    return size, hashlib.blake2b(encoded, digest_size=16).digest()


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

"""The one opening of images and labels: a sample's, a file's, and a file as a viewer shows it.

Of a dataset an image is turned only where its label says so, and its alpha channel is dropped, as
the release does; a viewer turns by the EXIF orientation and shows white where it is transparent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from ademx.compat import MissingFile
from iters.datasets import decode_label
from iters.decode import BrokenImage, decode_image, decode_stored_ids, image_size, is_turned
from iters.exif import orientation
from iters.sources import read_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iters.datasets import Dataset
    from iters.samples import Sample


# Of the files in a folder that are taken for images.
SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)

# In the largest image that Pillow takes by default.
MAX_PIXELS = 2 * (1024**3 // 4 // 3)


class Loaded(NamedTuple):
    """A sample's image and label.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        stored: (h, w) uint8, the stored ids of its label image; None where it has none.
        orientation: by the image's EXIF data; 1 is upright.
        turned: whether the image was set upright.
    """

    image: NDArray[np.uint8]
    stored: NDArray[np.uint8] | None
    orientation: int
    turned: bool


def load_sample(sample: Sample, *, rule: str = "auto") -> Loaded:
    """Return a sample's image and, for segmentation, its label.

    Args:
        sample: from files of its own or a record.
        rule: when an image is turned, see :func:`iters.decode.is_turned`.

    Raises:
        FileNotFoundError: a file is missing.
        BrokenImage: one cannot be decoded; the message names it and the cause.
    """
    stored = load_label(sample.label) if isinstance(sample.label, Path) else None
    size = None if stored is None else (stored.shape[0], stored.shape[1])
    with _naming(str(sample)):
        encoded = _read_image(sample.image, sample.offset)
        turned = is_turned(encoded, size, rule)
        image = np.asarray(decode_image(encoded, turned=turned))
        return Loaded(image, stored, orientation(encoded), turned)


def load_image(
    path: str | Path,
    *,
    turned: bool = False,
    over_white: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Return an image, (H, W, 3) uint8 RGB.

    Args:
        path: the file.
        turned: see :func:`iters.decode.decode_image`.
        over_white: the same.
        max_pixels: in the largest image that is decoded; meanwhile Pillow has no limit of its own.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenImage: it cannot be decoded or is too large; the message names the file and the cause.
    """
    with _naming(str(path)), _without_limit():
        encoded = _read_image(path)
        height, width = image_size(encoded)
        if height * width > max_pixels:
            raise BrokenImage(
                f"{width}×{height} are {height * width:,} pixels, more than {max_pixels:,}, for "
                "fear of a small file that fills the memory: if you know it, add --max-pixels "
                f"{height * width}"
            )
        return np.array(decode_image(encoded, turned=turned, over_white=over_white))


def load_label(path: str | Path) -> NDArray[np.uint8]:
    """Return the stored ids of a label image, (H, W) uint8; see `iters.decode.decode_stored_ids`.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenImage: it cannot be decoded, or has colours instead of one number a pixel.
    """
    with _naming(str(path)):
        return decode_stored_ids(_read_image(path))


def class_ids(
    dataset: Dataset, stored: NDArray[np.uint8], size: Sequence[int], *, name: object
) -> NDArray[np.uint8]:
    """Return a label's class ids, (H, W) uint8; BrokenImage where its image has another size."""
    if stored.shape != tuple(size):
        (height, width), found = size, "×".join(map(str, stored.shape[::-1]))
        raise BrokenImage(f"{name}: {found} pixels, but its image has {width}×{height}")
    return decode_label(dataset, stored)


def _read_image(path: str | Path, offset: int | None = None) -> bytes:
    try:
        return read_bytes(path, offset)
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such image file") from None


@contextlib.contextmanager
def _without_limit() -> Iterator[None]:
    """Let Pillow take images of any size, in all threads."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the file's name before what is wrong with its pixels."""
    try:
        yield
    except BrokenImage as error:
        if str(error).startswith(name):  # of a record that is none
            raise
        raise type(error)(f"{name}: {error}") from error.__cause__

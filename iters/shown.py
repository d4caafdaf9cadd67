"""Any image file as a viewer shows it, for pictures that come from no dataset.

Datasets are read by `iters.transforms.load_image`, which keeps to what the release does: it turns
nothing and drops the alpha channel.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, ImageOps

from iters.transforms import DECODING_ERRORS, BrokenImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)

_PER_GREY = 257  # steps of 16 bits for each of 8


def load_as_shown(path: str | Path) -> NDArray[np.uint8]:
    """Return an image, (H, W, 3) uint8 RGB, as a viewer shows it.

    It is turned as its EXIF orientation says; what is transparent shows white; grey and palette
    images become RGB; 16-bit greys are scaled to 8 bits, 65535 to 255; of several frames the first
    is taken. Whole numbers of 32 bits count as 16-bit greys if they lie within their range.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenImage: it cannot be decoded, or its numbers have no range to be shown in; the
            message names the file and the cause.
    """
    # gluoncv switches this on for the whole process: half an image would pass for a whole one.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(path) as image:
            return np.array(_in_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image file") from None
    except DECODING_ERRORS as error:
        raise BrokenImage(f"{path}: cannot be used as an image: {error}") from error


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are fractions without a known range: save it as 8 or 16 bits")
    if not (image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info):
        return image.convert("RGB")
    if image.mode in ("La", "RGBa"):  # colours multiplied by alpha convert to these alone
        image = image.convert(image.mode.upper())
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_16_bits(values: NDArray[np.integer]) -> Image.Image:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise ValueError(
            f"its pixels are whole numbers from {low} to {high}, without a known range: save it "
            "as 8 or 16 bits"
        )
    return Image.fromarray(((values.astype(np.uint32) + _PER_GREY // 2) // _PER_GREY).astype("u1"))

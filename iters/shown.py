"""Any image file as a viewer shows it, for pictures that come from no dataset.

Datasets are read by `iters.sources.load_sample`, which turns an image only where its label says
so and, as the release does, drops the alpha channel.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from iters.sources import load_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)


def load_as_shown(path: str | Path, *, turned: bool = True) -> NDArray[np.uint8]:
    """Return an image, (H, W, 3) uint8 RGB, as a viewer shows it.

    It is turned as its EXIF orientation says, unless asked otherwise, and what is transparent
    shows white; the rest is as for any image, see :func:`iters.decode.decode_image`.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenImage: it cannot be decoded; the message names the file and the cause.
    """
    return load_image(path, turned=turned, over_white=True)

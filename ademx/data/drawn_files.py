"""What all layouts of a drawn dataset share: the scenes to draw and how their files are written."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ademx.data.label_files import import_data_library
from iters.drawn import Scene, draw_for_classification, draw_for_segmentation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iters.palettes import Colour

_JPEG_QUALITY = 95
_MAT_HEADER = b"MATLAB 5.0 MAT-file, drawn by ademx"


@dataclass(frozen=True)
class Drawing:
    """A dataset to draw.

    Attributes:
        folder: where its files go; it exists and is empty.
        counts: number of images of each split that is made.
        seed: 0 or above.
        tick: is called after each image.
    """

    folder: Path
    counts: Mapping[str, int]
    seed: int
    tick: Callable[[], Any]

    def scenes(self, scenery: str, split: str) -> Iterator[Scene]:
        """Yield the scenes of a split, one for each image."""
        for number in range(self.counts[split]):
            yield draw_for_segmentation(scenery, split, number, seed=self.seed)
            self.tick()

    def class_images(self, num_classes: int, split: str) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Yield each image of a split with its class id."""
        for number in range(self.counts[split]):
            yield draw_for_classification(num_classes, split, number, seed=self.seed)
            self.tick()


def save_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write an image, (H, W, 3), as JPEG or PNG; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A suffix in capitals, ILSVRC's, is known to Pillow too.
    Image.fromarray(pixels).save(path, quality=_JPEG_QUALITY)


def save_label(
    path: Path, stored: NDArray[np.uint8], *, palette: Iterable[Colour] | None = None
) -> None:
    """Write stored ids, (H, W), as PNG, in colours where there is a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    label = Image.fromarray(stored)
    if palette is not None:
        label.putpalette([value for colour in palette for value in colour])
    label.save(path)


def save_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def save_mat(path: Path, variables: Mapping[str, Any]) -> None:
    """Write a MATLAB file; the same variables make the same bytes.

    Raises:
        ademx.compat.MissingDependency: scipy is not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    import_data_library("scipy.io").savemat(file, variables, do_compression=True)
    # The first 116 bytes are any text; scipy writes the time there.
    path.write_bytes(_MAT_HEADER.ljust(116) + file.getvalue()[116:])

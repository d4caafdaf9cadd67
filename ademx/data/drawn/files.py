"""What all layouts of a drawn dataset share: the scenes to draw and how their files are written."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

from ademx.data.lists.label_files import import_data_library
from ademx.files import replacing
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
    _save(path, Image.fromarray(pixels), quality=_JPEG_QUALITY)


def save_label(
    path: Path, stored: NDArray[Any], *, palette: Iterable[Colour] | None = None
) -> None:
    """Write stored ids, (H, W) uint8 or uint16, as PNG, in colours where there is a palette."""
    label = Image.fromarray(stored)
    if palette is not None:
        label.putpalette([value for colour in palette for value in colour])
    _save(path, label)


def _save(path: Path, image: Image.Image, **options: Any) -> None:
    # Pillow knows the suffixes in small letters; ILSVRC's are capitals.
    kind = Image.registered_extensions()[path.suffix.lower()]
    with _replacing(path) as file:
        image.save(file, kind, **options)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as file:
        yield file


def save_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file; the folder is made if need be."""
    with _replacing(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def save_mat(path: Path, variables: Mapping[str, Any]) -> None:
    """Write a MATLAB file; the same variables make the same bytes.

    Raises:
        ademx.compat.MissingDependency: scipy is not installed.
    """
    made = io.BytesIO()
    import_data_library("scipy.io").savemat(made, variables, do_compression=True)
    # The first 116 bytes are any text; scipy writes the time there.
    with _replacing(path) as file:
        file.write(_MAT_HEADER.ljust(116) + made.getvalue()[116:])

"""What a test run keeps of each image, in its `images.npz`: enough to score any part of them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.arrays import DAMAGED_ARRAYS, write_npz
from ademx.files import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FILE = "images.npz"


@dataclass(frozen=True)
class ImageCounts:
    """Pixels of each image and class, of a segmentation run.

    Attributes:
        names: of the images, as their files under `labels/` are called; each is there once.
        counts: (N, 3, C) int64: correct pixels, pixels of the truth, predicted pixels, of each
            class; void pixels count nowhere.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]

    def class_iou(self) -> NDArray[np.float64]:
        """Return the IoU of each image and class, (N, C) percent; nan where a class is absent."""
        correct, truth, predicted = (self.counts[:, row] for row in range(3))
        with np.errstate(invalid="ignore"):
            iou: NDArray[np.float64] = 100.0 * correct / (truth + predicted - correct)
        return iou

    def mean_iou(self) -> NDArray[np.float64]:
        """Return each image's mean IoU over the classes in it or predicted for it, (N,) percent.

        It is nan where no pixel of an image has a class.
        """
        iou = self.class_iou()
        known = ~np.isnan(iou)
        with np.errstate(invalid="ignore"):
            mean: NDArray[np.float64] = np.where(known, iou, 0.0).sum(axis=1) / known.sum(axis=1)
        return mean


@dataclass(frozen=True)
class ImageLabels:
    """The true class of each image, of a classification run.

    Attributes:
        names: of the images, in the order of the rows of `predictions/<scale>.npy`; each is
            there once.
        labels: (N,) int64 class ids.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64]


def save_image_counts(folder: Path, images: ImageCounts) -> None:
    """Write `images.npz` into a run's folder; the same counts give the same bytes."""
    _save(folder, images.names, counts=images.counts)


def load_image_counts(folder: Path) -> ImageCounts:
    """Return what a segmentation run counted in each image.

    Raises:
        FileNotFoundError: the folder has no `images.npz`; older runs and those without labels
            have none.
        OSError: it cannot be read.
        ValueError: the file is damaged, or another command's.
    """
    return ImageCounts(*_load(folder, "counts", shape=(3, None)))


def save_image_labels(folder: Path, images: ImageLabels) -> None:
    """Write `images.npz` into a run's folder; the same labels give the same bytes."""
    _save(folder, images.names, labels=images.labels)


def load_image_labels(folder: Path) -> ImageLabels:
    """Return the true class of each image of a classification run.

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`load_image_counts`.
    """
    return ImageLabels(*_load(folder, "labels", shape=()))


def _save(folder: Path, names: tuple[str, ...], **values: NDArray[np.int64]) -> None:
    with replacing(folder / _FILE) as file:
        write_npz(file, {"names": np.array(names, str), **values}, compressed=True)


def _load(
    folder: Path, key: str, *, shape: tuple[int | None, ...]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names and what is there for each, an array of this shape, None being any."""
    path = folder / _FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such file: expected the folder of a run on a split with labels; "
            "`ademx evaluate … --resume` adds the file to a run that has none"
        ) from None
    try:
        arrays = np.load(io.BytesIO(content), allow_pickle=False)
        names, values = arrays["names"], arrays[key]
        _check(names, values, shape)
    except DAMAGED_ARRAYS as error:
        raise ValueError(f"{path}: not what `ademx evaluate` wrote: {error}") from None
    return tuple(names.tolist()), values


def _check(names: Any, values: Any, shape: tuple[int | None, ...]) -> None:
    expected = (len(names), *shape)
    fits = len(expected) == values.ndim and all(
        size in (None, found) for size, found in zip(expected, values.shape)
    )
    if names.dtype.kind != "U" or values.dtype != np.int64 or not fits:
        raise ValueError(
            f"found {values.dtype} of shape {values.shape} for {len(names)} names ({names.dtype})"
        )
    if len(set(names.tolist())) < len(names):
        raise ValueError("found an image's name twice")

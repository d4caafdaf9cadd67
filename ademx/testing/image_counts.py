"""What a test run keeps of each image, in its `images.npz`: enough to score any part of them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.errors import InputError, MissingFile
from ademx.files import DAMAGED_ARRAYS, replacing, write_npz
from ademx.metrics import intersection_over_union, mean_of_known
from ademx.testing.numerics import SCORE_MARGIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FILE = "images.npz"


@dataclass(frozen=True)
class NearTies:
    """Pixels of which the score of another class comes close to that of the best.

    Attributes:
        margin: how close, as a difference of two classes' probabilities.
        rows: (M, 5) int64: which image (its index), true class, best class, the class that comes
            close, number of such pixels. Void pixels count nowhere.
    """

    margin: float
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class ImageCounts:
    """Pixels of each image and class, of a segmentation run.

    Attributes:
        names: of the images, as their files under `labels/` are called; each is there once.
        counts: (N, 3, C) int64: correct pixels, pixels of the truth, predicted pixels, of each
            class; void pixels count nowhere.
        near_ties: None where the run did not look for them, as older ones did not.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    near_ties: NearTies | None = None

    @property
    def has_near_ties(self) -> bool:
        """Whether the run looked for all that the tolerance of a published score follows from."""
        return self.near_ties is not None and self.near_ties.margin >= SCORE_MARGIN

    def class_iou(self) -> NDArray[np.float64]:
        """Return the IoU of each image and class, (N, C) percent; nan where a class is absent."""
        return intersection_over_union(*self.counts.swapaxes(0, 1))

    def mean_iou(self) -> NDArray[np.float64]:
        """Return each image's mean IoU over the classes in it or predicted for it, (N,) percent.

        It is nan where no pixel of an image has a class.
        """
        return mean_of_known(self.class_iou())


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
    ties = images.near_ties
    more = {} if ties is None else {"near_ties": ties.rows, "near_margin": np.array(ties.margin)}
    _save(folder, images.names, counts=images.counts, **more)


def load_image_counts(folder: Path) -> ImageCounts:
    """Return what a segmentation run counted in each image.

    Raises:
        FileNotFoundError: the folder has no `images.npz`; older runs and those without labels
            have none.
        OSError: it cannot be read.
        ValueError: the file is damaged, or another command's.
    """
    with _arrays(folder) as arrays:
        names, counts = _names_and_values(arrays, "counts", shape=(3, None))
        if "near_ties" not in arrays:
            return ImageCounts(names, counts)
        rows, margin = arrays["near_ties"], arrays["near_margin"]
        ends = (len(names), *3 * [counts.shape[2]], np.inf)
        if rows.dtype != np.int64 or rows.ndim != 2 or rows.shape[1] != 5 or margin.shape != ():
            raise InputError(f"found near ties of shape {rows.shape} ({rows.dtype})")
        if (rows < (0, 0, 0, 0, 1)).any() or (rows >= ends).any():
            raise InputError("found near ties of images or classes that there are not")
        return ImageCounts(names, counts, NearTies(float(margin), rows))


def save_image_labels(folder: Path, images: ImageLabels) -> None:
    """Write `images.npz` into a run's folder; the same labels give the same bytes."""
    _save(folder, images.names, labels=images.labels)


def load_image_labels(folder: Path) -> ImageLabels:
    """Return the true class of each image of a classification run.

    Raises:
        FileNotFoundError, OSError, ValueError: as :func:`load_image_counts`.
    """
    with _arrays(folder) as arrays:
        return ImageLabels(*_names_and_values(arrays, "labels", shape=()))


def _save(folder: Path, names: tuple[str, ...], **values: NDArray[Any]) -> None:
    with replacing(folder / _FILE) as file:
        write_npz(file, {"names": np.array(names, str), **values}, compressed=True)


@contextmanager
def _arrays(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Give the file's arrays; what is found wrong with them names the file."""
    path = folder / _FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise MissingFile(
            f"{path}: no such file: expected the folder of a run on a split with labels; "
            "`ademx evaluate … --resume` adds the file to a run that has none"
        ) from None
    try:
        yield np.load(io.BytesIO(content), allow_pickle=False)
    except DAMAGED_ARRAYS as error:
        raise InputError(f"{path}: not what `ademx evaluate` wrote: {error}") from None


def _names_and_values(
    arrays: Mapping[str, Any], key: str, *, shape: tuple[int | None, ...]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names and what is there for each, an array of this shape, None being any."""
    names, values = arrays["names"], arrays[key]
    expected = (len(names), *shape)
    fits = len(expected) == values.ndim and all(
        size in (None, found) for size, found in zip(expected, values.shape)
    )
    if names.dtype.kind != "U" or values.dtype != np.int64 or not fits:
        raise InputError(
            f"found {values.dtype} of shape {values.shape} for {len(names)} names ({names.dtype})"
        )
    if len(set(names.tolist())) < len(names):
        raise InputError("found an image's name twice")
    return tuple(names.tolist()), values

"""The training augmentation of a segmentation network: a crop of an image and its label, scaled.

Draws are made first, by one method: what follows is without chance. The image stands in a frame of
the mean colour, and its label in one of void; the crop may reach into the frame, which is never
made: only what the crop holds of it. So an image may be larger than any that its dataset had when
the frame's size was set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from iters.datasets import VOID, Dataset, decode_label
from iters.decode import BrokenImage, decode_image, decode_stored_ids, image_size, sample_size
from iters.transforms import normalize, resize

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from iters.decode import Size
    from iters.transforms import Normalization


@dataclass(frozen=True)
class SegmentationDraws:
    """What is left to chance in a sample.

    Attributes:
        target_size: length that the image's longer side is thought to be scaled to, pixels.
        corner: top and left of the crop in the frame, in pixels of the original image.
        mirrored: whether left and right are exchanged.
    """

    target_size: int
    corner: tuple[int, int]
    mirrored: bool


@dataclass(frozen=True)
class SegmentationAugmentation:
    """How an image and its label become a sample for training.

    Attributes:
        crop_size: side of the sample, pixels; rounded up to a multiple of the stride.
        origin_size: length of the longer side at scale 1, pixels.
        scale_range: smallest and largest scale.
        stride: the network's output stride, pixels.
        normalization: of the network's input.
        dataset: how labels are stored.
        choose_interp_method: see `iters.transforms.interpolation`.
        exif: when an image is set upright, see `iters.decode.is_turned`.
    """

    crop_size: int
    origin_size: int
    scale_range: tuple[float, float]
    stride: int
    normalization: Normalization
    dataset: Dataset
    choose_interp_method: bool = True
    exif: str = "auto"

    @property
    def sample_size(self) -> int:
        """Side of a sample, pixels: the crop size rounded up to a multiple of the stride."""
        return -(-self.crop_size // self.stride) * self.stride

    @property
    def label_shape(self) -> tuple[int]:
        """Shape of a sample's label: its cells."""
        return ((self.sample_size // self.stride) ** 2,)

    def draw(self, rng: np.random.Generator, image_size: Size) -> SegmentationDraws:
        """Return the draws for an image of this height and width."""
        low, high = (int(scale * self.origin_size) for scale in self.scale_range)
        target = int(rng.integers(low, high, endpoint=True))
        side, stride, offset = self._geometry(target, max(image_size))
        top, left = (
            int(rng.integers(max(1, int(stride), offset + length - side + 1)))
            for length in image_size
        )
        return SegmentationDraws(target, (top, left), bool(rng.random() < 0.5))

    def apply(
        self,
        encoded_image: bytes,
        encoded_label: bytes,
        rng: np.random.Generator,
        out: NDArray[np.float32],
        out_label: NDArray[Any],
    ) -> SegmentationDraws:
        """Draw, decode and transform one image and its label.

        Args:
            encoded_image: the image file.
            encoded_label: the label file, with the dataset's stored ids.
            rng: source of the draws.
            out: (3, T, T) float32, written to; T is `sample_size`.
            out_label: ((T / stride)²,) of class ids or void, any type that holds 255, written to.

        Raises:
            BrokenImage: one cannot be decoded, they differ in size, or are too large; the message
                gives the cause.
        """
        label_size = image_size(encoded_label)
        size, turned = sample_size(encoded_image, label_size, self.exif)
        if size != label_size:
            raise BrokenImage(
                f"the image is {size[0]}×{size[1]}, its label {label_size[0]}×{label_size[1]}"
            )
        draws = self.draw(rng, size)
        crop, classes = self._cut(encoded_image, encoded_label, draws, size, turned=turned)
        side = self.sample_size
        sample = resize(crop, (side, side), choose=self.choose_interp_method)
        kept = _nearest(len(crop), side)[self.stride // 2 :: self.stride]
        label = classes[np.ix_(kept, kept)]
        if draws.mirrored:
            # Release: the label is mirrored after it was thinned out.
            sample, label = sample[:, ::-1], label[:, ::-1]
        out[:] = normalize(sample, self.normalization)
        out_label[:] = label.reshape(-1)
        return draws

    def _geometry(self, target: int, longer: int) -> tuple[int, float, int]:
        """Return the crop's side, the stride, and where the image begins in the frame.

        All are in pixels of the original image, whose longer side is given.
        """
        rate = target / longer
        stride = self.stride / rate
        return max(1, int(self.sample_size / rate)), stride, max(1, int(stride / 2))

    def _cut(
        self,
        encoded_image: bytes,
        encoded_label: bytes,
        draws: SegmentationDraws,
        size: Size,
        *,
        turned: bool,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the crop, (side, side, 3), and its classes, (side, side), at the original size."""
        side, _, offset = self._geometry(draws.target_size, max(size))
        if side * side > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise BrokenImage(
                f"the image is {size[0]}×{size[1]}: a crop of it would have {side}×{side} pixels "
                f"for {self.sample_size}×{self.sample_size} of a sample: make it smaller"
            )
        crop = np.empty((side, side, 3), np.uint8)
        # Release: the mean colour is cut to an integer, not rounded.
        crop[:] = (np.array(self.normalization.mean) / self.normalization.scale).astype(np.uint8)
        classes = np.full((side, side), VOID, np.uint8)
        starts = [corner - offset for corner in draws.corner]
        # The rows and the columns of the image that the crop holds.
        rows, columns = (
            range(length)[max(0, start) : max(0, start + side)]
            for length, start in zip(size, starts)
        )
        if rows and columns:
            box = rows[0], columns[0], len(rows), len(columns)
            top, left = rows[0] - starts[0], columns[0] - starts[1]
            place = slice(top, top + len(rows)), slice(left, left + len(columns))
            crop[place] = np.asarray(decode_image(encoded_image, box, turned=turned))
            classes[place] = decode_label(self.dataset, decode_stored_ids(encoded_label, box))
        return crop, classes


@lru_cache(maxsize=1024)
def _nearest(length: int, new_length: int) -> NDArray[np.intp]:
    """Return the pixel that each of Pillow's nearest-neighbour resize comes from."""
    indices = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    nearest = indices.resize((new_length, 1), Image.Resampling.NEAREST)
    indices_of: NDArray[np.intp] = np.asarray(nearest)[0].astype(np.intp)
    return indices_of

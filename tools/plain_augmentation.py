"""The training augmentations written plainly: what the fast ones are tested and timed against.

Each step of the recipe is a line on a float64 picture, with a whole image decoded by Pillow.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from iters.transforms import center_crop, interpolation, resize_shorter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iters.augment_classification import ClassificationDraws
    from iters.augment_segmentation import SegmentationDraws

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
GREY = np.array([0.299, 0.587, 0.114])
LIGHTING_VALUES = np.array([0.2175, 0.0188, 0.0045])
LIGHTING_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.814], [-0.5836, -0.6948, 0.4203]]
)


def plain_decode(encoded: bytes) -> NDArray[np.uint8]:
    """Return an image file, (H, W, 3) uint8 RGB."""
    return np.array(Image.open(io.BytesIO(encoded)).convert("RGB"))


def plain_classification(
    image: NDArray[np.uint8], draws: ClassificationDraws, crop_size: int
) -> NDArray[np.float64]:
    """Return a sample before it is normalised, (crop, crop, 3), 0 to 1."""
    picture = _cropped(image, draws, crop_size) / 255
    for kind, weight in zip(draws.jitter_order, draws.jitter_weights):
        grey = (picture * GREY).sum(axis=2, keepdims=True)
        other = (np.zeros_like(picture), np.full_like(picture, grey.mean()), grey)[kind]
        picture = picture * weight + other * (1 - weight)
    factors = np.array(draws.lighting)
    picture = picture + (LIGHTING_VECTORS * factors * LIGHTING_VALUES).sum(axis=1)
    picture = picture / 1.1
    picture = np.clip(picture, 0, 1)
    if draws.mirrored:
        picture = picture[:, ::-1]
    return picture


def plain_normalize(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an (H, W, 3) picture, 0 to 1, as (3, H, W)."""
    return ((picture - MEAN) / STD).transpose(2, 0, 1)


def _cropped(
    image: NDArray[np.uint8], draws: ClassificationDraws, crop_size: int
) -> NDArray[np.uint8]:
    if draws.crop is None:
        return center_crop(resize_shorter(image, crop_size), crop_size)
    y, x, height, width = draws.crop
    crop = Image.fromarray(image[y : y + height, x : x + width])
    resample = interpolation((height, width), (crop_size, crop_size))
    return np.array(crop.resize((crop_size, crop_size), resample))


def plain_segmentation(
    image: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    draws: SegmentationDraws,
    *,
    crop_size: int,
    stride: int,
    frame: int,
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return a sample before it is normalised, (T, T, 3), 0 to 1, and its labels.

    Args:
        image: (H, W, 3) uint8.
        classes: (H, W) uint8.
        draws: what was left to chance.
        crop_size: T before it is rounded up to the stride.
        stride: the network's.
        frame: side of the whole frame, beyond which there is nothing.
    """
    size = -(-crop_size // stride) * stride
    rate = draws.target_size / max(image.shape[:2])
    side, offset = int(size / rate), max(1, int(stride / rate / 2))
    framed = np.empty((frame, frame, 3), np.uint8)
    framed[:] = (MEAN * 255).astype(np.uint8)
    framed_label = np.full((frame, frame), 255, np.uint8)
    height, width = classes.shape
    framed[offset : offset + height, offset : offset + width] = image
    framed_label[offset : offset + height, offset : offset + width] = classes
    y, x = draws.corner
    crop = Image.fromarray(framed[y : y + side, x : x + side])
    label = Image.fromarray(framed_label[y : y + side, x : x + side])
    resample = interpolation((side, side), (size, size))
    picture = np.array(crop.resize((size, size), resample)) / 255
    label = np.array(label.resize((size, size), Image.Resampling.NEAREST))
    label = label[stride // 2 :: stride, stride // 2 :: stride]
    if draws.mirrored:
        picture, label = picture[:, ::-1], label[:, ::-1]
    return picture, label

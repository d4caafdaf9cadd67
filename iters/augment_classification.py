"""The training augmentation of a classifier: a random crop of an image, recoloured.

Draws are made first, by one method: what follows is without chance. After the resize, all that is
done to the colours is affine, so it is one 3×3 matrix and one offset for each channel, in float32,
with a clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image

from iters.decode import Box, decode_image, sample_size
from iters.resample import resize_planar, write_planar
from iters.transforms import center_crop, interpolation, resize_shorter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iters.decode import Size
    from iters.transforms import Normalization

    Weights = tuple[float, float, float]

CROP_TRIES = 10
CROP_AREA = (0.08, 1.0)  # fraction of the image
CROP_RATIO = (3 / 4, 4 / 3)
JITTER = 0.4  # a weight is drawn from 1 ± this
BRIGHTNESS, CONTRAST, SATURATION = range(3)

GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601

# Principal components of ImageNet's colours, as columns, and their standard deviations.
LIGHTING_STD = 0.1
LIGHTING_VALUES = np.array([0.2175, 0.0188, 0.0045])
LIGHTING_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.814], [-0.5836, -0.6948, 0.4203]]
)
LIGHTING_DIVISOR = 1.1  # Release: all is darkened by this after the lighting

# Pixels that are recoloured at a time: they stay in the cache, and BLAS starts no threads.
_CHUNK = 8192
# Gain of brightness, contrast and saturation together up to which the picture is resized in
# float32: a pixel that comes out one level off is then less than 2 of 255 off in the end.
_MOST_GAIN = 2.0


@dataclass(frozen=True)
class ClassificationDraws:
    """What is left to chance in a sample.

    Attributes:
        crop: the crop in the image; None: the shorter side is resized to the crop's side and the
            centre is cut out, as in testing.
        jitter_order: `BRIGHTNESS`, `CONTRAST` and `SATURATION` in the order of their turns.
        jitter_weights: how much of the image each turn keeps, in that order.
        lighting: how far to go along each principal component.
        mirrored: whether left and right are exchanged.
    """

    crop: Box | None
    jitter_order: tuple[int, int, int]
    jitter_weights: Weights
    lighting: Weights
    mirrored: bool


@dataclass(frozen=True)
class ClassificationAugmentation:
    """How an image becomes a sample for training.

    Attributes:
        sample_size: side of the sample, pixels.
        normalization: of the network's input.
        choose_interp_method: see `iters.transforms.interpolation`.
        exif: when an image is set upright, see `iters.decode.is_turned`.
        label_shape: of a sample's label, which is a class id.
    """

    sample_size: int
    normalization: Normalization
    choose_interp_method: bool = True
    exif: str = "auto"
    label_shape: ClassVar[tuple[()]] = ()

    def draw(self, rng: np.random.Generator, image_size: Size) -> ClassificationDraws:
        """Return the draws for an image of this height and width."""
        crop = draw_crop(rng, image_size)
        order = rng.permutation(3).tolist()
        weights = rng.uniform(1 - JITTER, 1 + JITTER, 3).tolist()
        lighting = rng.normal(0, LIGHTING_STD, 3).tolist()
        return ClassificationDraws(
            crop, tuple(order), tuple(weights), tuple(lighting), bool(rng.random() < 0.5)
        )

    def apply(
        self, encoded: bytes, rng: np.random.Generator, out: NDArray[np.float32]
    ) -> ClassificationDraws:
        """Draw, decode and transform one image.

        Args:
            encoded: the image file.
            rng: source of the draws.
            out: (3, crop, crop) float32, written to.

        Raises:
            BrokenImage: the image cannot be decoded; the message gives the cause.
        """
        whole, turned = sample_size(encoded, None, self.exif)
        draws = self.draw(rng, whole)
        image = decode_image(encoded, draws.crop, turned=turned)
        size, choose = self.sample_size, self.choose_interp_method
        # A fourth row of ones carries the offset of the colour map.
        pixels = np.ones((4, size, size), np.float32)
        if draws.crop is None:
            square = center_crop(resize_shorter(np.asarray(image), size, choose=choose), size)
            write_planar(Image.fromarray(square), mirrored=draws.mirrored, out=pixels[:3])
        else:
            resample = interpolation((image.height, image.width), (size, size), choose=choose)
            gain = math.prod(max(1.0, weight) for weight in draws.jitter_weights)
            resize_planar(
                *(image, (size, size), resample),
                mirrored=draws.mirrored,
                out=pixels[:3],
                exact=gain > _MOST_GAIN,
            )
        self._recolour(pixels.reshape(4, -1), draws, out.reshape(3, -1))
        return draws

    def _recolour(
        self, pixels: NDArray[np.float32], draws: ClassificationDraws, out: NDArray[np.float32]
    ) -> None:
        """Jitter, light, clip and normalise (4, N) pixels 0 to 255 into `out`, (3, N)."""
        scale = 255 * self.normalization.scale
        mean, std = np.array(self.normalization.mean), np.array(self.normalization.std)
        # Integers up to 255: sums that float32 rounds are off by less than one part in 10^6.
        matrix, offset = colour_map(draws, pixels[:3].mean(axis=1).astype(np.float64) / 255)
        matrix *= scale / (255 * std[:, None])
        offset = (offset * scale - mean) / std
        affine = np.column_stack([matrix, offset]).astype(np.float32)
        low, high = (
            bound.astype(np.float32)[:, None] for bound in (-mean / std, (scale - mean) / std)
        )
        for start in range(0, pixels.shape[1], _CHUNK):
            chunk = slice(start, start + _CHUNK)
            np.matmul(affine, pixels[:, chunk], out=out[:, chunk])
            np.clip(out[:, chunk], low, high, out=out[:, chunk])


def colour_map(
    draws: ClassificationDraws, means: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the jitter and the lighting of a picture as one affine map of its colours.

    Args:
        draws: order and weights of the jitter, factors of the lighting.
        means: (3,) mean colour of the picture, 0 to 1.

    Returns:
        (3, 3) matrix and (3,) offset, from colours 0 to 1 to colours that are still to be clipped.
    """
    matrix, offset = np.eye(3), np.zeros(3)
    for kind, weight in zip(draws.jitter_order, draws.jitter_weights):
        if kind == SATURATION:
            mix = weight * np.eye(3) + (1 - weight) * GREY
            matrix, offset = mix @ matrix, mix @ offset
            continue
        mean_grey = GREY @ (matrix @ means + offset) if kind == CONTRAST else 0.0
        matrix, offset = weight * matrix, weight * offset + (1 - weight) * mean_grey
    offset = offset + LIGHTING_VECTORS @ (np.array(draws.lighting) * LIGHTING_VALUES)
    return matrix / LIGHTING_DIVISOR, offset / LIGHTING_DIVISOR


def draw_crop(rng: np.random.Generator, image_size: Size) -> Box | None:
    """Return a crop of random area and aspect ratio, or None where ten do not fit the image."""
    height, width = image_size
    for _ in range(CROP_TRIES):
        area = rng.uniform(*CROP_AREA) * height * width
        ratio = rng.uniform(*CROP_RATIO)
        sides = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        crop_height, crop_width = sides if rng.random() < 0.5 else sides[::-1]
        if 1 <= crop_height <= height and 1 <= crop_width <= width:
            top = int(rng.integers(height - crop_height, endpoint=True))
            left = int(rng.integers(width - crop_width, endpoint=True))
            return top, left, crop_height, crop_width
    return None

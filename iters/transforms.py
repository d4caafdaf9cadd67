"""From an image to what a network reads while testing: small functions on arrays.

Images are (H, W, 3) uint8 RGB until `normalize` makes them (3, H, W) float32. Sizes are
(height, width) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ademx.compat import InputError
from iters.decode import Box, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray


def interpolation(size_from: Size, size_to: Size, *, choose: bool = True) -> Image.Resampling:
    """Return the filter that the release resizes with.

    Args:
        size_from: height and width before.
        size_to: height and width after.
        choose: by the sizes: Lanczos where both sides shrink, bicubic where both grow, bilinear
            otherwise. If not, bicubic always.
    """
    if not choose:
        return Image.Resampling.BICUBIC
    (height, width), (new_height, new_width) = size_from, size_to
    if new_height < height and new_width < width:
        return Image.Resampling.LANCZOS
    if new_height > height and new_width > width:
        return Image.Resampling.BICUBIC
    return Image.Resampling.BILINEAR


def resize(image: NDArray[Any], size: Size, *, choose: bool = True) -> NDArray[Any]:
    """Return an image resized by the rule of `interpolation`.

    Args:
        image: (H, W, 3) uint8, or (H, W) uint8 or float32.
        size: new height and width.
        choose: see `interpolation`.
    """
    resample = interpolation((image.shape[0], image.shape[1]), size, choose=choose)
    return np.array(Image.fromarray(image).resize((size[1], size[0]), resample))


def resize_shorter(
    image: NDArray[np.uint8], size: int, *, choose: bool = True
) -> NDArray[np.uint8]:
    """Return an (H, W, 3) uint8 image with its shorter side resized to `size` pixels.

    The other side is rounded. An image whose shorter side fits is returned as it is.
    """
    return _resize_side(image, size, min(image.shape[:2]), choose=choose)


def resize_longer(image: NDArray[np.uint8], size: int, *, choose: bool = True) -> NDArray[np.uint8]:
    """Return an (H, W, 3) uint8 image with its longer side resized to `size` pixels.

    The other side is rounded. An image whose longer side fits is returned as it is.
    """
    return _resize_side(image, size, max(image.shape[:2]), choose=choose)


def _resize_side(
    image: NDArray[np.uint8], size: int, side: int, *, choose: bool
) -> NDArray[np.uint8]:
    if size < 1:
        raise InputError(f"size {size}: expected at least 1 pixel")
    if side == size:
        return image
    height, width = image.shape[:2]
    return resize(image, scaled_size((height, width), size, side), choose=choose)


def scaled_size(image: Size, size: int, side: int) -> Size:
    """Return height and width of an image once a side of it is resized to `size` pixels."""
    # Halves round to even, as numpy's and the release's do. A line of pixels keeps one.
    height, width = (max(1, round(size * length / side)) for length in image)
    return height, width


def center_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return the central (size, size, 3) of an image; an odd remainder shifts it down and right.

    Raises:
        ValueError: the image is smaller than the crop.
    """
    return three_crops(image, size)[1]


def three_crops(image: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    """Return three crops (size, size, 3) along the longer side: start, centre, end.

    Raises:
        ValueError: the image is smaller than the crop.
    """
    (top, left), (bottom, right) = _centre_and_last(image, size)
    if bottom > right:
        return _crops(image, size, [(0, left), (top, left), (bottom, left)])
    return _crops(image, size, [(top, 0), (top, left), (top, right)])


def ten_crops(image: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    """Return ten crops (size, size, 3): the four corners and the centre, then their mirrors.

    Raises:
        ValueError: the image is smaller than the crop.

    Source: arXiv:1512.03385, §3.4.
    """
    centre, (bottom, right) = _centre_and_last(image, size)
    crops = _crops(image, size, [(0, 0), (0, right), (bottom, 0), (bottom, right), centre])
    return crops + [crop[:, ::-1] for crop in crops]


def _crops(
    image: NDArray[np.uint8], size: int, corners: list[tuple[int, int]]
) -> list[NDArray[np.uint8]]:
    return [image[y : y + size, x : x + size] for y, x in corners]


def _centre_and_last(
    image: NDArray[np.uint8], size: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return top and left of the central crop, and of the one that reaches to the end.

    Raises:
        ValueError: the image is smaller than the crop.
    """
    height, width = image.shape[:2]
    if not 1 <= size <= min(height, width):
        raise InputError(f"crop {size}: expected 1 to {min(height, width)}, the shorter side")
    bottom, right = height - size, width - size
    return (-(-bottom // 2), -(-right // 2)), (bottom, right)


@dataclass(frozen=True)
class Normalization:
    """The map from a pixel to a network's input: (value · scale - mean) / std, each RGB channel.

    Attributes:
        mean: in units of the scaled value.
        std: the same.
        scale: factor applied to values 0 to 255.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float


RNA = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1 / 255)
RN = Normalization(mean=(123.68, 116.779, 103.939), std=(1.0, 1.0, 1.0), scale=1.0)


def normalize(image: NDArray[np.uint8], normalization: Normalization) -> NDArray[np.float32]:
    """Return an (H, W, 3) uint8 image as (3, H, W) float32, normalised.

    Each channel is read off a table of the 256 values, computed in float64: exact, and one pass
    over the pixels.

    Raises:
        ValueError: the image is not (H, W, 3) uint8.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"image is {image.dtype} {image.shape}: expected uint8 (H, W, 3)")
    values = np.arange(256) * normalization.scale
    result = np.empty((3, *image.shape[:2]), np.float32)
    for channel, (mean, std) in enumerate(zip(normalization.mean, normalization.std)):
        table = ((values - mean) / std).astype(np.float32)
        # No index is out of range; "clip" spares numpy the check, at twice the speed.
        np.take(table, image[:, :, channel], out=result[channel], mode="clip")
    return result


def canvas_size(kind: str, *, test_scale: int, image_size: Size, stride: int) -> Size:
    """Return height and width of the canvas that an image is tested on.

    Args:
        kind: "square": the test scale either way; "image": the image's own sides.
        test_scale: length of the longer side, pixels.
        image_size: height and width after resizing.
        stride: the network's output stride: both sides are rounded up to it.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in ("square", "image"):
        raise InputError(f"canvas {kind!r}: expected square or image")
    height, width = (test_scale, test_scale) if kind == "square" else image_size
    return -(-height // stride) * stride, -(-width // stride) * stride


def shifted_canvas(
    image: NDArray[Any],
    *,
    canvas: Size,
    stride: int,
    steps: int,
    iy: int,
    ix: int,
    box: Box | None = None,
    normalization: Normalization | None = None,
) -> NDArray[np.float32]:
    """Return the canvas for prediction (iy, ix) of the `steps` × `steps` between two cells.

    The image lies in a zero frame, `stride // 2` from the top left, and is read at offset
    p // 2 + i·p with p = stride / steps: a window of the image's own size, so that what is
    shifted out at one side is lost. The window is at the canvas's top left; the rest is 0, the
    mean colour.

    Args:
        image: (3, h, w) float32, normalised; with a normalization (h, w, 3) uint8.
        canvas: height and width, at least the image's.
        stride: the network's output stride, pixels.
        steps: predictions along each axis for a cell of the output.
        iy: row of the prediction, 0 to steps - 1.
        ix: its column.
        box: what is wanted of the canvas; None is all of it.
        normalization: what to normalise that part of the image by.

    Returns:
        (3, height, width) float32, of the canvas or the box.

    Raises:
        ValueError: `steps` does not divide `stride`, or the image exceeds the canvas.
    """
    if steps < 1 or stride % steps:
        raise InputError(f"test steps {steps}: expected a divisor of the output stride {stride}")
    height, width = image.shape[1:] if normalization is None else image.shape[:2]
    if height > canvas[0] or width > canvas[1]:
        raise InputError(f"image {height}×{width} does not fit a canvas {canvas[0]}×{canvas[1]}")
    step = stride // steps
    top, left, rows, columns = box or (0, 0, *canvas)
    (from_y, to_y), (from_x, to_x) = (
        _shifted_slices(length, step // 2 + i * step - stride // 2, start, size)
        for length, i, start, size in ((height, iy, top, rows), (width, ix, left, columns))
    )
    result = np.zeros((3, rows, columns), np.float32)
    if normalization is None:
        result[:, to_y, to_x] = image[:, from_y, from_x]
    else:
        result[:, to_y, to_x] = normalize(image[from_y, from_x], normalization)
    return result


def _shifted_slices(length: int, shift: int, start: int, size: int) -> tuple[slice, slice]:
    """Return where to read and where to write so that index `start + shift` comes to 0."""
    first = max(0, -shift, start)
    kept = max(0, min(length, length - shift, start + size) - first)
    return slice(first + shift, first + shift + kept), slice(first - start, first - start + kept)


def interleave(predictions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the predictions of all shifts as one, with `steps` times the resolution.

    Args:
        predictions: (steps, steps, C, h, w); [iy, ix] is from `shifted_canvas` (iy, ix).

    Returns:
        (C, h · steps, w · steps), where [:, iy::steps, ix::steps] is [iy, ix].

    Raises:
        ValueError: the array is not of that shape.
    """
    if predictions.ndim != 5 or predictions.shape[0] != predictions.shape[1]:
        raise InputError(f"predictions are {predictions.shape}: expected (steps, steps, C, h, w)")
    steps, _, channels, height, width = predictions.shape
    return predictions.transpose(2, 3, 0, 4, 1).reshape(channels, height * steps, width * steps)

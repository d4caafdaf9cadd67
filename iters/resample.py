"""Pillow's resizing in less time.

Pillow resizes rows, rounds to 8 bits, resizes columns, and rounds again; its weights are numbers
with 22 binary places. Products of those with 8-bit pixels, and their sums, are exact in float64.
So a matrix product gives Pillow's numbers in whatever order BLAS adds: on any machine, with any
number of threads. In float32 it takes two thirds of the time, and a pixel that lies within a few
ten thousandths of a half may be rounded the other way.

Only a narrow band of the matrix is not zero: the product is taken block by block, a few outputs
with the inputs that they read.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from iters.decode import Size

    # A few neighbouring outputs, the inputs that they read, and weights, (inputs, outputs).
    _Block = tuple[slice, slice, NDArray[np.floating]]

_PLACES = 22
# Outputs of a block: more would multiply more zeros, fewer would make more calls.
_BLOCK = 16
# Pixels of the largest image that is widened to float64, 24 bytes a pixel; others go to Pillow.
_LARGEST = 2**20
# Pillow rounds halves up, `rint` to even. What is to be rounded are multiples of 2^-22; weights
# larger by this factor push halves up, and in float64 nothing else over a half. In float32 the
# push has to exceed the rounding of the sums.
_NUDGES = {"float64": 1 + 2.0**-33, "float32": 1 + 2.0**-20}


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x, a = np.abs(x), -0.5
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


# A kernel, and how far it reaches from its centre.
KERNELS: dict[Image.Resampling, tuple[Callable[..., NDArray[np.float64]], int]] = {
    Image.Resampling.BILINEAR: (_triangle, 1),
    Image.Resampling.BICUBIC: (_cubic, 2),
    Image.Resampling.LANCZOS: (_lanczos, 3),
}


# Each thread keeps its working memory: new pages for every image would cost a fifth of the time.
_WORK = threading.local()


def _work(name: str, shape: tuple[int, ...], dtype: str) -> NDArray[np.floating]:
    """Return memory of this shape, as it was left by the last use of this name."""
    size = math.prod(shape)
    kept: NDArray[np.floating] | None = getattr(_WORK, name, None)
    if kept is None or kept.size < size or kept.dtype != dtype:
        kept = np.empty(size, dtype)
        setattr(_WORK, name, kept)
    return kept[:size].reshape(shape)


def resize_planar(
    image: Image.Image,
    size: Size,
    resample: Image.Resampling,
    *,
    mirrored: bool,
    out: NDArray[np.float32],
    exact: bool = True,
) -> None:
    """Write what Pillow's `resize` gives to an array.

    Args:
        image: in RGB.
        size: new height and width.
        resample: bilinear, bicubic or Lanczos.
        mirrored: whether left and right are exchanged afterwards.
        out: (3, *size) float32, the integers 0 to 255.
        exact: compute in float64, and get Pillow's numbers to the bit.
    """
    (height, width), (new_height, new_width) = (image.height, image.width), size
    if height == new_height or width == new_width or height * width > _LARGEST:
        image = image.resize((new_width, new_height), resample)
        write_planar(image, mirrored=mirrored, out=out)
        return
    dtype = "float64" if exact else "float32"
    columns = _blocks(height, new_height, resample, False, dtype)
    rows = _blocks(width, new_width, resample, mirrored, dtype)
    loses_height = new_height < height and height - new_height > 2 * (width - new_width)
    columns_first = loses_height and _pillow_begins_with_columns()
    # One channel after the other: three do not fit a core's cache.
    for plane, channel in zip(out, image.split()):
        single = _work("pixels", (height, width), dtype)
        single[:] = np.asarray(channel)
        if columns_first:
            result = _resize_rows(
                _rounded(_resize_columns(single, columns, new_height)), rows, new_width
            )
        else:
            result = _resize_columns(
                _rounded(_resize_rows(single, rows, new_width)), columns, new_height
            )
        np.rint(result, out=plane, casting="same_kind")
        np.clip(plane, 0, 255, out=plane)


def _resize_rows(
    plane: NDArray[np.floating], blocks: tuple[_Block, ...], width: int
) -> NDArray[np.floating]:
    result = _work("rows", (plane.shape[0], width), plane.dtype.name)
    for outputs, inputs, weights in blocks:
        np.matmul(plane[:, inputs], weights, out=result[:, outputs])
    return result


def _resize_columns(
    plane: NDArray[np.floating], blocks: tuple[_Block, ...], height: int
) -> NDArray[np.floating]:
    result = _work("columns", (height, plane.shape[1]), plane.dtype.name)
    for outputs, inputs, weights in blocks:
        np.matmul(weights.T, plane[inputs], out=result[outputs])
    return result


def _rounded(values: NDArray[np.floating]) -> NDArray[np.floating]:
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values)


@lru_cache(maxsize=1)
def _pillow_begins_with_columns() -> bool:
    """Return whether this Pillow resizes columns first where the height loses most.

    Version 13 does so where the height loses more than twice as many pixels as the width; older
    ones never do. One pass after the other, by Pillow itself, tells.
    """
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 20, 3), np.uint8))
    at_once, columns_first = image.resize((19, 10)), image.resize((20, 10)).resize((19, 10))
    return at_once.tobytes() == columns_first.tobytes()


def write_planar(image: Image.Image, *, mirrored: bool, out: NDArray[np.float32]) -> None:
    """Write an RGB image to `out`, (3, H, W) float32, left and right exchanged or not."""
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    out[:] = np.asarray(image).transpose(2, 0, 1)


@lru_cache(maxsize=1024)
def _blocks(
    length: int, new_length: int, resample: Image.Resampling, mirrored: bool, dtype: str
) -> tuple[_Block, ...]:
    weights, starts = _weights(length, new_length, resample)
    if mirrored:
        weights, starts = weights[::-1], starts[::-1]
    blocks = []
    for first in range(0, new_length, _BLOCK):
        outputs = slice(first, min(first + _BLOCK, new_length))
        low = int(starts[outputs].min())
        high = min(length, int(starts[outputs].max()) + weights.shape[1])
        band = np.zeros((high - low, outputs.stop - first), dtype)
        for column, values, start in zip(band.T, weights[outputs], starts[outputs] - low):
            # Beyond the last input all weights are 0.
            column[start : start + len(values)] = values[: len(column) - start] * _NUDGES[dtype]
        blocks.append((outputs, slice(low, high), band))
    return tuple(blocks)


def _weights(
    length: int, new_length: int, resample: Image.Resampling
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return what :func:`filter_weights` does, with weights of 22 binary places."""
    values, starts = filter_weights(length, new_length, resample)
    scaled = values * 2**_PLACES
    return np.trunc(scaled + np.copysign(0.5, scaled)) / 2**_PLACES, starts


def filter_weights(
    length: int, new_length: int, resample: Image.Resampling
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the weights of each output, (new_length, taps), and the input that they begin at.

    Those of inputs beyond the last are 0.

    Source: Pillow, src/libImaging/Resample.c, precompute_coeffs and normalize_coeffs_8bpc.
    """
    kernel, reach = KERNELS[resample]
    scale = length / new_length
    stretch = max(scale, 1.0)
    support = reach * stretch
    centers = (np.arange(new_length) + 0.5) * scale
    # `astype` cuts towards 0, as C does.
    starts = np.maximum((centers - support + 0.5).astype(np.intp), 0)
    stops = np.minimum((centers + support + 0.5).astype(np.intp), length)
    inputs = starts[:, None] + np.arange(math.ceil(support) * 2 + 1)
    values = kernel((inputs - centers[:, None] + 0.5) * (1 / stretch))
    values[inputs >= stops[:, None]] = 0
    values /= values.sum(axis=1, keepdims=True)
    return values, starts

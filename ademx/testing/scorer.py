"""From images to a network's score maps: what testing and prediction have in common.

An image is resized, laid on a canvas, shifted and mirrored as asked for, and what the network says
of all these is one set of maps. :mod:`ademx.testing.score_maps` takes them on to classes.
"""

from __future__ import annotations

import logging
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ademx.errors import InputError
from ademx.iteration import grouped, progress_bar
from ademx.labels import Label
from ademx.networks.graph import input_normalization, network_stride
from ademx.testing.score_maps import ScorePart, ScoreResizer
from ademx.testing.tiles import Tiling
from iters import transforms
from iters.decode import Box, Size

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scaled:
    """An image made ready for a network at one test scale.

    Attributes:
        original: height and width of the image as it was.
        size: those of the resized image.
        pixels: that image, (3, h, w) float32, normalised; or as yet (h, w, 3) uint8, a quarter of
            the memory, where the network sees it in tiles.
        canvas: height and width of what the network sees.
    """

    original: Size
    size: Size
    pixels: np.ndarray
    canvas: Size


@dataclass(frozen=True)
class Scorer:
    """Takes images to score maps.

    Attributes:
        predict: from (3, H, W) float32 inputs of one size to probabilities, (N, C, h, w) float32.
        label: of the network.
        canvas: kind of canvas, see :func:`iters.transforms.canvas_size`; or the height and width
            of the one input that the network takes.
        normalization: of the images; None for that of the label's network.
        steps: predictions along each axis for a cell of the output.
        flip: whether to average with the mirrored canvas.
        choose_interp_method: see :func:`iters.transforms.interpolation`.
        tile: height and width of the tiles that the network sees the canvas in; None: all of it.
        overlap: pixels that neighbouring tiles share; None for a quarter of their shorter side.
        batch: tiles to predict together.

    Raises:
        ValueError: `steps`, `tile` or `overlap` do not fit the network.
    """

    predict: Callable[[Iterable[np.ndarray]], np.ndarray]
    label: Label
    canvas: str | Size
    normalization: transforms.Normalization | None = None
    steps: int = 1
    flip: bool = False
    choose_interp_method: bool = True
    tile: Size | None = None
    overlap: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self._stride % self.steps:
            raise InputError(
                f"--test-steps {self.steps}: expected a divisor of the network's output stride, "
                f"{self._stride}"
            )
        if self._tiling and isinstance(self.canvas, tuple):
            expected = "x".join(map(str, self.canvas))
            raise InputError(
                f"--tile: the network takes inputs of {expected} pixels only: leave it out, or "
                "convert with --input free"
            )

    @property
    def room(self) -> Size | None:
        """Height and width of whole cells of a fixed input, which an image may fill; else None."""
        if isinstance(self.canvas, str):
            return None
        height, width = (side // self._stride * self._stride or side for side in self.canvas)
        return height, width

    def prepare(self, image: np.ndarray, scale: int) -> Scaled:
        """Return an (H, W, 3) uint8 image with its longer side resized to `scale` pixels."""
        pixels = transforms.resize_longer(image, scale, choose=self.choose_interp_method)
        size = pixels.shape[:2]
        canvas = self._canvas(size, scale)
        if not self._tiling:
            pixels = transforms.normalize(pixels, self._normalization)
        return Scaled(image.shape[:2], size, pixels, canvas)

    def score(self, images: Sequence[Scaled]) -> list[ScorePart]:
        """Return each image's maps, (C, h · steps, w · steps) float32, and their way back to it.

        Raises:
            ValueError: see :meth:`ademx.testing.tiles.Tiling.blend`.
        """
        by_size = defaultdict(list)
        for index, one in enumerate(images):
            for box in self._boxes(one.canvas):
                by_size[one.canvas if box is None else box[2:]].append((index, box))
        groups = [group for boxes in by_size.values() for group in grouped(boxes, self.batch)]
        maps: dict[int, np.ndarray] = {}
        total, is_whole = sum(map(len, groups)), self._tiling is None
        with progress_bar(total=total, unit="tile", leave=False, disable=is_whole) as bar:
            for group in groups:
                inputs = (chw for index, box in group for chw in self._inputs(images[index], box))
                outputs = np.split(self.predict(inputs), len(group))
                for (index, box), output in zip(group, map(self._merged, outputs)):
                    if self._tiling is None or box is None:
                        maps[index] = output
                    else:
                        grid = self._grid(images[index].canvas)
                        maps[index] = self._tiling.blend(
                            maps.get(index), output, box, grid, steps=self.steps
                        )
                bar.update(len(group))
        return [(self._resizer(one, maps[index]), maps[index]) for index, one in enumerate(images)]

    def input_size(self, image: Size, scale: int) -> Size:
        """Return height and width of what the network sees at a time of an image of that size."""
        canvas = self._canvas_of(image, scale)
        box = next(iter(self._boxes(canvas)))
        return canvas if box is None else (box[2] * self._stride, box[3] * self._stride)

    def maps_bytes(self, image: Size, scale: int) -> int:
        """Return the bytes of the score maps of an image of that size, however it is tiled."""
        cells = math.prod(self._grid(self._canvas_of(image, scale)))
        return 4 * cells * self.steps**2 * self.label.num_classes

    def tiles_are_idle(self, image: Size, scales: Sequence[int]) -> bool:
        """Warn and return True where an image is larger than a tile, but at no scale."""
        if self.tile is None or not any(map(operator.gt, image, self.tile)):
            return False
        for scale in scales:
            canvas = self._canvas_of(image, scale)
            if self.input_size(image, scale) != canvas:
                return False
        _log.warning(
            "--tile %d×%d has no effect: an image of %d×%d pixels is resized to %d×%d, which is "
            "one tile: --test-scales %d takes it at its own size",
            *(*self.tile, *image, *canvas, max(image)),
        )
        return True

    def _canvas_of(self, image: Size, scale: int) -> Size:
        """Return height and width of the canvas of an image of that size."""
        return self._canvas(transforms.scaled_size(image, scale, max(image)), scale)

    def _canvas(self, size: Size, scale: int) -> Size:
        """Return height and width of the canvas of a resized image."""
        if not isinstance(self.canvas, str):
            return self.canvas
        return transforms.canvas_size(
            self.canvas, test_scale=scale, image_size=size, stride=self._stride
        )

    @property
    def _normalization(self) -> transforms.Normalization:
        return self.normalization or input_normalization(self.label)

    @cached_property
    def _stride(self) -> int:
        return network_stride(self.label)

    @cached_property
    def _tiling(self) -> Tiling | None:
        if self.tile is None:
            return None
        return Tiling.of_pixels(self.tile, self.overlap, stride=self._stride)

    def _grid(self, canvas: Size) -> Size:
        return canvas[0] // self._stride, canvas[1] // self._stride

    def _boxes(self, canvas: Size) -> Iterable[Box | None]:
        """Return the tiles of a canvas, in cells; None is all of it."""
        return [None] if self._tiling is None else self._tiling.boxes(self._grid(canvas))

    def _inputs(self, one: Scaled, box: Box | None) -> Iterator[np.ndarray]:
        """Yield the network's inputs for a tile: shifts, row by row, each with its mirror."""
        frame: dict[str, Any] = {"canvas": one.canvas, "stride": self._stride, "steps": self.steps}
        if box is not None:
            frame["box"] = tuple(cells * self._stride for cells in box)
            frame["normalization"] = self._normalization
        for iy, ix in np.ndindex(self.steps, self.steps):
            shifted = transforms.shifted_canvas(one.pixels, **frame, iy=iy, ix=ix)
            yield shifted
            if self.flip:
                yield shifted[:, :, ::-1]

    def _merged(self, output: np.ndarray) -> np.ndarray:
        """Return a tile's score maps from the outputs for its `_inputs`."""
        if self.flip:
            output = (output[0::2] + output[1::2, ..., ::-1]) / 2
        return transforms.interleave(output.reshape(self.steps, self.steps, *output.shape[1:]))

    def _resizer(self, one: Scaled, maps: np.ndarray) -> ScoreResizer:
        # Of a fixed input that ends within a cell the network sees that or does not, and some
        # poolings leave a cell out of any canvas.
        stride, grid = self._stride, maps.shape[1:]
        canvas = (
            max(cells * stride // self.steps, side // stride * stride)
            for cells, side in zip(grid, one.canvas)
        )
        chosen = None if self.choose_interp_method else "bicubic"
        return ScoreResizer(grid, tuple(canvas), one.size, one.original, chosen)

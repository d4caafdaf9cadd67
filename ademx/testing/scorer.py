"""From images to a network's score maps: what testing and prediction have in common.

An image is resized, laid on a canvas, shifted and mirrored as asked for, and what the network says
of all these is one set of maps. :mod:`ademx.testing.score_maps` takes them on to classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ademx.labels import Label
from ademx.networks.graph import input_normalization, network_stride
from ademx.testing.score_maps import ScorePart, ScoreResizer
from iters import transforms
from iters.decode import Size


@dataclass(frozen=True)
class Scaled:
    """An image made ready for a network at one test scale.

    Attributes:
        original: height and width of the image as it was.
        image: resized and normalised, (3, h, w) float32.
        canvas: height and width of the network's input.
    """

    original: Size
    image: np.ndarray
    canvas: Size


@dataclass(frozen=True)
class Scorer:
    """Takes images to score maps.

    Attributes:
        predict: from (3, H, W) float32 inputs of one size to probabilities, (N, C, h, w) float32.
        label: of the network.
        canvas: kind of canvas, see :func:`iters.transforms.canvas_size`; or the height and width
            of the one input that the network takes.
        steps: predictions along each axis for a cell of the output.
        flip: whether to average with the mirrored canvas.
        choose_interp_method: see :func:`iters.transforms.interpolation`.
    """

    predict: Callable[[Iterable[np.ndarray]], np.ndarray]
    label: Label
    canvas: str | Size
    steps: int = 1
    flip: bool = False
    choose_interp_method: bool = True

    @property
    def room(self) -> Size | None:
        """Height and width of whole cells of a fixed input, which an image may fill; else None."""
        if isinstance(self.canvas, str):
            return None
        height, width = (side // self._stride * self._stride or side for side in self.canvas)
        return height, width

    def prepare(self, image: np.ndarray, scale: int) -> Scaled:
        """Return an (H, W, 3) uint8 image with its longer side resized to `scale` pixels."""
        resized = transforms.resize_longer(image, scale, choose=self.choose_interp_method)
        canvas, size = self.canvas, resized.shape[:2]
        if isinstance(canvas, str):
            canvas = transforms.canvas_size(
                canvas, test_scale=scale, image_size=size, stride=self._stride
            )
        normal = transforms.normalize(resized, input_normalization(self.label))
        return Scaled(image.shape[:2], normal, canvas)

    def score(self, images: Sequence[Scaled]) -> list[ScorePart]:
        """Return each image's maps, (C, h · steps, w · steps) float32, and their way back to it."""
        by_canvas = defaultdict(list)
        for one in images:
            by_canvas[one.canvas].append(one)
        parts: dict[int, ScorePart] = {}
        for group in by_canvas.values():
            output = self.predict(chw for one in group for chw in self._inputs(one))
            for one, outputs in zip(group, np.split(output, len(group))):
                parts[id(one)] = self._part(one, outputs)
        return [parts[id(one)] for one in images]

    @property
    def _stride(self) -> int:
        return network_stride(self.label)

    def _inputs(self, one: Scaled) -> Iterator[np.ndarray]:
        """Yield the network's inputs for an image: shifts, row by row, each with its mirror."""
        grid = {"canvas": one.canvas, "stride": self._stride, "steps": self.steps}
        for iy, ix in np.ndindex(self.steps, self.steps):
            shifted = transforms.shifted_canvas(one.image, **grid, iy=iy, ix=ix)
            yield shifted
            if self.flip:
                yield shifted[:, :, ::-1]

    def _part(self, one: Scaled, output: np.ndarray) -> ScorePart:
        """Return one image's score maps from the outputs for its `_inputs`."""
        steps, stride = self.steps, self._stride
        if self.flip:
            output = (output[0::2] + output[1::2, ..., ::-1]) / 2
        maps = transforms.interleave(output.reshape(steps, steps, *output.shape[1:]))
        # Of a fixed input that ends within a cell the network sees that or does not, and some
        # poolings leave a cell out of any canvas.
        canvas = (
            max(cells * stride // steps, side // stride * stride)
            for cells, side in zip(maps.shape[1:], one.canvas)
        )
        chosen = None if self.choose_interp_method else "bicubic"
        size = one.image.shape[1:]
        return ScoreResizer(maps.shape[1:], tuple(canvas), size, one.original, chosen), maps

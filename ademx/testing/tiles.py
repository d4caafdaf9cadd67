"""A large canvas in overlapping tiles, and their score maps blended into the canvas's.

All lengths are in cells of the network's output, so that a tile's cells are cells of the canvas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ademx.errors import InputError
from iters.decode import Box, Size


def shared_pixels(tile: Sequence[int], overlap: int | None) -> int:
    """Return the pixels that neighbouring tiles share: None is a quarter of the shorter side."""
    return min(tile) // 4 if overlap is None else overlap


@dataclass(frozen=True)
class Tiling:
    """How a canvas is laid out in tiles.

    Attributes:
        size: height and width of a tile; where the canvas is shorter, a tile is too.
        overlap: cells that neighbouring tiles share at least.
        stride: pixels of a cell.
    """

    size: Size
    overlap: int
    stride: int

    @classmethod
    def of_pixels(cls, tile: Size, overlap: int | None, *, stride: int) -> Tiling:
        """Return the layout for lengths in pixels, which are rounded up to whole cells.

        Args:
            tile: height and width.
            overlap: None for a quarter of the shorter side.
            stride: pixels of a cell.

        Raises:
            ValueError: the overlap leaves nothing of a tile.
        """
        shared = shared_pixels(tile, overlap)
        height, width, cells = (-(-length // stride) for length in (*tile, shared))
        if cells >= min(height, width):
            raise InputError(
                f"--tile {tile[0]}x{tile[1]} --overlap {shared}: tiles share all they have, in "
                f"whole cells of the network's output, {stride} pixels: give larger tiles"
            )
        return cls((height, width), cells, stride)

    def boxes(self, grid: Size) -> Iterator[Box]:
        """Yield the tiles of a canvas of this height and width, row by row; all have one size."""
        sides = tuple(map(min, self.size, grid))
        for top, left in product(*map(self._starts, grid, self.size)):
            yield top, left, sides[0], sides[1]

    def blend(
        self, sums: np.ndarray | None, maps: np.ndarray, box: Box, grid: Size, *, steps: int
    ) -> np.ndarray:
        """Return a canvas's score maps so far with those of one more tile.

        Where tiles overlap, their weights rise from their borders on; in every cell the weights of
        all tiles add up to 1.

        Args:
            sums: the maps so far, (C, …) float32, added to; None before the first tile.
            maps: of the tile, (C, h, w) float32. Some poolings leave out a last cell.
            box: the tile.
            grid: height and width of the canvas.
            steps: predictions along each axis for a cell.

        Raises:
            ValueError: the overlap does not make up for cells that were left out.
        """
        if box[2:] == grid:
            return maps
        places, windows, lengths = [], [], []
        for size, start, side, length, tile in zip(maps.shape[1:], box, box[2:], grid, self.size):
            starts = [other * steps for other in self._starts(length, tile)]
            places.append(slice(start * steps, start * steps + size))
            windows.append(self._window(start * steps, starts, size, steps))
            lengths.append((length - side) * steps + size)
        if sums is None:
            sums = np.zeros((len(maps), *lengths), np.float32)
        sums[:, places[0], places[1]] += maps * np.outer(*windows).astype(np.float32)
        return sums

    def _starts(self, length: int, tile: int) -> list[int]:
        """Return where the tiles of a line begin: as evenly as whole cells allow."""
        if length <= tile:
            return [0]
        gaps = -(-(length - tile) // (tile - self.overlap))
        return [number * (length - tile) // gaps for number in range(gaps + 1)]

    def _window(self, start: int, starts: Sequence[int], size: int, steps: int) -> np.ndarray:
        """Return the weights, (size,), of the predictions of the tile that begins at `start`."""
        if any(later - earlier > size for earlier, later in zip(starts, starts[1:])):
            raise InputError(
                f"--overlap {self.overlap * self.stride}: by its poolings this network says "
                f"nothing of a tile's last pixels: give at least {self.stride}"
            )
        cells = np.arange(start, start + size) + 0.5

        def weights(first: int) -> np.ndarray:
            from_border = np.minimum(cells - first, first + size - cells)
            return np.clip(from_border / (self.overlap * steps or 1), 0, 1)

        window: np.ndarray = weights(start) / sum(map(weights, starts))
        return window

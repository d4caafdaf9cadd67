"""Label images of two computations: they may differ where two classes are about as good.

Score maps are enlarged by Pillow here, one by one and step by step.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ademx.testing.numerics import SCORE_MARGIN

# Score maps are stored as float16, which rounds two classes of a pixel by 2^-12 each at most (a
# quarter of that where they are about as good, which enlarging cannot make up for).
SCORE_TOLERANCE = 2 * 2**-12 + SCORE_MARGIN


def saved_scores(
    output: Path, image: str, size: tuple[int, int], scales: Sequence[int]
) -> np.ndarray:
    """Return, (C, *size), what `--save-predictions` kept of an image, its scales averaged."""
    height, width = size
    total = 0.0
    with np.load(output / "scores" / f"{image}.npz") as saved:
        for scale in scales:
            maps = saved["scores" if len(scales) == 1 else f"scores@{scale}"].astype(np.float32)
            canvas = maps.shape[2] * 8, maps.shape[1] * 8
            resized = tuple(round(scale * side / max(size)) for side in (width, height))
            method = Image.Resampling.BILINEAR
            if width < resized[0] and height < resized[1]:
                method = Image.Resampling.LANCZOS
            elif width > resized[0] and height > resized[1]:
                method = Image.Resampling.BICUBIC
            total += np.array(
                [
                    Image.fromarray(scores)
                    .resize(canvas, Image.Resampling.BICUBIC)
                    .crop((0, 0, *resized))
                    .resize((width, height), method)
                    for scores in maps
                ]
            )
    return total / len(scales)


def lead(scores: np.ndarray) -> np.ndarray:
    """Return, for each pixel, by how much the best class's score exceeds the next one's."""
    ordered = np.sort(scores, axis=0)
    return ordered[-1] - ordered[-2]


def differ_clearly(
    one: np.ndarray, other: np.ndarray, scores: np.ndarray, tolerance: float = SCORE_TOLERANCE
) -> np.ndarray:
    """Return where two label images differ although one class's score leads by the tolerance."""
    return (one != other) & (lead(scores) >= tolerance)

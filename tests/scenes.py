"""Drawn images for tests that need a few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iters.drawn import SCENERIES, draw_scene


def voc_scene(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image, (H, W, 3) uint8, and its label, (H, W) uint8 class ids with 255 void.

    One to three shapes of VOC's classes lie on a shaded background; sides are 96 to 128 pixels.
    """
    scene = draw_scene(rng, SCENERIES["voc"])
    return scene.image, scene.label

"""A fully connected CRF that sharpens a segmentation by the colours of its image.

Every pixel is tied to every other by two Gaussian kernels: the *bilateral* one asks pixels that
are near and alike in colour for one class, the *Gaussian* one asks it of close neighbours. What
is minimised is

    -log(probability) - weight · [same class], summed over all pixels and all pairs of them,

by mean-field updates; the sums over pairs come from a permutohedral lattice, so that an update
takes time in proportion to the pixels. Each kernel is normalised symmetrically: by the square
roots of its sums at both pixels.

Source: Krähenbühl and Koltun, arXiv:1210.5644 (NIPS 2011). The computation is theirs too, by way
of the library `pydensecrf2`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.compat import import_optional
from ademx.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Bicubic enlarging goes below 0, and a logarithm must stay finite.
_LEAST_PROBABILITY = 1e-5


@dataclass(frozen=True)
class CrfParameters:
    """What the CRF is told; :func:`parse_crf_parameters` reads the same names from a text.

    The defaults are those that DeepLab v2 publishes for its ResNet-101 on VOC (arXiv:1606.00915,
    the scripts of its release), found by its authors on a hundred images of VOC's val split.
    Other networks and datasets want their own.

    Attributes:
        bilateral_weight: what a pair that is near and alike gains by sharing a class.
        bilateral_xy: standard deviation of its kernel in the picture, pixels of the original.
        bilateral_rgb: standard deviation of its kernel in each colour, of 255.
        gaussian_weight: what a pair that is close gains by sharing a class.
        gaussian_xy: standard deviation of its kernel in the picture, pixels of the original.
        iterations: mean-field updates.

    Raises:
        ValueError: a weight is negative, or a deviation or the iterations are not above 0.
    """

    bilateral_weight: float = 4.0
    bilateral_xy: float = 67.0
    bilateral_rgb: float = 3.0
    gaussian_weight: float = 3.0
    gaussian_xy: float = 1.0
    iterations: int = 10

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            weight = name.endswith("_weight")
            if not math.isfinite(value) or value < 0 or (value == 0 and not weight):
                expected = "0 or more" if weight else "above 0"
                raise InputError(f"--crf-params {name}={value}: expected {expected}")


def parse_crf_parameters(text: str) -> CrfParameters:
    """Return the parameters of a text such as "bilateral_weight=5,iterations=5".

    Those that it does not name keep their defaults.

    Raises:
        ValueError: an unknown or repeated name, or a value that is not a number.
    """
    kinds = {name: type(value) for name, value in dataclasses.asdict(CrfParameters()).items()}
    values: dict[str, Any] = {}
    for part in filter(str.strip, text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in kinds or name in values:
            raise InputError(
                f"--crf-params {part.strip()!r}: expected NAME=VALUE, each name once, of "
                f"{', '.join(kinds)}"
            )
        try:
            values[name] = kinds[name](value)
        except ValueError:
            what = "whole number" if kinds[name] is int else "number"
            raise InputError(f"--crf-params {name}={value}: expected a {what}") from None
    return CrfParameters(**values)


def import_crf_library() -> Any:
    """Return the module that computes the CRF.

    Raises:
        MissingDependency: it is not installed.
    """
    return import_optional(
        "pydensecrf.densecrf",
        "--crf needs pydensecrf2, which is not installed: run `pip install 'ademx[crf]'` "
        "(it is compiled then, in about a minute, by a C++ compiler such as g++)",
    )


def refine(
    probabilities: NDArray[np.floating], image: NDArray[np.uint8], parameters: CrfParameters
) -> NDArray[np.float32]:
    """Return the probabilities that the CRF makes of a network's.

    It needs some 40 bytes of memory for each pixel and class: 0.2 GiB for an image of VOC, 1.5
    GiB for one of Cityscapes, 2 GiB for 512×683 pixels of ADE20K, 25 GiB for 2100×2100 of them;
    images so colourful that few pixels are alike need up to twice as much.

    Args:
        probabilities: (C, H, W) float; need not add up to 1, and may lie a little outside 0 to 1.
        image: (H, W, 3) uint8 RGB, the original.
        parameters: of the CRF.

    Returns:
        (C, H, W) float32, adding up to 1 over the classes.

    Raises:
        ValueError: the shapes do not fit, or the image is not uint8.
        MissingDependency: see :func:`import_crf_library`.
    """
    num_classes, height, width = probabilities.shape
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise InputError(
            f"image: found {image.dtype} of shape {image.shape}, expected uint8 of shape "
            f"({height}, {width}, 3)"
        )
    library = import_crf_library()
    energy = np.clip(probabilities, _LEAST_PROBABILITY, 1).astype(np.float32, copy=False)
    np.negative(np.log(energy, out=energy), out=energy)
    crf = library.DenseCRF2D(width, height, num_classes)
    crf.setUnaryEnergy(np.ascontiguousarray(energy.reshape(num_classes, -1)))
    crf.addPairwiseGaussian(
        sxy=parameters.gaussian_xy,
        compat=parameters.gaussian_weight,
        normalization=library.NORMALIZE_SYMMETRIC,
    )
    crf.addPairwiseBilateral(
        sxy=parameters.bilateral_xy,
        srgb=parameters.bilateral_rgb,
        rgbim=np.array(image, order="C"),  # the library wants one that it might write to
        compat=parameters.bilateral_weight,
        normalization=library.NORMALIZE_SYMMETRIC,
    )
    # What `crf.inference` does, update by update: the library keeps Python's lock in every call. A
    # thread that runs the network gets it between two updates, not after all of them.
    state, *buffers = crf.startInference()
    for _ in range(parameters.iterations):
        crf.stepInference(state, *buffers)
    refined: NDArray[np.float32] = np.asarray(state, np.float32)
    return refined.reshape(num_classes, height, width)

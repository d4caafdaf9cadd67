"""The pictures of a report: an image, its truth, its prediction and its errors, made small."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, features

from ademx.errors import MissingDependency
from ademx.pictures import colourise
from iters import palettes
from iters.datasets import VOID, Dataset, encode_label
from iters.images import class_ids, load_label, load_sample
from iters.samples import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ademx.testing.record import Report

    Panels = Mapping[str, NDArray[np.uint8]]  # what is known of an image's pixels

_SIDES = (1024, 800, 640, 500, 400, 320, 240, 160, 96)  # longest side of a picture, pixels
_QUALITY = 75  # WebP's, of photographs; maps lose nothing

_WRONG = (230, 25, 35, 255)  # RGBA
_HATCH = (110, 110, 110, 210)
_HATCHES = 64  # stripes along the longer side of an image that is void throughout


def check_encoder() -> None:
    """Raise :class:`MissingDependency` where Pillow was built without WebP."""
    if not features.check("webp"):
        raise MissingDependency(
            "reports need a Pillow that writes WebP, which all its wheels do: run "
            "`pip install --force-reinstall --only-binary :all: pillow`"
        )


def load_panels(run: Report, sample: Sample) -> Panels:
    """Return what is known of a sample, from its files and the run's.

    Returns:
        "image", (H, W, 3) uint8 RGB; of a segmentation run "prediction" too, and "truth" where it
        is known, both (H, W) uint8 class ids with 255 void.

    Raises:
        FileNotFoundError, BrokenImage: a file is missing, cannot be decoded, or has another size
            than the image.
    """
    image, stored, _, _ = load_sample(sample, rule=run.record.settings.exif)
    if run.dataset.task == "classification":
        return {"image": image}
    size = image.shape[:2]
    file = run.folder / "labels" / f"{sample.name}.png"
    prediction = class_ids(run.dataset, load_label(file), size, name=file)
    panels = {"image": image, "prediction": prediction}
    if stored is not None:
        panels["truth"] = class_ids(run.dataset, stored, size, name=sample.label)
    return panels


class PictureEncoder:
    """Makes pictures as large as a number of bytes for all of them permits.

    What one picture leaves of its part is for those after it.

    Args:
        dataset: whose colours classes have.
        num_bytes: for all pictures together.
        num_pictures: how many there may be.
    """

    def __init__(self, dataset: Dataset, *, num_bytes: int, num_pictures: int) -> None:
        self._dataset = dataset
        self._bytes_left = num_bytes
        self._pictures_left = num_pictures
        self._start = 0  # of _SIDES: where to begin with the next picture

    def encode(self, panels: Panels | None) -> str | None:
        """Return a picture as JSON: `width`, `height`, and data URIs.

        Returns:
            `image`, and for segmentation `truth`, `prediction` and `error`; None where there is
            no image, or not even the smallest size leaves it within its part of the bytes.
        """
        allowance = self._bytes_left // max(1, self._pictures_left)
        self._pictures_left -= 1
        if panels is None:
            return None
        longest = max(panels["image"].shape[:2])
        for number in range(self._start, len(_SIDES)):
            if number + 1 < len(_SIDES) and longest <= _SIDES[number + 1]:
                continue  # the next one makes the same picture
            text = json.dumps(_picture(panels, self._dataset, side=_SIDES[number]))
            if len(text) <= allowance:
                self._start = max(0, number - 1)  # the next picture may be a little larger
                self._bytes_left -= len(text)
                return text
        return None


def _picture(panels: Panels, dataset: Dataset, *, side: int) -> dict[str, Any]:
    height, width = panels["image"].shape[:2]
    factor = min(1.0, side / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    photograph = Image.fromarray(panels["image"]).resize(size, Image.Resampling.LANCZOS)
    picture = {
        "width": size[0],
        "height": size[1],
        "image": _data_uri(photograph, quality=_QUALITY, method=2),
    }
    maps = {
        name: np.asarray(Image.fromarray(classes).resize(size, Image.Resampling.NEAREST))
        for name, classes in panels.items()
        if name != "image"
    }
    layers = {name: _colourised(classes, dataset) for name, classes in maps.items()}
    if len(maps) == 2:
        layers["error"] = _errors(maps["truth"], maps["prediction"])
    for name, pixels in layers.items():
        picture[name] = _data_uri(Image.fromarray(pixels), lossless=True, quality=50, method=2)
    return picture


def _colourised(classes: NDArray[np.uint8], dataset: Dataset) -> NDArray[np.uint8]:
    """Return the colours of class ids, (H, W) -> (H, W, 3)."""
    return colourise(encode_label(dataset, classes), dataset.palette or palettes.VOC)


def _errors(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what lies over the image, (H, W, 4): wrong pixels red, void ones hatched."""
    pixels = np.zeros((*truth.shape, 4), np.uint8)
    pixels[(truth != prediction) & (truth != VOID)] = _WRONG
    rows, columns = np.indices(truth.shape)
    stripe = max(2, max(truth.shape) // (2 * _HATCHES))
    pixels[(truth == VOID) & ((rows + columns) // stripe % 2 == 0)] = _HATCH
    return pixels


def _data_uri(image: Image.Image, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")

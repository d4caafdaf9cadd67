"""The images that a network is unravelled at, with their labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt
from PIL import Image

from ademx.errors import InputError
from ademx.labels import Label
from ademx.networks.graph import input_normalization, network_stride
from ademx.prediction.images import list_images
from ademx.testing.checks import check_class, find_dataset
from ademx.testing.options import default_test_scale, training_crop
from ademx.unravelling.options import UnravelOptions
from iters import transforms
from iters.datasets import VOID, Dataset
from iters.decode import BrokenImage
from iters.images import class_ids, load_image, load_sample
from iters.lists import find_samples
from iters.samples import Sample

_log = logging.getLogger(__name__)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Example:
    """An image as the network reads it.

    Attributes:
        name: of its file.
        data: (3, H, W) float32, normalised.
        target: its class, () int64, or those of the output's cells, (h, w) int64, VOID where
            there is none; None where the truth is not known.
    """

    name: str
    data: Array
    target: Array | None


def load_examples(options: UnravelOptions, label: Label) -> Iterator[Example]:
    """Yield as many images as are asked for, drawn with equal chances; fewer if there are not.

    What cannot be read, or has no labelled pixel in its crop, is logged and another one drawn.

    Raises:
        ValueError, FileNotFoundError: there is no such dataset or folder, it does not fit the
            label, or none of its images can be used.
    """
    dataset, items = None, list[Union[Path, Sample]]()
    if options.data_root is None:
        items += list_images(options.pictures)
    else:
        dataset = find_dataset(label, options.dataset)
        listed = options.list_file
        items += find_samples(dataset, options.data_root, options.split, list_file=listed)
    read = _Reader(options, label, dataset)
    order = np.random.default_rng(options.seed).permutation(len(items))
    found = 0
    for item in (items[index] for index in order):
        try:
            data, target = read(item)
        except (BrokenImage, OSError) as error:
            _log.error("left out: %s", error)
            continue
        if target is not None and (target == VOID).all() and target.ndim:
            _log.warning("left out: %s: no labelled pixel in the crop", item)
            continue
        yield Example(str(item), data, target)
        found += 1
        if found == options.images:
            return
    if not found:
        raise InputError(f"none of {len(items)} images can be used: see above")
    _log.warning("--images %d: only %d can be used", options.images, found)


class _Reader:
    """Resizes and crops images and labels as they are tested, but to one size for all."""

    def __init__(self, options: UnravelOptions, label: Label, dataset: Dataset | None) -> None:
        self._rule, self._choose = options.exif, options.choose_interp_method
        self._dataset = dataset
        self._segments = label.task == "segmentation"
        side = options.crop_size or (224 if self._segments else training_crop(label))
        self._stride = network_stride(label)
        self._size = -(-side // self._stride) * self._stride if self._segments else side
        default = default_test_scale(label, options.dataset) if self._segments else side
        self._origin = options.origin_size or default
        if not self._segments and self._origin < side:
            raise InputError(
                f"--origin-size {self._origin}: a shorter side below --crop-size {side}: expected "
                "at least as much"
            )
        self._normalization = input_normalization(label)

    def __call__(self, item: Path | Sample) -> tuple[Array, Array | None]:
        """Return the data and the target of a picture or a dataset's image."""
        if self._dataset is None or isinstance(item, Path):
            turned = self._rule != "ignore"
            return self._cropped(load_image(str(item), turned=turned, over_white=True), None)
        image, stored, _, _ = load_sample(item, rule=self._rule)
        truth = None
        if stored is not None:
            truth = class_ids(self._dataset, stored, image.shape[:2], name=item.label)
        data, target = self._cropped(image, truth)
        if isinstance(item.label, int):
            check_class(item, self._dataset)
            target = np.array(item.label)
        return data, target

    def _cropped(self, image: Array, truth: Array | None) -> tuple[Array, Array | None]:
        """Return an (H, W, 3) uint8 image as network input, and (H, W) class ids as its target."""
        if not self._segments:
            resized = transforms.resize_shorter(image, self._origin, choose=self._choose)
            crop = transforms.center_crop(resized, self._size)
            return transforms.normalize(crop, self._normalization), None
        resized = transforms.resize_longer(image, self._origin, choose=self._choose)
        data = _window(transforms.normalize(resized, self._normalization), self._size, 0)
        if truth is None:
            return data, None
        height, width = resized.shape[:2]
        label = Image.fromarray(truth).resize((width, height), Image.Resampling.NEAREST)
        first = self._stride // 2
        cells = _window(np.array(label), self._size, VOID)[first :: self._stride]
        return data, cells[:, first :: self._stride].astype(np.int64)


def _window(values: Array, size: int, filling: int) -> Array:
    """Return the middle (…, size, size) of an array, filled up at the bottom and the right."""
    height, width = (min(size, side) for side in values.shape[-2:])
    top, left = (values.shape[-2] - height) // 2, (values.shape[-1] - width) // 2
    result = np.full((*values.shape[:-2], size, size), filling, values.dtype)
    result[..., :height, :width] = values[..., top : top + height, left : left + width]
    return result

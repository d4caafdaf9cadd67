"""A handful of a row's images tested again, as they were and in another way, by the same weights.

A test in the right way scores higher than one in a wrong way on nearly every image, so that few
images tell which is right: each is held against itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ademx.iteration import spread
from ademx.metrics import confusion_matrix, segmentation_scores
from ademx.testing.options import ClassificationOptions, SegmentationOptions, training_crop
from ademx.testing.score_maps import best_class
from ademx.testing.scorer import Scorer
from ademx.testing.session import Session
from iters import transforms
from iters.datasets import decode_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iters.samples import Sample

# Network inputs together have so many pixels at the most, within a least and a most number of
# images: 16 of VOC, 4 of Cityscapes. Classifiers take a tenth of the time for a pixel.
_PIXELS = {"segmentation": 16 * 504**2, "classification": 32 * 320**2}
_IMAGES = {"segmentation": (4, 32), "classification": (8, 32)}


@dataclass(frozen=True)
class Way:
    """How to test; the defaults are what the row says.

    Attributes:
        scale: factor of the test scale.
        other_filter: bicubic always where the row's filter is chosen by the sizes, or the reverse.
        crop: of a classifier: "centre", "three" along the longer side, "zoomed" to the centre of
            an image enlarged by 8/7, or "squashed", the whole image as a square; "" is the row's.
        is_bgr: the red and the blue of the image exchanged.
        other_normalization: that of the other family of networks.
        pool: geometry of max pooling; None is the row's.
    """

    scale: float = 1.0
    other_filter: bool = False
    crop: str = ""
    is_bgr: bool = False
    other_normalization: bool = False
    pool: str | None = None


AS_TESTED = Way()


def _one_crop(image: NDArray[np.uint8], side: int) -> list[NDArray[np.uint8]]:
    return [transforms.center_crop(image, side)]


_CROPS = {"three": transforms.three_crops, "ten": transforms.ten_crops}


def crop_of(options: ClassificationOptions) -> str:
    """Return how a classifier's row crops its images: "centre", "three" or "ten"."""
    if options.test_10crops:
        return "ten"
    return "three" if options.test_3crops else "centre"


class Handful:
    """A few images of a split, spread over it, and their scores by any way of testing them.

    Mirror images, but those of ten crops, and steps between two cells are computed by no way.

    Args:
        options: how the row is tested.
        samples: of the split.

    Raises:
        ValueError, OSError: see :class:`ademx.testing.session.Session`; an image is broken.
    """

    def __init__(
        self, options: ClassificationOptions | SegmentationOptions, samples: Sequence[Sample]
    ) -> None:
        self._options = options
        self._scale = max(options.test_scales)
        self._crop = crop_of(options) if isinstance(options, ClassificationOptions) else ""
        least, most = _IMAGES[options.task]
        pixels = self._scale**2 * {"three": 3, "ten": 10}.get(self._crop, 1)
        chosen = spread(samples, at_most=min(max(_PIXELS[options.task] // pixels, least), most))
        self._session = self._open(options.pool)
        self._samples = [self._session.load_sample(sample) for sample in chosen]
        self._labels = [sample.label for sample in chosen]
        self._known: dict[Way, NDArray[np.float64]] = {}

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self._samples)

    def scores(self, way: Way = AS_TESTED) -> NDArray[np.float64]:
        """Return each image's score in two kinds, percent, more is better, (N, 2).

        Of a segmented image both are its mean IoU. Of a classified one the first is 100 where its
        likeliest class is the true one, else 0, and the second, which tells small changes, the
        true class's probability.

        Raises:
            ValueError: the network's output is not finite.
        """
        if way not in self._known:
            session = self._session if way.pool is None else self._open(way.pool)
            score = (
                self._test_segmentation
                if self._options.task == "segmentation"
                else self._test_classification
            )
            found = [score(session, number, way) for number in range(len(self))]
            self._known[way] = np.array(found, np.float64)
        return self._known[way]

    def _open(self, pool: str) -> Session:
        return Session(replace(self._options, pool=pool, compile=False))

    def _test_segmentation(self, session: Session, number: int, way: Way) -> tuple[float, float]:
        loaded, dataset = self._samples[number], session.dataset
        if loaded.stored is None:
            return math.nan, math.nan
        choose = self._options.choose_interp_method != way.other_filter
        scorer = Scorer(
            session.predict,
            session.label,
            dataset.canvas,
            normalization=_normalization(session, way),
            choose_interp_method=choose,
        )
        image = loaded.image[:, :, ::-1] if way.is_bgr else loaded.image
        scaled = scorer.prepare(image, round(self._scale * way.scale))
        truth, classes = decode_label(dataset, loaded.stored), best_class(scorer.score([scaled]))
        confusion = confusion_matrix(truth, classes, dataset.num_classes)
        iou = segmentation_scores(confusion).mean_iou
        return iou, iou

    def _test_classification(self, session: Session, number: int, way: Way) -> tuple[float, float]:
        choose = self._options.choose_interp_method != way.other_filter
        image = self._samples[number].image
        image = image[:, :, ::-1] if way.is_bgr else image
        side = scale = round(self._scale * way.scale)
        if self._crop == "ten":
            side = min(scale, training_crop(session.label))
        crop = way.crop or self._crop
        if crop == "squashed":
            crops = [transforms.resize(image, (side, side), choose=choose)]
        else:
            scale = round(side * 8 / 7) if crop == "zoomed" else scale
            image = transforms.resize_shorter(image, scale, choose=choose)
            crops = _CROPS.get(crop, _one_crop)(image, side)
        normalization = _normalization(session, way)
        inputs = [transforms.normalize(crop, normalization) for crop in crops]
        probabilities = session.predict(inputs).mean(axis=0)
        label = self._labels[number]
        return 100.0 * (probabilities.argmax() == label), 100.0 * float(probabilities[label])


def _normalization(session: Session, way: Way) -> transforms.Normalization:
    own = session.normalization
    if not way.other_normalization:
        return own
    return transforms.RN if own == transforms.RNA else transforms.RNA

"""Testing a segmentation network on a dataset."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from ademx.errors import InputError
from ademx.files import DAMAGED_ARRAYS, replacing, write_npz
from ademx.iteration import grouped, progress_bar
from ademx.metrics import SegmentationScores, confusion_matrix, segmentation_scores
from ademx.pictures import label_image, save_png
from ademx.published import Result
from ademx.testing.checks import check_names
from ademx.testing.cityscapes import further_scores
from ademx.testing.crf import import_crf_library, refine
from ademx.testing.image_counts import ImageCounts, NearTies, save_image_counts
from ademx.testing.numerics import SCORE_MARGIN
from ademx.testing.options import SegmentationOptions
from ademx.testing.record import Report
from ademx.testing.score_maps import ScorePart, best_class, best_class_and_ties, mean_scores
from ademx.testing.scorer import Scaled, Scorer
from ademx.testing.session import Session
from ademx.testing.submissions import Submission, pack_labels
from iters.datasets import VOID, decode_label
from iters.decode import BrokenImage, Size, image_size
from iters.images import class_ids, load_label
from iters.samples import Sample
from iters.sources import read_bytes

# Pixels of `correct/<image>.png` (Release: the same three values).
_CORRECT, _WRONG = 127, 0
# The key of a text in it.
_TIES = "near ties"
_NO_TIES = np.empty((0, 4), np.int64)


@dataclass(frozen=True)
class _Prepared:
    """An image made ready for the network, at every test scale.

    Attributes:
        pixels: the file's image, (H, W, 3) uint8, where something still needs it, else None.
        truth: (H, W) uint8 class ids with 255 void, or None.
        scaled: it, at every scale.
    """

    pixels: np.ndarray | None
    truth: np.ndarray | None
    scaled: tuple[Scaled, ...]


@dataclass(frozen=True)
class _Counted:
    """What was counted in an image.

    Attributes:
        confusion: (C, C) int64, rows are truth.
        ties: of :func:`ademx.testing.score_maps.best_class_and_ties`; none where nobody looked.
    """

    confusion: np.ndarray
    ties: np.ndarray


class SegmentationTester(Session):
    """Takes a split's images from their files to labels and a confusion matrix.

    Source: ademxapp:issegm/voc.py.
    """

    options: SegmentationOptions

    def __init__(self, options: SegmentationOptions) -> None:
        if options.crf is not None:
            import_crf_library()  # found missing now, not when the first image is computed
        super().__init__(options)
        self._images: dict[Sample, _Counted] = {}
        self._scorer = Scorer(
            self.predict,
            self.label,
            self.dataset.canvas,
            steps=options.test_steps,
            flip=options.test_flipping,
            choose_interp_method=options.choose_interp_method,
            tile=options.tile,
            overlap=options.overlap,
            batch=self.group_images,
        )
        self._absent_classes = options.absent_classes or self.dataset.absent_classes
        can_be_judged = options.near_ties or self.published() is not None
        self._counts_ties = can_be_judged and self.has_labels and options.crf is None

    def test(self) -> Report:
        """See :class:`Session`."""
        with self.in_folder():
            return self.report(self.run())

    def _first_image(self) -> tuple[list[Size], int]:
        """Return what the network sees of it at each scale, and the bytes of its score maps."""
        sample = self.samples[0]
        try:
            size = image_size(read_bytes(sample.image, sample.offset))
        except (BrokenImage, OSError):  # told when its turn comes
            return [], 0
        scorer, scales = self._scorer, self.options.test_scales
        scorer.tiles_are_idle(size, scales)
        inputs = [scorer.input_size(size, scale) for scale in scales]
        return inputs, sum(scorer.maps_bytes(size, scale) for scale in scales)

    def run(self) -> np.ndarray:
        """Return the (C, C) int64 confusion matrix of all images, those done before included."""
        if self.options.resume:
            earlier = ((one, self._earlier_counts(one)) for one in self.samples)
            self._images = {one: counted for one, counted in earlier if counted is not None}
        total = np.zeros((self.dataset.num_classes,) * 2, np.int64)
        for counted in self._images.values():
            total += counted.confusion
        rest = [one for one in self.samples if one not in self._images]
        done = len(self._images)
        with progress_bar(delay=0, total=len(self.samples), initial=done, unit="image") as bar:
            for sample, counted in self._counts(rest, bar):
                self._images[sample] = counted
                total += counted.confusion
                bar.update()
                if self.has_labels:
                    bar.set_postfix(mean_iou=f"{self._scores(total).mean_iou:.2f}", refresh=False)
        self._images = dict(sorted(self._images.items(), key=lambda item: item[0].index))
        return total

    def report(self, confusion: np.ndarray) -> Report:
        """Return the report of a confusion matrix and write it to `scores.json`."""
        found: dict[str, Any] = {}
        if self.has_labels:
            names, scores = self.dataset.class_names, self._scores(confusion)
            found = {
                "scores": scores.overall,
                "class_iou": dict(zip(names, scores.class_iou)),
                "class_accuracy": dict(zip(names, scores.class_accuracy)),
                "absent_classes": scores.absent_classes,
                "confusion": confusion.tolist(),
                "cityscapes": self._cityscapes_scores(),
            }
            self._save_image_counts()
        return replace(self.write_scores(**found), submission=self._submission())

    def _cityscapes_scores(self) -> dict[str, Any] | None:
        """Return what only Cityscapes' own tool knows, from the label images that were written."""
        if self.dataset.name != "cityscapes" or not self.options.save_results:
            return None
        truths = {one.label: one for one in self._images if isinstance(one.label, Path)}
        return further_scores({path: self._path("labels", one) for path, one in truths.items()})

    def published(self) -> Result | None:
        """See :class:`Session`; none beside scores by another rule for absent classes."""
        official = self.dataset.absent_classes
        return super().published() if self._absent_classes == official else None

    def _submission(self) -> Submission | None:
        if not self.options.save_results or not self.submission_is_due():
            return None
        options = self.options
        return pack_labels(self.dataset, self.samples, options.output, rule=options.exif)

    def _counts(self, samples: list[Sample], bar: tqdm[Any]) -> Iterator[tuple[Sample, _Counted]]:
        """Test samples and yield those that could be with what was counted in them."""
        is_tiled = self.options.tile is not None  # images are so large that one will do
        loaded = self.load(samples, self._prepare, bar=bar, ahead=1 if is_tiled else None)
        groups = grouped(loaded, 1 if is_tiled else self.group_images)
        # One thread finishes a group (enlarges, writes, counts) while the next is computed.
        with ThreadPoolExecutor(1) as pool:
            finishing: Future[list[tuple[Sample, _Counted]]] | None = None
            for group in groups:
                scales = zip(*(prepared.scaled for _, prepared in group))
                scores = list(zip(*map(self._scorer.score, scales)))
                if finishing is not None:
                    yield from finishing.result()
                finishing = pool.submit(self._write_group, group, scores)
            if finishing is not None:
                yield from finishing.result()

    def _prepare(self, sample: Sample) -> _Prepared:
        check_names(sample, (self._path(folder, sample) for folder in self.folders))
        image, stored, _, _ = self.load_sample(sample)
        truth = None
        if stored is not None:
            truth = class_ids(self.dataset, stored, image.shape[:2], name=sample.label)
        scaled = (self._scorer.prepare(image, scale) for scale in self.options.test_scales)
        return _Prepared(None if self.options.crf is None else image, truth, tuple(scaled))

    def _save_image_counts(self) -> None:
        names = tuple(sample.name for sample in self._images)
        matrices = [counted.confusion for counted in self._images.values()]
        counts = [[one.diagonal(), one.sum(axis=1), one.sum(axis=0)] for one in matrices]
        size = (len(names), 3, self.dataset.num_classes)
        near_ties = None
        if self._counts_ties:
            rows = [np.empty((0, 5), np.int64)]
            for index, counted in enumerate(self._images.values()):
                rows.append(np.insert(counted.ties, 0, index, axis=1))
            near_ties = NearTies(SCORE_MARGIN, np.concatenate(rows))
        images = ImageCounts(names, np.array(counts, np.int64).reshape(size), near_ties)
        save_image_counts(self.options.output, images)

    def _write_group(
        self, group: list[tuple[Sample, _Prepared]], scores: list[tuple[ScorePart, ...]]
    ) -> list[tuple[Sample, _Counted]]:
        """Write a group's files and return each sample with what was counted in it.

        Args:
            group: samples.
            scores: their score maps, a part for every scale.
        """
        counts = []
        for (sample, prepared), parts in zip(group, scores):
            if self.options.save_predictions:
                self._save_scores(sample, parts)
            classes, ties = self._classes(prepared, parts)
            if self.options.save_results:
                self._save_results(sample, classes, prepared.truth, ties)
            confusion = self._confusion(prepared.truth, classes)
            counts.append((sample, _Counted(confusion, ties)))
        return counts

    def _classes(
        self, prepared: _Prepared, parts: tuple[ScorePart, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the class of every pixel of the original image, (H, W), and ties if wanted."""
        if self.options.crf is not None and prepared.pixels is not None:
            refined = refine(mean_scores(parts), prepared.pixels, self.options.crf)
            return refined.argmax(axis=0).astype(np.uint8), _NO_TIES
        if self._counts_ties and prepared.truth is not None:
            return best_class_and_ties(parts, prepared.truth, margin=SCORE_MARGIN)
        return best_class(parts), _NO_TIES

    def _save_scores(self, sample: Sample, parts: tuple[ScorePart, ...]) -> None:
        scores = (maps.astype(np.float16) for _, maps in parts)
        arrays = dict(zip(self._score_keys(), scores))
        with replacing(self._path("scores", sample), durable=False) as file:
            write_npz(file, arrays)

    def _score_keys(self) -> list[str]:
        scales = self.options.test_scales
        return ["scores"] if len(scales) == 1 else [f"scores@{scale}" for scale in scales]

    def _save_results(
        self,
        sample: Sample,
        classes: np.ndarray,
        truth: np.ndarray | None,
        ties: np.ndarray,
    ) -> None:
        if truth is not None:
            correct = Image.fromarray(_correct_pixels(classes, truth))
            note = _note(ties) if self._counts_ties else None
            save_png(self._path("correct", sample), correct, pnginfo=note)
        # Last, because the next run takes this file for the sign of a finished image.
        save_png(self._path("labels", sample), label_image(self.dataset, classes))

    def _earlier_counts(self, sample: Sample) -> _Counted | None:
        """Return what an interrupted run counted in an image, if what it left is whole."""
        if not self.options.save_results:
            return None
        dataset = self.dataset
        try:
            for folder in set(self.folders) - {"scores"}:
                with Image.open(self._path(folder, sample)) as image:
                    image.verify()  # checksums and end
            classes = decode_label(dataset, load_label(self._path("labels", sample)))
            truth = None
            if isinstance(sample.label, Path):
                truth = decode_label(dataset, load_label(sample.label))
                correct = load_label(self._path("correct", sample))
                if not np.array_equal(correct, _correct_pixels(classes, truth)):
                    return None  # one of the three files is another one now
            if self.options.save_predictions and not self._has_scores(sample):
                return None
            ties = _NO_TIES
            if self._counts_ties:
                ties = _noted_ties(self._path("correct", sample), dataset.num_classes)
            return _Counted(self._confusion(truth, classes), ties)
        # Missing, or cut short by a crash of the machine: that is not waited for to be on the disk.
        except DAMAGED_ARRAYS:
            return None

    def _has_scores(self, sample: Sample) -> bool:
        """Return whether a file of scores is whole."""
        with zipfile.ZipFile(self._path("scores", sample)) as archive:
            names = [f"{key}.npy" for key in self._score_keys()]
            return archive.namelist() == names and archive.testzip() is None

    def _confusion(self, truth: np.ndarray | None, classes: np.ndarray) -> np.ndarray:
        num_classes = self.dataset.num_classes
        if truth is None:
            return np.zeros((num_classes, num_classes), np.int64)
        return confusion_matrix(truth, classes, num_classes)

    def _scores(self, confusion: np.ndarray) -> SegmentationScores:
        return segmentation_scores(confusion, absent_classes=self._absent_classes)

    def _path(self, folder: str, sample: Sample) -> Path:
        suffix = ".npz" if folder == "scores" else ".png"
        return self.options.output / folder / f"{sample.name}{suffix}"


def _note(ties: np.ndarray) -> PngInfo:
    """Return near ties as a text in a PNG, from which an interrupted run goes on."""
    note = PngInfo()
    note.add_text(_TIES, json.dumps({"margin": SCORE_MARGIN, "pixels": ties.tolist()}))
    return note


def _noted_ties(path: Path, num_classes: int) -> np.ndarray:
    """Return near ties that a PNG tells.

    Raises:
        ValueError: it tells none, or those within another margin, as a run has left it that was
            of another version or did not want them.
    """
    with Image.open(path) as image:
        note = json.loads(image.info.get(_TIES, "{}"))
    ties = np.array(note.get("pixels", ()), np.int64).reshape(-1, 4)
    if note.get("margin") != SCORE_MARGIN or (ties < 0).any() or (ties[:, :3] >= num_classes).any():
        raise InputError(f"{path}: near ties were not counted")
    return ties


def _correct_pixels(classes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return what `correct/<image>.png` holds, (H, W) uint8."""
    if classes.shape != truth.shape:
        raise InputError(f"classes {classes.shape}, truth {truth.shape}: expected one size")
    correct = np.where(classes == truth, np.uint8(_CORRECT), np.uint8(_WRONG))
    correct[truth == VOID] = VOID
    return correct

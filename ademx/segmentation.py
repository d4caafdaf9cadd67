"""Testing a segmentation network on a dataset (SPEC §5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ademx.evaluation import EvaluationOptions, Session, grouped, progress_bar, published_record
from ademx.files import replacing, write_json
from ademx.metrics import SegmentationScores, confusion_matrix, segmentation_scores
from ademx.published import Result, find_result
from ademx.scoremaps import ScoreResizer, best_class
from iters import transforms
from iters.datasets import VOID, decode_label, encode_label
from iters.lists import Sample

# Pixels of `correct/<image>.png` (Release: the same three values).
_CORRECT, _WRONG = 127, 0


@dataclass(frozen=True)
class SegmentationOptions(EvaluationOptions):
    """How to test a segmentation network.

    Attributes:
        test_steps: predictions along each axis for a cell of the output.
        absent_classes: "skip" or "zero"; None is the dataset's official tool's choice.
        save_predictions: write `scores/<image>.npz`.
        save_results: write `labels/<image>.png` and `correct/<image>.png`.
    """

    test_steps: int = 1
    absent_classes: str | None = None
    save_predictions: bool = False
    save_results: bool = True


@dataclass(frozen=True)
class SegmentationReport:
    """What a test of a segmentation network found.

    Attributes:
        scores: in percent; None where the split has no labels.
        confusion: (C, C) int64, rows are truth.
        class_names: a name for each class.
        published: the published result with the same label, split and options, if any.
        record: the whole of `scores.json`.
    """

    scores: SegmentationScores | None
    confusion: np.ndarray
    class_names: tuple[str, ...]
    published: Result | None
    record: dict[str, Any]


@dataclass(frozen=True)
class _Prepared:
    """An image made ready for the network, at every test scale.

    Attributes:
        original: height and width of the file's image.
        truth: (H, W) uint8 class ids with 255 void, or None.
        inputs: per scale, (steps² · flips, 3, h, w) float32 canvases.
        images: per scale, height and width of the resized image on the canvas.
    """

    original: tuple[int, int]
    truth: np.ndarray | None
    inputs: tuple[np.ndarray, ...]
    images: tuple[tuple[int, int], ...]


def evaluate_segmentation(options: SegmentationOptions) -> SegmentationReport:
    """Test weights on a split, write labels and scores under `options.output`, return the scores.

    Images that cannot be read are left out, named in the log and listed in the report.

    Raises:
        ValueError, FileNotFoundError: see :class:`ademx.evaluation.Session`.

    Source: SPEC §5; ademxapp:issegm/voc.py.
    """
    tester = _Tester(options)
    confusion = tester.run()
    return tester.report(confusion)


class _Tester:
    """Takes a split's images from their files to a confusion matrix."""

    def __init__(self, options: SegmentationOptions) -> None:
        self._options = options
        self._session = Session(
            options, task="segmentation", settings={"test_steps": options.test_steps}
        )
        stride = self._session.label.output_stride
        if options.test_steps < 1 or stride % options.test_steps:
            raise ValueError(
                f"--test-steps {options.test_steps}: expected a divisor of the network's output "
                f"stride, {stride}"
            )
        self._stride = stride
        dataset = self._session.dataset
        self._palette = [value for colour in dataset.palette or () for value in colour]
        self._absent_classes = options.absent_classes or dataset.absent_classes
        for name in self._folders():
            (options.output / name).mkdir(exist_ok=True)

    def run(self) -> np.ndarray:
        """Return the (C, C) int64 confusion matrix of all images, those done before included."""
        classes = self._session.dataset.num_classes
        total = np.zeros((classes, classes), np.int64)
        with progress_bar(total=len(self._session.samples), unit="image") as bar:
            for done, counts in enumerate(self._counts(), start=1):
                total += counts
                bar.update(done + len(self._session.broken) - bar.n)
                if self._session.has_labels:
                    bar.set_postfix(mean_iou=f"{self._scores(total).mean_iou:.2f}", refresh=False)
        return total

    def report(self, confusion: np.ndarray) -> SegmentationReport:
        """Return the report of a confusion matrix and write it to `scores.json`."""
        session = self._session
        names = session.dataset.class_names
        scores = self._scores(confusion) if session.has_labels else None
        published = self._published()
        record = session.record(num_tested=len(session.samples) - len(session.broken))
        if scores is not None:
            record = {
                "pixel_accuracy": scores.pixel_accuracy,
                "mean_accuracy": scores.mean_accuracy,
                "mean_iou": scores.mean_iou,
                "class_iou": dict(zip(names, scores.class_iou)),
                "class_accuracy": dict(zip(names, scores.class_accuracy)),
                "absent_classes": scores.absent_classes,
                "confusion": confusion.tolist(),
                **record,
            }
        record["published"] = published_record(published)
        write_json(self._options.output / "scores.json", record)
        return SegmentationReport(scores, confusion, names, published, record)

    def _counts(self) -> Iterator[np.ndarray]:
        """Yield each tested image's (C, C) confusion matrix, earlier results first."""
        rest = []
        for sample in self._session.samples:
            counts = self._earlier_counts(sample) if self._options.resume else None
            if counts is None:
                rest.append(sample)
            else:
                yield counts
        groups = grouped(self._session.load(rest, self._prepare), self._session.group_images)
        # One thread finishes a group (enlarges, writes, counts) while the next is computed.
        with ThreadPoolExecutor(1) as pool:
            finishing: Future[list[np.ndarray]] | None = None
            for group in groups:
                scores = self._network_scores([prepared for _, prepared in group])
                if finishing is not None:
                    yield from finishing.result()
                finishing = pool.submit(self._finish, group, scores)
            if finishing is not None:
                yield from finishing.result()

    def _prepare(self, sample: Sample) -> _Prepared:
        image = transforms.load_image(sample.image)
        truth = None
        if isinstance(sample.label, Path):
            truth = decode_label(self._session.dataset, transforms.load_label(sample.label))
            if truth.shape != image.shape[:2]:
                raise transforms.BrokenImage(
                    f"{sample.label}: {truth.shape[1]}×{truth.shape[0]} pixels, but its image has "
                    f"{image.shape[1]}×{image.shape[0]}"
                )
        inputs, sizes = [], []
        for scale in self._options.test_scales:
            resized = transforms.resize_longer(
                image, scale, choose=self._options.choose_interp_method
            )
            inputs.append(self._canvases(resized, scale))
            sizes.append(resized.shape[:2])
        return _Prepared(image.shape[:2], truth, tuple(inputs), tuple(sizes))

    def _canvases(self, image: np.ndarray, scale: int) -> np.ndarray:
        """Return the network's inputs for a resized image: shifts, row by row, then mirrored."""
        canvas = transforms.canvas_size(
            self._session.dataset.canvas,
            test_scale=scale,
            image_size=image.shape[:2],
            stride=self._stride,
        )
        normalized = transforms.normalize(image, self._session.normalization)
        steps = self._options.test_steps
        shifted = [
            transforms.shifted_canvas(
                normalized, canvas=canvas, stride=self._stride, steps=steps, iy=iy, ix=ix
            )
            for iy in range(steps)
            for ix in range(steps)
        ]
        if self._options.test_flipping:
            shifted += [canvas_chw[:, :, ::-1] for canvas_chw in shifted]
        return np.stack(shifted)

    def _network_scores(self, group: list[_Prepared]) -> list[list[np.ndarray]]:
        """Return, per image and scale, the network's (C, h·steps/s, w·steps/s) probabilities."""
        scores: list[list[np.ndarray]] = [[] for _ in group]
        for scale in range(len(self._options.test_scales)):
            by_canvas = defaultdict(list)
            for index, prepared in enumerate(group):
                by_canvas[prepared.inputs[scale].shape].append(index)
            for indices in by_canvas.values():
                inputs = np.concatenate([group[index].inputs[scale] for index in indices])
                outputs = np.split(self._session.predict(inputs), len(indices))
                for index, output in zip(indices, outputs):
                    scores[index].append(self._merged(output))
        return scores

    def _merged(self, output: np.ndarray) -> np.ndarray:
        """Return one image's score maps from those of its shifts and mirrored shifts."""
        steps = self._options.test_steps
        if self._options.test_flipping:
            straight, mirrored = np.split(output, 2)
            output = (straight + mirrored[..., ::-1]) / 2
        return transforms.interleave(output.reshape(steps, steps, *output.shape[1:]))

    def _finish(
        self, group: list[tuple[Sample, _Prepared]], scores: list[list[np.ndarray]]
    ) -> list[np.ndarray]:
        """Write a group's files and return each image's confusion matrix."""
        counts = []
        for (sample, prepared), of_scales in zip(group, scores):
            if self._options.save_predictions:
                self._save_scores(sample, of_scales)
            classes = best_class(self._parts(prepared, of_scales))
            if self._options.save_results:
                self._save_results(sample, classes, prepared.truth)
            counts.append(self._confusion(prepared.truth, classes))
        return counts

    def _parts(
        self, prepared: _Prepared, scores: list[np.ndarray]
    ) -> list[tuple[ScoreResizer, np.ndarray]]:
        parts = []
        for inputs, image, maps in zip(prepared.inputs, prepared.images, scores):
            resizer = ScoreResizer(
                grid=maps.shape[1:],
                canvas=inputs.shape[2:],
                image=image,
                original=prepared.original,
                filter_name=None if self._options.choose_interp_method else "bicubic",
            )
            parts.append((resizer, maps))
        return parts

    def _save_scores(self, sample: Sample, scores: list[np.ndarray]) -> None:
        keys = ["scores"]
        if len(scores) > 1:
            keys = [f"scores@{scale}" for scale in self._options.test_scales]
        arrays = {key: maps.astype(np.float16) for key, maps in zip(keys, scores)}
        with replacing(self._path("scores", sample), durable=False) as file:
            np.savez(file, **arrays)

    def _save_results(self, sample: Sample, classes: np.ndarray, truth: np.ndarray | None) -> None:
        if truth is not None:
            correct = np.where(classes == truth, _CORRECT, _WRONG)
            correct[truth == VOID] = VOID
            self._save_png("correct", sample, Image.fromarray(correct.astype(np.uint8)))
        labels = Image.fromarray(encode_label(self._session.dataset, classes))
        if self._palette:
            labels.putpalette(self._palette)
        # Last, because the next run takes this file for the sign of a finished image.
        self._save_png("labels", sample, labels)

    def _save_png(self, folder: str, sample: Sample, image: Image.Image) -> None:
        with replacing(self._path(folder, sample), durable=False) as file:
            image.save(file, "PNG")

    def _earlier_counts(self, sample: Sample) -> np.ndarray | None:
        """Return an image's confusion matrix from what an interrupted run left, if it is whole."""
        if not self._options.save_results:
            return None
        if not all(self._path(folder, sample).is_file() for folder in self._folders()):
            return None
        try:
            stored = transforms.load_label(self._path("labels", sample))
            truth = None
            if isinstance(sample.label, Path):
                truth = decode_label(self._session.dataset, transforms.load_label(sample.label))
            return self._confusion(truth, decode_label(self._session.dataset, stored))
        except ValueError:  # a picture cut short by a crash of the machine
            return None

    def _confusion(self, truth: np.ndarray | None, classes: np.ndarray) -> np.ndarray:
        num_classes = self._session.dataset.num_classes
        if truth is None:
            return np.zeros((num_classes, num_classes), np.int64)
        return confusion_matrix(truth, classes, num_classes)

    def _scores(self, confusion: np.ndarray) -> SegmentationScores:
        return segmentation_scores(confusion, absent_classes=self._absent_classes)

    def _folders(self) -> list[str]:
        """Return the folders under the output that hold a file for every image."""
        folders = ["labels"] if self._options.save_results else []
        if self._options.save_results and self._session.has_labels:
            folders.append("correct")
        if self._options.save_predictions:
            folders.append("scores")
        return folders

    def _path(self, folder: str, sample: Sample) -> Path:
        suffix = ".npz" if folder == "scores" else ".png"
        return self._options.output / folder / f"{sample.name}{suffix}"

    def _published(self) -> Result | None:
        options = self._options
        if len(options.weights) > 1 or not options.choose_interp_method:
            return None
        return find_result(
            str(self._session.label),
            split=options.split,
            test_scales=options.test_scales,
            test_flipping=options.test_flipping,
            test_steps=options.test_steps,
            test_3crops=False,
            pool=options.pool,
        )

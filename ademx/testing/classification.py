"""Testing a classifier on a dataset."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from ademx.errors import InputError
from ademx.files import DAMAGED_ARRAYS
from ademx.iteration import grouped, progress_bar
from ademx.metrics import likeliest, topk_errors
from ademx.testing.checks import check_class
from ademx.testing.image_counts import ImageLabels, save_image_labels
from ademx.testing.options import ClassificationOptions, training_crop
from ademx.testing.record import Report
from ademx.testing.session import Session
from ademx.testing.submissions import Submission, write_guesses
from iters import transforms
from iters.files import read_text
from iters.samples import Sample

_RANKS = (1, 5)


class ClassificationTester(Session):
    """Takes a split's images from their files to class probabilities and errors.

    Rows of `predictions/<scale>.npy` are nan where an image cannot be read.

    Source: ademxapp:iclass/ilsvrc.py.
    """

    options: ClassificationOptions

    def __init__(self, options: ClassificationOptions) -> None:
        super().__init__(options)
        self._class_ids = _read_class_ids(options.class_ids, self.dataset.num_classes)
        self._truth = self._checked_labels()
        self._folder = options.output / "predictions"

    def test(self) -> Report:
        """See :class:`Session`."""
        with self.in_folder():
            return self.report([self.probabilities(scale) for scale in self.options.test_scales])

    def probabilities(self, scale: int) -> np.ndarray:
        """Return one scale's (N, classes) float32, also in `predictions/<scale>.npy`.

        Rows of broken images are nan. While the scale is under way its file ends in `.part`.
        """
        partial = self._folder / f"{scale}.npy.part"
        rows = self._open_rows(partial, self._folder / f"{scale}.npy")
        rest = [self.samples[index] for index in np.flatnonzero(_untested(rows))]
        done = len(rows) - len(rest)
        with progress_bar(
            delay=0, total=len(rows), initial=done, unit="image", desc=f"scale {scale}"
        ) as bar:
            loaded = self.load(rest, lambda sample: self._inputs(sample, scale), bar=bar)
            tested, wrong = 0, 0.0  # of this run: rows of earlier ones are not read again
            for group in grouped(loaded, self.group_images):
                indices = [sample.index for sample, _ in group]
                rows[indices] = self._predict([inputs for _, inputs in group])
                bar.update(len(group))
                if self.has_labels:
                    tested += len(group)
                    wrong += len(group) * topk_errors(rows[indices], self._truth[indices])[1]
                    bar.set_postfix(top1_error=f"{wrong / tested:.2f}", refresh=False)
        rows.flush()
        os.replace(partial, self._folder / f"{scale}.npy")
        return np.array(rows)

    def report(self, probabilities: list[np.ndarray]) -> Report:
        """Return the report of every scale's probabilities and write it to `scores.json`."""
        mean = np.mean(probabilities, axis=0)
        found = {}
        if self.has_labels:
            by_scale = zip(self.options.test_scales, map(self._errors, probabilities))
            found = {"scores": self._errors(mean), "scales": dict(by_scale)}
            names = tuple(sample.name for sample in self.samples)
            save_image_labels(self.options.output, ImageLabels(names, self._truth))
        return replace(self.write_scores(**found), submission=self._submission(mean))

    def _open_rows(self, partial: Path, complete: Path) -> np.memmap:
        """Return the file of a scale's rows, nan where an image is yet to be tested."""
        if complete.is_file():  # finished before; broken images are tried once more
            os.replace(complete, partial)
        shape = (len(self.samples), self.dataset.num_classes)
        if partial.is_file():
            try:  # read-only first: numpy fills up with zeros what it opens for writing
                rows = np.load(partial, mmap_mode="r")
            except DAMAGED_ARRAYS:  # cut short by a crash of the machine
                rows = None
            if rows is not None and (rows.shape, rows.dtype) == (shape, np.float32):
                return np.lib.format.open_memmap(partial, mode="r+")
        # Named only when it is filled: a run killed here must not leave zeros that look tested.
        fresh = partial.with_suffix(".new")
        rows = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.float32, shape=shape)
        rows[:] = np.nan
        os.replace(fresh, partial)
        return rows

    def _inputs(self, sample: Sample, scale: int) -> np.ndarray:
        """Return an image's (crops · flips, 3, side, side) float32 network inputs."""
        image = transforms.resize_shorter(
            self.load_sample(sample).image,
            scale,
            choose=self.options.choose_interp_method,
        )
        if self.options.test_10crops:
            crops = transforms.ten_crops(image, training_crop(self.label))
        elif self.options.test_3crops:
            crops = transforms.three_crops(image, scale)
        else:
            crops = [transforms.center_crop(image, scale)]
        normalized = [transforms.normalize(crop, self.normalization) for crop in crops]
        if self.options.test_flipping:
            normalized += [crop[:, :, ::-1] for crop in normalized]
        return np.stack(normalized)

    def _predict(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the (images, classes) mean probabilities over each image's inputs."""
        outputs = self.predict(chw for image in inputs for chw in image)
        return outputs.reshape(len(inputs), -1, self.dataset.num_classes).mean(axis=1)

    def _errors(self, probabilities: np.ndarray) -> dict[str, float]:
        """Return the errors in percent, by the names that they have in `scores.json`."""
        tested = ~_untested(probabilities)
        errors = topk_errors(probabilities[tested], self._truth[tested], ks=_RANKS)
        return {f"top{rank}_error": error for rank, error in errors.items()}

    def _checked_labels(self) -> np.ndarray:
        """Return the (N,) true classes, none where the split has no labels."""
        if not self.has_labels:
            return np.empty(0, int)
        for sample in self.samples:
            check_class(sample, self.dataset)
        return np.array([sample.label for sample in self.samples])

    def _submission(self, probabilities: np.ndarray) -> Submission | None:
        """Write five guesses a line, likeliest first, of a test split that is complete."""
        if not self.submission_is_due():
            return None
        best = likeliest(probabilities, num=max(_RANKS))
        return write_guesses(
            self.dataset,
            self.samples,
            self.options.output,
            guesses=np.array(self._class_ids)[best],
            are_numbered=self.options.class_ids is not None,
        )


def _untested(rows: np.ndarray) -> np.ndarray:
    """Return, (N,) bool, which rows are not probabilities, which add up to 1.

    They are nan, or what a crash of the machine left of them.
    """
    return ~(np.abs(rows.sum(axis=1) - 1) < 0.05)


def _read_class_ids(path: Path | None, num_classes: int) -> list[int]:
    if path is None:
        return list(range(1, num_classes + 1))
    fields = read_text(path).split()
    if len(fields) != num_classes or not all(field.isdecimal() for field in fields):
        raise InputError(
            f"--class-ids {path}: expected {num_classes} whole numbers, one a line, in the order "
            f"of the classes; found {len(fields)} fields"
        )
    if len(set(map(int, fields))) < len(fields):
        raise InputError(f"--class-ids {path}: expected different numbers, found one twice")
    return [int(field) for field in fields]

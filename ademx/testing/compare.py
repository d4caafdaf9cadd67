"""Two test runs beside each other: how far they are apart, how surely, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.errors import InputError
from ademx.forms import differing
from ademx.iteration import progress_bar
from ademx.metrics import MAIN_METRICS, better_direction
from ademx.testing.finished_runs import FinishedRun

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 95  # percent of the resamples lie inside the interval
FEW_IMAGES = 50  # with fewer, the interval is too narrow
_CITYSCAPES = ("mean_iiou", "mean_category_iou", "mean_category_iiou")
_CHUNK = 1 << 22  # entries of a matrix of weights, 32 MiB


@dataclass(frozen=True)
class Change:
    """A number of both runs, percent; nan where it is not known.

    Attributes:
        name: of the score, the class or the image.
        before: the first run's.
        after: the second run's.
    """

    name: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        """After minus before, in percent points."""
        return self.after - self.before

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**vars(self), "difference": self.difference}


@dataclass(frozen=True)
class ImageChange(Change):
    """An image's mean IoU over the classes in it or predicted for it; its class's probability.

    Attributes:
        predictions: of both runs: the paths of the label images, None where a run kept none, or
            the guessed classes.
        truth: the true class of an image that was classified.
    """

    predictions: tuple[str | None, str | None]
    truth: str | None


@dataclass(frozen=True)
class Interval:
    """Where the difference of a score lies, by :func:`bootstrap_differences`.

    Attributes:
        metric: the score, as `scores.json` calls it.
        low: the 2.5th percentile of the resamples' differences, percent points.
        high: the 97.5th.
        num_resamples: how many there were; one without any labelled pixel is not counted.
        num_better: in how many of them the second run is better.
        num_equal: in how many of them both are equal.
    """

    metric: str
    low: float
    high: float
    num_resamples: int
    num_better: int
    num_equal: int


@dataclass(frozen=True)
class Comparison:
    """Two runs on the images that both tested; the first is the baseline.

    Attributes:
        before: the first run.
        after: the second run.
        num_images: how many both tested.
        scores: over these images; Cityscapes' further ones too where both runs have them, of
            which nothing is kept for each image, and tested the same images.
        interval: of the difference of mean IoU or top-1 error.
        settings: what the runs did differently: name -> the first run's, the second run's.
        classes: IoU or top-1 error of those that moved most. One that only one run has, as it
            predicts it where it is not, comes first: it adds a 0 to the mean of that run alone.
        gained: images whose score rose most; of those classified, only with another guess.
        lost: images whose score fell most, likewise.
    """

    before: FinishedRun
    after: FinishedRun
    num_images: int
    scores: tuple[Change, ...]
    interval: Interval
    settings: dict[str, tuple[Any, Any]]
    classes: tuple[Change, ...]
    gained: tuple[ImageChange, ...]
    lost: tuple[ImageChange, ...]

    @property
    def num_left_out(self) -> tuple[int, int]:
        """Images that only the first run tested, and only the second."""
        first, second = len(self.before.names), len(self.after.names)
        return first - self.num_images, second - self.num_images

    def record(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "before": str(self.before.folder),
            "after": str(self.after.folder),
            "num_images": self.num_images,
            "num_left_out": dict(zip(("before", "after"), self.num_left_out)),
            "scores": [change.record() for change in self.scores],
            "interval": {"level": LEVEL, **vars(self.interval)},
            "settings": {
                name: {"before": before, "after": after}
                for name, (before, after) in self.settings.items()
            },
            **{
                name: [change.record() for change in getattr(self, name)]
                for name in ("classes", "gained", "lost")
            },
        }


def compare(
    before: FinishedRun,
    after: FinishedRun,
    *,
    resamples: int = 1000,
    seed: int = 0,
    top: int = 10,
) -> Comparison:
    """Return how a run differs from a baseline on the images that both tested.

    Images are the same if their names are; that their truth has as many pixels of each class, or
    is the same class, is checked. An image that one run could not read, or did not list, is left
    out of both.

    Args:
        before: the baseline.
        after: the run to hold against it.
        resamples: of the images, for the interval.
        seed: of the resamples; pairs of runs on the same images have the same ones.
        top: how many classes, images that gained and images that lost to name at most.

    Raises:
        ValueError: the runs cannot be compared; the message says why.
    """
    _check_comparable(before, after)
    one, other = _common_images(before, after)
    scores = [run.scores(run.counts.sum(axis=0)) for run in (one, other)]
    metric = MAIN_METRICS[one.task]
    differences = bootstrap_differences(
        one.counts,
        other.counts,
        lambda sums: one.scores(sums)[metric],
        resamples=resamples,
        seed=seed,
    )
    gained, lost = _moved_images(one, other, top=top)
    return Comparison(
        before=before,
        after=after,
        num_images=len(one.names),
        scores=(
            *(Change(name, *(run[name] for run in scores)) for name in scores[0]),
            *_cityscapes_changes(before, after, num_images=len(one.names)),
        ),
        interval=_interval(metric, differences),
        settings=_differing_settings(before, after),
        classes=_moved_classes(one, other, top=top),
        gained=gained,
        lost=lost,
    )


def bootstrap_differences(
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    score: Callable[[NDArray[np.float64]], float],
    *,
    resamples: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return by how much a score of sums differs between two runs, in resamples of the images.

    A resample draws as many images as there are, with replacement, the same for both runs; its
    score is that of its summed counts, not a mean of the images' scores. The percentiles of the
    differences are a paired bootstrap's interval.

    It assumes that the images, and not their pixels, are drawn independently of each other from
    all that the networks might meet: frames of one video are not, and make the interval too
    narrow. It assumes many: with a few dozen images, or where a class is in a handful of them, a
    percentile interval is too narrow too. And it speaks of the sampling of test images for two
    given networks: another training would move the scores as well, and it says nothing of that.

    Args:
        before: (N, …) whole numbers, what a run counted in each image.
        after: the same of the other run, images in the same order.
        score: of counts summed over images, (…) float64.
        resamples: how many; `default_rng(seed).integers(N, size=N)` draws each in turn.
        seed: of the draws.

    Returns:
        (resamples,) float64, the score of `after` minus that of `before`.

    Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.
    """
    num_images, shape = len(before), before.shape[1:]
    # Sums in float64 are exact and hence alike in any order: these are whole, below 2**53.
    counts = np.stack([before, after], axis=1).reshape(num_images, -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // num_images)
    differences = np.empty(resamples)
    with progress_bar(total=resamples, unit="resample") as bar:
        for start in range(0, resamples, rows):
            drawn = rng.integers(num_images, size=(min(rows, resamples - start), num_images))
            sums = _times_drawn(drawn) @ counts
            for index, (first, second) in enumerate(sums.reshape(-1, 2, *shape), start):
                differences[index] = score(second) - score(first)
            bar.update(len(drawn))
    return differences


def _times_drawn(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how often each row of draws, (R, N) images, has each image, (R, N)."""
    num_rows, num_images = drawn.shape
    places = drawn + num_images * np.arange(num_rows)[:, None]
    times = np.bincount(places.ravel(), minlength=drawn.size)
    return times.reshape(num_rows, num_images).astype(np.float64)


def _cityscapes_changes(
    before: FinishedRun, after: FinishedRun, *, num_images: int
) -> Iterator[Change]:
    if {len(before.names), len(after.names)} != {num_images}:
        return
    first, second = (run.record.cityscapes or {} for run in (before, after))
    for name in _CITYSCAPES:
        if None not in (first.get(name), second.get(name)):
            yield Change(name, first[name], second[name])


def _interval(metric: str, differences: NDArray[np.float64]) -> Interval:
    known = differences[~np.isnan(differences)]
    low, high = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2]).tolist()
    return Interval(
        metric,
        low,
        high,
        num_resamples=len(known),
        num_better=int((better_direction(metric) * known > 0).sum()),
        num_equal=int((known == 0).sum()),
    )


def _check_comparable(before: FinishedRun, after: FinishedRun) -> None:
    if before.folder.resolve() == after.folder.resolve():
        raise InputError(f"{after.folder}: the same folder twice: name two runs")
    if before.task != after.task:
        raise InputError(
            f"{after.folder}: a run of {after.task}, but {before.folder} is one of {before.task}: "
            "expected runs of one task"
        )
    one, other = before.record.dataset, after.record.dataset
    if one != other:
        raise InputError(
            f"{after.folder}: tested on {other}, but {before.folder} on {one}: expected runs on "
            "one dataset"
        )
    if before.class_names != after.class_names:
        raise InputError(
            f"{after.folder}: has other classes than {before.folder}: expected "
            f"{', '.join(before.class_names)}; found {', '.join(after.class_names)}"
        )
    rules = [run.record.absent_classes for run in (before, after)]
    if rules[0] != rules[1]:
        raise InputError(
            f"{after.folder}: counts absent classes by the rule {rules[1]!r}, but {before.folder} "
            f"by {rules[0]!r}: their means are not comparable; evaluate it again with --resume "
            f"--absent-classes {rules[0]}, which goes on from its label images"
        )


def _common_images(before: FinishedRun, after: FinishedRun) -> tuple[FinishedRun, FinishedRun]:
    """Return the runs with the images that both tested, in the first one's order."""
    indices = {name: index for index, name in enumerate(after.names)}
    kept = [index for index, name in enumerate(before.names) if name in indices]
    if len(kept) < 2:
        raise InputError(
            f"{after.folder}: {len(kept)} of its {len(after.names)} images are among the "
            f"{len(before.names)} of {before.folder}: expected runs on the same split, and at "
            "least two images in both"
        )
    one, other = before.subset(kept), after.subset([indices[before.names[index]] for index in kept])
    changed = (one.truth != other.truth).any(axis=1)
    if changed.any():
        raise InputError(
            f"{after.folder}: {int(changed.sum())} of {len(kept)} images have other labels than in "
            f"{before.folder}, {one.names[int(changed.argmax())]} for one: expected runs with the "
            "same truth; evaluate one of them again"
        )
    if one.task == "segmentation" and not one.truth.any():
        raise InputError(f"{after.folder}: no pixel of the images in both runs has a class")
    return one, other


def _differing_settings(before: FinishedRun, after: FinishedRun) -> dict[str, tuple[Any, Any]]:
    found = differing(_settings_of(before), _settings_of(after))
    # Of the samples the paths may differ where the images do not: these are compared one by one.
    found.pop("samples_md5", None)
    if "weights_md5" not in found:
        found.pop("weights", None)  # copies of one file
    return found


def _settings_of(run: FinishedRun) -> dict[str, Any]:
    """Return what a run did: its weights' files, its options, and on what it computed."""
    record = run.record
    versions = {f"version of {name}": version for name, version in record.versions.items()}
    return {
        "weights": [weights.file for weights in record.weights],
        **record.settings.as_json,
        "devices": record.devices,
        **versions,
    }


def _moved_classes(before: FinishedRun, after: FinishedRun, *, top: int) -> tuple[Change, ...]:
    """Return the classes whose score moved, the farthest first, those of one run before them."""
    scores = before.class_scores().tolist(), after.class_scores().tolist()
    changes = [Change(*row) for row in zip(before.class_names, *scores)]
    of_one = [change for change in changes if np.isnan([change.before, change.after]).sum() == 1]
    moved = [change for change in changes if abs(change.difference) > 0]
    moved.sort(key=lambda change: -abs(change.difference))
    return tuple([*of_one, *moved][:top])


def _moved_images(
    before: FinishedRun, after: FinishedRun, *, top: int
) -> tuple[tuple[ImageChange, ...], tuple[ImageChange, ...]]:
    """Return the images whose score rose, and those whose fell, the farthest first."""
    difference = np.nan_to_num(after.image_scores - before.image_scores)
    if before.guesses is not None:
        difference[before.guesses == after.guesses] = 0
    falling = [int(index) for index in np.argsort(difference, kind="stable")[:top]]
    rising = [int(index) for index in np.argsort(-difference, kind="stable")[:top]]
    lost = [index for index in falling if difference[index] < 0]
    gained = [index for index in rising if difference[index] > 0]

    def change(index: int) -> ImageChange:
        return ImageChange(
            before.names[index],
            float(before.image_scores[index]),
            float(after.image_scores[index]),
            predictions=(before.prediction(index), after.prediction(index)),
            truth=before.true_class(index),
        )

    return tuple(map(change, gained)), tuple(map(change, lost))

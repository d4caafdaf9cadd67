"""What to look at when a row's score is another one: known causes, each with a cheap test.

A test reads what the run left, some of the labels, or tests a handful of images in another way.
How likely a cause is, from 0 to 1, is how much of the difference it would explain; where that
cannot be told it is 1 for what is certain. From a quarter on a cause counts as found.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from ademx.errors import UserError
from ademx.forms import FLAG, NUMBER, TEXT, json_field
from ademx.iteration import progress_bar
from ademx.labels import parse_label
from ademx.metrics import segmentation_scores
from ademx.networks.graph import list_layers
from ademx.published import RELEASED_FILES
from ademx.reproduction.case import Case
from ademx.reproduction.retest import Way, crop_of
from ademx.testing.finished_runs import FinishedRun
from ademx.testing.options import ClassificationOptions
from ademx.text import one_line
from iters.datasets import VOID
from symbols.levels import POOL_GEOMETRIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

_FOUND = 0.25  # of the difference
_UNSURE = 0.2  # the likelihood of what may be chance
_SURE = 2.5  # standard errors of a mean of differences, image by image
_SMALLEST = 64  # pixels: networks that halve an image five times take hardly less
_LARGEST = 1024  # pixels: a larger image would need more memory than the test did
_DRAWS = 200  # of a bootstrap
_SHIFTS = (1, -1, 2, -2)
_WITH_BORDERS = ("voc",)  # every object in VOC's own labels has a void border


@dataclass(frozen=True)
class Finding:
    """What became of the test for one cause.

    Attributes:
        cause: what would make the score another one.
        made: whether the test could be made.
        likelihood: how much of the difference it explains, 0 to 1; 0 where no test was made.
        finding: what was looked at and what it showed, or why it was not looked at.
    """

    cause: str = json_field(TEXT)
    made: bool = json_field(FLAG)
    likelihood: float = json_field(NUMBER)
    finding: str = json_field(TEXT)

    @property
    def state(self) -> str:
        """One of "found", "not found" and "not looked at"."""
        if not self.made:
            return "not looked at"
        return "found" if self.likelihood >= _FOUND else "not found"

    @property
    def text(self) -> str:
        """All of it in a line."""
        return f"{self.cause}: {self.state}: {self.finding}"


class _Told(NamedTuple):
    """What a test tells: its finding and the likelihood, None where it was not made."""

    finding: str
    likelihood: float | None = 0.0


def diagnose(case: Case) -> tuple[Finding, ...]:
    """Return what the test for each cause showed, the most likely first.

    A test that fails, of damaged files for instance, is told as not made.
    """
    findings = []
    with progress_bar(total=len(CAUSES), unit="cause", desc="what to look at") as bar:
        for cause, test in CAUSES.items():
            bar.set_postfix_str(cause)
            findings.append(_finding(cause, test, case))
            bar.update()
    order = ("found", "not found", "not looked at")
    return tuple(sorted(findings, key=lambda one: (order.index(one.state), -one.likelihood)))


def _finding(cause: str, test: Callable[[Case], _Told], case: Case) -> Finding:
    try:
        told = test(case)
    # RuntimeError is what MXNet and PyTorch raise, of memory that does not suffice, say.
    except (UserError, OSError, RuntimeError) as error:
        _log.debug("%s", cause, exc_info=True)
        told = _Told(f"because the test failed: {one_line(error)}", None)
    made = told.likelihood is not None
    return Finding(cause, made, told.likelihood or 0.0, told.finding)


# ---- what files show ---------------------------------------------------------------------------


def _filled_borders(case: Case) -> _Told:
    """Look for void pixels in VOC's labels, which surround each of its objects."""
    if case.dataset.name not in _WITH_BORDERS:
        return _Told("because only VOC's labels have a void border around every object", None)
    filled = [path for path, stored in case.labels if VOID not in stored]
    void = 100 * float(np.mean([np.mean(stored == VOID) for _, stored in case.labels]))
    text = f"{len(filled)} of {len(case.labels)} labels have no pixel of {VOID}"
    if not filled:
        return _Told(f"{text}; {void:.1f} % of the pixels are void")
    told = f"{text}, as VOC's own have around every object: {filled[0]}"
    return _of_labels(case, told, len(filled))


def _aug_labels(case: Case) -> _Told:
    """Look whether VOC's labels are SBD's: by their folder, or as grey PNGs without void."""
    if case.dataset.name not in _WITH_BORDERS:
        return _Told("because SegmentationClassAug goes with VOC", None)
    named, grey = [], []
    for path, stored in case.labels:
        if "SegmentationClassAug" in (*path.parts, *path.resolve().parts):
            named.append(path)
        with Image.open(path) as image:
            if image.mode != "P" and VOID not in stored:
                grey.append(path)
    where = f"{len(named)} of {len(case.labels)} labels lie in a folder of this name"
    how = f"{len(grey)} are grey PNGs without void pixels, as SBD's labels are"
    if not named and not grey:
        return _Told(f"{where}, {how}")
    told = f"{where}, {how}: {(named or grey)[0]}"
    return _of_labels(case, told, max(len(named), len(grey)))


def _of_labels(case: Case, told: str, count: int) -> _Told:
    """Return what is told of labels of which so many are not VOC's own."""
    whole, inner = case.within_borders
    return _Told(
        f"{told}; mean IoU of {len(case.labels)} images {whole:.2f}, {inner:.2f} without the "
        "pixels near a border: take SegmentationClass of VOC's own archive",
        max(count / len(case.labels) * case.of_shortfall(inner - whole), _FOUND),
    )


def _other_weights(case: Case) -> _Told:
    digest = case.record.weights[0].md5
    names = [name for name, md5 in RELEASED_FILES.items() if md5 == digest]
    expected = f"{case.row.label}_ep-0001.params"
    if expected in names:
        return _Told(f"MD5 {digest} is that of the row's released file")
    if names:
        return _Told(f"MD5 {digest} is that of the released {names[0]}, not of {expected}", 1.0)
    return _Told(
        f"MD5 {digest} is that of no released file: weights that were trained anew, or changed; "
        "scores move from one training to the next"
    )


def _subset(case: Case) -> _Told:
    """Count the images, and draw as many from those that were tested to see how scores move."""
    known, names = case.dataset.splits.get(case.row.split), [str(one) for one in case.samples]
    found = len(set(names))
    twice = f", {len(names) - found} listed twice" if found < len(names) else ""
    if known is None:
        return _Told(f"because nobody published how many images {case.row.split} has", None)
    if found == known and not twice:
        return _Told(f"all {known:,} images of {case.row.split} were tested")
    error = _standard_error(case.run, case.metric)
    explained = 1.0 if abs(case.shortfall) <= _SURE * error else _SURE * error / abs(case.shortfall)
    return _Told(
        f"{found:,} images of the {known:,} of {case.row.split}{twice}; among so few the score "
        f"has a standard error of {error:.2f} points",
        max(_FOUND, explained),
    )


def _standard_error(run: FinishedRun, metric: str) -> float:
    """Return that of a score, by drawing as many images with replacement again and again."""
    random, count = np.random.default_rng(0), len(run.counts)
    scores = []
    for _ in range(_DRAWS):
        drawn = np.bincount(random.integers(0, count, count), minlength=count)
        scores.append(run.scores(np.tensordot(drawn, run.counts, 1))[metric])
    return float(np.std(scores))


def _resized(case: Case) -> str:
    """Return what images' sizes show of having been resized, or ""."""
    sizes = set(case.sizes)
    shorter, longer = {min(size) for size in sizes}, {max(size) for size in sizes}
    usual = {case.dataset.origin_size, *(case.dataset.max_shape or ())}
    for sides, name in ((shorter, "shorter"), (longer, "longer")):
        if len(sides) == 1 and len(sizes) > 1 and not sides & usual:
            return f"the {name} side of {len(case.sizes)} images is {min(sides)}: resized copies"
    if case.dataset.canvas == "image" and len(longer) == 1 and not longer & usual:
        return f"{len(case.sizes)} images are {_sizes_text(sizes)}: resized copies"
    return ""


def _cropped(case: Case) -> str:
    """Return what images' sizes show of having been cut, or ""."""
    sizes = set(case.sizes)
    if len(sizes) == 1 and case.dataset.canvas != "image":
        return f"{len(case.sizes)} images are all {_sizes_text(sizes)}: cut or squashed copies"
    return ""


def _with_sizes(case: Case, fault: str, told: _Told) -> _Told:
    """Return what the images' sizes say, a fault or "", before what testing again says."""
    count = len(set(case.sizes))
    text = f"{len(case.sizes)} images have {f'{count} sizes' if count > 1 else 'one size'}"
    if len(case.sizes) < 3:
        text, fault = "fewer than three images in files of their own", ""
    text = fault or text
    if told.likelihood is None:
        return _Told(text, 1.0 if fault else 0.0)
    return _Told(f"{text}; {told.finding}", 1.0 if fault else told.likelihood)


def _sizes_text(sizes: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{width}×{height}" for height, width in sorted(sizes))


# ---- what the run's counts show ----------------------------------------------------------------


def _shifted_ids(case: Case) -> _Told:
    """Score what was taken for what with the predictions' ids shifted."""
    own = _diagonal_score(case, 0)
    scores = {shift: _diagonal_score(case, shift) for shift in _SHIFTS}
    best = max(scores, key=lambda shift: scores[shift])
    what = "mean IoU" if case.is_segmentation else "top-1 accuracy"
    text = (
        f"from the confusion matrix: {what} {own:.2f} as it is, {scores[best]:.2f} with the "
        f"labels' ids {'raised' if best > 0 else 'lowered'} by {abs(best)}"
    )
    is_better = scores[best] > own
    return _Told(text, case.of_shortfall(scores[best] - own) if is_better else 0.0)


def _diagonal_score(case: Case, shift: int) -> float:
    """Return the score where a label's id c means the class c + shift, percent."""
    confusion = np.roll(case.confusion, -shift, axis=1)
    if case.is_segmentation:
        return segmentation_scores(confusion).mean_iou
    return 100.0 * float(np.trace(confusion)) / max(1, confusion.sum())


def _absent_classes(case: Case) -> _Told:
    """Score the same counts by the other rule for classes that are absent."""
    if not case.is_segmentation:
        return _Told("because a classifier's errors are no mean over classes", None)
    rule = case.record.absent_classes
    other = {"skip": "zero", "zero": "skip"}[rule]
    score = segmentation_scores(case.confusion, absent_classes=other).mean_iou
    missing = int((case.confusion.sum(axis=1) == 0).sum())
    text = f"{missing} classes have no pixel: mean IoU {case.ours['mean_iou']:.2f} by {rule!r}"
    published = case.row.values["mean_iou"]
    before, after = abs(published - case.ours["mean_iou"]), abs(published - score)
    nearer = max(0.0, 1 - after / before) if before else 0.0
    advice = f": `--absent-classes {other}`" if nearer >= _FOUND else ""
    return _Told(f"{text}, {score:.2f} by {other!r}{advice}", nearer)


# ---- what a handful of images shows ------------------------------------------------------------


def _compare(case: Case, ways: Mapping[str, Way]) -> _Told:
    """Test a handful of images in other ways, and tell of the best one.

    Args:
        case: the row.
        ways: what each is called -> how to test.
    """
    if case.shortfall <= 0:
        told = "ours is better than the published score, and what is done wrongly makes it worse"
        return _Told(f"because {told}", None)
    before = case.handful.scores()
    gains = {name: _gain(before, case.handful.scores(way)) for name, way in ways.items()}
    name = max(gains, key=lambda one: gains[one].points)
    what = "mean IoU" if case.is_segmentation else "top-1 accuracy"
    score, gain = float(np.nanmean(before[:, 0])), gains[name]
    text = (
        f"{len(before)} images tested again: {what} {score:.2f} as tested, "
        f"{score + gain.points:.2f} {name}"
    )
    explained = case.of_shortfall(gain.points)
    if explained >= _FOUND and not gain.is_sure:
        return _Told(f"{text}, which may be chance among so few", _UNSURE)
    return _Told(text, explained if gain.is_sure else 0.0)


class _Gain(NamedTuple):
    """How much better images become, points, and whether that is more than chance."""

    points: float
    is_sure: bool


def _gain(before: NDArray[np.float64], after: NDArray[np.float64]) -> _Gain:
    """Return the gain of two tests of the same images, of their (N, 2) scores."""
    differences = after - before
    differences = differences[~np.isnan(differences).any(axis=1)]
    if len(differences) < 2:
        return _Gain(0.0, False)
    means = differences.mean(axis=0)
    errors = differences.std(axis=0, ddof=1) / math.sqrt(len(differences))
    return _Gain(float(means[0]), bool((means > _SURE * errors).any()))


def _scale(case: Case) -> _Told:
    """Look at the images' sizes, and test at larger and smaller scales, on from the better one."""
    scale = max(case.options.test_scales)
    ways = {}
    for factors in ((1.5, 2.0), (0.75, 0.5)):
        for factor in factors:
            size, way = scale * factor, Way(scale=factor)
            is_possible = min(scale, _SMALLEST) <= size <= max(scale, _LARGEST)
            if case.shortfall <= 0 or not is_possible:
                break
            ways[f"at scale {round(size)}"] = way
            if _gain(case.handful.scores(), case.handful.scores(way)).points <= 0:
                break
    return _with_sizes(case, _resized(case), _compare(case, ways))


def _crop(case: Case) -> _Told:
    if not isinstance(case.options, ClassificationOptions):
        told = _Told("a whole image is tested, so that none is cut here")
        return _with_sizes(case, _cropped(case), told)
    own = crop_of(case.options)
    names = {"centre": "with the centre crop", "three": "with three crops"}
    if own == "centre":
        names["zoomed"] = "cut from 8/7 of the size"
    ways = {name: Way(crop=crop) for crop, name in names.items() if crop != own}
    ways["squashed to a square"] = Way(crop="squashed")
    return _with_sizes(case, _cropped(case), _compare(case, ways))


def _filter(case: Case) -> _Told:
    chosen = case.options.choose_interp_method
    name = "resized by bicubic always" if chosen else "resized by a filter chosen by the sizes"
    return _compare(case, {name: Way(other_filter=True)})


def _colours(case: Case) -> _Told:
    return _compare(
        case,
        {
            "with red and blue exchanged": Way(is_bgr=True),
            "normalised as the other family is": Way(other_normalization=True),
            "both": Way(is_bgr=True, other_normalization=True),
        },
    )


def _pooling(case: Case) -> _Told:
    label = parse_label(case.options.model or case.options.weights[0])
    if not any(layer.kind == "max_pool" for layer in list_layers(label)):
        return _Told(f"because {label.network} has no max pooling", None)
    others = [pool for pool in POOL_GEOMETRIES if pool != case.options.pool]
    return _compare(case, {f"by `--pool {pool}`": Way(pool=pool) for pool in others})


# In the order in which they are told where none is more likely than another.
CAUSES: dict[str, Callable[[Case], _Told]] = {
    "weights of another row": _other_weights,
    "a subset of the images": _subset,
    "SegmentationClassAug as val": _aug_labels,
    "labels with filled borders": _filled_borders,
    "class ids shifted by one": _shifted_ids,
    "absent classes": _absent_classes,
    "RGB and BGR or the normalisation mixed up": _colours,
    "another scale": _scale,
    "another crop": _crop,
    "another filter": _filter,
    "another pooling geometry": _pooling,
}

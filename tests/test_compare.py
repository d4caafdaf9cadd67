"""`ademx compare`: scores, bootstrap intervals and what moved, against plain loops and scipy."""

import copy
import dataclasses
import json
import shutil
from collections import Counter
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from commands import make_runner
from narrow import ILSVRC, VOC, write_weights
from PIL import Image
from scenes import voc_scene
from scipy import stats

from ademx.cli import main
from ademx.metrics import topk_errors
from ademx.testing import compare as comparing
from ademx.testing.compare import bootstrap_differences, compare
from ademx.testing.finished_runs import load_run
from ademx.testing.image_counts import (
    ImageCounts,
    ImageLabels,
    save_image_counts,
    save_image_labels,
)

# ---- runs that are written down, not computed --------------------------------------------------


def write_run(
    folder: Path,
    counts,
    *,
    names=None,
    classes=None,
    rule="skip",
    dataset="voc",
    weights="w.params",
    versions=None,
    further=None,
    **settings,
) -> Path:
    """Write a segmentation run of such (N, 3, C) counts, as `ademx evaluate` would."""
    counts = np.asarray(counts)
    names = [f"image{index}" for index in range(len(counts))] if names is None else names
    classes = [f"class{index}" for index in range(counts.shape[2])] if classes is None else classes
    folder.mkdir(parents=True)
    pixel_accuracy, mean_accuracy, ious = plain_scores(counts.sum(axis=0), rule)
    record = {
        "pixel_accuracy": pixel_accuracy,
        "mean_accuracy": mean_accuracy,
        "mean_iou": float(np.nanmean(ious)),
        "class_iou": dict(zip(classes, [None if iou != iou else iou for iou in ious])),
        "absent_classes": rule,
        **({"cityscapes": further} if further else {}),
        **shared_record("segmentation", dataset, weights, versions, settings),
    }
    (folder / "scores.json").write_text(json.dumps(record))
    save_image_counts(folder, ImageCounts(tuple(names), counts))
    return folder


def shared_record(task, dataset, weights, versions, settings) -> dict:
    settings = {
        "command": f"evaluate {task}",
        "weights_md5": [f"md5 of {weights}"],
        "dataset": dataset,
        "split": "val",
        **settings,
    }
    return {
        "dataset": dataset,
        "weights": [{"file": weights, "md5": f"md5 of {weights}"}],
        "settings": settings,
        "devices": ["cpu(0)"],
        "versions": versions or {"numpy": "1.26.4"},
    }


def write_classification_run(folder: Path, rows, labels, *, names=None, **settings) -> Path:
    """Write a classification run of such rows of probabilities, {scale: (N, C)}."""
    (folder / "predictions").mkdir(parents=True)
    for scale, values in rows.items():
        np.save(folder / "predictions" / f"{scale}.npy", np.array(values, np.float32))
    mean = np.mean([np.array(values, np.float32) for values in rows.values()], axis=0)
    tested = ~np.isnan(mean).any(axis=1)
    errors = topk_errors(mean[tested], np.array(labels)[tested])
    settings = {"test_scales": list(rows), **settings}
    record = {
        **{f"top{rank}_error": error for rank, error in errors.items()},
        **shared_record("classification", "places", "w.params", None, settings),
    }
    (folder / "scores.json").write_text(json.dumps(record))
    names = names or [f"image{index}" for index in range(len(labels))]
    save_image_labels(folder, ImageLabels(tuple(names), np.array(labels)))
    return folder


def plain_scores(sums, rule):
    """Return pixel accuracy, mean accuracy and class IoUs (nan: not counted), in plain Python."""
    correct, truth, predicted = (list(map(int, row)) for row in sums)
    accuracies, ious = [], []
    for right, true, found in zip(correct, truth, predicted):
        if rule == "zero" and true == 0:
            accuracies.append(0.0)
            ious.append(0.0)
            continue
        union = true + found - right
        accuracies.append(100 * right / true if true else float("nan"))
        ious.append(100 * right / union if union else float("nan"))
    return 100 * sum(correct) / sum(truth), float(np.nanmean(accuracies)), ious


def random_counts(num_images, num_classes, *, seed, truth=None, skill=0.6):
    """Return (N, 3, C) counts of 60 pixels an image; some classes are rare, the last is absent."""
    rng = np.random.default_rng(seed)
    shares = np.append(1 / np.arange(1, num_classes) ** 1.5, 0)
    if truth is None:
        truth = rng.multinomial(60, shares / shares.sum(), size=num_images)
    correct = rng.binomial(truth, rng.beta(6 * skill, 6 * (1 - skill), size=truth.shape))
    wrong = truth.sum(axis=1) - correct.sum(axis=1)
    found = correct + rng.multinomial(wrong, shares / shares.sum())
    return np.stack([correct, truth, found], axis=1)


def pair_of_counts(num_images, num_classes, *, seed):
    before = random_counts(num_images, num_classes, seed=seed)
    after = random_counts(num_images, num_classes, seed=seed + 1, truth=before[:, 1], skill=0.65)
    return before, after


def plain_mean_iou(sums, rule="skip"):
    return float(np.nanmean(plain_scores(sums, rule)[2]))


# ---- by hand -----------------------------------------------------------------------------------

# Three images, two classes; correct, truth, predicted.
BEFORE = [[[2, 2], [2, 2], [2, 2]], [[2, 0], [4, 0], [2, 2]], [[0, 3], [0, 4], [1, 3]]]
AFTER = [[[1, 2], [2, 2], [1, 3]], [[4, 0], [4, 0], [4, 0]], [[0, 3], [0, 4], [1, 3]]]


@pytest.fixture
def by_hand(tmp_path):
    before = write_run(tmp_path / "before", BEFORE, classes=["sky", "sea"])
    after = write_run(tmp_path / "after", AFTER, classes=["sky", "sea"])
    return compare(load_run(before), load_run(after))


def test_scores_by_hand(by_hand):
    # Before: correct 4, 5 of 6, 6, predicted 5, 7: IoU 4/7, 5/8. After: correct 5, 5 of 6, 6,
    # predicted 6, 6: IoU 5/7 both.
    scores = {change.name: (change.before, change.after) for change in by_hand.scores}
    assert scores["pixel_accuracy"] == pytest.approx((900 / 12, 1000 / 12))
    assert scores["mean_accuracy"] == pytest.approx((75, 500 / 6))
    assert scores["mean_iou"] == pytest.approx((6700 / 112, 500 / 7))
    assert by_hand.scores[2].difference == pytest.approx(1300 / 112)
    moved = [(change.name, change.difference) for change in by_hand.classes]
    assert moved == [("sky", pytest.approx(100 / 7)), ("sea", pytest.approx(500 / 56))]


def test_images_that_moved_by_hand(by_hand):
    # image0: 100 → mean of 1/2 and 2/3. image1: mean of 2/4 and 0/2 → 100, sea is gone.
    gained, lost = by_hand.gained, by_hand.lost
    assert [(one.name, one.before, one.after) for one in gained] == [("image1", 25.0, 100.0)]
    assert [one.name for one in lost] == ["image0"]
    assert (lost[0].before, lost[0].after) == pytest.approx((100, 700 / 12))
    assert lost[0].difference == pytest.approx(-500 / 12)
    assert gained[0].predictions == (None, None)  # no label images were kept


def exact_differences():
    """Return how often each difference of mean IoU comes of the 27 draws of three images."""
    outcomes = Counter()
    for draw in product(range(3), repeat=3):
        means = []
        for counts in (BEFORE, AFTER):
            sums = np.sum([counts[index] for index in draw], axis=0).tolist()
            ious = [
                Fraction(right, true + found - right)
                for right, true, found in zip(*sums)
                if true + found - right
            ]
            means.append(sum(ious) / len(ious))
        outcomes[100 * (means[1] - means[0])] += 1
    return outcomes


def test_resamples_have_the_exact_distribution():
    exact = exact_differences()
    resamples = 5000
    found = bootstrap_differences(
        np.array(BEFORE), np.array(AFTER), plain_mean_iou, resamples=resamples, seed=3
    )
    counted = Counter(np.round(found, 9))
    assert set(counted) == {round(float(value), 9) for value in exact}
    assert len(exact) == 9
    for value, ways in exact.items():
        share = ways / 27
        deviation = (share * (1 - share) / resamples) ** 0.5
        assert counted[round(float(value), 9)] / resamples == pytest.approx(
            share, abs=4.5 * deviation
        )


# ---- the bootstrap -----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["skip", "zero"])
@pytest.mark.parametrize("chunk", [1, 100, 1 << 22])
def test_interval_is_that_of_a_plain_loop_with_the_same_draws(tmp_path, monkeypatch, rule, chunk):
    monkeypatch.setattr(comparing, "_CHUNK", chunk)
    before, after = pair_of_counts(17, 6, seed=2)
    runs = [
        load_run(write_run(tmp_path / name, counts, rule=rule))
        for name, counts in (("before", before), ("after", after))
    ]
    interval = compare(*runs, resamples=300, seed=5).interval

    rng = np.random.default_rng(5)
    differences = []
    for _ in range(300):
        drawn = rng.integers(17, size=17)
        one = plain_mean_iou(sum(before[index] for index in drawn), rule)
        other = plain_mean_iou(sum(after[index] for index in drawn), rule)
        differences.append(other - one)
    differences.sort()
    # Of 300 sorted values, the place of the 2.5th percentile is 0.025 · 299 = 7.475.
    low = differences[7] + 0.475 * (differences[8] - differences[7])
    high = differences[291] + 0.525 * (differences[292] - differences[291])
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9)
    assert interval.num_better == sum(value > 1e-9 for value in differences)
    assert interval.num_equal == sum(abs(value) <= 1e-9 for value in differences)
    assert (interval.num_resamples, interval.metric) == (300, "mean_iou")
    assert 0 < interval.num_better < 300


def test_interval_agrees_with_scipy(tmp_path):
    resamples, (before, after) = 4000, pair_of_counts(80, 6, seed=20)

    def difference(places):
        one, other = (plain_mean_iou(counts[places].sum(axis=0)) for counts in (before, after))
        return other - one

    result = stats.bootstrap(
        (np.arange(80),),
        difference,
        vectorized=False,
        n_resamples=resamples,
        confidence_level=0.95,
        method="percentile",
        random_state=np.random.default_rng(1),
    )
    runs = [
        load_run(write_run(tmp_path / name, counts))
        for name, counts in (("before", before), ("after", after))
    ]
    ours = compare(*runs, resamples=resamples, seed=0).interval
    # A percentile p of R values of a normal distribution has the standard error
    # √(p(1 − p)/R) / φ(z): 2.67 standard deviations over √R here, and √2 of it for two of them.
    tolerance = 4 * 2**0.5 * 2.67 * result.standard_error / resamples**0.5
    assert tolerance < 0.3 * result.standard_error
    expected = result.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=tolerance)


def test_ninety_five_percent_of_the_intervals_hold_the_true_difference():
    before, after = pair_of_counts(20000, 4, seed=30)

    def score(sums):
        correct, truth, predicted = sums[:, :3]
        return float(np.mean(100 * correct / (truth + predicted - correct)))

    true_difference = score(after.sum(axis=0)) - score(before.sum(axis=0))
    rng = np.random.default_rng(0)
    trials, held = 200, 0
    for trial in range(trials):
        drawn = rng.integers(len(before), size=100)
        differences = bootstrap_differences(
            before[drawn], after[drawn], score, resamples=200, seed=trial
        )
        low, high = np.percentile(differences, [2.5, 97.5])
        held += low <= true_difference <= high
    # A right interval holds it in 95 ± 1.5 % of 200 trials (one standard deviation); one that
    # did not pair the images, or took pixels for the unit, would be far off.
    assert 0.90 <= held / trials <= 0.99


def test_pairing_makes_the_interval_narrow(tmp_path):
    """Both runs find the same images hard; what they differ in is the same for all."""
    before = random_counts(60, 4, seed=7)
    after = before.copy()
    after[:, 0, 0] = np.minimum(after[:, 0, 0] + 1, after[:, 1, 0])
    after[:, 2] += after[:, 0] - before[:, 0]
    interval = compare(
        load_run(write_run(tmp_path / "before", before)),
        load_run(write_run(tmp_path / "after", after)),
    ).interval
    rng = np.random.default_rng(1)
    unpaired = []
    for _ in range(300):
        one, other = (
            plain_mean_iou(counts[rng.integers(60, size=60)].sum(axis=0))
            for counts in (before, after)
        )
        unpaired.append(other - one)
    low, high = np.percentile(unpaired, [2.5, 97.5])
    assert interval.high - interval.low < 0.2 * (high - low)
    assert interval.low > 0 > low
    assert interval.num_better == interval.num_resamples


def test_runs_that_found_the_same_differ_nowhere(tmp_path):
    counts = random_counts(9, 4, seed=1)
    runs = [load_run(write_run(tmp_path / name, counts)) for name in "ab"]
    result = compare(*runs)
    interval = result.interval
    assert (interval.low, interval.high) == (0, 0)
    assert (interval.num_better, interval.num_equal) == (0, 1000)
    assert result.classes == result.gained == result.lost == ()


def test_resamples_without_a_labelled_pixel_do_not_count(tmp_path):
    void = np.zeros((3, 2), int)
    runs = [
        load_run(write_run(tmp_path / name, [counts, void]))
        for name, counts in (("before", BEFORE[1]), ("after", AFTER[1]))
    ]
    result = compare(*runs, resamples=400, seed=9)
    rng = np.random.default_rng(9)
    num_void = sum(rng.integers(2, size=2).sum() == 2 for _ in range(400))
    assert num_void > 0
    assert result.interval.num_resamples == 400 - num_void
    assert (result.interval.low, result.interval.high) == (75, 75)
    assert [image.name for image in result.gained] == ["image0"]


def test_the_seed_decides(tmp_path):
    runs = [
        load_run(write_run(tmp_path / name, counts))
        for name, counts in zip(("before", "after"), pair_of_counts(12, 4, seed=4))
    ]
    one, same, other = (compare(*runs, seed=seed).interval for seed in (1, 1, 2))
    assert one == same != other


# ---- what moved, and which images --------------------------------------------------------------


def test_a_class_that_one_run_alone_has_comes_first(tmp_path):
    before = [[[3, 0, 0], [4, 4, 0], [3, 4, 1]], [[1, 4, 0], [4, 4, 0], [4, 4, 0]]]
    after = [[[4, 3, 0], [4, 4, 0], [5, 3, 0]], [[1, 4, 0], [4, 4, 0], [4, 4, 0]]]
    runs = [
        load_run(write_run(tmp_path / name, counts))
        for name, counts in (("before", before), ("after", after))
    ]
    classes = compare(*runs).classes
    assert [change.name for change in classes] == ["class2", "class1", "class0"]
    # class1 falls from 8/8 to 7/8, class0 rises from 4/11 to 5/12.
    assert classes[0].before == 0
    assert np.isnan([classes[0].after, classes[0].difference]).all()
    assert [change.name for change in compare(*runs, top=2).classes] == ["class2", "class1"]


def test_images_are_found_by_their_names(tmp_path):
    before, after = pair_of_counts(8, 4, seed=6)
    names = list("abcdefgh")
    shuffled = [7, 2, 0, 5, 4]  # of those in the first run, with one more in their midst
    second = np.insert(after[shuffled], 2, after[0][:, ::-1], axis=0)
    one = write_run(tmp_path / "one", before[:6], names=names[:6])
    other = write_run(tmp_path / "other", second, names=["h", "c", "new", "a", "f", "e"])
    result = compare(load_run(one), load_run(other), seed=8)

    common = [0, 2, 4, 5]
    expected = compare(
        load_run(write_run(tmp_path / "x", before[common], names=list("acef"))),
        load_run(write_run(tmp_path / "y", after[common], names=list("acef"))),
        seed=8,
    )
    assert (result.num_images, result.num_left_out) == (4, (2, 2))
    assert result.scores == expected.scores
    assert result.interval == expected.interval
    assert (result.gained, result.lost) == (expected.gained, expected.lost)
    assert {image.name for image in (*result.gained, *result.lost)} == set("acef")


def test_settings_that_differ(tmp_path):
    before = write_run(tmp_path / "a", BEFORE, scales=[1], samples_md5="1", flip=False, steps=1)
    after = write_run(
        tmp_path / "b",
        AFTER,
        weights="v.params",
        versions={"numpy": "1.23.0"},
        scales=[1],
        samples_md5="2",
        flip=True,
        crf={"steps": 5},
    )
    assert compare(load_run(before), load_run(after)).settings == {
        "weights": (["w.params"], ["v.params"]),
        "weights_md5": (["md5 of w.params"], ["md5 of v.params"]),
        "flip": (False, True),
        "steps": (1, None),
        "version of numpy": ("1.26.4", "1.23.0"),
        "crf": (None, {"steps": 5}),
    }


def test_a_copy_of_the_weights_is_no_difference(tmp_path):
    runs = [write_run(tmp_path / name, BEFORE) for name in "ab"]
    path = runs[1] / "scores.json"
    path.write_text(path.read_text().replace('"file": "w.params"', '"file": "copy/w.params"'))
    assert compare(*map(load_run, runs)).settings == {}


# ---- classification ----------------------------------------------------------------------------

LABELS = [0, 1, 2, 6, 4]
ROWS_BEFORE = np.full((5, 7), 0.05)
ROWS_BEFORE[[0, 1, 2, 3, 4], [0, 2, 2, 0, 4]] = 0.7  # wrong: image1, image3
ROWS_AFTER = np.full((5, 7), 0.05)
ROWS_AFTER[[0, 1, 2, 3, 4], [1, 1, 2, 3, 4]] = [0.7, 0.7, 0.6, 0.7, 0.7]  # wrong: image0, image3
ROWS_AFTER[2, 3] = 0.15
ROWS_AFTER[0, 0] = 0.04  # sixth and last but for a tie


@pytest.fixture
def classified(tmp_path):
    before = write_classification_run(tmp_path / "before", {224: ROWS_BEFORE}, LABELS)
    after = write_classification_run(tmp_path / "after", {224: ROWS_AFTER}, LABELS)
    return compare(load_run(before), load_run(after), top=5)


def test_errors_by_hand(classified):
    scores = {change.name: (change.before, change.after) for change in classified.scores}
    # Of equals the higher index ranks first. image1's class 1 has 2, 6, 5, 4, 3 before it; image3's
    # class 6 follows the guess at once.
    assert scores == {"top1_error": (40, 40), "top5_error": (20, 20)}
    assert [(change.name, change.before, change.after) for change in classified.classes] == [
        ("class 0", 0, 100),
        ("class 1", 100, 0),
    ]


def test_images_whose_guess_changed(classified):
    assert [(image.name, image.predictions, image.truth) for image in classified.gained] == [
        ("image1", ("class 2", "class 1"), "class 1")
    ]
    assert [(image.name, image.predictions, image.truth) for image in classified.lost] == [
        ("image0", ("class 0", "class 1"), "class 0")
    ]
    assert classified.gained[0].difference == pytest.approx(65)
    # image2 keeps its guess and image3 its probability: neither is named.


def test_interval_of_errors(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(7), size=(2, 40))
    labels = rng.integers(7, size=40)
    runs = [
        load_run(write_classification_run(tmp_path / name, {224: values}, labels))
        for name, values in zip("ab", rows)
    ]
    interval = compare(*runs, resamples=500, seed=3).interval
    wrong = (rows.argmax(axis=2) != labels).astype(float)
    draws = np.random.default_rng(3)
    differences = []
    for _ in range(500):
        drawn = draws.integers(40, size=40)
        differences.append(100 * (wrong[1][drawn].mean() - wrong[0][drawn].mean()))
    assert (interval.low, interval.high) == pytest.approx(np.percentile(differences, [2.5, 97.5]))
    assert interval.num_better == np.sum(np.array(differences) < -1e-9)  # fewer errors
    assert interval.num_equal == np.sum(np.abs(differences) < 1e-9)
    assert interval.metric == "top1_error"


def test_scales_are_averaged_and_broken_images_left_out(tmp_path):
    rng = np.random.default_rng(1)
    rows = {scale: rng.dirichlet(np.ones(7), size=5) for scale in (224, 256, 320)}
    rows[256][3] = np.nan
    run = load_run(write_classification_run(tmp_path / "run", rows, LABELS))
    assert run.names == ("image0", "image1", "image2", "image4")
    mean = np.mean([values[[0, 1, 2, 4]] for values in rows.values()], axis=0)
    assert run.guesses.tolist() == mean.argmax(axis=1).tolist()
    expected = 100 * mean[range(4), [0, 1, 2, 4]]
    np.testing.assert_allclose(run.image_scores, expected, rtol=1e-6)


def test_of_equally_likely_classes_the_guess_is_the_one_that_the_errors_take(tmp_path):
    rows, labels = [[0.4, 0.4, 0.2, 0, 0, 0, 0]] * 2, [1, 0]
    run = load_run(write_classification_run(tmp_path / "run", {224: rows}, labels))
    assert run.guesses.tolist() == [1, 1]
    assert run.counts[:, 0].tolist() == [0, 1]  # wrong


# ---- refusals ----------------------------------------------------------------------------------


def refuse(match, *folders):
    with pytest.raises(ValueError, match=match):
        compare(*map(load_run, folders))


def test_runs_that_cannot_be_compared(tmp_path):
    base = write_run(tmp_path / "base", BEFORE)

    def other(name, counts=AFTER, **options):
        return write_run(tmp_path / name, counts, **options)

    refuse("base: the same folder twice", base, tmp_path / "base" / ".." / "base")
    refuse("tested on coco20, but .*base on voc", base, other("a", dataset="coco20"))
    refuse("other classes than .*sky, sea", base, other("b", classes=["sky", "sea"]))
    refuse("other classes", base, other("c", np.pad(AFTER, [(0, 0), (0, 0), (0, 1)])))
    refuse("'zero', but .* by 'skip'.*--resume", base, other("d", rule="zero"))
    refuse("0 of its 3 images are among the 3", base, other("e", names=["x", "y", "z"]))
    refuse("1 of its 3 images .* at least two", base, other("f", names=["x", "y", "image1"]))
    relabelled = np.array(AFTER)
    relabelled[1, 1:] = [[3, 1], [4, 0]]
    relabelled[1, 0] = [3, 0]
    refuse("1 of 3 images have other labels than in .*image1 for one", base, other("g", relabelled))
    classified = write_classification_run(tmp_path / "h", {224: ROWS_AFTER}, LABELS)
    refuse("h: a run of classification, but .*base is one of segmentation", base, classified)
    refuse("a run of segmentation, but", classified, base)


def test_common_images_without_a_labelled_pixel_are_refused(tmp_path):
    folders = []
    for name, other in (("a", "x"), ("b", "y")):
        counts = [[[0, 0]] * 3, [[0, 0]] * 3, BEFORE[0]]
        folders.append(write_run(tmp_path / name, counts, names=["v", "w", other]))
    refuse("b: no pixel of the images in both runs has a class", *folders)


def test_folders_that_are_no_finished_run_with_labels(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/scores\.json: .*the --output folder of"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"not finished: go on with it by --resume"):
        load_run(tmp_path)
    (tmp_path / "own_val").mkdir()
    (tmp_path / "own_val" / "scores.json").touch()
    with pytest.raises(FileNotFoundError, match=r"a training's folder; its last test is .*own_val"):
        load_run(tmp_path)
    for text in ("{", "[]", "{}", '{"settings": {"command": "train"}}', '{"settings": []}'):
        (tmp_path / "scores.json").write_text(text)
        with pytest.raises(ValueError, match=r"scores\.json: not what `ademx evaluate` writes"):
            load_run(tmp_path)
    record = shared_record("segmentation", "voc", "w.params", None, {"split": "test"})
    (tmp_path / "scores.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="split 'test' was tested without labels"):
        load_run(tmp_path)
    run = write_run(tmp_path / "old", BEFORE)
    (run / "images.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"images\.npz: no such file: .*--resume"):
        load_run(run)
    save_image_counts(run, ImageCounts(("a", "b", "c"), np.array(AFTER)))
    with pytest.raises(ValueError, match=r"images\.npz and scores\.json are not of the same run"):
        load_run(run)


def places_in(value, path=()):
    """Yield the path to every part of a JSON value."""
    yield path
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield from places_in(value[key], (*path, key))


def changed(record, path, value):
    """Return a copy of a JSON value with another one at a path; without that part for ..."""
    if not path:
        return value
    record = copy.deepcopy(record)
    *outer, last = path
    part = record
    for key in outer:
        part = part[key]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return record


def test_whatever_a_score_file_was_changed_to_there_is_no_other_error(tmp_path):
    """Every part is left out, and replaced by every kind of JSON value."""
    one = write_run(tmp_path / "one", BEFORE, classes=["a", "b"], names=["x", "y", "z"])
    other = write_classification_run(tmp_path / "other", {224: ROWS_AFTER}, LABELS)
    for run in (one, other):
        path = run / "scores.json"
        record = json.loads(path.read_text())
        extra = {
            "confusion": np.zeros((2, 2), int).tolist(),
            "broken": [{"image": "i", "error": "e"}],
            "published": {"mean_iou": 1.5, "decimals": 1},
            "scales": {"224": {"top1_error": 1.5}},
        }
        for name, value in extra.items():
            record.setdefault(name, value)
        refused = 0
        whole = load_run(run)
        for place in places_in(record):
            for value in (..., None, "x", [], {}, ["x"], {"x": None}, -1, 10**30, 1e30, True):
                if value is ... and not place:
                    continue
                path.write_text(json.dumps(changed(record, place, value)))
                try:
                    found = load_run(run)
                    found.class_scores()
                    compare(dataclasses.replace(whole, folder=tmp_path), found, resamples=1)
                except (ValueError, FileNotFoundError) as error:
                    refused += 1
                    assert str(run) in str(error)
        assert refused > 100
    for text in ("[" * 100_000, '{"a": 1e400}', "\udcff", "1" * 5000):
        path.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(ValueError, match=r"scores\.json: not what `ademx evaluate` writes"):
            load_run(run)


def test_damaged_predictions_are_named(tmp_path):
    run = write_classification_run(tmp_path / "run", {224: ROWS_AFTER}, LABELS)
    path = run / "predictions" / "224.npy"
    np.save(path, ROWS_AFTER[:4])
    with pytest.raises(ValueError, match="run: 4 rows of predictions for 5 images"):
        load_run(run)
    whole = path.read_bytes()
    for content in (b"", whole[:90], whole.replace(b"{", b"[", 1), b"\x93NUMPY\x01\x00\xff\xff"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"224\.npy: not what `ademx evaluate` wrote"):
            load_run(run)
    np.save(path, np.full((5, 4), "x"))
    with pytest.raises(ValueError, match=r"224\.npy: not what `ademx evaluate` wrote"):
        load_run(run)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"224\.npy"):
        load_run(run)


# ---- the command -------------------------------------------------------------------------------


def invoke(*arguments: object):
    result = make_runner().invoke(main, ["compare", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def row(stdout: str, name: str) -> list[str]:
    """Return the fields of the one line that begins so."""
    (line,) = [line for line in stdout.splitlines() if line.startswith(name)]
    return line[len(name) :].split()


def test_command_prints_and_writes_all_of_it(tmp_path):
    before = write_run(tmp_path / "before", BEFORE, classes=["sky", "sea"], flip=False)
    after = write_run(tmp_path / "after", AFTER, classes=["sky", "sea"], flip=True)
    (before / "labels").mkdir()
    (before / "labels" / "image1.png").touch()
    file = tmp_path / "out.json"
    result = invoke(before, after, "--json", file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert row(result.stdout, "images:") == ["3"]
    assert "bootstrap interval of the difference of mean_iou" in result.stdout
    assert "(too narrow, as are all from fewer than 50 images: here 3)" in result.stdout
    assert row(result.stdout, "mean_iou") == ["59.82", "71.43", "+11.61"]
    assert row(result.stdout, "  flip:") == ["false", "→", "true"]
    assert row(result.stdout, "sky") == ["57.14", "71.43", "+14.29"]
    path = str(before / "labels" / "image1.png")
    assert row(result.stdout, "image1") == ["25.00", "100.00", "+75.00", path, "–"]
    assert row(result.stdout, "image0") == ["100.00", "58.33", "-41.67", "–", "–"]

    written = json.loads(file.read_text(), parse_constant=pytest.fail)
    (comparison,) = written["comparisons"]
    interval = comparison["interval"]
    assert f"{interval['low']:+.2f} to {interval['high']:+.2f}" in result.stdout
    better, equal = interval["num_better"], interval["num_equal"]
    assert f"(after is better in {better} and equal in {equal} of 1000 resamples" in result.stdout
    assert written["seed"] == 0
    assert comparison["num_left_out"] == {"before": 0, "after": 0}
    assert comparison["settings"] == {"flip": {"before": False, "after": True}}
    assert [score["name"] for score in comparison["scores"]][2] == "mean_iou"
    assert comparison["scores"][2]["difference"] == pytest.approx(1300 / 112)
    assert comparison["gained"][0]["predictions"] == [path, None]
    assert comparison["lost"][0]["name"] == "image0"

    assert invoke(before, after, "--json", file).exit_code == 1
    assert "--overwrite" in invoke(before, after, "--json", file).stderr
    assert invoke(before, after, "--json", file, "--overwrite").exit_code == 0


def test_each_further_run_is_held_against_the_first(tmp_path):
    runs = [
        write_run(tmp_path / name, counts)
        for name, counts in (("a", BEFORE), ("b", AFTER), ("c", AFTER))
    ]
    result = invoke(*runs, "--json", tmp_path / "out.json")
    assert [
        line for line in result.stdout.splitlines() if line.startswith(("before:", "after:"))
    ] == [
        f"before: {runs[0]}",
        f"after:  {runs[1]}",
        f"before: {runs[0]}",
        f"after:  {runs[2]}",
    ]
    one, other = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    assert one["interval"] == other["interval"]


def test_fifty_images_are_enough_for_an_interval(tmp_path):
    pair = pair_of_counts(50, 3, seed=0)
    runs = [write_run(tmp_path / name, counts) for name, counts in zip("ab", pair)]
    assert "too narrow" not in invoke(*runs).stdout


def test_images_in_one_run_only_are_counted(tmp_path):
    before = write_run(tmp_path / "a", BEFORE)
    after = write_run(tmp_path / "b", AFTER[1:], names=["image1", "image2"])
    stdout = invoke(before, after).stdout
    assert "images: 2 in both; left out: 1 only in before, 0 only in after" in stdout
    assert "settings that differ: none" in stdout


def test_further_scores_of_cityscapes_stand_beside_each_other(tmp_path):
    """Of the same images; of others they cannot be told for those that both have."""
    official = {"mean_iiou": 40.0, "mean_category_iou": 80.0, "mean_category_iiou": None}
    before = write_run(tmp_path / "a", BEFORE, further=official)
    after = write_run(tmp_path / "b", AFTER, further={**official, "mean_iiou": 42.5})
    stdout = invoke(before, after).stdout
    assert row(stdout, "mean_iiou") == ["40.00", "42.50", "+2.50"]
    assert row(stdout, "mean_category_iou") == ["80.00", "80.00", "+0.00"]
    assert "mean_category_iiou" not in stdout
    names = ["image1", "image2"]
    fewer = write_run(tmp_path / "c", AFTER[1:], names=names, further=official)
    assert "iiou" not in invoke(before, fewer).stdout


def test_a_class_of_one_run_alone_is_explained(tmp_path):
    counts = np.array(AFTER[1:2] * 2)  # no sea
    with_sea = counts.copy()
    with_sea[0] = BEFORE[1]  # predicted where it is not
    runs = [
        write_run(tmp_path / name, values, classes=["sky", "sea"])
        for name, values in (("a", with_sea), ("b", counts))
    ]
    stdout = invoke(*runs).stdout
    assert row(stdout, "sea") == ["0.00", "–", "–"]
    assert "(– is in no label and in no prediction" in stdout
    equal = invoke(runs[1], write_run(tmp_path / "d", counts, classes=["sky", "sea"])).stdout
    assert "(after is better in 0 and equal in 1000 of 1000 resamples of the images)" in equal
    assert "(– is" not in equal


def test_guesses_are_printed(tmp_path):
    before = write_classification_run(tmp_path / "a", {224: ROWS_BEFORE}, LABELS)
    after = write_classification_run(tmp_path / "b", {224: ROWS_AFTER}, LABELS)
    stdout = invoke(before, after).stdout
    assert "interval of the difference of top1_error" in stdout
    assert " ".join(row(stdout, "image1")) == "5.00 70.00 +65.00 class 2 → class 1, is class 1"


def test_names_that_would_act_on_a_terminal_are_escaped(tmp_path):
    names = ["a\x1b[2J\n", "b\udcff", "c"]
    runs = [
        write_run(tmp_path / name, counts, names=names)
        for name, counts in (("before", BEFORE), ("after", AFTER))
    ]
    result = invoke(*runs, "--json", tmp_path / "out.json")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert any(line.startswith(r"b\xff ") for line in lines)
    assert any(line.startswith(r"a\x1b[2J\n ") for line in lines)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["comparisons"][0]["gained"][0]["name"] == "b\udcff"


def test_mistakes_are_one_line_and_nothing_is_written(tmp_path):
    run = write_run(tmp_path / "run", BEFORE)
    file = tmp_path / "out.json"
    for arguments, code, message in (
        ([], 2, "two or more RUNs"),
        ([run], 2, "two or more RUNs"),
        ([run, run], 1, "the same folder twice"),
        ([run, tmp_path / "none"], 1, "no such file"),
        ([run, run / "scores.json"], 1, "no such file: expected the --output folder"),
        ([run, run, "--resamples", 10], 2, "--resamples"),
        ([run, run, "--top", 0], 2, "--top"),
    ):
        result = invoke(*arguments, "--json", file)
        assert (result.exit_code, result.stdout) == (code, "")
        assert message in result.stderr
        assert not file.exists()
    assert invoke(run, run).stderr.count("\n") == 1


def test_a_bar_shows_where_it_takes_long(tmp_path, monkeypatch):
    runs = [write_run(tmp_path / "a", BEFORE), write_run(tmp_path / "b", AFTER)]
    monkeypatch.setattr(comparing, "progress_bar", partial(comparing.progress_bar, delay=0))
    assert "1000/1000" in invoke(*runs).stderr


# ---- runs of networks --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(1)
    for name in "abcdef":
        image, label = voc_scene(rng)
        Image.fromarray(image).save(root / f"{name}.png")
        Image.fromarray(label).save(root / f"{name}_label.png")
    (root / "val.lst").write_text("".join(f"{name}.png\t{name}_label.png\n" for name in "abcdef"))
    return root


def evaluate(task, weights: Path, data: Path, output: Path, *options: object) -> dict:
    command = ["evaluate", task, "--weights", weights, "--data-root", data, "--output", output]
    command += ["--test-scales", 64, "--cpus", 1, *options]
    result = make_runner().invoke(main, list(map(str, command)))
    assert result.exit_code == 0, result.output
    return json.loads((output / "scores.json").read_text())


def test_segmentation_runs_of_a_network(data, tmp_path):
    pytest.importorskip("mxnet")
    weights = write_weights(tmp_path, VOC)
    scores = [
        evaluate("segmentation", weights, data, tmp_path / "plain"),
        evaluate("segmentation", weights, data, tmp_path / "flipped", "--test-flipping"),
    ]
    result = invoke(tmp_path / "plain", tmp_path / "flipped", "--json", tmp_path / "out.json")
    assert (result.exit_code, result.stderr) == (0, "")
    (comparison,) = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    for change in comparison["scores"]:  # to the last digit
        assert [change["before"], change["after"]] == [run[change["name"]] for run in scores]
    for change in comparison["classes"]:
        found = [run["class_iou"][change["name"]] for run in scores]
        assert [change["before"], change["after"]] == found
    assert comparison["settings"] == {"test_flipping": {"before": False, "after": True}}
    assert len(comparison["gained"]) + len(comparison["lost"]) == 6
    for change in (*comparison["gained"], *comparison["lost"]):
        means = []
        truth = np.array(Image.open(data / f"{change['name']}_label.png"))
        for path in change["predictions"]:
            found = np.array(Image.open(path))
            assert Path(path).parent.parent.name in ("plain", "flipped")
            counted = [
                index
                for index in range(21)
                if np.any(np.isin([truth, found], index) & (truth != 255))
            ]
            ious = [
                np.sum((truth == index) & (found == index))
                / np.sum(((truth == index) | (found == index)) & (truth != 255))
                for index in counted
            ]
            means.append(100 * np.mean(ious))
        assert [change["before"], change["after"]] == pytest.approx(means)


def test_an_absent_class_rule_is_changed_without_testing_again(data, tmp_path):
    pytest.importorskip("mxnet")
    weights = write_weights(tmp_path, VOC)
    evaluate("segmentation", weights, data, tmp_path / "skip")
    shutil.copytree(tmp_path / "skip", tmp_path / "zero")
    labels = tmp_path / "zero" / "labels" / "a.png"
    written = labels.stat().st_mtime_ns
    options = ("--resume", "--absent-classes", "zero")
    evaluate("segmentation", weights, data, tmp_path / "zero", *options)
    result = invoke(tmp_path / "skip", tmp_path / "zero")
    assert result.exit_code == 1
    assert "--resume --absent-classes skip" in result.stderr
    options = ("--resume", "--absent-classes", "skip")
    evaluate("segmentation", weights, data, tmp_path / "zero", *options)
    assert labels.stat().st_mtime_ns == written
    assert "and equal in 1000 of 1000" in invoke(tmp_path / "skip", tmp_path / "zero").stdout


def test_classification_runs_of_a_network(data, tmp_path):
    pytest.importorskip("mxnet")
    root = tmp_path / "data"
    shutil.copytree(data, root)
    lines = [f"{index}\t{index}\t{name}.png\n" for index, name in enumerate("abcdef")]
    (root / "val.lst").write_text("".join(lines))
    weights = write_weights(tmp_path, ILSVRC)
    scores = [
        evaluate("classification", weights, root, tmp_path / "one"),
        evaluate("classification", weights, root, tmp_path / "two", "--test-scales", "64,80"),
    ]
    result = invoke(tmp_path / "one", tmp_path / "two", "--json", tmp_path / "out.json")
    assert result.exit_code == 0
    (comparison,) = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    for change in comparison["scores"]:
        assert [change["before"], change["after"]] == [run[change["name"]] for run in scores]
    assert comparison["settings"]["test_scales"] == {"before": [64], "after": [64, 80]}

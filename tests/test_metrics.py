"""Metrics against gluoncv, the Cityscapes tool, plain sets, sorting and arithmetic by hand."""

import copy
import importlib
import math

import numpy as np
import pytest
from gluoncv_beside_torch import import_gluoncv
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ademx.metrics import confusion_matrix, likeliest, segmentation_scores, topk_errors

# Truth has no class 2; class 0 is right 3 times of 4, class 1 once of 2.
#                       predicted 0  1  2
WITH_ABSENT_CLASS = np.array([[3, 1, 0], [0, 1, 1], [0, 0, 0]])


def random_pair(seed, num_classes, shape, ignored=0.2, ignore=255):
    rng = np.random.default_rng(seed)
    label = rng.integers(num_classes, size=shape)
    prediction = np.where(rng.random(shape) < 0.5, label, rng.integers(num_classes, size=shape))
    label[rng.random(shape) < ignored] = ignore
    return label, prediction


def by_sets(label, prediction, num_classes):
    truths = [set(np.flatnonzero(label == index)) for index in range(num_classes)]
    guesses = [set(np.flatnonzero(prediction == index)) for index in range(num_classes)]
    return np.array([[len(truth & guess) for guess in guesses] for truth in truths])


@pytest.mark.parametrize("dtypes", ["uint8 uint8", "int64 uint8", "uint16 int32", "int16 uint64"])
@pytest.mark.parametrize("shape", [(31, 17), (2, 3, 5), (11,), (0, 4), (300, 500)])
def test_confusion_matrix_is_that_of_sets(dtypes, shape):
    label, prediction = random_pair(1, 7, shape)
    label_dtype, prediction_dtype = dtypes.split()
    label, prediction = label.astype(label_dtype), prediction.astype(prediction_dtype)
    before = label.copy(), prediction.copy()
    confusion = confusion_matrix(label, prediction, 7)
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion, by_sets(label, prediction, 7))
    np.testing.assert_array_equal(label, before[0])
    np.testing.assert_array_equal(prediction, before[1])


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_classes=st.integers(1, 300),
    ignore=st.sampled_from([-1, 0, 3, 255, 70000]),
)
def test_any_number_of_classes_and_any_ignored_label(seed, num_classes, ignore):
    label, prediction = random_pair(seed, num_classes, (9, 13), ignore=ignore)
    expected = by_sets(np.where(label == ignore, -1, label), prediction, num_classes)
    np.testing.assert_array_equal(
        confusion_matrix(label, prediction, num_classes, ignore), expected
    )
    if num_classes <= 256 and 0 <= ignore <= 255:  # the path of two uint8 images
        as_bytes = confusion_matrix(
            label.astype(np.uint8), prediction.astype(np.uint8), num_classes, ignore
        )
        np.testing.assert_array_equal(as_bytes, expected)


def test_views_that_are_not_contiguous_count_alike():
    label, prediction = (array.astype(np.uint8) for array in random_pair(2, 5, (12, 9)))
    np.testing.assert_array_equal(
        confusion_matrix(label.T[::-1, ::2], prediction.T[::-1, ::2], 5),
        by_sets(label.T[::-1, ::2], prediction.T[::-1, ::2], 5),
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_values_that_are_no_classes_are_named_and_counted(dtype):
    label = np.array([[0, 1, 7], [7, 255, 1]], dtype)
    prediction = np.array([[0, 1, 1], [1, 9, 1]], dtype)
    with pytest.raises(ValueError, match=r"label: found 7 \(2 pixels\), expected .* 0 to 2"):
        confusion_matrix(label, prediction, 3)
    label[label == 7] = 2
    assert confusion_matrix(label, prediction, 3).sum() == 5  # the 9 lies on an ignored pixel
    label[1, 1] = 0
    with pytest.raises(ValueError, match=r"prediction: found 9 \(1 pixels\)"):
        confusion_matrix(label, prediction, 3)


def test_a_negative_label_is_no_class():
    with pytest.raises(ValueError, match=r"label: found -1 \(1 pixels\)"):
        confusion_matrix(np.array([-1, 0]), np.array([0, 0]), 2)


def test_arrays_that_do_not_fit_are_refused():
    zeros = np.zeros((2, 3), np.uint8)
    with pytest.raises(ValueError, match=r"found shape \(3, 2\), expected the label's, \(2, 3\)"):
        confusion_matrix(zeros, zeros.T, 2)
    with pytest.raises(ValueError, match="prediction: found dtype float32, expected integers"):
        confusion_matrix(zeros, zeros.astype(np.float32), 2)
    with pytest.raises(ValueError, match="num_classes: found 0"):
        confusion_matrix(zeros, zeros, 0)


def test_an_absent_class_that_is_predicted_worked_by_hand():
    # Pixels: 4 of 6 right. Accuracy 3/4, 1/2, and none for class 2.
    # Union: 4 + 3 - 3 = 4; 2 + 2 - 1 = 3; 0 + 1 - 0 = 1. IoU 3/4, 1/3, 0.
    skip = segmentation_scores(WITH_ABSENT_CLASS)
    assert skip.pixel_accuracy == pytest.approx(100 * 4 / 6)
    assert skip.class_accuracy == pytest.approx((75, 50, math.nan), nan_ok=True)
    assert skip.mean_accuracy == pytest.approx((75 + 50) / 2)
    assert skip.class_iou == pytest.approx((75, 100 / 3, 0))
    assert skip.mean_iou == pytest.approx((75 + 100 / 3 + 0) / 3)
    # The release: class 2 has accuracy 0 / 1 and IoU 0 / (1 + 1 - 0).
    zero = segmentation_scores(WITH_ABSENT_CLASS, absent_classes="zero")
    assert zero.class_accuracy == pytest.approx((75, 50, 0))
    assert zero.mean_accuracy == pytest.approx((75 + 50 + 0) / 3)
    assert zero.class_iou == pytest.approx((75, 100 / 3, 0))
    assert (zero.pixel_accuracy, zero.absent_classes) == (skip.pixel_accuracy, "zero")


def test_a_class_neither_true_nor_predicted_counts_with_zero_alone():
    confusion = np.diag([4, 0, 2])
    skip = segmentation_scores(confusion)
    assert (skip.mean_iou, skip.mean_accuracy) == (100, 100)
    assert math.isnan(skip.class_iou[1])
    zero = segmentation_scores(confusion, absent_classes="zero")
    assert zero.mean_iou == pytest.approx(200 / 3)
    assert zero.class_iou == (100, 0, 100)


def test_a_matrix_without_pixels_has_no_scores():
    empty = np.zeros((3, 3), np.int64)
    skip = segmentation_scores(empty)
    assert np.isnan([skip.pixel_accuracy, skip.mean_accuracy, skip.mean_iou]).all()
    zero = segmentation_scores(empty, absent_classes="zero")
    assert math.isnan(zero.pixel_accuracy)
    assert (zero.mean_accuracy, zero.mean_iou) == (0, 0)


def test_matrices_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"confusion: found shape \(2, 3\)"):
        segmentation_scores(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="negative counts"):
        segmentation_scores(np.array([[-1]]))
    with pytest.raises(ValueError, match="absent_classes: found 'drop', expected one of skip, zer"):
        segmentation_scores(WITH_ABSENT_CLASS, absent_classes="drop")


@pytest.mark.parametrize("run", ["scale160", "scale160 flip", "scale160 flip steps2"])
def test_the_release_scored_the_same(golden, run):
    confusion = np.zeros((21, 21), np.int64)
    with np.load(golden / "voc_val" / "expected.npz") as expected:
        for path in sorted((golden / "voc_val").glob("VOC2012/SegmentationClass/*.png")):
            label = np.asarray(Image.open(path))
            confusion += confusion_matrix(label, expected[f"{run}/{path.stem}/label"], 21)
        scores = expected[f"{run}/pixel_acc mean_acc mean_iou"]
    ours = segmentation_scores(confusion, absent_classes="zero")
    # The release logged two decimals.
    np.testing.assert_allclose(
        [ours.pixel_accuracy, ours.mean_accuracy, ours.mean_iou], scores, atol=0.005001
    )


def test_gluoncv_scores_the_same():
    mx = pytest.importorskip("mxnet")
    import_gluoncv()
    gluoncv_metrics = importlib.import_module("gluoncv.utils.metrics.segmentation")
    metric = gluoncv_metrics.SegmentationMetric(6)
    confusion = np.zeros((6, 6), np.int64)
    for seed in range(3):
        label, prediction = random_pair(seed, 6, (2, 19, 23), ignore=-1)
        one_hot = np.eye(6)[prediction].transpose(0, 3, 1, 2)
        metric.update(mx.nd.array(label), mx.nd.array(one_hot))
        confusion += confusion_matrix(label, prediction, 6, ignore=-1)
    ours = segmentation_scores(confusion)
    pixel_accuracy, mean_iou = metric.get()
    assert ours.pixel_accuracy == pytest.approx(100 * pixel_accuracy)
    assert ours.mean_iou == pytest.approx(100 * mean_iou)


@pytest.fixture
def cityscapes_files(tmp_path):
    """Write three small label id images and their predictions, as the dataset names them.

    No truth has a train (id 31) or a bus (28); a few pixels are predicted as train, none as bus.
    """
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    evaluated = [label.id for label in labels.labels if not label.ignoreInEval]
    true_ids = [label.id for label in labels.labels if label.id not in (-1, 28, 31)]
    guessed_ids = [index for index in evaluated if index != 28]
    rng = np.random.default_rng(5)
    truths, predictions = [], []
    for city in ("aachen", "bochum", "ulm"):
        truth = rng.choice(true_ids, (24, 40)).astype(np.uint8)
        guess = rng.choice(guessed_ids, truth.shape).astype(np.uint8)
        known = np.isin(truth, evaluated) & (rng.random(truth.shape) < 0.6)
        guess[known] = truth[known]
        truths.append(tmp_path / "gtFine" / f"{city}_000000_000019_gtFine_labelIds.png")
        predictions.append(tmp_path / "results" / f"{city}_000000_000019_labelIds.png")
        for path, image in ((truths[-1], truth), (predictions[-1], guess)):
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path)
    return truths, predictions


def test_the_cityscapes_tool_scores_the_same(cityscapes_files):
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    tool = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    truths, predictions = cityscapes_files
    options = copy.copy(tool.args)
    options.evalInstLevelScore = options.JSONOutput = False
    options.quiet = True
    options.predictionWalk = None
    options.predictionPath = str(predictions[0].parent)
    found = [tool.getPrediction(options, str(truth)) for truth in truths]
    assert found == [str(path) for path in predictions]
    theirs = tool.evaluateImgLists(found, [str(truth) for truth in truths], options)

    train_ids = np.full(256, 255, np.uint8)
    for label in labels.labels:
        if label.id >= 0 and not label.ignoreInEval:
            train_ids[label.id] = label.trainId
    confusion = np.zeros((19, 19), np.int64)
    for truth, prediction in zip(truths, predictions):
        images = [train_ids[np.asarray(Image.open(path))] for path in (truth, prediction)]
        confusion += confusion_matrix(*images, 19)
    ours = segmentation_scores(confusion)

    expected = [100 * theirs["classScores"][labels.trainId2label[c].name] for c in range(19)]
    assert ours.class_iou == pytest.approx(expected, nan_ok=True)
    assert ours.mean_iou == pytest.approx(100 * theirs["averageScoreClasses"])
    names = [labels.trainId2label[c].name for c in range(19)]
    assert math.isnan(ours.class_iou[names.index("bus")])
    assert ours.class_iou[names.index("train")] == 0


def test_topk_errors_are_those_of_a_full_sort():
    rng = np.random.default_rng(3)
    probabilities = rng.random((50, 12)).astype(np.float32)
    labels = rng.integers(12, size=50)
    ranked = probabilities.argsort(1)[:, -1 - np.arange(5)]
    errors = topk_errors(probabilities, labels)
    assert errors == {
        k: pytest.approx(100 - 2 * sum(y in row for y, row in zip(labels, ranked[:, :k].tolist())))
        for k in (1, 5)
    }
    assert 0 < errors[5] < errors[1] < 100


def test_of_equally_likely_classes_the_highest_index_ranks_first():
    # Ascending, stable: 3, then 0, 1, 2 which are equal; from the end 2, 1, 0, 3.
    probabilities = np.array([[0.3, 0.3, 0.3, 0.1]] * 4)
    ranks = {label: None for label in range(4)}
    for label in ranks:
        errors = topk_errors(probabilities[:1], np.array([label]), ks=(1, 2, 3, 4))
        ranks[label] = sum(error == 100 for error in errors.values())
    assert ranks == {2: 0, 1: 1, 0: 2, 3: 3}
    stable = np.argsort(probabilities, axis=1, kind="stable")[0, ::-1]
    assert [ranks[label] for label in stable] == [0, 1, 2, 3]
    assert likeliest(probabilities, num=4).tolist() == [stable.tolist()] * 4
    assert likeliest(probabilities, num=1).tolist() == [[2]] * 4


def test_topk_edges():
    assert topk_errors(np.ones((2, 3)), np.array([0, 1]), ks=(1, 5)) == {1: 100, 5: 0}
    assert math.isnan(topk_errors(np.ones((0, 3)), np.array([], int))[1])


def test_topk_refuses_what_does_not_fit():
    probabilities = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"labels: found 3 \(1 labels out of range\)"):
        topk_errors(probabilities, np.array([0, 3]))
    with pytest.raises(ValueError, match=r"found shapes \(2, 3\) and \(3,\)"):
        topk_errors(probabilities, np.zeros(3, int))
    with pytest.raises(ValueError, match="labels: found dtype float64"):
        topk_errors(probabilities, np.zeros(2))
    with pytest.raises(ValueError, match="probabilities: found nan"):
        topk_errors(probabilities * np.nan, np.zeros(2, int))
    with pytest.raises(ValueError, match=r"ks: found \(0,\)"):
        topk_errors(probabilities, np.zeros(2, int), ks=(0,))

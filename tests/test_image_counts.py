"""`images.npz` of test runs: what is counted in each image, however the run went."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import run_evaluate
from narrow import ILSVRC, write_weights
from PIL import Image
from scenes import voc_scene

from ademx.metrics import confusion_matrix, segmentation_scores
from ademx.testing.image_counts import (
    ImageCounts,
    ImageLabels,
    NearTies,
    load_image_counts,
    load_image_labels,
    save_image_counts,
    save_image_labels,
)

SIDE = 48
NAMES = ("a", "b", "c", "d")


# ---- what is made of counts --------------------------------------------------------------------


def random_counts(num_images=5, num_classes=6, seed=0):
    """Return the (N, C, C) confusion matrices of small images and their counts."""
    rng = np.random.default_rng(seed)
    label = rng.integers(num_classes - 2, size=(num_images, 3, 4))
    found = np.where(rng.random(label.shape) < 0.5, label, rng.integers(num_classes - 1, size=1))
    matrices = np.array([confusion_matrix(*pair, num_classes) for pair in zip(label, found)])
    counts = [matrices.diagonal(axis1=1, axis2=2), matrices.sum(axis=2), matrices.sum(axis=1)]
    names = tuple(f"image {index}" for index in range(num_images))
    return matrices, ImageCounts(names, np.stack(counts, axis=1))


def test_iou_of_an_image_is_that_of_its_confusion_matrix():
    matrices, images = random_counts()
    for index, matrix in enumerate(matrices):
        scores = segmentation_scores(matrix, absent_classes="skip")
        np.testing.assert_allclose(images.class_iou()[index], scores.class_iou, rtol=1e-12)
        assert images.mean_iou()[index] == pytest.approx(scores.mean_iou, rel=1e-12)
    assert np.isnan(images.class_iou()[:, -1]).all()  # nowhere in truth or predictions


def test_an_image_without_labelled_pixels_has_no_iou():
    images = ImageCounts(("void", "all right"), np.array([[[0, 0]] * 3, [[4, 0]] * 3]))
    np.testing.assert_array_equal(images.mean_iou(), [np.nan, 100])


# ---- the file ----------------------------------------------------------------------------------


def test_counts_come_back_and_the_same_counts_are_the_same_bytes(tmp_path):
    images = ImageCounts(("é", "not UTF-8 \udcff", "c"), np.arange(36).reshape(3, 3, 4))
    save_image_counts(tmp_path, images)
    first = (tmp_path / "images.npz").read_bytes()
    loaded = load_image_counts(tmp_path)
    assert loaded.names == images.names
    np.testing.assert_array_equal(loaded.counts, images.counts)
    save_image_counts(tmp_path, loaded)
    assert (tmp_path / "images.npz").read_bytes() == first


NEAR = NearTies(3e-4, np.array([[0, 1, 2, 3, 7], [4, 0, 5, 1, 1]]))


def test_near_ties_come_back_and_runs_without_them_are_read_too(tmp_path):
    _, images = random_counts()
    save_image_counts(tmp_path, images)
    assert load_image_counts(tmp_path).near_ties is None
    for rows in (NEAR.rows, NEAR.rows[:0]):
        save_image_counts(tmp_path, replace(images, near_ties=replace(NEAR, rows=rows)))
        loaded = load_image_counts(tmp_path)
        np.testing.assert_array_equal(loaded.counts, images.counts)
        assert loaded.near_ties.margin == 3e-4
        np.testing.assert_array_equal(loaded.near_ties.rows, rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[5, 0, 0, 1, 1]], "of images or classes that there are not"),
        ([[0, 0, 6, 1, 1]], "of images or classes that there are not"),
        ([[0, -1, 0, 1, 1]], "of images or classes that there are not"),
        ([[0, 0, 0, 1, 0]], "of images or classes that there are not"),
        ([[0, 0, 1, 1]], r"near ties of shape \(1, 4\)"),
        ([[0, 0, 0, 1.5, 1]], "float64"),
    ],
)
def test_near_ties_that_cannot_be_are_refused(tmp_path, rows, message):
    _, images = random_counts()
    save_image_counts(tmp_path, replace(images, near_ties=replace(NEAR, rows=np.array(rows))))
    with pytest.raises(ValueError, match=f"not what `ademx evaluate` wrote: .*{message}"):
        load_image_counts(tmp_path)


def test_labels_come_back(tmp_path):
    save_image_labels(tmp_path, ImageLabels(("a", "b"), np.array([7, 0])))
    loaded = load_image_labels(tmp_path)
    assert (loaded.names, loaded.labels.tolist()) == (("a", "b"), [7, 0])


def test_a_run_of_which_no_image_could_be_tested_is_written_too(tmp_path):
    save_image_counts(tmp_path, ImageCounts((), np.zeros((0, 3, 4), np.int64)))
    loaded = load_image_counts(tmp_path)
    assert (loaded.names, loaded.counts.shape) == ((), (0, 3, 4))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"images\.npz: no such file: .*--resume"):
        load_image_counts(tmp_path)


def test_a_damaged_file_is_refused_or_read_right(tmp_path):
    _, images = random_counts(num_images=20)
    save_image_counts(tmp_path, images)
    path = tmp_path / "images.npz"
    whole = path.read_bytes()
    chance = random.Random(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged[: len(whole) if chance.random() < 0.9 else len(whole) // 2])
        try:
            loaded = load_image_counts(tmp_path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: not what `ademx evaluate` wrote: ")
            refused += 1
        else:
            assert loaded.names == images.names
            np.testing.assert_array_equal(loaded.counts, images.counts)
    assert refused > 200


@pytest.mark.parametrize(
    ("names", "counts", "message"),
    [
        (["a", "b"], np.zeros((3, 3, 4), int), r"shape \(3, 3, 4\) for 2 names"),
        (["a", "b"], np.zeros((2, 4, 4), int), r"shape \(2, 4, 4\)"),
        (["a", "b"], np.zeros((2, 3), int), r"shape \(2, 3\)"),
        (["a", "b"], np.zeros((2, 3, 4)), "float64"),
        ([1, 2], np.zeros((2, 3, 4), int), r"2 names \(int64\)"),
        (["a", "a"], np.zeros((2, 3, 4), int), "name twice"),
    ],
)
def test_other_arrays_are_refused(tmp_path, names, counts, message):
    np.savez(tmp_path / "images.npz", names=np.array(names), counts=counts)
    with pytest.raises(ValueError, match=message):
        load_image_counts(tmp_path)


def test_another_tasks_file_is_refused(tmp_path):
    save_image_labels(tmp_path, ImageLabels(("a",), np.array([7])))
    with pytest.raises(ValueError, match=r"not what `ademx evaluate` wrote: .*counts"):
        load_image_counts(tmp_path)
    with open(tmp_path / "images.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="not what `ademx evaluate` wrote"):
        load_image_counts(tmp_path)


# ---- as runs write it --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Return a folder of four small images, their labels, and a val.lst that lists them."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(1)
    for name in NAMES:
        image, label = voc_scene(rng)
        Image.fromarray(image[:SIDE, :SIDE]).save(root / f"{name}.png")
        Image.fromarray(label[:SIDE, :SIDE]).save(root / f"{name}_label.png")
    write_list(root, NAMES)
    return root


@pytest.fixture(scope="module")
def finished(weights, data, tmp_path_factory) -> Path:
    """Return the folder of a run; do not write into it."""
    output = tmp_path_factory.mktemp("run")
    evaluate(weights, data, output)
    return output


def write_list(root: Path, names, split="val") -> None:
    lines = [f"{name}.png\t{name}_label.png\n" for name in names]
    (root / f"{split}.lst").write_text("".join(lines))


def evaluate(weights: Path, data: Path, output: Path, *options: object, task="segmentation"):
    return run_evaluate(task, weights, data, output, "--test-scales", SIDE, *options)


def content(output: Path) -> bytes:
    return (output / "images.npz").read_bytes()


def test_counts_are_those_of_the_written_labels(finished, data):
    images = load_image_counts(finished)
    assert images.names == NAMES
    for name, (correct, of_truth, predicted) in zip(images.names, images.counts):
        truth = np.array(Image.open(data / f"{name}_label.png"))
        found = np.array(Image.open(finished / "labels" / f"{name}.png"))
        for index in range(21):
            assert correct[index] == np.sum((truth == index) & (found == index))
            assert of_truth[index] == np.sum(truth == index)
            assert predicted[index] == np.sum((found == index) & (truth != 255))
    assert images.counts[:, 0].sum() < images.counts[:, 1].sum() < len(NAMES) * SIDE**2


def test_counts_add_up_to_the_confusion_matrix_of_the_scores(finished):
    confusion = np.array(json.loads((finished / "scores.json").read_text())["confusion"])
    sums = load_image_counts(finished).counts.sum(axis=0)
    np.testing.assert_array_equal(
        sums, [confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)]
    )


def test_an_interrupted_run_writes_the_same_file_in_the_end(finished, weights, data, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    for name in ("images.npz", "scores.json", "labels/b.png", "correct/d.png"):
        (output / name).unlink()
    assert evaluate(weights, data, output, "--resume").exit_code == 0
    assert content(output) == content(finished)


def test_a_run_that_keeps_no_label_images_writes_the_same_file(finished, weights, data, tmp_path):
    options = ("--no-save-results", "--batch-images", 3)
    assert evaluate(weights, data, tmp_path, *options).exit_code == 0
    assert not (tmp_path / "labels").exists()
    assert content(tmp_path) == content(finished)


def test_images_that_cannot_be_read_are_left_out(finished, weights, data, tmp_path):
    root, output = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data, root)
    (root / "c.png").write_bytes(b"no image")
    assert evaluate(weights, root, output).exit_code == 1
    images = load_image_counts(output)
    assert images.names == ("a", "b", "d")
    np.testing.assert_array_equal(images.counts, load_image_counts(finished).counts[[0, 1, 3]])

    shutil.copy(data / "c.png", root / "c.png")
    assert evaluate(weights, root, output, "--resume").exit_code == 0
    assert content(output) == content(finished)


def test_images_of_one_name_in_two_folders_are_told_apart(weights, data, tmp_path):
    root = tmp_path / "data"
    for folder, name in (("one", "a"), ("two", "b")):
        (root / folder).mkdir(parents=True)
        shutil.copy(data / f"{name}.png", root / folder / "x.png")
        shutil.copy(data / f"{name}_label.png", root / folder / "x_label.png")
    write_list(root, ["one/x", "two/x"])
    assert evaluate(weights, root, tmp_path / "run").exit_code == 0
    names = load_image_counts(tmp_path / "run").names
    assert len(set(names)) == 2
    assert {path.stem for path in (tmp_path / "run" / "labels").iterdir()} == set(names)


def test_a_split_without_labels_has_no_file_and_an_overwritten_run_keeps_none(
    finished, weights, data, tmp_path
):
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    write_list(data, NAMES[:1], split="test")
    assert evaluate(weights, data, output, "--split", "test", "--overwrite").exit_code == 0
    assert not (output / "images.npz").exists()


def test_a_classification_run_keeps_names_and_true_classes(data, tmp_path):
    pytest.importorskip("mxnet")
    root, output = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data, root)
    (root / "val.lst").write_text("0\t3\ta.png\n1\t999\tb.png\n2\t0\tc.png\n")
    (root / "c.png").write_bytes(b"no image")
    classifier = write_weights(tmp_path, ILSVRC)
    evaluate(classifier, root, output, task="classification")
    images = load_image_labels(output)
    assert (images.names, images.labels.tolist()) == (("a", "b", "c"), [3, 999, 0])
    rows = np.load(output / "predictions" / f"{SIDE}.npy")
    assert np.isnan(rows).all(axis=1).tolist() == [False, False, True]

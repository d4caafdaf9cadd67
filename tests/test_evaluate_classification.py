"""`ademx evaluate classification` as its user sees it, on narrow networks and drawn images."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import main_text, run_evaluate
from machine import needs_bfloat16
from narrow import ILSVRC, WIDTH, write_weights
from PIL import Image
from scenes import voc_scene

import ademx
from ademx import params
from iters.datasets import DATASETS

mx = pytest.importorskip("mxnet")

IMAGES = 5
TRUTH = [3, 999, 0, 42, 7]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"), ILSVRC)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Return a folder with five images of 96 to 128 pixels a side and their val.lst."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    for number in range(IMAGES):
        Image.fromarray(voc_scene(rng)[0]).save(root / f"{number}.png")
    write_list(root, list(range(IMAGES)))
    return root


@pytest.fixture(scope="module")
def finished(weights, data, tmp_path_factory) -> Path:
    """Return the folder of a run at scale 64; do not write into it."""
    output = tmp_path_factory.mktemp("run")
    evaluate(weights, data, output)
    return output


def write_list(root: Path, numbers, *, split="val", labels=TRUTH) -> Path:
    lines = [f"{row}\t{labels[number]}\t{number}.png\n" for row, number in enumerate(numbers)]
    path = root / f"{split}.lst"
    path.write_text("".join(lines))
    return path


invoke = partial(run_evaluate, "classification")


def evaluate(weights, data: Path, output: Path, *options: object) -> dict:
    """Run the command, which must succeed, and return its scores.json."""
    result = invoke(weights, data, output, *options)
    assert result.exit_code == 0, result.output
    return scores_of(output)


def scores_of(output: Path) -> dict:
    return json.loads((output / "scores.json").read_text(), parse_constant=pytest.fail)


def predictions(output: Path, scale: int = 64) -> np.ndarray:
    return np.load(output / "predictions" / f"{scale}.npy")


def errors(probabilities: np.ndarray, truth=TRUTH) -> dict[str, float]:
    """Return the errors by sorting each row."""
    best = [list(np.argsort(row)[::-1]) for row in probabilities]
    return {
        f"top{k}_error": 100 * np.mean([t not in row[:k] for t, row in zip(truth, best)])
        for k in (1, 5)
    }


# ---- what is computed --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "pool", "mean", "std"),
    [
        ("ilsvrc-cls_rna-a1_cls1000", "pad", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("ilsvrc-cls_rna-a_cls1000", "pad", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("ilsvrc-cls_rna-a_cls1000", "caffe", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("ilsvrc-cls_rna-a_cls1000", "full", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("ilsvrc-cls_rn-34a_cls1000", "pad", np.divide((123.68, 116.779, 103.939), 255), 1 / 255),
    ],
)
def test_probabilities_are_a_plain_binds(label, pool, mean, std, data, tmp_path):
    weights = write_weights(tmp_path, label)
    evaluate(weights, data, tmp_path / "out", "--pool", pool)

    graph = ademx.build_symbol(label, width=WIDTH, pool=pool)
    executor = graph.simple_bind(mx.cpu(), data=(1, 3, 64, 64), grad_req="null")
    for values, arrays in zip(params.load(weights), (executor.arg_dict, executor.aux_dict)):
        for name, value in values.items():
            arrays[name][:] = value
    for number, found in enumerate(predictions(tmp_path / "out")):
        image = _central_square(Image.open(data / f"{number}.png"), 64)
        values = (np.array(image) / 255 - mean) / std
        executor.arg_dict["data"][:] = values.transpose(2, 0, 1)[None]
        (expected,) = executor.forward(is_train=False)
        np.testing.assert_allclose(found, expected.asnumpy()[0], rtol=2e-3, atol=1e-6)


def _central_square(image: Image.Image, size: int) -> Image.Image:
    """Return the centre of an image whose shorter side becomes `size`, smaller than before."""
    width, height = (round(size * side / min(image.size)) for side in image.size)
    left, top = -(-(width - size) // 2), -(-(height - size) // 2)
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    return resized.crop((left, top, left + size, top + size))


def test_pool_geometries_differ(data, tmp_path):
    weights = write_weights(tmp_path, "ilsvrc-cls_rna-a_cls1000")
    found = []
    for pool in ("pad", "caffe", "full"):
        evaluate(weights, data, tmp_path / pool, "--pool", pool)
        found.append(predictions(tmp_path / pool))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(found[one] - found[other]).max() > 1e-3


def test_scales_are_scored_alone_and_averaged(weights, data, tmp_path):
    scores = evaluate(weights, data, tmp_path, "--test-scales", "64,96,80")
    each = {str(scale): predictions(tmp_path, scale) for scale in (64, 96, 80)}
    assert scores["scales"] == {scale: errors(rows) for scale, rows in each.items()}
    mean = errors(np.mean(list(each.values()), axis=0))
    assert {key: scores[key] for key in mean} == mean


def test_errors_count_the_images_that_miss_their_class(weights, data, finished, tmp_path):
    best = np.argsort(predictions(finished), axis=1)
    # Right at once, among five, just not among five, and twice far away.
    labels = [best[0, -1], best[1, -5], best[2, -6], best[3, 0], best[4, 10]]
    list_file = write_list(tmp_path, range(IMAGES), labels=labels)
    scores = evaluate(weights, data, tmp_path / "out", "--list-file", list_file)
    assert (scores["top1_error"], scores["top5_error"]) == (80, 60)


def test_several_weights_average_the_probabilities(weights, data, finished, tmp_path):
    other = write_weights(tmp_path, ILSVRC, seed=9)
    evaluate(other, data, tmp_path / "other")
    scores = evaluate([weights, other], data, tmp_path / "both")
    one, two = predictions(finished), predictions(tmp_path / "other")
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_allclose(predictions(tmp_path / "both"), (one + two) / 2, atol=1e-6)
    assert len(scores["weights"]) == 2 and scores["published"] is None


@pytest.mark.parametrize(
    "options",
    [("--cpus", 2), ("--batch-images", 2), ("--cpus", 2, "--batch-images", 2)],
    ids=str,
)
def test_batches_and_contexts_do_not_matter(options, weights, data, finished, tmp_path):
    evaluate(weights, data, tmp_path, *options)
    np.testing.assert_allclose(predictions(tmp_path), predictions(finished), atol=1e-5)


def test_crops_and_mirrors_are_averaged(weights, data, finished, tmp_path):
    """Of mirrored images the crops are the mirrored ones, in the other order."""
    mirrored = tmp_path / "mirrored"
    mirrored.mkdir()
    for number in range(IMAGES):
        image = Image.open(data / f"{number}.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored / f"{number}.png")
    write_list(mirrored, range(IMAGES))
    options = ("--test-3crops", "--test-flipping", "--batch-images", 4)
    evaluate(weights, data, tmp_path / "one", *options)
    evaluate(weights, mirrored, tmp_path / "two", *options)
    one, two = predictions(tmp_path / "one"), predictions(tmp_path / "two")
    even = [
        number
        for number in range(IMAGES)
        if (round(64 * max(size := Image.open(data / f"{number}.png").size) / min(size))) % 2 == 0
    ]
    assert even  # an odd remainder moves the central crop by a pixel, and not in the mirror
    np.testing.assert_allclose(one[even], two[even], atol=1e-4)
    assert np.abs(one - predictions(finished)).max() > 1e-3


def test_ten_crops_are_averaged(data, tmp_path):
    """Against one test of each crop alone, cut by hand from the image at the scale's size."""
    label = "ilsvrc-cls_rna-56-0-1-1-1-1-1-1_cls1000"  # trained at 56 × 56
    weights = write_weights(tmp_path, label)
    evaluate(weights, data, tmp_path / "out", "--test-10crops", "--batch-images", 4)
    crops = tmp_path / "crops"
    crops.mkdir()
    for number in range(2):
        image = Image.open(data / f"{number}.png")
        width, height = (round(64 * side / min(image.size)) for side in image.size)
        pixels = np.array(image.resize((width, height), Image.Resampling.LANCZOS))
        top, left = -(-(height - 56) // 2), -(-(width - 56) // 2)
        corners = [(0, 0), (0, width - 56), (height - 56, 0), (height - 56, width - 56)]
        for position, (y, x) in enumerate([*corners, (top, left)]):
            crop = pixels[y : y + 56, x : x + 56]
            Image.fromarray(crop).save(crops / f"{10 * number + 2 * position}.png")
            Image.fromarray(crop[:, ::-1]).save(crops / f"{10 * number + 2 * position + 1}.png")
    write_list(crops, range(20), labels=[0] * 20)
    evaluate(weights, crops, tmp_path / "each", "--test-scales", 56)
    each = predictions(tmp_path / "each", 56).reshape(2, 10, 1000)
    found = predictions(tmp_path / "out")[:2]
    np.testing.assert_allclose(found, each.mean(axis=1), rtol=1e-4, atol=1e-6)
    assert np.abs(found - each[:, :5].mean(axis=1)).max() > 1e-3  # mirrors count
    assert np.abs(found - each[:, 8]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test-3crops"], "--test-3crops and --test-10crops exclude each other"),
        (["--test-flipping"], "--test-flipping and --test-10crops exclude each other"),
        (["--test-scales", "256,200"], "--test-scales 200: ten crops of 224 × 224 pixels"),
    ],
    ids=str,
)
def test_what_ten_crops_do_not_go_with(options, message, weights, data, tmp_path):
    result = invoke(weights, data, tmp_path / "out", "--test-10crops", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_ten_crops_of_networks_trained_at_other_sizes_are_not_averaged(weights, data, tmp_path):
    other = weights.with_name("ilsvrc-cls_rna-b_cls1000_ep-0001.params")
    other.touch()
    result = invoke([weights, other], data, tmp_path / "out", "--test-10crops")
    assert result.exit_code == 2
    assert "_rna-b_cls1000 at 112 pixels" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_whose_name_is_no_label_needs_one(weights, data, tmp_path):
    other = tmp_path / "resnet50.pth"
    other.touch()
    for options in ([], ["--test-10crops"], ["--test-scales", 64]):
        result = invoke(other, data, tmp_path / "out", *options)
        assert result.exit_code in (1, 2)
        assert f"label '{other}': expected <dataset>" in result.stderr
        assert "; name the network by --model LABEL" in result.stderr


@needs_bfloat16
def test_bfloat16_is_close_to_float32(weights, data, finished, tmp_path):
    evaluate(weights, data, tmp_path, "--precision", "bfloat16")
    difference = np.abs(predictions(tmp_path) - predictions(finished))
    # Eight bits of mantissa through 38 layers.
    assert 0 < difference.max() < 0.2
    assert difference.mean() < 1e-3


# ---- submissions -------------------------------------------------------------------------------


@pytest.mark.parametrize("numbered", [False, True])
def test_the_test_split_gives_a_submission(numbered, weights, data, finished, tmp_path):
    list_file = write_list(tmp_path, range(IMAGES), split="test")
    options = ["--split", "test", "--list-file", list_file]
    ids = np.arange(1, 1001)
    if numbered:
        ids = np.random.default_rng(0).permutation(ids)
        (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)))
        options += ["--class-ids", tmp_path / "ids.txt"]

    result = invoke(weights, data, tmp_path / "out", *options)

    assert result.exit_code == 0
    assert "predictions only" in result.stdout
    assert not {"top1_error", "top5_error", "scales"} & set(scores_of(tmp_path / "out"))
    lines = (tmp_path / "out" / "submission.txt").read_text().splitlines()
    best = np.argsort(predictions(finished), axis=1)[:, ::-1][:, :5]
    assert [line.split() for line in lines] == [list(map(str, ids[row])) for row in best]


@pytest.mark.parametrize("text", ["1\n2\n", "one\n" * 1000, "\xff"])
def test_class_ids_must_be_one_number_a_class(text, weights, data, finished, tmp_path):
    (tmp_path / "ids.txt").write_bytes(text.encode("latin-1"))
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    options = ("--class-ids", tmp_path / "ids.txt", "--overwrite")
    result = invoke(weights, data, output, *options)
    assert result.exit_code == 2
    assert "--class-ids: has no effect without --split test: add it" in result.stderr
    options += ("--split", "test", "--list-file", write_list(tmp_path, [0], split="test"))
    result = invoke(weights, data, output, *options)
    assert result.exit_code == 1
    assert f"{tmp_path / 'ids.txt'}: expected 1000 whole numbers" in result.stderr
    assert scores_of(output) == scores_of(finished)  # nothing was removed before the check


# ---- what is printed and written ---------------------------------------------------------------


def test_the_published_values_stand_beside_ours(weights, data, tmp_path, monkeypatch):
    list_file = write_list(tmp_path, [0])
    options = ("--list-file", list_file, "--test-scales", 320)
    part = invoke(weights, data, tmp_path / "part", *options)
    assert part.exit_code == 0 and "published" not in part.stdout  # 1 of 50,000 images
    whole = dataclasses.replace(DATASETS["ilsvrc-cls"], splits={"val": 1})
    monkeypatch.setitem(DATASETS, "ilsvrc-cls", whole)
    result = invoke(weights, data, tmp_path / "out", *options)
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["published", "19.54", "4.75"] in rows
    assert scores_of(tmp_path / "out")["published"]["top1_error"] == 19.54
    cubic = invoke(weights, data, tmp_path / "cubic", *options, "--no-choose-interp-method")
    assert "published" not in cubic.stdout


def test_the_table_has_a_row_a_scale(weights, data, tmp_path):
    result = invoke(weights, data, tmp_path, "--test-scales", "64,80", "--json", tmp_path / "s")
    scores = scores_of(tmp_path)
    rows = [line.split() for line in result.stdout.splitlines()]
    expected = {**scores["scales"], "mean": scores}
    assert rows[1:] == [
        [name, f"{row['top1_error']:.2f}", f"{row['top5_error']:.2f}"]
        for name, row in expected.items()
    ]
    assert json.loads((tmp_path / "s").read_text()) == scores
    assert "top1_error=" in result.stderr


def test_a_report_opens_with_the_errors(weights, data, finished, tmp_path):
    page = tmp_path / "a report.html"
    shutil.copytree(finished, tmp_path / "copy")
    for output, options in (("out", ()), ("copy", ("--resume",))):
        scores = evaluate(weights, data, tmp_path / output, "--report", page, *options)
        assert main_text(page).startswith(
            f"Scores {ILSVRC} · ilsvrc-cls val · scale 64 top-1 error {scores['top1_error']:.2f} %"
        )
        assert page.read_text().count('"image": "data:image/webp') == IMAGES
        page.unlink()


def test_a_report_of_a_test_split_shows_guesses(weights, data, tmp_path):
    list_file, page = write_list(tmp_path, [0, 1], split="test"), tmp_path / "page.html"
    options = ("--split", "test", "--list-file", list_file, "--report", page)
    evaluate(weights, data, tmp_path / "out", *options)
    assert "This split has no labels, so there are no scores. 2 of 2" in main_text(page)
    assert page.read_text().count('"image": "data:image/webp') == 2


def test_a_report_needs_a_folder(weights, data, tmp_path):
    result = invoke(weights, data, tmp_path / "out", "--report", tmp_path / "no" / "page.html")
    assert result.exit_code == 2
    assert f"there is no folder {tmp_path / 'no'}" in result.stderr
    assert not (tmp_path / "out").exists()


# ---- broken images and labels ------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_broken_images_are_left_out(batch, weights, data, finished, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    (root / "1.png").write_text("<html>404</html>")
    (root / "4.png").unlink()
    options = ("--test-scales", "64,80", "--batch-images", batch)

    page = tmp_path / "page.html"
    result = invoke(weights, root, tmp_path / "out", *options, "--report", page)

    assert result.exit_code == 1
    assert "3 of 5 images tested. 2 could not be" in main_text(page)
    assert "2 of 5 images could not be tested" in result.stderr
    scores = scores_of(tmp_path / "out")
    assert [entry["image"] for entry in scores["broken"]] == [
        str(root / "1.png"),
        str(root / "4.png"),
    ]
    rows = predictions(tmp_path / "out")
    assert np.isnan(rows[[1, 4]]).all()
    sound = [0, 2, 3]
    np.testing.assert_allclose(rows[sound], predictions(finished)[sound], atol=1e-5)
    shorter = write_list(tmp_path, sound)
    alone = evaluate(weights, data, tmp_path / "alone", *options, "--list-file", shorter)
    for key in ("top1_error", "top5_error", "scales"):
        assert scores[key] == alone[key]


def test_a_run_without_a_sound_image_has_no_score(weights, data, tmp_path):
    (tmp_path / "val.lst").write_text("0\t1\tnowhere.png\n")
    result = invoke(weights, data, tmp_path / "out", "--list-file", tmp_path / "val.lst")
    assert result.exit_code == 1
    assert result.stdout.split()[-3:] == ["64", "–", "–"]
    assert scores_of(tmp_path / "out")["top1_error"] is None


def test_a_label_beyond_the_classes_is_refused_at_once(weights, data, tmp_path):
    list_file = write_list(tmp_path, range(IMAGES), labels=[1, 2, 1000, 3, 4])
    result = invoke(weights, data, tmp_path / "out", "--list-file", list_file)
    assert result.exit_code == 1
    expected = f"{data / '2.png'}: label 1000 in the list, but ilsvrc-cls has classes 0 to 999"
    assert expected in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_of_nan_is_an_error_not_an_untested_image(weights, data, tmp_path):
    arg_params, aux_params = params.load(weights)
    arg_params["linear1000_weight"][:] = 1e38  # too large for sums of it
    path = tmp_path / weights.name
    params.save(path, arg_params, aux_params)
    result = invoke(path, data, tmp_path / "out")
    assert result.exit_code == 1
    assert f"{path}: the network's output is nan or infinite" in result.stderr


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_numbers_that_a_relu_hides_are_found(value, weights, data, tmp_path):
    """MXNet's gives 0 for nan, so that no output shows it."""
    arg_params, aux_params = params.load(weights)
    aux_params["bn3a_branch2a_moving_mean"][:2] = value
    path = tmp_path / weights.name
    params.save(path, arg_params, aux_params)
    result = invoke(path, data, tmp_path / "out")
    assert result.exit_code == 1
    assert f"{path}: 2 of 8 numbers of bn3a_branch2a_moving_mean are nan or inf" in result.stderr


def test_weights_for_segmentation_are_refused(data, tmp_path):
    path = tmp_path / "voc_rna-a1_cls21_s8_ep-0001.params"
    path.write_bytes(b"not read")
    result = invoke(path, data, tmp_path / "out")
    assert result.exit_code == 1
    assert "use `ademx evaluate segmentation`" in result.stderr


def test_families_with_other_inputs_are_not_averaged(weights, data, tmp_path):
    other = tmp_path / "ilsvrc-cls_rn-34a_cls1000_ep-0001.params"
    other.write_bytes(b"not read")
    result = invoke([weights, other], data, tmp_path / "out")
    assert result.exit_code == 1
    assert "cannot be averaged: family is rna in one and rn in the other" in result.stderr


# ---- going on after an interruption ------------------------------------------------------------


def test_a_killed_run_goes_on_where_it_stopped(weights, data, tmp_path):
    list_file = write_list(tmp_path, [*range(IMAGES)] * 16)
    output = tmp_path / "out"
    options = ["--list-file", str(list_file), "--test-scales", "96,64"]
    command = [sys.executable, "-m", "ademx", "evaluate", "classification", "--cpus", "1"]
    command += ["--weights", str(weights), "--data-root", str(data), "--output", str(output)]
    partial = output / "predictions" / "96.npy.part"
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen([*command, *options], stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 300
        while _rows_done(partial) < 2:
            assert process.poll() is None, f"ended before its interruption: {log.read_text()}"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    rows = np.load(partial)
    done = ~np.isnan(rows).any(axis=1)
    assert 2 <= done.sum() < len(rows) and not (output / "scores.json").exists()
    # A row that the network would never give: it survives only if it is not computed again.
    rows[0] = 1 / 1000
    np.save(partial.with_suffix(".marked"), rows)
    Path(f"{partial.with_suffix('.marked')}.npy").replace(partial)

    scores = evaluate(weights, data, output, *options, "--resume")

    whole = evaluate(weights, data, tmp_path / "whole", *options)
    found, expected = predictions(output, 96), predictions(tmp_path / "whole", 96)
    np.testing.assert_array_equal(found[0], np.float32(1 / 1000))
    np.testing.assert_allclose(found[1:], expected[1:], atol=1e-5)
    assert scores["scales"]["64"] == whole["scales"]["64"]
    assert not list((output / "predictions").glob("*.part"))


def _rows_done(path: Path) -> int:
    return int((~np.isnan(np.load(path)).any(axis=1)).sum()) if path.exists() else 0


def test_a_finished_run_resumed_computes_nothing(weights, data, finished, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    os.utime(output / "scores.json")  # written last, however coarse the clock
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.*")}
    assert evaluate(weights, data, output, "--resume") == scores_of(finished)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.*")} == before

    (output / "scores.json").unlink()  # it is made again of what was predicted
    scores = evaluate(weights, data, output, "--resume")
    assert scores["images_per_second"] == 0
    for key in ("top1_error", "top5_error", "scales"):
        assert scores[key] == scores_of(finished)[key]
    np.testing.assert_array_equal(predictions(output), predictions(finished))


def test_a_run_with_other_options_is_not_resumed(weights, data, finished, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    result = invoke(weights, data, output, "--test-3crops", "--resume")
    assert result.exit_code == 1
    assert "cannot resume" in result.stderr
    assert "--test-3crops was not given, now given" in result.stderr


@pytest.mark.parametrize("damage", ["cut short", "zeros", "no header"])
def test_damaged_predictions_are_made_again(damage, weights, data, finished, tmp_path):
    """A crash of the machine leaves files short, or of zeros where pages were not written."""
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    path = output / "predictions" / "64.npy"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut short": whole[:5000],
            "zeros": whole[:9000].ljust(len(whole), b"\0"),
            "no header": b"",
        }[damage]
    )
    scores = evaluate(weights, data, output, "--resume")
    assert scores["scales"] == scores_of(finished)["scales"]
    np.testing.assert_allclose(predictions(output), predictions(finished), atol=1e-5)


def test_records_are_tested_like_files(weights, data, finished, tmp_path):
    record = mx.recordio.MXIndexedRecordIO(str(tmp_path / "v.idx"), str(tmp_path / "v.rec"), "w")
    for number in range(IMAGES + 1):
        encoded = b"no image" if number == IMAGES else (data / f"{number}.png").read_bytes()
        header = mx.recordio.IRHeader(0, float(TRUTH[number % IMAGES]), number, 0)
        record.write_idx(number, mx.recordio.pack(header, encoded))
    record.close()
    output = tmp_path / "run"
    result = invoke(weights, tmp_path, output, "--list-file", tmp_path / "v.rec")
    assert result.exit_code == 1
    found = np.load(output / "predictions" / "64.npy")
    np.testing.assert_array_equal(found[:IMAGES], np.load(finished / "predictions" / "64.npy"))
    assert np.isnan(found[IMAGES]).all()
    (broken,) = json.loads((output / "scores.json").read_text())["broken"]
    assert broken["image"].endswith("v.rec, record 00000005")

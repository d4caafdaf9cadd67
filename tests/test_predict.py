"""`ademx predict`: any picture, any kind of weights file, any backend."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import make_runner, run_evaluate
from narrow import ILSVRC, VOC, write_weights
from near_ties import differ_clearly, saved_scores
from PIL import Image, ImageFilter

from ademx.cli import main
from ademx.data.drawn.make import make_dataset
from ademx.devices import Devices
from ademx.engines.onnx.predict import OnnxPredictor
from ademx.prediction.images import PredictionOptions, find_images, predict
from ademx.prediction.legend import ClassShare, _thickened, draw_classes
from ademx.testing.evaluate import evaluate
from ademx.testing.options import ClassificationOptions, SegmentationOptions
from iters.datasets import DATASETS
from iters.decode import BrokenImage
from iters.images import load_image
from iters.transforms import RN, normalize

pytest.importorskip("mxnet")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

load_as_shown = partial(load_image, turned=True, over_white=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with a narrow classifier, and a narrow VOC network in every kind of file."""
    folder = tmp_path_factory.mktemp("models")
    write_weights(folder, ILSVRC)
    params = write_weights(folder, VOC)
    for suffix in (".pth", ".safetensors", ".onnx"):
        run("convert", params, params.with_suffix(suffix), ok=True)
    return folder


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_dataset("voc", root, images={"train": 1, "val": 3})
    return root


@pytest.fixture(scope="module")
def tested(models, voc, tmp_path_factory) -> Path:
    """The folder of a test of all images at scale 128, with its scores."""
    output = tmp_path_factory.mktemp("tested")
    images = "VOCdevkit/VOC2012/JPEGImages"
    listed = output.with_suffix(".lst")
    files = sorted((voc / images).iterdir())
    listed.write_text("".join(f"{images}/{file.name}\n" for file in files))
    weights = models / f"{VOC}_ep-0001.params"
    options = ("--test-scales", 128, "--save-predictions", "--split", "test", "--cpus", 1)
    result = run_evaluate("segmentation", weights, voc, output, "--list-file", listed, *options)
    assert result.exit_code == 0, result.output
    return output


def run(*arguments: object, ok: bool = False):
    result = make_runner().invoke(main, list(map(str, arguments)))
    assert not ok or result.exit_code == 0, result.output
    return result


def picture(path: Path, *, size: tuple[int, int] = (60, 90), seed: int = 0) -> Path:
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(blocks).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return path


# --- pictures as a viewer shows them


@pytest.mark.parametrize(
    ("orientation", "shown"),
    # What each orientation makes of a stored [[1, 2, 3], [4, 5, 6]] (EXIF 2.3, tag 274).
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (4, [[4, 5, 6], [1, 2, 3]]),
        (5, [[1, 4], [2, 5], [3, 6]]),
        (6, [[4, 1], [5, 2], [6, 3]]),
        (7, [[6, 3], [5, 2], [4, 1]]),
        (8, [[3, 6], [2, 5], [1, 4]]),
    ],
)
def test_exif_orientation(tmp_path, orientation, shown):
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    Image.fromarray(stored * 30).save(tmp_path / "x.png", exif=exif)
    found = load_as_shown(tmp_path / "x.png")
    np.testing.assert_array_equal(found, np.array(shown)[..., None].repeat(3, 2) * 30)


def check_pixels(path: Path, expected: list) -> None:
    found = load_as_shown(path)
    assert found.dtype == np.uint8
    assert found.tolist() == [expected]


def test_grey(tmp_path):
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(tmp_path / "x.png")
    check_pixels(tmp_path / "x.png", [[0, 0, 0], [7, 7, 7], [255, 255, 255]])


def test_one_bit(tmp_path):
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "x.png")
    check_pixels(tmp_path / "x.png", [[0, 0, 0], [255, 255, 255]])


@pytest.mark.parametrize("transparent", [None, 1])
def test_palette(tmp_path, transparent):
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 200, 100, 50])
    options = {} if transparent is None else {"transparency": transparent}
    image.save(tmp_path / "x.png", **options)
    second = [200, 100, 50] if transparent is None else [255, 255, 255]
    check_pixels(tmp_path / "x.png", [[10, 20, 30], second])


def test_alpha_shows_over_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    # A fifth of the colour and four fifths of white: 0.2 · (0, 100, 200) + 204.
    check_pixels(tmp_path / "x.png", [[10, 20, 30], [255, 255, 255], [204, 224, 244]])


def test_grey_with_alpha(tmp_path):
    Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA").save(tmp_path / "x.png")
    check_pixels(tmp_path / "x.png", [[10, 10, 10], [255, 255, 255]])


def test_transparent_colour(tmp_path):
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    Image.fromarray(rgb).save(tmp_path / "x.png", transparency=(1, 2, 3))
    check_pixels(tmp_path / "x.png", [[255, 255, 255], [4, 5, 6]])


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bit_grey(tmp_path, name):
    values = np.array([[0, 257, 1000, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    # 65535 / 255 is 257: 1000 / 257 is 3.9, 32768 / 257 is 127.5 and a little more.
    check_pixels(tmp_path / name, [[grey] * 3 for grey in (0, 1, 4, 128, 255)])


def test_16_bit_grey_in_32(tmp_path):
    Image.fromarray(np.array([[0, 65535]], np.int32)).save(tmp_path / "x.tif")
    check_pixels(tmp_path / "x.tif", [[0, 0, 0], [255, 255, 255]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 65536]], np.int32), r"x\.tif: .* whole numbers from 0 to 65536"),
        (np.array([[-1, 5]], np.int32), r"x\.tif: .* whole numbers from -1 to 5"),
        (np.array([[0.5, 1.5]], np.float32), r"x\.tif: .* fractions without a known range"),
    ],
)
def test_numbers_without_a_range(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(BrokenImage, match=message):
        load_as_shown(tmp_path / "x.tif")


def test_cut_off_file(tmp_path):
    path = picture(tmp_path / "x.jpg", size=(200, 300))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(BrokenImage, match=r"x\.jpg: cannot be used as an image: .*truncated"):
        load_as_shown(path)
    with pytest.raises(FileNotFoundError, match=r"none\.jpg: no such image file"):
        load_as_shown(tmp_path / "none.jpg")


def test_large_images(tmp_path, monkeypatch):
    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    chunks = ((kind + data, len(data)) for kind, data in ((b"IHDR", header), (b"IDAT", b"")))
    parts = [
        struct.pack(">I", size) + one + struct.pack(">I", zlib.crc32(one)) for one, size in chunks
    ]
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    message = r"x\.png: 20000×10000 are 200,000,000 pixels, more than 178,956,970.*200000000$"
    with pytest.raises(BrokenImage, match=message):
        load_image(tmp_path / "x.png")
    picture(tmp_path / "y.png", size=(60, 90))
    with pytest.raises(BrokenImage, match=r"90×60 are 5,400 pixels, .*: .*add --max-pixels 5400"):
        load_image(tmp_path / "y.png", max_pixels=5399)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    assert load_image(tmp_path / "y.png", max_pixels=5400).shape == (60, 90, 3)
    assert Image.MAX_IMAGE_PIXELS == 7


# --- which images


def test_folders_and_files_in_order(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("b.JPG", "a.png", "notes.txt", "c.webp", "e.mpo", "f.MPO", "g.mpo", "h"):
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    other = tmp_path / "d.png" / "z.bin"  # named, so taken whatever its suffix
    other.touch()
    found = find_images([other, tmp_path])
    assert [path.name for path in found] == ["z.bin", "a.png", "b.JPG", "c.webp"]
    (told,) = caplog.messages
    assert f"{tmp_path}: passed over 5 of 8 files" in told
    assert "2 .mpo" in told and ", 1 .MPO" in told and "1 .txt" in told and "1 without a s" in told


def test_images_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image in this folder"):
        find_images([tmp_path])
    with pytest.raises(FileNotFoundError, match=r"x\.png: no such file or folder"):
        find_images([tmp_path / "x.png"])
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"a\.jpg, .*a\.png: their results would have the same"):
        find_images([tmp_path])


# --- labels


@pytest.mark.parametrize(
    ("label", "options"),
    [
        (VOC, {}),
        (VOC, {"test_flipping": True, "test_scales": (96, 150)}),
        ("voc_rna-a_cls21_s16", {"pool": "caffe", "test_scales": (128,)}),  # a cell less
    ],
)
def test_segmentation_is_that_of_evaluate(models, voc, tmp_path, label, options):
    weights = models / f"{label}_ep-0001.params"
    if not weights.exists():
        write_weights(models, label)
    settings = {"test_scales": (500,), **options}
    evaluate(SegmentationOptions((weights,), voc, output=tmp_path / "evaluated", **settings))
    expected = sorted((tmp_path / "evaluated" / "labels").iterdir())
    images = [voc / "VOCdevkit/VOC2012" / "JPEGImages" / f"{path.stem}.jpg" for path in expected]
    found = PredictionOptions(weights, tmp_path / "found", backend="mxnet", **options)
    assert len(list(predict(images, found))) == len(images) == 3
    for path in expected:
        ours = Image.open(tmp_path / "found" / "labels" / path.name)
        assert ours.getpalette() == Image.open(path).getpalette()
        np.testing.assert_array_equal(np.array(ours), np.array(Image.open(path)))


def test_classification_is_that_of_evaluate(models, tmp_path):
    for number in range(2):
        picture(tmp_path / f"{number}.png", seed=number)
    (tmp_path / "x.lst").write_text("0\t5\t0.png\n1\t7\t1.png\n")
    weights = models / f"{ILSVRC}_ep-0001.params"
    settings = {"test_scales": (64, 96), "test_flipping": True}
    evaluate(
        ClassificationOptions(
            (weights,),
            tmp_path,
            output=tmp_path / "evaluated",
            list_file=tmp_path / "x.lst",
            **settings,
        )
    )
    scales = [np.load(tmp_path / "evaluated" / "predictions" / f"{s}.npy") for s in (64, 96)]
    options = PredictionOptions(weights, tmp_path / "found", backend="mxnet", **settings)
    images = [tmp_path / "0.png", tmp_path / "1.png"]
    names = DATASETS["ilsvrc-cls"].class_names
    for prediction, expected in zip(predict(images, options), np.mean(scales, axis=0)):
        best = np.argsort(-expected)[:5]
        assert [one.index for one in prediction.classes] == best.tolist()
        assert [one.name for one in prediction.classes] == [names[index] for index in best]
        assert [one.value for one in prediction.classes] == pytest.approx(
            expected[best].tolist(), rel=1e-5
        )


def test_classification_prints_five_classes(models, tmp_path):
    image = picture(tmp_path / "dog.png")
    result = run(
        *("predict", image, "--weights", models / f"{ILSVRC}_ep-0001.params"),
        *("--output", tmp_path / "out", "--test-scales", "64"),
        ok=True,
    )
    record = json.loads((tmp_path / "out" / "classes" / "dog.json").read_text())
    name, *lines = result.stdout.splitlines()
    assert name == str(image)
    assert [line.split(" %  ") for line in lines] == [
        [f"{100 * one['value']:8.2f}", one["name"]] for one in record["classes"]
    ]
    assert len(lines) == 5


@pytest.mark.parametrize("suffix", [".params", ".pth", ".safetensors", ".onnx"])
def test_every_file_on_every_backend(models, voc, tested, tmp_path, suffix):
    pytest.importorskip("torch")
    images = voc / "VOCdevkit/VOC2012" / "JPEGImages"
    labels = {}
    for backend in ("mxnet", "torch", "onnx"):
        run(
            *("predict", images, "--weights", models / f"{VOC}_ep-0001{suffix}"),
            *("--output", tmp_path / backend, "--backend", backend, "--test-scales", "128"),
            ok=True,
        )
        files = sorted((tmp_path / backend / "labels").iterdir())
        labels[backend] = {file.stem: np.array(Image.open(file)) for file in files}
    assert len(labels["mxnet"]) == 4
    for name, found in labels["mxnet"].items():
        scores = saved_scores(tested, name, found.shape, (128,))
        for backend in ("torch", "onnx"):
            assert not differ_clearly(labels[backend][name], found, scores).any()


def test_shares_are_those_of_the_labels(models, tmp_path):
    image = picture(tmp_path / "x.png", size=(50, 80))
    out = tmp_path / "out"
    result = run(
        "predict", image, "--weights", models / f"{VOC}_ep-0001.onnx", "--output", out, ok=True
    )
    labels = np.array(Image.open(out / "labels" / "x.png"))
    assert labels.shape == (50, 80)
    record = json.loads((out / "shares" / "x.json").read_text())
    for one in record["classes"]:
        assert one["value"] == pytest.approx(np.mean(labels == one["index"]), abs=1e-12)
        assert one["name"] == DATASETS["voc"].class_names[one["index"]]
    assert {one["index"] for one in record["classes"]} == set(np.unique(labels).tolist())
    assert record["classes"][0]["name"] in result.stdout.splitlines()[1]
    assert Image.open(out / "overlays" / "x.png").width > 80


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (33, 200)])
def test_a_fixed_input_takes_images_of_any_shape(models, tmp_path, size):
    fixed = tmp_path / "fixed.onnx"
    run("convert", models / f"{VOC}_ep-0001.params", fixed, "--input", "96x120", ok=True)
    image = picture(tmp_path / "x.png", size=size)
    arguments = ("predict", image, "--weights", fixed, "--output", tmp_path / "out")
    run(*arguments, ok=True)
    assert Image.open(tmp_path / "out" / "labels" / "x.png").size == size[::-1]
    result = run(*arguments, "--overwrite", "--test-scales", "500")
    assert result.exit_code == 1
    assert "takes images of up to 96×120 pixels, and one would have" in result.stderr


@pytest.mark.parametrize(("pool", "cells"), [("pad", 9), ("caffe", 8)])
def test_a_fixed_input_that_ends_within_a_cell(tmp_path, pool, cells):
    weights, fixed = write_weights(tmp_path, "voc_rn-34a_cls21_s8"), tmp_path / "fixed.onnx"
    run("convert", weights, fixed, "--input", "65x65", "--pool", pool, ok=True)
    image = picture(tmp_path / "x.png", size=(64, 64))
    run("predict", image, "--weights", fixed, "--output", tmp_path / "out", ok=True)

    inputs = np.zeros((1, 3, 65, 65), np.float32)
    inputs[0, :, :64, :64] = normalize(load_image(image), RN)
    (maps,) = OnnxPredictor.from_onnx(fixed, devices=Devices())(inputs, batch=1)
    assert maps.shape == (21, cells, cells)
    scores = [Image.fromarray(one).resize((8 * cells,) * 2, Image.BICUBIC) for one in maps]
    scores = np.array(scores)[:, :64, :64]
    found = np.array(Image.open(tmp_path / "out" / "labels" / "x.png"))
    assert len(np.unique(found)) > 1
    assert not differ_clearly(found, scores.argmax(0), scores).any()

    again = ("predict", image, "--weights", fixed, "--output", tmp_path / "out", "--overwrite")
    run(*again, "--pool", pool, ok=True)
    result = run(*again, "--pool", "full")
    assert result.exit_code == 1
    assert f"--pool full: {fixed} has the geometry {pool}" in result.stderr


def test_a_file_whose_name_is_no_label_needs_one(models, tmp_path):
    other = tmp_path / "weights.params"
    other.write_bytes((models / f"{VOC}_ep-0001.params").read_bytes())
    image = picture(tmp_path / "x.png", size=(8, 8))
    result = run("predict", image, "--weights", other, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "expected <dataset>" in result.stderr
    assert "; name the network by --label LABEL" in result.stderr


def test_an_image_is_turned_before_it_is_labelled(models, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    image = Image.open(picture(tmp_path / "straight.png", size=(60, 90)))
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    paths = [tmp_path / "straight.png", tmp_path / "turned.png"]
    options = PredictionOptions(models / f"{VOC}_ep-0001.onnx", tmp_path / "out")
    straight, turned = predict(paths, options)
    assert straight.classes == turned.classes


def test_a_broken_image_is_named_and_the_rest_go_on(models, tmp_path):
    images = [picture(tmp_path / "a.png"), tmp_path / "b.png", picture(tmp_path / "c.png")]
    images[1].write_bytes(b"<html>")
    result = run(
        *("predict", *images, "--weights", models / f"{VOC}_ep-0001.onnx"),
        *("--output", tmp_path / "out", "--test-scales", "64"),
    )
    assert result.exit_code == 1
    assert f"left out: {images[1]}: cannot be used as an image" in result.stderr
    assert "1 of 3 images could not be used" in result.stderr
    assert [path.name for path in sorted((tmp_path / "out" / "labels").iterdir())] == [
        "a.png",
        "c.png",
    ]


def test_results_are_not_replaced_unasked(models, tmp_path):
    image = picture(tmp_path / "a.png")
    (tmp_path / "out" / "shares").mkdir(parents=True)
    old = tmp_path / "out" / "shares" / "a.json"
    old.write_text("old")
    arguments = (
        *("predict", image, "--weights", models / f"{VOC}_ep-0001.onnx"),
        *("--output", tmp_path / "out", "--test-scales", "64"),
    )
    result = run(*arguments)
    assert result.exit_code == 1
    assert "a.json exists: choose another --output or add --overwrite" in result.stderr
    assert old.read_text() == "old" and not (tmp_path / "out" / "labels").exists()
    run(*arguments, "--overwrite", ok=True)
    assert json.loads(old.read_text())["label"] == VOC


@pytest.mark.parametrize(
    "label",
    [
        "voc_rna-b_cls21",  # the label's stride is 32, the network's own is 16
        "voc_rna-c_cls5_s16",  # classes without names
        "cityscapes_rna-c_cls19_s8",  # label ids are not class ids; the canvas is not square
        "voc_rn-34a_cls21_s8",  # another normalisation
    ],
)
def test_other_networks(tmp_path, label):
    weights = write_weights(tmp_path, label)
    image = picture(tmp_path / "x.png", size=(40, 70))
    options = PredictionOptions(weights, tmp_path / "out", backend="onnx", test_scales=(104,))
    (prediction,) = predict([image], options)
    stored = np.array(Image.open(tmp_path / "out" / "labels" / "x.png"))
    dataset = DATASETS[label.split("_")[0]]
    ids = dataset.stored_ids or range(256)
    assert {ids[one.index] for one in prediction.classes} == set(np.unique(stored).tolist())
    assert sum(one.value for one in prediction.classes) == pytest.approx(1)
    if "cls5" in label:
        assert {one.name for one in prediction.classes} <= {f"class {i}" for i in range(5)}


def test_a_second_run_into_the_folder_is_refused(models, tmp_path):
    options = PredictionOptions(
        models / f"{ILSVRC}_ep-0001.params", tmp_path / "out", backend="onnx", test_scales=(64,)
    )
    first = predict([picture(tmp_path / "x.png"), picture(tmp_path / "y.png")], options)
    next(first)
    with pytest.raises(ValueError, match=r"--output .*out: process .* is at work in it"):
        next(predict([tmp_path / "x.png"], options))
    assert not next(first).error
    assert list(first) == []


def test_names_that_are_too_long_for_results_or_odd(models, tmp_path):
    """`.json` is longer than `.png`."""
    images = [picture(tmp_path / f"{name}.png") for name in ("n" * 251, "m" * 250, "a\x1b[2J")]
    weights = models / f"{VOC}_ep-0001.params"
    options = ("--output", tmp_path / "out", "--test-scales", 64, "--backend", "onnx")
    result = run("predict", "--weights", weights, *options, *images)
    assert result.exit_code == 1
    assert "File name too long: give the image a shorter name" in result.stderr
    assert "1 of 3 images could not be used" in result.stderr
    assert "\x1b" not in result.output and r"/a\x1b[2J.png" in result.stdout
    assert len(list((tmp_path / "out" / "shares").iterdir())) == 2


def test_damaged_weights(models, tmp_path):
    from ademx import params

    arg_params, aux_params = params.load(models / f"{ILSVRC}_ep-0001.params")
    arg_params["bn7_beta"][0] = np.nan
    path = tmp_path / f"{ILSVRC}_ep-0001.params"
    params.save(path, arg_params, aux_params)
    options = PredictionOptions(path, tmp_path / "out", backend="onnx", test_scales=(64,))
    with pytest.raises(ValueError, match=r"ep-0001\.params: 1 of .* numbers of bn7_beta are nan"):
        list(predict([picture(tmp_path / "x.png")], options))


def test_pytorch_compiles_where_it_is_asked_to(models, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network, **_: compiled.append(1) or network)
    monkeypatch.setattr("ademx.engines.torch.predict._can_compile", lambda: True)
    weights, image = models / f"{ILSVRC}_ep-0001.params", picture(tmp_path / "x.png")
    command = ["predict", image, "--weights", weights, "--test-scales", "64", "--output"]
    for name, options in {"plain": [], "compiled": ["--compile"]}.items():
        run(*command, tmp_path / name, "--backend", "torch", *options, ok=True)
        assert bool(compiled) == (name == "compiled")
    found = run(*command, tmp_path / "mxnet", "--backend", "mxnet", "--compile")
    assert found.exit_code == 1
    assert "--compile: mxnet compiles nothing: add --backend torch" in found.stderr
    assert not (tmp_path / "mxnet").exists()


def test_options_that_do_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"--backend caffe: choose one of mxnet, torch, onnx"):
        PredictionOptions(tmp_path, tmp_path, backend="caffe")
    with pytest.raises(ValueError, match=r"--test-scales \(0,\): expected lengths above 0"):
        PredictionOptions(tmp_path, tmp_path, test_scales=(0,))


def test_needs_neither_mxnet_nor_torch(models, tmp_path):
    image = picture(tmp_path / "x.png")
    code = (
        "import sys; sys.modules['mxnet'] = sys.modules['torch'] = None\n"
        "from ademx.cli import main\n"
        "main(sys.argv[1:])"
    )
    for suffix in (".onnx", ".params", ".safetensors"):
        weights = models / f"{VOC}_ep-0001{suffix}"
        arguments = ["predict", image, "--weights", weights, "--output", tmp_path / suffix]
        subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, check=True
        )
        assert (tmp_path / suffix / "labels" / "x.png").is_file()


# --- what is drawn, and names


def test_overlay_and_legend():
    image = np.full((400, 500, 3), 100, np.uint8)
    classes = np.zeros((400, 500), np.uint8)
    classes[:, 250:] = 2
    palette = [(0, 0, 0), (255, 0, 0), (0, 200, 50)]
    rows = [ClassShare(0, "background", 0.5), ClassShare(2, "bicycle", 0.5)]
    drawn = np.array(draw_classes(image, classes, palette, rows))
    assert drawn.shape[0] == 400 and drawn.shape[1] > 600
    assert drawn[200, 100].tolist() == [100, 100, 100]  # black is not laid over the image
    assert drawn[200, 400].tolist() == [40, 160, 70]  # 0.4 of the image, 0.6 of the colour
    assert drawn[200, 249].tolist() == [224, 224, 224]  # 0.8 of white over 100
    legend = drawn[:, 500:].reshape(-1, 3)
    assert (legend == (0, 200, 50)).all(axis=1).sum() > 100  # the swatch, in full colour


@pytest.mark.parametrize("side", [4, 40, 3000])
def test_outlines_are_as_thick_as_by_pillow(side):
    edges = np.random.default_rng(0).random((31, 7)) < 0.1
    width = max(1, round(side / 400)) // 2 * 2 + 1
    expected = np.array(Image.fromarray(edges).filter(ImageFilter.MaxFilter(width)))
    np.testing.assert_array_equal(_thickened(edges, width // 2), expected)


def test_small_pictures_are_enlarged_and_long_legends_cut():
    grey = np.full((40, 50, 3), 90, np.uint8)
    rows = [ClassShare(number, f"class {number}", 1 / 40) for number in range(40)]
    palette = [(0, 0, 0), *((number, 9, 9) for number in range(1, 40))]
    drawn = draw_classes(grey, np.zeros((40, 50), int), palette, rows)
    assert np.array(drawn)[319, 399].tolist() == [90, 90, 90]  # eight times as large
    all_of_them = draw_classes(grey, np.zeros((40, 50), int), palette, rows[:25])
    assert drawn.height == all_of_them.height  # 24 rows and one for the rest


def test_imagenet_names_are_gluoncvs():
    from gluoncv_beside_torch import import_gluoncv

    pytest.importorskip("mxnet")
    attributes = import_gluoncv().data.ImageNet1kAttr()
    assert attributes.synset == sorted(attributes.synset)  # the order of the classes
    assert DATASETS["ilsvrc-cls"].class_names == tuple(attributes.classes)

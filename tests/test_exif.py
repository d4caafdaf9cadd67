"""One reader for all commands: what is stored in odd ways, and images that lie on their side."""

import io
import json
import logging
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from commands import run_evaluate
from PIL import Image, ImageFile, ImageOps

from ademx.data.check.dataset import check_dataset
from iters.augment_classification import ClassificationAugmentation
from iters.augment_segmentation import SegmentationAugmentation
from iters.datasets import DATASETS
from iters.decode import BrokenImage, decode_image, decode_numbers, decode_stored_ids, is_turned
from iters.exif import Watch, orientation
from iters.images import load_image, load_label, load_sample
from iters.lists import find_samples
from iters.transforms import RNA

HEIGHT, WIDTH = 37, 23
load_as_shown = partial(load_image, turned=True, over_white=True)


def png(rows, *, bits, colour_type, width, palette=b""):
    """Return a PNG of rows of bytes, written down chunk by chunk (ISO/IEC 15948)."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"PLTE", palette) if palette else b""]
    chunks += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def packed(numbers, bits):
    """Return rows of numbers of so many bits, the first in the highest bits, as bytes."""
    rows = []
    for row in numbers.tolist():
        text = "".join(f"{number:0{bits}b}" for number in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return rows


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("colour_type", [0, 3], ids=["grey", "palette"])
def test_labels_of_any_depth_give_the_stored_number(tmp_path, bits, colour_type):
    if bits == 16 and colour_type == 3:
        with pytest.raises(BrokenImage):  # there is no such PNG
            decode_numbers(png([b"\0\0"], bits=16, colour_type=3, width=1, palette=b"abc"))
        return
    numbers = np.random.default_rng(bits).integers(0, 1 << bits, (HEIGHT, WIDTH))
    numbers[0, :2] = 0, (1 << bits) - 1
    palette = bytes(range(200, 256)) * 14 if colour_type == 3 else b""
    palette = palette[: 3 << min(bits, 8)]
    encoded = png(
        packed(numbers, bits), bits=bits, colour_type=colour_type, width=WIDTH, palette=palette
    )
    np.testing.assert_array_equal(decode_numbers(encoded), numbers)
    expected = np.where(numbers > 255, 255, numbers)
    np.testing.assert_array_equal(decode_stored_ids(encoded), expected)
    np.testing.assert_array_equal(decode_stored_ids(encoded, (3, 5, 9, 11)), expected[3:12, 5:16])
    path = tmp_path / "label.png"
    path.write_bytes(encoded)
    np.testing.assert_array_equal(load_label(path), expected)


def test_check_reads_the_numbers_that_testing_reads(tmp_path):
    """3 of 2 bits is class 3, and not the 255 that it is in grey."""
    numbers = np.random.default_rng(0).integers(0, 4, (HEIGHT, WIDTH))
    for name in ("images/training/a.jpg", "annotations/training/a.png"):
        (tmp_path / name).parent.mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images/training/a.jpg")
    (tmp_path / "annotations/training/a.png").write_bytes(
        png(packed(numbers, 2), bits=2, colour_type=0, width=WIDTH)
    )
    found = check_dataset("ade20k", tmp_path, splits=["train"], expect_counts=False)
    assert found.ok
    (empty,) = (remark for remark in found.remarks if remark.kind == "empty")
    assert "no pixel of 147 of 150 classes" in empty.detail


def test_images_of_16_bits_are_scaled_alike_by_all_readers(tmp_path):
    values = np.array([[0, 128, 129, 257], [32768, 40000, 65407, 65535]])
    grey = (values + 128) // 257  # the nearest of 256 levels
    path = tmp_path / "grey.png"
    path.write_bytes(png(packed(values, 16), bits=16, colour_type=0, width=4))
    for found in (load_image(path), load_as_shown(path)):
        np.testing.assert_array_equal(found, np.stack([grey] * 3, axis=2))
    part = np.asarray(decode_image(path.read_bytes(), (0, 1, 1, 3)))
    np.testing.assert_array_equal(part[0, :, 1], grey[0, 1:])
    rows = packed(np.repeat(values, 3, axis=1), 16)
    path.write_bytes(png(rows, bits=16, colour_type=2, width=4))
    np.testing.assert_array_equal(load_image(path), load_as_shown(path))
    assert np.abs(load_image(path)[..., 0].astype(int) - grey).max() <= 1


def picture():
    coarse = np.random.default_rng(0).integers(0, 256, (8, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT))


def encoded(image, kind="JPEG", *, lies=None, **options):
    buffer = io.BytesIO()
    if lies is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = lies
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("lies", range(1, 9))
def test_an_image_is_turned_as_pillow_turns_it(kind, lies):
    data = encoded(picture(), kind, lies=lies)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    upright = decode_image(data, turned=True)
    np.testing.assert_array_equal(np.asarray(upright), expected)
    box = (2, 3, 9, 11)
    part = decode_image(data, box, turned=True)
    np.testing.assert_array_equal(np.asarray(part), expected[2:11, 3:14])
    if kind != "TIFF":  # Pillow turns these always
        assert orientation(data) == lies
        assert decode_image(data).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("lies", "label", "rule", "expected"),
    [
        (6, (WIDTH, HEIGHT), "auto", True),
        (6, (HEIGHT, WIDTH), "auto", False),
        (8, (WIDTH, HEIGHT), "auto", True),
        (3, (HEIGHT, WIDTH), "auto", False),  # cannot be seen from the sizes
        (1, (WIDTH, HEIGHT), "auto", False),
        (6, (WIDTH, HEIGHT + 1), "auto", False),  # neither fits
        (6, None, "auto", False),
        (6, (WIDTH, HEIGHT), "ignore", False),
        (6, (HEIGHT, WIDTH), "turn", True),
        (3, None, "turn", True),
        (1, None, "turn", False),
        (9, None, "turn", False),  # no such orientation
    ],
)
def test_when_an_image_is_turned(lies, label, rule, expected):
    assert is_turned(encoded(picture(), lies=lies), label, rule) == expected


def test_damaged_exif_data_turn_nothing():
    data = bytearray(encoded(picture(), lies=6))
    start = data.index(b"Exif") + 6
    for end in range(start, start + 20):
        damaged = data.copy()
        damaged[start:end] = b"\xff" * (end - start)
        assert decode_image(bytes(damaged), turned=True).size in ((WIDTH, HEIGHT), (HEIGHT, WIDTH))
    assert orientation(b"not an image") == 1


def write_sample(root, *, lies, label_lies=False):
    """Write VOC's split of one image, stored lying, and its label, which is upright if not."""
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("a\n")
    (root / "JPEGImages/a.jpg").write_bytes(encoded(picture(), lies=lies))
    height, width = (HEIGHT, WIDTH) if label_lies or lies < 5 else (WIDTH, HEIGHT)
    stored = np.random.default_rng(1).integers(0, 21, (height, width), np.uint8)
    stored[0, 0] = 255
    Image.fromarray(stored).save(root / "SegmentationClass/a.png")
    return stored


@pytest.mark.parametrize("rule", ["auto", "turn", "ignore"])
def test_a_sample_is_turned_where_only_that_fits_its_label(tmp_path, rule):
    stored = write_sample(tmp_path, lies=6)
    (sample,) = find_samples("voc", tmp_path, "val")
    loaded = load_sample(sample, rule=rule)
    stored_image = load_image(sample.image)
    expected = stored_image if rule == "ignore" else np.rot90(stored_image, -1)
    np.testing.assert_array_equal(loaded.image, expected)
    np.testing.assert_array_equal(loaded.stored, stored)
    assert (loaded.orientation, loaded.turned) == (6, rule != "ignore")


@pytest.mark.parametrize(
    ("lies", "label_lies", "kind", "detail"),
    [
        (6, False, "exif", "6, turned by 90°: its label has the size of the turned image"),
        (6, True, "exif", "6, turned by 90°: its label has the size of the stored image"),
        (3, False, "unseen", "3, turned by 180°: its label's size does not show"),
    ],
)
def test_check_reports_what_exif_data_turn(tmp_path, lies, label_lies, kind, detail):
    write_sample(tmp_path, lies=lies, label_lies=label_lies)
    found = check_dataset("voc", tmp_path, splits=["val"], expect_counts=False)
    assert found.ok
    (remark,) = (remark for remark in found.remarks if remark.kind in ("exif", "unseen"))
    assert remark.kind == kind
    assert remark.path == str(tmp_path / "JPEGImages/a.jpg")
    assert detail in remark.detail


def test_the_first_of_each_kind_is_warned_of_and_all_are_counted(caplog):
    watch = Watch()
    with caplog.at_level(logging.WARNING):
        watch.note("a.jpg", 3, turned=False)
        watch.note("b.jpg", 6, turned=True)
        watch.note("b.jpg", 6, turned=True)
        watch.note("c.jpg", 3, turned=False)
    half, quarter = caplog.messages
    assert "a.jpg: EXIF orientation 3, turned by 180°: taken as it is stored, for no size" in half
    assert "b.jpg: EXIF orientation 6, turned by 90°: set upright" in quarter
    assert watch.counts == {"turned": 1, "as_stored": 2}


def segmentation_sample(image, label, *, rule):
    augmentation = SegmentationAugmentation(
        *(32, 40, (0.7, 1.3), 8, RNA, DATASETS["voc"]), exif=rule
    )
    out, out_label = np.zeros((3, 32, 32), np.float32), np.zeros(16, np.float32)
    draws = augmentation.apply(image, label, np.random.default_rng(3), out, out_label)
    return draws, out, out_label


@pytest.mark.parametrize("rule", ["auto", "turn"])
def test_training_turns_an_image_as_testing_does(rule):
    """The sample is that of the same image stored upright, without loss."""
    image = picture()
    lying, upright = encoded(image, "PNG", lies=6), encoded(image.rotate(-90, expand=True), "PNG")
    stored = np.random.default_rng(1).integers(0, 21, (WIDTH, HEIGHT), np.uint8)
    label = encoded(Image.fromarray(stored), "PNG")
    found = segmentation_sample(lying, label, rule=rule)
    expected = segmentation_sample(upright, label, rule="ignore")
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[2], expected[2])
    with pytest.raises(BrokenImage, match=f"the image is {HEIGHT}×{WIDTH}, its label {WIDTH}×"):
        segmentation_sample(lying, label, rule="ignore")


@pytest.mark.parametrize("rule", ["auto", "turn"])
def test_training_a_classifier_turns_only_when_told(rule):
    image = picture()
    lying, upright = encoded(image, "PNG", lies=6), encoded(image.rotate(-90, expand=True), "PNG")
    found, expected = np.zeros((2, 3, 16, 16), np.float32)
    draws = ClassificationAugmentation(16, RNA, exif=rule).apply(
        lying, np.random.default_rng(3), found
    )
    told = ClassificationAugmentation(16, RNA).apply(
        upright if rule == "turn" else encoded(image, "PNG"), np.random.default_rng(3), expected
    )
    assert draws == told
    np.testing.assert_array_equal(found, expected)


def test_training_warns_before_it_starts(tmp_path, caplog):
    pytest.importorskip("mxnet")
    from ademx.training.batches import warn_of_exif

    write_sample(tmp_path, lies=6)
    samples = find_samples("voc", tmp_path, "val") * 300
    for rule in ("ignore", "turn"):
        warn_of_exif(samples, rule)
    assert not caplog.messages
    warn_of_exif(samples, "auto")
    (message,) = caplog.messages
    assert "a.jpg: EXIF orientation 6, turned by 90°: set upright, which alone fits" in message


def test_evaluate_scores_nothing_on_its_side(tmp_path, weights):
    """As the same image stored upright is scored; an image that does not fit is left out."""
    lying, upright = tmp_path / "lying", tmp_path / "upright"
    for root in (lying, upright):
        write_sample(root, lies=6)
    (lying / "JPEGImages/a.jpg").write_bytes(encoded(picture(), "PNG", lies=6))
    picture().rotate(-90, expand=True).save(upright / "JPEGImages/a.jpg", "PNG")
    records = []
    for root in (lying, upright):
        page = root / "report.html"
        result = run_evaluate("segmentation", weights, root, root / "out", "--report", page)
        assert result.exit_code == 0, result.output
        assert "but its image has" not in page.read_text(encoding="utf-8")
        records.append(json.loads((root / "out/scores.json").read_text()))
    assert [record["exif"]["turned"] for record in records] == [1, 0]
    assert records[0]["confusion"] == records[1]["confusion"]
    assert np.sum(records[0]["confusion"]) > 0
    run_evaluate("segmentation", weights, lying, lying / "stored", "--exif", "ignore")
    record = json.loads((lying / "stored/scores.json").read_text())
    assert (record["num_broken"], record["settings"]["exif"]) == (1, "ignore")
    assert "but its image has" in record["broken"][0]["error"]


def test_a_png_that_tells_nothing_is_not_decoded_for_it(monkeypatch):
    lying = encoded(picture(), "PNG", lies=6)
    plain = encoded(picture(), "PNG")
    start = lying.index(b"eXIf") - 4
    chunk = lying[start : start + 12 + int.from_bytes(lying[start : start + 4], "big")]
    behind = plain[:-12] + chunk + plain[-12:]  # after the pixels
    assert (orientation(lying), orientation(behind)) == (6, 6)
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image))
    assert orientation(plain) == 1
    assert not decoded

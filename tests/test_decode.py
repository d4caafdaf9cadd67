"""Decoding of crops against Pillow's decoding of whole files."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from iters.decode import BrokenImage, decode_image, decode_stored_ids, image_size, shorten
from iters.images import load_label

HEIGHT, WIDTH = 83, 101  # no multiple of any block


def picture(mode="RGB"):
    """Return an image with strong colours, so that chroma from other rows would show."""
    coarse = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT)).convert(mode)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def whole(data):
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("restart", [{}, {"restart_marker_rows": 1}])
def test_every_row_of_a_shortened_jpeg_is_that_of_the_whole(mode, subsampling, restart):
    data = encoded(picture(mode), "JPEG", quality=90, subsampling=subsampling, **restart)
    expected = whole(data)
    for bottom in range(1, HEIGHT + 1):
        box = (bottom - 1, 3, 1, 90)
        np.testing.assert_array_equal(decode_image(data, box), expected[bottom - 1 : bottom, 3:93])
    short = shorten(data, HEIGHT // 2)
    assert Image.open(io.BytesIO(short)).height < HEIGHT


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_every_row_of_a_shortened_png_is_that_of_the_whole(mode):
    data = encoded(picture(mode), "PNG")
    expected = whole(data)
    for bottom in range(1, HEIGHT + 1):
        box = (bottom - 1, 3, 1, 90)
        np.testing.assert_array_equal(decode_image(data, box), expected[bottom - 1 : bottom, 3:93])
    assert Image.open(io.BytesIO(shorten(data, 10))).height == 10


@pytest.mark.parametrize(
    "data",
    [
        encoded(picture(), "JPEG", progressive=True),
        encoded(picture(), "BMP"),
        encoded(picture(), "GIF"),
        encoded(picture(), "WEBP", lossless=True),
    ],
    ids=["progressive JPEG", "BMP", "GIF", "WebP"],
)
def test_files_that_cannot_be_shortened_are_decoded_whole(data):
    assert shorten(data, 10) is None
    np.testing.assert_array_equal(decode_image(data, (2, 3, 20, 30)), whole(data)[2:22, 3:33])


def test_a_jpeg_with_a_scan_for_each_channel_is_not_shortened():
    data = bytearray(encoded(picture(), "JPEG"))
    scan = data.index(b"\xff\xda")
    data[scan + 4] = 1  # channels in the first scan
    assert shorten(bytes(data), 10) is None


def test_an_animated_png_whose_frames_would_not_fit_is_decoded_whole():
    frames = [picture(), picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(data, (0, 0, 5, WIDTH)), whole(data)[:5])


def test_nothing_is_gained_near_the_last_row():
    assert shorten(encoded(picture(), "PNG"), HEIGHT) is None
    assert shorten(encoded(picture(), "JPEG"), HEIGHT - 4) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_files_cut_short_are_broken_wherever_the_box_lies(kind, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as gluoncv leaves it
    data = encoded(picture(), kind)
    with pytest.raises(BrokenImage, match="cannot be used as an image"):
        decode_image(data[: len(data) * 3 // 4], (0, 0, 4, 4))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"not an image" * 9])
@pytest.mark.parametrize("function", [image_size, decode_image, decode_stored_ids])
def test_what_is_no_image_is_broken(function, data):
    with pytest.raises(BrokenImage, match="cannot be used as an image: "):
        function(data)
    assert shorten(data, 10) is None


def test_damaged_headers_never_raise_anything_else():
    data = encoded(picture(), "JPEG")
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for position in rng.integers(0, 640, 3):
            damaged[position] = rng.integers(256)
        try:
            decoded = decode_image(bytes(damaged), (0, 0, 8, 8))
        except BrokenImage:
            continue
        assert decoded.size == (8, 8)


def test_size_is_height_then_width():
    assert image_size(encoded(picture(), "JPEG")) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("mode", ["P", "L", "I;16"])
def test_stored_ids_are_those_of_load_label(tmp_path, mode):
    ids = np.random.default_rng(0).integers(0, 400 if mode == "I;16" else 256, (30, 40))
    image = Image.fromarray(ids.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    image.save(tmp_path / "label.png")
    expected = load_label(tmp_path / "label.png")
    found = decode_stored_ids((tmp_path / "label.png").read_bytes(), (3, 4, 10, 20))
    np.testing.assert_array_equal(found, expected[3:13, 4:24])
    assert found.dtype == np.uint8


def test_a_label_in_colours_is_broken():
    with pytest.raises(BrokenImage, match="mode RGB: expected one number a pixel"):
        decode_stored_ids(encoded(picture(), "PNG"))


def test_an_image_above_the_limit_is_refused_with_a_cure(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
    with pytest.raises(BrokenImage, match=r"more than 8,380 pixels.*cut it up.*--max-pixels"):
        decode_image(encoded(picture(), "PNG"))

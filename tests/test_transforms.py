"""Test-side transforms against Pillow, plain numpy and arithmetic by hand."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iters.decode import BrokenImage
from iters.images import load_image, load_label
from iters.transforms import (
    RN,
    RNA,
    canvas_size,
    center_crop,
    interleave,
    interpolation,
    normalize,
    resize,
    resize_longer,
    resize_shorter,
    shifted_canvas,
    ten_crops,
    three_crops,
)


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image, kind):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_load_image_is_rgb_whatever_the_mode(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.fromarray(random_image(5, 7)).convert(mode).save(path)
    image = load_image(path)
    assert (image.shape, image.dtype) == ((5, 7, 3), np.uint8)
    np.testing.assert_array_equal(image, Image.open(path).convert("RGB"))


def test_load_image_keeps_channel_order_and_sides(tmp_path):
    pixels = random_image(4, 6)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    np.testing.assert_array_equal(load_image(tmp_path / "image.png"), pixels)


@pytest.mark.parametrize("load", [load_image, load_label])
def test_missing_images_are_named(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=r"none\.jpg: no such image file"):
        load(tmp_path / "none.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_and_foreign_files_are_named(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)  # as gluoncv sets it
    path = tmp_path / "broken.img"
    for content in (encoded(random_image(40, 40), kind)[:-400], b"not an image", b""):
        path.write_bytes(content)
        with pytest.raises(BrokenImage, match=r"broken\.img: cannot be used as an image: \w+"):
            load_image(path)


def test_damaged_bytes_raise_nothing_else(tmp_path):
    """Either the damage goes unnoticed, or the error names the file."""
    rng = np.random.default_rng(3)
    path, num_broken = tmp_path / "damaged.img", 0
    for kind in ("JPEG", "PNG"):
        original = np.frombuffer(encoded(random_image(12, 12), kind), np.uint8)
        for _ in range(60):
            content = original.copy()
            content[rng.integers(0, len(content), 6)] = rng.integers(0, 256, 6)
            path.write_bytes(content.tobytes())
            try:
                assert load_image(path).shape[2] == 3
            except BrokenImage as error:
                num_broken += 1
                assert str(path) in str(error)
    assert num_broken > 40


def test_load_label_reads_palette_indices(tmp_path):
    stored = np.array([[0, 1, 2], [20, 255, 7]], np.uint8)
    image = Image.fromarray(stored, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(tmp_path / "palette.png")
    Image.fromarray(stored).save(tmp_path / "grey.png")
    for name in ("palette.png", "grey.png"):
        label = load_label(tmp_path / name)
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, stored)


def test_load_label_of_16_bits(tmp_path):
    stored = np.array([[0, 90, 255], [256, 257, 65535]], np.uint16)
    Image.fromarray(stored).save(tmp_path / "label.png")
    assert load_label(tmp_path / "label.png").tolist() == [[0, 90, 255], [255, 255, 255]]


def test_load_label_refuses_colours(tmp_path):
    Image.fromarray(random_image(3, 3)).save(tmp_path / "colours.png")
    with pytest.raises(BrokenImage, match=r"colours\.png: .*mode RGB: expected one number a pix"):
        load_label(tmp_path / "colours.png")


@pytest.mark.parametrize(
    ("size_to", "name"),
    [
        ((9, 19), "LANCZOS"),
        ((11, 21), "BICUBIC"),
        ((9, 21), "BILINEAR"),
        ((10, 19), "BILINEAR"),
        ((10, 21), "BILINEAR"),
        ((10, 20), "BILINEAR"),
    ],
)
def test_interpolation_rule(size_to, name):
    assert interpolation((10, 20), size_to) is Image.Resampling[name]
    assert interpolation((10, 20), size_to, choose=False) is Image.Resampling.BICUBIC


@pytest.mark.parametrize("choose", [True, False])
def test_resize_agrees_with_pillow(choose):
    image = random_image(30, 20)
    expected = Image.fromarray(image).resize((10, 15), Image.LANCZOS if choose else Image.BICUBIC)
    np.testing.assert_array_equal(resize(image, (15, 10), choose=choose), expected)
    scores = image[:, :, 0] / np.float32(255)
    enlarged = Image.fromarray(scores).resize((40, 60), Image.BICUBIC)
    np.testing.assert_array_equal(resize(scores, (60, 40), choose=choose), enlarged)


@pytest.mark.parametrize(
    ("resize_side", "size_from", "size", "size_to"),
    [
        (resize_shorter, (375, 500), 128, (128, 171)),  # 170.67
        (resize_shorter, (300, 225), 96, (128, 96)),
        (resize_shorter, (5, 2), 1, (2, 1)),  # 2.5: to even
        (resize_shorter, (7, 2), 1, (4, 1)),  # 3.5: to even
        (resize_shorter, (3, 3), 6, (6, 6)),
        (resize_longer, (150, 111), 160, (160, 118)),  # 118.4
        (resize_longer, (1024, 2048), 512, (256, 512)),
        (resize_longer, (1, 100), 10, (1, 10)),  # 0.1: one line stays
    ],
)
def test_resized_sides_by_hand(resize_side, size_from, size, size_to):
    assert resize_side(random_image(*size_from), size).shape == (*size_to, 3)


@pytest.mark.parametrize("resize_side", [resize_shorter, resize_longer])
def test_an_image_that_fits_is_returned_as_it_is(resize_side):
    image = random_image(8, 8)
    assert resize_side(image, 8) is image
    with pytest.raises(ValueError, match="size 0: expected at least 1"):
        resize_side(image, 0)


def test_center_crop_rounds_its_offset_up():
    image = random_image(7, 10)
    np.testing.assert_array_equal(center_crop(image, 4), image[2:6, 3:7])  # 1.5 and 3
    np.testing.assert_array_equal(center_crop(image, 7), image[:, 2:9])  # 0 and 1.5
    with pytest.raises(ValueError, match="crop 8: expected 1 to 7"):
        center_crop(image, 8)


def test_three_crops_along_the_longer_side():
    image = random_image(4, 9)
    expected = [image[:, 0:4], image[:, 3:7], image[:, 5:9]]
    for crop, flat in zip(three_crops(image, 4), expected):
        np.testing.assert_array_equal(crop, flat)
    standing = image.swapaxes(0, 1)
    for crop, flat in zip(three_crops(standing, 4), expected):
        np.testing.assert_array_equal(crop, flat.swapaxes(0, 1))


def test_ten_crops_are_corners_centre_and_mirrors():
    image = random_image(6, 9)
    five = [image[:4, :4], image[:4, 5:], image[2:, :4], image[2:, 5:], image[1:5, 3:7]]
    for crop, flat in zip(ten_crops(image, 4), [*five, *(crop[:, ::-1] for crop in five)]):
        np.testing.assert_array_equal(crop, flat)
    assert len(ten_crops(image, 4)) == 10
    with pytest.raises(ValueError, match="crop 7: expected 1 to 6, the shorter side"):
        ten_crops(image, 7)


def test_normalize_agrees_with_plain_numpy():
    image = random_image(6, 9)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((image / 255 - mean) / std).transpose(2, 0, 1)
    result = normalize(image, RNA)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    # Values up to 2.7, one rounding to float32: 2.7 * 2**-24.
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-7)
    expected = (image - np.array([123.68, 116.779, 103.939])).transpose(2, 0, 1)
    np.testing.assert_allclose(normalize(image, RN), expected, rtol=0, atol=1e-5)


def test_normalize_takes_strided_images():
    image = random_image(6, 9)
    np.testing.assert_array_equal(normalize(image[:, ::-1], RNA), normalize(image, RNA)[:, :, ::-1])


def test_normalize_refuses_what_is_not_an_rgb_image():
    with pytest.raises(ValueError, match=r"image is float64 \(4, 4, 3\): expected uint8"):
        normalize(np.zeros((4, 4, 3)), RNA)
    with pytest.raises(ValueError, match=r"image is uint8 \(3, 4, 4\): expected uint8 \(H, W, 3\)"):
        normalize(np.zeros((3, 4, 4), np.uint8), RNA)


def test_canvas_sizes():
    assert canvas_size("square", test_scale=500, image_size=(375, 500), stride=8) == (504, 504)
    assert canvas_size("square", test_scale=160, image_size=(97, 160), stride=8) == (160, 160)
    assert canvas_size("image", test_scale=2048, image_size=(1024, 2048), stride=8) == (1024, 2048)
    assert canvas_size("image", test_scale=500, image_size=(250, 500), stride=16) == (256, 512)
    with pytest.raises(ValueError, match="canvas 'round': expected square or image"):
        canvas_size("round", test_scale=1, image_size=(1, 1), stride=8)


@settings(deadline=None, max_examples=80)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    stride_and_steps=st.sampled_from([(8, 1), (8, 2), (8, 4), (8, 8), (16, 2), (32, 4)]),
    data=st.data(),
)
def test_shifted_canvas_agrees_with_the_frame_spelled_out(height, width, stride_and_steps, data):
    stride, steps = stride_and_steps
    iy, ix = (data.draw(st.integers(0, steps - 1)) for _ in range(2))
    image = np.random.default_rng(0).standard_normal((3, height, width)).astype(np.float32)
    frame = np.zeros((3, height + stride, width + stride), np.float32)
    start = stride // 2
    frame[:, start : start + height, start : start + width] = image
    step = stride // steps
    y, x = step // 2 + iy * step, step // 2 + ix * step
    expected = np.zeros((3, 24, 32), np.float32)
    expected[:, :height, :width] = frame[:, y : y + height, x : x + width]
    shift = {"canvas": (24, 32), "stride": stride, "steps": steps, "iy": iy, "ix": ix}
    np.testing.assert_array_equal(shifted_canvas(image, **shift), expected)
    top, left = data.draw(st.integers(0, 23)), data.draw(st.integers(0, 31))
    rows, columns = data.draw(st.integers(1, 24 - top)), data.draw(st.integers(1, 32 - left))
    part = expected[:, top : top + rows, left : left + columns]
    box = {**shift, "box": (top, left, rows, columns)}
    np.testing.assert_array_equal(shifted_canvas(image, **box), part)
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(
        shifted_canvas(pixels, **box, normalization=RNA),
        shifted_canvas(normalize(pixels, RNA), **box),
    )


def test_shifted_canvas_by_hand():
    """Stride 8 and 2 steps: offsets 2 and 6 in a frame where the image starts at 4."""
    image = np.ones((3, 5, 5), np.float32)
    down = shifted_canvas(image, canvas=(8, 8), stride=8, steps=2, iy=0, ix=1)
    assert down[0].sum(axis=1).tolist() == [0, 0, 3, 3, 3, 0, 0, 0]
    assert down[0].sum(axis=0).tolist() == [3, 3, 3, 0, 0, 0, 0, 0]


def test_shifted_canvas_refuses():
    image = np.zeros((3, 9, 4), np.float32)
    with pytest.raises(ValueError, match="test steps 3: expected a divisor of the output stride 8"):
        shifted_canvas(image, canvas=(16, 16), stride=8, steps=3, iy=0, ix=0)
    with pytest.raises(ValueError, match="image 9×4 does not fit a canvas 8×8"):
        shifted_canvas(image, canvas=(8, 8), stride=8, steps=1, iy=0, ix=0)


def test_interleave_agrees_with_strided_assignment():
    predictions = np.random.default_rng(0).standard_normal((3, 3, 2, 4, 5))
    expected = np.empty((2, 12, 15))
    for iy in range(3):
        for ix in range(3):
            expected[:, iy::3, ix::3] = predictions[iy, ix]
    np.testing.assert_array_equal(interleave(predictions), expected)
    with pytest.raises(ValueError, match=r"predictions are \(3, 2, 4, 5\): expected \(steps"):
        interleave(predictions[0])

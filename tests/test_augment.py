"""The training augmentations: the release's samples, the plain way, and what is left to chance."""

import io
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from plain_augmentation import plain_classification, plain_normalize, plain_segmentation

from iters.augment_classification import ClassificationAugmentation, ClassificationDraws, draw_crop
from iters.augment_segmentation import SegmentationAugmentation, SegmentationDraws
from iters.datasets import DATASETS, Dataset, encode_label
from iters.decode import BrokenImage, decode_image
from iters.find_dataset import get_dataset
from iters.resample import resize_planar
from iters.transforms import RN, RNA

STD = np.array(RNA.std)[:, None, None]
SEGMENTATION = SegmentationAugmentation(
    crop_size=64,
    origin_size=120,
    scale_range=(0.7, 1.3),
    stride=8,
    normalization=RNA,
    dataset=DATASETS["voc"],
)
ANY_CLASS = Dataset("any", "segmentation", 255)  # its labels store class ids


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def determined(augmentation, draws):
    """Return the augmentation with these draws: nothing is left to chance."""

    class Determined(type(augmentation)):
        def draw(self, rng, image_size):
            return draws

    return Determined(**vars(augmentation))


def augmented(augmentation, image, draws):
    out = np.full((3, augmentation.sample_size, augmentation.sample_size), np.nan, np.float32)
    determined(augmentation, draws).apply(encoded(image), None, out)
    return out


def augmented_pair(augmentation, image, classes, draws):
    size = augmentation.sample_size
    out = np.full((3, size, size), np.nan, np.float32)
    out_label = np.full((size // augmentation.stride) ** 2, np.nan, np.float32)
    augmentation = determined(replace(augmentation, dataset=ANY_CLASS), draws)
    augmentation.apply(encoded(image), encoded(classes), None, out, out_label)
    return out, out_label.reshape(size // augmentation.stride, -1)


# Classification


@pytest.fixture(scope="module")
def release(golden):
    return np.load(golden / "ilsvrc_augmentation.npz")


def golden_draws(release, number):
    keys = (
        "crop y x h w",
        "jitter order (0 brightness, 1 contrast, 2 saturation)",
        "jitter weights, in that order",
        "lighting factors",
    )
    return ClassificationDraws(
        *(tuple(release[f"{number}/{key}"].tolist()) for key in keys),
        mirrored=bool(release[f"{number}/mirrored"]),
    )


@pytest.mark.parametrize("number", range(6))
def test_the_releases_samples_come_out(release, number):
    draws, expected = golden_draws(release, number), release[f"{number}/output"]
    plain = plain_normalize(plain_classification(release["image"], draws, 48))
    if int(PIL.__version__.split(".")[0]) >= 13:  # which computed them; older ones pass otherwise
        # Float32 in the release: its rounding, over a standard deviation of 0.22.
        np.testing.assert_allclose(plain, expected, rtol=0, atol=1e-5)
    fast = augmented(ClassificationAugmentation(48, RNA), release["image"], draws)
    assert_as_good_as_plain(fast, plain)


def assert_as_good_as_plain(fast, plain):
    """Assert that no pixel is 2 of 255 off, before normalisation, and hardly any is off at all.

    Resizing in float32 rounds those the other way that lie within 255 · 2^-20 and the sums' own
    rounding of a half; the jitter at most doubles that level, and mixes it into other channels.
    """
    difference = np.abs((fast - plain) * STD * 255)
    assert difference.max() < 2
    assert difference.mean() < 0.05


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_fast_agrees_with_plain_for_any_draws(kind):
    augmentation = ClassificationAugmentation(32, RNA)
    rng = np.random.default_rng(0)
    seen = set()
    for seed in range(40):
        shape = (20 + 3 * seed, 140 - 3 * seed) if seed % 4 else (12, 150)
        data = encoded(random_image(*shape, seed), kind)
        out = np.full((3, 32, 32), np.nan, np.float32)
        draws = augmentation.apply(data, rng, out)
        seen.add((draws.crop is None, draws.mirrored))
        whole = np.asarray(decode_image(data))
        plain = plain_normalize(plain_classification(whole, draws, 32))
        assert_as_good_as_plain(out, plain)
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_both_clips_act_and_other_normalisations_follow():
    image = np.repeat(np.array([[[0, 128, 255]]], np.uint8), 24, 0).repeat(24, 1)
    image[:, 12:] = image[:, 12:, ::-1]
    draws = ClassificationDraws(
        (0, 0, 24, 24), (0, 2, 1), (1.4, 1.4, 1.4), (0.1, -0.2, 0.3), mirrored=False
    )
    plain = plain_classification(image, draws, 24)
    assert plain.min() == 0 and plain.max() == 1
    out = augmented(ClassificationAugmentation(24, RN), image, draws)
    expected = (plain * 255 - np.array(RN.mean)).transpose(2, 0, 1)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-3)  # units of 1/255


def test_bicubic_always_when_the_filter_is_not_chosen():
    image = random_image(64, 64)
    draws = ClassificationDraws((0, 0, 64, 64), (0, 1, 2), (1.0, 1.0, 1.0), (0.0,) * 3, False)
    chosen, cubic = (
        augmented(ClassificationAugmentation(32, RNA, choose), image, draws)
        for choose in (True, False)
    )
    pixels = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
    assert_as_good_as_plain(cubic, plain_normalize(pixels / 255 / 1.1))
    assert np.abs(chosen - cubic).max() > 0.1


def test_the_same_seed_gives_the_same_sample():
    data, augmentation = encoded(random_image(60, 70), "JPEG"), ClassificationAugmentation(32, RNA)
    results = []
    for copy in (augmentation, pickle.loads(pickle.dumps(augmentation))):
        out = np.zeros((3, 32, 32), np.float32)
        results.append((copy.apply(data, np.random.default_rng(5), out), out))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_broken_images_are_reported_by_cause():
    out = np.zeros((3, 32, 32), np.float32)
    data = encoded(random_image(60, 70), "JPEG")
    for broken in (b"", data[:400], data[: len(data) // 2]):
        with pytest.raises(BrokenImage, match="cannot be used as an image: "):
            ClassificationAugmentation(32, RNA).apply(broken, np.random.default_rng(0), out)


def test_resizing_is_pillows_bit_for_bit():
    rng = np.random.default_rng(0)
    filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    # Exact halves are common at the ratios of the first sizes; the last is left to Pillow.
    sizes = [
        ((64, 64), (32, 32)),
        ((28, 40), (56, 60)),
        ((45, 50), (56, 56)),
        ((1100, 1000), (6, 4)),
    ]
    sizes += [(tuple(rng.integers(1, 150, 2)), tuple(rng.integers(1, 150, 2))) for _ in range(80)]
    for (height, width), size in sizes:
        # Black and white, so that filters overshoot, or every shade.
        shades = rng.integers(0, 2, (height, width, 3)) * 255
        if rng.random() < 0.5:
            shades = rng.integers(0, 256, (height, width, 3))
        image = Image.fromarray(shades.astype(np.uint8))
        for resample in filters:
            expected = np.asarray(image.resize((int(size[1]), int(size[0])), resample))
            for mirrored in (False, True):
                out = np.full((3, *size), np.nan, np.float32)
                resize_planar(image, size, resample, mirrored=mirrored, out=out)
                found = out[:, :, ::-1] if mirrored else out
                np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


NUM_DRAWS = 4000


@pytest.fixture(scope="module")
def many_draws():
    rng = np.random.default_rng(0)
    augmentation = ClassificationAugmentation(224, RNA)
    return [augmentation.draw(rng, (2000, 2000)) for _ in range(NUM_DRAWS)]


def assert_uniform(values, low, high):
    """Kolmogorov-Smirnov at 1 in 100 000: sup |F - F_n| < 2.47 / √n."""
    values = np.sort(values)
    assert low - 2e-3 <= values[0] and values[-1] <= high + 2e-3  # sides are whole pixels
    steps = np.arange(1, len(values) + 1) / len(values)
    distance = np.abs((values - low) / (high - low) - steps).max()
    assert distance < 2.47 / math.sqrt(len(values)) + 2e-3


def assert_half(flags):
    # Five standard deviations of a fair coin.
    assert abs(np.mean(flags) - 0.5) < 2.5 / math.sqrt(len(flags))


def test_ratio_is_uniform_between_its_bounds_and_sides_are_swapped_half_of_the_time(many_draws):
    ratios = np.array([draws.crop[3] / draws.crop[2] for draws in many_draws])
    # One over a swapped ratio is drawn from the same range; which was swapped cannot be seen. With
    # u uniform, P(r ≤ x) = (P(u ≤ x) + P(u ≥ 1/x)) / 2. Crops above 75 % of the area may not fit,
    # so that these here are of small crops.
    areas = np.array([draws.crop[2] * draws.crop[3] for draws in many_draws]) / 2000**2
    small = np.sort(ratios[areas < 0.74])
    low, high = 3 / 4, 4 / 3
    law = ((small - low) + (high - 1 / small)) / 2 / (high - low)
    steps = np.arange(1, len(small) + 1) / len(small)
    assert low - 2e-3 <= small[0] and small[-1] <= high + 2e-3
    assert np.abs(law - steps).max() < 2.47 / math.sqrt(len(small)) + 2e-3
    # Without the swap P(r > 1) is 4/7 = 0.571; with it 1/2, the tolerance is 0.045.
    assert_half(small > 1)


def test_areas_are_uniform_where_every_shape_fits(many_draws):
    areas = np.array([draws.crop[2] * draws.crop[3] for draws in many_draws]) / 2000**2
    assert_uniform(areas[areas < 0.74], 0.08, 0.74)
    assert areas.max() > 0.9


def test_crops_lie_anywhere_within_the_image(many_draws):
    crops = np.array([draws.crop for draws in many_draws])
    free = 2000 - crops[:, 2:]
    assert (crops[:, :2] >= 0).all() and (crops[:, :2] <= free).all()
    roomy = free.min(axis=1) > 500
    for axis in (0, 1):
        assert_uniform(crops[roomy, axis] / free[roomy, axis], 0, 1)


def test_jitter_lighting_and_mirror_follow_their_laws(many_draws):
    weights = np.array([draws.jitter_weights for draws in many_draws])
    for column in weights.T:
        assert_uniform(column, 0.6, 1.4)
    orders = [draws.jitter_order for draws in many_draws]
    counts = np.array([orders.count(order) for order in sorted(set(orders))])
    assert len(counts) == 6
    # Five standard deviations of a binomial with p = 1/6.
    assert np.abs(counts - NUM_DRAWS / 6).max() < 5 * math.sqrt(NUM_DRAWS * 5 / 36)
    lighting = np.array([draws.lighting for draws in many_draws])
    assert np.abs(lighting.mean(axis=0)).max() < 5 * 0.1 / math.sqrt(NUM_DRAWS)
    assert np.abs(lighting.std(axis=0) / 0.1 - 1).max() < 5 / math.sqrt(2 * NUM_DRAWS)
    assert_half([draws.mirrored for draws in many_draws])


def test_ten_tries_and_then_the_centre():
    class Counting:
        """Draws the largest area and the widest ratio, which fits no square."""

        tries = 0

        def uniform(self, low, high):
            self.tries += 1
            return high

        def random(self):
            return 0.0

    rng = Counting()
    assert draw_crop(rng, (100, 100)) is None
    assert rng.tries == 2 * 10  # an area and a ratio each time
    rng = np.random.default_rng(0)
    assert all(draw_crop(rng, (10, 1000)) is None for _ in range(20))  # 8 % is wider than 10 tall
    image = random_image(40, 400)
    draws = ClassificationDraws(None, (0, 1, 2), (1.0, 1.0, 1.0), (0.0,) * 3, mirrored=False)
    out = augmented(ClassificationAugmentation(40, RNA), image, draws)
    expected = plain_normalize(image[:, 180:220] / 255 / 1.1)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (7, 3)])
def test_tiny_and_thin_images_give_a_sample(shape):
    out = np.full((3, 32, 32), np.nan, np.float32)
    data, rng = encoded(random_image(*shape)), np.random.default_rng(0)
    for _ in range(5):
        ClassificationAugmentation(32, RNA).apply(data, rng, out)
        assert np.isfinite(out).all()


# Segmentation


@pytest.mark.parametrize("case", ["usual", "enlarged", "image smaller than crop", "stride 16"])
def test_the_releases_crops_come_out(golden, case):
    release = np.load(golden / "segmentation_crops.npz")
    image, classes = release[f"{case}/image"], release[f"{case}/label image"]
    origin, crop, stride, *_ = release[f"{case}/origin_size crop_size stride max_h max_w"].tolist()
    scale_range = (1.0, 1.3) if case == "enlarged" else (0.7, 1.3)
    augmentation = SegmentationAugmentation(crop, origin, scale_range, stride, RNA, "voc")
    draws = SegmentationDraws(
        int(release[f"{case}/target size"]),
        tuple(release[f"{case}/corner y x"].tolist()),
        bool(release[f"{case}/mirrored"]),
    )
    data, label = release[f"{case}/data"], release[f"{case}/label"]
    picture, plain_label = plain_segmentation(
        image, classes, draws, crop_size=crop, stride=stride, frame=300
    )
    np.testing.assert_allclose(plain_normalize(picture), data, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(plain_label.reshape(-1), label)
    out, out_label = augmented_pair(augmentation, image, classes, draws)
    np.testing.assert_allclose(out, data, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(out_label.reshape(-1), label)


# Of any image, however large: the frame grows with it.
SHAPES = [(90, 120), (120, 90), (30, 40), (3, 120), (120, 2), (6, 5), (300, 800), (10, 400)]


@pytest.mark.parametrize("shape", SHAPES)
def test_fast_pair_agrees_with_plain_for_any_draws(shape):
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 21, shape, np.uint8)
    data, label = encoded(random_image(*shape), "JPEG"), encoded(classes)
    image = np.asarray(decode_image(data))
    out, out_label = np.empty((3, 64, 64), np.float32), np.empty(64, np.uint8)
    for _ in range(15):
        draws = SEGMENTATION.apply(data, label, rng, out, out_label)
        plain, plain_label = plain_segmentation(
            image, classes, draws, crop_size=64, stride=8, frame=2 * max(shape) + 300
        )
        np.testing.assert_array_equal(out_label.reshape(8, 8), plain_label)
        np.testing.assert_allclose(out, plain_normalize(plain), rtol=0, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_labels_move_with_the_pixels_under_every_crop_scale_and_mirror(axis):
    """Pixels and labels both tell their own row, or their own column."""
    classes = np.indices((120, 120), np.uint8)[axis]
    image = np.stack([2 * classes] * 3, axis=2)
    rng = np.random.default_rng(axis)
    total = 0
    for _ in range(100):
        draws = SEGMENTATION.draw(rng, classes.shape)
        out, label = augmented_pair(SEGMENTATION, image, classes, draws)
        told = (out[0] * RNA.std[0] + RNA.mean[0]) * 255 / 2
        # Labels are thinned out before they are mirrored: 4, 12, … from the left or the right.
        columns = np.arange(63 - 4, 0, -8) if draws.mirrored else np.arange(4, 64, 8)
        told = told[4::8][:, np.sort(columns)]
        # Not within reach of the filter from the frame: 3 pixels, times a scale of at most 1.43.
        inner = (label >= 5) & (label < 115)
        if not inner.any():
            continue
        # On a ramp filters are exact to the rounding, twice 0.5 / 2, and the nearest pixel is
        # at most 0.5 away. The other axis of the crop may lie in the frame: there all is void.
        assert np.abs(told - label)[inner & far_from_frame(label, axis)].max(initial=0) <= 1.05
        total += (inner & far_from_frame(label, axis)).sum()
    assert total > 1500


def far_from_frame(label, axis):
    """Return which labels have no void beside them, along the axis that they do not tell."""
    void = np.pad(label == 255, 1, mode="edge")
    near = void[1:-1, :-2] | void[1:-1, 2:] if axis == 0 else void[:-2, 1:-1] | void[2:, 1:-1]
    edge = np.zeros_like(near)
    if axis == 0:
        edge[:, [0, -1]] = True
    else:
        edge[[0, -1], :] = True
    return ~near & ~edge


def test_labels_are_sampled_from_half_a_stride_on():
    """At scale 1, with no frame in the crop, label i is the class at pixel s//2 + i·s."""
    classes = np.arange(120 * 120, dtype=np.int64).reshape(120, 120) % 251
    classes = classes.astype(np.uint8)
    image = random_image(120, 120)
    draws = SegmentationDraws(120, (4, 4), mirrored=False)  # the image begins at (4, 4)
    out, label = augmented_pair(SEGMENTATION, image, classes, draws)
    np.testing.assert_array_equal(label, classes[4:64:8, 4:64:8])
    np.testing.assert_allclose(out, plain_normalize(image[:64, :64] / 255), rtol=0, atol=1e-5)
    out, label = augmented_pair(SEGMENTATION, image, classes, SegmentationDraws(120, (4, 4), True))
    np.testing.assert_array_equal(label, classes[4:64:8, 4:64:8][:, ::-1])


def test_outside_the_image_is_void_and_the_mean_colour():
    image, classes = random_image(20, 120), np.zeros((20, 120), np.uint8)
    out, label = augmented_pair(SEGMENTATION, image, classes, SegmentationDraws(120, (0, 0), False))
    # The image begins at 4 and ends at 24; labels stand at 4, 12, 20, 28, …
    np.testing.assert_array_equal(label[:3, :], np.zeros((3, 8)))
    assert (label[3:] == 255).all()
    # Mean colour cut to an integer: less than 1/255 off, over the standard deviation.
    assert np.abs(out[:, :4] * STD).max() < 1 / 255
    assert np.abs(out[:, 24:] * STD).max() < 1 / 255


def test_a_crop_beside_a_thin_image_is_void():
    augmentation = SegmentationAugmentation(64, 40, (0.7, 1.3), 8, RNA, DATASETS["voc"])
    data, label = encoded(random_image(1, 120)), encoded(np.zeros((1, 120), np.uint8))
    # Longer side 120 to 28: 8 pixels of the sample are 34, the image is row 17 of the frame.
    out, out_label = np.empty((3, 64, 64), np.float32), np.empty(64, np.float32)
    draws = SegmentationDraws(28, (20, 5), mirrored=False)
    determined(augmentation, draws).apply(data, label, None, out, out_label)
    assert (out_label == 255).all()
    assert np.abs(out * STD).max() < 1 / 255


def test_targets_corners_and_mirrors_follow_their_laws():
    rng = np.random.default_rng(0)
    draws = [SEGMENTATION.draw(rng, (90, 120)) for _ in range(4000)]
    targets = np.array([one.target_size for one in draws])
    assert (targets.min(), targets.max()) == (84, 156)  # 0.7 and 1.3 of 120, both reached
    counts = np.bincount(targets)[84:]
    # Five standard deviations for each of 73 lengths.
    assert np.abs(counts - 4000 / 73).max() < 5 * math.sqrt(4000 / 73)
    assert_half([one.mirrored for one in draws])
    for target, (top, left) in ((one.target_size, one.corner) for one in draws):
        side, offset = int(64 * 120 / target), max(1, int(8 * 120 / target / 2))
        stride = int(8 * 120 / target)
        assert 0 <= top < max(1, stride, offset + 90 - side + 1)
        assert 0 <= left < max(1, stride, offset + 120 - side + 1)
    at_scale_one = [one.corner for one in draws if one.target_size == 120]
    assert len({left for _, left in at_scale_one}) > 20  # of 0 to 60


@pytest.mark.parametrize("name", ["cityscapes", "ade20k"])
def test_stored_ids_become_class_ids(name):
    dataset = get_dataset(name)
    rng = np.random.default_rng(0)
    classes = rng.integers(0, dataset.num_classes, (90, 120), np.uint8)
    classes[rng.random(classes.shape) < 0.2] = 255
    augmentation = SegmentationAugmentation(64, 120, (0.7, 1.3), 8, RNA, DATASETS[name])
    image, draws = random_image(90, 120), augmentation.draw(rng, (90, 120))
    out, out_label = np.empty((3, 64, 64), np.float32), np.empty(64, np.uint8)
    stored = encoded(encode_label(dataset, classes))
    determined(augmentation, draws).apply(encoded(image), stored, None, out, out_label)
    expected, expected_label = augmented_pair(augmentation, image, classes, draws)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(out_label.reshape(8, 8), expected_label)


def test_sample_size_is_rounded_up_to_the_stride():
    augmentation = SegmentationAugmentation(500, 2048, (0.7, 1.3), 8, RNA, DATASETS["voc"])
    assert augmentation.sample_size == 504


def test_unusable_pairs_are_reported_by_cause():
    rng = np.random.default_rng(0)
    image, label = encoded(random_image(90, 120)), encoded(np.zeros((90, 120), np.uint8))
    turned = encoded(np.zeros((120, 90), np.uint8))
    out, out_label = np.empty((3, 64, 64), np.float32), np.empty(64, np.uint8)
    with pytest.raises(BrokenImage, match="the image is 90×120, its label 120×90"):
        SEGMENTATION.apply(image, turned, rng, out, out_label)
    with pytest.raises(BrokenImage, match="mode RGB: expected one number a pixel"):
        SEGMENTATION.apply(image, image, rng, out, out_label)
    with pytest.raises(BrokenImage, match="cannot be used as an image"):
        SEGMENTATION.apply(image[:100], label, rng, out, out_label)


def test_a_crop_that_would_take_all_memory_is_refused():
    """A line of 30,000 pixels at scale 1 is 120: 64 pixels of the sample are 16,000 of it."""
    image, label = encoded(random_image(1, 30_000)), encoded(np.zeros((1, 30_000), np.uint8))
    out, out_label = np.empty((3, 64, 64), np.float32), np.empty(64, np.uint8)
    with pytest.raises(
        BrokenImage, match=r"image is 1×30000: a crop of it would have 1\d+×1\d+ pix"
    ):
        SEGMENTATION.apply(image, label, np.random.default_rng(0), out, out_label)


def test_augmentations_import_neither_mxnet_nor_torch():
    code = (
        "import iters.augment_classification, iters.augment_segmentation, sys;"
        "assert not {'mxnet', 'torch', 'cv2', 'gluoncv'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])

"""Large images in tiles: what the tiles are, how they blend, and what becomes of the labels."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import make_runner, run_evaluate
from hypothesis import given, settings
from hypothesis import strategies as st
from narrow import ILSVRC, VOC, write_weights
from PIL import Image

from ademx.cli import main
from ademx.data.drawn.make import make_dataset
from ademx.devices import Devices
from ademx.engines.backends import inference_memory
from ademx.labels import parse_label
from ademx.networks.summary import load_graph
from ademx.options import chosen
from ademx.published import RESULTS, find_result
from ademx.testing.memory import state_memory
from ademx.testing.options import SegmentationOptions, published_options
from ademx.testing.scorer import Scorer
from ademx.testing.tiles import Tiling

LABEL = parse_label(VOC)
FIELD = 1  # cells beyond its own that `see` looks at


def see(inputs) -> np.ndarray:
    """Return what a network of one 3×3 convolution says, whose pixels are means of 8×8."""
    filters = np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32)
    outputs = []
    for chw in inputs:
        _, height, width = chw.shape
        cells = chw.reshape(3, height // 8, 8, width // 8, 8).mean(axis=(2, 4))
        padded = np.pad(cells, ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        outputs.append(np.einsum("ochw,cyxhw->oyx", filters, windows))
    return np.stack(outputs)


def scenery(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def maps_of(image: np.ndarray, scale: int, predict=see, **options) -> np.ndarray:
    scorer = Scorer(predict, LABEL, "image", **options)
    ((resizer, maps),) = scorer.score([scorer.prepare(image, scale)])
    assert resizer.original == image.shape[:2]
    return maps


def far_from_borders(length: int, tile: int, shared: int) -> np.ndarray:
    """Return which cells of a line are farther than the field from where a tile ends."""
    far = np.ones(length, bool)
    for start, _, side, _ in Tiling((tile, 1), shared, 8).boxes((length, 1)):
        for border in {start, start + side} - {0, length}:
            far[border - FIELD : border + FIELD] = False
    return far


# ---- the tiles ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(length=st.integers(1, 60), tile=st.integers(1, 20), shared=st.integers(0, 19))
def test_tiles_cover_a_line_and_share_what_is_asked_for(length, tile, shared):
    shared = min(shared, tile - 1)
    tiles = list(Tiling((tile, 1), shared, 8).boxes((length, 1)))
    assert {height for _, _, height, _ in tiles} == {min(tile, length)}
    ends = [top + height for top, _, height, _ in tiles]
    assert tiles[0][0] == 0 and ends[-1] == length
    for end, (later, *_) in zip(ends, tiles[1:]):
        assert end - later >= shared
    # As few as will do: tiles that share just that reach less far with one fewer.
    assert len(tiles) == 1 or tile + (len(tiles) - 2) * (tile - shared) < length


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(8, 40),
    tile=st.integers(4, 12),
    shared=st.integers(0, 3),
    steps=st.sampled_from([1, 2]),
    left_out=st.integers(0, 1),
)
def test_the_weights_of_all_tiles_are_one_together(length, tile, shared, steps, left_out):
    """A tile's maps are its own number, so that the blend shows whose weights are where."""
    shared = max(shared, left_out)
    tiling, grid = Tiling((tile, 4), shared, 8), (length, 6)
    boxes = list(tiling.boxes(grid))
    total, one = None, np.ones(1)
    for number, box in enumerate(boxes):
        maps = np.zeros((len(boxes) + 1, (box[2] - left_out) * steps, 4 * steps), np.float32)
        maps[[number, -1]] = one
        total = tiling.blend(total, maps, box, grid, steps=steps)
    *weights, whole = total
    assert whole.shape == ((length - left_out) * steps, 6 * steps)
    np.testing.assert_allclose(whole, 1, rtol=1e-6)
    for (top, left, height, width), weight in zip(boxes, weights):
        rows = slice(top * steps, (top + height - left_out) * steps)
        columns = slice(left * steps, (left + width) * steps)
        assert (weight[rows, columns] > 0).all()
        weight[rows, columns] = 0
        assert not weight.any()  # nothing outside of the tile


def test_one_tile_fades_into_the_next():
    """Two tiles of 12 cells share 4: where the first ends, it counts 7/8 to 1/8."""
    tiling, maps = Tiling((12, 1), 4, 8), np.ones((1, 12, 1), np.float32)
    first, second = tiling.boxes((20, 1))
    assert (first[0], second[0]) == (0, 8)
    alone = tiling.blend(None, maps, first, (20, 1), steps=1)[0, :, 0]
    np.testing.assert_allclose(alone, [1] * 8 + [7 / 8, 5 / 8, 3 / 8, 1 / 8] + [0] * 8)


# ---- what the network says ---------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"steps": 2}, {"flip": True, "steps": 4}])
@pytest.mark.parametrize(("tile", "overlap"), [((40, 56), 8), ((64, 48), None), ((50, 57), 17)])
def test_away_from_borders_tiles_change_nothing(tile, overlap, options):
    image = scenery(150, 196)
    whole = maps_of(image, 196, **options)
    tiled = maps_of(image, 196, tile=tile, overlap=overlap, **options)
    assert whole.shape == tiled.shape
    steps = options.get("steps", 1)
    shared = -(-(min(tile) // 4 if overlap is None else overlap) // 8)
    far = [
        far_from_borders(length, -(-side // 8), shared).repeat(steps)
        for length, side in zip((19, 25), tile)
    ]
    same = np.isclose(whole, tiled, rtol=0, atol=1e-5).all(axis=0)
    assert same[np.ix_(*far)].all() and far[0].any() and far[1].any()
    assert not same.all()  # at the borders they do


def test_tiles_that_an_image_is_resized_into_are_warned_of(weights, tmp_path):
    """An image of 4 tiles is resized to less than one, which says nothing of its own size."""
    Image.fromarray(scenery(128, 192)).save(tmp_path / "x.png")
    for scales, is_idle in (("64,96", True), ("64,192", False)):
        out = ("--output", tmp_path / scales, "--cpus", 1, "--test-scales", scales)
        arguments = (tmp_path / "x.png", "--weights", weights, *out)
        assert "--tile" not in predict(*arguments).stderr
        result = predict(*arguments, "--overwrite", "--tile", "96x96")
        assert result.exit_code == 0, result.output
        said = (
            "an image of 128×192 pixels is resized to 96×96, which is one tile: --test-scales 192"
        )
        assert (said in result.stderr) == is_idle


def test_a_tile_as_large_as_the_canvas_is_the_canvas():
    image = scenery(70, 90)
    np.testing.assert_array_equal(
        maps_of(image, 90, tile=(500, 500), steps=2), maps_of(image, 90, steps=2)
    )


def test_tiles_are_predicted_a_batch_at_a_time():
    sizes = []

    def predict(inputs):
        inputs = list(inputs)
        sizes.append((len(inputs), *inputs[0].shape))
        return see(inputs)

    image = scenery(64, 128)
    found = maps_of(image, 128, predict, tile=(32, 64), overlap=0, batch=3, flip=True)
    assert sizes == [(6, 3, 32, 64), (2, 3, 32, 64)]  # four tiles, each with its mirror image
    np.testing.assert_allclose(found, maps_of(image, 128, tile=(32, 64), overlap=0, flip=True))


def test_a_pooling_that_leaves_out_a_cell_needs_an_overlap():
    def shorter(inputs):
        return see(inputs)[:, :, :-1, :-1]

    image = scenery(64, 96)
    whole = maps_of(image, 96, shorter)
    assert whole.shape == (5, 7, 11)
    tiled = maps_of(image, 96, shorter, tile=(64, 40), overlap=24)
    assert tiled.shape == whole.shape
    np.testing.assert_allclose(tiled[:, :, 0], whole[:, :, 0], atol=1e-5)
    with pytest.raises(ValueError, match=r"--overlap 0: .* a tile's last pixels: give at least 8"):
        maps_of(image[:, :80], 80, shorter, tile=(64, 40), overlap=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": (64, 64), "overlap": 60}, "--tile 64x64 --overlap 60: tiles share all they have"),
        ({"tile": (5, 900)}, "--tile 5x900 --overlap 1: tiles share all"),
        ({"steps": 3}, "--test-steps 3: expected a divisor of the network's output stride, 8"),
    ],
)
def test_what_does_not_fit_the_network(options, message):
    with pytest.raises(ValueError, match=message):
        Scorer(see, LABEL, "square", **options)
    with pytest.raises(ValueError, match="--tile: the network takes inputs of 65x65 pixels only"):
        Scorer(see, LABEL, (65, 65), tile=(32, 32))


# ---- commands ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"), "voc_rna-224-0-1-1-1-1-1-1_cls21_s8")


def predict(*arguments: object):
    return make_runner().invoke(main, ["predict", *map(str, arguments)])


def test_evaluate_and_predict_label_by_the_same_tiles(weights, tmp_path):
    make_dataset("voc", tmp_path / "data", images={"train": 1, "val": 1})
    tiles = ("--tile", "64x56", "--overlap", 16)
    options = ("--test-scales", "96,80", "--test-flipping")
    labels = {}
    for name, extra in (("whole", ()), ("tiled", tiles)):
        out = tmp_path / name
        result = run_evaluate("segmentation", weights, tmp_path / "data", out, *options, *extra)
        assert result.exit_code == 0, result.output
        (file,) = (out / "labels").iterdir()
        labels[name] = np.array(Image.open(file))
    assert labels["whole"].shape == labels["tiled"].shape
    assert (labels["whole"] != labels["tiled"]).any()
    recorded = json.loads((tmp_path / "tiled" / "scores.json").read_text())["settings"]
    assert (recorded["tile"], recorded["overlap"]) == ([64, 56], 16)
    assert "tile" not in json.loads((tmp_path / "whole" / "scores.json").read_text())["settings"]

    image = next((tmp_path / "data").glob(f"**/JPEGImages/{file.stem}.jpg"))
    out = tmp_path / "predicted"
    result = predict(image, "--weights", weights, "--output", out, "--cpus", 1, *options, *tiles)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(Image.open(out / "labels" / file.name), labels["tiled"])


def test_a_test_in_tiles_is_no_published_one(tmp_path):
    row = next(row for row in RESULTS if row.label == VOC)
    paths = {"weights": tmp_path / VOC, "data_root": tmp_path, "output": tmp_path}
    options = published_options(row, **paths)
    for changes, expected in (({}, row), ({"tile": (504, 504)}, None)):
        given = {"split": row.split, **chosen(replace(options, **changes))}
        assert find_result(VOC, **given) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--overlap", 8), "--overlap has no effect without --tile: add it"),
        (("--tile", "64x64", "--overlap", 64), "--tile 64x64 --overlap 64: expected sides above 0"),
        (("--tile", "64"), "expected height x width in pixels, such as 504x504"),
    ],
)
def test_options_that_do_not_fit_each_other(weights, tmp_path, options, message):
    Image.new("RGB", (90, 70)).save(tmp_path / "x.png")
    out = ("--output", tmp_path / "out", "--cpus", 1)
    result = predict(tmp_path / "x.png", "--weights", weights, *out, *options)
    assert result.exit_code and message in result.stderr
    result = run_evaluate("segmentation", weights, tmp_path, tmp_path / "out", *options)
    assert result.exit_code == 2 and message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_classifier_sees_whole_images(tmp_path):
    weights = write_weights(tmp_path, ILSVRC)
    Image.new("RGB", (90, 70)).save(tmp_path / "x.png")
    out = ("--output", tmp_path / "out", "--cpus", 1, "--tile", "64x64")
    result = predict(tmp_path / "x.png", "--weights", weights, *out)
    assert result.exit_code == 1
    assert "--tile: a classifier sees its image whole: leave it out" in result.stderr


# ---- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["mxnet", "torch"])
def test_the_plan_holds_a_layers_input_and_output_and_grows_with_the_image(backend):
    """ResNet-50 has no layer that lives beside more than a shortcut."""
    small, large = (
        load_graph("voc_rn-50_cls21_s8", input_size=(side, side)) for side in (256, 512)
    )
    pairs = [
        sum(4 * math.prod(large.shapes[name]) for name in (layer.inputs[0], layer.name))
        for layer in large.layers
        if layer.kind == "convolution"
    ]
    planned = inference_memory(backend, [large])
    assert max(pairs) <= planned <= 4 * max(pairs)
    assert planned == pytest.approx(4 * inference_memory(backend, [small]), rel=0.05)
    both = inference_memory(backend, [small, large])
    assert (both > planned) == (backend == "mxnet")  # which keeps what it has for other sizes


@pytest.mark.parametrize(("steps", "flip"), [(1, True), (2, False)])
def test_the_bytes_of_score_maps_are_those_of_the_maps(steps, flip):
    scorer = Scorer(see, LABEL, "image", steps=steps, flip=flip, tile=(64, 64))
    image = scenery(150, 196)
    ((_, maps),) = scorer.score([scorer.prepare(image, 120)])
    assert scorer.maps_bytes((150, 196), 120) == maps.nbytes // len(maps) * LABEL.num_classes


def test_score_maps_larger_than_the_memory_are_no_case_for_smaller_tiles(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("ademx.testing.memory.free_device_memory", lambda *_: 2**30)
    paths = {"weights": (tmp_path,), "data_root": tmp_path, "output": tmp_path}
    options = SegmentationOptions(**paths, test_scales=(10000,), backend="torch", tile=(64, 64))
    with caplog.at_level("INFO"):
        networks = [(VOC, 1 / 16, "2conv")]
        state_memory(options, networks, [(64, 64)], Devices(cpus=1), maps_bytes=3 * 2**30)
    assert "score maps 3.0 GiB; 1.0 GiB free" in caplog.text
    assert "smaller --test-scales" in caplog.text and "would do" not in caplog.text


@pytest.mark.parametrize(
    ("precision", "free", "warning"),
    [("float32", 2**40, ""), ("float32", 2**24, "--tile "), ("bfloat16", 2**20, "--batch-images")],
)
def test_what_a_test_needs_is_said_before_it(
    tmp_path, monkeypatch, caplog, precision, free, warning
):
    monkeypatch.setattr("ademx.testing.memory.free_device_memory", lambda *_: free)
    paths = {"weights": (tmp_path,), "data_root": tmp_path, "output": tmp_path}
    options = SegmentationOptions(
        **paths, test_scales=(512,), backend="torch", precision=precision, batch_images=3
    )
    with caplog.at_level("INFO"):
        state_memory(options, [(VOC, 1 / 16, "2conv")], [(256, 512), (504, 504)], Devices(cpus=2))
    needed = (
        3 * 2 * inference_memory("torch", [load_graph(VOC, input_size=(504, 504), width=1 / 16)])
    )
    needed /= 2 if precision == "bfloat16" else 1
    assert (
        f"6 inputs of 504×504 pixels: about {math.ceil(needed / 2**20)} MiB beside" in caplog.text
    )
    assert warning in caplog.text and ("WARNING" in caplog.text) == bool(warning)


def test_the_command_says_what_its_first_image_needs(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("ademx.testing.memory.free_device_memory", lambda *_: 3 * 2**20)
    make_dataset("voc", tmp_path / "data", images={"train": 1, "val": 1})
    said = {}
    for name, options in (("whole", ()), ("tiled", ("--tile", "64x128"))):
        out = tmp_path / name
        options = ("--test-scales", 320, *options)
        result = run_evaluate("segmentation", weights, tmp_path / "data", out, *options)
        assert result.exit_code == 0, result.output
        said[name] = result.stderr
    assert "an input of 320×320 pixels: about " in said["whole"]
    assert "3 MiB that the machine has free: expect a failure, or a crawl: --tile " in said["whole"]
    assert "an input of 64×128 pixels: about " in said["tiled"]
    assert "crawl" not in said["tiled"]

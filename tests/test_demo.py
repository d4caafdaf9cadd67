"""The demo: what it writes, with fewer images and a training that is cut to two epochs."""

import json

import numpy as np
import pytest
from commands import make_runner
from PIL import Image

import ademx
from ademx import demo, params
from ademx.cli import main
from iters.datasets import DATASETS

pytest.importorskip("mxnet")

NAMES = [f"2007_{number:06d}" for number in range(25, 29)]  # after the 24 of the train split


@pytest.fixture(scope="module", autouse=True)
def fewer_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_IMAGES", {"train": 24, "val": 4})
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a demo after two epochs, and what the command printed."""
    output = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_EPOCHS", 2)
        result = make_runner().invoke(main, ["demo", "--output", str(output), "--seed", "3"])
    assert result.exit_code == 0, result.output
    return output, result.stdout


def test_the_commands_files_are_where_it_says(run):
    output, printed = run
    weights = output / "models" / "voc_rna-a1_cls21_s8_ep-0002.params"
    for path in (
        weights,
        output / "val" / "scores.json",
        output / "report.html",
        output / "pictures",
        output / "curves.png",
    ):
        assert path.exists() and str(path) in printed
    assert sorted(path.stem for path in (output / "pictures").iterdir()) == NAMES
    scores = json.loads((output / "val" / "scores.json").read_text())
    assert f"mean IoU        {scores['mean_iou']:.2f} %" in printed
    assert scores["settings"]["test_scales"] == [128, 160]
    assert scores["settings"]["test_flipping"] is True
    assert scores["num_images"] == 4
    assert (output / "report.html").read_text().count('"error": "data:image/webp') == 4


def test_the_weights_are_a_narrow_a1_with_learnt_statistics(run):
    arg_params, aux_params = params.load(run[0] / "models" / f"{demo.LABEL}_ep-0002.params")
    graph = ademx.build_symbol(demo.LABEL, width=1 / 16)
    assert set(arg_params) == set(graph.list_arguments()) - {"data", "softmax_label"}
    assert set(aux_params) == set(graph.list_auxiliary_states())
    # MXNet starts from 0 and 1: both updates were waited for.
    assert np.abs(aux_params["bn7_moving_mean"]).max() > 0
    assert aux_params["bn7_moving_var"].std() > 0


def test_pictures_show_labels_in_the_palettes_colours(run):
    palette = DATASETS["voc"].palette
    for name in NAMES:
        base = run[0] / "data" / "VOCdevkit/VOC2012"
        image = np.array(Image.open(base / "JPEGImages" / f"{name}.jpg").convert("RGB"))
        labels = [
            np.array(Image.open(base / "SegmentationClass" / f"{name}.png")),
            np.array(Image.open(run[0] / "val" / "labels" / f"{name}.png")),
        ]
        panels = _panels(run[0] / "pictures" / f"{name}.png", image.shape)
        np.testing.assert_array_equal(panels[0], image)
        for label, panel in zip(labels, panels[1:]):
            colours = np.array(palette)[label]
            mixed = np.where(label[..., None] == 0, image, 0.4 * image + 0.6 * colours)
            np.testing.assert_allclose(panel, mixed, atol=0.51)
        assert {1, 7, 12, 15} & set(np.unique(labels[0]))


def _panels(path, shape) -> list[np.ndarray]:
    """Return the three panels of a picture at their own size, from twice that."""
    picture = np.array(Image.open(path))
    height, width = shape[0] * 2, shape[1] * 2
    margin = (picture.shape[1] - 3 * width) // 2
    rows = picture[-height:]
    lefts = [number * (width + margin) for number in range(3)]
    return [rows[::2, left : left + width : 2] for left in lefts]


def test_a_folder_of_something_else_is_never_touched(tmp_path):
    """The project's own root has a `data` and a `models` folder."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "released.params").write_text("mine")
    with pytest.raises(ValueError, match="holds no demo and is not empty; choose another"):
        demo.run_demo(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["models", "released.params"]


def test_resume_needs_a_demo_with_the_same_seed(run, tmp_path):
    with pytest.raises(ValueError, match="there is no demo in"):
        demo.run_demo(tmp_path, resume=True)
    with pytest.raises(ValueError, match="has --seed 3, not 4"):
        demo.run_demo(run[0], resume=True, seed=4)


def test_resume_goes_on_to_the_same_weights(run, monkeypatch):
    output, _ = run
    name = f"{demo.LABEL}_ep-0002"
    whole = (output / "models" / f"{name}.params").read_bytes()
    for suffix in (".params", ".state"):  # as if it had been stopped after the first epoch
        (output / "models" / f"{name}{suffix}").unlink()
    monkeypatch.setattr(demo, "_EPOCHS", 2)
    _, files = demo.run_demo(output, resume=True, seed=3)
    assert files["weights"].read_bytes() == whole


def test_a_second_run_starts_afresh_and_replaces_the_demo_alone(run, monkeypatch):
    output, _ = run
    (output / "notes.txt").write_text("mine")
    monkeypatch.setattr(demo, "_EPOCHS", 1)
    _, files = demo.run_demo(output, seed=4)
    names = [files["weights"].name, f"{demo.LABEL}_best.params"]
    assert sorted(path.name for path in (output / "models").glob("*.params")) == sorted(names)
    assert len(list(files["pictures"].iterdir())) == 4
    assert (output / "notes.txt").read_text() == "mine"

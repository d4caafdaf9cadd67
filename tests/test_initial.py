"""What a training starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fill import fill

from ademx import params
from ademx.convert.files import Reading
from ademx.convert.layouts import rename_to
from ademx.labels import parse_label
from ademx.networks.graph import parameter_shapes
from ademx.params import CheckpointMismatch
from ademx.training.initial import initial_values, load_weights, same_label

SHAPES = {
    "conv1a_weight": (64, 30, 5, 5),
    "bn7_gamma": (7,),
    "bn7_beta": (7,),
    "linear10_weight": (400, 250),
    "linear10_bias": (4000,),
    "bn7_moving_mean": (7,),
    "bn7_moving_var": (7,),
}


def test_classification_draws_as_the_release():
    values = initial_values(SHAPES, task="classification", seed=3)
    # 48,000 normal numbers: their deviation is known to 1/√(2·48000), a third of a percent.
    assert values["conv1a_weight"].std() == pytest.approx(np.sqrt(2 / 750), rel=0.02)
    assert abs(values["conv1a_weight"].mean()) < 0.001
    for name in ("linear10_weight", "linear10_bias"):
        bound = 1 / np.sqrt(250)
        assert 0.99 * bound < np.abs(values[name]).max() <= bound
        # A uniform distribution's deviation is its bound over √3.
        assert values[name].std() == pytest.approx(bound / np.sqrt(3), rel=0.03)
    for name, constant in (("gamma", 1), ("beta", 0), ("moving_mean", 0), ("moving_var", 1)):
        assert (values[f"bn7_{name}"] == constant).all()
    assert {value.dtype for value in values.values()} == {np.dtype("float32")}


def test_segmentation_draws_every_weight_normal_and_no_bias():
    shapes = {"linear21_weight": (100, 50, 3, 3), "linear21_bias": (100,)}
    values = initial_values(shapes, task="segmentation", seed=0)
    assert values["linear21_weight"].std() == pytest.approx(np.sqrt(2 / 450), rel=0.02)
    assert np.abs(values["linear21_weight"]).max() > 3 * np.sqrt(2 / 450)  # not uniform
    assert (values["linear21_bias"] == 0).all()


def test_numbers_depend_on_name_and_seed_only():
    one = initial_values(SHAPES, task="classification", seed=1)
    backwards = dict(reversed(SHAPES.items()))
    again = initial_values(backwards, task="classification", seed=1)
    other = initial_values(SHAPES, task="classification", seed=2)
    for name in SHAPES:
        np.testing.assert_array_equal(one[name], again[name])
    assert (one["conv1a_weight"] != other["conv1a_weight"]).all()


def test_unknown_names_and_seeds_are_refused():
    with pytest.raises(ValueError, match="no initial value for 'conv_alpha'"):
        initial_values({"conv_alpha": (3,)}, task="segmentation", seed=0)
    with pytest.raises(ValueError, match="seed -1: expected 0 or above"):
        initial_values({}, task="segmentation", seed=-1)


LABEL = parse_label("voc_rna-a1_cls21_s8")
NETWORK = {
    "conv1a_weight": (4, 3, 3, 3),
    "conv6a_weight": (5, 4, 3, 3),
    "conv6a_bias": (5,),
    "linear21_weight": (21, 5, 3, 3),
    "linear21_bias": (21,),
    "bn7_moving_mean": (4,),
}


def weights_file(folder: Path, name: str, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Write a file of ones; arguments and auxiliary states go by their names."""
    arrays = {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
    aux = {key: arrays.pop(key) for key in list(arrays) if "moving" in key}
    params.save(folder / name, arrays, aux)
    return folder / name


def without(shapes, *names):
    return {name: shape for name, shape in shapes.items() if name not in names}


def test_weights_of_another_label_may_lack_the_head(tmp_path):
    shapes = {
        "conv1a_weight": (4, 3, 3, 3),
        "linear1000_weight": (1000, 4),
        "linear1000_bias": (1000,),
        "bn7_moving_mean": (4,),
    }
    path = weights_file(tmp_path, "ilsvrc-cls_rna-a1_cls1000_ep-0001.params", shapes)
    assert sorted(load_weights(path, LABEL, NETWORK)) == ["bn7_moving_mean", "conv1a_weight"]


def test_a_head_layer_that_fits_is_kept_and_one_that_does_not_is_new(tmp_path):
    shapes = {**NETWORK, "linear21_weight": (21, 7, 3, 3)}
    path = weights_file(tmp_path, "voc_rna-a1_cls21_s8_coco_ep-0001.params", shapes)
    assert sorted(load_weights(path, LABEL, NETWORK)) == sorted(without(NETWORK, "linear21_weight"))


def test_anything_else_that_is_missing_is_an_error(tmp_path):
    path = weights_file(tmp_path, "own.params", without(NETWORK, "conv1a_weight", "linear21_bias"))
    with pytest.raises(CheckpointMismatch, match="1 missing: conv1a_weight\n"):
        load_weights(path, LABEL, NETWORK)


def test_a_checkpoint_of_the_same_label_may_lack_nothing(tmp_path):
    path = weights_file(
        tmp_path, "voc_rna-a1_cls21_s8_ep-0003.params", without(NETWORK, "linear21_bias")
    )
    assert same_label(path, LABEL)
    with pytest.raises(CheckpointMismatch, match="1 missing: linear21_bias"):
        load_weights(path, LABEL, NETWORK)


def test_damaged_numbers_are_no_start(tmp_path):
    path = tmp_path / "own.params"
    arrays = {name: np.ones(shape, np.float32) for name, shape in NETWORK.items()}
    arrays["bn7_moving_mean"][1:] = np.nan
    params.save(
        path, without(arrays, "bn7_moving_mean"), {"bn7_moving_mean": arrays["bn7_moving_mean"]}
    )
    with pytest.raises(CheckpointMismatch, match="3 of 4 numbers of bn7_moving_mean"):
        load_weights(path, LABEL, NETWORK)


def test_a_tag_or_a_free_name_is_another_label():
    assert not same_label(Path("voc_rna-a1_cls21_s8_coco_ep-0003.params"), LABEL)
    assert not same_label(Path("mine.params"), LABEL)


@pytest.mark.parametrize("layout", ["resnet38d", "wider_resnet_a2"])
def test_other_projects_trunks_are_started_from(layout, tmp_path):
    """Their own heads are dropped when told, and a last normalisation that they lack is new."""
    torch = pytest.importorskip("torch")
    shapes = parameter_shapes(LABEL, width=1 / 32)
    values = {name: fill(name, shape) for name, shape in shapes.items()}
    state = {
        f"module.{key}": torch.from_numpy(value)
        for key, value in rename_to(values, layout, with_head=False).items()
        if layout == "resnet38d" or "bn_out" not in key
    }
    path = tmp_path / "trunk.pth"
    torch.save({"state_dict": {**state, "module.f9.weight": torch.zeros(3)}}, path)
    with pytest.raises(ValueError, match=r"f9\.weight; --drop-extra leaves these out"):
        load_weights(path, LABEL, shapes)
    found = load_weights(path, LABEL, shapes, reading=Reading(drop_extra=True))
    new = ("linear", "conv6a") if layout == "resnet38d" else ("linear", "conv6a", "bn7_")
    assert found.keys() == {name for name in shapes if not name.startswith(new)}
    assert all(np.array_equal(found[name], values[name]) for name in found)

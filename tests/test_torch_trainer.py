"""PyTorch's trainer against MXNet's: the same weights and batches give the same numbers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tiny_training import classification, segmentation

from ademx.devices import Devices
from ademx.training import start_trainer
from ademx.training.start import starting_values

pytest.importorskip("mxnet")
pytest.importorskip("torch")

UPDATES = 20
RN = "ilsvrc-cls_rn-34a_cls4"
SHAPE = (8, 3, 64, 64)


def batches(task, count, seed=0):
    """Return data and labels: noise over a pattern that the label tells of."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        data = random.standard_normal(SHAPE).astype(np.float32)
        if task == "classification":
            label = random.integers(0, 4, SHAPE[0])
            data[range(SHAPE[0]), label % 3] += 1
        else:
            label = random.integers(0, 21, (SHAPE[0], (SHAPE[2] // 8) ** 2))
            label[random.random(label.shape) < 0.1] = 255
        made.append((data, label.astype(np.float32)))
    return made


@cache
def values_of(task):
    """Return a network whose ReLUs let a channel through or not, as a whole.

    What lies within a rounding of 0 would be let through by one engine and not by the other,
    which is no error of either and yet changes a gradient by percents. Statistics are those of a
    batch.
    """
    make = segmentation if task == "segmentation" else classification
    values = starting_values(make(Path(), Path()))
    random = np.random.default_rng(9)
    for name, value in values.items():
        if name.endswith("_beta"):
            value[:] = random.permutation(np.arange(len(value)) % 2 * 8 - 4)
        if name.startswith("linear"):
            value /= 10  # features are large: scores need not be
    (batch,) = batches(task, 1, seed=9)
    trainer = open_one(task, "torch", values=values, frozen_statistics=False, base_lr=1e-9)
    trainer.step(*batch)
    (moved,) = trainer.statistics()  # by a tenth, from 0 and 1
    for name, value in moved.items():
        values[name] = 10 * (value - 0.9 * name.endswith("_var"))
    return values


def open_one(task, backend, *, first_update=0, values=None, dropout=False, **changes):
    make = segmentation if task == "segmentation" else classification
    options = {"batch_images": SHAPE[0], "to_epoch": 3, "base_lr": 0.001, **changes}
    return start_trainer(
        make(Path(), Path(), backend=backend, **options),
        data_shape=SHAPE,
        num_batches=10,
        values=values_of(task) if values is None else values,
        first_update=first_update,
        dropout=dropout,
    )


def gone_on(task, backend, trainer, first_update, **changes):
    """Return a new trainer with all that a checkpoint of another holds."""
    args, auxs = trainer.parameters()
    other = open_one(task, backend, values={**args, **auxs}, first_update=first_update, **changes)
    other.restore(trainer.momentum(), trainer.statistics())
    return other


def close(found, expected, tolerance):
    """Check arrays to within a part of the largest number of their kind.

    Not of their own: the gradient of a beta before another BatchNorm is 0 but for roundings.
    """
    assert found.keys() == expected.keys()
    largest: dict[str, float] = {}
    for name, value in expected.items():
        largest[kind_of(name)] = max(largest.get(kind_of(name), 0), np.abs(value).max())
    for name, value in expected.items():
        atol = tolerance * largest[kind_of(name)]
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


def kind_of(name):
    """Return a parameter's kind; gammas and betas, both of normalised features, are one."""
    return "affine" if name.endswith(("_gamma", "_beta")) else name.rpartition("_")[2]


RUNS = [
    ("segmentation", {"loss": "ohem", "lr_type": "linear"}),
    ("segmentation", {"loss": "softmax", "lr_type": "step", "lr_steps": (7, 15)}),
    ("classification", {"lr_type": "linear"}),
    ("classification", {"lr_type": "fixed"}),
]


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(("task", "changes"), RUNS)
def test_trajectories_of_both_engines_agree(task, changes, devices):
    changes = {**changes, "devices": Devices(cpus=devices)}
    one = open_one(task, "mxnet", **changes)
    other = open_one(task, "torch", **changes)
    for number, (data, label) in enumerate(batches(task, UPDATES)):
        if number == UPDATES // 2:  # each goes on with what the other has
            one, other = (
                gone_on(task, "mxnet", other, number, **changes),
                gone_on(task, "torch", one, number, **changes),
            )
        expected, found = one.step(data, label), other.step(data, label)
        assert found.rate == pytest.approx(expected.rate)
        assert found.sums.count == expected.sums.count
        assert found.sums.loss == pytest.approx(expected.sums.loss, rel=1e-4)
    for found, expected in zip(other.parameters(), one.parameters()):
        close(found, expected, 1e-4)
    close(other.momentum(), one.momentum(), 1e-3)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    ("task", "changes"), [*RUNS[:3], ("classification", {"model": RN, "frozen_statistics": True})]
)
def test_gradients_of_both_engines_agree(task, changes, devices):
    # Without decay the first momentum is the gradient, times the rate in segmentation.
    changes = {**changes, "devices": Devices(cpus=devices), "weight_decay": 0.0}
    if "model" in changes:
        changes["values"] = {}
    (batch,) = batches(task, 1)
    momenta = []
    for backend in ("mxnet", "torch"):
        trainer = open_one(task, backend, **changes)
        trainer.step(*batch)
        momenta.append(trainer.momentum())
    close(momenta[1], momenta[0], 1e-5)

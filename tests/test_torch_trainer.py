"""PyTorch's trainer against MXNet's: the same weights and batches give the same numbers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sums_by_hand import classifier_sums
from tiny_training import classification, segmentation

from ademx.devices import Devices
from ademx.engines.backends import open_trainer
from ademx.engines.trainer import LossScaler
from ademx.schedule import LinearSchedule
from ademx.training import start as starting
from ademx.training import start_trainer
from ademx.training.start import starting_values

pytest.importorskip("mxnet")
torch = pytest.importorskip("torch")

from ademx.engines.torch import losses  # noqa: E402  (needs torch)
from ademx.engines.torch import train as engine  # noqa: E402
from ademx.engines.torch.updates import Updates, are_finite  # noqa: E402
from symbols.learning import get_learning  # noqa: E402

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
    for found, expected in zip(other.statistics(), one.statistics(), strict=True):
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


# --- what PyTorch's trainer does by itself -------------------------------------------------------


def trained(task, *, updates=3, seed=0, **changes):
    """Return a trainer after some updates on the same batch, and the last update."""
    trainer = open_one(task, "torch", **changes)
    (batch,) = batches(task, 1)
    for number in range(updates):
        found = trainer.start(*batch, seed=seed + number)()
    return trainer, found


def scaled(trainer, **changes):
    """Have a trainer scale its loss, which options do for float16 on GPUs alone."""
    trainer._scaler = LossScaler()
    for name, value in changes.items():
        setattr(trainer._scaler, name, value)
    return trainer


def test_scaling_the_loss_changes_nothing_and_overflows_are_left_out():
    (data, label), *_ = batches("segmentation", 1)
    plain, other = (open_one("segmentation", "torch", lr_type="linear") for _ in range(2))
    assert plain.scaling() is None
    scaled(other)
    for trainer in (plain, other):
        trainer.step(data, label)
    assert other.scaling() == (2.0**16, 1)
    close(other.parameters()[0], plain.parameters()[0], 1e-6)
    momentum, (before, _) = other.momentum(), other.parameters()
    other.restore_scaling(2.0**127, 5)  # any gradient above 2 overflows a float32
    rate = other.rate
    other.step(1e4 * data, label)
    assert other.scaling() == (2.0**126, 0)
    # The schedule goes by batches: one that is left out counts.
    assert other.rate < rate
    for found, expected in ((other.momentum(), momentum), (other.parameters()[0], before)):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_the_loss_scale_grows_when_it_has_held_for_long():
    scaler = LossScaler()
    scaler.unskipped = 1999
    assert scaler.judge(are_finite([torch.ones(3)]))
    assert (scaler.scale, scaler.unskipped) == (2.0**17, 0)
    assert not scaler.judge(are_finite([torch.ones(3), torch.tensor([float("nan")])]))
    assert (scaler.scale, scaler.unskipped) == (2.0**16, 0)
    scaler.scale, scaler.unskipped = 2.0**24, 1999
    assert scaler.judge(True)
    assert scaler.scale == 2.0**24


def test_an_update_without_images_adds_nothing():
    trainer, _ = trained("classification", updates=1)
    (before, statistics), momentum = trainer.parameters(), trainer.momentum()
    rate = trainer.rate
    sums = trainer.start(None, None, seed=0, stop=True)()
    assert (sums.loss, sums.count, sums.stop) == (0, 0, 1)
    # What is left is the momentum's and, of weights, the decay's part.
    after, same = trainer.parameters()
    name = "linear4_bias"
    expected = before[name] - rate * 0.9 * 0.9 * momentum[name]
    np.testing.assert_allclose(after[name], expected, rtol=1e-5)
    for name, value in statistics.items():
        np.testing.assert_array_equal(same[name], value)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_bfloat16_learns_nearly_the_same(task):
    start = values_of(task)
    moves = []
    for precision in ("float32", "bfloat16"):
        trainer, sums = trained(task, precision=precision)
        values = trainer.parameters()[0]
        assert {value.dtype for value in values.values()} == {np.dtype("float32")}
        assert {value.dtype for value in trainer.momentum().values()} == {np.dtype("float32")}
        moves.append(
            (sums.loss, np.concatenate([(v - start[n]).ravel() for n, v in values.items()]))
        )
    (exact, move), (rounded, other) = moves
    # bfloat16 keeps 8 bits: a few percent after some layers and updates.
    assert rounded == pytest.approx(exact, rel=0.1)
    cosine = move @ other / np.linalg.norm(move) / np.linalg.norm(other)
    assert 0.9 < cosine < 1 - 1e-7


def test_float16_scales_its_loss_and_learns_nearly_the_same(monkeypatch):
    """Options refuse it on CPUs, where PyTorch computes it slowly."""
    start, results = values_of("segmentation"), []
    for precision in ("float32", "float16"):

        def open_as(*arguments, chosen=precision, **options):
            return open_trainer(*arguments, **{**options, "precision": chosen})

        monkeypatch.setattr(starting, "open_trainer", open_as)
        results.append(trained("segmentation"))
    (exact, sums), (rounded, others) = results
    assert exact.scaling() is None
    assert rounded.scaling() == (2.0**16, 3)
    assert others.loss == pytest.approx(sums.loss, rel=1e-3)
    move, other = (
        np.concatenate([(v - start[n]).ravel() for n, v in trainer.parameters()[0].items()])
        for trainer in (exact, rounded)
    )
    cosine = move @ other / np.linalg.norm(move) / np.linalg.norm(other)
    assert 0.999 < cosine < 1 - 1e-7


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_devices_with_weights_of_their_own_are_those_that_share(task, monkeypatch):
    """Two GPUs, played by two names of the CPU, against two CPU contexts."""
    changes = {"devices": Devices(cpus=2)}
    together, _ = trained(task, **changes)
    places = [torch.device("cpu", number) for number in range(2)]
    monkeypatch.setattr(engine, "_places", lambda devices: places)
    apart, _ = trained(task, **changes)
    weights = [replica.parameters["conv1a_weight"] for replica in apart._replicas]
    assert weights[0].data_ptr() != weights[1].data_ptr()
    assert (weights[0] == weights[1]).all()
    for found, expected in zip(apart.parameters(), together.parameters(), strict=True):
        close(found, expected, 1e-6)
    for found, expected in zip(apart.statistics(), together.statistics(), strict=True):
        close(found, expected, 1e-6)


def test_dropout_goes_by_the_seed_and_is_in_segmentation_only():
    def weights(task, **changes):
        return trained(task, updates=1, **changes)[0].parameters()[0]["res7a_branch2b2_weight"]

    still = weights("segmentation")
    first = weights("segmentation", dropout=True, seed=1)
    assert (first != still).any()
    np.testing.assert_array_equal(weights("segmentation", dropout=True, seed=1), first)
    assert (weights("segmentation", dropout=True, seed=2) != first).any()
    np.testing.assert_array_equal(
        weights("classification", dropout=True), weights("classification")
    )


def test_two_devices_drop_other_units():
    """The same two images twice: with the same masks both halves would have the same loss."""
    one = open_one("segmentation", "torch", dropout=True, devices=Devices(cpus=2))
    halves = []
    for replica in one._replicas:
        learn = replica.learn
        replica.learn = lambda *a, learn=learn, **k: halves.append(learn(*a, **k)) or halves[-1]
    ((data, label),) = batches("segmentation", 1)
    half = len(data) // 2
    one.step(np.concatenate([data[:half]] * 2), np.concatenate([label[:half]] * 2))
    assert halves[0][0] != halves[1][0]


def test_sums_of_a_classifier_are_those_by_hand():
    probabilities, labels, expected = classifier_sums()
    found = losses.classification_sums(torch.from_numpy(probabilities), torch.from_numpy(labels))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_sums_of_a_segmentation_leave_out_void_and_let_nan_through():
    probabilities = torch.full((1, 2, 2, 2), 0.5)
    probabilities[0, :, 0] = torch.tensor([[0.25, 0.75], [0.75, 0.25]])
    labels = torch.tensor([[1, 1, 255, 0]])
    # Right with 0.75, wrong with 0.25, void, even: which counts as right.
    loss = -np.log(0.75) - np.log(0.25) - np.log(0.5)
    found = losses.pixel_sums(probabilities, labels)
    np.testing.assert_allclose(found.numpy(), [loss, 2, 0, 3], rtol=1e-6)
    probabilities[0, :, 1, 1] = torch.nan
    assert losses.pixel_sums(probabilities, labels)[0].isnan()


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("multipliers", ["none", "alex", "alex10"])
def test_updates_are_those_by_hand(nesterov, multipliers):
    """Both rules in float64, with a rate that falls, against the fused pass."""
    random = np.random.default_rng(1)
    names = ("a_weight", "a_bias", "b_gamma", "b_beta")
    parameters = {
        name: torch.nn.Parameter(torch.from_numpy(random.standard_normal(50).astype(np.float32)))
        for name in names
    }
    learning = get_learning("segmentation", multipliers=multipliers)
    updates = Updates(
        parameters, learning, nesterov=nesterov, momentum=0.9, wd=1e-2, rescale_grad=0.25
    )
    expected = {n: p.detach().numpy().astype(np.float64) for n, p in parameters.items()}
    held = dict.fromkeys(names, 0.0)
    factors = {"none": (1, 1), "alex": (1, 2), "alex10": (10, 20)}[multipliers]
    for number in range(30):
        rate = LinearSchedule(40, base_lr=0.02)(number)
        for name, parameter in parameters.items():
            gradient = random.standard_normal(50).astype(np.float32)
            parameter.grad = torch.from_numpy(gradient * 8)  # by the loss scale
            decays = name.endswith(("_weight", "_gamma"))
            lr = rate * factors[0 if decays else 1]
            step = 0.25 * gradient.astype(np.float64) + 1e-2 * decays * expected[name]
            if nesterov:
                held[name] = 0.9 * held[name] + step
                expected[name] = expected[name] - lr * (step + 0.9 * held[name])
            else:
                held[name] = 0.9 * held[name] - lr * step
                expected[name] = expected[name] + held[name]
        updates.apply(rate, loss_scale=8)
    found = updates.momentum()
    for name, parameter in parameters.items():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], atol=1e-5)
        np.testing.assert_allclose(found[name], held[name], atol=1e-5)

"""The unravelled view against every path walked by itself, with `detach` at the additions."""

from __future__ import annotations

import dataclasses
import re
from itertools import product

import numpy as np
import pytest
from fill import fill, image_batch

from ademx.devices import Devices
from ademx.engines.backends import open_segments
from ademx.networks import unravel
from ademx.unravelling import measure as measuring
from iters.datasets import VOID
from symbols.layers import list_layers
from symbols.levels import LevelSpec, Network

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402  # needs torch

CLASSES = 5
# Identity shortcuts and projections, strides and pooling; all of the kinds of shortcuts of `rn`.
NETWORKS = {
    "3 units": Network(
        *("rna", "tiny", 28, 4),
        levels=(
            LevelSpec(2, 2, (4, 6), (3, 3), stride=2),
            LevelSpec(7, 1, (6, 5, 8), (1, 3, 1), stride=2, pooled=True),
        ),
        origin="spec",
    ),
    "4 units": Network(
        *("rna", "tiny", 28, 4),
        levels=(
            LevelSpec(1, 1, (4, 4), (3, 3), project=False),
            LevelSpec(7, 3, (4, 6), (3, 3), stride=2, dilation=2),
        ),
        origin="spec",
    ),
    **{
        f"4 units, shortcut {shortcut}": Network(
            *("rn", "tiny", 28, 4),
            levels=(
                LevelSpec(2, 2, (4, 4), (3, 3), project=shortcut == "C"),
                LevelSpec(3, 2, (4, 4, 8), (1, 3, 1), stride=2, project=shortcut != "A"),
            ),
            origin="spec",
            shortcut=shortcut,
        )
        for shortcut in "ABC"
    },
}


def layers_of(network, task="classification"):
    return list_layers(network, num_classes=CLASSES, task=task)


def parameters_of(layers):
    shapes = {k: shape for layer in layers for k, shape in layer.parameters().items()}
    return {name: fill(name, shape) for name, shape in shapes.items()}


def walk(layers, parameters, images, path=None):
    """Return the first unit's input and the scores, their gradient along one path or all."""
    weights = {name: torch.tensor(value).double() for name, value in parameters.items()}
    units = [layer.name for layer in layers if layer.kind == "add"]
    first = next(layer for layer in layers if layer.block).inputs[0]
    values = {"data": torch.tensor(images).double()}
    for layer in layers[:-1]:
        inputs = [values[name] for name in layer.inputs]
        if layer.kind == "add" and path is not None:
            taken = path[units.index(layer.name)]
            inputs[taken] = inputs[taken].detach()  # the shortcut, second, where the branch is
        values[layer.name] = compute(layer, weights, *inputs)
        if layer.name == first:
            values[first] = values[first].detach().requires_grad_()
    return values[first], values[layers[-2].name]


def compute(layer, weights, x, *others):
    of = {name.removeprefix(f"{layer.name}_"): weights[name] for name in layer.parameters()}
    if layer.kind == "convolution":
        place = layer.stride, layer.padding, layer.dilation
        return functional.conv2d(x, of["weight"], of.get("bias"), *place)
    if layer.kind == "batch_norm":
        statistics = of["moving_mean"], of["moving_var"]
        return functional.batch_norm(x, *statistics, of["gamma"], of["beta"], eps=1.001e-5)
    if layer.kind == "max_pool":
        return functional.max_pool2d(x, 3, layer.stride, layer.padding)
    channels = layer.channels - layer.in_channels
    return {
        "add": lambda: x + others[0],
        "relu": x.relu,
        "dropout": lambda: x,
        "subsample": lambda: x[:, :, :: layer.stride, :: layer.stride],
        "zero_pad": lambda: functional.pad(x, (0, 0, 0, 0, 0, channels)),
        "global_pool": lambda: x.mean((2, 3), keepdim=True),
        "flatten": lambda: x.flatten(1),
        "linear": lambda: functional.linear(x.flatten(1), of["weight"], of["bias"]),
    }[layer.kind]()


def gradient_of(layers, parameters, images, weight, path=None):
    data, scores = walk(layers, parameters, images, path)
    return torch.autograd.grad((scores * torch.tensor(weight)).sum(), data)[0].numpy()


def split(layers, parameters, images, weight, backend="torch"):
    engine = open_segments(layers, parameters, backend=backend, devices=Devices())
    segments = unravel.cut(layers)
    if backend == "torch":  # in double precision, so that nothing but the sums is measured
        engine.network.double()
        images, weight = images.astype(np.float64), weight.astype(np.float64)
    values = unravel.run(engine, segments, images)
    back = unravel.Backward(engine, segments, values, weight)
    return back, back.by_length()


@pytest.fixture(scope="module")
def inputs():
    weight = np.random.default_rng(0).normal(size=(2, CLASSES)).astype(np.float32)
    return image_batch((2, 3, 16, 16)), weight


@pytest.mark.parametrize("backend", ["torch", "mxnet"])
@pytest.mark.parametrize("name", NETWORKS)
def test_sums_by_length_are_those_of_all_paths_one_by_one(name, backend, inputs):
    pytest.importorskip(backend)
    layers = layers_of(NETWORKS[name])
    parameters = parameters_of(layers)
    _, (lengths, _) = split(layers, parameters, *inputs, backend)
    units = int(name[0])
    expected = [0] * (units + 1)
    for path in all_paths(units):
        expected[sum(path)] += gradient_of(layers, parameters, *inputs, path)
    assert len(lengths) == units + 1
    for ours, theirs in zip(lengths, expected):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    whole = gradient_of(layers, parameters, *inputs)
    tolerance = 1e-6 if backend == "torch" else 1e-5  # float64 and float32
    assert np.abs(sum(lengths) - whole).max() <= tolerance * np.abs(whole).max()


def all_paths(units):
    return list(product((False, True), repeat=units))


@pytest.mark.parametrize("name", ["3 units", "4 units, shortcut B"])
def test_single_paths_are_walked_one_by_one(name, inputs):
    layers, (images, weight) = layers_of(NETWORKS[name]), (inputs[0][:1], inputs[1][:1])
    parameters = parameters_of(layers)
    back, _ = split(layers, parameters, images, weight)
    paths = all_paths(int(name[0]))
    found = back.path_norms(paths)
    assert set(found) == set(paths)
    for path, norm in found.items():
        expected = np.linalg.norm(gradient_of(layers, parameters, images, weight, path))
        assert norm == pytest.approx(expected, rel=1e-5)


def test_paths_are_all_or_drawn_with_equal_chances():
    assert unravel.choose_paths(3, 2, images=2, at_most=6, seed=0) == [
        (image, path)
        for path in [(True, True, False), (True, False, True), (False, True, True)]
        for image in (0, 1)
    ]
    drawn = unravel.choose_paths(10, 3, images=2, at_most=200, seed=1)
    assert drawn != unravel.choose_paths(10, 3, images=2, at_most=200, seed=2)
    assert [image for image, _ in drawn] == [0, 1] * 100
    paths = np.array([path for _, path in drawn])
    assert (paths.sum(axis=1) == 3).all()
    # Each unit is in three tenths of the paths, give or take five standard deviations.
    assert np.abs(paths.sum(axis=0) - 60).max() < 5 * np.sqrt(200 * 0.3 * 0.7)


def measure(layers, parameters, images, targets, backend="torch", **options):
    engine = open_segments(layers, parameters, backend=backend, devices=Devices())
    return measuring.measure(engine, layers, images, targets, **options)


def test_without_branches_only_the_shortest_path_remains(inputs):
    layers = layers_of(NETWORKS["4 units"])
    parameters = parameters_of(layers)
    for layer in layers:
        if layer.kind == "add":
            parameters[f"{layer.inputs[0]}_weight"][:] = 0
    found = measure(layers, parameters, inputs[0], [np.array(0), None], paths=50)
    assert found.lengths[0].norm == found.lengths[0].mean_path_norm > 0
    assert [row.norm for row in found.lengths[1:]] == [0] * 4
    assert [row.mean_path_norm for row in found.lengths[1:]] == [0] * 4
    assert (found.lengths[0].share, found.effective_depth, found.units) == (1, 0, 4)


def test_what_is_reported_is_what_the_paths_have(inputs):
    layers, images = layers_of(NETWORKS["3 units"]), inputs[0]
    parameters = parameters_of(layers)
    classes = [np.array(3), np.array(1)]
    found = measure(layers, parameters, images, classes, paths=6)
    losses, norms = [], {path: [] for path in all_paths(3)}
    sums = [[], [], [], []]
    for image, target in zip(images, classes):
        gradients = {}
        for path in norms:
            data, scores = walk(layers, parameters, image[None], path)
            loss = functional.cross_entropy(scores, torch.tensor(target)[None])
            gradients[path] = torch.autograd.grad(loss, data)[0].numpy()
            norms[path].append(np.linalg.norm(gradients[path]))
        losses.append(loss.item())
        for length, of_length in enumerate(sums):
            total = sum(g for path, g in gradients.items() if sum(path) == length)
            of_length.append(np.linalg.norm(total))
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    of_all = sum(map(np.mean, sums))
    for row, of_length in zip(found.lengths, sums):
        of_path = [one for path in norms if sum(path) == row.length for one in norms[path]]
        assert row.paths == len(of_path) / 2
        assert row.norm == pytest.approx(np.mean(of_length), rel=1e-4)
        assert row.share == pytest.approx(np.mean(of_length) / of_all, rel=1e-4)
        assert (row.mean_path_norm, row.standard_error) == (
            pytest.approx(np.mean(of_path), rel=1e-4),
            0,
        )
    some = measure(layers, parameters, images, classes, paths=2)
    one = some.lengths[1]
    walked = [norms[path][image] for image, path in choose(1, at_most=2)]
    assert one.mean_path_norm == pytest.approx(np.mean(walked), rel=1e-4)
    assert one.standard_error == pytest.approx(abs(walked[0] - walked[1]) / 2, rel=1e-3)
    one = measure(layers, parameters, images, classes, paths=1).lengths[1]
    assert (one.mean_path_norm, one.standard_error) == (pytest.approx(walked[0], rel=1e-4), None)
    none = measure(layers, parameters, images, classes, paths=0)
    assert [row.mean_path_norm is None for row in none.lengths] == [False, True, True, False]
    assert none.sum_error < 1e-5


def test_how_much_is_held_at_a_time_changes_nothing(inputs, monkeypatch):
    layers = layers_of(NETWORKS["3 units"])
    arguments = layers, parameters_of(layers), inputs[0], [np.array(3), None]
    whole = measure(*arguments, paths=4, with_lesions=True)
    monkeypatch.setattr(measuring, "_BYTES", 1)
    monkeypatch.setattr(unravel, "_BYTES", 1)
    found = measure(*arguments, paths=4, with_lesions=True)
    for one, other in zip(found.lengths, whole.lengths):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), rel=1e-4)
    assert found.loss == pytest.approx(whole.loss, rel=1e-5)
    assert len(found.lesions.without_branch) == 3


def choose(length, at_most):
    return unravel.choose_paths(3, length, images=2, at_most=at_most, seed=0)


def test_effective_depth_is_where_the_share_is_reached():
    assert unravel.effective_depth([1, 2, 94, 3], 0.95) == 2
    assert unravel.effective_depth([1, 2, 91, 6], 0.95) == 3
    assert unravel.effective_depth([95, 5], 0.95) == 0


def test_starved_units_receive_less_than_a_hundredth_of_the_first(inputs):
    layers = layers_of(NETWORKS["4 units"])
    parameters = parameters_of(layers)
    # What the first unit adds reaches the loss by the second unit's shortcut and branch: 1000
    # times as much as what those after it add.
    parameters["res7a_branch1_weight"] *= 1000
    parameters["res7a_branch2a_weight"] *= 1000
    found = measure(layers, parameters, inputs[0][:1], [np.array(0)], paths=0)
    assert found.units_starved == ("res7a", "res7b1", "res7b2")
    received = {row.unit: row.received for row in found.received}
    values = whole_at(layers, parameters, inputs[0][:1], list(received), target=0)
    for unit, expected in values.items():
        assert received[unit] == pytest.approx(expected, rel=1e-3)


def whole_at(layers, parameters, images, names, target):
    """Return the norm of the loss's gradient at outputs, by name."""
    weights = {name: torch.tensor(value).double() for name, value in parameters.items()}
    values = {"data": torch.tensor(images).double().requires_grad_()}
    for layer in layers[:-1]:
        values[layer.name] = compute(layer, weights, *[values[name] for name in layer.inputs])
    loss = functional.cross_entropy(values[layers[-2].name], torch.tensor([target]))
    gradients = torch.autograd.grad(loss, [values[name] for name in names])
    return {name: value.norm().item() for name, value in zip(names, gradients)}


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2, 4)])
def test_loss_and_gradient_are_pytorch_s(shape):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=shape).astype(np.float32)
    classes = rng.integers(0, 5, (shape[0], *shape[2:]))
    if len(shape) > 2:
        classes[1, 0, :3] = VOID
    losses, errors, gradient = measuring.loss_and_gradient(scores, classes)
    variable = torch.tensor(scores, requires_grad=True)
    for row, truth in enumerate(torch.tensor(classes)):
        loss = functional.cross_entropy(variable[row][None], truth[None], ignore_index=VOID)
        loss.backward()
        assert losses[row] == pytest.approx(loss.item(), rel=1e-5)
        known = classes[row] != VOID
        wrong = scores[row].argmax(axis=0) != classes[row]
        assert errors[row] == pytest.approx(wrong[known].mean())
    assert np.abs(gradient - variable.grad.numpy()).max() < 1e-6


def test_a_lesion_is_the_network_without_the_branch(inputs):
    layers, images = layers_of(NETWORKS["4 units"]), inputs[0]
    parameters = parameters_of(layers)
    classes = torch.tensor([3, 1])
    found = measure(
        layers, parameters, images, [*map(np.array, (3, 1))], paths=0, with_lesions=True
    )

    def loss_of(parameters):
        scores = walk(layers, parameters, images)[1]
        wrong = (scores.argmax(dim=1) != classes).double().mean()
        return functional.cross_entropy(scores, classes).item(), wrong.item()

    whole, error = loss_of(parameters)
    assert [row.units for row in found.lesions.without_branch] == [
        *(("res1b1",), ("res7a",), ("res7b1",), ("res7b2",))
    ]
    for row in found.lesions.without_branch:
        without = f"{row.units[0]}_branch2b1_weight"
        changed = loss_of({**parameters, without: 0 * parameters[without]})
        assert (row.loss, row.error) == pytest.approx(changed, rel=1e-4)
        assert row.loss_change == pytest.approx(changed[0] - whole, rel=1e-3, abs=1e-5)
        assert row.error_change == pytest.approx(changed[1] - error)
    # Only these two keep the shape; exchanged they are the network with exchanged parameters.
    (pair,) = found.lesions.exchanged
    assert pair.units == ("res7b1", "res7b2")
    swap = {"7b1": "7b2", "7b2": "7b1"}
    exchanged = {re.sub("7b[12](?=_)", lambda m: swap[m[0]], k): v for k, v in parameters.items()}
    assert (pair.loss, pair.error) == pytest.approx(loss_of(exchanged), rel=1e-4)

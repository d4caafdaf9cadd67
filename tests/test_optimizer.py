"""TorchNesterov, against the release's numbers, torch, and plain numpy."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ademx.schedule import LinearSchedule

mx = pytest.importorskip("mxnet")

from ademx.optimizer import TorchNesterov  # noqa: E402  (needs mxnet)

# Sums of a few float32 numbers of size 1: a rounding each.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
NUM_UPDATES, NUM_WEIGHTS = 200, 20_000


def run(optimizer, weights, gradients):
    """Return the weights after each update, beginning with the given ones."""
    updater = mx.optimizer.get_updater(optimizer)
    weight = mx.nd.array(weights)
    history = [weight.asnumpy()]
    for gradient in gradients:
        updater(0, mx.nd.array(gradient), weight)
        history.append(weight.asnumpy())
    return np.stack(history)


def test_agrees_with_the_release(golden):
    stored = {
        key.removeprefix("momentum/"): value
        for key, value in np.load(golden / "torch_nesterov.npz").items()
    }
    optimizer = TorchNesterov(
        momentum=float(stored["momentum"]),
        wd=float(stored["weight_decay"]),
        rescale_grad=float(stored["rescale_grad"]),
        lr_scheduler=LinearSchedule(
            int(stored["updates"]),
            stop_lr=float(stored["stop_lr"]),
            base_lr=float(stored["base_lr"]),
        ),
    )
    found = run(optimizer, stored["weights"][0], stored["gradients"])
    np.testing.assert_allclose(found, stored["weights"], **CLOSE)


def test_a_learning_rate_beside_the_schedule_is_its_first():
    """As in MXNet's own schedulers, which an optimiser sets."""
    optimizer = TorchNesterov(learning_rate=0.05, lr_scheduler=LinearSchedule(10, base_lr=0.1))
    assert optimizer.lr_scheduler(1) == pytest.approx(0.05 * 0.9, rel=1e-12)


def in_float64(start, gradients, *, lr, wd, momentum=0.9, nesterov=True):
    """Return the weights after the updates, and without weight decay."""
    weights = []
    for decay in (wd, 0.0):
        weight, held = start.astype(np.float64), np.zeros(start.shape)
        for gradient in gradients:
            step = gradient + decay * weight
            held = momentum * held + step
            weight = weight - lr * (step + momentum * held if nesterov else held)
        weights.append(weight)
    return weights


def many(seed=3):
    """Return weights from ±0.5 to ±1.5 and gradients that move them by many roundings."""
    random = np.random.default_rng(seed)
    start = random.uniform(0.5, 1.5, NUM_WEIGHTS) * random.choice([-1, 1], NUM_WEIGHTS)
    gradients = random.standard_normal((NUM_UPDATES, NUM_WEIGHTS), np.float32)
    return start.astype(np.float32), gradients


@pytest.mark.parametrize("lr", [0.1, 1e-2, 1e-3, 5e-4, 2e-4, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("name", ["TorchNesterov", "sgd"])
def test_weights_decay_by_what_was_asked_for_at_every_rate(name, lr):
    """Both tasks' optimisers, as training calls them, against float64."""
    start, gradients = many()
    optimizer = mx.optimizer.create(name, momentum=0.9, wd=1e-4, learning_rate=lr)
    found = run(optimizer, start, gradients)[-1]
    nesterov = name == "TorchNesterov"
    expected, undecayed = in_float64(start, gradients, lr=lr, wd=1e-4, nesterov=nesterov)
    # A weight of up to 2 + lr·1e2 is rounded by half of 2^-23 of that, at each update.
    rounding = NUM_UPDATES * np.abs(undecayed).max() * 2.0**-24
    assert np.abs(found - expected).max() < rounding
    # In the mean over the weights those roundings nearly cancel.
    decay = np.mean((undecayed - found) / start)
    noise = 4 * np.sqrt(NUM_UPDATES / NUM_WEIGHTS) * 2.0**-24
    wanted = np.mean((undecayed - expected) / start)
    assert decay == pytest.approx(wanted, rel=1e-3, abs=noise)


def test_agrees_with_torch_for_ten_updates():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    start = random.standard_normal((4, 3)).astype(np.float32)
    gradients = random.standard_normal((10, 4, 3)).astype(np.float32)
    schedule = LinearSchedule(11, base_lr=0.1)
    found = run(TorchNesterov(momentum=0.9, wd=1e-2, lr_scheduler=schedule), start, gradients)

    weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
    sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True)
    for count, gradient in enumerate(gradients):
        sgd.param_groups[0]["lr"] = schedule(count)
        weight.grad = torch.from_numpy(gradient)
        sgd.step()
        np.testing.assert_allclose(found[count + 1], weight.detach().numpy(), **CLOSE)


def test_every_parameter_of_an_update_has_the_same_rate():
    schedule = LinearSchedule(4, base_lr=1.0)
    updater = mx.optimizer.get_updater(
        TorchNesterov(momentum=0.0, lr_scheduler=schedule, param_idx2name={0: "a", 1: "b"})
    )
    weights = [mx.nd.zeros((1,)), mx.nd.zeros((1,))]
    for _ in range(3):
        for index, weight in enumerate(weights):
            updater(index, mx.nd.ones((1,)), weight)
    # Without momentum the weight is minus the sum of the rates: 1 + 3/4 + 2/4.
    assert [weight.asscalar() for weight in weights] == pytest.approx([-2.25, -2.25])


def test_multipliers_of_the_symbol_reach_the_update():
    bias = mx.sym.Variable("fc_bias", lr_mult=2.0, wd_mult=0.0)
    graph = mx.sym.FullyConnected(mx.sym.Variable("data"), bias=bias, num_hidden=1, name="fc")
    optimizer = mx.optimizer.create(
        "TorchNesterov",
        momentum=0.5,
        wd=0.1,
        learning_rate=0.1,
        sym=graph,
        param_idx2name={0: "fc_weight", 1: "fc_bias"},
    )
    updater = mx.optimizer.get_updater(optimizer)
    weight, bias = mx.nd.full((1,), 2.0), mx.nd.full((1,), 2.0)
    updater(0, mx.nd.ones((1,)), weight)
    updater(1, mx.nd.ones((1,)), bias)
    # Weight: g = 1 + 0.1·2, step 0.1·1.5·g = 0.18. Bias: g = 1, step 0.2·1.5 = 0.3.
    assert weight.asscalar() == pytest.approx(1.82)
    assert bias.asscalar() == pytest.approx(1.7)


def test_survives_the_way_to_a_server():
    optimizer = TorchNesterov(momentum=0.8, wd=0.1, lr_scheduler=LinearSchedule(5, offset=1))
    text = pickle.dumps(optimizer, 0)
    random = np.random.default_rng(1)
    start, gradients = random.standard_normal((3,)), random.standard_normal((4, 3))
    np.testing.assert_array_equal(
        run(pickle.loads(text), start, gradients), run(optimizer, start, gradients)
    )
    text.decode("ascii")  # KVStore sends it as text


@pytest.mark.parametrize("kind", ["local", "device"])
def test_updates_on_a_kvstore_are_those_of_the_summed_gradient(kind):
    random = np.random.default_rng(2)
    start = random.standard_normal((5,)).astype(np.float32)
    gradients = random.standard_normal((3, 2, 5)).astype(np.float32)
    store = mx.kv.create(kind)
    store.init("w", mx.nd.array(start))
    store.set_optimizer(TorchNesterov(wd=1e-2, learning_rate=0.1))
    outputs = [mx.nd.zeros((5,), mx.cpu(device)) for device in range(2)]
    for pair in gradients:
        store.push("w", [mx.nd.array(g, mx.cpu(device)) for device, g in enumerate(pair)])
        store.pull("w", out=outputs)
    expected = run(TorchNesterov(wd=1e-2, learning_rate=0.1), start, gradients.sum(axis=1))[-1]
    for output in outputs:
        np.testing.assert_allclose(output.asnumpy(), expected, **CLOSE)


def test_clipping_is_refused():
    with pytest.raises(ValueError, match="does not clip gradients"):
        TorchNesterov(clip_gradient=1.0)

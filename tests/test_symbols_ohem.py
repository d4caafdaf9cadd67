"""OHEM softmax against what the release computed, and against plain numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ademx  # noqa: F401  (makes numpy ready for MXNet)

mx = pytest.importorskip("mxnet")

from symbols import ohem_softmax  # noqa: E402

# float32 softmax of two libraries differs by a few units in the last place of values up to 1.
CLOSE = {"rtol": 1e-5, "atol": 1e-7}
IGNORED = 255

GOLDEN = np.load(Path(__file__).parent / "golden" / "ohem_softmax.npz")
CASES = sorted({key.partition("/")[0] for key in GOLDEN})


def golden_case(case: str) -> tuple[np.ndarray, ...]:
    keys = ("scores", "label", "thresh", "min_kept", "probabilities", "gradient")
    return tuple(GOLDEN[f"{case}/{key}"] for key in keys)


def by_mxnet(scores, label, *, thresh, min_kept, num_devices=1):
    """Probabilities, and the gradient of the loss with respect to the scores."""
    symbol = ohem_softmax(
        mx.sym.Variable("data"),
        mx.sym.Variable("softmax_label"),
        thresh=float(thresh),
        min_kept=int(min_kept),
    )
    module = mx.mod.Module(symbol, context=[mx.cpu(i) for i in range(num_devices)])
    module.bind([("data", scores.shape)], [("softmax_label", label.shape)], inputs_need_grad=True)
    module.init_params()
    batch = mx.io.DataBatch([mx.nd.array(scores)], [mx.nd.array(label)])
    module.forward_backward(batch)
    return module.get_outputs()[0].asnumpy(), module.get_input_grads()[0].asnumpy()


def by_torch(scores, label, *, thresh, min_kept, num_devices=1):
    """The same by the output layer of PyTorch's trainer."""
    torch = pytest.importorskip("torch")
    from ademx.engines.torch.losses import pixel_gradient

    found = []
    for part in zip(np.split(scores, num_devices), np.split(label, num_devices)):
        probabilities = torch.from_numpy(part[0]).softmax(1)
        gradient = pixel_gradient(
            probabilities,
            torch.from_numpy(part[1]).long(),
            loss="ohem",
            thresh=float(thresh),
            min_kept=int(min_kept),
        )
        found.append((probabilities.numpy(), gradient.numpy()))
    return tuple(map(np.concatenate, zip(*found)))


@pytest.fixture(params=[by_mxnet, by_torch])
def run(request):
    return request.param


def referee(scores, label, *, thresh, min_kept):
    """Online hard example mining as the release has it, in plain numpy."""
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    flat = probabilities.reshape(*scores.shape[:2], -1).swapaxes(1, 2)
    valid = label != IGNORED
    one_hot = np.eye(scores.shape[1], dtype=np.float32)[np.where(valid, label, 0).astype(int)]
    true = (flat * one_hot).sum(axis=2)
    kept = valid
    if valid.sum() > min_kept:
        smallest = np.sort(true[valid])[min_kept - 1] if min_kept else 0
        kept = valid & (true <= max(np.float32(thresh), smallest))
    gradient = (flat - one_hot) * kept[..., None] / max(kept.sum(), 1)
    return probabilities, gradient.swapaxes(1, 2).reshape(scores.shape)


def random_case(seed, shape=(2, 5, 6, 7), ignored=0.3):
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 2, shape).astype(np.float32)
    label = generator.integers(0, shape[1], (shape[0], shape[2] * shape[3])).astype(np.float32)
    label[generator.random(label.shape) < ignored] = IGNORED
    return scores, label


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_the_released_ones(run, case):
    scores, label, thresh, min_kept, probabilities, gradient = golden_case(case)
    found = run(scores, label, thresh=thresh, min_kept=min_kept)
    np.testing.assert_allclose(found[0], probabilities, **CLOSE)
    np.testing.assert_allclose(found[1], gradient, **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_each_of_two_devices_chooses_among_its_own_pixels(run, case):
    scores, label, thresh, min_kept, _, gradient = golden_case(case)
    twice = [np.concatenate([array, array]) for array in (scores, label)]
    _, found = run(*twice, thresh=thresh, min_kept=min_kept, num_devices=2)
    np.testing.assert_allclose(found, np.concatenate([gradient, gradient]), **CLOSE)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("thresh", [0.0, 0.2, 0.6, 1.0])
@pytest.mark.parametrize("min_kept", [0, 1, 20, 84, 300])
def test_random_cases_are_those_of_numpy(run, seed, thresh, min_kept):
    scores, label = random_case(seed)
    assert label.size == 84  # so that 84 asks for every pixel and 300 for more than there are
    found = run(scores, label, thresh=thresh, min_kept=min_kept)
    expected = referee(scores, label, thresh=thresh, min_kept=min_kept)
    np.testing.assert_allclose(found[0], expected[0], **CLOSE)
    np.testing.assert_allclose(found[1], expected[1], **CLOSE)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_around_as_many_kept_as_are_valid(run, more):
    scores, label = random_case(4)
    num_valid = int((label != IGNORED).sum())
    _, found = run(scores, label, thresh=0, min_kept=num_valid + more)
    _, expected = referee(scores, label, thresh=0, min_kept=num_valid + more)
    np.testing.assert_allclose(found, expected, **CLOSE)
    num_kept = np.abs(found).sum(axis=1).astype(bool).sum()
    assert num_kept == min(num_valid + more, num_valid)


def test_ties_with_the_last_kept_pixel_are_all_kept(run):
    scores, label = random_case(5, shape=(1, 3, 2, 4), ignored=0)
    scores[:] = scores[:, :, :1, :1]  # every pixel alike
    label[:] = 1
    _, found = run(scores, label, thresh=0, min_kept=2)
    np.testing.assert_allclose(found, referee(scores, label, thresh=0, min_kept=2)[1], **CLOSE)
    assert (found != 0).all()


def test_a_probability_equal_to_the_threshold_is_kept(run):
    # Two classes with equal scores have probability 1/2 exactly; the gradient is ∓1/2 / 4 pixels.
    _, found = run(np.zeros((1, 2, 2, 2), np.float32), np.zeros((1, 4)), thresh=0.5, min_kept=0)
    np.testing.assert_array_equal(found[0, 0], np.full((2, 2), -0.125))
    np.testing.assert_array_equal(found[0, 1], np.full((2, 2), 0.125))


def test_no_hard_pixel_and_no_minimum_gives_no_gradient(run):
    scores, label = random_case(6)
    _, found = run(scores, label, thresh=0, min_kept=0)
    assert not found.any()


def test_the_shape_of_the_label_is_inferred():
    label = mx.sym.Variable("softmax_label")
    symbol = ohem_softmax(mx.sym.Variable("data"), label, thresh=0.6, min_kept=256)
    arguments, outputs, _ = symbol.infer_shape(data=(2, 19, 4, 6))
    assert dict(zip(symbol.list_arguments(), arguments))["softmax_label"] == (2, 24)
    assert symbol.list_outputs() == ["softmax_output"]
    assert outputs == [(2, 19, 4, 6)]


@pytest.mark.parametrize("ignore_label", [0, 254])
def test_another_label_can_be_ignored(ignore_label):
    scores, label = random_case(7)
    label[label == IGNORED] = ignore_label
    arguments = {"data": mx.nd.array(scores), "softmax_label": mx.nd.array(label)}
    symbol = ohem_softmax(
        *map(mx.sym.Variable, arguments), thresh=0.6, min_kept=5, ignore_label=ignore_label
    )
    gradient = mx.nd.zeros(scores.shape)
    executor = symbol.bind(mx.cpu(), arguments, args_grad={"data": gradient})
    executor.forward(is_train=True)
    executor.backward()
    label[label == ignore_label] = IGNORED
    _, expected = referee(scores, label, thresh=0.6, min_kept=5)
    np.testing.assert_allclose(gradient.asnumpy(), expected, **CLOSE)


@pytest.mark.parametrize("thresh", [-0.1, 1.5, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(thresh):
    with pytest.raises(ValueError, match=r"thresh .*: expected a probability in \[0, 1\]"):
        ohem_softmax(mx.sym.Variable("a"), mx.sym.Variable("b"), thresh=thresh, min_kept=1)


def test_a_negative_minimum_is_refused():
    with pytest.raises(ValueError, match="min_kept -1: expected a number of pixels, 0 or more"):
        ohem_softmax(mx.sym.Variable("a"), mx.sym.Variable("b"), thresh=0.6, min_kept=-1)

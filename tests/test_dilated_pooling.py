"""Model A at output stride 8, whose last pooling dilates: MXNet's graph, its gradient, training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fill import image_batch
from filled import fill
from tiny_training import WIDTH, segmentation

import ademx
from ademx.networks.graph import list_layers, parameter_shapes
from ademx.training import start_trainer

mx = pytest.importorskip("mxnet")
pytest.importorskip("torch")

from symbols.graph import to_symbol  # noqa: E402  (needs mxnet)

LABEL = "voc_rna-a_cls21_s8"


def outputs(label, names, *, pool="pad", size=96):
    """Return a narrow network's internal outputs by their names."""
    graph = ademx.build_symbol(label, width=WIDTH, pool=pool).get_internals()
    wanted = mx.sym.Group([graph[f"{name}_output"] for name in names])
    shapes = parameter_shapes(label, width=WIDTH)
    values = {name: mx.nd.array(fill(name, shape)) for name, shape in shapes.items()}
    values["data"] = mx.nd.array(image_batch((1, 3, size, size)))
    executor = wanted.bind(
        mx.cpu(),
        {name: values[name] for name in wanted.list_arguments()},
        aux_states={name: values[name] for name in wanted.list_auxiliary_states()},
        grad_req="null",
    )
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def windows(data, dilation):
    """Return the nine values of each 3×3 window, (9, N, C, H, W), rows first; outside is -inf."""
    height, width = data.shape[2:]
    frame = ((0, 0), (0, 0), (dilation,) * 2, (dilation,) * 2)
    padded = np.pad(data, frame, constant_values=-np.inf)
    steps = range(0, 3 * dilation, dilation)
    return np.stack([padded[:, :, y : y + height, x : x + width] for y in steps for x in steps])


@pytest.mark.parametrize("pool", ["pad", "caffe", "full"])
def test_pooling_that_lost_its_stride_is_the_maximum_of_nine(pool):
    names = ["res4b5", "pool4", "res5b2", "pool5"]
    before4, pool4, before5, pool5 = outputs(LABEL, names, pool=pool)
    np.testing.assert_array_equal(pool4, windows(before4, 1).max(axis=0))
    np.testing.assert_array_equal(pool5, windows(before5, 2).max(axis=0))
    assert (before5 < 0).any() and pool5.shape == before5.shape


@pytest.mark.parametrize(("pool", "first"), [("pad", 0), ("full", 3)])
@pytest.mark.parametrize("stride", [16, 8])
def test_dilation_computes_what_strides_skip(pool, first, stride):
    """Cells of the network that strides lie among those of the one that dilates.

    Windows of "pad" are centred on every second pixel from the first, those of "full" from the
    second, twice over.
    """
    (whole,) = outputs("voc_rna-a_cls21", ["relu7"], pool=pool, size=224)
    (dense,) = outputs(f"voc_rna-a_cls21_s{stride}", ["relu7"], pool=pool, size=224)
    step = 32 // stride
    found = dense[:, :, first % step :: step, first % step :: step]
    assert found.shape == whole.shape == (1, 256, 7, 7)
    np.testing.assert_allclose(found, whole, atol=1e-5 * np.abs(whole).max())


def test_the_gradient_goes_to_the_largest():
    """Of equals to the first in order of rows."""
    layers = [layer for layer in list_layers(LABEL, width=WIDTH) if layer.kind == "max_pool"]
    pool5 = dataclasses.replace(layers[-1], inputs=("data",))
    softmax = dataclasses.replace(pool5, kind="softmax", name="softmax", inputs=("pool5",))
    graph = to_symbol((pool5, softmax)).get_internals()["pool5_output"]
    random = np.random.default_rng(0)
    data = random.integers(-9, 0, (2, 3, 7, 9)).astype(np.float32)  # with many equals
    executor = graph.bind(
        mx.cpu(), {"data": mx.nd.array(data)}, args_grad={"data": mx.nd.zeros(data.shape)}
    )
    executor.forward(is_train=True)
    given = random.integers(1, 9, data.shape).astype(np.float32)
    executor.backward([mx.nd.array(given)])
    expected = np.zeros_like(data)
    for n, c, y, x in np.ndindex(data.shape):
        places = [
            (-data[n, c, j, i], j, i)
            for j in (y - 2, y, y + 2)
            for i in (x - 2, x, x + 2)
            if 0 <= j < 7 and 0 <= i < 9
        ]
        _, j, i = min(places)
        expected[n, c, j, i] += given[n, c, y, x]
    np.testing.assert_array_equal(executor.grad_dict["data"].asnumpy(), expected)


def test_both_engines_train_it():
    options = {"model": LABEL, "batch_images": 2, "pool": "full", "head": "1conv"}
    options |= {"base_lr": 0.001, "frozen_statistics": False}
    random = np.random.default_rng(0)
    data = random.standard_normal((2, 3, 64, 64)).astype(np.float32)
    label = random.integers(0, 21, (2, 64)).astype(np.float32)
    losses = {}
    for backend in ("mxnet", "torch"):
        trainer = start_trainer(
            segmentation(Path(), Path(), backend=backend, **options),
            data_shape=data.shape,
            num_batches=10,
            dropout=False,
        )
        losses[backend] = [trainer.step(data, label).sums.loss for _ in range(4)]
        assert losses[backend][3] < losses[backend][0]
    # Of the second update too, which has the first one's gradient; later ones drift apart.
    assert losses["torch"][:2] == pytest.approx(losses["mxnet"][:2], rel=1e-3)

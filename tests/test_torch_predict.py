"""Testing by PyTorch: layouts, precisions and compiling change digits, not results."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from fill import image_batch
from narrow import ILSVRC, VOC, write_weights

from ademx.convert.files import read_weights
from ademx.devices import Devices
from ademx.engines import sharing
from ademx.engines.mxnet.predict import Predictor
from ademx.gpus import Gpu
from ademx.testing import session

torch = pytest.importorskip("torch")
from ademx.engines.torch import predict  # noqa: E402  # needs torch

IMAGES = image_batch((3, 3, 64, 96))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return {label: write_weights(folder, label) for label in (ILSVRC, VOC)}


def by_torch(path, **options):
    return predict.TorchPredictor(read_weights(path), devices=Devices(), **options)


@pytest.fixture(scope="module")
def expected(weights):
    """MXNet's probabilities, by label."""
    return {
        label: Predictor(read_weights(path), devices=Devices())(IMAGES, batch=2)
        for label, path in weights.items()
    }


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        ("float32", 1e-5),
        # Factors have 8 bits; of 38 layers the errors add up, and the mean is what stays of them.
        ("bfloat16", 0.02),
    ],
)
@pytest.mark.parametrize("label", [ILSVRC, VOC])
def test_probabilities_are_mxnets(label, precision, tolerance, weights, expected):
    network = by_torch(weights[label], precision=precision)
    found = network(IMAGES, batch=2)
    assert (found.dtype, found.shape) == (np.float32, expected[label].shape)
    assert np.abs(found - expected[label]).mean() < tolerance
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert len(np.unique(expected[label].argmax(axis=1))) > 1  # the images tell apart


def replica(network):
    return network.starts[0].__self__


def test_weights_are_cast_and_laid_out_once_and_normalisation_keeps_its_digits(weights):
    modules = replica(by_torch(weights[VOC], precision="bfloat16")).network.modules()
    for module in modules:
        if isinstance(module, torch.nn.Conv2d):
            assert module.weight.dtype == torch.bfloat16
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
        if isinstance(module, torch.nn.BatchNorm2d):
            assert {value.dtype for value in module.state_dict().values()} <= {
                torch.float32,
                torch.int64,  # counts batches
            }


def test_a_container_with_few_cores_gets_no_more_threads(weights, monkeypatch):
    monkeypatch.setattr(predict, "num_threads", lambda parts: 3)
    threads = torch.get_num_threads()
    try:
        by_torch(weights[VOC])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_float32_is_not_tf32(weights, monkeypatch):
    for library in (torch.backends.cudnn, torch.backends.cuda.matmul):
        library.allow_tf32 = True
    by_torch(weights[VOC])
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("precision", "capability", "message"),
    [
        ("tf32", (7, 5), r"--precision tf32: GPU 0 \(T4, .* 7.5\) lacks it, which needs 8.0"),
        ("bfloat16", (7, 0), "needs 8.0 or above: use float16 or float32"),
        ("float16", (5, 2), "needs 5.3 or above: use float32"),
        ("tf32", (8, 0), ""),
        ("bfloat16", (9, 0), ""),
        ("float16", (7, 5), ""),
        ("float32", (5, 0), ""),
    ],
)
def test_what_a_gpu_lacks_is_refused(precision, capability, message, monkeypatch):
    monkeypatch.setattr(sharing, "find_gpus", lambda: [Gpu(0, "T4", capability)])
    arguments = {"devices": Devices(gpus=(0,)), "backend": "torch"}
    if not message:
        sharing.check_precision(precision, **arguments)
        return
    with pytest.raises(ValueError, match=message):
        sharing.check_precision(precision, **arguments)


class Compiler:
    """A stand-in for torch.compile that doubles scores, so that its results are told apart."""

    def __init__(self, error=None):
        self.shapes, self.error = [], error

    def __call__(self, network, **_):
        def compiled(data):
            if self.error:
                raise self.error
            self.shapes.append(tuple(data.shape))
            return 2 * network(data)

        return compiled


def doubled(probabilities):
    """Return what a softmax makes of twice the scores."""
    squares = probabilities.astype(np.float64) ** 2
    return squares / squares.sum(axis=1, keepdims=True)


def test_full_batches_of_each_size_are_compiled(weights, monkeypatch, caplog):
    compiler = Compiler()
    monkeypatch.setattr(predict.torch, "compile", compiler)
    monkeypatch.setattr(predict, "_can_compile", lambda: True)
    plain, compiled = (by_torch(weights[ILSVRC], compiled=value) for value in (False, True))
    with caplog.at_level(logging.INFO):
        found = compiled(IMAGES, batch=2)
    expected = plain(IMAGES, batch=2)
    np.testing.assert_allclose(found[:2], doubled(expected[:2]), rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(found[2:], expected[2:], rtol=1e-6)
    compiled(IMAGES[:, :, :, :64], batch=2)
    compiled(IMAGES, batch=2)
    assert compiler.shapes == [(2, 3, 64, 96), (2, 3, 64, 64), (2, 3, 64, 96)]
    assert [line for line in caplog.messages if "for inputs of 2x3x64x96 in" in line]


def test_what_cannot_be_compiled_is_computed_as_it_is(weights, monkeypatch, caplog):
    monkeypatch.setattr(predict.torch, "compile", Compiler(RuntimeError("no Python.h\nat line 3")))
    monkeypatch.setattr(predict, "_can_compile", lambda: True)
    network = by_torch(weights[ILSVRC], compiled=True)
    found = [network(IMAGES, batch=2) for _ in range(2)]
    np.testing.assert_array_equal(*found)
    assert caplog.messages == ["going on uncompiled: PyTorch could not compile (no Python.h)"]


def test_without_a_compiler_it_goes_on(weights, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    by_torch(weights[ILSVRC], compiled=True)(IMAGES, batch=2)
    (line,) = caplog.messages
    assert "needs a C++ compiler, found no no-such-compiler: install one" in line


@pytest.mark.parametrize(
    ("cuda", "message"),
    [(None, r"finds 1 GPUs here \(its build is for CPUs"), ("12.8", "finds 1 GPUs here; use")],
)
def test_a_gpu_that_pytorch_does_not_find_is_named(cuda, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(ValueError, match=f"--gpus 0,1: PyTorch {message}"):
        predict.torch_devices(Devices(gpus=(0, 1)))
    assert len(predict.torch_devices(Devices(cpus=2))) == 1


@pytest.mark.parametrize(
    ("asked", "images", "gpus", "expected"),
    [
        (None, 1449, (), True),  # the whole of VOC's validation set, on two cores
        (None, 100, (), False),
        (None, 1449, (0,), False),
        (True, 1, (0,), True),
        (False, 1449, (), False),
    ],
)
def test_long_runs_are_compiled_by_themselves(asked, images, gpus, expected, monkeypatch):
    monkeypatch.setattr(session, "usable_cores", lambda: 2)
    options = SimpleNamespace(compile=asked, test_flipping=False, test_scales=(504,))
    run = SimpleNamespace(options=options, _devices=Devices(gpus=gpus), samples=range(images))
    assert session.Session._is_compiled(run) == expected


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return three layers, what computes them compiled, and the folder of the compiler's cache.

    By PyTorch's own compiler: of 38 layers it takes its time.
    """
    generator = torch.Generator().manual_seed(0)
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(inplace=True)
    network = torch.nn.Sequential(*layers).eval()
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1, generator=generator)
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        images = image_batch((2, 3, 9, 8))
        expected = network(torch.from_numpy(images)).softmax(dim=1).detach().numpy()
        device = torch.device("cpu")
        start = predict._Replica(network, device, torch.float32, compiled=True).start
        found = [start(images)() for _ in range(2)]
    return expected, found, folder


def test_a_compiled_network_computes_the_same(small):
    expected, found, _ = small
    for one in found:
        np.testing.assert_allclose(one, expected, atol=1e-6)


def test_a_compiled_network_is_kept_for_no_other_process(small):
    """One on another kind of CPU would take it: PyTorch keeps networks by their graph alone."""
    folder = small[2]
    names = [path.name for path in folder.iterdir()]
    assert names, "nothing was compiled"
    assert "fxgraph" not in names

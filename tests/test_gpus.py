"""Which GPUs there are, and who computes on them; `nvidia-smi` and the driver are stand-ins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ademx import gpus
from ademx.devices import Devices
from ademx.engines import backends
from ademx.engines.mxnet import predict
from ademx.gpus import Gpu

TURING, HOPPER = Gpu(0, "Tesla T4", (7, 5)), Gpu(1, "NVIDIA H100", (9, 0))


@pytest.fixture
def without_driver(monkeypatch):
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(gpus.ctypes, "CDLL", absent)


@pytest.fixture
def nvidia_smi(without_driver, monkeypatch, tmp_path):
    """Return what puts a program of this name on the PATH."""

    def write(body):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    return write


def driver(*capabilities, visible=True):
    """Return a stand-in for libcuda.so.1 with GPUs of these capabilities."""

    def write(value):
        def function(pointer, *_):
            pointer._obj.value = value
            return 0

        return function

    def name(buffer, size, handle):
        buffer.value = b"GPU of kind %d" % handle
        return 0

    def attribute(pointer, number, handle):
        pointer._obj.value = capabilities[handle - 100][{75: 0, 76: 1}[number]]
        return 0

    def device(pointer, number):
        pointer._obj.value = 100 + number
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: 0 if visible else 100,  # CUDA_ERROR_NO_DEVICE
        cuDriverGetVersion=write(12020),
        cuDeviceGetCount=write(len(capabilities)),
        cuDeviceGet=device,
        cuDeviceGetName=name,
        cuDeviceGetAttribute=attribute,
    )


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((3, 7), False),  # Kepler
        ((5, 0), True),
        ((5, 2), True),  # Maxwell
        ((6, 1), True),  # Pascal
        ((7, 5), True),  # Turing
        ((8, 0), True),
        ((8, 9), True),  # Ada
        ((9, 0), False),  # Hopper
        ((10, 0), False),  # Blackwell
        ((12, 0), False),
    ],
)
def test_maxwell_to_ada_run_the_code_of_the_wheel(capability, expected):
    assert gpus.has_mxnet_code(capability) == expected


def test_code_runs_on_the_same_major_and_at_most_its_minor(monkeypatch):
    monkeypatch.setattr(gpus, "MXNET_CAPABILITIES", ((8, 6),))
    assert [gpus.has_mxnet_code((8, minor)) for minor in (0, 5, 6, 9)] == [False, False, True, True]
    assert not gpus.has_mxnet_code((9, 6))


def test_the_driver_tells_names_and_capabilities(monkeypatch):
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: driver((8, 0), (9, 0)))
    found = gpus.find_gpus()
    assert found == [Gpu(0, "GPU of kind 100", (8, 0)), Gpu(1, "GPU of kind 101", (9, 0))]
    assert [gpu.runs_mxnet for gpu in found] == [True, False]
    assert gpus.driver_cuda_version() == (12, 2)


def test_nvidia_smi_is_asked_where_the_driver_does_not_answer(nvidia_smi, monkeypatch):
    nvidia_smi("echo '0, NVIDIA H100 80GB HBM3, 9.0'; echo '1, NVIDIA A10, 8.6'")
    expected = [Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0)), Gpu(1, "NVIDIA A10", (8, 6))]
    assert gpus.find_gpus() == expected
    assert gpus.driver_cuda_version() is None
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: driver(visible=False))
    assert gpus.find_gpus() == expected


def test_an_nvidia_smi_that_knows_no_capabilities_still_names_the_gpus(nvidia_smi):
    nvidia_smi(
        'case "$1" in *compute_cap*) echo \'Field "compute_cap" is not a valid field\'; exit 2;; '
        "esac; echo '0, Tesla V100'"
    )
    assert gpus.find_gpus() == [Gpu(0, "Tesla V100", None)]
    assert gpus.find_gpus()[0].runs_mxnet


def test_without_driver_and_program_there_is_none(nvidia_smi):
    nvidia_smi("exit 9")
    assert gpus.find_gpus() == []


@pytest.fixture
def machine(monkeypatch):
    """Return what sets up another machine: GPUs, and the engines that are installed."""

    def set_up(*found, mxnet="mxnet-cu112", torch=True, cuda=True):
        installed = {"mxnet": bool(mxnet), "torch": torch}
        monkeypatch.setattr(backends, "find_spec", lambda name: installed[name] or None)
        monkeypatch.setattr(backends, "installed_version", lambda name: "1" * (name == mxnet))
        monkeypatch.setattr(backends, "find_gpus", lambda: list(found))
        monkeypatch.setattr(gpus, "find_gpus", lambda: list(found))
        cuda_or_not = SimpleNamespace(is_available=lambda: cuda)
        monkeypatch.setattr(backends, "import_torch", lambda: SimpleNamespace(cuda=cuda_or_not))
        context = SimpleNamespace(num_gpus=lambda: len(found) * (mxnet == "mxnet-cu112"))
        monkeypatch.setattr(backends, "import_mxnet", lambda: SimpleNamespace(context=context))

    return set_up


@pytest.mark.parametrize(
    ("numbers", "state", "expected"),
    [
        ((), {}, "mxnet"),
        ((), {"mxnet": ""}, "torch"),
        ((), {"torch": False}, "mxnet"),
        ((0,), {}, "mxnet"),
        ((0,), {"mxnet": "mxnet"}, "torch"),  # the CPU build
        ((1,), {}, "torch"),
        ((0, 1), {}, "torch"),
        ((1,), {"torch": False}, "mxnet"),  # which says what to install
    ],
)
def test_auto_takes_what_works_on_the_devices(numbers, state, expected, machine):
    machine(TURING, HOPPER, **state)
    assert backends.resolve_backend("auto", Devices(gpus=numbers)) == expected
    assert backends.resolve_backend("mxnet", Devices(gpus=numbers)) == "mxnet"


@pytest.mark.parametrize(
    ("found", "state", "backend", "devices"),
    [
        ((), {}, "mxnet", Devices()),
        ((TURING, HOPPER), {}, "mxnet", Devices(gpus=(0,))),
        ((Gpu(0, "NVIDIA B200", (10, 0)), Gpu(1, "A10", (8, 6))), {}, "mxnet", Devices(gpus=(1,))),
        ((Gpu(0, "NVIDIA H100", (9, 0)),), {}, "torch", Devices(gpus=(0,))),
        ((Gpu(0, "NVIDIA H100", (9, 0)),), {"cuda": False}, "mxnet", Devices()),
        ((Gpu(0, "NVIDIA H100", (9, 0)),), {"torch": False}, "mxnet", Devices()),
        ((TURING,), {"mxnet": "mxnet", "cuda": False}, "mxnet", Devices()),
    ],
)
def test_without_devices_it_is_a_gpu_that_an_engine_runs_on(
    found, state, backend, devices, machine
):
    machine(*found, **state)
    assert backends.resolve_backend("auto", None) == backend
    assert backends.default_devices(backend) == devices


@pytest.mark.parametrize(
    ("task", "precision", "avx512", "expected"),
    [
        ("segmentation", "float32", True, "mxnet"),
        ("segmentation", "bfloat16", True, "torch"),  # as fast or twice as fast
        ("classification", "bfloat16", True, "mxnet"),
        ("classification", "bfloat16", False, "torch"),  # MXNet cannot
        ("", "bfloat16", True, "mxnet"),  # training
    ],
)
@pytest.mark.parametrize("devices", [None, Devices(cpus=2)])
def test_bfloat16_on_cpus_is_for_the_faster_engine(
    devices, task, precision, avx512, expected, machine, monkeypatch
):
    machine()
    monkeypatch.setattr(backends, "mxnet_has_bfloat16", lambda: avx512)
    found = backends.resolve_backend("auto", devices, precision=precision, task=task)
    assert found == expected


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("float32", "mxnet"), ("float16", "mxnet"), ("tf32", "torch"), ("bfloat16", "torch")],
)
def test_what_mxnet_lacks_on_gpus_is_for_pytorch(precision, expected, machine):
    machine(Gpu(0, "NVIDIA A100", (8, 0)))
    for devices in (None, Devices(gpus=(0,))):
        assert backends.resolve_backend("auto", devices, precision=precision) == expected


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="'jax'"):
        backends.resolve_backend("jax", None)


def test_a_gpu_that_mxnet_has_no_code_for_is_told_what_to_do(machine):
    pytest.importorskip("mxnet")
    machine(TURING, HOPPER)
    expected = (
        r"--gpus 0,1: MXNet 1.9.1 has no code for GPU 1 \(NVIDIA H100, compute capability 9.0\): "
        r"run `pip install 'ademx\[torch\]'` and use --backend torch"
    )
    with pytest.raises(ValueError, match=expected):
        predict.mxnet_contexts(Devices(gpus=(0, 1)))

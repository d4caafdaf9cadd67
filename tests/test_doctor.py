"""`ademx doctor`: what it finds with MXNet, without it, and on machines that are not this one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import make_runner

from ademx import compat, doctor
from ademx.cli import main
from ademx.cuda_libraries import LIBRARIES, Library
from ademx.doctor import examine
from ademx.gpus import Gpu


@pytest.fixture
def machine(monkeypatch):
    """Return what sets up another machine: packages, GPUs, driver, MXNet, libraries."""

    def set_up(packages, *, gpus=(), driver=None, num_gpus=0, libraries=(), threads=None, cores=8):
        features = SimpleNamespace(is_enabled=lambda name: name == "MKLDNN")
        mx = SimpleNamespace(
            runtime=SimpleNamespace(Features=lambda: features),
            context=SimpleNamespace(num_gpus=lambda: num_gpus),
            MXNetError=RuntimeError,
        )
        mx.nd = SimpleNamespace(ones=lambda shape: SimpleNamespace(asnumpy=lambda: np.ones(shape)))
        torch = SimpleNamespace(ones=lambda shape: SimpleNamespace(numpy=lambda: np.ones(shape)))
        monkeypatch.setattr(doctor, "installed_version", lambda name: packages.get(name, ""))
        monkeypatch.setattr(doctor, "load_libraries", lambda: tuple(libraries))
        monkeypatch.setattr(doctor, "find_gpus", lambda: list(gpus))
        monkeypatch.setattr(doctor, "driver_cuda_version", lambda: driver)
        monkeypatch.setattr(doctor, "import_mxnet", lambda: mx)
        monkeypatch.setattr(doctor, "import_optional", lambda name, message: torch)
        monkeypatch.setattr(doctor, "usable_cores", lambda: cores)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if threads:
            monkeypatch.setenv("OMP_NUM_THREADS", threads)

    return set_up


def problems():
    return [f"{problem.what}: {problem.cure}" for problem in examine().problems]


H100, A100 = Gpu(0, "NVIDIA H100", (9, 0)), Gpu(1, "NVIDIA A100", (8, 0))
TORCH = {"torch": "2.13"}
GPU = {"mxnet-cu112": "1.9.1"}


def test_what_is_found_here_is_what_python_finds():
    mx = pytest.importorskip("mxnet")
    report = examine()
    assert report.usable
    assert mx.__version__ in report.facts["mxnet"]
    found = set(report.facts["features"].split(", "))
    features = mx.runtime.Features()
    assert found == {name for name in doctor._FEATURES if features.is_enabled(name)}
    assert report.facts["numpy"] == np.__version__
    assert report.facts["devices"].startswith("cpu(0)")


@pytest.mark.parametrize(("absent", "status"), [("mxnet", 0), ("mxnet torch", 1)])
def test_without_mxnet_the_rest_is_found_and_pytorch_decides_the_status(
    absent, status, monkeypatch
):
    pytest.importorskip("torch")
    code = """if True:
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in sys.argv[1].split():
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Absent())
        from ademx.cli import main
        main(["doctor"])
    """
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # few are a problem too
    command = [sys.executable, "-c", code, absent]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stderr
    assert np.__version__ in result.stdout
    engines = "none computes" if status else "PyTorch"
    assert re.search(rf"^engines +{engines}$", result.stdout, re.MULTILINE)
    line, *others = [line for line in result.stdout.splitlines() if "PROBLEM" in line]
    assert line.startswith("PROBLEM: this needs MXNet, which is not installed: run `pip install")
    assert len(others) == status  # PyTorch, which is installed here


def test_a_healthy_gpu_machine_has_no_problem(machine):
    libraries = [Library(name, f"/site/{name}") for name in LIBRARIES]
    machine(GPU, gpus=[A100], driver=(12, 2), num_gpus=2, libraries=libraries)
    report = examine()
    assert report.problems == ()
    assert report.facts["devices"] == "cpu(0), gpu(0), gpu(1)"
    assert report.facts["driver"] == "for CUDA 12.2"
    assert report.facts["nvidia gpus"] == (
        "GPU 1 (NVIDIA A100, compute capability 8.0): for MXNet and PyTorch"
    )
    assert report.facts["libcudnn.so.8"] == "/site/libcudnn.so.8"
    assert report.facts["mxnet"] == "1.9.1 (wheel mxnet-cu112)"


@pytest.mark.parametrize(
    ("packages", "state", "expected"),
    [
        ({"mxnet": "1.9.1"}, {"gpus": [A100]}, "there is a GPU, but MXNet's CPU build.*uninstall"),
        ({"mxnet": "1.9.1", **GPU}, {"num_gpus": 1}, "both installed.*uninstall mxnet mxnet-cu112"),
        (GPU, {"driver": (10, 2)}, "the NVIDIA driver serves CUDA 10.2.*update the driver"),
        (GPU, {}, "finds no GPU: install the NVIDIA driver"),
        (GPU, {"gpus": [A100]}, "finds no GPU: check CUDA_VISIBLE_DEVICES"),
        (
            GPU,
            {"num_gpus": 1, "libraries": [Library("libcudnn.so.8", "", "not found")]},
            r"libcudnn.so.8 is not loaded \(not found\): run `pip install.*nvidia-cudnn-cu11",
        ),
        (
            {**GPU, "nvidia-nccl-cu12": "2.27"},
            {"num_gpus": 1, "libraries": [Library("libnccl.so.2", "/site/libnccl.so.2")]},
            "nvidia-nccl-cu12 replaced files of the CUDA 11 packages: install torch for the CPU",
        ),
        (
            {"mxnet": "1.9.1"},
            {"gpus": [H100]},
            r"no code for GPU 0 \(NVIDIA H100, compute capability 9.0\): "
            r"run `pip install 'ademx\[torch\]'` and use --backend torch",
        ),
        ({"mxnet": "1.9.1"}, {"threads": "1"}, "OMP_NUM_THREADS=1 keeps MXNet to 1 of 8 cores"),
    ],
)
def test_each_problem_has_one_line_with_its_cure(packages, state, expected, machine):
    machine(packages, **state)
    (line,) = problems()
    assert re.search(expected, line), line


def test_threads_that_mxnet_would_abort_at_are_a_problem(machine):
    machine({"mxnet": "1.9.1"}, threads="foo")
    report = examine()
    assert not report.usable
    assert problems() == [
        "OMP_NUM_THREADS='foo': set it to a number of threads, 1 or more, or unset it"
    ]


def test_no_problem_where_there_is_none(machine):
    machine({"mxnet": "1.9.1"}, threads="8")
    assert problems() == []
    assert examine().facts["threads"] == "8 (OMP_NUM_THREADS)"


def test_a_mxnet_that_breaks_is_reported_not_raised(machine, monkeypatch):
    machine({"mxnet": "1.9.1"})

    def fail():
        raise AttributeError("module 'numpy' has no attribute 'bool'")

    monkeypatch.setattr(doctor, "import_mxnet", fail)
    report = examine()
    assert not report.usable
    assert "MXNet does not work (AttributeError: module 'numpy'" in report.problems[0].what


def test_a_pytorch_that_breaks_is_reported_not_raised(machine, monkeypatch):
    machine({"mxnet": "1.9.1", **TORCH})

    def fail(name, message):
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "import_optional", fail)
    report = examine()
    assert report.usable and report.facts["engines"] == "MXNet"
    (problem,) = report.problems
    assert "PyTorch does not work (OSError: libtorch.so" in problem.what


def test_the_cure_is_told_from_the_problem(machine, monkeypatch):
    machine(GPU)

    def fail():
        raise compat.MissingDependency("does not load (libcuda.so.1: absent): install the driver")

    monkeypatch.setattr(doctor, "import_mxnet", fail)
    problem, *_ = examine().problems
    assert problem == doctor.Problem("does not load (libcuda.so.1: absent)", "install the driver")


def test_gpus_that_only_pytorch_computes_on_are_no_problem_where_it_is(machine):
    machine({"mxnet": "1.9.1", **TORCH}, gpus=[H100])
    assert problems() == []
    assert examine().facts["nvidia gpus"] == f"{H100}: use --backend torch, which is installed"


@pytest.mark.parametrize("packages", [{}, TORCH])
def test_the_owner_of_a_new_gpu_is_not_told_to_install_mxnet(packages, machine, monkeypatch):
    def fail():
        raise compat.MissingDependency("this needs MXNet: run `pip install 'ademx[gpu]'`")

    machine(packages, gpus=[H100])
    monkeypatch.setattr(doctor, "import_mxnet", fail)
    (line,) = problems()
    assert line.startswith(f"MXNet 1.9.1 has no code for {H100}: ")
    assert "--backend torch" in line
    assert "ademx[gpu]" not in line


def test_the_command_writes_json(tmp_path):
    path = tmp_path / "doctor.json"
    result = make_runner().invoke(main, ["doctor", "--json", str(path)])
    written = json.loads(path.read_text())
    assert result.exit_code == (0 if written["usable"] else 1)
    assert written["facts"]["numpy"] == np.__version__
    again = make_runner().invoke(main, ["doctor", "--json", str(path)])
    assert again.exit_code == 1
    assert "exists: choose another name or add --overwrite" in again.stderr
    assert [each for each in Path(tmp_path).iterdir()] == [path]

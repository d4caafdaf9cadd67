"""The bridge to MXNet 1.9: without it, with it, and beside torch. Each case a fresh process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ademx import compat

WITHOUT_MXNET = """
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "mxnet":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
"""
BLOCKED_MXNET = """
    import sys
    sys.modules["mxnet"] = None
"""


def run(*sources):
    code = "\n".join(map(textwrap.dedent, sources))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)


def output_of(*sources):
    result = run(*sources)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_what_needs_no_mxnet_imports_without_it():
    modules = (
        "ademx, ademx.cli, ademx.labels, ademx.metrics, ademx.networks.graph, ademx.params, "
        "ademx.networks.summary, iters.datasets, iters.transforms, symbols, symbols.levels"
    )
    assert output_of(WITHOUT_MXNET, f"import {modules}\nprint(ademx.__version__)")


@pytest.mark.parametrize("hide", [WITHOUT_MXNET, BLOCKED_MXNET])
def test_a_graph_without_mxnet_says_in_one_line_what_to_install(hide):
    code = """
        import ademx
        try:
            ademx.build_symbol("ilsvrc-cls_rna-a1_cls1000")
        except ImportError as error:
            print(type(error).__name__, error)
    """
    message = output_of(hide, code)
    assert message.startswith("MissingDependency this needs MXNet, which is not installed")
    assert "pip install 'ademx[cpu]'" in message
    assert len(message.splitlines()) == 1


def test_a_summary_needs_no_mxnet():
    code = "from ademx.cli import main\nmain(['summary', 'a1'])"
    assert "109,167,912" in output_of(WITHOUT_MXNET, code)


def test_the_command_without_mxnet_says_so_in_one_line_and_fails():
    code = "from ademx.cli import main\nmain(['summary', 'a1', '--training', '--backend', 'mxnet'])"
    result = run(WITHOUT_MXNET, code)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: this needs MXNet")
    assert "pip install 'ademx[cpu]'" in line


def test_help_needs_no_mxnet():
    code = "from ademx.cli import main\nmain(['summary', '--help'])"
    assert "--plot" in output_of(WITHOUT_MXNET, code)


def test_what_mxnet_hardly_needs_is_loaded_when_it_is_used():
    if not all(map(importlib.util.find_spec, ("mxnet", "onnx", "scipy"))):
        pytest.skip("needs MXNet, onnx and scipy")
    code = """
        import sys
        from ademx.compat import import_mxnet
        quantization = import_mxnet().contrib.quantization
        print({"scipy.stats", "onnx", "requests"} & set(sys.modules))
        print(round(quantization.stats.entropy([0.5, 0.5]), 4))  # ln 2
        import onnx, scipy.stats
        print(onnx.defs.onnx_opset_version() > 12, scipy.stats is sys.modules["scipy.stats"])
    """
    assert output_of(code).splitlines() == ["set()", "0.6931", "True True"]


def test_mxnet_imports_after_ademx():
    pytest.importorskip("mxnet")
    assert output_of("import ademx, mxnet\nprint(mxnet.nd.ones((2, 3)).sum().asscalar())") == "6.0"


@pytest.mark.parametrize("before", ["import torch", ""])
def test_gluoncv_imports_beside_torch(before):
    for package in ("gluoncv", "torch"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    code = f"""
        import sys
        sys.path.append({str(Path(__file__).parent)!r})
        from gluoncv_beside_torch import import_gluoncv
        gluoncv = import_gluoncv()
        import torch
        net = gluoncv.model_zoo.get_model("cifar_resnet20_v1", pretrained=False)
        print(type(net).__name__, torch.nn.functional.relu(torch.tensor([-1.0, 2.0])).tolist())
    """
    assert output_of(before, code) == "CIFARResNetV1 [0.0, 2.0]"


def test_numpy_2_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(np, "__version__", "2.1.3")
    message = "MXNet 1.9.1 needs numpy below 2, found 2.1.3: run `pip install 'numpy<2'`"
    with pytest.raises(compat.MissingDependency, match=message):
        compat.import_mxnet()


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    def load(name):
        raise OSError("libcudnn.so.8: cannot open shared object file")

    monkeypatch.setattr(compat.importlib, "import_module", load)
    with pytest.raises(compat.MissingDependency, match=r"does not load \(libcudnn.*ademx\[gpu\]"):
        compat.import_mxnet()


@pytest.mark.parametrize(
    ("module", "package"), [("requests", "requests"), ("distutils", "setuptools")]
)
def test_a_package_that_mxnet_lacks_is_named_with_its_cure(monkeypatch, module, package):
    def load(name):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(compat.importlib, "import_module", load)
    message = f"MXNet needs {module}, which is not installed: run `pip install {package}`"
    with pytest.raises(compat.MissingDependency, match=message):
        compat.import_mxnet()


def test_aliases_that_numpy_still_has_are_left_alone(monkeypatch):
    monkeypatch.setattr(np, "bool", "numpy's own", raising=False)
    monkeypatch.delattr(np, "int")
    compat.prepare_numpy()
    assert np.bool == "numpy's own"
    assert np.int is int


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return what sets up processors, the cores they are on, and control groups."""
    monkeypatch.setattr(compat, "_PROCESSORS", tmp_path / "cpu")
    monkeypatch.setattr(compat, "_OWN_GROUPS", tmp_path / "own_groups")
    monkeypatch.setattr(compat, "_GROUPS", tmp_path / "groups")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def set_up(siblings, *, affinity=None, own="", files=()):
        for number, text in enumerate(siblings):
            folder = tmp_path / "cpu" / f"cpu{number}" / "topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(text + "\n")
        processors = set(affinity or range(len(siblings) or 6))
        monkeypatch.setattr(compat.os, "sched_getaffinity", lambda pid: processors)
        (tmp_path / "own_groups").write_text(own)
        for name, text in dict(files).items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    return set_up


@pytest.mark.parametrize(
    ("siblings", "affinity", "threads"),
    [
        (["0", "1", "2", "3"], None, 4),
        (["0,2", "1,3", "0,2", "1,3"], None, 2),
        (["0-3"] * 4 + ["4-7"] * 4, None, 2),
        (["0-1,4-5", "0-1,4-5", "2-3", "2-3", "0-1,4-5", "0-1,4-5"], None, 2),
        (["0,2", "1,3", "0,2", "1,3"], {0, 1}, 2),  # half of each core
        (["0,2", "1,3", "0,2", "1,3"], {1, 3}, 1),
        (["0-1", "0-1", "2", "3"], None, 3),  # fast cores with two threads, slow ones with one
        ([], None, 6),  # nothing is said of siblings
    ],
)
def test_mxnet_gets_a_thread_for_each_core(machine, siblings, affinity, threads):
    machine(siblings, affinity=affinity)
    compat.share_cores(1)
    assert compat.os.environ["OMP_NUM_THREADS"] == str(threads)


V1 = {"a/b/cpu.cfs_quota_us": "250000", "a/b/cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "390000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/docker/of-the-host", {"cpu.max": "400000 100000"}, 4),
        ("3:cpu,cpuacct:/a/b\n2:memory:/", {f"cpu,cpuacct/{k}": v for k, v in V1.items()}, 2),
        ("1:cpu:/a/b\n0::/", {f"cpu/{k}": v for k, v in V1.items()}, 2),
        ("1:cpu:/a/b", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("5:cpuset:/", {"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.cfs_period_us": "1"}, 8),
        ("1:name=systemd:/\n0::/x", {"unified/x/cpu.max": "500000 100000"}, 5),
    ],
)
def test_a_containers_quota_counts(machine, own, files, cores):
    machine([str(number) for number in range(8)], own=own, files=files)
    assert compat.usable_cores() == cores


@pytest.mark.parametrize(("chosen", "threads"), [("3", "3"), ("2,1", "2"), (" 2 ", "2"), ("", "6")])
def test_threads_are_put_as_mxnet_understands_them(machine, monkeypatch, chosen, threads):
    machine([str(number) for number in range(6)])
    monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    compat.share_cores(1)
    assert compat.os.environ["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize("chosen", ["foo", "0", "-1", "1e1", "2,", "99999999999", "²"])
def test_threads_that_mxnet_would_abort_at_are_refused(monkeypatch, chosen):
    monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    with pytest.raises(ValueError, match=f"OMP_NUM_THREADS='{chosen}': set it to a number"):
        compat.import_mxnet()


def test_the_users_number_of_threads_stands(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    compat.share_cores(1)
    assert compat.os.environ["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("flags", "isa", "found"),
    [
        ("fpu avx2 avx512bw avx512dq avx512vl", None, True),
        ("fpu avx2 avx512bw avx512dq avx512vl", "AVX512_CORE", True),
        ("fpu avx2 avx512bw avx512dq avx512vl", "avx2", False),
        ("fpu avx2 avx512f", None, False),  # a Xeon Phi
        ("fpu avx2", None, False),
        ("", None, True),  # no Linux: nothing is known
    ],
)
def test_mxnet_computes_bfloat16_by_avx512(flags, isa, found, monkeypatch):
    monkeypatch.setattr(compat, "_cpu_flags", lambda: set(flags.split()))
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    if isa:
        monkeypatch.setenv("DNNL_MAX_CPU_ISA", isa)
    assert compat.mxnet_has_bfloat16() is found


@pytest.mark.parametrize(("chosen", "expected"), [(None, "0"), ("1", "1")])
def test_float32_on_gpus_is_not_tf32(chosen, expected, monkeypatch):
    """CUDA's libraries read the variable; this machine's MXNet is not loaded."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")  # is put back
    if chosen is None:
        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    monkeypatch.delitem(sys.modules, "mxnet", raising=False)
    monkeypatch.setattr(compat.cuda_libraries, "installed_version", lambda name: "1.9.1")
    monkeypatch.setattr(compat.cuda_libraries, "load_libraries", tuple)
    loader = SimpleNamespace(import_module=lambda name: os.environ["NVIDIA_TF32_OVERRIDE"])
    monkeypatch.setattr(compat, "importlib", loader)
    assert compat.import_mxnet() == expected


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        ("", {}, 3000),
        ("0::/job", {"job/memory.max": "max", "job/memory.current": "7"}, 3000),
        # 2000 may be filled, 1500 are, of which 400 are files that were read.
        (
            "0::/job",
            {"job/memory.max": "2048000", "job/memory.current": "1536000"}
            | {"job/memory.stat": "anon 5\ninactive_file 409600\nactive_file 3"},
            900,
        ),
        (
            "4:memory:/a/b",
            {f"memory/a/memory.{name}": "1024000" for name in ("limit_in_bytes", "usage_in_bytes")}
            | {"memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 2048"},
            2,
        ),
    ],
)
def test_free_memory_is_that_of_the_machine_or_the_container(
    machine, monkeypatch, tmp_path, own, files, free
):
    machine([], own=own, files=files)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    3000 kB\n")
    monkeypatch.setattr(compat, "_MEMORY", tmp_path / "meminfo")
    assert compat.free_memory() == free * 1024


def test_free_memory_that_nobody_tells(machine, monkeypatch, tmp_path):
    machine([])
    monkeypatch.setattr(compat, "_MEMORY", tmp_path / "none")
    assert compat.free_memory() is None

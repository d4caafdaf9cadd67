"""CUDA libraries from PyPI: which are loaded, in what order, and when. No library is real."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ademx import compat, cuda_libraries
from ademx.cuda_libraries import LIBRARIES, SYSTEM, Library, load_libraries

# What each library's dynamic section asks for (readelf -d of the packages that setup.py names).
NEEDS = {
    "libcublas.so.11": {"libcublasLt.so.11"},
    "libcusolver.so.11": {"libcublas.so.11", "libcublasLt.so.11"},
}
# The same of mxnet-cu112 1.9.1's libmxnet.so, but for libcuda.so.1, which the driver brings.
MXNET_NEEDS = {
    "libcudnn.so.8",
    "libnccl.so.2",
    "libcudart.so.11.0",
    "libcufft.so.10",
    "libcublas.so.11",
    "libcusolver.so.11",
    "libcurand.so.10",
    "libnvrtc.so.11.2",
    "libnvToolsExt.so.1",
}


class Linker:
    """Loads what the system has by name, and files if what they need is loaded before."""

    def __init__(self, system=()):
        self.system = set(system)
        self.loaded = []

    def __call__(self, name):
        soname = Path(name).name
        if name == soname and name not in self.system:
            raise OSError(f"{name}: cannot open shared object file")
        for needed in NEEDS.get(soname, ()):
            if needed not in {Path(path).name for path in self.loaded}:
                raise OSError(f"{needed}: cannot open shared object file")
        self.loaded.append(name)


def packages(root, *, without=()):
    for name, package in LIBRARIES.items():
        path = root / package / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name not in without:
            path.touch()
    return [str(root)]


def test_every_library_is_loaded_from_pypi_before_those_that_need_it(tmp_path):
    linker = Linker()
    found = load_libraries(load=linker, roots=packages(tmp_path))
    assert [library.problem for library in found] == [""] * len(LIBRARIES)
    assert linker.loaded == [library.source for library in found]
    assert {Path(path).name for path in linker.loaded} >= MXNET_NEEDS


def test_the_systems_own_libraries_come_first(tmp_path):
    linker = Linker(system=["libcudart.so.11.0", "libcublasLt.so.11"])
    found = load_libraries(load=linker, roots=packages(tmp_path))
    sources = {library.name: library.source for library in found}
    assert {name for name, source in sources.items() if source == SYSTEM} == linker.system
    from_pypi = tmp_path / "nvidia-cublas-cu11" / "lib" / "libcublas.so.11"
    assert sources["libcublas.so.11"] == str(from_pypi)


def test_a_missing_library_is_named_and_so_is_what_needs_it(tmp_path):
    roots = packages(tmp_path, without=["libcublasLt.so.11"])
    found = load_libraries(load=Linker(), roots=roots)
    problems = {library.name: library.problem for library in found if not library.source}
    assert set(problems) == {"libcublasLt.so.11", "libcublas.so.11", "libcusolver.so.11"}
    assert problems["libcublasLt.so.11"] == "not found"
    assert problems["libcublas.so.11"] == "libcublasLt.so.11: cannot open shared object file"


def test_without_packages_nothing_is_loaded():
    found = load_libraries(load=Linker(), roots=[])
    assert found == tuple(Library(name, "", "not found") for name in LIBRARIES)


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_a_library_loaded_this_way_serves_one_that_the_linker_would_not_find(tmp_path):
    """What MXNet does: it needs symbols of a library that lies where nobody looks."""
    folder = tmp_path / "nvidia" / "cudnn" / "lib"
    folder.mkdir(parents=True)
    library, user = folder / "libcudnn.so.8", tmp_path / "libuser.so"
    compile_library("int answer(void) { return 42; }", library, "-Wl,-soname,libcudnn.so.8")
    compile_library("int answer(void); int ask(void) { return answer(); }", user, str(library))
    code = f"""if True:
        import ctypes, sys
        from ademx.cuda_libraries import load_libraries
        if "load" in sys.argv:
            load_libraries(roots=[{str(tmp_path / "nvidia")!r}])
        print(ctypes.CDLL({str(user)!r}).ask())
    """
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "libcudnn.so.8: cannot open shared object file" in alone.stderr
    helped = subprocess.run([sys.executable, "-c", code, "load"], capture_output=True, text=True)
    assert helped.stdout == "42\n", helped.stderr


def compile_library(source, path, *options):
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    command += ["-x", "none", *options]
    subprocess.run(command, input=source, text=True, check=True)


@pytest.mark.parametrize(("wheel", "loads"), [("mxnet-cu112", 1), ("mxnet", 0)])
def test_libraries_are_loaded_for_the_gpu_wheel_only(wheel, loads, monkeypatch):
    calls = []
    monkeypatch.setattr(
        cuda_libraries, "installed_version", lambda name: "1.9.1" if name == wheel else ""
    )
    monkeypatch.setattr(cuda_libraries, "load_libraries", lambda: calls.append("libraries"))
    monkeypatch.setattr(compat.importlib, "import_module", calls.append)
    monkeypatch.delitem(sys.modules, "mxnet", raising=False)
    compat.import_mxnet()
    assert calls == ["libraries"] * loads + ["mxnet"]


@pytest.mark.parametrize(
    ("library", "cure"),
    [
        ("libcuda.so.1", "install the NVIDIA driver, or the CPU build"),
        ("libcudnn.so.8", r"or `pip install 'ademx\[gpu\]'`, which brings the CUDA libraries"),
        ("libgomp.so.1", "apt-get install libgomp1"),
    ],
)
def test_what_is_missing_decides_the_remedy(library, cure, monkeypatch):
    def load(name):
        raise OSError(f"{library}: cannot open shared object file")

    monkeypatch.setattr(compat.importlib, "import_module", load)
    with pytest.raises(compat.MissingDependency, match=f"does not load .{library}.*{cure}"):
        compat.import_mxnet()


def test_setup_names_every_package_with_a_version():
    setup = (Path(__file__).parent.parent / "setup.py").read_text()
    assert set(LIBRARIES.values()) == set(re.findall(r'"(nvidia-[\w-]+-cu11)==', setup))
    assert re.search(r'"nvidia-cudnn-cu11==8\.', setup)


def test_roots_are_those_of_the_shared_package(monkeypatch, tmp_path):
    (tmp_path / "nvidia" / "cudnn").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("nvidia", None)
    importlib.invalidate_caches()
    loaded = []

    def load(name):
        if "/" not in name:
            raise OSError(name)
        loaded.append(name)

    file = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.8"
    file.parent.mkdir()
    file.touch()
    load_libraries(load=load)
    assert str(file) in loaded


def test_the_default_loader_is_the_dynamic_linker_for_all():
    with pytest.raises(OSError, match="libnothing"):
        cuda_libraries._load_for_all("libnothing.so.0")
    assert isinstance(cuda_libraries._load_for_all("libm.so.6"), ctypes.CDLL)

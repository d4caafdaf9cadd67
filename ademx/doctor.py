"""What the engines find on this machine, and a cure for each thing that is wrong."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

from ademx.compat import (
    chosen_threads,
    cpu_has_bfloat16,
    import_mxnet,
    import_optional,
    mxnet_has_bfloat16,
    usable_cores,
)
from ademx.cuda_libraries import (
    GPU_WHEEL,
    LIBRARIES,
    SYSTEM,
    Library,
    installed_version,
    load_libraries,
)
from ademx.errors import InputError, MissingDependency
from ademx.gpus import USE_TORCH, Gpu, driver_cuda_version, find_gpus

_FEATURES = ("CUDA", "CUDNN", "NCCL", "MKLDNN", "OPENCV", "DIST_KVSTORE")
# Package -> what to do without it.
_PACKAGES = {
    "numpy": "`pip install 'numpy<2'`",
    "pillow": "`pip install pillow`",
    "gluoncv": "optional: `pip install gluoncv==0.10.5.post0`",
    "torch": "optional, for --backend torch and converting weights: `pip install 'ademx[torch]'`",
    "opencv-python": "optional: `pip install 'opencv-python<4.12'`",
    "matplotlib": "optional, for `ademx plot`: `pip install 'ademx[plot]'`",
}
# Package -> others that have the same module.
_OTHERS = {"opencv-python": ("opencv-python-headless", "opencv-contrib-python")}
# Packages for CUDA 12 whose files have the names of those for CUDA 11, and lie in the same folder.
_CLASHING = tuple(
    f"nvidia-{name}-cu12" for name in ("curand", "cusolver", "nccl", "nvtx")
)  # cuDNN, cuBLAS and the others carry a version in their file's name that differs
_CUDA_OF_WHEEL = 11


@dataclass(frozen=True)
class Problem:
    """Something wrong, and what to do about it."""

    what: str
    cure: str


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        usable: whether an engine, MXNet or PyTorch, loads and computes.
        facts: what -> what was found, in order.
        problems: what is wrong, the worst first.
    """

    usable: bool
    facts: dict[str, str]
    problems: tuple[Problem, ...]


def examine() -> Report:
    """Return what the engines, and what MXNet needs, are like on this machine."""
    threads, thread_problems = _examine_threads()
    wheels = {name: installed_version(name) for name in ("mxnet", GPU_WHEEL)}
    libraries = load_libraries() if wheels[GPU_WHEEL] else ()
    gpus, driver = find_gpus(), driver_cuda_version()
    gpu_problems = list(_gpu_problems(gpus, wheels=wheels))
    mx, problems = _try_engine("MXNet", _load_mxnet, "--no-deps mxnet==1.9.1")
    if gpu_problems and not any(gpu.runs_mxnet for gpu in gpus) and not any(wheels.values()):
        problems = []  # its cure would be to install it
    has_torch = installed_version("torch")
    torch, others = _try_engine("PyTorch", _load_torch, "torch") if has_torch else (None, [])
    engines = [name for name, module in (("MXNet", mx), ("PyTorch", torch)) if module]
    problems += [
        *others,
        *gpu_problems,
        *_wheel_problems(wheels, gpus=gpus),
        *_library_problems(libraries),
        *_driver_problems(mx, driver=driver, gpus=gpus, gpu_wheel=bool(wheels[GPU_WHEEL])),
        *thread_problems,
    ]
    facts = {
        "python": f"{sys.version.split()[0]} ({sys.executable})",
        "engines": ", ".join(engines) or "none computes",
        "mxnet": _wheel_line(wheels),
        **_mxnet_facts(mx),
        "threads": threads,
        "bfloat16": _bfloat16_fact(),
        "driver": f"for CUDA {driver[0]}.{driver[1]}" if driver else "no libcuda.so.1",
        "nvidia gpus": "; ".join(map(_gpu_line, gpus)) or "none found",
        **{library.name: library.source or library.problem for library in libraries},
        **{name: _package_line(name, cure) for name, cure in _PACKAGES.items()},
        "graphviz dot": shutil.which("dot") or "optional, for drawings: `apt install graphviz`",
    }
    return Report(bool(engines), facts, tuple(problems))


def _load_mxnet() -> ModuleType:
    chosen_threads()
    mx = import_mxnet()
    mx.nd.ones((2, 2)).asnumpy()
    return mx


def _load_torch() -> ModuleType:
    torch = import_optional("torch", "PyTorch is not installed: run `pip install 'ademx[torch]'`")
    torch.ones((2, 2)).numpy()
    return torch


def _try_engine(
    name: str, load: Callable[[], ModuleType], requirement: str
) -> tuple[ModuleType | None, list[Problem]]:
    """Return an engine that computes, or None and what keeps it from that."""
    try:
        return load(), []
    except (InputError, MissingDependency) as error:
        what, _, cure = str(error).rpartition(": ")
        return None, [Problem(what, cure)]
    except Exception as error:  # whatever a broken installation raises is the finding
        cure = f"run `pip install --force-reinstall {requirement}`"
        return None, [Problem(f"{name} does not work ({type(error).__name__}: {error})", cure)]


def _mxnet_facts(mx: ModuleType | None) -> dict[str, str]:
    if mx is None:
        return {}
    features = mx.runtime.Features()
    return {
        "features": ", ".join(name for name in _FEATURES if features.is_enabled(name)) or "none",
        "devices": ", ".join(["cpu(0)", *(f"gpu({n})" for n in range(_num_gpus(mx)))]),
    }


def _num_gpus(mx: ModuleType) -> int:
    try:
        return int(mx.context.num_gpus())
    except mx.MXNetError:  # a GPU build whose driver does not answer
        return 0


def _wheel_line(wheels: dict[str, str]) -> str:
    found = [f"{version} (wheel {name})" for name, version in wheels.items() if version]
    return ", ".join(found) or "not installed by pip"


def _bfloat16_fact() -> str:
    if not mxnet_has_bfloat16():
        return "not for MXNet, which needs AVX-512 for it"
    return "this CPU has it" if cpu_has_bfloat16() else "no gain: this CPU has no instructions"


def _gpu_line(gpu: Gpu) -> str:
    if gpu.capability is None:
        return f"{gpu}: its compute capability is not known"
    return f"{gpu}: for MXNet and PyTorch" if gpu.runs_mxnet else f"{gpu}: {_for_torch()}"


def _for_torch() -> str:
    """Return what the owner of a GPU does that MXNet has no code for."""
    installed = "use --backend torch, which is installed"
    return installed if installed_version("torch") else USE_TORCH


def _gpu_problems(gpus: list[Gpu], *, wheels: dict[str, str]) -> Iterator[Problem]:
    """Yield what GPUs MXNet can never compute on, unless PyTorch is there in its place."""
    unusable = ", ".join(str(gpu) for gpu in gpus if not gpu.runs_mxnet)
    if unusable and not (installed_version("torch") and any(wheels.values())):
        yield Problem(f"MXNet 1.9.1 has no code for {unusable}", _for_torch())


def _wheel_problems(wheels: dict[str, str], *, gpus: list[Gpu]) -> Iterator[Problem]:
    if all(wheels.values()):
        yield Problem(
            f"mxnet and {GPU_WHEEL} are both installed, each over files of the other",
            f"run `pip uninstall mxnet {GPU_WHEEL}`, then install one of them",
        )
    elif wheels["mxnet"] and any(gpu.runs_mxnet for gpu in gpus):
        yield Problem(
            "there is a GPU, but MXNet's CPU build is installed",
            "run `pip uninstall mxnet`, then `pip install 'ademx[gpu]'`",
        )


def _library_problems(libraries: tuple[Library, ...]) -> Iterator[Problem]:
    """Yield what keeps the GPU build from its libraries; none are given for the CPU build."""
    for library in libraries:
        if not library.source:
            package = LIBRARIES[library.name]
            yield Problem(
                f"{library.name} is not loaded ({library.problem})",
                f"run `pip install --force-reinstall --no-deps {package}`, with the version in "
                "setup.py",
            )
    clashing = [name for name in _CLASHING if installed_version(name)]
    if clashing and any(library.source not in ("", SYSTEM) for library in libraries):
        yield Problem(
            f"{', '.join(clashing)} replaced files of the CUDA 11 packages",
            "install torch for the CPU, or in another environment",
        )


def _driver_problems(
    mx: ModuleType | None,
    *,
    driver: tuple[int, int] | None,
    gpus: list[Gpu],
    gpu_wheel: bool,
) -> Iterator[Problem]:
    if not gpu_wheel:
        return
    if driver and driver[0] < _CUDA_OF_WHEEL:
        yield Problem(
            f"the NVIDIA driver serves CUDA {driver[0]}.{driver[1]}, {GPU_WHEEL} needs 11",
            "update the driver to 450.80 or later",
        )
    elif mx is not None and not _num_gpus(mx):
        cure = "check CUDA_VISIBLE_DEVICES" if gpus else "install the NVIDIA driver"
        yield Problem(f"{GPU_WHEEL} finds no GPU", f"{cure}, or train on the CPU by --gpus ''")


def _examine_threads() -> tuple[str, list[Problem]]:
    """Return how many threads MXNet computes with, in words, and whether they are too few."""
    cores = usable_cores()
    try:
        chosen = chosen_threads()
    except InputError:  # MXNet is not loaded then: see there
        return os.environ["OMP_NUM_THREADS"], []
    if chosen is None:
        return f"{cores} (one for each core)" if cores else "MXNet's own choice", []
    problems = []
    if cores and chosen < cores:
        what = f"OMP_NUM_THREADS={chosen} keeps MXNet to {chosen} of {cores} cores"
        problems = [Problem(what, "unset OMP_NUM_THREADS, unless other processes need the rest")]
    return f"{chosen} (OMP_NUM_THREADS)", problems


def _package_line(name: str, cure: str) -> str:
    found = filter(None, map(installed_version, (name, *_OTHERS.get(name, ()))))
    return next(found, f"not installed ({cure})")

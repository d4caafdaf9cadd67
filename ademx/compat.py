"""MXNet 1.9.1 and gluoncv on today's machines: the one place that works around their age.

Whoever needs MXNet calls :func:`import_mxnet`; nothing else in the project imports it. The
`numpy` names that MXNet reads were dropped in numpy 1.24 and are put back by
:func:`prepare_numpy`, which `import ademx` calls, so that `import ademx, mxnet` works too.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ademx import cuda_libraries

# `symbols` and `iters` import this module alone of ademx, and find the errors here.
from ademx.errors import FileInTheWay as FileInTheWay
from ademx.errors import InputError as InputError
from ademx.errors import MissingDependency as MissingDependency
from ademx.errors import MissingFile as MissingFile
from ademx.errors import SystemFault as SystemFault
from ademx.errors import UserError as UserError

_DROPPED_ALIASES = {
    "bool": bool,
    "int": int,
    "float": float,
    "object": object,
    "complex": complex,
    "str": str,
}
_MXNET_SETTINGS = {
    # On CPUs MXNet 1.9.1 fuses a convolution with the layers that follow it even where something
    # else reads the convolution too (level 1 of Model B, a block's own output): the scores are
    # then wrong by several percent. Without the fusion these networks take as long. "default" is
    # a backend that fuses nothing; "NONE" would be announced on stderr at every bind,
    "MXNET_SUBGRAPH_BACKEND": "default",
    # as is any other, in the middle of progress bars, unless this is set.
    "MXNET_SUBGRAPH_VERBOSE": "0",
}
# A library that the system must bring -> how.
_SYSTEM_LIBRARIES = {
    "libcuda.so.1": "install the NVIDIA driver, or the CPU build by `pip uninstall mxnet-cu112` "
    "and `pip install 'ademx[cpu]'`",
    "libgomp.so.1": "run `apt-get install libgomp1`",
    "libquadmath.so.0": "run `apt-get install libquadmath0`",
}
_REINSTALL = (
    "run `pip install 'ademx[cpu]'`, or `pip install 'ademx[gpu]'`, which brings the CUDA libraries"
)
# What DNNL_MAX_CPU_ISA may be set to that leaves oneDNN 2 without AVX-512.
_LESS_THAN_AVX512 = ("SSE41", "AVX", "AVX2", "AVX512_MIC", "AVX512_MIC_4OPS")
_THREADS_CURE = "set it to a number of threads, 1 or more, or unset it"
_PROCESSORS = Path("/sys/devices/system/cpu")

_log = logging.getLogger(__name__)
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_MEMORY = Path("/proc/meminfo")


def import_optional(name: str, message: str) -> ModuleType:
    """Return a module of a package that not every installation has.

    Args:
        name: of the module.
        message: what needs the package, and the command that installs it.

    Raises:
        MissingDependency: the package is not installed. One that is there and lacks something of
            its own raises what it raises.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        raise MissingDependency(message) from None


def prepare_numpy() -> None:
    """Put back the numpy aliases that MXNet 1.9.1 reads on import (dropped in numpy 1.24).

    Names that numpy still has are left alone; calling it twice does no harm.
    """
    for name, builtin in _DROPPED_ALIASES.items():
        # `vars`, not `hasattr`: numpy 1.20 to 1.23 answer getattr with a deprecation warning.
        if name not in vars(np):
            setattr(np, name, builtin)


def import_mxnet() -> ModuleType:
    """Return the `mxnet` module.

    For the GPU wheel the CUDA libraries from PyPI are loaded first, where the system has none.

    Raises:
        MissingDependency: MXNet is not installed, or numpy is too new for it; the message is one
            line and names the command that mends it.
        ValueError: OMP_NUM_THREADS is no number of threads.
    """
    if int(np.__version__.split(".")[0]) >= 2:
        raise MissingDependency(
            f"MXNet 1.9.1 needs numpy below 2, found {np.__version__}: run `pip install 'numpy<2'`"
        )
    prepare_numpy()
    share_cores(1)
    for name, value in _MXNET_SETTINGS.items():
        os.environ.setdefault(name, value)
    if "mxnet" not in sys.modules and cuda_libraries.installed_version(cuda_libraries.GPU_WHEEL):
        # cuDNN's default from Ampere on is TF32, whose factors have 10 bits, in the name of
        # float32. Source: cuDNN API reference, CUDNN_DEFAULT_MATH.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        cuda_libraries.load_libraries()
    try:
        with _loaded_later("scipy.stats", "onnx", "requests"):
            return importlib.import_module("mxnet")
    except ModuleNotFoundError as error:
        if error.name != "mxnet":  # such as distutils, which Python 3.12 dropped
            package = {"distutils": "setuptools"}.get(str(error.name), error.name)
            raise MissingDependency(
                f"MXNet needs {error.name}, which is not installed: run `pip install {package}`"
            ) from None
        raise MissingDependency(
            "this needs MXNet, which is not installed: run `pip install 'ademx[cpu]'`, or `pip "
            "install 'ademx[gpu]'` for an NVIDIA GPU from Maxwell to Ada; for any other `pip "
            "install 'ademx[torch]'` and use --backend torch"
        ) from None
    except OSError as error:  # a shared library was not found
        cures = [cure for name, cure in _SYSTEM_LIBRARIES.items() if name in str(error)]
        raise MissingDependency(
            f"MXNet is installed but does not load ({error}): {(cures or [_REINSTALL])[0]}"
        ) from error


class _Later(ModuleType):
    """Stands for a module that is loaded when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def _loaded_later(*names: str) -> Iterator[None]:
    """Keep what is imported here from loading modules, if they are there, before it uses them.

    MXNet would take half of its start for what its quantization and downloads may need.
    """
    absent = [n for n in names if n not in sys.modules and find_spec(n.partition(".")[0])]
    sys.modules.update({name: _Later(name) for name in absent})
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def usable_cores() -> int | None:
    """Return the number of cores that this process may use; None where that is not known.

    A container's quota counts, rounded down: threads in excess of it are made to pause, and the
    others wait for them.
    """
    try:
        processors = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return None
    # The processors of a core all have the same list of siblings.
    siblings = "cpu{}/topology/thread_siblings_list"
    cores = {_text(_PROCESSORS / siblings.format(number)) or number for number in processors}
    quota = min(_cpu_quotas(), default=len(cores))
    return max(1, min(len(cores), int(quota)))


def _cpu_quotas() -> Iterator[float]:
    """Yield the limits of this process's control groups and those above, in processors."""
    for folder in _control_groups("cpu"):
        pair = _text(folder / "cpu.max") or " ".join(
            _text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")
        )
        quota, _, period = pair.partition(" ")
        if quota.isdecimal() and period.isdecimal():  # not "max", not −1
            yield int(quota) / int(period)


def free_memory() -> int | None:
    """Return the bytes of memory that this process may still fill; None where that is not known.

    A container's limit counts. What the system keeps of files that were read is free.
    """
    found = re.search(r"MemAvailable:\s*(\d+) kB", _text(_MEMORY))
    free = [int(found[1]) * 1024] if found else []
    for folder in _control_groups("memory"):
        for limit, usage in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):
            most, taken = _text(folder / f"memory.{limit}"), _text(folder / f"memory.{usage}")
            if most.isdecimal() and taken.isdecimal():  # not "max"
                statistics = _text(folder / "memory.stat")
                files = re.findall(r"^(?:total_)?inactive_file (\d+)", statistics, re.MULTILINE)
                free.append(int(most) - int(taken) + int([0, *files][-1]))
    return max(0, min(free)) if free else None


def _control_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of those above."""
    for line in _text(_OWN_GROUPS).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one tree without a name, version 1 one for each set of controllers.
        for root in (controllers, controller) if controllers else ("", "unified"):
            # A container sees its own group as the root, whose path here may be the host's.
            folder = _GROUPS / root / group.lstrip("/")
            yield from (folder, *folder.parents)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def chosen_threads() -> int | None:
    """Return how many threads the user wants by OMP_NUM_THREADS; None if that is not said.

    OpenMP takes a list there, a number for each level of nesting; MXNet has one level.

    Raises:
        ValueError: it is something else, which MXNet would abort at.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    levels = [level.strip() for level in text.split(",")]
    if not text:
        return None
    if not all(level.isdecimal() and 0 < int(level) < 2**31 for level in levels):
        raise InputError(f"OMP_NUM_THREADS={text!r}: {_THREADS_CURE}")
    return int(levels[0])


def num_threads(parts: int) -> int | None:
    """Return how many threads each of several CPU contexts or processes is to have.

    MXNet takes half of the processors, for it supposes that two of them share a core; where each
    has its own (most virtual machines) that halves its speed.

    Args:
        parts: contexts or processes that compute at the same time. Threads in excess of the
            cores wait for each other actively, at several times the cost.

    Returns:
        What the user chose, else a share of the cores; None where neither is known.

    Raises:
        ValueError: OMP_NUM_THREADS is no number of threads.
    """
    chosen, cores = chosen_threads(), usable_cores()
    return chosen if chosen or cores is None else max(1, cores // parts)


def share_cores(parts: int) -> None:
    """Let MXNet compute by :func:`num_threads`.

    It reads the variable once, when it is loaded: a later call has no effect.

    Raises:
        ValueError: OMP_NUM_THREADS is no number of threads.
    """
    threads = num_threads(parts)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    elif "OMP_NUM_THREADS" in os.environ:
        del os.environ["OMP_NUM_THREADS"]  # empty


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 in hardware (Linux; elsewhere False)."""
    return bool({"avx512_bf16", "amx_bf16"} & _cpu_flags())


def mxnet_has_bfloat16() -> bool:
    """Return whether MXNet can compute bfloat16 on this CPU, in hardware or not (Linux; else True).

    Its oneDNN has such kernels for AVX-512 alone, and none at all for less.
    """
    flags = _cpu_flags()
    allowed = os.environ.get("DNNL_MAX_CPU_ISA", "").upper() not in _LESS_THAN_AVX512
    return allowed and (not flags or flags >= {"avx512bw", "avx512dq", "avx512vl"})


def check_bfloat16() -> None:
    """Raise where MXNet cannot compute bfloat16 on the CPU; warn where it gains nothing.

    Raises:
        ValueError: the CPU has no AVX-512, or DNNL_MAX_CPU_ISA forbids it.
    """
    if not mxnet_has_bfloat16():
        raise InputError(
            "--precision bfloat16: MXNet computes it with AVX-512 only, which this CPU lacks or "
            "DNNL_MAX_CPU_ISA forbids: use float32, or test by --backend torch"
        )
    if not cpu_has_bfloat16():
        _log.warning("this CPU has no bfloat16 instructions: expect no gain over float32")


def _cpu_flags() -> set[str]:
    """Return what the first CPU can do, as Linux names it; nothing elsewhere."""
    found = re.search(r"^flags\s*:(.*)", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    return set(found[1].split()) if found else set()

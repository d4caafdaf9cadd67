"""The NVIDIA GPUs of this machine, and which of them MXNet has code for."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

Capability = tuple[int, int]

# Compute capabilities that the wheel mxnet-cu112 1.9.1 has machine code for; it holds no PTX that
# a driver could compile for others.
# Source: the headers of the fat binaries in its `libmxnet.so`.
MXNET_CAPABILITIES: tuple[Capability, ...] = ((5, 0), (6, 0), (7, 0), (8, 0), (8, 6))
USE_TORCH = "run `pip install 'ademx[torch]'` and use --backend torch"

_DRIVER = "libcuda.so.1"
# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        number: as `--gpus` counts.
        name: of its kind, such as "NVIDIA A100".
        capability: its compute capability; None where neither driver nor `nvidia-smi` tells it.
    """

    number: int
    name: str
    capability: Capability | None

    @property
    def runs_mxnet(self) -> bool:
        """Whether MXNet has code for it; True where its capability is not known."""
        return self.capability is None or has_mxnet_code(self.capability)

    def __str__(self) -> str:
        if self.capability is None:
            return f"GPU {self.number} ({self.name})"
        major, minor = self.capability
        return f"GPU {self.number} ({self.name}, compute capability {major}.{minor})"


def has_mxnet_code(capability: Capability) -> bool:
    """Return whether a GPU of this compute capability runs code that MXNet holds.

    It runs machine code for the same major number and at most its own minor number.
    Source: CUDA C++ Programming Guide, Binary Compatibility.
    """
    major, minor = capability
    return any(major == its and least <= minor for its, least in MXNET_CAPABILITIES)


def find_gpus() -> list[Gpu]:
    """Return the GPUs that CUDA shows to this process, in its order; none on other machines.

    The driver is asked, which knows CUDA_VISIBLE_DEVICES; `nvidia-smi` where it does not answer.
    """
    return _gpus_by_driver() or _gpus_by_smi()


def gpus_without_mxnet_code(numbers: tuple[int, ...]) -> list[Gpu]:
    """Return those of the numbered GPUs that MXNet can never run on."""
    return [gpu for gpu in find_gpus() if gpu.number in numbers and not gpu.runs_mxnet]


def no_mxnet_code(gpus: list[Gpu]) -> str:
    """Return the sentence that tells the owner of such GPUs what to do."""
    return f"MXNet 1.9.1 has no code for {', '.join(map(str, gpus))}: {USE_TORCH}"


def driver_cuda_version() -> tuple[int, int] | None:
    """Return the newest CUDA that the NVIDIA driver can serve; None without a driver."""
    try:
        number = _ask(ctypes.CDLL(_DRIVER).cuDriverGetVersion)
    except (OSError, AttributeError):
        return None
    return number // 1000, number % 1000 // 10


def _ask(function: Callable[..., int], *arguments: int) -> int:
    """Return the number that a function of the driver writes, OSError where it fails."""
    number = ctypes.c_int()
    status = function(ctypes.byref(number), *arguments)
    if status != 0:
        raise OSError(f"the NVIDIA driver answers {status}")
    return number.value


def _gpus_by_driver() -> list[Gpu]:
    found = []
    try:
        driver = ctypes.CDLL(_DRIVER)
        if driver.cuInit(0) != 0:
            return []
        for number in range(_ask(driver.cuDeviceGetCount)):
            handle = _ask(driver.cuDeviceGet, number)
            name = ctypes.create_string_buffer(256)
            driver.cuDeviceGetName(name, len(name), handle)
            major, minor = (_ask(driver.cuDeviceGetAttribute, n, handle) for n in (_MAJOR, _MINOR))
            found.append(Gpu(number, name.value.decode(errors="replace"), (major, minor)))
    except (OSError, AttributeError):
        return []
    return found


def _gpus_by_smi() -> list[Gpu]:
    lines = _ask_smi("index,name,compute_cap") or _ask_smi("index,name")  # before driver 470
    gpus = []
    for line in lines:
        number, name, *rest = (field.strip() for field in line.split(","))
        major, _, minor = (rest or [""])[0].partition(".")
        known = major.isdecimal() and minor.isdecimal()
        gpus.append(Gpu(int(number), name, (int(major), int(minor)) if known else None))
    return gpus


def _ask_smi(query: str) -> list[str]:
    """Return a line for each GPU that `nvidia-smi` lists; none where it fails."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in result.stdout.splitlines() if line.partition(",")[0].isdecimal()]

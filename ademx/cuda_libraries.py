"""The CUDA libraries that MXNet's GPU wheel links to: the system's, or else those from PyPI.

The dynamic linker does not look into site-packages, but a library that is already loaded is not
looked for. So all are loaded before MXNet is, each after those that it needs.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

GPU_WHEEL = "mxnet-cu112"
SYSTEM = "system"

# Library -> the package on PyPI that has it. Each comes after those that it needs.
LIBRARIES = {
    "libcudart.so.11.0": "nvidia-cuda-runtime-cu11",
    "libnvrtc.so.11.2": "nvidia-cuda-nvrtc-cu11",
    "libcublasLt.so.11": "nvidia-cublas-cu11",
    "libcublas.so.11": "nvidia-cublas-cu11",
    "libcudnn.so.8": "nvidia-cudnn-cu11",
    "libcufft.so.10": "nvidia-cufft-cu11",
    "libcurand.so.10": "nvidia-curand-cu11",
    "libcusparse.so.11": "nvidia-cusparse-cu11",
    "libcusolver.so.11": "nvidia-cusolver-cu11",
    "libnccl.so.2": "nvidia-nccl-cu11",
    "libnvToolsExt.so.1": "nvidia-nvtx-cu11",
}


@dataclass(frozen=True)
class Library:
    """A CUDA library and where it was found.

    Attributes:
        name: its soname, a key of :data:`LIBRARIES`.
        source: :data:`SYSTEM`, the path of a file from PyPI, or "" if it is not loaded.
        problem: why it is not loaded; "" if it is.
    """

    name: str
    source: str
    problem: str = ""


def installed_version(package: str) -> str:
    """Return the version of an installed package by its name on PyPI; "" if it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def load_libraries(
    *,
    load: Callable[[str], object] | None = None,
    roots: Sequence[str] | None = None,
) -> tuple[Library, ...]:
    """Load every CUDA library for all that is loaded later, and return where each came from.

    What is missing is not an error here: loading MXNet will say which one it needs.

    Args:
        load: loads a library by its soname or path, OSError if it cannot; the dynamic linker by
            default.
        roots: folders that hold `<package>/lib/<soname>`; by default those of the `nvidia`
            package that PyPI's wheels share.
    """
    load = load or _load_for_all
    folders = _roots() if roots is None else roots
    return tuple(_load_one(name, load, folders) for name in LIBRARIES)


def _load_one(name: str, load: Callable[[str], object], roots: Sequence[str]) -> Library:
    try:
        load(name)
        return Library(name, SYSTEM)
    except OSError:
        pass
    files = [file for root in roots for file in sorted(Path(root).glob(f"*/lib/{name}"))]
    if not files:
        return Library(name, "", "not found")
    try:
        load(str(files[0]))
        return Library(name, str(files[0]))
    except OSError as error:  # it needs another one that is absent
        return Library(name, "", str(error))


def _load_for_all(name: str) -> object:
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


def _roots() -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    return list(spec.submodule_search_locations or ()) if spec else []

"""Processes of their own for what is measured, so that its memory is its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ademx.compat import import_mxnet
from ademx.convert import import_torch
from ademx.devices import Devices


@contextlib.contextmanager
def own_process() -> Iterator[Callable[..., Any]]:
    """Give what calls a function with arguments in a new process, which ends with the context."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        yield lambda *call, **options: pool.submit(*call, **options).result()


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns that is called in a new process."""
    with own_process() as call:
        return call(function, *arguments)


def peak_of(call: Callable[[], object]) -> int:
    """Return the most bytes that this process holds during a call, above what it holds before."""
    before = held_bytes()
    reset_peak()
    call()
    return held_bytes(peak=True) - before


def held_bytes(*, peak: bool = False) -> int:
    """Return the bytes that this process holds, or the most that it held.

    Raises:
        OSError: the system does not tell.
    """
    status = Path("/proc/self/status").read_text()
    name = "VmHWM" if peak else "VmRSS"
    return int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) * 1024


def reset_peak() -> None:
    """Have the most that :func:`held_bytes` tells begin anew, if possible."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def engine_bytes(backend: str, devices: Devices, *, peak: bool = False) -> int | None:
    """Return the bytes that are held now, or the most that were, on GPUs those of the first.

    On CPUs they are this process's, None where the system does not tell; on GPUs the engine's.
    """
    if devices.gpus and backend == "torch":
        cuda = import_torch().cuda
        measure = cuda.max_memory_allocated if peak else cuda.memory_allocated
        return int(measure(devices.gpus[0]))
    if devices.gpus:
        from ademx.engines.mxnet.predict import mxnet_contexts

        mxnet_contexts(devices)
        free, total = import_mxnet().context.gpu_memory_info(devices.gpus[0])
        return int(total - free)  # its pool gives nothing back
    with contextlib.suppress(OSError):
        return held_bytes(peak=peak)
    return None

"""Which engine computes, and on what, chosen by name."""

from __future__ import annotations

from ademx.compat import import_mxnet
from ademx.convert import import_torch
from ademx.devices import Devices


def default_devices(backend: str = "mxnet") -> Devices:
    """Return the first GPU where the backend, "mxnet" or "torch", finds one, else the CPU."""
    if backend == "torch":
        found = import_torch().cuda.is_available()
    else:
        found = import_mxnet().context.num_gpus() > 0
    return Devices(gpus=(0,)) if found else Devices()

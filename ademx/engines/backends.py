"""Which engine computes, and on what, chosen by name."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ademx.compat import check_bfloat16, import_mxnet
from ademx.convert import import_torch
from ademx.devices import Devices
from ademx.engines.mxnet.predict import Predictor
from ademx.engines.trainer import Trainer, Workers
from symbols.levels import check_choice

if TYPE_CHECKING:
    from ademx.engines.torch.predict import TorchPredictor

BACKENDS = ("mxnet", "torch")

_log = logging.getLogger(__name__)


def resolve_backend(backend: str, devices: Devices) -> str:
    """Return "mxnet" or "torch" for a backend that may be "auto".

    Args:
        backend: "auto" (MXNet if it is installed, else PyTorch), "mxnet" or "torch".
        devices: what it is to compute on.

    Raises:
        ValueError: another backend.
    """
    check_choice("backend", backend, ("auto", *BACKENDS))
    if backend != "auto":
        return backend
    return "mxnet" if find_spec("mxnet") or not find_spec("torch") else "torch"


def check_backend(backend: str, devices: Devices, *, precision: str) -> None:
    """Say which backend is taken where none is named, and that it can compute what is wanted.

    Raises:
        ValueError: it has not the precision.
        MissingDependency: it is not installed.
    """
    chosen = resolve_backend(backend, devices)
    if backend == "auto":
        _log.info("--backend auto: %s computes", {"mxnet": "MXNet", "torch": "PyTorch"}[chosen])
    if chosen == "torch":
        import_torch()
    else:
        import_mxnet()
        if precision == "bfloat16":
            check_bfloat16()


def default_devices(backend: str = "mxnet") -> Devices:
    """Return the first GPU where the backend, "mxnet" or "torch", finds one, else the CPU."""
    if backend == "torch":
        found = import_torch().cuda.is_available()
    else:
        found = import_mxnet().context.num_gpus() > 0
    return Devices(gpus=(0,)) if found else Devices()


def worker_devices(backend: str, devices: Devices | None) -> Devices:
    """Return what this process, which may be one of several, trains on.

    Args:
        backend: "auto", "mxnet" or "torch".
        devices: what the user asks for; None for the default.
    """
    engine = resolve_backend(backend, devices or Devices())
    if engine == "mxnet":
        return devices or default_devices(engine)
    import_torch()
    from ademx.engines.torch.workers import own_devices

    return own_devices(devices)


def predictor_class(backend: str) -> type[Predictor] | type[TorchPredictor]:
    """Return the class that computes by a backend, "mxnet" or "torch".

    Raises:
        ValueError: another backend.
        MissingDependency: PyTorch is not installed.
    """
    check_choice("backend", backend, BACKENDS)
    if backend == "mxnet":
        return Predictor
    import_torch()
    from ademx.engines.torch.predict import TorchPredictor

    return TorchPredictor


def open_workers(kvstore: str, devices: Devices, *, backend: str) -> Workers:
    """Return the processes that train together, of which this is one."""
    if backend == "torch":
        from ademx.engines.torch.workers import TorchWorkers

        return TorchWorkers(kvstore, devices)
    from ademx.engines.mxnet.train import MxnetWorkers

    return MxnetWorkers(kvstore, devices.count)


def open_trainer(*arguments: Any, backend: str, **options: Any) -> Trainer:
    """Return a trainer; see :func:`ademx.engines.mxnet.train.open_trainer`."""
    if backend == "torch":
        import ademx.engines.torch.train as engine
    else:
        import ademx.engines.mxnet.train as engine
    return engine.open_trainer(*arguments, **options)

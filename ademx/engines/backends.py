"""Which engine computes, and on what, chosen by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ademx.compat import import_mxnet
from ademx.convert import import_torch
from ademx.devices import Devices
from ademx.engines.mxnet.predict import Predictor
from ademx.engines.trainer import Trainer
from symbols.levels import check_choice

if TYPE_CHECKING:
    from ademx.engines.mxnet.train import Workers
    from ademx.engines.torch.predict import TorchPredictor

BACKENDS = ("mxnet", "torch")


def default_devices(backend: str = "mxnet") -> Devices:
    """Return the first GPU where the backend, "mxnet" or "torch", finds one, else the CPU."""
    if backend == "torch":
        found = import_torch().cuda.is_available()
    else:
        found = import_mxnet().context.num_gpus() > 0
    return Devices(gpus=(0,)) if found else Devices()


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


def open_workers(kvstore: str, num_devices: int) -> Workers:
    """Return the processes that train together; see :class:`ademx.engines.mxnet.train.Workers`."""
    from ademx.engines.mxnet.train import Workers

    return Workers(kvstore, num_devices)


def open_trainer(*arguments: Any, **options: Any) -> Trainer:
    """Return a trainer; see :func:`ademx.engines.mxnet.train.open_trainer`."""
    from ademx.engines.mxnet import train

    return train.open_trainer(*arguments, **options)

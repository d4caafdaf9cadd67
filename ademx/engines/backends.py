"""Which engine computes, and on what, chosen by name."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ademx.compat import check_bfloat16, free_memory, import_mxnet, mxnet_has_bfloat16
from ademx.convert import import_torch
from ademx.cuda_libraries import GPU_WHEEL, installed_version
from ademx.devices import Devices
from ademx.engines.mxnet.predict import Predictor, mxnet_contexts
from ademx.engines.sharing import ON_GPUS
from ademx.engines.trainer import Trainer, Workers
from ademx.errors import InputError
from ademx.gpus import Gpu, find_gpus, no_mxnet_code
from symbols.levels import check_choice

if TYPE_CHECKING:
    import numpy.typing as npt

    from ademx.engines.torch.predict import TorchPredictor
    from ademx.networks.summary import Graph, TrainingMemory
    from ademx.networks.unravel import Engine
    from symbols.layers import Layer
    from symbols.learning import Learning

BACKENDS = ("mxnet", "torch")
CHOICES = ("auto", *BACKENDS)

_log = logging.getLogger(__name__)


def resolve_backend(
    backend: str, devices: Devices | None, *, precision: str = "float32", task: str = ""
) -> str:
    """Return "mxnet" or "torch" for a backend that may be "auto".

    "auto" is MXNet if it is installed and has code for the devices, else PyTorch. Without
    devices the GPUs of the machine are what they are, if one of the two can compute there.
    What MXNet has not, tf32 and bfloat16 on GPUs, is PyTorch's too, and so is testing a
    segmentation network in bfloat16 on CPUs: of 580 GMACs MXNet was seen to take twice as long
    (Zen 5) or as long (Zen 4), of a classifier's 50 never longer.

    Args:
        backend: "auto", "mxnet" or "torch".
        devices: what it is to compute on; None for the default.
        precision: one of :data:`ademx.engines.sharing.PRECISIONS`.
        task: "segmentation" or "classification" where it is for testing.

    Raises:
        InputError: another backend.
    """
    check_choice("backend", backend, CHOICES)
    if backend != "auto":
        return backend
    if not find_spec("torch"):
        return "mxnet"  # whose absence has an error of its own
    if not find_spec("mxnet"):
        return "torch"
    found = find_gpus() if devices is None or devices.gpus else []
    if not found and not (devices and devices.gpus):
        gains = task == "classification" and mxnet_has_bfloat16()
        return "torch" if task and precision == "bfloat16" and not gains else "mxnet"
    if devices is not None:
        found = [gpu for gpu in found if gpu.number in devices.gpus]
        on_torch = len(found) == len(devices.gpus) > len(_usable_by_mxnet(found, precision))
    else:
        on_torch = bool(found) and not _usable_by_mxnet(found, precision)
        on_torch = on_torch and import_torch().cuda.is_available()
    return "torch" if on_torch else "mxnet"


def check_backend(backend: str, engine: str, devices: Devices, *, precision: str) -> None:
    """Say which engine a backend is where none is named, and that it can compute what is wanted.

    Raises:
        InputError: it has not the precision or the devices, or it is MXNet, which does not know of
            the workers that torchrun or srun has started.
        MissingDependency: it is not installed.
    """
    if backend == "auto":
        _log.info("--backend auto: %s computes", {"mxnet": "MXNet", "torch": "PyTorch"}[engine])
    if engine == "torch":
        import_torch()
    else:
        launcher, count = _other_launcher(os.environ)
        if count != "1":
            cure = "" if launcher == "torchrun" else ", or use tools/slurm_train.sh"
            raise InputError(
                f"--backend {backend}: {launcher} has started {count} workers, each of which would "
                f"train alone by MXNet: add --backend torch{cure}"
            )
        mxnet_contexts(devices)  # a GPU that is not there is told before anything is written
        if precision == "bfloat16":
            check_bfloat16()


def _other_launcher(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return who has started workers that MXNet knows nothing of, and how many; else "1"."""
    if "TORCHELASTIC_RUN_ID" in environment:
        return "torchrun", environment.get("WORLD_SIZE", "1")
    # A batch script has SLURM_PROCID too, but is no step; tools/slurm_train.sh gives roles.
    if "SLURM_PROCID" in environment and "DMLC_ROLE" not in environment:
        return "srun", environment.get("SLURM_STEP_NUM_TASKS", "1")
    return "", "1"


def default_devices(backend: str = "mxnet") -> Devices:
    """Return the first GPU that the backend, "mxnet" or "torch", can use, else the CPU."""
    if backend == "torch":
        return Devices(gpus=(0,)) if import_torch().cuda.is_available() else Devices()
    if import_mxnet().context.num_gpus() == 0:
        return Devices()
    found = find_gpus()
    usable = _usable_by_mxnet(found)
    if found and not usable:
        _log.warning("%s; computing on the CPU", no_mxnet_code(found))
        return Devices()
    return Devices(gpus=(usable[0].number if usable else 0,))


def _usable_by_mxnet(gpus: list[Gpu], precision: str = "float32") -> list[Gpu]:
    # The MXNet that is installed may be one for GPUs; pip's "mxnet" is not.
    is_for_gpus = bool(installed_version(GPU_WHEEL)) or not installed_version("mxnet")
    possible = is_for_gpus and precision in ON_GPUS["mxnet"]
    return [gpu for gpu in gpus if gpu.runs_mxnet and possible]


def worker_devices(backend: str, devices: Devices | None, *, precision: str = "float32") -> Devices:
    """Return what this process, which may be one of several, trains on.

    Args:
        backend: "auto", "mxnet" or "torch".
        devices: what the user asks for; None for the default.
        precision: see :func:`resolve_backend`.
    """
    engine = resolve_backend(backend, devices, precision=precision)
    if engine == "mxnet":
        return devices or default_devices(engine)
    import_torch()
    from ademx.engines.torch.workers import own_devices

    return own_devices(devices)


def predictor_class(backend: str) -> type[Predictor] | type[TorchPredictor]:
    """Return the class that computes by a backend, "mxnet" or "torch".

    Raises:
        InputError: another backend.
        MissingDependency: PyTorch is not installed.
    """
    check_choice("backend", backend, BACKENDS)
    if backend == "mxnet":
        return Predictor
    import_torch()
    from ademx.engines.torch.predict import TorchPredictor

    return TorchPredictor


def open_workers(
    kvstore: str, devices: Devices, *, backend: str, backward_do_mirror: bool = False
) -> Workers:
    """Return the processes that train together, of which this is one."""
    if backend == "torch":
        from ademx.engines.torch.workers import TorchWorkers

        return TorchWorkers(kvstore, devices, backward_do_mirror=backward_do_mirror)
    from ademx.engines.mxnet.train import MxnetWorkers

    return MxnetWorkers(kvstore, devices.count)


def open_trainer(
    layers: Sequence[Layer],
    *,
    learning: Learning,
    backend: str,
    data_shape: tuple[int, ...],
    **options: Any,
) -> Trainer:
    """Return the trainer of a network.

    Args:
        layers: of the network.
        learning: its loss, multipliers and statistics.
        backend: "mxnet" or "torch".
        data_shape: (N, 3, H, W) of a batch over all devices.
        options: `devices`, which share a batch; `values`, the parameters and moving statistics to
            start from, by name; and those of :class:`ademx.engines.trainer.Trainer`.
    """
    if backend == "torch":
        from ademx.engines.torch.train import TorchTrainer

        return TorchTrainer(layers, learning=learning, **options)
    from ademx.engines.mxnet.train import MxnetTrainer
    from symbols.graph import to_symbol

    return MxnetTrainer(to_symbol(layers, learning), data_shape=data_shape, **options)


def open_segments(
    layers: Sequence[Layer],
    parameters: Mapping[str, npt.NDArray[Any]],
    *,
    backend: str,
    devices: Devices,
) -> Engine:
    """Return what computes the segments of a network.

    Args:
        layers: of the network, the softmax last.
        parameters: released name -> array.
        backend: "mxnet" or "torch".
        devices: where to compute: the first.

    Raises:
        MissingDependency: the backend is not installed.
    """
    if backend == "torch":
        import_torch()
        from ademx.engines.torch.segments import TorchSegments

        return TorchSegments(layers, parameters, devices=devices)
    from ademx.engines.mxnet.segments import MxnetSegments

    return MxnetSegments(layers, parameters, devices=devices)


def training_memory(backend: str, graph: Graph, *, backward_do_mirror: bool) -> TrainingMemory:
    """Return the memory that training by "mxnet" or "torch" takes on one device.

    MXNet is asked for its own plan; PyTorch, which need not be installed, has none.
    """
    return _planner(backend).training_memory(graph, backward_do_mirror=backward_do_mirror)


def inference_memory(backend: str, graphs: Sequence[Graph]) -> int:
    """Return the bytes of inputs and activations of testing on one device, in float32.

    Args:
        backend: "mxnet", which keeps the memory of every network and size of input, or "torch",
            which has that of one at a time.
        graphs: networks for sizes of input.
    """
    plans = list(map(_planner(backend).inference_memory, graphs))
    return sum(plans) if backend == "mxnet" else max(plans)


def _planner(backend: str) -> Any:
    return importlib.import_module(f"ademx.engines.{backend}.memory")


def free_device_memory(backend: str, devices: Devices) -> int | None:
    """Return the bytes that are free on the fullest of the devices; None where nobody knows."""
    if not devices.gpus:
        return free_memory()
    try:
        if backend == "torch":
            ask = import_torch().cuda.mem_get_info
        else:
            ask = import_mxnet().context.gpu_memory_info
        return min(ask(number)[0] for number in devices.gpus)
    except Exception as error:  # whatever a driver answers: the test itself may do
        _log.debug("free memory of GPUs: %s", error)
        return None

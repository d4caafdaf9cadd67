"""Running a network by PyTorch: what `Predictor` does, without MXNet."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ademx.compat import num_threads
from ademx.convert import split, to_torch
from ademx.convert.files import NetworkWeights
from ademx.convert.torch_model import build
from ademx.devices import Devices
from ademx.engines.sharing import SharingPredictor, check_gpus, check_precision

# Sizes of images that are compiled for: PyTorch itself keeps no more.
_MAX_COMPILED = 8
# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

_log = logging.getLogger(__name__)


class TorchPredictor(SharingPredictor):
    """Class probabilities of image batches, computed by the twin of the label's graph.

    Width and head are read off the weights. On the CPU one network uses every core, whatever
    `devices.cpus` says. It computes channels last; BatchNorm's numbers stay float32.

    Args:
        weights: of the network.
        devices: where to compute; the images of a batch are shared out.
        pool: geometry of max pooling, "pad", "caffe" or "full".
        precision: "float32"; "bfloat16"; on GPUs also "float16", and "tf32", which is float32
            with the factors of its products rounded to 10 bits.
        compiled: compile for each size of image, which takes tens of seconds and then saves 0 to
            17 % of the time (Zen 4) or 14 to 26 % (Zen 5). What cannot be compiled here is
            computed as it is.

    Raises:
        ademx.params.CheckpointMismatch: label and parameters do not fit.
        ValueError: an unknown precision, or a GPU that is not there.
    """

    def __init__(
        self,
        weights: NetworkWeights,
        *,
        devices: Devices,
        pool: str = "pad",
        precision: str = "float32",
        compiled: bool = False,
    ) -> None:
        check_precision(precision, devices, backend="torch")
        set_up(precision)
        weights.check_usable()
        state = to_torch(*split(weights.parameters), "native")
        self.starts = []
        dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
        for device in torch_devices(devices):
            network = build(weights.label, width=weights.width, pool=pool, head=weights.head)
            network.load_state_dict(state)
            replica = _Replica(network, device, dtype, compiled=compiled)
            self.starts.append(replica.start)


class _Replica:
    """The network on one device, ready for testing: weights are cast and laid out once.

    Attributes:
        network: in evaluation mode.
    """

    def __init__(
        self, network: nn.Module, device: torch.device, dtype: torch.dtype, *, compiled: bool
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        for module in network.modules():
            if not isinstance(module, nn.BatchNorm2d):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)
        network.to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device, self._dtype = device, dtype
        self._compiles = compiled and _can_compile()
        # Height and width -> images of a compiled batch, and its network.
        self._compiled: dict[tuple[int, ...], tuple[int, Callable[[Tensor], Tensor]]] = {}

    def start(self, images: np.ndarray) -> Callable[[], np.ndarray]:
        """Start computing and return what waits for the output."""
        data = torch.from_numpy(np.ascontiguousarray(images))
        data = data.to(self._device, self._dtype, memory_format=torch.channels_last)
        with torch.inference_mode():
            probabilities = self._scores(data).float().softmax(dim=1)
        return lambda: np.ascontiguousarray(probabilities.cpu())

    def _scores(self, data: Tensor) -> Tensor:
        count, size = len(data), tuple(data.shape[2:])
        known, function = self._compiled.get(size, (0, self.network))
        if known == count:
            return function(data)
        # The last images of a split are fewer than a batch: not worth it.
        if count < known or not self._compiles or len(self._compiled) == _MAX_COMPILED:
            scores: Tensor = self.network(data)
            return scores
        return self._compile(data)

    def _compile(self, data: Tensor) -> Tensor:
        """Return the scores by a network compiled for this shape, which is kept."""
        start = time.monotonic()
        # PyTorch's cache of compiled networks tells no CPU from another: code for AVX-512, found
        # by a CPU without it where machines share the folder, gives scores of 1e34 or crashes.
        function = torch.compile(
            self.network, dynamic=False, options={"freezing": True, "fx_graph_cache": False}
        )
        try:
            scores: Tensor = function(data)
        except Exception as error:  # whatever a compiler or its absence raises
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            _log.warning("going on uncompiled: PyTorch could not compile (%s)", reason)
            self._compiles = False
            scores = self.network(data)
            return scores
        self._compiled[tuple(data.shape[2:])] = len(data), function
        shape = "x".join(map(str, data.shape))
        _log.info("compiled for inputs of %s in %.0f s", shape, time.monotonic() - start)
        return scores


def _can_compile() -> bool:
    """Return whether there is the compiler that PyTorch's own needs; say so if there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if any(map(shutil.which, names)):
        return True
    _log.warning(
        "going on uncompiled: PyTorch needs a C++ compiler, found no %s: install one, such as by "
        "`apt-get install g++`, or use --no-compile",
        " or ".join(names),
    )
    return False


def set_up(precision: str) -> None:
    """Let PyTorch compute by every core, and on GPUs in this precision, in the whole process."""
    if threads := num_threads(1):
        torch.set_num_threads(threads)
    _keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def _keep_freed_memory() -> None:
    """Let the process keep the memory that tensors free, where the C library is glibc.

    As it is, glibc gives large blocks back at once, and Linux clears the pages of each new one: a
    tenth of the time of an update of A1 in float32, on 2 cores.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # musl has no such function
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, -1)


def torch_devices(devices: Devices) -> list[torch.device]:
    """Return the PyTorch devices; one for all CPU contexts.

    Raises:
        ValueError: a GPU that is not there.
    """
    if not devices.gpus:
        return [torch.device("cpu")]
    builds = (torch.version.cuda, torch.version.hip)
    why = "" if any(builds) else " (its build is for CPUs: https://pytorch.org has others)"
    check_gpus(devices, torch.cuda.device_count(), engine="PyTorch", why=why)
    return [torch.device("cuda", number) for number in devices.gpus]

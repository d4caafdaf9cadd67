"""Running a network by PyTorch: what `Predictor` does, without MXNet."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch

from ademx.convert import split, to_torch
from ademx.convert.files import Reading, check_weights, read_weights
from ademx.convert.torch_model import build
from ademx.devices import Devices
from ademx.engines.sharing import PRECISIONS, SharingPredictor
from ademx.labels import Label
from ademx.networks.graph import find_head, find_width
from symbols.levels import check_choice


class TorchPredictor(SharingPredictor):
    """Class probabilities of image batches, computed by the twin of the label's graph.

    Width and head are read off the weights. On the CPU one network uses every core, whatever
    `devices.cpus` says.

    Args:
        label: which network, classes and output stride.
        arg_params: released name -> array.
        aux_params: the same for the moving statistics.
        source: what the parameters come from, for messages.
        devices: where to compute; the images of a batch are shared out.
        pool: geometry of max pooling, "pad", "caffe" or "full".
        precision: "float32", or "bfloat16" by autocast.

    Raises:
        ademx.params.CheckpointMismatch: label and parameters do not fit.
        ValueError: an unknown precision, or a GPU that is not there.
    """

    def __init__(
        self,
        label: Label,
        arg_params: dict[str, np.ndarray],
        aux_params: dict[str, np.ndarray],
        *,
        source: str,
        devices: Devices,
        pool: str = "pad",
        precision: str = "float32",
    ) -> None:
        check_choice("precision", precision, PRECISIONS)
        parameters = {**arg_params, **aux_params}
        check_weights(label, parameters, source=source, allow_headless=False)
        self._precision = precision
        shapes = {name: value.shape for name, value in parameters.items()}
        self.starts = []
        for device in torch_devices(devices):
            network = build(
                label,
                width=find_width(label, shapes),
                pool=pool,
                head=find_head(shapes) or "2conv",
            )
            network.load_state_dict(to_torch(arg_params, aux_params, "native"))
            self.starts.append(partial(self._start, network.eval().to(device), device))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        label: Label,
        *,
        devices: Devices,
        pool: str = "pad",
        precision: str = "float32",
        reading: Reading | None = None,
    ) -> TorchPredictor:
        """Return the predictor of a file; see `from_file`."""
        weights = read_weights(path, label=label, reading=reading, complete=False)
        arg_params, aux_params = split(weights.parameters)
        return cls(
            label,
            arg_params,
            aux_params,
            source=os.fspath(path),
            devices=devices,
            pool=pool,
            precision=precision,
        )

    def _start(
        self, network: torch.nn.Module, device: torch.device, images: np.ndarray
    ) -> Callable[[], np.ndarray]:
        data = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        with torch.inference_mode(), self._autocast(device):
            probabilities = network(data).float().softmax(dim=1)
        return lambda: np.asarray(probabilities.cpu())

    def _autocast(self, device: torch.device) -> AbstractContextManager[None]:
        return torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bfloat16")


def torch_devices(devices: Devices) -> list[torch.device]:
    """Return the PyTorch devices; one for all CPU contexts.

    Raises:
        ValueError: a GPU that is not there.
    """
    if not devices.gpus:
        return [torch.device("cpu")]
    available = torch.cuda.device_count()
    if min(devices.gpus) < 0 or max(devices.gpus) >= available:
        raise ValueError(
            f"--gpus {','.join(map(str, devices.gpus))}: PyTorch finds {available} GPUs here; "
            'use --gpus "" for the CPU'
        )
    return [torch.device("cuda", number) for number in devices.gpus]

"""Running a network by onnxruntime: what `Predictor` does, without MXNet."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ademx.convert.files import NetworkWeights
from ademx.convert.onnx import build_model, check_written_here, import_onnx
from ademx.devices import Devices
from ademx.engines.sharing import SharingPredictor
from ademx.errors import InputError
from iters.files import open_file


def default_onnx_devices() -> Devices:
    """Return the first GPU where onnxruntime has CUDA, else the CPU."""
    has_cuda = "CUDAExecutionProvider" in import_onnx("onnxruntime").get_available_providers()
    return Devices(gpus=(0,)) if has_cuda else Devices()


class OnnxPredictor(SharingPredictor):
    """Class probabilities of image batches, computed by onnxruntime.

    A call raises ValueError where the network takes images of another size only.

    Args:
        weights: of the network.
        devices: where to compute: the CPU, or one GPU.
        pool: geometry of max pooling, "pad", "caffe" or "full".
        precision: "float32", the only one.

    Raises:
        ademx.params.CheckpointMismatch: label and parameters do not fit.
        ademx.compat.MissingDependency: `onnx` or `onnxruntime` is not installed.
        ValueError: a precision or device that is not to be had.
    """

    def __init__(
        self,
        weights: NetworkWeights,
        *,
        devices: Devices,
        pool: str = "pad",
        precision: str = "float32",
    ) -> None:
        if precision != "float32":
            raise InputError(f"precision {precision!r}: onnxruntime computes float32 here")
        model = build_model(weights, pool=pool)
        self._open(model.SerializeToString(), weights.source, devices)

    @classmethod
    def from_onnx(cls, path: str | os.PathLike[str], *, devices: Devices) -> OnnxPredictor:
        """Return the predictor of an ONNX file as it stands.

        Raises:
            ValueError: it is no ONNX file, or was not written by `ademx convert`.
        """
        predictor = cls.__new__(cls)
        with open_file(path):  # onnxruntime would wait for a pipe
            predictor._open(os.fspath(path), os.fspath(path), devices)
        found = predictor._session.get_modelmeta()
        check_written_here(path, found.producer_name, found.custom_metadata_map)
        return predictor

    def _open(self, model: str | bytes, source: str, devices: Devices) -> None:
        runtime = import_onnx("onnxruntime")
        runtime.set_default_logger_severity(3)  # errors only: it warns of devices that are absent
        self._source = source
        providers = _providers(runtime, devices)
        try:
            self._session = runtime.InferenceSession(model, providers=providers)
        except Exception as error:  # onnxruntime's own have no public names
            raise InputError(f"{source}: onnxruntime cannot use it: {error}") from error
        (self._input,) = self._session.get_inputs()
        self.starts = [self._start]

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself, see :mod:`ademx.convert.onnx`."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that the network takes, pixels; None: any."""
        height, width = self._input.shape[2:]
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def _start(self, images: np.ndarray) -> Callable[[], np.ndarray]:
        if self.input_size not in (None, images.shape[2:]):
            expected, found = ("×".join(map(str, s)) for s in (self.input_size, images.shape[2:]))
            raise InputError(
                f"{self._source}: takes inputs of {expected} pixels only, found {found}: give the "
                "--test-scales that fit, or convert the weights with --input free"
            )
        (output,) = self._session.run(None, {self._input.name: np.ascontiguousarray(images)})
        return lambda: output


def _providers(runtime: Any, devices: Devices) -> list[Any]:
    if not devices.gpus:
        return ["CPUExecutionProvider"]
    if len(devices.gpus) > 1:
        raise InputError(f"--gpus {','.join(map(str, devices.gpus))}: onnxruntime takes one")
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise InputError(
            f"--gpus {devices.gpus[0]}: this onnxruntime has no CUDA; install onnxruntime-gpu, "
            'or use --gpus "" for the CPU'
        )
    return [("CUDAExecutionProvider", {"device_id": devices.gpus[0]}), "CPUExecutionProvider"]

"""Running a network on images: a graph without its loss, bound on one or several devices."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx import params
from ademx.compat import check_bfloat16, import_mxnet
from ademx.convert import split
from ademx.convert.files import Reading, read_weights
from ademx.devices import Devices
from ademx.engines.sharing import SharingPredictor, check_precision
from ademx.errors import InputError
from ademx.gpus import gpus_without_mxnet_code, no_mxnet_code
from ademx.labels import Label
from ademx.networks.graph import build_symbol, find_head, find_width

if TYPE_CHECKING:
    from mxnet.symbol import Symbol


def mxnet_contexts(devices: Devices) -> list[Any]:
    """Return the MXNet contexts.

    Raises:
        ValueError: a GPU that this machine or this build of MXNet does not have, or that MXNet
            has no code for.
    """
    mx = import_mxnet()
    if not devices.gpus:
        return [mx.cpu(number) for number in range(devices.cpus)]
    if unusable := gpus_without_mxnet_code(devices.gpus):
        raise InputError(f"--gpus {','.join(map(str, devices.gpus))}: {no_mxnet_code(unusable)}")
    available = mx.context.num_gpus()
    if min(devices.gpus) < 0 or max(devices.gpus) >= available:
        raise InputError(
            f"--gpus {','.join(map(str, devices.gpus))}: MXNet finds {available} GPUs here; "
            'use --gpus "" for the CPU'
        )
    return [mx.gpu(number) for number in devices.gpus]


class Predictor(SharingPredictor):
    """Class probabilities of image batches, computed by one network on one or several devices.

    The graph is the label's without its loss layer; width and head are read off the weights.
    BatchNorm is not folded into the convolution before it: on CPUs that was measured to gain
    nothing, in float32 and in bfloat16.

    Args:
        label: which network, classes and output stride.
        arg_params: name -> float array, as :func:`ademx.params.load` returns them.
        aux_params: the same for the moving statistics.
        source: what the parameters come from, for messages.
        devices: where to compute; the images of a batch are shared out.
        pool: geometry of max pooling, "pad", "caffe" or "full".
        precision: "float32"; on CPUs that have it "bfloat16" for twice the speed; on GPUs
            "float16".

    Raises:
        ademx.params.CheckpointMismatch: graph and parameters do not fit.
        ValueError: an unknown precision or one that the device does not have.
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
        check_precision(precision, devices, backend="mxnet")
        if precision == "bfloat16":
            check_bfloat16()
        contexts = mxnet_contexts(devices)
        graph = _test_graph(label, arg_params, pool)
        check_fit(graph, arg_params, aux_params, source=source)
        mx = import_mxnet()
        arrays = {name: mx.nd.array(value, dtype=np.float32) for name, value in arg_params.items()}
        states = {name: mx.nd.array(value, dtype=np.float32) for name, value in aux_params.items()}
        if precision != "float32":
            amp = importlib.import_module("mxnet.contrib.amp")  # MXNet does not load it by itself
            graph, arrays, states = amp.convert_model(
                graph, arrays, states, target_dtype=precision, cast_optional_params=True
            )
        self.starts = [_Replica(graph, arrays, states, context).start for context in contexts]

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
    ) -> Predictor:
        """Return the predictor of a `.params`, `.pth` or `.safetensors` file in any layout.

        Args:
            path: the file.
            label: which network, classes and output stride.
            devices: see the class.
            pool: see the class.
            precision: see the class.
            reading: what the file does not say of itself.
        """
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


class _Replica:
    """The graph on one device, bound anew for every shape of input, with one set of weights."""

    _MAX_SHAPES = 4

    def __init__(self, graph: Symbol, args: dict, auxs: dict, context: Any) -> None:
        self._graph = graph
        self._context = context
        self._args = {name: value.as_in_context(context) for name, value in args.items()}
        self._auxs = {name: value.as_in_context(context) for name, value in auxs.items()}
        self._executors: dict[tuple[int, ...], Any] = {}

    def start(self, images: np.ndarray) -> Callable[[], np.ndarray]:
        """Start computing and return what waits for the output."""
        executor = self._executors.get(images.shape) or self._bind(images.shape)
        wait: Callable[[], np.ndarray] = executor.forward(is_train=False, data=images)[0].asnumpy
        return wait

    def _bind(self, shape: tuple[int, ...]) -> Any:
        mx = import_mxnet()
        if len(self._executors) == self._MAX_SHAPES:  # each holds its activations' memory
            self._executors.pop(next(iter(self._executors)))
        data = mx.nd.zeros(shape, ctx=self._context)
        self._executors[shape] = self._graph.bind(
            self._context, {**self._args, "data": data}, aux_states=self._auxs, grad_req="null"
        )
        return self._executors[shape]


def check_fit(
    graph: Symbol,
    arg_params: dict[str, np.ndarray],
    aux_params: dict[str, np.ndarray],
    *,
    source: str,
) -> None:
    """Raise CheckpointMismatch, listing everything, unless the parameters are the graph's.

    Args:
        graph: a graph whose only input is "data".
        arg_params: name -> array.
        aux_params: name -> array.
        source: what the parameters come from, for the message.
    """
    arg_shapes, _, aux_shapes = graph.infer_shape(data=(1, 3, 224, 224))
    expected = dict(zip(graph.list_arguments(), arg_shapes))
    del expected["data"]
    expected.update(zip(graph.list_auxiliary_states(), aux_shapes))
    params.check_parameters(expected, {**arg_params, **aux_params}, source=source)


def _test_graph(label: Label, arg_params: dict[str, np.ndarray], pool: str) -> Symbol:
    """Return the label's graph with a plain softmax in place of its loss."""
    mx = import_mxnet()
    graph = build_symbol(
        label,
        pool=pool,
        width=find_width(label, arg_params),
        head=find_head(arg_params) or "2conv",
    )
    scores = graph.get_internals()[f"linear{label.num_classes}_output"]
    return mx.sym.softmax(scores, axis=1, name="probabilities")

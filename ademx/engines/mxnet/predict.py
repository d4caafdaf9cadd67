"""Running a network on images: a graph without its loss, bound on one or several devices."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.compat import check_bfloat16, import_mxnet
from ademx.convert import split
from ademx.convert.files import NetworkWeights
from ademx.devices import Devices
from ademx.engines.sharing import SharingPredictor, check_gpus, check_precision
from ademx.errors import InputError
from ademx.gpus import gpus_without_mxnet_code, no_mxnet_code
from ademx.networks.graph import build_symbol

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
    check_gpus(devices, mx.context.num_gpus(), engine="MXNet")
    return [mx.gpu(number) for number in devices.gpus]


class Predictor(SharingPredictor):
    """Class probabilities of image batches, computed by one network on one or several devices.

    The graph is the label's without its loss layer; width and head are read off the weights.
    BatchNorm is not folded into the convolution before it: on CPUs that was measured to gain
    nothing, in float32 and in bfloat16.

    Args:
        weights: of the network.
        devices: where to compute; the images of a batch are shared out.
        pool: geometry of max pooling, "pad", "caffe" or "full".
        precision: "float32"; on CPUs that have it "bfloat16" for twice the speed; on GPUs
            "float16".

    Raises:
        ademx.params.CheckpointMismatch: label and parameters do not fit.
        ValueError: an unknown precision or one that the device does not have.
    """

    def __init__(
        self,
        weights: NetworkWeights,
        *,
        devices: Devices,
        pool: str = "pad",
        precision: str = "float32",
    ) -> None:
        check_precision(precision, devices, backend="mxnet")
        if precision == "bfloat16":
            check_bfloat16()
        contexts = mxnet_contexts(devices)
        weights.check_usable()
        graph = _test_graph(weights, pool)
        mx = import_mxnet()
        arrays, states = (
            {name: mx.nd.array(value, dtype=np.float32) for name, value in values.items()}
            for values in split(weights.parameters)
        )
        if precision != "float32":
            amp = importlib.import_module("mxnet.contrib.amp")  # MXNet does not load it by itself
            graph, arrays, states = amp.convert_model(
                graph, arrays, states, target_dtype=precision, cast_optional_params=True
            )
        self.starts = [_Replica(graph, arrays, states, context).start for context in contexts]


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


def _test_graph(weights: NetworkWeights, pool: str) -> Symbol:
    """Return the label's graph with a plain softmax in place of its loss."""
    mx = import_mxnet()
    graph = build_symbol(weights.label, pool=pool, width=weights.width, head=weights.head)
    scores = graph.get_internals()[f"linear{weights.label.num_classes}_output"]
    return mx.sym.softmax(scores, axis=1, name="probabilities")

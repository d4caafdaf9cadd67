"""Segments of a network and their vector-Jacobian products by MXNet."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ademx.compat import import_mxnet
from ademx.devices import Devices
from ademx.engines.mxnet.predict import mxnet_contexts
from ademx.networks.unravel import Array, Engine, Segment
from symbols.layers import Layer


class MxnetSegments(Engine):
    """The engine of MXNet, in float32.

    Args:
        layers: of the network, which segments bring themselves.
        parameters: released name -> array.
        devices: where to compute: the first.
    """

    def __init__(
        self, layers: Sequence[Layer], parameters: Mapping[str, npt.NDArray], *, devices: Devices
    ) -> None:
        self._mx = import_mxnet()
        (self._context, *_) = mxnet_contexts(devices)
        self._parameters = {name: self._array(value) for name, value in parameters.items()}
        self._operator = cache(self._operator_of)

    def _forward(self, segment: Segment, data: Array, output: str) -> Array:
        result: Array = self._output(segment, self._array(data), output).asnumpy()
        return result

    def _pull(
        self, segment: Segment, data: Array, gradients: Iterable[Array], output: str
    ) -> Iterator[Array]:
        variable = self._array(data)
        variable.attach_grad()
        # As in training, without which MXNet's max pooling has not kept where its maxima are: a
        # segment has no dropout, and its statistics are frozen.
        with self._mx.autograd.record(train_mode=True):
            result = self._output(segment, variable, output)
        for gradient in gradients:
            result.backward(self._array(gradient), retain_graph=True)
            yield variable.grad.asnumpy()

    def _array(self, values: npt.NDArray) -> Any:
        return self._mx.nd.array(values, ctx=self._context, dtype=np.float32)

    def _output(self, segment: Segment, data: Any, output: str) -> Any:
        operator, names = self._operator(segment, output)
        return operator(*[data if name == "data" else self._parameters[name] for name in names])

    def _operator_of(self, segment: Segment, output: str) -> tuple[Any, list[str]]:
        """Return what computes an output, and the names of its inputs."""
        to_outputs = importlib.import_module("symbols.graph").to_outputs
        symbol = to_outputs(segment.layers_of(output), segment.data)[output]
        return self._mx.nd.CachedOp(symbol), symbol.list_inputs()

"""The memory of training and of testing in MXNet, from its own plans."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ademx.compat import import_mxnet
from ademx.networks.summary import Graph, TrainingMemory
from symbols.graph import WORKSPACE, to_symbol

_INPUTS = ("data", "softmax_label")
_FLOAT32_BYTES = 4


def training_memory(graph: Graph, *, backward_do_mirror: bool = False) -> TrainingMemory:
    """Return the memory that training takes on one device, from MXNet's own plan.

    Args:
        graph: its batch is that of one device.
        backward_do_mirror: plan for computing cheap layers again in the backward pass.
    """
    with mirroring(backward_do_mirror):
        executor = _bind(graph, "write")
    sizes = {name: _num_bytes(array.shape) for name, array in executor.arg_dict.items()}
    inputs = sum(sizes.pop(name) for name in _INPUTS)
    weights = sum(sizes.values())
    return TrainingMemory(
        parameters=weights + sum(_num_bytes(array.shape) for array in executor.aux_arrays),
        gradients=weights,
        momentum=weights,
        inputs=inputs,
        plan=_planned_bytes(executor),
        workspace=WORKSPACE * 2**20,
    )


def inference_memory(graph: Graph) -> int:
    """Return the bytes of input and activations while a batch is tested.

    To MXNet's own plan comes what oneDNN lays out anew, input and output of the largest
    convolution: A1 on 1024 and 1536 pixels squared was seen to take 1.05 and 1.1 times the sum,
    1.7 times the plan.
    """
    executor = _bind(graph, "null")
    anew = max(
        _num_bytes(graph.shapes[layer.inputs[0]]) + _num_bytes(graph.shapes[layer.name])
        for layer in graph.layers
        if layer.kind == "convolution"
    )
    return _num_bytes(graph.input_shape) + _planned_bytes(executor) + anew


def _bind(graph: Graph, request: str) -> Any:
    """Return the network, bound on the CPU for its plan: addresses are reserved, no memory filled.

    `simple_bind` would write zeros into every weight and gradient, behind one's back.

    Args:
        graph: to bind.
        request: "write" for gradients of the weights, "null" for none.
    """
    mx = import_mxnet()
    symbol = to_symbol(graph.layers)
    names = symbol.list_arguments()
    shapes, _, states = symbol.infer_shape(data=graph.input_shape)
    requests = {name: "null" if name in _INPUTS else request for name in names}
    return symbol.bind(
        mx.cpu(),
        dict(zip(names, map(mx.nd.empty, shapes))),
        args_grad={n: mx.nd.empty(s) for n, s in zip(names, shapes) if requests[n] != "null"},
        grad_req=requests,
        aux_states=list(map(mx.nd.empty, states)),
    )


def _planned_bytes(executor: Any) -> int:
    (megabytes,) = re.findall(r"Total (\d+) MB allocated", executor.debug_str())
    return int(megabytes) * 2**20


def _num_bytes(shape: tuple[int, ...]) -> int:
    return _FLOAT32_BYTES * math.prod(shape)


@contextmanager
def mirroring(wanted: bool) -> Iterator[None]:
    """Let MXNet plan for recomputation in the backward pass, while a graph is bound."""
    name = "MXNET_BACKWARD_DO_MIRROR"
    before = os.environ.get(name)
    if wanted:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before
        else:
            os.environ.pop(name, None)

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

    The network is bound on the CPU, which reserves addresses: no memory is filled, and no weight
    is computed.

    Args:
        graph: its batch is that of one device.
        backward_do_mirror: plan for computing cheap layers again in the backward pass.
    """
    symbol = to_symbol(graph.layers)
    requests = {name: "null" if name in _INPUTS else "write" for name in symbol.list_arguments()}
    with mirroring(backward_do_mirror):
        executor = symbol.simple_bind(
            import_mxnet().cpu(), grad_req=requests, data=graph.input_shape
        )
    sizes = {name: _num_bytes(array.shape) for name, array in executor.arg_dict.items()}
    inputs = sum(sizes.pop(name) for name in _INPUTS)
    weights = sum(sizes.values())
    return TrainingMemory(
        parameters=weights + sum(_num_bytes(array.shape) for array in executor.aux_arrays),
        gradients=weights,
        momentum=weights,
        inputs=inputs,
        plan=_planned(executor),
        workspace=WORKSPACE * 2**20,
    )


def inference_memory(graph: Graph) -> int:
    """Return the bytes of input and activations while a batch is tested.

    To MXNet's own plan comes what oneDNN lays out anew, input and output of the largest
    convolution: A1 on 1024 and 1536 pixels squared was seen to take 1.05 and 1.1 times the sum,
    1.7 times the plan.
    """
    executor = to_symbol(graph.layers).simple_bind(
        import_mxnet().cpu(), grad_req="null", data=graph.input_shape
    )
    anew = max(
        _num_bytes(graph.shapes[layer.inputs[0]]) + _num_bytes(graph.shapes[layer.name])
        for layer in graph.layers
        if layer.kind == "convolution"
    )
    return _num_bytes(graph.input_shape) + _planned(executor) + anew


def _planned(executor: Any) -> int:
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

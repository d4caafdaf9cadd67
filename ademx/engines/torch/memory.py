"""The memory of training and testing by PyTorch, from the list of layers, without PyTorch.

The backward pass needs what layers were given: convolutions, fully connected layers, BatchNorm and
poolings their inputs, ReLUs their outputs, dropouts their masks, and poolings which pixel was the
largest. ReLUs and additions write over their inputs. A tensor that two layers keep is there once.
It is measured on the CPU in `tests/test_torch_memory.py`: the most bytes of tensors at any moment
of an update. oneDNN's and cuDNN's workspaces come on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ademx.networks.summary import Graph, TrainingMemory
from symbols.layers import DATA, Layer

_FLOAT32_BYTES = 4
_INDEX_BYTES = 8
_KEEP_INPUT = ("convolution", "linear", "batch_norm", "max_pool")
_IN_PLACE = ("relu", "add", "flatten")


def training_memory(graph: Graph, *, backward_do_mirror: bool = False) -> TrainingMemory:
    """Return the memory that training takes on one device.

    Args:
        graph: its batch is that of one device.
        backward_do_mirror: keep only the input of each block, and compute it again.
    """
    weights = sum(map(weight_bytes, graph.layers))
    statistics = sum(
        2 * _FLOAT32_BYTES * layer.channels for layer in graph.layers if layer.kind == "batch_norm"
    )
    output = graph.shapes[graph.layers[-1].name]
    labels = math.prod(output) // output[1]
    return TrainingMemory(
        parameters=weights + statistics,
        gradients=weights,
        momentum=weights,
        inputs=_FLOAT32_BYTES * math.prod(graph.input_shape) + _INDEX_BYTES * labels,
        plan=_Plan(graph).peak(mirror=backward_do_mirror),
        workspace=0,
    )


def inference_memory(graph: Graph) -> int:
    """Return the bytes of input and activations while a batch is tested.

    An output lives until its last reader has it, the input of a block until that has ended.
    """
    return _Plan(graph).testing_peak()


def weight_bytes(layer: Layer) -> int:
    """Return the bytes of what a layer learns."""
    shapes = {n: shape for n, shape in layer.parameters().items() if "_moving_" not in n}
    return _FLOAT32_BYTES * sum(map(math.prod, shapes.values()))


class _Plan:
    """What is kept from the forward pass for the backward pass, and beside it meanwhile."""

    def __init__(self, graph: Graph) -> None:
        self._layers = graph.layers[:-1]  # the softmax's backward pass begins with its gradient
        self._bytes = {
            name: _FLOAT32_BYTES * math.prod(shape) for name, shape in graph.shapes.items()
        }
        self._weights = {layer.name: weight_bytes(layer) for layer in self._layers}
        # Where a layer's output lies: the layer that made the memory.
        self._places = {DATA: DATA}
        self._entries: dict[str, str] = {}  # block -> name of its input
        self._exits: dict[str, str] = {}  # block -> name of its last layer
        for layer in self._layers:
            if layer.block:
                self._entries.setdefault(layer.block, layer.inputs[0])
                self._exits[layer.block] = layer.name
            first = self._places[layer.inputs[0]]
            self._places[layer.name] = first if layer.kind in _IN_PLACE else layer.name

    def peak(self, *, mirror: bool) -> int:
        """Return the most bytes of activations and gradients at any moment of the backward pass.

        Gradients of weights come as it goes: those that are still to come are taken off, since
        all of them are counted elsewhere.
        """
        most, weights, missing = 0, self._weights, sum(self._weights.values())
        for position, layer in reversed(list(enumerate(self._layers))):
            missing -= weights[layer.name]
            kept: dict[str, int] = {}
            for other in self._layers[: position + 1]:
                recomputed = mirror and other.block and other.block != layer.block
                kept.update(self._inputs_of(other) if recomputed else self._kept_by(other))
            gradients = [layer.name, *layer.inputs]
            if layer.block:  # that of the shortcut waits for the branch
                gradients.append(self._exits[layer.block])
            size = sum(kept.values()) + sum(self._bytes[name] for name in gradients)
            most = max(most, size - missing)
        return most

    def testing_peak(self) -> int:
        """Return the most bytes of activations at any moment of a forward pass."""
        last = {}  # place -> position of its last reader
        for position, layer in enumerate(self._layers):
            held = [self._entries[layer.block]] if layer.block else []
            for name in (*layer.inputs, *held):
                last[self._places[name]] = position
        most, alive = 0, {DATA}
        for position, layer in enumerate(self._layers):
            alive.add(self._places[layer.name])
            most = max(most, sum(self._bytes[place] for place in alive))
            alive = {place for place in alive if last.get(place, position + 1) > position}
        return most

    def _kept_by(self, layer: Layer) -> Mapping[str, int]:
        """Return what a layer keeps for its backward pass: place -> bytes."""
        kept = {}
        if layer.kind in (*_KEEP_INPUT, "relu"):
            place = self._places[layer.name if layer.kind == "relu" else layer.inputs[0]]
            kept[place] = self._bytes[place]
        if layer.kind == "dropout":
            kept[f"{layer.name} mask"] = self._bytes[layer.name]
        if layer.kind == "max_pool":
            indices = self._bytes[layer.name] * _INDEX_BYTES // _FLOAT32_BYTES
            kept[f"{layer.name} indices"] = indices
        kept.pop(DATA, None)  # counts among the inputs
        return kept

    def _inputs_of(self, layer: Layer) -> Mapping[str, int]:
        """Return what is kept of the block of a layer that is computed again: its input."""
        place = self._places[self._entries[layer.block]]
        return {} if place == DATA else {place: self._bytes[place]}

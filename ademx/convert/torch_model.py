"""The networks as PyTorch modules: exact twins of the MXNet graphs, from the same lists of layers.

A module's name is its layer's, so that the keys of a state dict (the `native` layout) are the
released names with dots: `res4b1.bn_branch2a.running_mean`, `res4b1.branch2a.weight`.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import groupby

from torch import Tensor, nn
from torch.nn import functional

from ademx.labels import Label, parse_label
from ademx.networks.graph import list_layers
from symbols.layers import Layer
from symbols.levels import BN_EPSILON

# What MXNet keeps of its moving statistics is 0.9; PyTorch states what it replaces.
_BN_MOMENTUM = 0.1
# The most input channels that oneDNN takes at a time.
_ONEDNN_CHANNELS = 16


def build(
    label: str | os.PathLike[str] | Label,
    *,
    width: float = 1.0,
    pool: str = "pad",
    head: str = "2conv",
) -> nn.Sequential:
    """Return a label's network, in training mode and with PyTorch's own initial weights.

    It is the sequence of its layers and blocks, each by its released name. As in the graphs,
    segmentation networks drop out and keep BatchNorm's statistics frozen in training.

    It maps (N, 3, H, W) float32 images, normalised as the graph's, to scores before the softmax:
    (N, classes), or (N, classes, H/s, W/s) for segmentation.

    Args:
        label: see :func:`ademx.build_symbol`.
        width: multiplier of all channels but the classes.
        pool: geometry of max pooling, "pad", "caffe" or "full".
        head: segmentation top, "2conv" or "1conv".

    Raises:
        ValueError: a malformed label, or a choice that does not exist.
    """
    label = parse_label(label)
    layers = list_layers(label, width=width, pool=pool, head=head)
    return to_module(
        layers, norm=FrozenBatchNorm2d if label.task == "segmentation" else nn.BatchNorm2d
    )


def to_module(layers: Sequence[Layer], *, norm: type[nn.BatchNorm2d]) -> nn.Sequential:
    """Return a network as a module, in training mode; its output is the scores.

    Args:
        layers: from :func:`ademx.networks.graph.list_layers`; the last, the softmax, is left out.
        norm: what normalises.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for block, group in groupby(layers[:-1], key=lambda layer: layer.block):
        if block:
            modules[f"res{block}"] = Block(list(group), norm=norm)
        else:
            modules.update((layer.name, _module(layer, norm=norm)) for layer in group)
    return nn.Sequential(modules).train()


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that uses its moving statistics in training too; weight and bias still learn."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stay in evaluation mode."""
        super().train(False)
        return self


class Block(nn.Module):
    """A residual block: walks its layers, and lets go of an output after its last reader."""

    def __init__(self, layers: Sequence[Layer], *, norm: type[nn.BatchNorm2d]) -> None:
        super().__init__()
        last_reader = {name: layer.name for layer in layers for name in layer.inputs}
        self._data = layers[0].inputs[0]
        self._steps = []
        for layer in layers:
            spent = [
                name for name in dict.fromkeys(layer.inputs) if last_reader[name] == layer.name
            ]
            child = _child_name(layer)
            self._steps.append((child, layer.name, layer.inputs, spent))

        # The projection first: PyTorch keeps the states of its optimisers by parameters' order.
        for layer in sorted(layers, key=lambda layer: not layer.name.endswith("_branch1")):
            self.add_module(_child_name(layer), _module(layer, norm=norm))

    def forward(self, data: Tensor) -> Tensor:
        """Return the block's output."""
        values = {self._data: data}
        for child, name, inputs, spent in self._steps:
            output: Tensor = getattr(self, child)(*[values[source] for source in inputs])
            for source in spent:
                del values[source]
            values[name] = output
        return output


def module_name(layer: Layer) -> str:
    """Return the name of a layer's module within the network: `res2a.bn_branch2a`, `conv1a`."""
    return f"res{layer.block}.{_child_name(layer)}" if layer.block else layer.name


def _child_name(layer: Layer) -> str:
    """Return a layer's name within its block: `branch2a`, `bn_branch2a`."""
    if layer.kind == "dropout":
        return "dropout"
    kind, _, rest = layer.name.replace(layer.block, "", 1).partition("_")
    return "_".join(part for part in (kind.removeprefix("res"), rest) if part) or layer.kind


class _Add(nn.Module):
    """Adds in place: no other layer reads the branch, and no backward pass its last output."""

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return branch.add_(shortcut)


class _NarrowStrided(nn.Conv2d):
    """A 1×1 convolution with a stride as one without it, of every stride-th row and column.

    In channels-last oneDNN's gradient of the weights writes past its memory where there are fewer
    input channels than it takes at a time (uxlfoundation/oneDNN issue 6035): heaps break.
    """

    def forward(self, data: Tensor) -> Tensor:
        rows, columns = self.stride
        return functional.conv2d(data[:, :, ::rows, ::columns], self.weight, self.bias)


def _module(layer: Layer, *, norm: type[nn.BatchNorm2d]) -> nn.Module:
    channels, window = (layer.in_channels, layer.channels), (layer.kernel, layer.stride)
    if layer.kind == "convolution":
        narrow = layer.kernel == 1 < layer.stride and layer.in_channels < _ONEDNN_CHANNELS
        convolution = _NarrowStrided if narrow else nn.Conv2d
        return convolution(*channels, *window, layer.padding, layer.dilation, bias=layer.bias)
    if layer.kind == "batch_norm":
        return norm(layer.channels, eps=BN_EPSILON, momentum=_BN_MOMENTUM)
    if layer.kind == "max_pool":
        if layer.dilation > 1:  # PyTorch's pooling pads by half of its kernel at the most
            pad = nn.ConstantPad2d(layer.padding, float("-inf"))
            return nn.Sequential(pad, nn.MaxPool2d(*window, dilation=layer.dilation))
        return nn.MaxPool2d(*window, layer.padding, ceil_mode=layer.ceil)
    makers: dict[str, Callable[[], nn.Module]] = {
        "relu": lambda: nn.ReLU(inplace=True),  # no other layer reads what it reads
        "dropout": lambda: nn.Dropout(layer.rate),
        "global_pool": lambda: nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten,
        "linear": lambda: nn.Linear(*channels),
        "add": _Add,
        "subsample": lambda: nn.AvgPool2d(1, layer.stride),
        # The third dimension from the end is the channels'.
        "zero_pad": lambda: nn.ConstantPad3d((0, 0, 0, 0, 0, channels[1] - channels[0]), 0.0),
    }
    return makers[layer.kind]()

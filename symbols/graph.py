"""A network's list of layers as an MXNet graph, with the released parameter names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from ademx.compat import import_mxnet
from symbols.layers import DATA, Layer
from symbols.learning import OHEM_MIN_KEPT, OHEM_THRESH, Learning, get_learning
from symbols.levels import BN_EPSILON
from symbols.losses import ohem_softmax, pixel_softmax

if TYPE_CHECKING:
    from mxnet.symbol import Symbol

mx = import_mxnet()

# MiB that a convolution may use for scratch.
WORKSPACE = 1024


def to_symbol(layers: Sequence[Layer], learning: Learning | None = None) -> Symbol:
    """Return a network with its loss.

    The output is named "softmax"; beside the network's own input there is "softmax_label", (N,) or
    (N, H/s · W/s) float32.

    Args:
        layers: from :func:`symbols.layers.list_layers`.
        learning: how it learns; by default as networks of its task do. OHEM is with threshold 0.6
            and at least 256 kept.
    """
    segmentation = layers[-2].kind == "convolution"
    learning = learning or get_learning("segmentation" if segmentation else "classification")
    outputs = _connect(layers, DATA, learning, segmentation=segmentation)
    return outputs[layers[-1].name]


def to_outputs(layers: Sequence[Layer], data: str) -> dict[str, Symbol]:
    """Return the outputs of a part of a network by their layers' names, with frozen statistics.

    Args:
        layers: in order of computation, no loss among them.
        data: name of what the first of them reads, which is the graph's input "data".
    """
    return _connect(layers, data, get_learning("classification", frozen_statistics=True))


def _connect(
    layers: Sequence[Layer], data: str, learning: Learning, *, segmentation: bool = False
) -> dict[str, Symbol]:
    """Return the layers' outputs by their names; `data` is the name of what they read."""
    operators = {
        **_OPERATORS,
        "batch_norm": partial(_batch_norm, frozen=learning.frozen_statistics),
        "softmax": partial(_loss, loss=learning.loss, segmentation=segmentation),
    }
    outputs = {data: mx.sym.Variable(DATA)}
    for layer in layers:
        inputs = [outputs[name] for name in layer.inputs]
        parameters = {
            name.rpartition("_")[2]: _variable(name, learning)
            for name in layer.parameters()
            if "_moving_" not in name
        }
        outputs[layer.name] = operators[layer.kind](layer, *inputs, **parameters, name=layer.name)
    return outputs


def _variable(name: str, learning: Learning) -> Symbol:
    """Return a parameter, with its multipliers where they are not those that MXNet gives it."""
    rate, decay = learning.of(name)
    if (rate, decay) == (1.0, float(name.endswith(("_weight", "_gamma")))):
        return mx.sym.Variable(name)
    return mx.sym.Variable(name, lr_mult=rate, wd_mult=decay)


# An operator gets its layer, its inputs, and as MXNet's keywords its parameters and its name.


def _convolution(layer: Layer, data: Symbol, **named: Any) -> Symbol:
    return mx.sym.Convolution(
        data,
        num_filter=layer.channels,
        kernel=(layer.kernel,) * 2,
        stride=(layer.stride,) * 2,
        dilate=(layer.dilation,) * 2,
        pad=(layer.padding,) * 2,
        no_bias=not layer.bias,
        workspace=WORKSPACE,
        **named,
    )


def _batch_norm(layer: Layer, data: Symbol, *, frozen: bool, **named: Any) -> Symbol:
    """Return BatchNorm with a learnt gamma and MXNet's default momentum."""
    return mx.sym.BatchNorm(data, eps=BN_EPSILON, fix_gamma=False, use_global_stats=frozen, **named)


def _max_pool(layer: Layer, data: Symbol, *, name: str) -> Symbol:
    if layer.dilation > 1:
        return _dilated_max_pool(layer, data, name=name)
    return mx.sym.Pooling(
        data,
        pool_type="max",
        kernel=(layer.kernel,) * 2,
        stride=(layer.stride,) * 2,
        pad=(layer.padding,) * 2,
        pooling_convention="full" if layer.ceil else "valid",
        name=name,
    )


def _dilated_max_pool(layer: Layer, data: Symbol, *, name: str) -> Symbol:
    """Return the maximum of shifted slices, across and then down: MXNet's pooling never dilates.

    The gradient goes to the first of equals in order of rows, as PyTorch's does.
    """
    reach, last = layer.dilation, layer.dilation * (layer.kernel - 1)
    margin = (layer.padding,) * 4
    data = mx.sym.pad(
        data, mode="constant", pad_width=(0,) * 4 + margin, constant_value=float("-inf")
    )
    for axis in (3, 2):
        slices = [
            mx.sym.slice_axis(data, axis=axis, begin=shift, end=shift - last or None)
            for shift in range(0, last + 1, reach)
        ]
        data = reduce(mx.sym.maximum, slices)
    return mx.sym.identity(data, name=name)


def _subsample(layer: Layer, data: Symbol, *, name: str) -> Symbol:
    everything = (None,) * 4
    step = (1, 1, layer.stride, layer.stride)
    return mx.sym.slice(data, begin=everything, end=everything, step=step, name=name)


def _zero_pad(layer: Layer, data: Symbol, *, name: str) -> Symbol:
    missing = layer.channels - layer.in_channels
    zeros = mx.sym.tile(mx.sym.zeros_like(data), reps=(1, -(-missing // layer.in_channels), 1, 1))
    padding = mx.sym.slice_axis(zeros, axis=1, begin=0, end=missing)
    if layer.in_channels % 16 == 0 and missing % 16 == 0:
        return mx.sym.concat(data, padding, dim=1, name=name)
    # oneDNN's concatenation, which is for 2 and 4 dimensions, fails here in the backward pass.
    flat = [mx.sym.reshape(part, shape=(0, 0, -1)) for part in (data, padding)]
    both = mx.sym.concat(*flat, dim=1)
    return mx.sym.reshape_like(
        *(both, data), lhs_begin=2, lhs_end=3, rhs_begin=2, rhs_end=4, name=name
    )


def _loss(layer: Layer, scores: Symbol, *, loss: str, segmentation: bool, name: str) -> Symbol:
    label = mx.sym.Variable("softmax_label")
    if loss == "ohem":
        return ohem_softmax(scores, label, thresh=OHEM_THRESH, min_kept=OHEM_MIN_KEPT)
    if segmentation:
        return pixel_softmax(scores, label)
    # The gradient is a sum, which the optimiser divides by the batch.
    return mx.sym.SoftmaxOutput(scores, label, name=name)


_OPERATORS: dict[str, Callable[..., Symbol]] = {
    "convolution": _convolution,
    "relu": lambda _, data, name: mx.sym.Activation(data, act_type="relu", name=name),
    "dropout": lambda layer, data, name: mx.sym.Dropout(data, p=layer.rate, name=name),
    "max_pool": _max_pool,
    "global_pool": lambda _, data, name: mx.sym.Pooling(
        data, pool_type="avg", global_pool=True, kernel=(1, 1), name=name
    ),
    "flatten": lambda _, data, name: mx.sym.Flatten(data, name=name),
    "linear": lambda layer, data, **named: mx.sym.FullyConnected(
        data, num_hidden=layer.channels, **named
    ),
    "add": lambda _, branch, shortcut, name: mx.sym.elemwise_add(branch, shortcut, name=name),
    "subsample": _subsample,
    "zero_pad": _zero_pad,
}

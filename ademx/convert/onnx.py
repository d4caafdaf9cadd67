"""Networks as ONNX files, written straight from the tables: neither MXNet nor torch is needed.

The input is named `data`, (batch, 3, height, width) float32, RGB, normalised as the file's
metadata says: (pixel · scale - mean) / std for each channel. The output is named `probabilities`,
(batch, classes), or (batch, classes, height/s, width/s) for segmentation. Parameters and the
outputs of the layers have their released names.

Operators are those of opset 13, the first whose Softmax works along one axis, and the file format
is version 7, so that onnxruntime 1.6 and all later ones read the files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import ademx
from ademx.compat import import_optional
from ademx.convert.files import NetworkWeights, label_metadata
from ademx.errors import InputError
from ademx.files import PathLike, replacing
from ademx.labels import Label
from ademx.networks.graph import list_layers
from ademx.params import Array
from symbols.layers import DATA, Layer, output_shapes, without_dropout
from symbols.levels import BN_EPSILON

OPSET = 13
FILE_VERSION = 7

PROBABILITIES = "probabilities"
# Outputs that bear another name in these files than their layer's.
_OUTPUTS = {"softmax": PROBABILITIES, "pool7": "pool7_pooled", "flatten7": "pool7"}

_PRODUCER = "ademx"
_END = np.iinfo(np.int64).max  # of a slice: as far as it goes


def import_onnx(name: str = "onnx") -> ModuleType:
    """Return the `onnx` or the `onnxruntime` module.

    Raises:
        MissingDependency: it is not installed.
    """
    return import_optional(
        name, f"this needs {name}, which is not installed: run `pip install 'ademx[onnx]'`"
    )


def write_onnx(
    path: PathLike,
    weights: NetworkWeights,
    *,
    input_size: tuple[int, int] | None = None,
    pool: str = "pad",
) -> None:
    """Write a network as an ONNX file; the old one stays whole until the new one is.

    Args:
        path: where to.
        weights: of the network.
        input_size: height and width that the network is to take, pixels; None: any.
        pool: geometry of max pooling, "pad", "caffe" or "full".

    Raises:
        ademx.params.CheckpointMismatch: label and parameters do not fit.
        ademx.compat.MissingDependency: the `onnx` package is not installed.
        ValueError: the input is too small for the network.
        OSError: the file cannot be written.
    """
    model = build_model(weights, input_size=input_size, pool=pool)
    with replacing(path) as file:
        file.write(model.SerializeToString())


def build_model(
    weights: NetworkWeights,
    *,
    input_size: tuple[int, int] | None = None,
    pool: str = "pad",
) -> Any:
    """Return a network as an `onnx.ModelProto`; see :func:`write_onnx`."""
    onnx = import_onnx()
    weights.check_usable()
    label = weights.label
    layers = without_dropout(list_layers(label, width=weights.width, pool=pool, head=weights.head))
    constants = {
        name: np.ascontiguousarray(weights.parameters[name], np.float32)
        for layer in layers
        for name in layer.parameters()
    }
    for layer in layers:
        constants.update(_constants(layer))
    graph = onnx.helper.make_graph(
        [_node(onnx, layer) for layer in layers],
        str(label),
        [_value(onnx, DATA, ("batch", 3, *(input_size or ("height", "width"))))],
        [_value(onnx, PROBABILITIES, _output_shape(label, layers, input_size))],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = onnx.helper.make_model(
        graph,
        producer_name=_PRODUCER,
        producer_version=ademx.__version__,
        ir_version=FILE_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )
    onnx.helper.set_model_props(model, _metadata(weights, pool))
    return model


def read_onnx(path: PathLike, *, label: Label | None = None) -> NetworkWeights:
    """Return the weights in an ONNX file that was written here.

    Args:
        path: the file.
        label: of the network; by default what the file says.

    Raises:
        ValueError: it is no ONNX file, or was not written here.
        ademx.compat.MissingDependency: the `onnx` package is not installed.
    """
    onnx = import_onnx()
    try:
        model = onnx.load(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # protobuf's own errors differ between its implementations
        raise InputError(f"{path}: not an ONNX file, or a damaged one: {error}") from error
    metadata = {item.key: item.value for item in model.metadata_props}
    check_written_here(path, model.producer_name, metadata)
    arrays = {
        item.name: np.array(onnx.numpy_helper.to_array(item))  # else they cannot be written to
        for item in model.graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT
    }
    return NetworkWeights(arrays, os.fspath(path), label, metadata=metadata)


def check_written_here(path: PathLike, producer: str, metadata: Mapping[str, str]) -> None:
    """Raise ValueError unless an ONNX file is one that this module wrote."""
    if producer != _PRODUCER or "label" not in metadata:
        raise InputError(
            f"{os.fspath(path)}: an ONNX file by {producer or 'an unknown program'}: expected one "
            "that `ademx convert` wrote"
        )


def _metadata(weights: NetworkWeights, pool: str) -> dict[str, str]:
    return {
        **label_metadata(weights.label),
        "layout": "release",
        "source": Path(weights.source).name,
        "source_md5": weights.md5,
        "width": str(weights.width),
        "head": weights.head,
        "pool": pool,
    }


def _value(onnx: ModuleType, name: str, shape: tuple[int | str, ...]) -> Any:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def _output_shape(
    label: Label, layers: tuple[Layer, ...], input_size: tuple[int, int] | None
) -> tuple[int | str, ...]:
    if input_size is not None:
        _, *shape = output_shapes(layers, (1, 3, *input_size))[layers[-1].name]
        return "batch", *shape
    cells = ("rows", "columns") if label.task == "segmentation" else ()
    return "batch", label.num_classes, *cells


def _constants(layer: Layer) -> dict[str, Array]:
    """Return the arrays that a layer's node reads beside its parameters, by name."""
    if layer.kind == "zero_pad":
        missing = layer.channels - layer.in_channels
        return {f"{layer.name}_pads": np.array([0, 0, 0, 0, 0, missing, 0, 0])}
    if layer.kind == "subsample":
        rows = {"starts": (0, 0), "ends": (_END, _END), "axes": (2, 3)}
        rows["steps"] = (layer.stride, layer.stride)
        return {f"{layer.name}_{name}": np.array(values) for name, values in rows.items()}
    return {}


def _node(onnx: ModuleType, layer: Layer) -> Any:
    windows = {
        "kernel_shape": [layer.kernel] * 2,
        "strides": [layer.stride] * 2,
        "pads": [layer.padding] * 4,
        "dilations": [layer.dilation] * 2,
    }
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "convolution": ("Conv", windows),
        "batch_norm": ("BatchNormalization", {"epsilon": BN_EPSILON}),
        "relu": ("Relu", {}),
        "max_pool": ("MaxPool", {**windows, "ceil_mode": int(layer.ceil)}),
        "global_pool": ("GlobalAveragePool", {}),
        "flatten": ("Flatten", {}),
        "linear": ("Gemm", {"transB": 1}),
        "add": ("Add", {}),
        "subsample": ("Slice", {}),
        "zero_pad": ("Pad", {}),
        "softmax": ("Softmax", {"axis": 1}),
    }
    operator, attributes = kinds[layer.kind]
    name, *sources = (_OUTPUTS.get(name, name) for name in (layer.name, *layer.inputs))
    inputs = [*sources, *layer.parameters(), *_constants(layer)]
    return onnx.helper.make_node(operator, inputs, [name], name, **attributes)

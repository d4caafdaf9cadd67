"""Weights in PyTorch: other projects' parameter names, other file kinds, a twin of the graphs.

:func:`to_torch` and :func:`from_torch` rename; `ademx.convert.files` reads files of weights,
`ademx.convert.writing` writes them; `ademx.convert.torch_model` builds networks. Nothing here
needs MXNet.

    arg_params, aux_params = ademx.params.load("ilsvrc-cls_rna-a1_cls1000_ep-0001.params")  # numpy
    network = ademx.convert.torch_model.build("ilsvrc-cls_rna-a1_cls1000")  # returns scores
    network.load_state_dict(ademx.convert.to_torch(arg_params, aux_params, "native"))
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.compat import import_optional
from ademx.convert import caveats, layouts
from ademx.convert.recognise import is_first_layer, recognise
from ademx.convert.resnets import resnet_label, take_parameters
from ademx.errors import InputError
from ademx.labels import Label, parse_label
from ademx.params import Array
from ademx.text import printable

if TYPE_CHECKING:
    from types import ModuleType

    import torch

_STATISTICS = ("_moving_mean", "_moving_var")
# Of dicts within dicts in a checkpoint, more than any has: one may hold itself.
_MAX_DEPTH = 8
_MAX_DICTS = 10_000

_log = logging.getLogger(__name__)

__all__ = ["from_torch", "to_torch"]


def to_torch(
    arg_params: Mapping[str, Array],
    aux_params: Mapping[str, Array],
    layout: str,
    *,
    label: str | os.PathLike[str] | Label | None = None,
    with_head: bool | None = None,
    norm_suffix: str = "",
) -> dict[str, torch.Tensor]:
    """Return parameters as a state dict: key of the layout -> tensor.

    The tensors share the arrays' memory. `load_state_dict(strict=True)` takes the dict: what
    BatchNorm2d counts (`num_batches_tracked`) may be absent from one that was not saved by torch.
    What the layout's own network does differently is logged as warnings.

    Args:
        arg_params: as :func:`ademx.params.load` returns them.
        aux_params: the same.
        layout: one of :data:`ademx.convert.layouts.LAYOUTS`.
        label: of the network that the parameters are of, for the warnings.
        with_head: see :func:`ademx.convert.layouts.rename_to`.
        norm_suffix: the same.

    Raises:
        ValueError: an unknown layout, or parameters that it has no names for.
        ademx.compat.MissingDependency: PyTorch is not installed.
    """
    torch = import_torch()
    state = to_layout(
        {**arg_params, **aux_params},
        layout,
        label=None if label is None else parse_label(label),
        with_head=with_head,
        norm_suffix=norm_suffix,
    )
    return {key: torch.from_numpy(value) for key, value in state.items()}


def from_torch(
    state_dict: Mapping[str, Any],
    layout: str | None = None,
    *,
    label: str | os.PathLike[str] | Label | None = None,
    drop_extra: bool = False,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return `(arg_params, aux_params)` of a state dict; the arrays share the tensors' memory.

    Dicts around it, such as that of `state_dict`, and what stands before all its keys, such as
    `module.`, come off. bfloat16, which numpy does not have, is widened to float32, which is
    exact. What the names do not show is logged as warnings.

    Args:
        state_dict: key -> tensor.
        layout: one of :data:`ademx.convert.layouts.SOURCE_LAYOUTS`; by default it is recognised,
            and the label says which of the two `wider_resnet` it is.
        label: of the network that the parameters are for, for the warnings.
        drop_extra: leave out what is not the network's, such as other projects' heads.

    Raises:
        ValueError: the keys are not those of the layout, or of any.
    """
    tensors = find_tensors(state_dict)
    label = None if label is None else parse_label(label)
    found = recognise(tensors, layout, drop_extra=drop_extra, label=label)
    arrays = {key: as_array(key, tensors[key]) for key in (*found.names, *found.biases)}
    parameters = take_parameters(found, arrays)
    label = resnet_label(found, parameters, label)
    caveats.warn_of_reading(found, parameters, label=label)
    return split(parameters)


def to_layout(
    parameters: Mapping[str, Array],
    layout: str,
    *,
    label: Label | None,
    with_head: bool | None = None,
    norm_suffix: str = "",
) -> dict[str, Array]:
    """Return :func:`ademx.convert.layouts.rename_to`, and log what the names do not show."""
    renamed = layouts.rename_to(parameters, layout, with_head=with_head, norm_suffix=norm_suffix)
    caveats.warn_of_writing(layout, parameters, label)
    if with_head is None and len(renamed) < len(parameters):
        head = ", ".join(filter(layouts.is_head, parameters))
        _log.info("%s: left out, unless --with-head is given: the head, %s", layout, head)
    return renamed


def split(parameters: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return `(arg_params, aux_params)`: the moving statistics are auxiliary."""
    aux = {name: value for name, value in parameters.items() if name.endswith(_STATISTICS)}
    return {name: value for name, value in parameters.items() if name not in aux}, aux


def find_tensors(state: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the tensors and arrays in a checkpoint: keys of dicts within dicts joined by dots.

    What is no network's is passed over: an optimiser's dict, numbers and texts and the tensors in
    an inner dict of theirs; tensors beside dicts of them, such as states of random numbers. A dict
    that is there twice comes once.

    Raises:
        ValueError: there are none.
    """
    kinds = (np.ndarray, import_torch().Tensor)
    seen = {id(state)}
    nested: list[tuple[str, Any]] = [("", state)]
    found: dict[str, Any] = {}
    other = ""
    for prefix, mapping in nested:  # grows meanwhile
        flat, values = {}, 0
        for key, value in mapping.items():
            if isinstance(value, kinds):
                flat[f"{prefix}{key}"] = value
            elif not isinstance(value, Mapping):
                other = other or f"{printable(key)!r} is {type(value).__name__}"
                values += 1
            elif id(value) not in seen and "param_groups" not in value and len(seen) < _MAX_DICTS:
                seen.add(id(value))
                if prefix.count(".") < _MAX_DEPTH:
                    nested.append((f"{prefix}{key}.", value))
        if not (prefix and values) or any(map(is_first_layer, flat)):
            found.update(flat)
    inner = {key: value for key, value in found.items() if key not in state}
    if not found:
        raise InputError(
            f"state dict: {other or 'it is empty'}, expected a tensor: give the dict of a "
            "network's parameters, such as `model.state_dict()`"
        )
    return inner or found


def as_array(key: str, value: Any) -> Array:
    """Return a tensor as an array that shares its memory, bfloat16 widened to float32.

    Raises:
        ValueError: it holds numbers of a type that numpy has not, or no numbers.
    """
    if isinstance(value, np.ndarray):
        array: Array = value
    else:
        torch = import_torch()
        value = value.detach().cpu()
        try:
            array = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        except (TypeError, RuntimeError):  # such as float8, sparse and quantised tensors
            raise no_weights(key, str(value.dtype)) from None
    if array.dtype.kind not in "fiub":
        raise no_weights(key, str(array.dtype))
    return array


def no_weights(key: str, dtype: str) -> InputError:
    """Return the error about an array whose type no weights here have."""
    return InputError(
        f"{printable(key)!r} is {dtype}: there are no weights of that type here; save it as float32"
    )


def import_torch() -> ModuleType:
    """Return the `torch` module.

    Raises:
        MissingDependency: it is not installed.
    """
    return import_optional(
        "torch", "this needs PyTorch, which is not installed: run `pip install 'ademx[torch]'`"
    )

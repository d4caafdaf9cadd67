"""Weights in PyTorch: other projects' parameter names, other file kinds, a twin of the graphs.

:func:`to_torch` and :func:`from_torch` rename; `ademx.convert.files` reads and writes `.params`,
`.pth` and `.safetensors`; `ademx.convert.torch_model` builds networks. Nothing here needs MXNet.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ademx.compat import import_optional
from ademx.convert import caveats, layouts
from ademx.labels import Label, parse_label

if TYPE_CHECKING:
    from types import ModuleType

    import torch

Array = npt.NDArray[Any]

_STATISTICS = ("_moving_mean", "_moving_var")

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
        label=label if label is None or isinstance(label, Label) else parse_label(label),
        with_head=with_head,
        norm_suffix=norm_suffix,
    )
    return {key: torch.from_numpy(value) for key, value in state.items()}


def from_torch(
    state_dict: Mapping[str, Any],
    layout: str | None = None,
    *,
    label: str | os.PathLike[str] | Label | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return `(arg_params, aux_params)` of a state dict; the arrays share the tensors' memory.

    A `module.` prefix and a `state_dict` key around it are taken off. bfloat16, which numpy does
    not have, is widened to float32, which is exact. What the names do not show is logged as
    warnings.

    Args:
        state_dict: key -> tensor.
        layout: one of :data:`ademx.convert.layouts.LAYOUTS`; by default it is recognised.
        label: of the network that the parameters are for, for the warnings.

    Raises:
        ValueError: the keys are not those of the layout, or of any.
    """
    arrays = {key: as_array(key, value) for key, value in unwrapped(state_dict).items()}
    label = label if label is None or isinstance(label, Label) else parse_label(label)
    parameters, _ = from_layout(arrays, layout, label=label)
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
    for caveat in caveats.writing_caveats(layout, parameters, label):
        _log.warning("%s: %s", layout, caveat)
    return renamed


def from_layout(
    state: Mapping[str, Array], layout: str | None = None, *, label: Label | None
) -> tuple[dict[str, Array], str]:
    """Return :func:`ademx.convert.layouts.rename_from`, and log what the names do not show."""
    parameters, found = layouts.rename_from(state, layout)
    for caveat in caveats.reading_caveats(found, parameters, label):
        _log.warning("%s: %s", found, caveat)
    return parameters, found


def split(parameters: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return `(arg_params, aux_params)`: the moving statistics are auxiliary."""
    aux = {name: value for name, value in parameters.items() if name.endswith(_STATISTICS)}
    return {name: value for name, value in parameters.items() if name not in aux}, aux


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict without a `state_dict` key around it and `module.` before its keys."""
    inner = state.get("state_dict")
    state = inner if isinstance(inner, Mapping) else state
    prefix = "module."
    if state and all(str(key).startswith(prefix) for key in state):
        return {str(key)[len(prefix) :]: value for key, value in state.items()}
    return {str(key): value for key, value in state.items()}


def as_array(key: str, value: Any) -> Array:
    """Return a tensor as an array that shares its memory, bfloat16 widened to float32.

    Raises:
        ValueError: it is no tensor.
    """
    torch = import_torch()
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"state dict: {key!r} is {type(value).__name__}, expected a tensor: give the dict of "
            "a network's parameters, such as `model.state_dict()`"
        )
    value = value.detach().cpu()
    array: Array = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return array


def import_torch() -> ModuleType:
    """Return the `torch` module.

    Raises:
        MissingDependency: it is not installed.
    """
    return import_optional(
        "torch", "this needs PyTorch, which is not installed: run `pip install 'ademx[torch]'`"
    )

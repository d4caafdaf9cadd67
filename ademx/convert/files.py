"""Weights in `.params`, `.pth` and `.safetensors` files, and from one to another.

A safetensors file is a uint64 with the size of a header, the header in JSON (name -> dtype, shape
and where the data starts and ends) and the data. It is read and written here: tensor by tensor,
so that no second copy is ever in memory, and without PyTorch.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ademx import params
from ademx.convert import as_array, from_layout, import_torch, split, to_layout, unwrapped
from ademx.convert.layouts import is_head
from ademx.files import PathLike, md5, replacing
from ademx.labels import Label, parse_label
from ademx.shapes import find_head, find_width, parameter_shapes
from iters import transforms

Array = npt.NDArray[Any]

KINDS = (".params", ".pth", ".safetensors")

# safetensors' name of a dtype -> ours; bfloat16 is read as the upper half of a float32.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items() if name != "BF16"}
_MAX_HEADER = 100_000_000  # bytes, the format's own limit


@dataclass(frozen=True)
class Weights:
    """Parameters of a network, from a file of any kind.

    Attributes:
        parameters: released name -> array, moving statistics among them.
        layout: that the file was in.
        metadata: of a safetensors file.
    """

    parameters: dict[str, Array]
    layout: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_weights(path: PathLike, *, label: Label | None = None) -> Weights:
    """Return the weights in a file of any kind and layout, told by their content.

    Args:
        path: a `.params`, `.pth` or `.safetensors` file.
        label: of the network that they are for, for the warnings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of no such kind, damaged, or its names are of no layout.
    """
    state, metadata = read_arrays(path)
    stored = metadata.get("layout")
    try:
        # What a file says of itself tells the two layouts with the same keys apart.
        parameters, layout = from_layout(
            state, stored if stored == "wider_resnet_a2" else None, label=label
        )
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    return Weights(parameters, layout, metadata)


def read_arrays(path: PathLike) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays in a file of any kind by the names in it, and its metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of no such kind, or damaged.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        state, metadata = _read_safetensors(path)
        return unwrapped(state), metadata
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5"):
        return _read_torch(path), {}
    arg_params, aux_params = params.load(path)  # says what else it may be
    return {**arg_params, **aux_params}, {}


def convert(
    source: PathLike,
    target: PathLike,
    *,
    layout: str | None = None,
    label: str | None = None,
    with_head: bool | None = None,
    norm_suffix: str = "",
    module_prefix: bool = False,
    wrap_state_dict: bool = False,
) -> Label | None:
    """Write the weights of one file to another, in the kind that its name says.

    Every number is written as it was read (bfloat16 as float32). The target is replaced at once
    or not at all. What the names do not show is logged as warnings.

    Args:
        source: a `.params`, `.pth` or `.safetensors` file, in any layout.
        target: a path that ends in one of these.
        layout: of the target, one of :data:`ademx.convert.layouts.LAYOUTS`; by default `release`
            for a `.params` file and else `native`.
        label: of the network; by default that of the source's name, of its metadata or of the
            target's name. Names and shapes are held against it.
        with_head: see :func:`ademx.convert.layouts.rename_to`.
        norm_suffix: the same.
        module_prefix: write `module.` before every key, as DataParallel has it.
        wrap_state_dict: write `{"state_dict": …}`, in a `.pth` file.

    Returns:
        The label that the weights were held against, None where none is known.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: a file or a choice that does not fit.
        ademx.params.CheckpointMismatch: the weights are not those of the label.
    """
    kind = _target_kind(target)
    layout = layout or ("release" if kind == ".params" else "native")
    _check_choices(kind, layout, module_prefix=module_prefix, wrap_state_dict=wrap_state_dict)
    known = parse_label(label) if label else _label_in(source)
    with ThreadPoolExecutor(1) as pool:
        # Hashing takes as long as writing, so it goes on meanwhile.
        digest = pool.submit(md5, source) if kind == ".safetensors" else None
        weights = read_weights(source, label=known or _label_in(target))
        known = known or _label_in(weights.metadata.get("label", "")) or _label_in(target)
        if known:
            check_weights(known, weights.parameters, source=os.fspath(source))
        state = to_layout(
            weights.parameters, layout, label=known, with_head=with_head, norm_suffix=norm_suffix
        )
        if module_prefix:
            state = {f"module.{key}": value for key, value in state.items()}
        if kind == ".params":
            params.save(target, *split(state))
        elif kind == ".pth":
            _write_torch(target, state, wrap_state_dict=wrap_state_dict)
        else:
            write_safetensors(target, state, _metadata(known, layout), source_md5=digest)
    return known


def check_weights(
    label: Label, parameters: Mapping[str, Array], *, source: str, allow_headless: bool = True
) -> None:
    """Raise CheckpointMismatch unless the parameters are the label's.

    The width, and whether the head has one convolution or two, are read off the weights.

    Args:
        label: which network.
        parameters: released name -> array.
        source: what the parameters come from, for the message.
        allow_headless: whether the head may be absent.
    """
    headless = allow_headless and not any(map(is_head, parameters))
    shapes = {name: value.shape for name, value in parameters.items()}
    width, head = find_width(label, shapes), find_head(shapes) or "2conv"
    expected = parameter_shapes(label, width=width, head=head)
    absent = list(filter(is_head, expected)) if headless else []
    params.check_parameters(expected, parameters, source=source, allow_missing=absent)


def write_safetensors(
    path: PathLike,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str],
    *,
    source_md5: Future[str] | None = None,
) -> None:
    """Write a safetensors file; what was there before stays whole until the new one is.

    Args:
        path: where to.
        arrays: name -> array.
        metadata: texts for the header.
        source_md5: becomes metadata of this name, and is waited for after everything else.

    Raises:
        ValueError: an array has a dtype that the format lacks.
        OSError: it cannot be written.
    """
    for name, array in arrays.items():
        if array.dtype not in _DTYPE_NAMES:
            raise ValueError(
                f"{os.fspath(path)}: {name!r} has dtype {array.dtype}, expected one of "
                f"{', '.join(str(dtype) for dtype in _DTYPE_NAMES)}: convert it"
            )
    unknown = {"source_md5": "0" * 32} if source_md5 else {}
    with replacing(path) as file:
        file.write(_safetensors_header(arrays, {**metadata, **unknown}))
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if source_md5:
            file.flush()
            os.fsync(file.fileno())  # the disk writes while the source is hashed
            file.seek(0)
            known = {"source_md5": source_md5.result()}
            file.write(_safetensors_header(arrays, {**metadata, **known}))


def _safetensors_header(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _DTYPE_NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    return struct.pack("<Q", len(text)) + text


def _read_safetensors(path: PathLike) -> tuple[dict[str, Array], dict[str, str]]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, _MAX_HEADER):
            raise _damaged(path, f"the header is {length} bytes long, the file {size}")
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            return {name: _read_tensor(file, 8 + length, **header[name]) for name in header}, {
                str(key): str(value) for key, value in metadata.items()
            }
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(path, str(error)) from None


def _read_tensor(
    file: BufferedReader, data: int, *, dtype: str, shape: list[int], data_offsets: list[int]
) -> Array:
    """Return one tensor.

    Raises:
        ValueError: the header and the file do not fit.
    """
    start, end = data_offsets
    size = math.prod(shape) * _DTYPES[dtype].itemsize
    if min(shape, default=0) < 0 or start < 0 or end - start != size:
        raise ValueError(f"shape {shape} of {dtype} does not take bytes {start} to {end}")
    if data + end > os.fstat(file.fileno()).st_size:
        raise ValueError("the file is truncated: its data ends early")
    array: Array = np.empty(shape, _DTYPES[dtype])
    file.seek(data + start)
    file.readinto(array.reshape(-1).view(np.uint8).data)
    if dtype == "BF16":
        wide: Array = np.empty(shape, "<f4")
        np.left_shift(array, 16, out=wide.view("<u4"), dtype="<u4")
        return wide
    return array


def _damaged(path: PathLike, found: str) -> ValueError:
    return ValueError(
        f"{os.fspath(path)}: {found}; expected a whole safetensors file: download it again"
    )


def _read_torch(path: PathLike) -> dict[str, Array]:
    torch = import_torch()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{os.fspath(path)}: {reason}; expected a PyTorch file of tensors alone: one with "
            "code in it is not loaded, so save `model.state_dict()` where it was made"
        ) from None
    if not isinstance(state, Mapping):
        raise ValueError(
            f"{os.fspath(path)}: holds {type(state).__name__}, expected a state dict: save "
            "`model.state_dict()`"
        )
    try:
        return {key: as_array(key, value) for key, value in unwrapped(state).items()}
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def _write_torch(path: PathLike, arrays: Mapping[str, Array], *, wrap_state_dict: bool) -> None:
    torch = import_torch()
    state: dict[str, Any] = {key: torch.from_numpy(value) for key, value in arrays.items()}
    with replacing(path) as file:
        torch.save({"state_dict": state} if wrap_state_dict else state, file)


def _target_kind(path: PathLike) -> str:
    kind = Path(path).suffix
    if kind not in KINDS:
        raise ValueError(
            f"{os.fspath(path)}: cannot write {kind or 'a file without suffix'}; expected a name "
            f"that ends in {', '.join(KINDS)}"
        )
    return kind


def _check_choices(kind: str, layout: str, *, module_prefix: bool, wrap_state_dict: bool) -> None:
    if kind == ".params" and (layout != "release" or module_prefix):
        raise ValueError("a .params file has the release's names: take layout release, no prefix")
    if wrap_state_dict and kind != ".pth":
        raise ValueError(f"a {kind} file has no place for a `state_dict` key: write a .pth file")


def _label_in(name: PathLike) -> Label | None:
    """Return the label in a file's name, None where it has none."""
    try:
        return parse_label(name)
    except ValueError:
        return None


def _metadata(label: Label | None, layout: str) -> dict[str, str]:
    """Return what a safetensors file says of itself: text, and numbers as JSON."""
    metadata = {"format": "pt", "layout": layout}
    if label:
        normalization = transforms.RN if label.family == "rn" else transforms.RNA
        metadata |= {
            "label": str(label),
            "mean": json.dumps(normalization.mean),
            "std": json.dumps(normalization.std),
            "scale": json.dumps(normalization.scale),
        }
    return metadata

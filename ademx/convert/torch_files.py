"""PyTorch checkpoints as people save them: opened without running any code in them.

`torch.load` with `weights_only` makes tensors and plain containers only. What else is harmless and
often lies beside the tensors (numpy's scalars, the command line's namespace) is admitted by name;
anything else is refused by its name.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import pathlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import Any

import numpy as np

from ademx.convert import Array, as_array, find_tensors, import_torch
from ademx.files import PathLike, replacing
from ademx.params import Entry
from ademx.text import printable
from iters.files import open_file

# Beside arrays that numpy pickled under the names of its version 1 and of its version 2.
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_HARMLESS = (
    argparse.Namespace,
    datetime.date,
    datetime.datetime,
    datetime.timedelta,
    pathlib.Path,
    pathlib.PurePath,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    np.ndarray,
)
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)|(?:Unsupported class|build for) ([\w.]+)")
_SAVE = "load it where it was made and save the network's `state_dict()` alone"


class TorchFile:
    """The tensors of a checkpoint, by their keys; with the interface of `params.ParamsFile`.

    Attributes:
        path: path as given.
        entries: key -> entry, in the order of the file.
        metadata: none: the format has no place for it.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = path
        self._tensors = find_tensors(_load(path))
        self.entries = {key: _entry(key, value) for key, value in self._tensors.items()}
        size = os.path.getsize(path)
        for key, entry in self.entries.items():
            if entry.nbytes > size:  # few numbers that are to be many, by strides of 0
                raise ValueError(
                    f"{printable(key)!r} has {entry.nbytes:,} bytes, the file {size:,}: {_SAVE}"
                )
        self.metadata: dict[str, str] = {}

    def __getitem__(self, name: str) -> Array:
        return as_array(name, self._tensors[name])

    def __len__(self) -> int:
        return len(self.entries)

    def close(self) -> None:
        """Do nothing: all of it is in memory."""

    def __enter__(self) -> TorchFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_torch(path: PathLike) -> TorchFile:
    """Return the tensors of a PyTorch checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, damaged, or holds more than tensors and harmless values.
    """
    try:
        _check_archive(path)
        return TorchFile(path)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def write_torch(path: PathLike, arrays: Mapping[str, Array], *, wrap_state_dict: bool) -> None:
    """Write a checkpoint; what was there before stays whole until the new one is.

    Args:
        path: where to.
        arrays: key -> array.
        wrap_state_dict: write `{"state_dict": …}`.
    """
    torch = import_torch()
    state: dict[str, Any] = {key: torch.from_numpy(value) for key, value in arrays.items()}
    with replacing(path) as file:
        torch.save({"state_dict": state} if wrap_state_dict else state, file)


def _check_archive(path: PathLike) -> None:
    """Raise unless a zip archive, which a checkpoint is since PyTorch 1.6, can be its own."""
    with open_file(path) as file:
        if file.read(2) != b"PK":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise ValueError(
            f"cut off, a zip archive without its end ({printable(error)}); expected a whole "
            "PyTorch file: download it again"
        ) from None
    size = os.path.getsize(path)
    unpacked = sum(member.file_size for member in members)
    if unpacked > size:  # torch stores without compression; this could fill the memory
        raise ValueError(
            f"a compressed archive of {unpacked:,} bytes in {size:,}; PyTorch writes none: {_SAVE}"
        )
    if not any(member.filename.endswith("/data.pkl") for member in members):
        raise ValueError(
            "a zip archive, but no PyTorch checkpoint: unpack it, and name what it holds"
        )
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise ValueError(f"a TorchScript program, expected a state dict: {_SAVE}")


def _load(path: PathLike) -> Mapping[Any, Any]:
    """Return the dict in a checkpoint.

    Raises:
        ValueError: there is none that can be had without running code.
    """
    torch = import_torch()
    try:
        # PyTorch before 2.5 cannot be told what else is harmless.
        admit = getattr(torch.serialization, "safe_globals", nullcontext)
        with admit(_safe_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of a pickle's protocol
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damage shows as whatever torch's reader stumbles over
        raise ValueError(_reason(error)) from None
    if not isinstance(state, Mapping):
        raise ValueError(
            f"holds {type(state).__name__}, expected a state dict: save `model.state_dict()`"
        )
    return state


def _safe_globals() -> list[Any]:
    """Return what may be made beside tensors: values without behaviour."""
    found: list[Any] = [*_HARMLESS, (_encode, "_codecs.encode")]
    found += [type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"]
    for name in _NUMPY:
        for function in ("scalar", "_reconstruct"):
            with_numpy = "numpy._core" if hasattr(np, "_core") else "numpy.core"
            module = importlib.import_module(f"{with_numpy}.multiarray")
            found.append((getattr(module, function), f"{name}.{function}"))
    return found


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Return bytes as pickles of Python 2 have them; `_codecs.encode` knows other codecs too."""
    if encoding != "latin1":
        raise ValueError(f"bytes in encoding {encoding!r}, expected latin1")
    return text.encode(encoding)


def _reason(error: Exception) -> str:
    """Return what is wrong by torch's error, and what to do, in our words.

    Torch's own text tells people to switch the protection off.
    """
    names = [name for match in _GLOBAL.finditer(str(error)) for name in match.groups() if name]
    if names:
        return (
            f"`{printable(names[0])}` is in the way; expected a PyTorch file of tensors alone: "
            f"code in it is not run, so {_SAVE}"
        )
    found = "damaged, or no checkpoint of PyTorch's"
    if isinstance(error, EOFError) or re.search(r"(?i)\beof\b|ran out of|truncated", str(error)):
        found = "cut off"
    return f"{found}; expected a whole PyTorch file: download it again"


def _entry(key: str, value: Any) -> Entry:
    """Return the entry of a tensor or array."""
    return Entry(
        name=key,
        kind="",
        shape=tuple(value.shape),
        dtype=str(value.dtype).removeprefix("torch."),
        offset=0,
        nbytes=value.numel() * value.element_size() if hasattr(value, "numel") else value.nbytes,
        version=0,
    )

"""PyTorch checkpoints as people save them: opened without running any code in them.

`torch.load` with `weights_only` makes tensors and plain containers only. What else often lies
beside the tensors (numpy's scalars, the command line's namespace) is passed over; anything else
is refused by its name.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from io import FileIO
from typing import Any

from ademx.convert import as_array, find_tensors, import_torch, no_weights
from ademx.errors import InputError
from ademx.files import PathLike, replacing
from ademx.params import Array, Entry, ParamsFile
from ademx.text import printable

# What often lies beside tensors, and says nothing of them. Its place is held by an object that does
# nothing: numpy's own would crash on damaged states, and nobody looks at it.
_HARMLESS = (
    "_codecs.encode",
    "argparse.Namespace",
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePath", "PurePosixPath")),
    *(f"pathlib.{name}" for name in ("WindowsPath", "PureWindowsPath")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.dtypes.{name}DType" for name in ("Bool", "Str", "Bytes", "Object")),
    *(f"numpy.dtypes.{kind}{bits}DType" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)),
    *(f"numpy.dtypes.Float{bits}DType" for bits in (16, 32, 64)),
    # Under the names of numpy 1 and numpy 2.
    *(
        f"{core}.{name}"
        for core in ("numpy.core", "numpy._core")
        for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    ),
)
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)|(?:Unsupported class|build for) ([\w.]+)")
_SAVE = "load it where it was made and save the network's `state_dict()` alone"


class _Placeholder:
    """Stands for a value that is passed over; takes whatever that value would be made of."""

    def __new__(cls, *_arguments: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_arguments: Any) -> None:
        """Keep nothing."""

    def __setstate__(self, _state: Any) -> None:
        """Keep nothing."""


class TensorsFile(ParamsFile):
    """A file whose tensors are in memory, by their keys; it has no place for metadata."""

    def __init__(self, path: PathLike, file: FileIO, tensors: Mapping[str, Any]) -> None:
        super().__init__(path, file, {key: _entry(key, value) for key, value in tensors.items()})
        self._tensors = tensors
        size = os.fstat(file.fileno()).st_size
        for key, entry in self.entries.items():
            if entry.nbytes > size:  # few numbers that are to be many, by strides of 0
                raise InputError(
                    f"{printable(key)!r} has {entry.nbytes:,} bytes, the file {size:,}: {_SAVE}"
                )

    def __getitem__(self, name: str) -> Array:
        return as_array(name, self._tensors[name])


def open_torch(path: PathLike, file: FileIO) -> TensorsFile:
    """Return the tensors of an open file, a PyTorch checkpoint.

    Raises:
        ValueError: it is no checkpoint, damaged, or holds more than tensors and harmless values.
    """
    _check_archive(file)
    file.seek(0)
    return TensorsFile(path, file, find_tensors(_load(file)))


def write_torch(
    path: PathLike, arrays: Mapping[str, Array], *, wrapped: bool = False, legacy: bool = False
) -> None:
    """Write a checkpoint; what was there before stays whole until the new one is.

    Args:
        path: where to.
        arrays: key -> array.
        wrapped: write `{"state_dict": …}`.
        legacy: write what PyTorch wrote before 1.6, a pickle; later versions read both.
    """
    torch = import_torch()
    state: dict[str, Any] = {key: torch.from_numpy(value) for key, value in arrays.items()}
    content = {"state_dict": state} if wrapped else state
    with replacing(path) as file:
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)


def _check_archive(file: FileIO) -> None:
    """Raise unless a zip archive, which a checkpoint is since PyTorch 1.6, can be its own."""
    if file.read(2) != b"PK":
        return
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise InputError(
            f"cut off, a zip archive without its end ({printable(error)}); expected a whole "
            "PyTorch file: download it again"
        ) from None
    size = os.fstat(file.fileno()).st_size
    unpacked = sum(member.file_size for member in members)
    if unpacked > size:  # torch stores without compression; this could fill the memory
        raise InputError(
            f"a compressed archive of {unpacked:,} bytes in {size:,}; PyTorch writes none: {_SAVE}"
        )
    if not any(member.filename.endswith("/data.pkl") for member in members):
        raise InputError(
            "a zip archive, but no PyTorch checkpoint: unpack it, and name what it holds"
        )
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise InputError(f"a TorchScript program, expected a state dict: {_SAVE}")


def _load(file: FileIO) -> Mapping[Any, Any]:
    """Return the dict in a checkpoint, a file at its beginning.

    Raises:
        ValueError: there is none that can be had without running code.
    """
    torch = import_torch()
    try:
        # PyTorch before 2.5 cannot be told what else is harmless.
        admit = getattr(torch.serialization, "safe_globals", nullcontext)
        with admit([(_Placeholder, name) for name in _HARMLESS]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of a pickle's protocol
            state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damage shows as whatever torch's reader stumbles over
        raise InputError(_reason(error)) from None
    if not isinstance(state, Mapping):
        raise InputError(
            f"holds {type(state).__name__}, expected a state dict: save `model.state_dict()`"
        )
    return state


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
    """Return the entry of a tensor or array.

    Raises:
        ValueError: it is a nested one, which has no shape.
    """
    try:
        shape = tuple(value.shape)
    except RuntimeError:
        raise no_weights(key, "a nested tensor") from None
    size = value.numel() * value.element_size() if hasattr(value, "numel") else value.nbytes
    return Entry(key, "", shape, str(value.dtype).removeprefix("torch."), 0, size, 0)

"""The released weights: which they are, whether a file is one of them, and what a file holds.

Nothing here needs MXNet. The host that served the released files has shut down. A file from any
mirror is proved genuine by its MD5, which stands in the release's own checksum file and in
:data:`ademx.published.RELEASED_FILES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ademx import params
from ademx.convert.files import (
    Reading,
    WeightsFile,
    check_fit,
    open_weights,
    recognise_file,
)
from ademx.convert.layouts import LayoutError, count_blocks
from ademx.convert.recognise import Recognised
from ademx.convert.resnets import resnet_label
from ademx.errors import InputError, MissingFile
from ademx.files import PathLike, md5
from ademx.labels import TASKS, Label, label_in, parse_label
from ademx.networks.graph import find_head, find_width, parameter_shapes
from ademx.params import Array, CheckpointMismatch, HasShape
from ademx.published import METRIC_NAMES, RELEASED_FILES, RESULTS, Result
from ademx.text import first_few
from iters.datasets import DATASETS
from iters.files import open_file
from symbols.layers import Shape
from symbols.levels import RN_NETWORKS, RNA_NETWORKS

GONE = (
    "The host that served these files has shut down. A file from any mirror is genuine if its MD5 "
    "is the one in this table, which is that of the release's own checksum file: "
    "`ademx weights verify FILE`."
)

_BLOCK_SIZE = 1 << 20  # numbers that statistics are computed on at a time
_TOP = re.compile(r"linear\d+_weight")
_TRUNK = "a trunk without its head, as `ademx train --weights` takes it"


@dataclass(frozen=True)
class ReleasedFile:
    """A row of `ademx weights list`.

    Attributes:
        name: file name.
        label: model label.
        md5: 32 hexadecimal digits.
        nbytes: size of the file, bytes, computed from its parameters' shapes.
        results: what was published of it, such as "top-1 error 19.54 %".
        state: "present, genuine", "present, NOT genuine" or "absent"; "" if no folder was given.
    """

    name: str
    label: Label
    md5: str
    nbytes: int
    results: tuple[str, ...]
    state: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a file turned out to be.

    Attributes:
        path: the file.
        ok: whether it can be used: a released file, or one of own training that fits its label.
        status: "released", "own", "altered", "truncated", "page", "another model", "misfit",
            "unusable numbers" or "unreadable".
        message: one sentence.
        problems: what is wrong in detail, a line each.
    """

    path: Path
    ok: bool
    status: str
    message: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guess:
    """Which network a set of parameters belongs to, as far as names and shapes tell.

    Attributes:
        networks: networks with just these parameters; Models A, A1 and A2 share theirs.
        num_classes: classes that the network tells apart; 0 of a trunk without its head.
        task: "classification" or "segmentation"; "" of a trunk.
        datasets: datasets with this task and as many classes.
        width: multiplier of all channels.
        head: "2conv" or "1conv"; "" in classification.
    """

    networks: tuple[str, ...]
    num_classes: int
    task: str
    datasets: tuple[str, ...]
    width: float
    head: str

    def __str__(self) -> str:
        parts = [
            " or ".join(self.networks) + (" (same parameters)" if len(self.networks) > 1 else ""),
            f"{self.num_classes} classes, {self.task}" if self.task else _TRUNK,
        ]
        if self.datasets:
            parts[-1] += f" ({' or '.join(self.datasets)})"
        if self.head:
            parts.append(f"{self.head} head")
        if self.width != 1:
            parts.append(f"width {self.width:.4g}")
        return "; ".join(parts)


@dataclass(frozen=True)
class ArrayStatistics:
    """One array of a file; a mean or deviation is nan where a number is nan or infinite."""

    name: str
    kind: str
    shape: Shape
    dtype: str
    minimum: float
    mean: float
    maximum: float
    std: float


def released_files(models: Path | None = None) -> list[ReleasedFile]:
    """Return the released files, and with a folder given whether they are in it.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if models is not None and not models.is_dir():
        raise MissingFile(f"--models {models}: no such folder")
    return [
        ReleasedFile(
            name,
            (label := parse_label(name)),
            digest,
            # The release is older than MXNet 0.11, which began with V1.
            params.file_size(parameter_shapes(label), version=0),
            tuple(_published_text(row) for row in RESULTS if row.label == str(label)),
            "" if models is None else _state(models / name, digest),
        )
        for name, digest in RELEASED_FILES.items()
    ]


def _state(path: Path, digest: str) -> str:
    if not path.is_file():
        return "absent"
    return "present, genuine" if md5(path) == digest else "present, NOT genuine"


def _published_text(row: Result) -> str:
    values = (f"{METRIC_NAMES[metric]} {row.printed(metric)} %" for metric in row.values)
    return f"{', '.join(values)} ({row.split}: {row.setting})"


def verify(
    path: PathLike,
    *,
    label: Label | None = None,
    advance: Callable[[int], object] = lambda nbytes: None,
    reading: Reading | None = None,
) -> Verdict:
    """Say what a file is: whether it is whole, by its MD5, and by its parameters.

    Args:
        path: a file of weights of any kind, or what passes for one.
        label: the model that it should be; its name, or what it says of itself, by default.
        advance: told how many bytes have been worked on, about the file's size in all.
        reading: what the file does not say of itself.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is no file, or cannot be opened.
        ademx.compat.MissingDependency: it takes PyTorch to open it, which is not installed.
    """
    path = Path(path)
    try:
        with open_weights(path) as file:
            try:
                found = recognise_file(file, label=label, reading=reading, complete=False)
            except LayoutError as error:
                return Verdict(path, False, "misfit", f"not a network known here: {error}")
            hashing = file.start_md5()
            problems = tuple(_bad_numbers(file, found, advance))
    except InputError as error:
        return _unreadable(path, error)
    parameters = {name: file.entries[key] for key, name in found.names.items()}
    digest = hashing.result()
    released = {value: name for name, value in RELEASED_FILES.items()}.get(digest)
    guess = guess_model(parameters, resnet=found.resnet)
    try:
        label = resnet_label(found, parameters, label or label_in(path))
        # A released file, and one that says what it is, may have any name.
        label = label or label_in(released, file.metadata.get("label"))
        label = label or parse_label(path.name)
        return _verdict(
            path,
            label=label,
            parameters=parameters,
            guess=guess,
            released=released,
            digest=digest,
            problems=problems,
        )
    except InputError as error:  # the name is no label, or names a network that does not exist
        message = f"unknown model: {error}; the file is whole, and of {guess}: give --model"
        if guess is None:
            message = f"not a network known here: its first names are {first_few(parameters)}"
        return Verdict(path, False, "misfit", message, problems)


def _verdict(
    path: Path,
    *,
    label: Label,
    parameters: Mapping[str, HasShape],
    guess: Guess | None,
    released: str | None,
    digest: str,
    problems: tuple[str, ...],
) -> Verdict:
    """Return the verdict on a file that is whole.

    Args:
        path: the file.
        label: of the network that it should be.
        parameters: released name -> entry.
        guess: which network they fit.
        released: name of the released file with its MD5, if any.
        digest: its MD5.
        problems: what no trained model has among its numbers.
    """
    misfit = _misfit(label, parameters)
    if misfit and guess is None and not released:
        return Verdict(path, False, "misfit", f"not a model of {label}, nor any known", misfit)
    if misfit:
        found = f"the released {released}" if released else guess
        message = f"another model under this name: the name says {label}, the file is {found}"
        return Verdict(path, False, "another model", message, misfit)
    if released and path.name != released and path.name in RELEASED_FILES:
        message = f"another model under this name: it is the released {released}"
        return Verdict(path, False, "another model", message)
    if released:
        named = "" if path.name == released else f", there named {released}"
        message = f"released file{named}: MD5 and structure fine"
        return Verdict(path, True, "released", message, problems)
    if problems:
        message = "damaged: numbers that no trained model has"
        return Verdict(path, False, "unusable numbers", message, problems)
    if path.name in RELEASED_FILES:
        expected = RELEASED_FILES[path.name]
        message = f"altered file: MD5 {digest}, not the released {expected}; structure fine"
        return Verdict(path, False, "altered", message)
    return Verdict(path, True, "own", f"not a released file; structure fine ({guess})")


def _misfit(label: Label, parameters: Mapping[str, HasShape]) -> tuple[str, ...]:
    """Return what is missing, unexpected and misshapen, a line each; () if all fits."""
    try:
        check_fit(label, parameters, source="")
    except CheckpointMismatch as error:
        return error.problems
    return ()


def _bad_numbers(
    file: WeightsFile, found: Recognised, advance: Callable[[int], object]
) -> Iterator[str]:
    """Yield a line for each array with nan or infinity, or a variance that is not positive."""
    for stored, name in found.names.items():
        array = file[stored]
        lowest, highest = _extremes(array)
        if not np.isfinite([lowest, highest]).all():
            count = array.size - int(np.isfinite(array).sum())
            yield f"{name}: {count} of {array.size} numbers are nan or infinite"
        elif name.endswith("_var") and lowest <= 0:
            count = int((array <= 0).sum())
            yield f"{name}: {count} of {array.size} variances are not positive"
        advance(file.entries[stored].nbytes)


def _unreadable(path: Path, error: ValueError) -> Verdict:
    """Return the verdict on a file that the reader refuses."""
    with open_file(path) as file:
        head = file.read(4096)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        title = re.search(rb"<title[^>]*>\s*(.*?)\s*</title>", head, re.IGNORECASE | re.DOTALL)
        named = f", titled {title[1].decode(errors='replace')!r}" if title else ""
        message = f"a web page in place of the file{named}: download it again, as raw data"
        return Verdict(path, False, "page", message)
    size = path.stat().st_size
    reason = str(error).removeprefix(f"{path}: ")
    if "cut off" not in reason and size:
        return Verdict(path, False, "unreadable", reason)
    message = f"truncated download: {_megabytes(size)} are here"
    if path.name in RELEASED_FILES:
        whole = params.file_size(parameter_shapes(path), version=params.stored_version(head))
        message += f", {whole - size:,} bytes of {_megabytes(whole)} are missing"
    return Verdict(path, False, "truncated", message, (reason,))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def guess_model(parameters: Mapping[str, HasShape], *, resnet: str = "") -> Guess | None:
    """Return which network parameters belong to, or None if to none of the family.

    Names and shapes say nothing of strides, dilation, pooling or the dataset: A, A1 and A2 look
    alike, and so do a network at 224 and one with the same blocks at 112.

    Args:
        parameters: names without `arg:` or `aux:` -> arrays or entries.
        resnet: the network where the file's layout decides between two of these, such as "rn-50b".
    """
    tops = [name for name in parameters if _TOP.fullmatch(name)]
    if len(tops) > 1:
        return None
    num_classes = int(tops[0][len("linear") : -len("_weight")]) if tops else 0
    task = "segmentation" if find_head(parameters) else "classification"
    dataset = next(name for name, of in TASKS.items() if of == task)
    fitting: list[Label] = []
    for family, variant in _candidates(parameters):
        label = Label(dataset, family, variant, num_classes)
        if resnet in ("", label.network) and not _misfit(label, parameters):
            fitting.append(label)
    if not fitting:
        return None
    return Guess(
        networks=tuple(label.network for label in fitting),
        num_classes=num_classes,
        task=task if tops else "",
        datasets=tuple(
            name
            for name, of in TASKS.items()
            if of == task and DATASETS[name].num_classes == num_classes
        ),
        width=find_width(fitting[0], parameters),
        head=find_head(parameters),
    )


def guess_model_of(file: WeightsFile, reading: Reading) -> tuple[str, Guess | None]:
    """Return the layout and the network of an open file, "" and None where they are unknown."""
    try:
        found = recognise_file(file, reading=replace(reading, drop_extra=True))
    except LayoutError:
        return "", None
    parameters = {name: file.entries[key] for key, name in found.names.items()}
    return found.layout, guess_model(parameters, resnet=found.resnet)


def _candidates(names: Collection[str]) -> list[tuple[str, str]]:
    """Return family and variant of the networks with as many blocks on every level."""
    blocks = count_blocks(names)
    if "conv1_weight" in names:
        return [("rn", variant) for variant in RN_NETWORKS]
    named = [
        ("rna", variant)
        for variant, network in RNA_NETWORKS.items()
        if tuple(level.blocks for level in network.levels) == blocks
    ]
    if named or 0 in blocks[1:]:
        return named
    return [("rna", "-".join(map(str, (224, *blocks))))]


def statistics(file: WeightsFile) -> Iterator[ArrayStatistics]:
    """Yield the statistics of every array of an open file, one array in memory at a time."""
    for stored, entry in file.entries.items():
        array = file[stored]
        lowest, highest = _extremes(array)
        mean, std = _moments(array)
        yield ArrayStatistics(
            entry.name, entry.role, entry.shape, entry.dtype, lowest, mean, highest, std
        )


def _extremes(array: Array) -> tuple[float, float]:
    """Return minimum and maximum, nan where there is one and in an array without numbers."""
    return (float(array.min()), float(array.max())) if array.size else (np.nan, np.nan)


def _moments(array: Array) -> tuple[float, float]:
    """Return mean and standard deviation (of the numbers themselves, not an estimate).

    Computed block by block in float64, so that no second array of the size is needed.
    """
    numbers = array.reshape(-1)
    if not numbers.size:
        return np.nan, np.nan
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(numbers.mean(dtype=np.float64))
        total = 0.0
        for start in range(0, numbers.size, _BLOCK_SIZE):
            rest = numbers[start : start + _BLOCK_SIZE].astype(np.float64) - mean
            total += float(rest @ rest)
    return mean, float(np.sqrt(total / numbers.size))

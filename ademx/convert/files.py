"""Weights in `.params`, `.pth`, `.safetensors` and `.caffemodel` files, read in any layout."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO

import numpy as np

from ademx import params
from ademx.convert.caffe_files import SUFFIX, CaffeFile
from ademx.convert.caveats import warn_of_reading
from ademx.convert.layouts import (
    SOURCE_LAYOUTS,
    WIDER_LAYOUTS,
    LayoutError,
    is_head,
    missing_of_trunk,
)
from ademx.convert.recognise import Recognised, recognise
from ademx.convert.resnets import resnet_label, take_parameters
from ademx.convert.safetensors_files import open_safetensors, starts_like_safetensors
from ademx.convert.torch_files import open_torch
from ademx.errors import InputError
from ademx.files import PathLike
from ademx.labels import MEAN_STD, Label, label_in, parse_label
from ademx.networks.graph import (
    find_head,
    find_width,
    input_normalization,
    network_stride,
    parameter_shapes,
)
from ademx.options import option
from ademx.params import Array, HasShape, ParamsFile
from iters.files import open_to_keep

WeightsFile = ParamsFile  # of any kind, by the names in it

_PICKLE_PROTOCOLS = (b"\2", b"\3", b"\4", b"\5")


@dataclass(frozen=True)
class Reading:
    """What a file of weights does not say of itself."""

    source_layout: str | None = option(
        None,
        "Parameter names in the weights' file.  [default: recognised; the label chooses between "
        "the two wider_resnet]",
        choices=(*SOURCE_LAYOUTS, "caffe"),
    )
    drop_extra: bool = option(
        False, "Leave out what is not the network's, such as other projects' heads."
    )
    abn: bool = option(
        False, "The weights are of mapillary's InPlaceABN: take |γ| of the normalisations."
    )

    def settings(self) -> dict[str, bool]:
        """Return what of it changes the numbers, as a run's folder keeps it."""
        return {"abn": True} if self.abn else {}


@dataclass(frozen=True)
class NetworkWeights:
    """Parameters of a network, from a file of any kind, and what they are of.

    Attributes:
        parameters: released name -> array, moving statistics among them.
        source: the file, for messages.
        given: label that its user says, if any.
        layout: that the file was in.
        metadata: what the file says of itself.
        digest: waits for the file's MD5, which is computed while the arrays are read and used.
    """

    parameters: dict[str, Array]
    source: str
    given: Label | None = None
    layout: str = "release"
    metadata: Mapping[str, str] = field(default_factory=dict)
    digest: Future[str] | None = None

    @property
    def md5(self) -> str:
        """The file's MD5, which may have to be waited for; "" where it was not hashed."""
        return self.digest.result() if self.digest else ""

    @cached_property
    def label(self) -> Label:
        """The network's label: as given, else what the file says of itself, else its name.

        Raises:
            ValueError: none of them is a label.
        """
        return self.given or parse_label(self.metadata.get("label") or self.source)

    @cached_property
    def width(self) -> float:
        """The multiplier of all channels, see :func:`ademx.networks.graph.find_width`."""
        return find_width(self.label, self.parameters)

    @cached_property
    def head(self) -> str:
        """The segmentation top, "2conv" or "1conv"; the first where there is none."""
        return find_head(self.parameters) or "2conv"

    @property
    def stride(self) -> int:
        """Pixels for a cell of the output, see :func:`ademx.networks.graph.network_stride`."""
        return network_stride(self.label)

    def check_usable(self) -> None:
        """Raise CheckpointMismatch unless the parameters are the label's, all numbers finite."""
        self.check_fit()
        params.check_finite(self.parameters, source=self.source)

    def check_fit(self, *, allow_headless: bool = False) -> None:
        """Raise CheckpointMismatch, listing everything, unless the parameters are the label's.

        Args:
            allow_headless: whether the head may be absent.
        """
        absent = check_fit(self.label, self.parameters, source=self.source)
        if absent and not allow_headless:
            raise params.CheckpointMismatch(
                f"{self.source}: a trunk without its head ({', '.join(absent)}), which `ademx "
                "train --weights` can start from: expected weights of a whole network"
            )


def check_fit(label: Label, parameters: Mapping[str, HasShape], *, source: str) -> list[str]:
    """Return which of a label's parameters a trunk lacks; of a network with a head none may be.

    See :func:`ademx.convert.layouts.missing_of_trunk`.

    Args:
        label: of the network.
        parameters: released name -> array or entry.
        source: the file, for the message.

    Raises:
        ademx.params.CheckpointMismatch: anything else does not fit; it lists everything.
    """
    head = find_head(parameters) or "2conv"
    expected = parameter_shapes(label, width=find_width(label, parameters), head=head)
    has_head = any(map(is_head, parameters))
    absent = [] if has_head else missing_of_trunk(expected, parameters)
    params.check_parameters(expected, parameters, source=source, allow_missing=absent)
    return absent


def open_weights(path: PathLike) -> WeightsFile:
    """Return an open file of any kind, told by its content: its arrays by the names in it.

    A `.caffemodel` is told by its name, and its arrays have released names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of no such kind, or damaged.
    """
    with open_to_keep(path) as file, _naming(path):
        opener = _opener(path, file.read(32))
        file.seek(0)
        return opener(path, file)


@contextmanager
def _naming(path: PathLike) -> Iterator[None]:
    """Put a file's name before the message of an error about what it holds."""
    try:
        yield
    except params.ParamsError:  # has it
        raise
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from None


def _opener(path: PathLike, start: bytes) -> Callable[[PathLike, FileIO], WeightsFile]:
    """Return what opens a file of this name and with these first 32 bytes."""
    if os.fspath(path).endswith(SUFFIX) and not params.is_other_kind(start):
        return CaffeFile
    if starts_like_safetensors(start):
        return open_safetensors
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in (b"", *_PICKLE_PROTOCOLS)):
        return open_torch
    return params.open_headers  # says what else it may be


def read_weights(
    path: PathLike,
    *,
    label: Label | None = None,
    otherwise: Label | None = None,
    reading: Reading | None = None,
    complete: bool = True,
) -> NetworkWeights:
    """Return the weights in a file of any kind and layout, which is opened once.

    Args:
        path: a `.params`, `.pth` or `.safetensors` file.
        label: of the network that they are for; by default what the file or its name says.
        otherwise: the same, where neither of them says it.
        reading: what the file does not say of itself.
        complete: whether released names are held against a network, for callers who do not hold
            them against one themselves.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of no such kind, damaged, or its names are of no layout.
    """
    reading = reading or Reading()
    with open_weights(path) as file, _naming(path):
        stated = label_in(file.metadata.get("label"))
        own = stated or label_in(path)
        known = label or own or otherwise
        _check_input(label, own)
        found = recognise_file(file, label=known, reading=reading, complete=complete)
        _check_size(path, (file.entries[key].nbytes for key in found.names))
        digest = file.start_md5()
        parameters = take_parameters(found, file)
        known = resnet_label(found, parameters, known)
    if reading.abn:
        for name in filter(lambda name: name.endswith("_gamma"), parameters):
            parameters[name] = np.abs(parameters[name])
    warn_of_reading(found, parameters, label=known, written_from=stated)
    metadata = {**file.metadata, **({"label": str(known)} if found.resnet and known else {})}
    return NetworkWeights(parameters, os.fspath(path), label, found.layout, metadata, digest)


def recognise_file(
    file: WeightsFile,
    *,
    label: Label | None = None,
    reading: Reading | None = None,
    complete: bool = True,
) -> Recognised:
    """Return which of an open file's arrays are a network's, by their stored names.

    See :func:`read_weights` for the arguments.

    Raises:
        LayoutError: they are of no layout, or of several networks.
    """
    reading = reading or Reading()
    if isinstance(file, CaffeFile):
        return Recognised("caffe", {name: name for name in file.entries}, resnet=file.resnet)
    if reading.source_layout == "caffe":
        raise LayoutError(f"layout caffe is of {SUFFIX} files alone: leave it out")
    shapes = {entry.name: entry for entry in file.entries.values()}
    stored = {entry.name: name for name, entry in file.entries.items()}
    dotted = any("." in name for name in shapes)  # as in every layout but the release's
    if not (complete or dotted or reading.source_layout or reading.drop_extra):
        found = Recognised("release", {name: name for name in shapes})
    else:
        # What a file says of itself tells the two layouts with the same keys apart.
        said = file.metadata.get("layout")
        found = recognise(
            shapes,
            reading.source_layout or (said if said in WIDER_LAYOUTS else None),
            drop_extra=reading.drop_extra,
            label=label,
        )
    return dataclasses.replace(
        found,
        names={stored[key]: name for key, name in found.names.items()},
        biases={stored[key]: mean for key, mean in found.biases.items()},
    )


def _check_input(label: Label | None, stated: Label | None) -> None:
    """Raise unless a label normalises the input as the one that weights state."""
    if label is None or stated is None or label.family != stated.family:
        return
    if input_normalization(label) != input_normalization(stated):
        raise InputError(
            f"the weights are of {stated} and wanted as {label}: one of the two divides its input "
            f"by the standard deviation ({MEAN_STD}), the other does not; name a label that does "
            "as the weights' own"
        )


def _check_size(path: PathLike, sizes: Iterable[int]) -> None:
    """Raise unless arrays fit into their file: tensors that share their numbers may not."""
    needed, size = sum(sizes), os.path.getsize(path)
    if needed > size:
        raise InputError(
            f"its tensors take {needed:,} bytes and the file {size:,}: they share their numbers, "
            "which no network's do; save a copy of each"
        )


def label_metadata(label: Label) -> dict[str, str]:
    """Return what a file says of its network: the label, and in JSON how pixels are normalised."""
    normalization = dataclasses.asdict(input_normalization(label))
    return {"label": str(label), **{name: json.dumps(one) for name, one in normalization.items()}}

"""Weights from one file to another, of any kind and layout, and to whole networks as ONNX files."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from ademx import params
from ademx.convert import split, to_layout
from ademx.convert.files import Reading, label_metadata, read_weights
from ademx.convert.layouts import LAYOUTS
from ademx.convert.onnx import import_onnx, write_onnx
from ademx.convert.safetensors_files import write_safetensors
from ademx.convert.torch_files import write_torch
from ademx.errors import InputError
from ademx.files import PathLike
from ademx.labels import Label, label_in, parse_label
from ademx.options import check, option

KINDS = (".params", ".pth", ".safetensors", ".onnx")


@dataclass(frozen=True)
class Writing:
    """How a file of weights is written."""

    layout: str | None = option(
        None,
        "Parameter names in DST; caffe: SRC is a .caffemodel.  [default: release for .params, "
        "else native]",
        choices=(*LAYOUTS, "caffe"),
    )
    with_head: bool | None = option(
        None,
        "Keep the classifier.  [default: where the layout's own network has one]",
        names=("--with-head/--without-head",),
    )
    norm_suffix: str = option(
        "", "After the normalisations' names in wider_resnet layouts: \".0\" for NVIDIA's."
    )
    module_prefix: bool = option(False, "Write `module.` before every key.")
    wrap_state_dict: bool = option(False, 'Write {"state_dict": …} (.pth).')
    legacy: bool = option(
        False, "Write the format of PyTorch before 1.6, which reads no other (.pth)."
    )

    def __post_init__(self) -> None:
        check(self)


def convert(
    source: PathLike,
    target: PathLike,
    *,
    label: str | None = None,
    writing: Writing | None = None,
    reading: Reading | None = None,
    input_size: tuple[int, int] | None = None,
    pool: str = "pad",
) -> Label | None:
    """Write the weights of one file to another, in the kind that its name says.

    Every number is written as it was read (bfloat16 as float32). The target is replaced at once
    or not at all. What the names do not show is logged as warnings.

    Args:
        source: a file of weights in any layout, see :func:`ademx.convert.files.open_weights`.
        target: a path that ends in one of :data:`KINDS`; an `.onnx` file is the whole network.
        label: of the network; by default that of the source's name, of its metadata or of the
            target's name; an `.onnx` file is of what the metadata says, whatever the source is
            called. Names and shapes are held against it.
        writing: how the target is written; see :func:`ademx.convert.layouts.rename_to` too. An
            `.onnx` file has names of its own, and always a head.
        reading: what the source does not say of itself.
        input_size: of an `.onnx` file, see :func:`ademx.convert.onnx.write_onnx`.
        pool: the same.

    Returns:
        The label that the weights were held against, None where none is known.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: a file or a choice that does not fit.
        ademx.params.CheckpointMismatch: the weights are not those of the label.
        ademx.compat.MissingDependency: the `torch` or `onnx` that the target takes is absent.
    """
    writing = writing or Writing()
    kind = _target_kind(target)
    layout = writing.layout or ("release" if kind == ".params" else "native")
    _check_choices(kind, layout, writing)
    if kind == ".onnx":
        import_onnx()  # before the work
    given = parse_label(label) if label else None
    # A network is what its weights say that it is, whatever the files are called.
    wanted = given if kind == ".onnx" else given or label_in(source, target)
    weights = read_weights(source, label=wanted, otherwise=label_in(target), reading=reading)
    stated = weights.metadata.get("label")
    if kind == ".onnx":
        known = given or label_in(stated, source, target)
        if known is None:
            raise InputError(f"{os.fspath(source)}: its name is no model label: give --label")
        weights = dataclasses.replace(weights, given=known)
        write_onnx(target, weights, input_size=input_size, pool=pool)  # which checks that they fit
        return known
    known = given or label_in(source, stated, target)
    if known:
        dataclasses.replace(weights, given=known).check_fit(allow_headless=True)
    state = to_layout(
        weights.parameters,
        layout,
        label=known,
        with_head=writing.with_head,
        norm_suffix=writing.norm_suffix,
    )
    if writing.module_prefix:
        state = {f"module.{key}": value for key, value in state.items()}
    if kind == ".params":
        params.save(target, *split(state), prefixed=layout == "release")
    elif kind == ".pth":
        write_torch(target, state, wrapped=writing.wrap_state_dict, legacy=writing.legacy)
    else:
        metadata = {"format": "pt", "layout": layout, **(label_metadata(known) if known else {})}
        write_safetensors(target, state, metadata, source_md5=weights.digest)
    return known


def _target_kind(path: PathLike) -> str:
    kind = Path(path).suffix
    if kind not in KINDS:
        raise InputError(
            f"{os.fspath(path)}: cannot write {kind or 'a file without suffix'}; expected a name "
            f"that ends in {', '.join(KINDS)}"
        )
    return kind


def _check_choices(kind: str, layout: str, writing: Writing) -> None:
    if kind == ".params" and (layout not in ("release", "gluoncv") or writing.module_prefix):
        raise InputError(
            "a .params file has MXNet's names: take layout release or gluoncv, no prefix"
        )
    if writing.wrap_state_dict and kind != ".pth":
        raise InputError(f"a {kind} file has no place for a `state_dict` key: write a .pth file")
    if writing.legacy and kind != ".pth":
        raise InputError(f"--legacy: a {kind} file has one format only: write a .pth file")

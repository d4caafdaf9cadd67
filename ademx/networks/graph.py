"""From a label to its network: the one place where labels meet graphs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import symbols
from ademx.labels import Label, parse_label

if TYPE_CHECKING:
    from mxnet.symbol import Symbol


def build_symbol(
    label: str | os.PathLike[str] | Label,
    *,
    width: float = 1.0,
    pool: str = "pad",
    loss: str = "softmax",
    head: str = "2conv",
    multipliers: str | None = None,
    frozen_statistics: bool | None = None,
) -> Symbol:
    """Return the graph of a label, with the released parameter names.

    Args:
        label: such as "voc_rna-a1_cls21_s8" or, with a block spec,
            "ilsvrc-cls_rna-112-1-1-1-1-9-1-1_cls1000"; a checkpoint's name or path does too. The
            dataset decides between a classification and a segmentation top.
        width: multiplier of all channels but the classes.
        pool: "pad", "caffe" or "full", see :class:`symbols.layers.Layers`.
        loss: "softmax" or "ohem".
        head: segmentation top, "2conv" or "1conv".
        multipliers: "none", "alex" or "alex10"; the task's own by default.
        frozen_statistics: BatchNorm uses moving statistics in training too; the task's own choice
            by default.

    Raises:
        ValueError: a malformed label, or a choice that does not exist.
        ademx.compat.MissingDependency: MXNet is not installed.
    """
    label = label if isinstance(label, Label) else parse_label(label)
    return symbols.build(
        label.family,
        label.variant,
        num_classes=label.num_classes,
        task=label.task,
        output_stride=label.output_stride,
        width=width,
        pool=pool,
        loss=loss,
        head=head,
        multipliers=multipliers,
        frozen_statistics=frozen_statistics,
    )


@contextmanager
def mirroring(wanted: bool) -> Iterator[None]:
    """Let MXNet plan for recomputation in the backward pass, while a graph is bound."""
    name = "MXNET_BACKWARD_DO_MIRROR"
    before = os.environ.get(name)
    if wanted:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before
        else:
            os.environ.pop(name, None)

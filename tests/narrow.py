"""Narrow networks with weights that react to images, for tests of what is done with outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fill import fill
from scenes import voc_scene

import ademx
from ademx import params
from ademx.compat import import_mxnet
from iters import transforms

WIDTH = 1 / 16
VOC = "voc_rna-a1_cls21_s8"
ILSVRC = "ilsvrc-cls_rna-a1_cls1000"


def write_weights(folder: Path, label: str, *, seed: int = 0, epoch: int = 1) -> Path:
    """Write the parameters of a network 1/16 as wide, and return the file's path.

    BatchNorm's statistics are those of drawn images, so that what the network says depends on
    the image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{label}_ep-{epoch:04d}.params"
    params.save(path, *_parameters(label, seed))
    return path


def _parameters(label: str, seed: int) -> tuple[dict, dict]:
    mx = import_mxnet()
    rng = np.random.default_rng(seed)
    kind = transforms.RN if "_rn-" in label else transforms.RNA
    images = [transforms.normalize(voc_scene(rng)[0][:96, :96], kind) for _ in range(4)]
    graph = ademx.build_symbol(label, width=WIDTH, frozen_statistics=False)
    executor = graph.simple_bind(mx.cpu(), data=(4, 3, 96, 96))
    arguments = executor.arg_dict
    for name, array in arguments.items():
        if name.endswith(("_weight", "_gamma", "_beta", "_bias")):
            array[:] = _fill(name, array.shape, seed)
    arguments["data"][:] = np.stack(images)
    for array in executor.aux_arrays:
        array[:] = 0
    executor.forward(is_train=True)
    executor.backward()  # only this updates the statistics: from 0, a tenth of the batch's
    mx.nd.waitall()  # reading them does not wait for it
    statistics = {name: 10 * array.asnumpy() for name, array in executor.aux_dict.items()}
    del arguments["data"], arguments["softmax_label"]
    return {name: array.asnumpy() for name, array in arguments.items()}, statistics


def _fill(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    values = fill(name, shape, seed)
    if name.startswith("linear") and name.endswith("_weight"):
        # Features are positive: without this one class would win everywhere.
        values -= values.mean(axis=1, keepdims=True)
        values *= 40 if len(shape) == 4 else 8  # segmentation tops, classification tops
    return values

"""Caffe's ResNets: the `.caffemodel` files of the paper's authors, read by OpenCV's `dnn`.

OpenCV gives the numbers of the layers that a text names. The text need not be the network's: a
layer that does nothing has its name's numbers too, so that one text of all names that there can be
serves ResNet-50, 101 and 152 of any width.

Source: github.com/KaimingHe/deep-residual-networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import FileIO

import numpy as np

from ademx.compat import import_optional
from ademx.convert.layouts import RESNETS
from ademx.convert.torch_files import TensorsFile
from ademx.errors import InputError
from ademx.files import PathLike
from ademx.params import Array
from ademx.text import first_few
from symbols.levels import BN_EPSILON, block_names, get_network

SUFFIX = ".caffemodel"
_CLASSIFIER = "fc1000"
# What Caffe adds to variances; no layer of these networks says otherwise.
_EPSILON = 1e-5


class CaffeFile(TensorsFile):
    """A `.caffemodel`'s arrays by released names: for RGB images, without biases of convolutions.

    Attributes:
        resnet: the network that it is of, such as "rn-50".

    Raises:
        ValueError: it is damaged, or of another network than a ResNet.
        ademx.compat.MissingDependency: OpenCV is not installed.
    """

    def __init__(self, path: PathLike, file: FileIO) -> None:
        blobs = _read_blobs(file.read())
        variant = _find_variant(blobs)
        super().__init__(path, file, _parameters(blobs, variant))
        self.resnet = f"rn-{variant}"


def _suffixes(variant: str) -> dict[str, str]:
    """Return what layers' names end with: ours -> Caffe's, such as "4b1_branch2a" -> "4b_branch2a".

    Blocks are 2a, 2b, 2c; of ResNet-101 and 152, which have more than letters, those on levels 3
    and 4 are 3a, 3b1, 3b2 as here.
    """
    found = {"_conv1": "_conv1"}
    for level in get_network("rn", variant).levels:
        numbered = variant != "50" and level.index in (3, 4)
        for number, block in enumerate(block_names(level)):
            theirs = block if numbered else f"{level.index}{chr(ord('a') + number)}"
            stages = ["branch2a", "branch2b", "branch2c", *(() if number else ("branch1",))]
            found |= {f"{block}_{stage}": f"{theirs}_{stage}" for stage in stages}
    return found


def _convolution(suffix: str) -> str:
    return "conv1" if suffix == "_conv1" else f"res{suffix}"


def _layers(variant: str) -> list[str]:
    """Return the names of a network's layers that have numbers, but for the classifier."""
    suffixes = _suffixes(variant).values()
    return [name for s in suffixes for name in (_convolution(s), f"bn{s}", f"scale{s}")]


def _read_blobs(content: bytes) -> dict[str, tuple[Array, ...]]:
    """Return the arrays of all layers with a name that one of the networks has.

    Raises:
        ValueError: OpenCV cannot read the file.
    """
    cv2 = import_optional(
        "cv2",
        f"a {SUFFIX} is read by OpenCV, which is not installed: run `pip install 'ademx[caffe]'`",
    )
    names = dict.fromkeys([*(n for v in RESNETS["caffe"] for n in _layers(v)), _CLASSIFIER])
    lines = ['input: "data"', *(f"input_dim: {size}" for size in (1, 3, 8, 8))]
    lines += [f'layer {{ name: "{name}" type: "Split" bottom: "data" }}' for name in names]
    try:
        network = cv2.dnn.readNetFromCaffe("\n".join(lines).encode(), content)
        found = {name: tuple(network.getLayer(name).blobs) for name in names}
    except cv2.error:
        found = {}
    found = {name: blobs for name, blobs in found.items() if blobs}
    if not found:
        raise InputError(
            f"damaged, or no {SUFFIX}; expected a whole one of ResNet-50, 101 or 152: download it "
            "again"
        )
    return found


def _find_variant(blobs: Mapping[str, object]) -> str:
    """Return which ResNet has these layers.

    Raises:
        ValueError: none has them all, and no others.
    """
    layers = blobs.keys() - {_CLASSIFIER}
    best = min(RESNETS["caffe"], key=lambda variant: len(layers ^ set(_layers(variant))))
    missing = [name for name in _layers(best) if name not in layers]
    if missing or len(layers) > len(_layers(best)):
        other = missing or sorted(layers - set(_layers(best)))
        raise InputError(
            f"expected a ResNet-50, 101 or 152 with its authors' names; "
            f"{'missing in' if missing else 'not in a'} ResNet-{best}: {first_few(other)}"
        )
    return best


def _parameters(blobs: Mapping[str, tuple[Array, ...]], variant: str) -> dict[str, Array]:
    """Return released name -> array."""
    found: dict[str, Array] = {}
    for ours, theirs in _suffixes(variant).items():
        weight, *biases = _numbers(blobs, _convolution(theirs))
        if ours == "_conv1":
            weight = weight[:, ::-1]  # Caffe's images are BGR
        found[f"{_convolution(ours)}_weight"] = np.ascontiguousarray(weight)
        mean, variance, factor = _numbers(blobs, f"bn{theirs}", 3)
        share = 1 / factor[0] if factor[0] else factor[0]  # they are sums over so many batches
        gamma, beta = _numbers(blobs, f"scale{theirs}", 2)
        found[f"bn{ours}_gamma"], found[f"bn{ours}_beta"] = gamma, beta
        found[f"bn{ours}_moving_mean"] = mean * share - sum(biases)
        # Our epsilon is the larger.
        found[f"bn{ours}_moving_var"] = np.maximum(variance * share - (BN_EPSILON - _EPSILON), 0)
    if _CLASSIFIER in blobs:
        weight, bias = _numbers(blobs, _CLASSIFIER, 2)
        found[f"linear{len(bias)}_weight"] = weight.reshape(len(bias), -1)
        found[f"linear{len(bias)}_bias"] = bias
    return {name: value.astype(np.float32) for name, value in found.items()}


def _numbers(
    blobs: Mapping[str, tuple[Array, ...]], layer: str, count: int | None = None
) -> list[Array]:
    """Return a layer's arrays; what OpenCV gives as a column, as the vector that it is.

    Raises:
        ValueError: there is another number of them.
    """
    arrays = [blob.ravel() if blob.size == blob.shape[0] else blob for blob in blobs[layer]]
    if count is not None and len(arrays) != count:
        raise InputError(f"{layer}: {len(arrays)} arrays, expected {count}: damaged, or no ResNet")
    return arrays

"""Caffe's ResNets written as their authors published them: a `.prototxt` and a `.caffemodel`.

The network is that of arXiv:1512.03385: blocks are called 2a, 2b, … but on levels 3 and 4 of the
deeper ones 3a, 3b1, 3b2, …; the first 1×1 convolution strides; pool1 is not padded. A message of
a `.caffemodel` is written as protobuf's encoding has it: a tag of number and kind, then the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Layer = tuple[str, str, str, str, str]  # name, type, bottom, top, parameters

BLOCKS = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}


def block_names(variant: str) -> list[tuple[int, int, str]]:
    """Return level, position and Caffe's name of each block."""
    names = []
    for level, count in enumerate(BLOCKS[variant], start=2):
        for number in range(count):
            lettered = variant == "50" or level in (2, 5) or number == 0
            name = chr(97 + number) if lettered else f"b{number}"
            names.append((level, number, f"{level}{name}"))
    return names


def layers(variant: str, *, width: int, classes: int, bias: bool = False) -> Iterator[Layer]:
    """Yield the layers of a network with `width` channels after conv1; `bias` gives conv1 one."""

    def normalised(name: str, suffix: str, top: str) -> Iterator[Layer]:
        yield f"bn{suffix}", "BatchNorm", top, top, "batch_norm_param { use_global_stats: true }"
        yield f"scale{suffix}", "Scale", top, top, "scale_param { bias_term: true }"

    def convolution(
        bottom: str, suffix: str, channels: int, kernel: int, stride: int
    ) -> Iterator[Layer]:
        name = f"res{suffix}"
        shape = f"num_output: {channels} kernel_size: {kernel} pad: {kernel // 2} stride: {stride}"
        text = f"convolution_param {{ {shape} bias_term: false }}"
        yield name, "Convolution", bottom, name, text
        yield from normalised(name, suffix, name)

    has_bias = str(bias).lower()
    text = f"num_output: {width} kernel_size: 7 pad: 3 stride: 2 bias_term: {has_bias}"
    yield "conv1", "Convolution", "data", "conv1", f"convolution_param {{ {text} }}"
    yield from normalised("conv1", "_conv1", "conv1")
    yield "conv1_relu", "ReLU", "conv1", "conv1", ""
    text = "pooling_param { kernel_size: 3 stride: 2 pool: MAX }"
    yield "pool1", "Pooling", "conv1", "pool1", text
    data = "pool1"
    for level, number, block in block_names(variant):
        inner = width * 2 ** (level - 2)
        stride = 2 if level > 2 and not number else 1
        shortcut, branch = data, data
        if not number:
            shortcut = f"res{block}_branch1"
            yield from convolution(data, f"{block}_branch1", 4 * inner, 1, stride)
        sizes = ((inner, 1, stride), (inner, 3, 1), (4 * inner, 1, 1))
        for letter, size in zip("abc", sizes):
            suffix = f"{block}_branch2{letter}"
            yield from convolution(branch, suffix, *size)
            branch = f"res{suffix}"
            if letter != "c":
                yield f"{branch}_relu", "ReLU", branch, branch, ""
        data = f"res{block}"
        yield data, "Eltwise", f"{shortcut} {branch}", data, ""
        yield f"{data}_relu", "ReLU", data, data, ""
    text = "pooling_param { global_pooling: true pool: AVE }"
    yield "pool5", "Pooling", data, "pool5", text
    text = f"inner_product_param {{ num_output: {classes} }}"
    yield f"fc{classes}", "InnerProduct", "pool5", f"fc{classes}", text


def drawn_blobs(network: list[Layer], *, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Return layer -> its blobs; the sums of a BatchNorm are to be divided by its factor."""
    random = np.random.default_rng(seed)
    channels, blobs = {"data": 3}, {}
    for name, kind, bottom, top, text in network:
        before = channels[bottom.split()[-1]]
        words = text.replace("{", " ").replace("}", " ").split()
        facts = dict(zip(words[1::2], words[2::2]))
        after = channels[top] = int(facts.get("num_output:", before))
        if kind in ("Convolution", "InnerProduct"):
            side = (int(facts["kernel_size:"]),) * 2 if kind == "Convolution" else ()
            shape = (after, before, *side)
            blobs[name] = [random.normal(0, np.prod(shape[1:]) ** -0.5, shape)]
            if facts.get("bias_term:") != "false":
                blobs[name].append(random.normal(0, 0.3, after))
        elif kind == "BatchNorm":
            factor = random.uniform(50, 150)
            mean, variance = random.normal(0, 0.3, after), random.uniform(0.5, 1.5, after)
            blobs[name] = [mean * factor, variance * factor, np.array([factor])]
        elif kind == "Scale":
            blobs[name] = [random.uniform(0.5, 1.5, after), random.normal(0, 0.3, after)]
    return {name: [blob.astype(np.float32) for blob in some] for name, some in blobs.items()}


def write_prototxt(path: Path, network: list[Layer]) -> None:
    lines = ['name: "ResNet"', 'input: "data"']
    lines += [f"input_dim: {size}" for size in (1, 3, 64, 64)]
    for name, kind, bottoms, top, text in network:
        inputs = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
        lines.append(f'layer {{ name: "{name}" type: "{kind}" {inputs} top: "{top}" {text} }}')
    path.write_text("\n".join(lines))


def write_caffemodel(
    path: Path, network: list[Layer], blobs: Mapping[str, list[np.ndarray]]
) -> None:
    """Write a NetParameter: its name (1) and layers (100) of name (1), type (2), blobs (7)."""
    message = _bytes(1, b"ResNet")
    for name, kind, bottoms, top, _ in network:
        layer = _bytes(1, name.encode()) + _bytes(2, kind.encode())
        layer += b"".join(_bytes(3, bottom.encode()) for bottom in bottoms.split())
        layer += _bytes(4, top.encode())
        layer += b"".join(_bytes(7, _blob(blob)) for blob in blobs.get(name, []))
        message += _bytes(100, layer)
    path.write_bytes(message)


def _blob(values: np.ndarray) -> bytes:
    """Return a BlobProto: numbers (5) and a shape (7) of dimensions (1), both packed."""
    sides = b"".join(map(_varint, values.shape))
    return _bytes(5, values.astype("<f4").tobytes()) + _bytes(7, _bytes(1, sides))


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def write_resnet(folder: Path, variant: str = "50", **options: Any) -> tuple[Path, Path]:
    """Write a narrow ResNet with drawn numbers; return its `.prototxt` and `.caffemodel`."""
    network = list(layers(variant, **{"width": 4, "classes": 1000, **options}))
    text, model = folder / f"ResNet-{variant}.prototxt", folder / f"ResNet-{variant}.caffemodel"
    write_prototxt(text, network)
    write_caffemodel(model, network, drawn_blobs(network))
    return text, model

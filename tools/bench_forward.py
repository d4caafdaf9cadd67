"""Forward times of Model A1 for `bench.py evaluation`: by both engines, and by plain PyTorch.

The weights are random: time does not depend on them. A classifier's image of 224 × 224 takes 49.5
GMACs, one of 504 × 504 at output stride 8 takes 580. All that is compared for a network and
precision is run in turns. With random weights a network amplifies the last digits more than a
trained one does: what results are worth is the tests' matter, not this one's.
"""

from __future__ import annotations

import gc
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_rows import Row, runs_mxnet, seconds_in_turns, time_in_turns

from ademx.compat import import_mxnet
from ademx.devices import Devices
from ademx.labels import parse_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What the rows call a network -> its label and the side of its images, pixels.
NETWORKS = {
    "A1 at 224": ("ilsvrc-cls_rna-a1_cls1000", 224),
    "A1 stride 8 at 504": ("voc_rna-a1_cls21_s8", 504),
}
_WAYS = ("eager", "channels last", "compiled")  # of plain PyTorch


def measure_network(name: str, repeat: int, devices: Devices, *, compiled: bool) -> list[Row]:
    """Time a network in both precisions by both engines, beside the best of plain PyTorch.

    Args:
        name: a key of :data:`NETWORKS`.
        repeat: runs of each.
        devices: where to compute.
        compiled: time what is compiled too, which takes up to a minute a network and precision.
    """
    rows, of_mxnet = [], {}
    for precision in ("float32", "bfloat16"):
        seconds = _seconds(name, precision, repeat, devices, compiled=compiled)
        best = min(_WAYS, key=lambda way: seconds.get(way, np.inf))
        of_mxnet[precision] = seconds.get("MXNet")
        for ours, target in (("torch", 1 / 1.2), ("torch uncompiled", None), ("MXNet", None)):
            if ours in seconds:
                note = ", ".join(f"{way} {seconds[way]:.2f} s" for way in _WAYS if way in seconds)
                on = "" if not devices.gpus else f" on {', '.join(devices.names())}"
                what = f"forward, {name}, {precision}, by {ours}{on}"
                found = seconds[ours], seconds[best]
                rows.append(Row(what, *found, target, f"plain PyTorch, the best of: {note}"))
    return rows if None in of_mxnet.values() else [*rows, _gain(name, of_mxnet)]


def _gain(name: str, seconds: dict[str, float]) -> Row:
    from ademx.compat import cpu_has_bfloat16

    row = Row(
        f"forward, {name}, bfloat16, by MXNet",
        seconds["bfloat16"],
        seconds["float32"],
        1.6 if "224" in name else 1.7,
        "MXNet in float32",
    )
    return row if cpu_has_bfloat16() else row.without_target("this CPU has no bfloat16")


def _seconds(
    name: str, precision: str, repeat: int, devices: Devices, *, compiled: bool
) -> dict[str, float]:
    """Return the median seconds of each way to compute, all run in turns."""
    runs = dict(_runs(name, precision, devices, compiled=compiled))
    for run in runs.values():
        run()  # compiles, lays out weights, binds
    seconds = seconds_in_turns(runs, repeat)
    runs.clear()
    gc.collect()  # weights of half a gigabyte
    return seconds


def _runs(
    name: str, precision: str, devices: Devices, *, compiled: bool
) -> Iterator[tuple[str, Callable[[], object]]]:
    from ademx.convert.files import NetworkWeights
    from ademx.engines.mxnet.predict import Predictor
    from ademx.engines.torch.predict import TorchPredictor

    label, size = NETWORKS[name]
    images = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    options: dict[str, Any] = {"devices": devices, "precision": precision}
    args, auxs = _parameters(label)
    weights = NetworkWeights({**args, **auxs}, "random", parse_label(label))

    def on(predictor: Callable[..., np.ndarray]) -> Callable[[], np.ndarray]:
        return lambda: predictor(images, batch=1)

    if runs_mxnet(devices) and not (devices.gpus and precision == "bfloat16"):
        yield "MXNet", on(Predictor(weights, **options))
    yield "torch uncompiled" if compiled else "torch", on(TorchPredictor(weights, **options))
    for way in _WAYS if compiled else _WAYS[:2]:
        yield way, _plain_torch(label, images, precision, way, devices)
    if compiled:
        yield "torch", on(TorchPredictor(weights, compiled=True, **options))


def _plain_torch(
    label: str, images: np.ndarray, precision: str, way: str, devices: Devices
) -> Callable[[], np.ndarray]:
    """Return what computes the network as PyTorch's own documentation tells."""
    import torch

    from ademx.convert import to_torch
    from ademx.convert.torch_model import build
    from ademx.engines.torch.predict import torch_devices

    device = torch_devices(devices)[0]
    layout = torch.contiguous_format if way == "eager" else torch.channels_last
    network = build(label).eval().requires_grad_(False)
    network.load_state_dict(to_torch(*_parameters(label), "native"))
    network = network.to(device, getattr(torch, precision)).to(memory_format=layout)
    if way == "compiled":
        network = torch.compile(network, options={"freezing": True})

    def run() -> np.ndarray:
        data = torch.from_numpy(images).to(device, getattr(torch, precision))
        scores = network(data.contiguous(memory_format=layout))
        return scores.float().softmax(1).cpu().numpy()

    return torch.inference_mode()(run)


def measure_bind(repeat: int) -> Row:
    """Time testing by MXNet, against binding the training graph as it is."""
    mx = import_mxnet()  # before anything imports it otherwise, with half of the threads

    from ademx.networks.graph import build_symbol

    label, size = NETWORKS["A1 at 224"]
    args, auxs = ({n: mx.nd.array(v) for n, v in values.items()} for values in _parameters(label))
    image = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    inputs = {"data": mx.nd.array(image), "softmax_label": mx.nd.zeros((1,))}
    executor = build_symbol(label).bind(
        mx.cpu(), {**args, **inputs}, aux_states=auxs, grad_req="null"
    )
    _, ours = next(_runs("A1 at 224", "float32", Devices(), compiled=False))
    seconds = time_in_turns(ours, lambda: executor.forward(is_train=False)[0].asnumpy(), repeat)
    # Both run the same operators; 3 % are the machine's noise.
    what = "forward for testing, A1 at 224, float32"
    return Row(what, *seconds, 0.97, "a plain bind of the training graph")


@cache
def _parameters(label: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    from ademx.networks.graph import parameter_shapes

    rng = np.random.default_rng(0)
    shapes = parameter_shapes(label)
    auxs = {
        name: np.full(shape, name.endswith("_var"), np.float32)
        for name, shape in shapes.items()
        if "_moving_" in name
    }
    args = {n: _drawn(n, shape, rng) for n, shape in shapes.items() if n not in auxs}
    return args, auxs


def _drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if name.endswith("_gamma"):
        return np.full(shape, 0.5, np.float32)
    if name.endswith(("_beta", "_bias")):
        return np.zeros(shape, np.float32)
    scale = (2 / np.prod(shape[1:])) ** 0.5
    return (rng.standard_normal(shape, np.float32) * scale).astype(np.float32)

"""Forward times of Model A1 for `bench.py evaluation`: ours, a plain bind, and PyTorch.

The weights are random: time does not depend on them. An image of 224 × 224 is 49.5 GMACs.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_rows import Row, time_in_turns

from ademx.labels import parse_label

if TYPE_CHECKING:
    from collections.abc import Callable

LABEL = "ilsvrc-cls_rna-a1_cls1000"
SHAPE = (1, 3, 224, 224)


def measure_bind(repeat: int) -> Row:
    """Time testing, against binding the training graph as it is."""
    return _row(
        "forward for testing, A1 at 224, float32",
        _predictor("float32"),
        _plain_bind(),
        repeat,
        # Both run the same operators; 3 % are the machine's noise.
        target_ratio=0.97,
        reference="a plain bind of the training graph",
    )


def measure_bfloat16(repeat: int) -> Row:
    """Time bfloat16 against float32."""
    from ademx.compat import cpu_has_bfloat16

    row = _row(
        "forward for testing, A1 at 224, bfloat16",
        _predictor("bfloat16"),
        _predictor("float32"),
        repeat,
        target_ratio=1.6,
        reference="ours in float32",
    )
    if not cpu_has_bfloat16():
        return row.without_target("this CPU has no bfloat16")
    return row


def measure_torch_float32(repeat: int) -> Row:
    """Time float32 beside PyTorch's."""
    return _beside_torch("float32", repeat)


def measure_torch_bfloat16(repeat: int) -> Row:
    """Time bfloat16 beside PyTorch's."""
    return _beside_torch("bfloat16", repeat)


def _beside_torch(precision: str, repeat: int) -> Row:
    return _row(
        f"forward for testing, A1 at 224, {precision}",
        _predictor(precision),
        _torch_forward(precision),
        repeat,
        target_ratio=None,
        reference="PyTorch, the same network",
    )


def _row(
    what: str,
    ours: Callable[[], np.ndarray],
    reference_run: Callable[[], np.ndarray],
    repeat: int,
    *,
    target_ratio: float | None,
    reference: str,
) -> Row:
    expected = reference_run()
    difference = np.abs(ours() - expected).max() / np.abs(expected).max()
    ours_s, reference_s = time_in_turns(ours, reference_run, repeat)
    note = f"{reference}; largest difference {difference:.1e} of the largest probability"
    return Row(what, ours_s, reference_s, target_ratio, note)


@cache
def _image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


@cache
def _parameters() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    from ademx.networks.graph import build_symbol

    graph = build_symbol(LABEL)
    arg_shapes, _, aux_shapes = graph.infer_shape(data=SHAPE)
    rng = np.random.default_rng(0)
    args = {
        name: _drawn(name, shape, rng)
        for name, shape in zip(graph.list_arguments(), arg_shapes)
        if name not in ("data", "softmax_label")
    }
    auxs = {
        name: np.full(shape, name.endswith("_var"), np.float32)
        for name, shape in zip(graph.list_auxiliary_states(), aux_shapes)
    }
    return args, auxs


def _drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if name.endswith("_gamma"):
        return np.full(shape, 0.5, np.float32)
    if name.endswith(("_beta", "_bias")):
        return np.zeros(shape, np.float32)
    scale = (2 / np.prod(shape[1:])) ** 0.5
    return (rng.standard_normal(shape, np.float32) * scale).astype(np.float32)


@cache
def _predictor(precision: str) -> Callable[[], np.ndarray]:
    from ademx.devices import Devices
    from ademx.engines.mxnet.predict import Predictor

    predictor = Predictor(
        parse_label(LABEL), *_parameters(), source="random", devices=Devices(), precision=precision
    )
    return lambda: predictor(_image(), batch=1)


def _plain_bind() -> Callable[[], np.ndarray]:
    import mxnet as mx

    from ademx.networks.graph import build_symbol

    args, auxs = ({n: mx.nd.array(v) for n, v in values.items()} for values in _parameters())
    inputs = {"data": mx.nd.array(_image()), "softmax_label": mx.nd.zeros((SHAPE[0],))}
    executor = build_symbol(LABEL).bind(
        mx.cpu(), {**args, **inputs}, aux_states=auxs, grad_req="null"
    )
    return lambda: executor.forward(is_train=False)[0].asnumpy()


def _torch_forward(precision: str) -> Callable[[], np.ndarray]:
    """Return the network in PyTorch, written out from the table of levels."""
    import torch
    from torch.nn import functional

    from symbols.levels import BN_EPSILON, block_names, branch_names, get_network

    dtype = getattr(torch, precision)
    args, auxs = _parameters()
    values = {name: torch.from_numpy(value).to(dtype) for name, value in {**args, **auxs}.items()}

    def rectified(data: Any, name: str) -> Any:
        statistics = values[f"{name}_moving_mean"], values[f"{name}_moving_var"]
        affine = values[f"{name}_gamma"], values[f"{name}_beta"]
        return functional.batch_norm(data, *statistics, *affine, eps=BN_EPSILON).relu_()

    def forward() -> np.ndarray:
        data = torch.from_numpy(_image()).to(dtype)
        data = functional.conv2d(data, values["conv1a_weight"], padding=1)
        for level in get_network("rna", "a1").levels:
            for number, block in enumerate(block_names(level)):
                stride, shortcut = level.stride if number == 0 else 1, data
                for stage, kernel in zip(branch_names(level), level.kernels):
                    data = rectified(data, f"bn{block}_{stage}")
                    if stage == "branch2a" and number == 0:
                        weight = values[f"res{block}_branch1_weight"]
                        shortcut = functional.conv2d(data, weight, stride=stride)
                    weight = values[f"res{block}_{stage}_weight"]
                    data = functional.conv2d(data, weight, stride=stride, padding=kernel // 2)
                    stride = 1
                data = data + shortcut
        data = rectified(data, "bn7").mean((2, 3))
        scores = functional.linear(data, values["linear1000_weight"], values["linear1000_bias"])
        return scores.float().softmax(1).numpy()

    return torch.inference_mode()(forward)

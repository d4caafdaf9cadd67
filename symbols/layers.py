"""The few layers that every network is made of, with the release's names and constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ademx.compat import import_mxnet
from symbols.levels import BN_EPSILON, POOL_GEOMETRIES, check_choice

if TYPE_CHECKING:
    from mxnet.symbol import Symbol

mx = import_mxnet()

# (learning rate, weight decay) multipliers of weights and gammas, and of biases and betas.
_MULTIPLIERS = {
    "none": (None, None),
    "alex": (None, ("2.0", "0.0")),
    "alex10": (("10.0", "1.0"), ("20.0", "0.0")),
}
MULTIPLIERS = tuple(_MULTIPLIERS)


@dataclass(frozen=True)
class Layers:
    """Builds layers under one set of choices; every method returns a Symbol.

    Attributes:
        pool: geometry of 3×3 stride-2 max pooling. "pad": padding 1; "caffe": padding 0, MXNet's
            `valid` convention (the release's choice to test Model A); "full": padding 0, MXNet's
            `full` convention (what Model A was trained with: 224 → 112 → … → 7).
        multipliers: "none", "alex" (biases and betas: lr ×2, no decay) or "alex10" (everything
            10 times as fast as "alex").
        frozen_statistics: BatchNorm uses its moving statistics in training too.
        workspace: MiB that a convolution may use for scratch.
    """

    pool: str = "pad"
    multipliers: str = "none"
    frozen_statistics: bool = False
    workspace: int = 1024

    def __post_init__(self) -> None:
        check_choice("pool", self.pool, POOL_GEOMETRIES)
        check_choice("multipliers", self.multipliers, MULTIPLIERS)

    def convolution(
        self,
        data: Symbol,
        name: str,
        *,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
    ) -> Symbol:
        """Return a square convolution that keeps the size but for its stride.

        A 3×3 convolution of dilation d is padded by d; a 1×1 convolution never dilates.
        """
        dilation = dilation if kernel > 1 else 1
        padding = dilation * (kernel // 2)
        inputs = {"weight": self._variable(f"{name}_weight")}
        if bias:
            inputs["bias"] = self._variable(f"{name}_bias")
        return mx.sym.Convolution(
            data,
            **inputs,
            num_filter=channels,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            dilate=(dilation, dilation),
            pad=(padding, padding),
            no_bias=not bias,
            workspace=self.workspace,
            name=name,
        )

    def batch_norm(self, data: Symbol, name: str) -> Symbol:
        """Return BatchNorm with a learnt gamma and MXNet's default momentum."""
        return mx.sym.BatchNorm(
            data,
            gamma=self._variable(f"{name}_gamma"),
            beta=self._variable(f"{name}_beta"),
            eps=BN_EPSILON,
            fix_gamma=False,
            use_global_stats=self.frozen_statistics,
            name=name,
        )

    def relu(self, data: Symbol, name: str) -> Symbol:
        """Return the rectified data."""
        return mx.sym.Activation(data, act_type="relu", name=name)

    def max_pool(self, data: Symbol, name: str, *, stride: int = 2) -> Symbol:
        """Return 3×3 max pooling in the chosen geometry.

        A pooling that lost its stride to a smaller output stride keeps its kernel and, whatever
        the geometry, its size.
        """
        padded = self.pool == "pad" or stride == 1
        return mx.sym.Pooling(
            data,
            pool_type="max",
            kernel=(3, 3),
            stride=(stride, stride),
            pad=(1, 1) if padded else (0, 0),
            pooling_convention="full" if self.pool == "full" and stride > 1 else "valid",
            name=name,
        )

    def linear(self, data: Symbol, num_classes: int) -> Symbol:
        """Return the scores (N, classes) of a fully connected layer on pooled features."""
        name = f"linear{num_classes}"
        return mx.sym.FullyConnected(
            data,
            weight=self._variable(f"{name}_weight"),
            bias=self._variable(f"{name}_bias"),
            num_hidden=num_classes,
            name=name,
        )

    def _variable(self, name: str) -> Symbol:
        weights, biases = _MULTIPLIERS[self.multipliers]
        chosen = biases if name.endswith(("_bias", "_beta")) else weights
        if chosen is None:
            return mx.sym.Variable(name)
        return mx.sym.Variable(name, lr_mult=float(chosen[0]), wd_mult=float(chosen[1]))

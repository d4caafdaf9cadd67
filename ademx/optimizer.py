"""SGD with Torch's Nesterov momentum, as an MXNet optimiser.

It is for classification. Segmentation trains by MXNet's own "sgd", as the release does: that adds
wd·w to the gradient in float32 and loses nothing (the decay over 200 updates is within 0.1 % of
the exact one at rates down to 1e-5; below, the roundings of the weights hide it).

KVStore servers import this module to unpickle the optimiser that a worker sends them. They do so
in the middle of `import mxnet`, which only returns when the training is over: `mxnet.nd` and its
kind do not exist there yet, their modules do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ademx.compat import import_mxnet
from ademx.errors import InputError

if TYPE_CHECKING:
    from mxnet.ndarray import NDArray

import_mxnet()
nd = importlib.import_module("mxnet.ndarray")
optimizer = importlib.import_module("mxnet.optimizer")


@optimizer.register
class TorchNesterov(optimizer.Optimizer):
    """g ← rescale·grad + wd·w;  m ← μ·m + g;  w ← w − lr·(g + μ·m).

    MXNet's own NAG keeps the rate inside its momentum, which is another rule as soon as the rate
    changes. The rate is asked for before the update is counted: the first is `lr_scheduler(0)`,
    for every parameter alike. (Deviation: in the release only the first parameter of an update,
    `conv1a_weight`, has the rate of count k; all others have that of count k + 1.)

    Args:
        momentum: μ.
        options: those of `mx.optimizer.Optimizer`; `clip_gradient` is not among them.

    Raises:
        ValueError: `clip_gradient` is given.

    Source: ademxapp:util/optimizer.py, TorchNesterov.
    """

    def __init__(self, *, momentum: float = 0.9, **options: Any) -> None:
        super().__init__(**options)
        if self.clip_gradient is not None:
            raise InputError("TorchNesterov does not clip gradients: leave clip_gradient out")
        self.momentum = momentum

    def create_state(self, index: int | str, weight: NDArray) -> NDArray:
        """Return the momentum of a weight, zeros of its shape, type and device."""
        return nd.zeros(weight.shape, weight.context, dtype=weight.dtype)

    def update(self, index: int | str, weight: NDArray, grad: NDArray, state: NDArray) -> None:
        """Update a weight and its momentum in place."""
        self.num_update = self._index_update_count.get(index, self.begin_num_update)
        lr, wd = self._get_lr(index), self._get_wd(index)
        self._update_count(index)
        # Two fused passes. At rate −1 `sgd_mom_update` is m ← μ·m + g (the weight that it would
        # write besides is not wanted); of a copy of that m, at rate lr and momentum −lr·μ, it is
        # w ← w − lr·(g + μ·m). `sgd_update` would round 1 − lr·wd to a multiple of 2⁻²⁴, which at
        # low rates is far from the decay that was asked for.
        gradient = {"wd": wd, "rescale_grad": self.rescale_grad}
        copy = nd.empty(weight.shape, weight.context, dtype=weight.dtype)
        nd.sgd_mom_update(
            weight, grad, state, out=copy, lr=-1.0, momentum=self.momentum, **gradient
        )
        state.copyto(copy)
        nd.sgd_mom_update(
            weight, grad, copy, out=weight, lr=lr, momentum=-lr * self.momentum, **gradient
        )

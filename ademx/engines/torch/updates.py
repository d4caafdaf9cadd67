"""How weights change: Torch's Nesterov rule and MXNet's SGD, both by PyTorch's fused SGD."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from symbols.learning import Learning

# MXNet's loss scaler: twice the scale after so many updates without overflow.
_LONGEST_SCALE = 2000
_MAX_SCALE = 2.0**24


class Updates:
    """The optimiser: MXNet's rules, in PyTorch's one pass over the weights.

    Torch's Nesterov rule (classification): g ← rescale·grad + wd·w;  m ← μ·m + g;
    w ← w − lr·(g + μ·m). It is PyTorch's own.

    MXNet's SGD (segmentation): m ← μ·m − lr·(rescale·grad + wd·w);  w ← w + m. The rate is within
    the momentum. PyTorch's rule without Nesterov is m' ← μ·m' + g;  w ← w − lr'·m'. Here g is
    rate·(rescale·grad + wd·w), lr' the parameter's multiplier, which does not change, and so
    MXNet's m is −lr'·m'.

    Args:
        parameters: what learns, by released name.
        learning: whose multipliers hold.
        nesterov: which of the rules.
        momentum: μ.
        wd: weight decay.
        rescale_grad: what gradients are multiplied by.

    Source: SPEC §4; ademx.optimizer.TorchNesterov; MXNet 1.9.1, sgd_mom_update.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        learning: Learning,
        *,
        nesterov: bool,
        momentum: float = 0.0,
        wd: float = 0.0,
        rescale_grad: float = 1.0,
    ) -> None:
        self._parameters = parameters
        self._learning, self._nesterov = learning, nesterov
        self._device = next(iter(parameters.values())).device
        self._wd, self._rescale = wd, rescale_grad
        members: dict[tuple[float, float], list[Tensor]] = {}
        for name, parameter in parameters.items():
            members.setdefault(learning.of(name), []).append(parameter)
        self._multipliers = list(members)
        nesterov = nesterov and momentum > 0  # without momentum it is the plain rule
        self._optimizer = torch.optim.SGD(
            [{"params": group} for group in members.values()],
            momentum=momentum,
            nesterov=nesterov,
            fused=True,
        )
        if momentum:
            for parameter in parameters.values():
                self._optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def apply(self, rate: float, *, loss_scale: float) -> None:
        """Change the weights by their gradients.

        Args:
            rate: the learning rate.
            loss_scale: what the gradients are too large by.
        """
        inner = 1.0 if self._nesterov else rate
        for (lr_mult, wd_mult), group in zip(self._multipliers, self._optimizer.param_groups):
            group["lr"] = lr_mult * (rate if self._nesterov else 1.0)
            group["weight_decay"] = inner * wd_mult * self._wd
        # What the fused rule divides gradients by.
        self._optimizer.grad_scale = torch.tensor(  # type: ignore[attr-defined]  # by GradScaler
            loss_scale / (self._rescale * inner), device=self._device
        )
        self._optimizer.step()

    def momentum(self) -> dict[str, np.ndarray]:
        """Return MXNet's momentum of each parameter, by name."""
        return {
            name: as_numpy(self._optimizer.state[parameter]["momentum_buffer"] * self._sign(name))
            for name, parameter in self._parameters.items()
            if parameter in self._optimizer.state
        }

    def restore(self, momentum: Mapping[str, np.ndarray]) -> None:
        """Take up momentum as `momentum` gave it."""
        for name, value in momentum.items():
            held = self._optimizer.state[self._parameters[name]]["momentum_buffer"]
            held.copy_(torch.as_tensor(value)).div_(self._sign(name))

    def _sign(self, name: str) -> float:
        return 1.0 if self._nesterov else -self._learning.of(name)[0]


class LossScaler:
    """MXNet's rule for what a loss is multiplied by, so that no gradient underflows.

    Attributes:
        scale: of the next update.
        unskipped: updates since the scale last changed or one was left out.

    Source: MXNet 1.9.1, mxnet.contrib.amp.loss_scaler.LossScaler.
    """

    def __init__(self) -> None:
        self.scale = 2.0**16
        self.unskipped = 0

    def judge(self, gradients: list[Tensor]) -> bool:
        """Return whether all gradients are finite, and set the next scale by that."""
        largest = torch.stack(torch._foreach_norm(gradients, float("inf")))
        finite = bool(largest.isfinite().all())
        if not finite:
            self.scale, self.unskipped = self.scale / 2, 0
            return False
        self.unskipped += 1
        if self.unskipped == _LONGEST_SCALE:
            self.scale, self.unskipped = min(_MAX_SCALE, 2 * self.scale), 0
        return True


def as_numpy(tensor: Tensor) -> np.ndarray:
    """Return a copy as float32, in order of its dimensions."""
    return np.array(tensor.detach().float().cpu().numpy(), order="C")

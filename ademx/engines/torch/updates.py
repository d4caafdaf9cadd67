"""How weights change: Torch's Nesterov rule and MXNet's SGD, both by PyTorch's fused SGD."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.optim.sgd import sgd

from symbols.learning import Learning


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

    Source: ademx.optimizer.TorchNesterov; MXNet 1.9.1, sgd_mom_update.
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
        self._wd, self._rescale, self._factor = wd, rescale_grad, momentum
        self._groups: dict[tuple[float, float], list[str]] = {}
        for name in parameters:
            self._groups.setdefault(learning.of(name), []).append(name)
        held = parameters if momentum else {}
        self._momentum = {name: torch.zeros_like(one).detach() for name, one in held.items()}

    @torch.no_grad()
    def apply(self, rate: float, *, loss_scale: float) -> None:
        """Change the weights by their gradients.

        Args:
            rate: the learning rate.
            loss_scale: what the gradients are too large by.
        """
        inner = 1.0 if self._nesterov else rate
        # What the fused rule divides gradients by.
        grad_scale = torch.tensor(loss_scale / (self._rescale * inner), device=self._device)
        for (lr_mult, wd_mult), names in self._groups.items():
            parameters = [self._parameters[name] for name in names]
            # As a function: PyTorch's optimisers load its compiler, which takes a second.
            sgd(
                [_channels_last(one) for one in parameters],
                [_channels_last(gradient_of(one)) for one in parameters],
                [_channels_last(self._momentum[n]) if self._momentum else None for n in names],
                fused=True,
                grad_scale=grad_scale,
                lr=lr_mult * (rate if self._nesterov else 1.0),
                weight_decay=inner * wd_mult * self._wd,
                momentum=self._factor,
                nesterov=self._nesterov and self._factor > 0,  # without it, it is the plain rule
                dampening=0.0,
                maximize=False,
            )

    def momentum(self) -> dict[str, np.ndarray]:
        """Return MXNet's momentum of each parameter, by name."""
        return {name: as_numpy(one * self._sign(name)) for name, one in self._momentum.items()}

    def restore(self, momentum: Mapping[str, np.ndarray]) -> None:
        """Take up momentum as `momentum` gave it."""
        for name, value in momentum.items():
            self._momentum[name].copy_(torch.as_tensor(value)).div_(self._sign(name))

    def _sign(self, name: str) -> float:
        return 1.0 if self._nesterov else -self._learning.of(name)[0]


def are_finite(gradients: list[Tensor]) -> bool:
    """Return whether all gradients are."""
    largest = torch.stack(torch._foreach_norm(gradients, float("inf")))
    return bool(largest.isfinite().all())


def _channels_last(tensor: Tensor) -> Tensor:
    """Return a view in the order of memory: the fused rule copies tensors in any other."""
    return tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor


def gradient_of(parameter: Tensor) -> Tensor:
    """Return a parameter's gradient, which must be there."""
    if parameter.grad is None:
        raise RuntimeError("a parameter has no gradient")
    return parameter.grad


def as_numpy(tensor: Tensor) -> np.ndarray:
    """Return a copy as float32, in order of its dimensions."""
    return np.array(tensor.detach().float().cpu().numpy(), order="C")

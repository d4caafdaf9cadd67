"""One update after another by PyTorch: what `MxnetTrainer` does, without MXNet.

The numbers are MXNet's but for their last digits. What differs between the two is put right here:
gradients of the losses (`losses`), rules of the optimisers (`updates`), and the variance that
BatchNorm keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ademx.convert.layouts import rename_to
from ademx.convert.torch_model import Block, FrozenBatchNorm2d, to_module
from ademx.devices import Devices
from ademx.engines.torch import losses
from ademx.engines.torch.predict import set_up, torch_devices
from ademx.engines.torch.updates import Updates, are_finite, as_numpy, gradient_of
from ademx.engines.trainer import Arrays, Sums, Trainer
from symbols.layers import Layer
from symbols.learning import Learning


class TorchTrainer(Trainer):
    """A network being trained by PyTorch.

    Args:
        layers: of the network.
        learning: its loss, multipliers and statistics.
        devices: each gets an equal share of a batch and has its own statistics; contexts of the
            CPU compute one share after the other.
        values: the parameters and moving statistics to start from, by name.
        options: those of :class:`Trainer`.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        learning: Learning,
        devices: Devices,
        values: Arrays,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        set_up("float32")
        torch.backends.cudnn.benchmark = True  # shapes do not change
        places = _places(devices)
        self.goes_ahead = bool(devices.gpus)
        self._draws = any(layer.kind == "dropout" for layer in layers)
        self._replicas: list[_Replica] = []
        for device in places:
            same = [replica for replica in self._replicas if replica.device == device]
            self._replicas.append(
                _Replica(
                    layers,
                    device,
                    learning=learning,
                    values=values,
                    weights_of=same[0] if same else None,
                    precision=self._precision,
                    mirror=self._mirror,
                )
            )
        first = self._replicas[0]
        # Replicas whose weights are not the first one's own.
        self._others = list(
            {r.device: r for r in self._replicas if r.device != first.device}.values()
        )
        if self._workers.count > 1:
            self._workers.share(list(first.parameters.values()))
            self._share_weights()
        rule = {n: value for n, value in self._optimizer_params.items() if n != "lr_scheduler"}
        nesterov = self._optimizer_name == "TorchNesterov"
        self._updates = Updates(first.parameters, learning, nesterov=nesterov, **rule)

    def start(self, data: Any, label: Any, *, seed: int, stop: bool = False) -> Callable[[], Sums]:
        """Start one update and return what waits for its sums; see :class:`Trainer`."""
        rate, first = self.rate, self._replicas[0]
        self._started += 1
        for replica in (first, *self._others):
            replica.network.zero_grad(set_to_none=True)
        found = torch.zeros(5, device=first.device)
        if data is None:
            for parameter in first.parameters.values():
                parameter.grad = torch.zeros_like(parameter)
        else:
            if self._draws:
                _seed(seed, [replica.device for replica in self._replicas])
            count = len(self._replicas)
            shares = zip(
                _as_tensor(data).tensor_split(count), _as_tensor(label).tensor_split(count)
            )
            for replica, share in zip(self._replicas, shares):
                sums = replica.learn(*share, loss_scale=self.loss_scale)
                found[:4] += sums.to(first.device, non_blocking=True)
            self._add_up_gradients()
        found[4] += stop
        if self._workers.count > 1:
            self._workers.add_up([found])
            self._workers.add_up([gradient_of(one) for one in first.parameters.values()])
        self._update(rate)
        return _reader(found)

    def _weights(self) -> dict[str, np.ndarray]:
        return {name: as_numpy(one) for name, one in self._replicas[0].parameters.items()}

    def statistics(self) -> list[dict[str, np.ndarray]]:
        """Return the moving statistics of each device, by name."""
        return [
            {name: as_numpy(one) for name, one in replica.statistics.items()}
            for replica in self._replicas
        ]

    def momentum(self) -> dict[str, np.ndarray]:
        """Return the momentum of each parameter, as MXNet's rule has it."""
        return self._updates.momentum()

    def restore(self, momentum: Arrays, statistics: Sequence[Arrays]) -> None:
        """Take up momentum and device statistics as `momentum` and `statistics` gave them."""
        self._updates.restore(momentum)
        for replica, values in zip(self._replicas, statistics):
            _copy(replica.statistics, values)

    def _add_up_gradients(self) -> None:
        """Make the first replica's gradients those of all of this process."""
        targets = [gradient_of(one) for one in self._replicas[0].parameters.values()]
        for replica in self._others:
            gradients = [gradient_of(one) for one in replica.parameters.values()]
            moved = [one.to(targets[0].device, non_blocking=True) for one in gradients]
            torch._foreach_add_(targets, moved)

    def _update(self, rate: float) -> None:
        gradients = [gradient_of(one) for one in self._replicas[0].parameters.values()]
        scale = self.loss_scale  # that of these gradients
        if self._scaler is None or self._scaler.judge(are_finite(gradients)):
            self._updates.apply(rate, loss_scale=scale)
            self._share_weights()
        for replica in self._replicas:
            replica.keep_statistics()

    @torch.no_grad()
    def _share_weights(self) -> None:
        """Give the first replica's weights to those on other devices."""
        weights = list(self._replicas[0].parameters.values())
        for replica in self._others:
            torch._foreach_copy_(list(replica.parameters.values()), weights)


class _Replica:
    """The network on one device.

    Args:
        layers: of the network.
        device: where it computes.
        learning: its loss and statistics.
        values: of parameters and moving statistics, by name.
        weights_of: another replica on this device, whose weights and gradients are this one's.
        precision: see :class:`Trainer`.
        mirror: see `backward_do_mirror` there.

    Attributes:
        device: where it computes.
        network: the module.
        parameters: what learns, by released name.
        statistics: the moving statistics, by released name.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        device: torch.device,
        *,
        learning: Learning,
        values: Arrays,
        weights_of: _Replica | None,
        precision: str,
        mirror: bool,
    ) -> None:
        self.device = device
        self._segments = layers[-2].kind == "convolution"
        self._loss, self._precision, self._mirror = learning.loss, precision, mirror
        self._draws = any(layer.kind == "dropout" for layer in layers)
        norm = FrozenBatchNorm2d if learning.frozen_statistics else MxnetBatchNorm2d
        with torch.device("meta"):  # values come below
            network = to_module(layers, norm=norm)
        # The layout that oneDNN and cuDNN compute in: without it every layer would change it.
        self.network = network.to_empty(device=device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if weights_of is not None:
            for module, other in zip(self.network.modules(), weights_of.network.modules()):
                for name, parameter in other.named_parameters(recurse=False):
                    setattr(module, name, parameter)
        tensors = dict([*self.network.named_parameters(), *self.network.named_buffers()])
        released = {name: tensors[key] for key, name in zip(rename_to(values, "native"), values)}
        self.statistics = {n: one for n, one in released.items() if not one.requires_grad}
        self.parameters = {n: one for n, one in released.items() if one.requires_grad}
        _copy(released, values)

    def learn(self, data: Tensor, label: Tensor, *, loss_scale: float) -> Tensor:
        """Add the gradients of a share of a batch to those that are there; return its sums."""
        data = _to_device(data.float().contiguous(memory_format=torch.channels_last), self.device)
        label = _to_device(label.long(), self.device)
        with self._autocast():
            scores = self._forward(data)
        with torch.no_grad():
            probabilities = scores.float().softmax(1)
            if self._segments:
                sums = losses.pixel_sums(probabilities, label)
                gradient = losses.pixel_gradient(probabilities, label, loss=self._loss)
            else:
                sums = losses.classification_sums(probabilities, label)
                gradient = losses.classification_gradient(probabilities, label)
            if loss_scale != 1:
                gradient *= loss_scale
        torch.autograd.backward(scores, gradient.to(scores.dtype))
        return sums

    def keep_statistics(self) -> None:
        """Let the moving statistics follow those of the share that was learnt from."""
        for module in self.network.modules():
            if isinstance(module, MxnetBatchNorm2d):
                module.keep_statistics()

    def _forward(self, data: Tensor) -> Tensor:
        for module in self.network:
            if self._mirror and isinstance(module, Block):
                data = checkpoint(module, data, use_reentrant=False, preserve_rng_state=self._draws)
            else:
                data = module(data)
        return data

    def _autocast(self) -> AbstractContextManager[None]:
        enabled = self._precision != "float32"
        dtype = getattr(torch, self._precision) if enabled else None
        return torch.autocast(self.device.type, dtype, enabled=enabled)


class MxnetBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm by the batch's statistics, whose moving ones are those that MXNet keeps.

    On CPUs MXNet keeps the variance as it normalises by it, divided by n; PyTorch keeps that
    divided by n − 1. On GPUs both leave it to cuDNN, which divides by n − 1 (apache/mxnet issues
    18751 and 21111). What a batch had is kept only when it is asked for, once an update: a block
    that the backward pass computes again must not count twice.
    """

    _found: Sequence[Tensor] = ()

    def forward(self, data: Tensor) -> Tensor:
        """Return the normalised data."""
        mean, variance = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        count = data.numel() // data.shape[1]
        output = torch.batch_norm(
            *(data, self.weight, self.bias, mean, variance),
            True,  # by the batch's statistics
            1.0,  # which take the place of `mean` and `variance`
            self.eps,
            torch.backends.cudnn.enabled,
        )
        if count == 1:
            variance = torch.zeros_like(mean)
        elif data.device.type == "cpu":
            variance = variance * ((count - 1) / count)
        self._found = mean, variance
        return output

    @torch.no_grad()
    def keep_statistics(self) -> None:
        """Let the moving statistics follow the last batch's."""
        for moving, found in zip((self.running_mean, self.running_var), self._found):
            if moving is not None:
                moving.lerp_(found, self.momentum or 0.0)
        self._found = ()


def _places(devices: Devices) -> list[torch.device]:
    """Return where each device's share is computed: on CPUs all in one place."""
    found = torch_devices(devices)
    return found if devices.gpus else found * devices.cpus


def _seed(seed: int, devices: Sequence[torch.device]) -> None:
    """Have all devices draw by a seed, and no two the same."""
    torch.manual_seed(seed)
    for number, device in enumerate(devices):
        if device.type == "cuda" and number:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed + number)


def _as_tensor(array: Any) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(np.asarray(array))


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@torch.no_grad()
def _copy(tensors: Mapping[str, Tensor], values: Arrays) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(torch.as_tensor(np.asarray(values[name])))


def _reader(found: Tensor) -> Callable[[], Sums]:
    """Return what waits for sums, but not for what their device computes after them."""
    if found.device.type != "cuda":
        sums = Sums(*found.tolist())
        return lambda: sums
    host = torch.empty(found.shape, pin_memory=True)
    host.copy_(found, non_blocking=True)
    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(found.device))

    def wait() -> Sums:
        event.synchronize()
        return Sums(*host.tolist())

    return wait

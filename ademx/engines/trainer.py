"""What training needs of an engine, whichever computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
KVSTORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async")
PRECISIONS = ("float32", "float16", "bfloat16")
# MXNet's loss scaler: twice the scale after so many updates without overflow.
_LONGEST_SCALE = 2000
_MAX_SCALE = 2.0**24


@dataclass(frozen=True)
class Sums:
    """What one update found, over all devices and synchronous workers.

    Attributes:
        loss: sum of the cross-entropies of all valid labels; nan where the network broke down.
        top1: labels whose class has the highest probability.
        top5: labels whose class is among the five highest (classification; else 0).
        count: valid labels.
        stop: workers that were asked to stop.
    """

    loss: float
    top1: float
    top5: float
    count: float
    stop: float


@dataclass(frozen=True)
class Update:
    """An update that was made: its learning rate and what it found."""

    rate: float
    sums: Sums


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

    def judge(self, finite: bool) -> bool:
        """Set the next scale by whether all gradients are finite; return that."""
        if not finite:
            self.scale, self.unskipped = self.scale / 2, 0
            return False
        self.unskipped += 1
        if self.unskipped == _LONGEST_SCALE:
            self.scale, self.unskipped = min(_MAX_SCALE, 2 * self.scale), 0
        return True


class Workers(AbstractContextManager["Workers"]):
    """The processes that train together, of which this is one; a context manager.

    A worker that leaves by an exception does not wait for the others.

    Attributes:
        rank: number of this worker, from 0.
        count: number of workers.
        synchronous: every update is that of all workers together.
    """

    rank: int
    count: int
    synchronous: bool

    @abstractmethod
    def gather(self, key: str, value: int) -> list[int]:
        """Return every worker's value, 0 to 2²⁴, by rank; all workers wait for each other.

        Asynchronous workers do not exchange values: each gets its own alone.
        """

    def wait_for_all(self, key: str, value: int) -> list[int]:
        """Do as `gather`, however late a worker comes; the first call has to be in time."""
        return self.gather(key, value)


class Trainer(ABC):
    """A network being trained.

    Args:
        optimizer: "TorchNesterov", or "sgd", which is MXNet's.
        optimizer_params: its `rescale_grad` and `lr_scheduler`, and `momentum` and `wd` if any.
        workers: the processes that train together.
        precision: "float32", or what convolutions and fully connected layers compute in:
            "bfloat16", or "float16" with loss scaling. Weights and momentum are float32
            throughout.
        backward_do_mirror: keep less for the backward pass, which computes the rest again: MXNet
            cheap layers, PyTorch all of a block but its input.
        scale_loss: scale the loss against underflow; by default in float16 only.

    Attributes:
        goes_ahead: `start` returns before its update is made.
    """

    goes_ahead = True

    def __init__(
        self,
        *,
        optimizer: str,
        optimizer_params: Mapping[str, Any],
        workers: Any,
        precision: str = "float32",
        backward_do_mirror: bool = False,
        scale_loss: bool | None = None,
    ) -> None:
        self._workers, self._precision, self._mirror = workers, precision, backward_do_mirror
        is_scaled = precision == "float16" if scale_loss is None else scale_loss
        self._scaler = LossScaler() if is_scaled else None
        self._optimizer_name, self._optimizer_params = optimizer, optimizer_params
        self._schedule = optimizer_params["lr_scheduler"]
        # MXNet's SGD counts an update before it asks for the rate; TorchNesterov after.
        self._counts_first = optimizer == "sgd"
        self._started = 0  # updates

    @abstractmethod
    def start(self, data: Any, label: Any, *, seed: int, stop: bool = False) -> Callable[[], Sums]:
        """Start one update and return what waits for its sums.

        Args:
            data: (N, 3, H, W) float32 for all devices of this worker, of numpy or of the engine.
                None: it has none, and adds zeros to what the others have, which wait for it.
            label: (N,) classes, or (N, H/s · W/s) for segmentation; None where data is.
            seed: of the random numbers of this update (dropout), 0 or above.
            stop: whether this worker was asked to stop; the sums tell all workers.
        """

    def step(self, data: np.ndarray, label: np.ndarray, seed: int = 0) -> Update:
        """Make one update, as `start` does, and wait for what it found."""
        rate = self.rate
        return Update(rate, self.start(data, label, seed=seed)())

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        return float(self._schedule(self._started + self._counts_first))

    def parameters(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return `(arg_params, aux_params)`; statistics are the mean over this worker's devices."""
        devices = self.statistics()
        return self._weights(), {n: np.mean([d[n] for d in devices], axis=0) for n in devices[0]}

    @abstractmethod
    def _weights(self) -> dict[str, np.ndarray]:
        """Return what learns, by name."""

    @abstractmethod
    def statistics(self) -> list[dict[str, np.ndarray]]:
        """Return the moving statistics of each device, by name."""

    @abstractmethod
    def momentum(self) -> dict[str, np.ndarray]:
        """Return the momentum of each parameter; none where servers hold it (dist_async)."""

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied by before the gradient is taken."""
        return self._scaler.scale if self._scaler else 1.0

    def scaling(self) -> tuple[float, int] | None:
        """Return the loss scale and for how many updates it has held; None without scaling."""
        return (self._scaler.scale, self._scaler.unskipped) if self._scaler else None

    def restore_scaling(self, scale: float, unskipped: int) -> None:
        """Take up the loss scale as `scaling` gave it; without scaling there is none to take."""
        if self._scaler is not None:
            self._scaler.scale, self._scaler.unskipped = scale, unskipped

    @abstractmethod
    def restore(self, momentum: Arrays, statistics: Sequence[Arrays]) -> None:
        """Take up momentum and device statistics as `momentum` and `statistics` gave them."""

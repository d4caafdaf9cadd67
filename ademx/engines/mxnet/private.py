"""What MXNet 1.9.1 does not offer by a public name: all of its private parts that we use."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ademx.compat import import_mxnet

mx = import_mxnet()


def device_arrays(module: Any) -> Any:
    """Return the arrays of a bound Module, for each name one of each device.

    Attributes `param_names`, `param_arrays`, `grad_arrays`, `aux_names`, `aux_arrays`.
    """
    return module._exec_group


def let_process_end_alone(kvstore: Any) -> None:
    """Have this process not wait at its end for the other workers, which it does else."""
    check = mx.base.check_call
    check(mx.base._LIB.MXKVStoreSetBarrierBeforeExit(kvstore.handle, ctypes.c_int(0)))


def wait_for_all_workers(kvstore: Any) -> None:
    """Wait until every worker waits here."""
    kvstore._barrier()


def set_momentum(updater: Any, index: int, value: Any) -> None:
    """Give an updater the state of one index, as if it had made it."""
    updater.states[index] = value
    updater.states_synced[index] = True


def count_update(optimizer: Any, contexts: Sequence[Any], indices: Sequence[int]) -> None:
    """Have an optimiser count an update that it does not make."""
    for context in contexts:
        optimizer._set_current_context(context.device_id)
        optimizer._update_count(list(indices))


class LossScaler:
    """MXNet's loss scaler, whose scale is that of the next update only when told."""

    def __init__(self) -> None:
        from mxnet.contrib.amp.loss_scaler import LossScaler as Scaler

        self._scaler = Scaler()

    @property
    def scale(self) -> float:
        """The present scale."""
        return float(self._scaler.loss_scale)

    @property
    def unskipped(self) -> int:
        """Updates since the scale last changed or one was left out."""
        return int(self._scaler._unskipped)

    @property
    def changes(self) -> bool:
        """Whether the next scale is another."""
        return bool(self._scaler._next_loss_scale != self._scaler.loss_scale)

    def overflows(self, gradients: Sequence[Sequence[Any]]) -> bool:
        """Return whether a gradient is not finite; that lowers the next scale."""
        return bool(self._scaler.has_overflow([SimpleNamespace(_grad=g) for g in gradients]))

    def prepare(self, scale: float, unskipped: int) -> None:
        """Set the next scale and how long it has held."""
        self._scaler._next_loss_scale, self._scaler._unskipped = scale, unskipped

    def advance(self) -> None:
        """Make the next scale the present one; by itself it would come one update later."""
        self._scaler._loss_scale = self._scaler._next_loss_scale

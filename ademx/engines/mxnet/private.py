"""What MXNet 1.9.1 does not offer by a public name: all of its private parts that we use."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
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


def count_update(optimizer: Any, contexts: Sequence[Any], indices: Sequence[int]) -> None:
    """Have an optimiser count an update that it does not make."""
    for context in contexts:
        optimizer._set_current_context(context.device_id)
        optimizer._update_count(list(indices))

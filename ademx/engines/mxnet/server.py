"""A scheduler or a server of MXNet's distributed KVStore."""

from __future__ import annotations

import os
import signal

from ademx.compat import import_mxnet
from ademx.signals import stopping_signals


def serve() -> None:
    """Be the scheduler or server that DMLC_ROLE names, until all workers have ended.

    Signals that a batch system or a terminal sends to everyone are left to the workers, which
    save first.
    """
    for number in stopping_signals():
        signal.signal(number, signal.SIG_IGN)
    # MXNet serves as soon as it is imported; the optimiser that workers send must be there first.
    role = os.environ.pop("DMLC_ROLE")
    mx = import_mxnet()
    import ademx.optimizer  # noqa: F401  # registers TorchNesterov

    os.environ["DMLC_ROLE"] = role
    mx.kvstore.kvstore_server._init_kvstore_server_module()

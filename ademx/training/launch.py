"""Several workers of one training, all on this machine, and what MXNet's need besides.

Workers of MXNet's distributed KVStore need a scheduler and servers; those of PyTorch meet by
themselves. All talk over the loopback interface alone: a KVStore server runs what workers send it.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import IO

from ademx.compat import num_threads
from ademx.errors import InputError, SystemFault
from ademx.signals import handled, stopping_signals

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.05
# How long the others may take to end by themselves, after all workers have ended well or one has
# not.
_GRACE_SECONDS = 5.0
# The same after a signal, when they finish an update and write a checkpoint.
SAVING_SECONDS = 120
_PR_SET_PDEATHSIG = 1
# The variable that tells workers a folder, in which each error that one of them tells has a file.
TOLD = "ADEMX_TOLD"
# MXNet's scheduler, or a server: the environment tells which.
_SERVICE = (sys.executable, "-c", "from ademx.engines.mxnet.server import serve; serve()")

_log = logging.getLogger(__name__)


def launch(
    command: Sequence[str],
    *,
    workers: int,
    servers: int | None,
    scheduler_port: int | None = None,
    grace: float = SAVING_SECONDS,
) -> int:
    """Run a command as several workers of one training until all have ended.

    Worker 0's output goes to this process's; lines of the others go to stderr, prefixed. SIGINT,
    SIGTERM and SIGHUP are passed on to the workers, which may save before they end; when the grace
    is over, or a second one comes, everything is ended. When a process dies, all are ended.
    Whatever the workers have started in their sessions ends with them.

    Args:
        command: program and arguments, the same for all workers.
        workers: number of workers. Their ranks are in the order in which they are started.
        servers: number of servers, which hold the parameters; None for workers of PyTorch, which
            has none.
        scheduler_port: TCP port at which all meet; a free one by default.
        grace: seconds that workers have to end in after a signal.

    Returns:
        0 if every worker's exit status was 0; else that of the first process to fail, 128 + the
        signal's number if a signal ended it.

    Raises:
        ValueError: not at least one worker and one server, or OMP_NUM_THREADS is no number.
        OSError: the command cannot be started, the port is taken, or this machine does not
            answer itself.
    """
    if workers < 1 or servers == 0:
        raise InputError(f"{workers} workers, {servers} servers: expected at least 1 of each")
    _check_meeting_place(scheduler_port)
    shared, own = _addresses(workers, servers, scheduler_port)
    environment = {**os.environ, **shared}
    roles = ["scheduler", *["server"] * servers] if servers else []
    threads = num_threads(workers)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number in (signal.SIGINT, signal.SIGTERM) or number not in received:
            received.append(number)  # SIGHUP comes twice: of the shell, and of the terminal

    with ExitStack() as stack, handled(stopping_signals(), note):
        environment[TOLD] = stack.enter_context(tempfile.TemporaryDirectory(prefix="ademx-"))
        copies = ExitStack()
        stack.enter_context(copies)  # which ends when all processes, entered later, have ended
        services = [
            stack.enter_context(_process(_SERVICE, {**environment, "DMLC_ROLE": role}))
            for role in roles
        ]
        processes = [
            stack.enter_context(_process(command, {**environment, **one}, prefixed=rank > 0))
            for rank, one in enumerate(own)
        ]
        for rank, process in enumerate(processes):
            if process.stdout is not None:
                copy = threading.Thread(target=_prefix, args=(rank, process.stdout), daemon=True)
                copy.start()
                copies.callback(copy.join, timeout=_GRACE_SECONDS)
        return _supervise(processes, services, received, grace)


def _addresses(
    workers: int, servers: int | None, port: int | None
) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the variables by which all processes meet, and each worker's own; see `launch`."""
    free, *ports = _free_ports(1 + workers)
    meeting = str(port or free)
    if servers is None:
        shared = {"MASTER_ADDR": _HOST, "MASTER_PORT": meeting}
        # As torchrun tells it.
        shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(workers))
        return shared, [dict.fromkeys(("RANK", "LOCAL_RANK"), str(n)) for n in range(workers)]
    shared = {
        "DMLC_PS_ROOT_URI": _HOST,
        "DMLC_PS_ROOT_PORT": meeting,
        "DMLC_NODE_HOST": _HOST,
        "DMLC_NUM_WORKER": str(workers),
        "DMLC_NUM_SERVER": str(servers),
    }
    # MXNet ranks the workers of a host by the ports that they listen on.
    return shared, [{"DMLC_ROLE": "worker", "PORT": str(each)} for each in sorted(ports)]


def _check_meeting_place(port: int | None) -> None:
    """Raise OSError unless a process can listen on the port and another reach it."""
    try:
        with socket.create_server((_HOST, port or 0)) as server:
            address = server.getsockname()
            socket.create_connection(address, timeout=_GRACE_SECONDS).close()
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            cure = "choose another --scheduler-port, or leave it out"
        else:
            cure = "the processes meet there: bring loopback up, as by `ip link set lo up`"
        where = f"{_HOST}:{port}" if port else _HOST
        raise SystemFault(f"{where}: {error.strerror or error}: {cure}") from error


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_HOST, 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def _process(
    command: Sequence[str], environment: dict[str, str], *, prefixed: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Start a process in a session of its own, and end that whole session at last."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if prefixed else None,
        stderr=subprocess.STDOUT if prefixed else None,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches it through this process only
        preexec_fn=_end_with_parent(),  # safe: no thread has been started by now
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _end_with_parent() -> Callable[[], object] | None:
    """Return what makes Linux kill a child when this process is gone, however it went."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prefix(rank: int, stream: IO[str]) -> None:
    """Copy the piped output of a worker to stderr, each line with its rank."""
    for line in stream:
        sys.stderr.write(f"[worker {rank}] {line}")
        sys.stderr.flush()


def _supervise(
    workers: Sequence[subprocess.Popen[str]],
    services: Sequence[subprocess.Popen[str]],
    received: Sequence[int],
    grace: float,
) -> int:
    """Wait until all workers have ended, or one process has died, or they were told to end."""
    passed = 0
    deadline = math.inf
    while True:
        if len(received) > 1:
            _log.warning("a second signal: ending all processes")
            return 128 + received[-1]
        if time.monotonic() > deadline:
            _log.error("workers have not ended in %g s: ending all processes", grace)
            return 128 + received[-1]
        if len(received) > passed:
            passed = len(received)
            deadline = time.monotonic() + grace
            name = signal.Signals(received[0]).name
            _log.info("passing %s on to the workers, which have %g s to end in", name, grace)
            for worker in workers:
                worker.send_signal(received[0])
        status = _failure(workers, services)
        if status:
            if not received:
                for worker in workers:
                    worker.terminate()
            # Leaving the context kills those that do not end by themselves.
            _wait(workers, grace if received else _GRACE_SECONDS, received)
            return status
        if all(worker.poll() == 0 for worker in workers):
            _wait([*workers, *services], _GRACE_SECONDS, received)
            return 0
        time.sleep(_POLL_SECONDS)


def _failure(
    workers: Sequence[subprocess.Popen[str]], services: Sequence[subprocess.Popen[str]]
) -> int:
    """Return the exit status of a process that ended as it should not have; 0 if none has."""
    failed = [(one.returncode, f"worker {rank}") for rank, one in enumerate(workers) if one.poll()]
    # With 0 a service ends by itself, once the last worker has said goodbye.
    failed = failed or [(one.returncode, "a KVStore server") for one in services if one.poll()][:1]
    # One that was killed comes first: others may have failed because it is gone.
    for status, name in sorted(failed):
        _log.error("%s ended: %s", name, _ending(status))
    status, _ = min(failed, default=(0, ""))
    return status if status >= 0 else 128 - status


def _wait(
    processes: Sequence[subprocess.Popen[str]], seconds: float, received: Sequence[int]
) -> None:
    """Wait until all have ended, the time is up or another signal has come."""
    deadline, signals = time.monotonic() + seconds, len(received)
    while time.monotonic() < deadline and len(received) == signals:
        if all(process.poll() is not None for process in processes):
            return
        time.sleep(_POLL_SECONDS)


def _ending(returncode: int) -> str:
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit status {returncode}"

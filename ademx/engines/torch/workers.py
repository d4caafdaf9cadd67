"""Workers that train together by PyTorch: processes, on one machine or several.

A process drives all devices that it is given (:mod:`ademx.engines.torch.train`), as MXNet does:
each has its own share of a batch and its own statistics, and their gradients are added up in
memory. So there is one idea of a device whatever the engine, `--gpus 0,1,2,3` alone needs no
launcher, and processes are needed only for more machines, or to have more interpreters on one.
Workers add up their gradients by `torch.distributed`, NCCL on GPUs and gloo on CPUs, in an order
that does not change from run to run.
"""

from __future__ import annotations

import datetime
import importlib
import logging
import os
import re
import signal
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from ademx.devices import Devices
from ademx.engines.torch.predict import torch_devices
from ademx.engines.trainer import Workers
from ademx.errors import InputError
from ademx.signals import handled, stopping_signals
from iters.workers import WorkerError

_PATIENCE = datetime.timedelta(minutes=10)  # for the others, as when worker 0 writes a checkpoint
_LONG_PATIENCE = datetime.timedelta(days=7)  # while worker 0 tests what was trained
_BUCKET_NUMBERS = 2**24  # added up at once
_ANYWHERE = "192.0.2.1"  # an address for examples (RFC 5737)
_SIOCGIFADDR = 0x8915  # Linux, sockios.h: the address of an interface
_log = logging.getLogger(__name__)
_LOST = "has lost the others: one has ended, or the network is down"


class WorkersLost(WorkerError):
    """The other workers do not answer."""


@dataclass(frozen=True)
class Place:
    """Where a process stands among the workers.

    Attributes:
        rank: its number, from 0.
        count: number of workers.
        local_rank: its number among those of its machine.
        local_count: number of those.
        address: of the machine of worker 0.
        port: TCP port on it at which all meet.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    address: str = "127.0.0.1"
    port: int = 29500


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the place that `ademx launch`, `torchrun` or Slurm's `srun` has given this process.

    Raises:
        ValueError: variables of theirs are missing or are no numbers.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Place(
            rank=_number(environment, "RANK"),
            count=_number(environment, "WORLD_SIZE"),
            local_rank=_number(environment, "LOCAL_RANK", "0"),
            local_count=_number(environment, "LOCAL_WORLD_SIZE", "1"),
            address=environment.get("MASTER_ADDR", Place.address),
            port=_number(environment, "MASTER_PORT", str(Place.port)),
        )
    # A batch script has SLURM_PROCID too, but is no step.
    count = _number(environment, "SLURM_STEP_NUM_TASKS", "1")
    if count == 1 or "SLURM_PROCID" not in environment:
        return Place()
    port = 20000 + _number(environment, "SLURM_JOB_ID") % 10000
    return Place(
        rank=_number(environment, "SLURM_PROCID"),
        count=count,
        local_rank=_number(environment, "SLURM_LOCALID", "0"),
        local_count=-(-count // _number(environment, "SLURM_STEP_NUM_NODES", "1")),
        address=environment.get("MASTER_ADDR") or _first_node(environment),
        port=_number(environment, "MASTER_PORT", str(port)),
    )


def _number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    text = environment.get(name, default)
    if not text.isdecimal():
        raise InputError(f"{name}={text!r}: expected a number, as torchrun and srun set it")
    return int(text)


def _first_node(environment: Mapping[str, str]) -> str:
    """Return the first of Slurm's nodes, which it lists as `node[01-04,7],other`."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    if match is None:
        raise InputError("MASTER_ADDR: expected the machine of worker 0, which Slurm does not tell")
    return "".join(part or "" for part in match.groups())


def own_devices(devices: Devices | None) -> Devices:
    """Return what a worker computes on.

    Args:
        devices: of its machine, whose workers share out the GPUs; None for one GPU each, or the
            CPU where there is none.

    Raises:
        ValueError: the workers of the machine cannot share the GPUs equally.
    """
    place = find_place()
    if devices is None:
        found = torch.cuda.device_count()
        return Devices(gpus=(place.local_rank % found,)) if found else Devices()
    if len(devices.gpus) % place.local_count:
        raise InputError(
            f"--gpus {','.join(map(str, devices.gpus))}: {place.local_count} workers of this "
            "machine share them: name as many, or a multiple, or leave it out"
        )
    share = len(devices.gpus) // place.local_count
    first = place.local_rank * share
    return Devices(gpus=devices.gpus[first : first + share], cpus=devices.cpus)


class TorchWorkers(Workers):
    """The processes that train together: this one alone, or those that a launcher has started.

    Args:
        kvstore: one of :data:`ademx.engines.trainer.KVSTORES`: "dist…" asks for several workers,
            which need not be asked for; "nccl" for GPUs.
        devices: of this process.
        backward_do_mirror: the trainer is to compute blocks again.

    Raises:
        ValueError: asynchronous workers, NCCL without GPUs, or "dist…" in a process that no
            launcher has started.
        WorkersLost: the others do not come.
    """

    synchronous = True

    def __init__(self, kvstore: str, devices: Devices, *, backward_do_mirror: bool = False) -> None:
        place = find_place()
        _check_kvstore(kvstore, devices, place)
        self.rank, self.count = place.rank, place.count
        self._device = torch_devices(devices)[0]
        self._patient: distributed.ProcessGroup | None = None
        if self.count == 1:
            return
        if devices.gpus:
            torch.cuda.set_device(self._device)
        if backward_do_mirror:
            # Blocks that are computed again load it. Loaded after the group is there, it holds on
            # to it (2.13), and its threads, which nobody joins then, abort some processes at
            # their end.
            importlib.import_module("torch._dynamo")
        where = f"{place.address}:{place.port}"
        _log.info("worker %d of %d meets the others at %s", self.rank, self.count, where)
        _check_address(place.address)  # PyTorch would try it again and again
        missing = f"does not meet the others at {where}, where worker 0 is to be"
        if interface := _interface_to_others(place):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        # Signals end the process: Python would see them when PyTorch has met the others.
        with self._telling(missing), handled(stopping_signals(), signal.SIG_DFL):
            distributed.init_process_group(
                "nccl" if devices.gpus else "gloo",
                init_method=f"tcp://{where}",
                rank=self.rank,
                world_size=self.count,
                timeout=_PATIENCE,
            )

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.count == 1:
            return
        if error is None:
            self.gather("end", 0)  # else its going might be taken for a failure
        distributed.destroy_process_group()

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all workers.

        Args:
            tensors: float32, on this worker's first device, in the same order on all workers.

        Raises:
            WorkersLost: a worker is gone.
        """
        for bucket in self._buckets(tensors) if self.count > 1 else ():
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with self._telling(_LOST):
                distributed.all_reduce(flat)
            sizes = [tensor.numel() for tensor in bucket]
            for tensor, sums in zip(bucket, torch.split(flat, sizes)):
                tensor.copy_(sums.view_as(tensor))

    @torch.no_grad()
    def share(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by worker 0's."""
        for tensor in tensors if self.count > 1 else ():
            with self._telling(_LOST):
                distributed.broadcast(tensor, 0)

    def gather(self, key: str, value: int) -> list[int]:
        """Return every worker's value; see :class:`Workers`."""
        return self._gathered(value, self._device)

    def wait_for_all(self, key: str, value: int) -> list[int]:
        """Return every worker's value; see :class:`Workers`."""
        if self.count > 1 and self._patient is None:
            # NCCL would give up, and keep a GPU busy until then.
            with self._telling(_LOST):
                self._patient = distributed.new_group(timeout=_LONG_PATIENCE, backend="gloo")
        return self._gathered(value, torch.device("cpu"), self._patient)

    def _gathered(
        self, value: int, device: torch.device, group: distributed.ProcessGroup | None = None
    ) -> list[int]:
        if self.count == 1:
            return [value]
        values = torch.zeros(self.count, dtype=torch.int64, device=device)
        values[self.rank] = value
        with self._telling(_LOST):
            distributed.all_reduce(values, group=group)
        return [int(found) for found in values.tolist()]

    def _buckets(self, tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        bucket: list[Tensor] = []
        for tensor in tensors:
            bucket.append(tensor)
            if sum(one.numel() for one in bucket) >= _BUCKET_NUMBERS:
                yield bucket
                bucket = []
        if bucket:
            yield bucket

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Raise WorkersLost for what `torch.distributed` raises, which is RuntimeErrors."""
        try:
            yield
        except RuntimeError as error:
            text = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip())  # a line of gloo's source
            reason = re.split(r"[.:]?(?:\s*\n|\. )", text)[0]
            raise WorkersLost(f"worker {self.rank} of {self.count} {what} ({reason})") from error


def _check_kvstore(kvstore: str, devices: Devices, place: Place) -> None:
    if kvstore == "dist_async":
        raise InputError(
            "--kvstore dist_async: PyTorch's workers are synchronous: leave it out, or use "
            "--backend mxnet"
        )
    if kvstore == "nccl" and not devices.gpus:
        raise InputError("--kvstore nccl: it is for GPUs: leave it out, CPUs use gloo")
    if kvstore.startswith("dist") and place.count == 1:
        raise InputError(
            f"--kvstore {kvstore}: this process is not one of several workers (WORLD_SIZE is "
            f"{os.environ.get('WORLD_SIZE')!r}); start it by "
            "`ademx launch --workers 2 -- train … --backend torch`, torchrun or srun"
        )


def _check_address(address: str) -> None:
    try:
        socket.getaddrinfo(address, None)
    except OSError as error:
        raise InputError(
            f"MASTER_ADDR={address!r}: expected the machine of worker 0 ({error.strerror})"
        ) from error


def _interface_to_others(place: Place) -> str | None:
    """Return the network interface that the other workers come by; None where it is not known.

    Gloo by itself takes the address that the machine's name stands for. On many machines that is
    127.0.1.1, or no address at all, and there no other machine finds it.
    """
    try:
        own = _own_address(place.address)
        if own.startswith("127.") and place.local_count < place.count:
            # A name of worker 0's machine for itself. The others come from outside.
            own = _own_address(_ANYWHERE)
    except OSError:  # no IPv4, or no way there
        return None
    names = (name for _, name in socket.if_nameindex())
    return next((name for name in names if _address_of(name) == own), None)


def _own_address(remote: str) -> str:
    """Return the IPv4 address that a machine is reached from; nothing is sent to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((remote, 1))
        return str(probe.getsockname()[0])


def _address_of(interface: str) -> str | None:
    """Return the IPv4 address of an interface, if it has one, on Linux."""
    import fcntl  # Windows has none

    request = struct.pack("256s", interface.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        return socket.inet_ntoa(fcntl.ioctl(probe, _SIOCGIFADDR, request)[20:24])
    return None

"""Workers, processes or threads, that read and augment samples into shared memory.

A worker knows nothing of the dataset or of the epoch's order: a task says which samples to write
into which rows of which batch, so that the result cannot depend on who does it. Results are small
messages; the pixels stay where they are.

A worker process is a new interpreter, started as multiprocessing's "spawn" does, but without
running the caller's main module again: a script needs no `if __name__ == "__main__"`, and what
it imports (MXNet) is not imported once more by each worker. The memory has no name, and a worker
ends when its connection does, whatever it is doing, so that nothing is left behind however the
caller ends. One that is stopped (SIGSTOP) sees no connection end. Each is therefore a process group
of its own: when the caller is gone, the system sends SIGHUP and SIGCONT to such a group, from the
worker's first moment on and whichever thread started it. Where the caller's session goes on without
it (the shell of a container) it does not; there PR_SET_PDEATHSIG helps.
"""

from __future__ import annotations

import contextlib
import logging
import math
import mmap
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np

from ademx.compat import InputError, UserError
from iters.decode import BrokenImage
from iters.sources import read_bytes

PREFETCHERS = ("process", "thread")

# Ctrl-C and a closed terminal reach all: the caller ends, then its workers. A group in the
# background would be stopped for writing to its terminal.
_IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTTOU)

_PATIENCE_SECONDS = 60.0  # from one warning that nothing comes to the next
# Python sees a signal when a system call ends. One that comes just before a wait begins, or to
# another thread, ends no call of the main thread.
_SIGNAL_SECONDS = 1.0
_CLOSING_SECONDS = 5.0  # for workers that are stuck in a dead network drive

_logger = logging.getLogger(__name__)


class WorkerError(UserError, RuntimeError):
    """A worker raised, or its process died; the message names the file that it was on."""


class Row(NamedTuple):
    """A sample, and where it goes.

    Attributes:
        row: row of the batch.
        position: position in the epoch, which decides the random draws.
        sample: number of the sample in the split.
        image: path of the image or of a RecordIO file.
        offset: where the record begins in a RecordIO file, bytes, or None.
        label: class id, or path of the label image.
    """

    row: int
    position: int
    sample: int
    image: str
    offset: int | None
    label: int | str


class Task(NamedTuple):
    """Rows of one batch to fill: the slot of the batch, the epoch, the rows."""

    slot: int
    epoch: int
    rows: Sequence[Row]


class Outcome(NamedTuple):
    """A task that is done: its slot, how many rows it had, which of them are broken and why."""

    slot: int
    num_rows: int
    broken: dict[int, str]


class Failure(NamedTuple):
    """A task that raised: the sample it was on (-1: none), the exception, its traceback."""

    sample: int
    error: str
    trace: str


@dataclass(frozen=True)
class Job:
    """What a worker does with every task.

    Attributes:
        augmentation: its `apply` gets the bytes of the image, for segmentation those of the
            label, a random generator, and the row, for segmentation that of the labels, to fill.
        seed: seed of all draws.
        cache_images: whether encoded images are kept in memory.
        num_slots: batches that the memory holds.
        num_workers: workers that report in the memory.
        data_shape: (N, 3, H, W) of a batch.
        label_shape: (N,) or (N, cells) of its labels.
    """

    augmentation: Any
    seed: int
    cache_images: bool
    num_slots: int
    num_workers: int
    data_shape: tuple[int, ...]
    label_shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the shared memory."""
        numbers = self.num_slots * (math.prod(self.data_shape) + math.prod(self.label_shape))
        return _STATE.itemsize * max(1, self.num_workers) + 4 * numbers


# What a worker reports while it is at work: the sample it is on or was on last (-1: none yet),
# whether it is on it still, and rows finished since the start. It fills a line of the cache.
_STATE = np.dtype({"names": ("sample", "busy", "finished"), "formats": ("i8",) * 3, "itemsize": 64})


class Memory:
    """The shared memory of all workers: their states, then each slot's data and labels.

    Attributes:
        states: (workers,) of :data:`_STATE`.
        data: (slots, N, 3, H, W) float32.
        labels: (slots, N) or (slots, N, cells) float32.
    """

    def __init__(self, job: Job, file: int) -> None:
        buffer = mmap.mmap(file, 0)
        self.states = np.frombuffer(buffer, _STATE, max(1, job.num_workers))
        slots = np.frombuffer(buffer, np.float32, offset=self.states.nbytes)
        slots = slots.reshape(job.num_slots, -1)
        size = math.prod(job.data_shape)
        self.data = slots[:, :size].reshape(-1, *job.data_shape)
        self.labels = slots[:, size:].reshape(-1, *job.label_shape)


def _open_memory(num_bytes: int) -> IO[bytes]:
    """Return a file without a name: it is gone when the last process that has it open ends."""
    if hasattr(os, "memfd_create"):  # in memory, and not bound by the size of /dev/shm
        file: IO[bytes] = os.fdopen(os.memfd_create("batches"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # the caller closes it
    file.truncate(num_bytes)
    return file


def _reason(error: Exception) -> str:
    """Return what is wrong with a file; the system's errors give a number before it."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


class Filler:
    """Fills rows of batches; each worker has one."""

    def __init__(self, job: Job, memory: Memory, worker: int, stopped: Callable[[], bool]) -> None:
        """Take a worker's place.

        Args:
            job: what to do.
            memory: where.
            worker: number of the worker.
            stopped: asked before each row whether to give up.
        """
        self._job = job
        self._stopped = stopped
        self._memory = memory
        self._state = memory.states[worker : worker + 1]
        self._cache: dict[tuple[str, int | None], bytes] = {}

    @property
    def sample(self) -> int:
        """The sample that it is on, or was on last; -1 before the first."""
        return int(self._state["sample"][0])

    def run(self, task: Task) -> Outcome | None:
        """Fill the rows of a task; None when told to stop.

        Broken images are left out and reported. Whatever else goes wrong is raised.
        """
        broken = {}
        for row in task.rows:
            if self._stopped():
                return None
            self._state["sample"] = row.sample
            self._state["busy"] = 1
            try:
                self._fill(task, row)
            except (BrokenImage, OSError) as error:
                broken[row.row] = _reason(error).removeprefix(f"{row.image}: ")
            self._state["busy"] = 0
            self._state["finished"] += 1
        return Outcome(task.slot, len(task.rows), broken)

    def _fill(self, task: Task, row: Row) -> None:
        rng = np.random.default_rng([self._job.seed, task.epoch, row.position])
        data = self._memory.data[task.slot, row.row]
        labels = self._memory.labels[task.slot]
        image = self._read(row.image, row.offset)
        if isinstance(row.label, str):
            label = self._read(row.label, None)
            self._job.augmentation.apply(image, label, rng, data, labels[row.row])
        else:
            self._job.augmentation.apply(image, rng, data)
            labels[row.row] = row.label

    def _read(self, path: str, offset: int | None) -> bytes:
        if not self._job.cache_images:
            return read_bytes(path, offset)
        if (path, offset) not in self._cache:
            self._cache[path, offset] = read_bytes(path, offset)
        return self._cache[path, offset]


def serve(connection: Connection, filler: Filler) -> None:
    """Answer each task with an outcome or a failure, until the other side closes."""
    with connection, contextlib.suppress(EOFError, OSError):
        while (answer := _answer(filler, connection.recv())) is not None:
            connection.send(answer)


def _answer(filler: Filler, task: Task) -> Outcome | Failure | None:
    """Run a task; None when told to stop."""
    try:
        return filler.run(task)
    except Exception as error:  # reported, whatever it is: the caller raises it
        return _failure(filler.sample, error)


def _failure(sample: int, error: Exception) -> Failure:
    return Failure(sample, f"{type(error).__name__}: {error}", traceback.format_exc())


# The first thing that a worker process runs: 1 is PR_SET_PDEATHSIG, which ends it with the thread
# that started it. Its modules are found where the caller's are.
_BOOT = """\
import ctypes, os, signal, sys
if sys.version_info < (3, 11):
    os.setpgid(0, 0)
if sys.argv[4] == "1":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
sys.path[:] = sys.argv[5:]
from iters.workers import main
main()
"""


def main() -> None:
    """Be a worker process.

    Arguments are the connection, the memory and the worker's number.
    """
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    connection_file, memory_file, worker = (int(value) for value in sys.argv[1:4])
    _end_with_caller(connection_file)
    connection = Connection(connection_file)
    try:
        job = connection.recv()
        filler = Filler(job, Memory(job, memory_file), worker, lambda: False)
    except EOFError:
        return
    except Exception as error:
        connection.send(_failure(-1, error))
        return
    os.close(memory_file)
    serve(connection, filler)


def _end_with_caller(connection_file: int) -> None:
    """Have this process end when its caller does, though it be stuck in a read."""

    def watch() -> None:
        poller = select.poll()
        poller.register(connection_file, 0)  # that the other side is closed is always told
        poller.poll()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


class _ProcessWorker:
    """A worker in a process of its own."""

    def __init__(self, number: int, job: bytes, memory: IO[bytes]) -> None:
        self.connection, theirs = Pipe()
        files = (theirs.fileno(), memory.fileno())
        # Of all threads only the main one outlives the pool.
        by_main = threading.current_thread() is threading.main_thread()
        bound = int(by_main and sys.platform.startswith("linux"))
        arguments = map(str, (*files, number, bound, *sys.path))
        group: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {}
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with theirs, _signals_blocked():
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=files,
                env={**os.environ, **one_thread},
                **group,
            )
        with contextlib.suppress(OSError):  # it died already: found out by who waits for it
            self.connection.send_bytes(job)
        self.name = f"worker {number} (process {self._process.pid})"

    def describe_end(self) -> str:
        """Return how a process whose connection broke has ended."""
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code >= 0:
            return f"ended with status {code}"
        cure = ""
        if code == -signal.SIGKILL:
            cure = " (as the system does when memory runs out: use fewer workers or less memory)"
        return f"was killed by {signal.Signals(-code).name}{cure}"

    def stop(self) -> None:
        """End the process; it holds nothing that would have to be put in order."""
        self._process.kill()

    def join(self, seconds: float) -> None:
        """Wait until it has ended, but not for ever."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=seconds)
        self.connection.close()


class _ThreadWorker:
    """A worker in a thread of this process."""

    def __init__(self, number: int, job: Job, memory: Memory) -> None:
        self.connection, theirs = Pipe()
        self._stop = threading.Event()
        filler = Filler(job, memory, number, self._stop.is_set)
        self.name = f"worker {number} (thread)"
        self._thread = threading.Thread(
            target=serve, args=(theirs, filler), name=self.name, daemon=True
        )
        self._thread.start()

    def describe_end(self) -> str:
        """Return how a thread whose connection broke has ended."""
        return "ended"

    def stop(self) -> None:
        """Have the thread end once it is done with its sample."""
        self._stop.set()
        self.connection.close()

    def join(self, seconds: float) -> None:
        """Wait until it has ended, but not for ever."""
        self._thread.join(seconds)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keep signals from a process that is started here until it is ready to ignore them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WorkerPool:
    """Workers that fill batches in shared memory.

    They end when it is closed or no longer used, and at the interpreter's exit.

    Attributes:
        memory: where the batches are.
    """

    def __init__(self, job: Job, *, prefetcher: str, file_name: Callable[[int], str]) -> None:
        """Start the workers.

        Args:
            job: what they do; without workers, the caller's thread does it in `receive`.
            prefetcher: "process" or "thread".
            file_name: gives the name of a sample's file, for messages.

        Raises:
            ValueError: there is no such prefetcher, or the augmentation cannot be sent.
        """
        if prefetcher not in PREFETCHERS:
            raise InputError(f"unknown prefetcher {prefetcher!r}: expected process or thread")
        self._job = job
        self._file_name = file_name
        self._sent = np.zeros(job.num_workers, np.int64)
        self._own_tasks: deque[Task] = deque()
        self._workers: list[_ProcessWorker | _ThreadWorker] = []
        self._finalizer = weakref.finalize(self, _close_all, self._workers)
        with _open_memory(job.num_bytes) as file:
            self.memory = Memory(job, file.fileno())
            self.memory.states["sample"] = -1
            self._own = Filler(job, self.memory, 0, lambda: False) if not job.num_workers else None
            packed = _pack(job) if prefetcher == "process" and job.num_workers else b""
            try:
                for number in range(job.num_workers):
                    if packed:
                        self._workers.append(_ProcessWorker(number, packed, file))
                    else:
                        self._workers.append(_ThreadWorker(number, job, self.memory))
            except BaseException:
                self.close()
                raise

    def submit(self, task: Task) -> None:
        """Hand out the rows of a task.

        Raises:
            WorkerError: a worker has died.
        """
        if self._own is not None:
            self._own_tasks.append(task)
            return
        for number, rows in enumerate(self._share(task.rows)):
            if rows:
                try:
                    self._workers[number].connection.send(task._replace(rows=rows))
                except OSError:
                    self._raise_death(number)

    def _share(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Give each row to the worker with the least to do, or to the one that may hold it."""
        shares: list[list[Row]] = [[] for _ in self._workers]
        load = list(self._sent - self.memory.states["finished"])
        for row in rows:
            number = row.sample % len(shares) if self._job.cache_images else load.index(min(load))
            shares[number].append(row)
            load[number] += 1
        self._sent += [len(share) for share in shares]
        return shares

    def receive(self) -> Outcome:
        """Return the next task, or part of one, that is done.

        Raises:
            WorkerError: a worker raised or has died.
        """
        if self._own is not None:
            answer, name = _answer(self._own, self._own_tasks.popleft()), "the reader"
        else:
            answer, name = self._receive_any()
        if isinstance(answer, Failure):
            self._raise_failure(name, answer)
        return answer  # type: ignore[return-value]  # None only when told to stop

    def _receive_any(self) -> tuple[Outcome | Failure, str]:
        """Wait for the first of the workers that answers; return its answer and its name."""
        connections = [worker.connection for worker in self._workers]
        told = time.monotonic()
        while not (ready := wait(connections, min(_PATIENCE_SECONDS, _SIGNAL_SECONDS))):
            if time.monotonic() - told >= _PATIENCE_SECONDS:
                self._tell_waiting()
                told = time.monotonic()
        number = connections.index(ready[0])  # type: ignore[arg-type]
        try:
            return connections[number].recv(), self._workers[number].name
        except (EOFError, OSError):
            self._raise_death(number)

    def _tell_waiting(self) -> None:
        files = [self._file_name(int(s["sample"])) for s in self.memory.states if s["busy"]]
        _logger.warning(
            "no image for %g seconds: workers are busy with %s",
            *(_PATIENCE_SECONDS, ", ".join(files) or "no file yet"),
        )

    def _raise_failure(self, worker: str, failure: Failure) -> NoReturn:
        if failure.sample < 0:
            raise WorkerError(
                f"{worker} could not start: {failure.error}: the augmentation's class must be in a "
                f"module that can be imported without the main script\n{failure.trace}"
            )
        name = self._file_name(failure.sample)
        raise WorkerError(f"{name}: {worker} raised {failure.error}\n{failure.trace}")

    def _raise_death(self, number: int) -> NoReturn:
        state, worker = self.memory.states[number], self._workers[number]
        place = "before its first file"
        if state["sample"] >= 0:
            name = self._file_name(int(state["sample"]))
            place = f"while on {name}" if state["busy"] else f"after {name}"
        raise WorkerError(f"{worker.name} {worker.describe_end()} {place}")

    def close(self) -> None:
        """End the workers. What was not received is lost; closing twice does no harm."""
        self._finalizer()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._finalizer.alive


def _close_all(workers: list[_ProcessWorker | _ThreadWorker]) -> None:
    for worker in workers:
        worker.stop()
    deadline = time.monotonic() + _CLOSING_SECONDS
    for worker in workers:
        worker.join(max(0, deadline - time.monotonic()))


def _pack(job: Job) -> bytes:
    try:
        return pickle.dumps(job)
    except Exception as error:  # what pickle raises is not bounded
        raise InputError(
            f"the augmentation cannot be sent to a process: {error}: expected an object that "
            "can be pickled, or use the prefetcher thread"
        ) from error

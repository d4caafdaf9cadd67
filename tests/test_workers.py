"""Worker pools: what they write, and how they end.

Workers import this module to find some augmentations below: it must not import MXNet.
"""

import contextlib
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fake_workers import (
    FakeAugmentation,
    all_done,
    make_job,
    make_pool,
    receive_all,
    wait_until,
    worker_processes,
    write_rows,
)

from ademx import compat
from iters import workers
from iters.workers import Row, Task, WorkerError

pytestmark = pytest.mark.usefixtures("nothing_left")

BACKENDS = [("process", 0), ("process", 1), ("process", 3), ("thread", 1), ("thread", 3)]


class Spying(FakeAugmentation):
    """Writes whether MXNet or torch was imported, and how many threads BLAS may use."""

    def apply(self, encoded, rng, out):
        out[0] = "mxnet" in sys.modules
        out[1] = "torch" in sys.modules
        out[2] = float(os.environ.get("OPENBLAS_NUM_THREADS", 0))


class Unpicklable(FakeAugmentation):
    def __reduce__(self):
        raise TypeError("has an open file")


class CannotLoad(FakeAugmentation):
    def __reduce__(self):
        return __import__, ("no_such_module",)


class MemoryHog(FakeAugmentation):
    def apply(self, encoded, rng, out):
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
        np.ones(1 << 30)  # 8 GiB of 4


@pytest.mark.parametrize(("prefetcher", "num_workers"), BACKENDS)
def test_rows_are_written_where_and_as_the_task_says(tmp_path, prefetcher, num_workers):
    rows = write_rows(tmp_path, [b"\1", b"\2\1", b"broken", b"\4"])
    pool = make_pool(prefetcher, num_workers)
    try:
        pool.submit(Task(1, 6, rows))
        assert receive_all(pool, 4) == {2: "not an image"}
        good = [0, 1, 3]
        assert pool.memory.data[1, good, 0, 0, 0].tolist() == [1, 258, 4]
        draws = [np.random.default_rng([5, 6, 10 + row]).random(2) for row in good]
        assert np.allclose(pool.memory.data[1, good, 1:, 1, 1], draws)
        assert pool.memory.labels[1, good].tolist() == [0, 7, 21]
        assert not pool.memory.data[0].any()
    finally:
        pool.close()


@pytest.mark.parametrize(("prefetcher", "num_workers"), [("process", 1), ("thread", 2)])
def test_label_images(tmp_path, prefetcher, num_workers):
    label = tmp_path / "label"
    label.write_bytes(bytes([9, 8, 255, 6]))
    pool = make_pool(prefetcher, num_workers, batch=1, label_shape=(1, 4))
    try:
        pool.submit(Task(0, 0, write_rows(tmp_path, [b"\1"], labels=[str(label)])))
        receive_all(pool, 1)
        assert pool.memory.labels[0].tolist() == [[9, 8, 255, 6]]
    finally:
        pool.close()


@pytest.mark.parametrize("prefetcher", ["process", "thread"])
def test_a_missing_file_is_broken(tmp_path, prefetcher):
    pool = make_pool(prefetcher, 1)
    try:
        pool.submit(Task(0, 0, [Row(0, 0, 0, str(tmp_path / "none.jpg"), None, 1)]))
        assert receive_all(pool, 1)[0] == "No such file or directory"
    finally:
        pool.close()


@pytest.mark.parametrize(("prefetcher", "num_workers"), BACKENDS)
def test_cached_images_are_not_read_again(tmp_path, prefetcher, num_workers):
    rows = write_rows(tmp_path, [b"\1", b"\2", b"\3", b"\4"])
    pool = make_pool(prefetcher, num_workers, cache_images=True)
    try:
        pool.submit(Task(0, 0, rows))
        receive_all(pool, 4)
        for path in tmp_path.iterdir():
            path.unlink()
        pool.submit(Task(1, 0, rows[::-1]))
        assert receive_all(pool, 4) == {}
        assert (pool.memory.data[0] == pool.memory.data[1]).all()
    finally:
        pool.close()


def test_worker_processes_have_no_mxnet_and_one_blas_thread(tmp_path):
    compat.import_mxnet()
    pytest.importorskip("torch")
    rows = write_rows(tmp_path, [b"\1"])
    for num_workers, expected in ((1, [0, 0, 1]), (0, [1, 1])):
        pool = make_pool("process", num_workers, augmentation=Spying())
        try:
            pool.submit(Task(0, 0, rows))
            receive_all(pool, 1)
            assert pool.memory.data[0, 0, :, 0, 0].tolist()[: len(expected)] == expected
        finally:
            pool.close()


@pytest.mark.parametrize(
    ("prefetcher", "num_workers"), [("process", 0), ("process", 2), ("thread", 2)]
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"raise", r"image-2\.jpg: .* raised KeyError: 'some bug'\n(.*\n)*.*in apply"),
        (b"memory", r"image-2\.jpg: .* raised MemoryError"),
    ],
)
def test_an_exception_names_the_file(tmp_path, prefetcher, num_workers, content, message):
    rows = write_rows(tmp_path, [b"\1", b"\2", content, b"\4"])
    pool = make_pool(prefetcher, num_workers)
    try:
        with pytest.raises(WorkerError, match=message):
            pool.submit(Task(0, 0, rows))
            receive_all(pool, 4)
    finally:
        pool.close()


def test_memory_that_runs_out_names_the_file(tmp_path):
    pool = make_pool("process", 1, augmentation=MemoryHog())
    try:
        pool.submit(Task(0, 0, write_rows(tmp_path, [b"\1"])))
        with pytest.raises(WorkerError, match=r"image-0\.jpg: worker 0 .* raised .*MemoryError"):
            receive_all(pool, 1)
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"killed", r"worker \d \(process \d+\) was killed by SIGKILL .*memory.* while on image-3"),
        (b"exit", r"worker \d \(process \d+\) ended with status 3 while on image-3"),
    ],
)
def test_a_dead_process_names_the_file(tmp_path, content, message):
    rows = write_rows(tmp_path, [b"\1", b"\2", b"\3", content])
    pool = make_pool("process", 2)
    try:
        pool.submit(Task(0, 0, rows))
        with pytest.raises(WorkerError, match=message):
            receive_all(pool, 4)
    finally:
        pool.close()


def test_killed_before_the_first_file():
    pool = make_pool("process", 1)
    try:
        os.kill(worker_processes()[0], signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"killed by SIGKILL .* before its first file"):
            pool.receive()
    finally:
        pool.close()


def test_killed_from_outside_while_at_work_and_while_idle(tmp_path):
    rows = write_rows(tmp_path, [b"\1", b"stuck"])
    for tasks, place in (([rows[:1], rows[1:]], "while on image-1"), ([rows[:1]], "after image-0")):
        pool = make_pool("process", 1)
        try:
            for task in tasks:
                pool.submit(Task(0, 0, task))
            receive_all(pool, 1)
            states, last = pool.memory.states, len(tasks) - 1
            wait_until(lambda states=states, last=last: states["sample"] == last)
            os.kill(worker_processes()[0], signal.SIGKILL)
            with pytest.raises(WorkerError, match=f"killed by SIGKILL .* {place}"):
                pool.receive()
            assert states["finished"] == 1
            with pytest.raises(WorkerError, match=place):
                pool.submit(Task(0, 0, rows[:1]))
        finally:
            pool.close()


def test_interrupts_do_not_end_a_worker(tmp_path):
    pool = make_pool("process", 2)
    try:
        pool.submit(Task(0, 0, write_rows(tmp_path, [b"\1", b"\2"])))

        def answered():  # interrupts from the first moment on, while the interpreters start
            for pid in worker_processes():
                os.kill(pid, signal.SIGINT)
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGHUP)
            return all_done(pool)

        wait_until(answered)
        assert receive_all(pool, 2) == {}
    finally:
        pool.close()


@pytest.mark.parametrize("prefetcher", ["process", "thread"])
def test_close_does_not_wait_for_work_and_may_come_twice(tmp_path, prefetcher):
    pool = make_pool(prefetcher, 2)
    rows = write_rows(tmp_path, [b"slow"] * 100)
    pool.submit(Task(0, 0, [row._replace(row=0) for row in rows]))
    states = pool.memory.states
    pool.close()
    pool.close()
    # Half a second a sample: a thread ends the one that it is on, not its other 49.
    assert (states["finished"] < 50).all()


def test_a_pool_that_is_dropped_ends_its_workers():
    make_pool("process", 2)
    assert worker_processes() == []


def test_an_augmentation_that_cannot_be_sent():
    with pytest.raises(ValueError, match=r"cannot be sent .*has an open file: expected .*pickled"):
        make_pool("process", 1, augmentation=Unpicklable())
    make_pool("thread", 1, augmentation=Unpicklable()).close()


def test_an_augmentation_that_cannot_be_loaded(tmp_path):
    pool = make_pool("process", 1, augmentation=CannotLoad())
    try:
        with pytest.raises(
            WorkerError, match=r"could not start: ModuleNotFoundError: .*no_such_mo"
        ):
            pool.receive()
    finally:
        pool.close()


def test_unknown_prefetcher():
    with pytest.raises(ValueError, match="unknown prefetcher 'fork': expected process or thread"):
        make_pool("fork", 1)


# A script without a main guard: what a worker must not run again.
SCRIPT = """
    import os, pathlib, sys, time
    with open("runs", "a") as file:
        file.write("run ")
    from fake_workers import make_pool, receive_all, worker_processes, write_rows
    from iters.workers import Task
    pool = make_pool("process", 2)
    rows = write_rows(pathlib.Path("."), [b"1", b"2", *[b"slow"] * 60])
    pool.submit(Task(0, 0, rows[:2]))
    receive_all(pool, 2)
    pool.submit(Task(0, 0, [row._replace(row=0) for row in rows[2:]]))
    pathlib.Path("pids.new").write_text(" ".join(map(str, worker_processes())))
    os.rename("pids.new", "pids")
    {end}
"""


def run_script(folder, end, stop=None, freeze=False):
    """Run the script, send it a signal once its workers are there; return its exit and stderr.

    If told to, stop the workers (SIGSTOP) first.
    """
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(end=end))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: (folder / "pids").exists() or process.poll() is not None)
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    for pid in pids if freeze else []:
        os.kill(pid, signal.SIGSTOP)
    if stop == signal.SIGINT:
        os.killpg(process.pid, stop)  # as a terminal does
    elif stop:
        process.send_signal(stop)
    stderr = process.communicate(timeout=300)[1]
    return process.returncode, stderr, pids


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds=60):
    deadline = time.monotonic() + seconds
    while any(running(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize(
    ("end", "stop", "code"),
    [
        ("pool.close()", None, 0),
        ("", None, 0),
        ("pool.receive()", signal.SIGINT, -signal.SIGINT),
        ("pool.receive()", signal.SIGTERM, -signal.SIGTERM),
        ("pool.receive()", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_however_a_script_ends_nothing_stays(tmp_path, end, stop, code):
    returncode, stderr, pids = run_script(tmp_path, end, stop)
    assert returncode == code
    assert len(pids) == 2
    assert "resource_tracker" not in stderr
    assert stderr.count("Traceback") == (1 if stop == signal.SIGINT else 0)
    assert (tmp_path / "runs").read_text() == "run "
    assert gone(pids)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_workers_end_with_their_caller(tmp_path, stop):
    """In a session of its own: nobody but the system could end what is stopped."""
    returncode, _, pids = run_script(tmp_path, "pool.receive()", stop, freeze=True)
    assert returncode == -stop
    assert len(pids) == 2
    assert gone(pids)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Popen has no process_group")
@pytest.mark.parametrize("start", ["make()", "threading.Thread(target=make).start()"])
def test_workers_that_are_stopped_at_once_end_with_their_caller(tmp_path, start):
    """They stop before a line of ours is run."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\nif 'STOP' in os.environ: os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    script = f"""
        import os, threading, time
        from fake_workers import make_pool, worker_processes
        os.environ["STOP"] = ""
        def make():
            global pool
            pool = make_pool("process", 2)
            print(*worker_processes(), flush=True)
            time.sleep(60)
        {start}
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    wait_until(lambda: all(stopped(pid) for pid in pids))
    process.kill()
    process.wait()
    process.stdout.close()
    try:
        assert gone(pids)
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def read_plainly():
    """Let a FIFO be read as any file."""
    workers.read_bytes = lambda path, offset: Path(path).read_bytes()


# A pool that is made and used outside the main thread; its worker reads a FIFO for ever.
STUCK = """
    import os, pathlib, threading
    import iters.workers
    iters.workers._BOOT = iters.workers._BOOT.replace(
        "main()", "import test_workers; test_workers.read_plainly(); main()"
    )
    from test_workers import make_pool, write_rows, Task, worker_processes
    def read():
        pool = make_pool("process", 1)
        (row,) = write_rows(pathlib.Path("."), [b"1"])
        os.unlink(row.image)
        os.mkfifo(row.image)
        pathlib.Path("pids.new").write_text(" ".join(map(str, worker_processes())))
        os.rename("pids.new", "pids")
        pool.submit(Task(0, 0, [row]))
        pool.receive()
    threading.Thread(target=read).start()
"""


def test_a_worker_that_reads_for_ever_ends_with_its_caller(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(STUCK))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, env=environment)
    fifo = None
    deadline = time.monotonic() + 300
    while fifo is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        with contextlib.suppress(OSError):  # until the worker has opened the other end
            fifo = os.open(tmp_path / "0.bin", os.O_WRONLY | os.O_NONBLOCK)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    try:
        assert len(pids) == 1 and running(pids[0])
        process.kill()
        process.wait()
        assert gone(pids)
    finally:
        os.close(fifo)


def test_waiting_long_says_for_what(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(workers, "_PATIENCE_SECONDS", 0.05)
    pool = make_pool("thread", 1)
    try:
        pool.submit(Task(0, 0, write_rows(tmp_path, [b"slow"])))
        with caplog.at_level(logging.WARNING):
            receive_all(pool, 1)
    finally:
        pool.close()
    assert "no image for 0.05 seconds: workers are busy with image-0.jpg" in caplog.text


def test_a_signal_that_another_thread_takes_ends_the_wait(tmp_path):
    """As one that comes when the main thread is about to wait, it ends none of its calls."""

    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    pool, seen, missed = make_pool("thread", 1), threading.Event(), []

    def interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        if not seen.wait(20):
            missed.append(signal.SIGTERM)
            pool.submit(Task(0, 0, write_rows(tmp_path, [b"image"])))

    thread = threading.Timer(0.5, interrupt)
    thread.start()
    before = signal.signal(signal.SIGTERM, stop)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # other threads have none
    try:
        with pytest.raises(Stopped):
            pool.receive()
        seen.set()
        thread.join()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, before)
        pool.close()
    assert not missed


def test_job_survives_pickling():
    job = make_job(3, augmentation=pickle.loads)
    assert pickle.loads(pickle.dumps(job)) == job

"""`ademx launch` with real schedulers, servers and workers: what they say, and what is left."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import make_runner
from fake_workers import wait_until

from ademx.cli import main
from ademx.engines import backends
from ademx.gpus import Gpu
from ademx.training.launch import launch

pytest.importorskip("mxnet")

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes are counted in /proc"
)

# Every worker adds 1 + its rank; the sum says that both took part.
MEETS = """
import ademx
from ademx.compat import import_mxnet
mx = import_mxnet()
store = mx.kv.create("dist_sync")
store.init("sum", mx.nd.zeros(1))
value = mx.nd.array([1 + store.rank])
store.pushpull("sum", value)
print("rank", store.rank, "of", store.num_workers, "found", int(value.asscalar()), flush=True)
"""
# Workers that need no MXNet: `PORT` is higher for the later ones, the marker is for finding them.
WAITS = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
folder = Path(sys.argv[1])
def leave(number, frame):
    (folder / f"saved-{os.getpid()}").touch()
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, leave)
(folder / f"worker-{os.getpid()}").touch()
time.sleep(60)
"""


def start(code, *arguments, workers=2, grace=60):
    """Start a launcher that runs `code` as its workers, with a mark in their environment."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    main = f"import sys; from ademx.training.launch import launch; sys.exit(launch({command!r}, "
    main += f"workers={workers}, servers=1, grace={grace}))"
    mark = f"launched-{os.getpid()}-{time.monotonic_ns()}"
    launcher = subprocess.Popen(
        [sys.executable, "-c", main],
        env={**os.environ, "ADEMX_TEST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return launcher, mark


def left(mark):
    """Return the command lines of processes, but for zombies, that carry the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended, or is another user's
            pass
    return found


def workers_of(folder):
    return sorted(int(path.name.partition("-")[2]) for path in folder.glob("worker-*"))


def finish(launcher, mark):
    output, errors = launcher.communicate(timeout=300)
    wait_until(lambda: not left(mark))
    return output, errors


def test_servers_update_by_the_projects_optimiser():
    code = """if True:
        from ademx.compat import import_mxnet
        mx = import_mxnet()
        from ademx.optimizer import TorchNesterov
        store = mx.kv.create("dist_async")
        weight = mx.nd.ones(1)
        store.init("weight", weight)
        rate = dict(learning_rate=0.1, momentum=0.5, wd=0.0)
        store.set_optimizer(TorchNesterov(**rate))
        store.push("weight", mx.nd.ones(1))
        store.pull("weight", out=weight)
        print(round(float(weight.asscalar()), 6))
    """
    launcher, mark = start(code, workers=1)
    output, errors = finish(launcher, mark)
    assert (launcher.returncode, output) == (0, "0.85\n"), errors  # 1 − 0.1·(1 + 0.5·1)


def test_a_worker_that_fails_ends_all_with_its_status(tmp_path):
    # The one with the mark file fails, whichever comes first; the other would stay.
    code = f"""if True:
        import os, sys, time
        try:
            os.close(os.open({str(tmp_path / "mark")!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            sys.exit(3)
        time.sleep(600)
    """
    launcher, mark = start(code)
    _, errors = finish(launcher, mark)
    assert launcher.returncode == 3
    assert "ended: exit status 3" in errors


def test_a_worker_that_is_killed_ends_all(tmp_path):
    launcher, mark = start(WAITS, tmp_path)
    wait_until(lambda: len(workers_of(tmp_path)) == 2)
    os.kill(workers_of(tmp_path)[1], signal.SIGKILL)
    _, errors = finish(launcher, mark)
    assert launcher.returncode == 128 + signal.SIGKILL
    assert "ended: killed by SIGKILL" in errors


def test_a_server_that_is_killed_ends_all(tmp_path):
    launcher, mark = start(WAITS, tmp_path)
    wait_until(lambda: len(workers_of(tmp_path)) == 2)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    (victim, *_) = set(map(int, children)) - set(workers_of(tmp_path))
    os.kill(victim, signal.SIGKILL)
    _, errors = finish(launcher, mark)
    assert launcher.returncode == 128 + signal.SIGKILL
    assert "a KVStore server ended: killed by SIGKILL" in errors


def test_a_worker_that_raises_does_not_wait_for_the_others():
    # MXNet would have it wait at its end for the other, which waits for its array.
    code = """if True:
        from ademx.engines.mxnet.train import MxnetWorkers, mx
        with MxnetWorkers("dist_sync", 1) as workers:
            workers.kvstore.init("sum", mx.nd.zeros(1))
            if workers.rank == 1:
                raise OSError("the disk is full")
            array = mx.nd.zeros(1)
            workers.add_up("sum", [array])
            array.wait_to_read()
    """
    launcher, mark = start(code)
    _, errors = finish(launcher, mark)
    assert launcher.returncode == 1
    assert "[worker 1] OSError: the disk is full" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_every_worker_which_may_save(number, tmp_path):
    launcher, mark = start(WAITS, tmp_path)
    wait_until(lambda: len(workers_of(tmp_path)) == 2)
    launcher.send_signal(number)
    finish(launcher, mark)
    assert launcher.returncode == 128 + number
    assert len(list(tmp_path.glob("saved-*"))) == 2


def test_a_second_signal_ends_workers_that_do_not(tmp_path):
    launcher, mark = start(WAITS.replace("sys.exit(128 + number)", "pass"), tmp_path)
    wait_until(lambda: len(workers_of(tmp_path)) == 2)
    launcher.send_signal(signal.SIGTERM)
    wait_until(lambda: len(list(tmp_path.glob("saved-*"))) == 2)
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGTERM)
    finish(launcher, mark)
    assert launcher.returncode == 128 + signal.SIGTERM


def test_the_second_hangup_of_a_closed_terminal_lets_workers_save(tmp_path):
    wait = "[time.sleep(0.01) for _ in iter((folder / 'may').exists, True)]"
    slow = f"(folder / 'told').touch(); {wait}; (folder"
    launcher, mark = start(WAITS.replace("(folder", slow, 1), tmp_path)
    wait_until(lambda: len(workers_of(tmp_path)) == 2)
    launcher.send_signal(signal.SIGHUP)
    wait_until((tmp_path / "told").exists)
    launcher.send_signal(signal.SIGHUP)
    time.sleep(0.5)  # in which it would end them
    (tmp_path / "may").touch()
    finish(launcher, mark)
    assert launcher.returncode == 128 + signal.SIGHUP
    assert len(list(tmp_path.glob("saved-*"))) == 2


@pytest.mark.parametrize("stuck", ["deaf", "stopped"])
def test_one_signal_ends_workers_that_hang_when_the_grace_is_over(tmp_path, stuck):
    code = WAITS.replace("sys.exit(128 + number)", "pass") if stuck == "deaf" else WAITS
    launcher, mark = start(code, tmp_path, grace=0.5)
    wait_until(lambda: len(workers_of(tmp_path)) == 2)
    if stuck == "stopped":
        for worker in workers_of(tmp_path):
            os.kill(worker, signal.SIGSTOP)
    launcher.send_signal(signal.SIGTERM)
    _, errors = finish(launcher, mark)
    assert launcher.returncode == 128 + signal.SIGTERM
    assert "workers have not ended in 0.5 s" in errors


def test_nothing_outlives_a_killed_launcher(tmp_path):
    launcher, mark = start(WAITS, tmp_path)
    wait_until(lambda: len(workers_of(tmp_path)) == 2)
    assert len(left(mark)) == 5  # launcher, scheduler, server, two workers
    launcher.kill()
    finish(launcher, mark)


def test_children_of_workers_end_too(tmp_path):
    code = "import subprocess, sys; subprocess.Popen(['sleep', '60']); sys.exit(4)"
    launcher, mark = start(code)
    finish(launcher, mark)
    assert launcher.returncode == 4


@pytest.mark.parametrize(("workers", "servers"), [(0, 1), (1, 0)])
def test_there_must_be_someone(workers, servers):
    with pytest.raises(ValueError, match=f"{workers} workers, {servers} servers: expected at"):
        launch(["true"], workers=workers, servers=servers)


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}: Address.*another --scheduler-port"):
            launch(["true"], workers=1, servers=1, scheduler_port=port)


def test_a_machine_that_does_not_answer_itself_is_told_to(monkeypatch):
    def unreachable(address, timeout):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(OSError, match=r"127.0.0.1: Network is unreachable: .*`ip link set lo up`"):
        launch(["true"], workers=1, servers=1)


def test_threads_that_are_no_number_start_nothing(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "foo")
    with pytest.raises(ValueError, match="OMP_NUM_THREADS='foo'"):
        launch(["true"], workers=1, servers=1)


def test_a_command_that_does_not_exist_leaves_nothing():
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        launch(["no-such-program"], workers=1, servers=1)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    assert not [
        child
        for child in children
        if "ademx.training.launch" in Path(f"/proc/{child}/cmdline").read_text()
    ]


def test_the_command_runs_ademx_as_its_workers():
    launcher = subprocess.run(
        [sys.executable, "-m", "ademx", "launch", "--", "--version"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launcher.returncode == 0, launcher.stderr
    assert launcher.stdout.startswith("ademx, version")
    assert "[worker 1] ademx, version" in launcher.stderr


def test_the_command_refuses_workers_that_would_not_meet():
    result = make_runner().invoke(main, ["launch", "--", "train", "segmentation"])
    assert result.exit_code == 2
    assert "without --kvstore dist_sync" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "on_gpus", "expected"),
    [
        ([], True, None),  # PyTorch's workers have no servers
        ([], False, 1),
        (["--gpus", "0,1"], True, None),
        (["--gpus="], True, 1),
        (["--cpus", "2"], True, 1),
        (["--backend", "mxnet"], True, 1),
        (["--backend=torch"], False, None),
        (["--precision", "no such", "--backend", "torch"], False, None),
    ],
    ids=str,
)
def test_the_command_finds_the_engine_as_train_does(arguments, on_gpus, expected, monkeypatch):
    """On a machine with two GPUs that MXNet has no code for, or with none."""
    pytest.importorskip("torch")
    found, started = [Gpu(number, "NVIDIA H100", (9, 0)) for number in range(2)], []
    monkeypatch.setattr(backends, "find_gpus", lambda: found if on_gpus else [])
    cuda = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True))
    monkeypatch.setattr(backends, "import_torch", lambda: cuda)
    monkeypatch.setattr(
        "ademx.cli.launch.run", lambda *_, servers, **others: started.append(servers) or 0
    )
    command = ["launch", "--", "train", "segmentation", "--kvstore", "dist_sync", *arguments]
    result = make_runner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert started == [expected]


def test_what_all_workers_find_wrong_is_told_once(tmp_path):
    places = ("--data-root", tmp_path, "--output", tmp_path / "out", "--to-epoch", "1")
    command = ["train", "segmentation", "--model", "voc_rna-a1_cls21_s8", *places]
    launcher = subprocess.run(
        [sys.executable, "-m", "ademx", "launch", "--workers", "3", "--", *map(str, command)]
        + ["--backend", "torch", "--lr-type", "cosine"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launcher.returncode == 2
    assert (launcher.stdout + launcher.stderr).count("'cosine' is not one of") == 1


@pytest.mark.parametrize("launcher", ["torchrun", "srun", "a batch script"])
def test_workers_of_other_launchers_tell_it_once_too(launcher, tmp_path):
    """Each worker on this machine ends alike; what only one of them finds is told by that one."""
    common = {
        "torchrun": {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "3", "MASTER_PORT": "29500"},
        "srun": {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3"},
        "a batch script": {"SLURM_JOB_ID": "7"},
    }[launcher]
    found = [
        subprocess.run(
            [sys.executable, "-m", "ademx", "weights", "show", str(tmp_path / name)],
            env={**os.environ, **common, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        for name in ("a.params", "a.params", "b.params")
    ]
    assert [one.returncode for one in found] == [2] * 3
    told = ["does not exist" in one.stderr for one in found]
    assert told == [True, launcher == "a batch script", True]


def test_the_slurm_script_gives_each_node_its_roles(tmp_path):
    """Stand-ins for Slurm's programs and for Python, which writes down how it was called."""
    programs = {
        "scontrol": 'echo "localhost\nnode-b"',
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\n'
        'for n in 0 1; do SLURM_PROCID=$n "$@" & done; wait; sleep 0.2',
        "python": 'echo "$DMLC_ROLE $DMLC_PS_ROOT_URI:$DMLC_PS_ROOT_PORT '
        '$DMLC_NUM_WORKER $DMLC_NUM_SERVER $*"',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "ADEMX_PYTHON": str(tmp_path / "python"),
        "SLURM_JOB_NODELIST": "all",
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NUM_NODES": "2",
    }
    script = Path(__file__).parent.parent / "tools" / "slurm_train.sh"
    result = subprocess.run(
        ["sh", script, "segmentation", "--model", "a b"],
        capture_output=True,
        text=True,
        env=environment,
    )
    common = "127.0.0.1:24567 2 2"
    serve = "-c from ademx.engines.mxnet.server import serve; serve()"
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == [
        f"scheduler {common} {serve}",
        *[f"server {common} {serve}"] * 2,
        *[f"worker {common} -m ademx train segmentation --model a b"] * 2,
    ]


def test_workers_meet_worker_0_is_heard_as_it_is_and_servers_leave_signals_to_them(tmp_path):
    code = MEETS.replace(
        "store.init",
        f"""
import os, pathlib, time
(pathlib.Path({str(tmp_path)!r}) / f"worker-{{os.getpid()}}").touch()
while not pathlib.Path({str(tmp_path / "go")!r}).exists():
    time.sleep(0.02)
store.init""",
        1,
    )
    launcher, mark = start(code)
    wait_until(lambda: len(workers_of(tmp_path)) == 2)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    for service in set(map(int, children)) - set(workers_of(tmp_path)):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(service, number)
    (tmp_path / "go").touch()
    output, errors = finish(launcher, mark)
    assert (launcher.returncode, output) == (0, "rank 0 of 2 found 3\n"), errors
    assert "[worker 1] rank 1 of 2 found 3\n" in errors

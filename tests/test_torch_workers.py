"""PyTorch's workers: where they stand, what they add up, and what is left when one dies."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch_updates
from fake_workers import wait_until
from tiny_training import (
    CLASSIFIER,
    assert_same_bits,
    classification,
    classification_options,
    interrupt_at,
    make_data,
    weights,
)

from ademx.devices import Devices
from ademx.engines.backends import check_backend
from ademx.training import checkpoints, run
from ademx.training.run import train

pytest.importorskip("mxnet")
pytest.importorskip("torch")

import torch

from ademx.engines.torch import workers
from ademx.engines.torch.workers import Place, TorchWorkers, find_place, own_devices

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
# Trainings whose weights hardly depend on roundings.
CALM = {"frozen_statistics": True, "base_lr": 1e-3}


@pytest.fixture
def photos(tmp_path):
    return make_data(tmp_path / "photos", task="classification")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


# --- where a worker stands ----------------------------------------------------------------------

TORCHRUN = {
    **{"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    **{"MASTER_ADDR": "node-a", "MASTER_PORT": "1234"},
}
SLURM = {
    **{"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8"},
    **{
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NODELIST": "node[003-004,7]",
        "SLURM_JOB_ID": "74567",
    },
}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        (TORCHRUN, Place(5, 8, 1, 4, "node-a", 1234)),
        (SLURM, Place(5, 8, 1, 4, "node003", 24567)),
        ({**SLURM, "SLURM_STEP_NODELIST": "a-1,b[1-2]"}, Place(5, 8, 1, 4, "a-1", 24567)),
        ({**SLURM, "SLURM_STEP_NODELIST": "n[7,9].lan"}, Place(5, 8, 1, 4, "n7.lan", 24567)),
        ({**SLURM, "MASTER_ADDR": "x", "MASTER_PORT": "9"}, Place(5, 8, 1, 4, "x", 9)),
        # What a batch script itself sees, which is no step.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, Place()),
        ({**SLURM, **TORCHRUN}, Place(5, 8, 1, 4, "node-a", 1234)),
    ],
)
def test_a_worker_finds_its_place_as_its_launcher_says(environment, place):
    assert find_place(environment) == place


def test_a_place_that_is_no_number_is_named():
    with pytest.raises(ValueError, match="RANK='x': expected a number"):
        find_place({**TORCHRUN, "RANK": "x"})


@pytest.mark.parametrize(
    ("asked", "found", "expected"),
    [
        (None, 4, Devices(gpus=(1,))),  # each its own, by its number on the machine
        (None, 1, Devices(gpus=(0,))),  # Slurm shows a task its own GPU alone
        (None, 0, Devices()),
        (Devices(gpus=(4, 5, 6, 7)), 8, Devices(gpus=(5,))),
        (Devices(gpus=tuple(range(8))), 8, Devices(gpus=(2, 3))),
        (Devices(cpus=2), 8, Devices(cpus=2)),
    ],
)
def test_workers_of_a_machine_share_its_gpus(monkeypatch, asked, found, expected):
    monkeypatch.setattr(workers.torch.cuda, "device_count", lambda: found)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert own_devices(asked) == expected


def test_gpus_that_cannot_be_shared_are_refused(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"--gpus 0,1: 4 workers of this machine share them: name"):
        own_devices(Devices(gpus=(0, 1)))


@pytest.mark.parametrize(
    ("kvstore", "message"),
    [
        ("nccl", "--kvstore nccl: it is for GPUs: leave it out"),
        ("dist_async", "--kvstore dist_async: PyTorch's workers are synchronous"),
        ("dist_sync", "not one of several workers .WORLD_SIZE is None.; start it by `ademx launch"),
    ],
)
def test_what_there_is_not_is_refused_in_a_line(kvstore, message):
    with pytest.raises(ValueError, match=message):
        TorchWorkers(kvstore, Devices())


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2"}, "torchrun"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "srun"),
    ],
)
def test_mxnet_is_not_taken_for_workers_that_it_does_not_know(
    environment, launcher, photos, tmp_path, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    message = rf"{launcher} has started 2 workers, .* alone by MXNet: add --backend torch"
    with pytest.raises(ValueError, match=message):
        train(classification(photos, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_one_task_of_slurm_trains_by_mxnet_and_so_do_those_with_roles(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    check_backend("mxnet", "mxnet", Devices(), precision="float32")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("DMLC_ROLE", "worker")  # of tools/slurm_train.sh
    check_backend("mxnet", "mxnet", Devices(), precision="float32")


def test_a_gpu_or_an_address_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="--gpus 7: PyTorch"):
        TorchWorkers("device", Devices(gpus=(7,)))
    for name, value in {**TORCHRUN, "MASTER_ADDR": "no-such-host.invalid"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match=r"MASTER_ADDR='no-such-host\.invalid': expected the machi"
    ):
        TorchWorkers("device", Devices())


def test_a_signal_ends_a_worker_that_waits_for_the_others(photos, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:  # which never says a word
        place = {**TORCHRUN, "MASTER_ADDR": "127.0.0.1"}
        place["MASTER_PORT"] = str(server.getsockname()[1])
        waiting = subprocess.Popen(
            [sys.executable, *command(photos, tmp_path / "out")],
            env={**os.environ, **place},
            stderr=subprocess.PIPE,
            text=True,
        )
        server.accept()  # it is waiting from here on
        waiting.terminate()
        assert waiting.wait(60) == -signal.SIGTERM
        waiting.communicate()


# --- what they compute --------------------------------------------------------------------------


@pytest.fixture
def hosts():
    """Return a function that puts a command onto one of two machines, joined by a cable.

    They are network namespaces, whose machines' names stand for no address.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2's `ip`")
    names = [f"ademx-{os.getpid()}-{number}" for number in range(2)]

    def ip(arguments):
        subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, text=True)

    try:
        try:
            for name in names:
                ip(f"netns add {name}")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr}")
        ip(f"-n {names[0]} link add eth7 type veth peer name eth8 netns {names[1]}")
        for number, name in enumerate(names):
            ip(f"-n {name} addr add 10.9.0.{1 + number}/24 dev eth{7 + number}")
            ip(f"-n {name} link set eth{7 + number} up")
            ip(f"-n {name} link set lo up")
        rename = ["unshare", "--uts", "sh", "-c", 'hostname nameless && exec "$@"', "sh"]
        yield lambda number, command: ["ip", "netns", "exec", names[number], *rename, *command]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def test_workers_of_two_machines_meet(hosts):
    code = (
        "from ademx.devices import Devices; from ademx.engines.torch.workers import TorchWorkers\n"
        "with TorchWorkers('local', Devices()) as workers: print(workers.gather('', workers.rank))"
    )
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "10.9.0.1", "MASTER_PORT": "29500"}
    started = [
        subprocess.Popen(
            hosts(rank, [sys.executable, "-c", code]),
            env={**os.environ, **environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        assert [process.communicate(timeout=60)[0] for process in started] == ["[0, 1]\n"] * 2
    finally:
        for process in started:
            process.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for its interfaces")
def test_worker_0_is_not_bound_to_its_name_for_itself(monkeypatch):
    addresses = {"node-a": "127.0.1.1", workers._ANYWHERE: "127.0.0.1", "gone": "192.0.2.7"}
    monkeypatch.setattr(workers, "_own_address", addresses.__getitem__)
    assert workers._interface_to_others(Place(0, 8, 0, 4, "node-a")) == "lo"
    # All on one machine may meet at any of its addresses, but no interface has this one.
    assert workers._interface_to_others(Place(0, 4, 0, 4, "node-a")) is None
    assert workers._interface_to_others(Place(0, 8, 0, 4, "gone")) is None


def by_srun(arguments):
    """Run a program as two workers, as Slurm would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": "1"}
    step |= {"SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": str(port)}
    tasks = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **step, "SLURM_PROCID": rank, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    ends = [(task.communicate(timeout=300)[1], task.returncode) for task in tasks]
    assert [status for _, status in ends] == [0, 0], ends


def by_torchrun(arguments):
    """Run a program as two workers by PyTorch's own launcher."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_two_workers_are_two_devices_of_mxnet_and_no_two_runs_differ(tmp_path):
    found = []
    for launch in (by_srun, by_torchrun):
        output = tmp_path / launch.__name__
        output.mkdir()
        launch([torch_updates.__file__, output])
        found.append({path.stem: dict(np.load(path)) for path in output.glob("*.npz")})
    assert found[0].keys() == found[1].keys() and len(found[0]) == 6
    assert [found[0][f"ranks-{rank}"]["ranks"].tolist() for rank in (0, 1)] == [[0, 1], [0, 1]]
    for name, arrays in found[0].items():
        for key, value in arrays.items():
            np.testing.assert_array_equal(value, found[1][name][key], err_msg=f"{name} {key}")
    for task in torch_updates.TASKS:
        trainer = torch_updates.open_one(
            task, images=torch_updates.SHAPE[0], backend="mxnet", devices=Devices(cpus=2)
        )
        steps = [trainer.step(data, label) for data, label in torch_updates.batches(task)]
        losses = [step.sums.loss for step in steps]
        parameters, devices = trainer.parameters()[0], trainer.statistics()
        for rank, statistics in enumerate(devices):
            worker = found[0][f"{task}-{rank}"]
            np.testing.assert_allclose(worker["losses"], losses, rtol=1e-4)
            for name, value in {**parameters, **statistics}.items():
                np.testing.assert_allclose(
                    worker[name], value, rtol=1e-4, atol=1e-4, err_msg=f"{task} {rank} {name}"
                )


# --- whole runs ---------------------------------------------------------------------------------


def command(data, output, **changes):
    """Return `ademx train` of a small classifier by PyTorch, as the command line has it."""
    options = classification_options(data, output, backend="torch", **changes)
    arguments = ["-m", "ademx", "train", "classification"]
    arguments += ["--cpus", "1"] if "devices" not in options else []
    for name, value in options.items():
        if name == "frozen_statistics":
            arguments.append("--frozen-statistics")
        else:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    return arguments


def processes(mark):
    """Return the workers that carry a mark in their environment: pid by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or is another user's
        if f"ADEMX_TEST_MARK={mark}".encode() in variables:
            rank = [one for one in variables if one.startswith(b"RANK=")]
            found[rank[0][5:].decode() if rank else "launcher"] = int(folder.name)
    return found


def test_a_worker_that_is_killed_ends_all_and_checkpoints_are_whole(photos, tmp_path):
    output, mark = tmp_path / "out", f"{os.getpid()}-{tmp_path.name}"
    arguments = command(photos, output, **CALM, batch_images=1, to_epoch=9999)
    launcher = subprocess.Popen(
        [sys.executable, "-m", "ademx", "launch", "--workers", "2", "--", *arguments[2:]],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ADEMX_TEST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: list(output.glob("*.state")) or launcher.poll() is not None)
    os.kill(processes(mark)["1"], signal.SIGKILL)
    _, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 128 + signal.SIGKILL, errors
    assert "worker 1 ended: killed by SIGKILL" in errors
    assert "Traceback" not in errors
    assert "gloo/" not in errors
    wait_until(lambda: not processes(mark))
    assert checkpoints.find_newest(output, CLASSIFIER) is not None
    record = json.loads((output / "run.json").read_text())
    assert (record["hardware"]["backend"], record["hardware"]["workers"]) == ("torch", 2)
    assert record["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("data", r"workers \[1\] have other data than worker 0: give all the same options, and"),
        ("options", r"workers \[1\] have other options than worker 0"),
        ("start", r"workers would start after \[0, 7\] updates: give all the same options"),
    ],
)
def test_workers_that_differ_are_told_so(photos, tmp_path, monkeypatch, changed, message):
    def gather(key, value):
        return [value, value + 7 * (key == changed)]

    others = SimpleNamespace(count=2, rank=0, synchronous=True, gather=gather)
    monkeypatch.setattr(run, "open_workers", lambda *_, **__: _Entered(others))
    with pytest.raises(ValueError, match=message):
        train(classification(photos, tmp_path / "out", backend="torch"))
    assert not list((tmp_path / "out").glob("*.json"))


@dataclasses.dataclass
class _Entered:
    value: object

    def __enter__(self):
        return self.value

    def __exit__(self, *exception):
        pass


@pytest.mark.parametrize("engines", [("mxnet", "torch"), ("torch", "mxnet")])
def test_one_engine_goes_on_with_what_the_other_has_begun(
    photos, tmp_path, monkeypatch, caplog, engines
):
    common = {**CALM, "devices": Devices(cpus=2), "lr_type": "linear"}
    whole = train(classification(photos, tmp_path / "whole", **common, backend=engines[1]))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        train(classification(photos, tmp_path / "parts", **common, backend=engines[0]))
    options = classification(photos, tmp_path / "parts", **common, backend=engines[1], resume=True)
    resumed = train(options)
    assert "results will differ in their last digits" in caplog.text
    for name, value in weights(whole.params_path).items():
        np.testing.assert_allclose(weights(resumed.params_path)[name], value, atol=1e-5)
    # And from the same engine's to the bit.
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        train(classification(photos, tmp_path / "same", **common, backend=engines[1]))
    options = dataclasses.replace(options, output=tmp_path / "same")
    assert_same_bits(whole.params_path, train(options).params_path)


def test_it_trains_where_mxnet_is_not_installed(photos, tmp_path):
    arguments = command(photos, tmp_path / "out", to_epoch=1, batch_images=3)
    arguments[arguments.index("--backend") + 1] = "auto"
    code = f"""if True:
        import sys
        sys.modules["mxnet"] = None  # as if it were not there
        if __name__ == "__main__":
            from ademx.cli import main
            main({arguments[2:]!r}, prog_name="ademx")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--backend auto: PyTorch computes" in done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "out" / f"{CLASSIFIER}_ep-0001.params"
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["update", "update", "epoch"]

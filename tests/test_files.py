"""Files: replacing them whole, and locks on folders."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import tarfile
import threading

import pytest

from ademx.data.lists.label_files import read_matlab
from ademx.data.lists.write import make_lists
from ademx.devices import Devices
from ademx.engines.onnx.predict import OnnxPredictor
from ademx.files import locked, replacing

WRITE = """
import sys, time
from ademx.files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half" * 1000)
    file.flush()
    print("written", flush=True)
    sys.stdin.readline()
"""
HOLD = """
import sys, time
from ademx.data.lists.label_files import read_matlab
from ademx.data.lists.write import make_lists
from ademx.files import locked
with locked(sys.argv[1], "--output"):
    print("locked", flush=True)
    time.sleep(60)
"""
COUNT = """
import sys
from pathlib import Path
from ademx.data.lists.label_files import read_matlab
from ademx.data.lists.write import make_lists
from ademx.files import locked
for _ in range(100):
    with locked(sys.argv[1], "--output", wait=True):
        total = Path(sys.argv[1], "total")
        total.write_text(str(int(total.read_text()) + 1))
"""


def start(script, folder):
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def test_the_file_is_named_as_others_are(tmp_path):
    with replacing(tmp_path / "a.tar.gz") as file, tarfile.open(fileobj=file, mode="w:gz"):
        assert str(tmp_path) in file.name
    assert tarfile.is_tarfile(tmp_path / "a.tar.gz")


def test_an_error_of_whoever_writes_is_not_the_files(tmp_path):
    target = tmp_path / "train.rec"
    target.write_bytes(b"old")
    with pytest.raises(FileNotFoundError, match=r"No such file.*missing\.jpg'$"):  # noqa: SIM117
        with replacing(target) as outer, replacing(tmp_path / "train.idx") as inner:
            outer.write(b"new")
            inner.write((tmp_path / "missing.jpg").read_bytes())
    with pytest.raises(OSError, match=r"^image file is truncated$"), replacing(target) as outer:
        outer.write(b"new")
        raise OSError("image file is truncated")  # as Pillow's, without a number or a file
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["train.rec"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_that_cannot_be_written_is_named_once(tmp_path, wrapped):
    """A limit on the size of files stands for a full disk; a library may wrap the error."""
    script = """
import resource, signal, sys
from ademx.files import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
with replacing(sys.argv[1]) as file:
    try:
        file.write(bytes(2 << 20))
    except OSError as error:
        raise RuntimeError("wrapped") if sys.argv[2] == "True" else error
"""
    target = tmp_path / "a.params"
    target.write_bytes(b"old")
    result = subprocess.run(
        [sys.executable, "-c", script, target, str(wrapped)],
        capture_output=True,
        text=True,
        check=False,
    )
    last = result.stderr.splitlines()[-1]
    assert last == f"OSError: [Errno 27] File too large; nothing was replaced: '{target}'"
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.params"]


def test_what_a_killed_process_left_is_used_up(tmp_path):
    target = tmp_path / "a.params"
    for _ in range(2):
        writer = start(WRITE, target)
        assert writer.stdout.readline() == "written\n"
        writer.kill()
        writer.communicate()
        assert len(names_in(tmp_path)) == 1
    with replacing(target) as file:
        file.write(b"whole")
    assert names_in(tmp_path) == ["a.params"]
    assert target.read_bytes() == b"whole"


def test_a_living_process_keeps_its_temporary_file(tmp_path):
    target = tmp_path / "a.params"
    writer = start(WRITE, target)
    assert writer.stdout.readline() == "written\n"
    with replacing(target) as file, replacing(target) as other:  # in one process too
        file.write(b"first")
        other.write(b"second")
    assert target.read_bytes() == b"first"
    writer.communicate("go on\n")
    assert writer.returncode == 0
    assert target.read_bytes() == b"half" * 1000
    assert names_in(tmp_path) == ["a.params"]


def test_without_locks_nothing_that_may_be_in_use_is_touched(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    target = tmp_path / "a"
    with replacing(target) as file, replacing(target) as other:
        file.write(b"first")
        other.write(b"second")
    assert target.read_bytes() == b"first"
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "n" * 244 + ".png"])
def test_a_name_may_be_as_long_as_the_file_system_has_them(tmp_path, name):
    with replacing(tmp_path / name) as file:
        file.write(b"1")
    assert names_in(tmp_path) == [name]


def test_a_folder_that_is_missing_or_in_the_way_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, message in (("none/a", "No such file"), ("folder", "directory")):
        with (
            pytest.raises(OSError, match=rf"{message}.*; nothing was replaced: .*{name}'"),
            replacing(tmp_path / name) as file,
        ):
            file.write(b"1")
    assert names_in(tmp_path) == ["folder"]


def test_a_link_in_the_temporary_files_place_is_not_followed(tmp_path):
    (tmp_path / "other").write_bytes(b"mine")
    with replacing(tmp_path / "a"):
        (partial,) = set(names_in(tmp_path)) - {"other"}
    (tmp_path / partial).symlink_to(tmp_path / "other")
    with replacing(tmp_path / "a") as file:
        file.write(b"1")
    assert (tmp_path / "other").read_bytes() == b"mine"
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    folder = tmp_path / "new" / "folder"
    holder = start(HOLD, folder)
    try:
        assert holder.stdout.readline() == "locked\n"
        with (
            pytest.raises(
                ValueError, match=rf"--output .*folder: process {holder.pid} on .* is at work in it"
            ),
            locked(folder, "--output"),
        ):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert list(folder.iterdir())  # what it left keeps nobody out
    with locked(folder, "--output"):
        pass
    assert list(folder.iterdir()) == []


def test_an_error_frees_the_folder_and_within_one_process_it_is_kept_too(tmp_path):
    with pytest.raises(KeyError, match="mine"), locked(tmp_path, "--output"):
        raise KeyError("mine")
    with (
        locked(tmp_path, "--output"),
        pytest.raises(ValueError, match=f"process {os.getpid()} on"),
        locked(tmp_path, "--output"),
    ):
        pass


def test_those_that_wait_are_let_in_one_by_one(tmp_path):
    (tmp_path / "total").write_text("0")
    processes = [start(COUNT, tmp_path) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    for process in processes:
        process.communicate()
    # Without the lock two read the same number, and sums are lost.
    assert (tmp_path / "total").read_text() == "300"
    assert [path.name for path in tmp_path.iterdir()] == ["total"]


def test_a_file_whose_holder_removed_it_meanwhile_locks_nobody(tmp_path, monkeypatch):
    """Between opening the file and locking it, another process may have been there and gone."""
    original, calls = fcntl.flock, []

    def flock(file, operation):
        calls.append(os.fstat(file).st_ino)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        original(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path, "--output"):
        assert len(calls) == 2
        assert (tmp_path / ".lock").stat().st_ino == calls[-1]


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), locked(tmp_path, "--output"):
        pass
    assert f"--output {tmp_path}: cannot be locked (No locks available)" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file", "--output"):
        pass


def test_threads_keep_each_other_out(tmp_path):
    entered, left, found = threading.Event(), threading.Event(), []

    def hold():
        with locked(tmp_path, "--output"):
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(10)
    with pytest.raises(ValueError, match="at work in it"), locked(tmp_path, "--output"):
        found.append("let in")
    left.set()
    thread.join()
    assert not found


def read_onnx(path):
    OnnxPredictor.from_onnx(path, devices=Devices())


def read_coco(path):
    (path.parent / "val2017").mkdir()
    (path.parent / "annotations").mkdir()
    path.rename(path.parent / "annotations" / "instances_val2017.json")
    make_lists("coco", path.parent)


@pytest.mark.parametrize("read", [read_onnx, read_coco, read_matlab])
def test_pipes_are_no_files_for_other_peoples_readers(tmp_path, read):
    """They would wait for ever for somebody to write into it."""
    os.mkfifo(tmp_path / "file")
    with pytest.raises(OSError, match="found a named pipe: expected a file"):
        read(tmp_path / "file")

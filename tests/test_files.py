"""Files: locks on folders."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

from ademx.files import locked

HOLD = """
import sys, time
from ademx.files import locked
with locked(sys.argv[1], "--output"):
    print("locked", flush=True)
    time.sleep(60)
"""
COUNT = """
import sys
from pathlib import Path
from ademx.files import locked
for _ in range(100):
    with locked(sys.argv[1], "--output", wait=True):
        total = Path(sys.argv[1], "total")
        total.write_text(str(int(total.read_text()) + 1))
"""


def start(script, folder):
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    )


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

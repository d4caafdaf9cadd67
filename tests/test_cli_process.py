"""The `ademx` command as a process: its standard streams, and signals that end it."""

import logging
import os
import shutil
import signal
import subprocess
import sys

import pytest

from ademx.cli.process import LogFormatter
from ademx.iteration import progress_bar

ADEMX = [sys.executable, "-m", "ademx"]


@pytest.fixture
def source(weights, tmp_path):
    """Return a folder with a file of weights."""
    shutil.copy(weights, tmp_path / "a.params")
    return tmp_path


def run_in_shell(arguments, redirection="", **environment):
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *ADEMX, *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("redirection", ["", "<&-", "2>&-", "<&- 2>&-", "2>/dev/full", "1>&-"])
def test_streams_that_are_closed_or_full_do_not_spoil_the_work(source, redirection):
    arguments = ["convert", source / "a.params", source / "b.safetensors"]
    result = run_in_shell(arguments, redirection)
    assert result.returncode == 0, result.stderr
    assert (source / "b.safetensors").stat().st_size > 100_000
    assert bool(result.stdout) == (redirection != "1>&-")


def test_messages_of_a_closed_stderr_do_not_end_up_in_a_file(source):
    """The first file that is opened would otherwise get its number."""
    script = """
import os
import click
from ademx.cli import main

@click.command()
@click.argument("path")
def write(path):
    with open(path, "wb") as file:
        os.write(2, b"a library's message")
        file.write(b"content")

main.get_command = lambda ctx, name: write
main()
"""
    command = [sys.executable, "-c", script, "write", source / "out"]
    subprocess.run(["bash", "-c", '"$@" <&- >&- 2>&-', "bash", *command], check=True)
    assert (source / "out").read_bytes() == b"content"


def test_a_full_stdout_is_named(source):
    result = run_in_shell(["weights", "list"], ">/dev/full")
    assert result.returncode == 1
    assert result.stderr == b"Error: [Errno 28] No space left on device: 'stdout'\n"


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    result = run_in_shell(["reproduce", "--list"], "| head -c 1")
    assert result.stdout == b"i"
    assert result.stderr == b""


@pytest.mark.parametrize(
    ("environment", "sign"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, b"1024\xd72048"),
        ({"PYTHONIOENCODING": "iso-8859-5"}, rb"1024\xd72048"),
        ({"LANG": "C", "LC_ALL": "C", "HOME": ""}, "1024×2048".encode()),
    ],
)
def test_what_an_encoding_lacks_is_escaped(environment, sign):
    result = run_in_shell(["reproduce", "--list"], **environment)
    assert (result.returncode, result.stderr) == (0, b"")
    assert sign in result.stdout


def test_errors_cannot_act_on_a_terminal(tmp_path):
    result = run_in_shell(["weights", "show", tmp_path / "a\x1b[2J_ep-0001.params"])
    assert result.returncode != 0
    assert b"\x1b" not in result.stderr
    assert rb"a\x1b[2J" in result.stderr


def test_a_log_line_cannot_be_forged():
    record = logging.LogRecord(
        "a", logging.ERROR, "f", 1, "left out: %s", ("a\x07\n12:00:00 INFO all is well",), None
    )
    text = LogFormatter("%(levelname)s %(message)s").format(record)
    assert text == "ERROR left out: a\\x07\n    12:00:00 INFO all is well"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_temporary_file(source, number):
    script = """
import os, sys, time
from ademx.cli import main

def fsync(file):
    print("writing", flush=True)
    time.sleep(60)

os.fsync = fsync
main(["convert", *sys.argv[1:]])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, source / "a.params", source / "b.safetensors"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"writing\n"
    assert len(list(source.iterdir())) == 2
    process.send_signal(number)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == (1 if number == signal.SIGINT else 128 + number)
    assert b"Traceback" not in stderr
    assert [path.name for path in source.iterdir()] == ["a.params"]


def test_an_ignored_signal_stays_ignored(source):
    """`nohup` has SIGHUP ignored."""
    script = """
import os, signal, sys
from ademx.cli import main
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGHUP)
main(["convert", *sys.argv[1:]])
"""
    command = [sys.executable, "-c", script, source / "a.params", source / "b.safetensors"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert (source / "b.safetensors").exists()


def test_progress_bars_need_no_stderr(monkeypatch):
    """A program without a console has none."""
    monkeypatch.setattr(sys, "stderr", None)
    for options in ({}, {"disable": False}, {"disable": None}):
        with progress_bar(total=2, unit="image", delay=0, **options) as bar:
            bar.update()
            bar.set_postfix(score="1")

"""Going through many items ahead of their use."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from ademx.iteration import prefetched

# Reads of a file server that does not answer never return, and cannot be interrupted.
WAITING = """
import os, signal, threading
from ademx.cli.process import unwinding
from ademx.iteration import prefetched

def read(item):
    os.write(1, b"reading\\n")  # at once: two threads do
    threading.Event().wait()

with unwinding():
    for _ in prefetched(range(9), read, threads=2):
        pass
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_and_not_far_ahead(threads):
    seen = []
    found = prefetched(iter(range(50)), lambda item: seen.append(item) or 2 * item, threads=threads)
    assert next(found) == (0, 0)
    assert max(seen) <= 2 * threads
    assert list(found) == [(item, 2 * item) for item in range(1, 50)]
    assert sorted(seen) == list(range(50))


def test_an_error_comes_in_its_turn():
    found = prefetched("ab1", int, threads=2)
    with pytest.raises(ValueError, match="'a'"):
        next(found)


def test_what_is_not_asked_for_is_not_begun():
    begun, may_go_on = [], threading.Event()
    found = prefetched(range(9), lambda item: begun.append(item) or may_go_on.wait(), threads=1)
    may_go_on.set()
    next(found)
    may_go_on.clear()
    found.close()  # while one is under way, which is not waited for
    before = len(begun)
    may_go_on.set()
    assert before == len(begun) < 9


def test_a_signal_does_not_wait_for_what_never_comes():
    process = subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"reading\n"
    process.terminate()
    process.wait(30)
    assert process.returncode == 143
    process.stdout.close()

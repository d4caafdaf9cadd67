"""Going through many items: ahead by threads, in groups, with a progress bar."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")


def prefetched(
    items: Iterable[T], function: Callable[[T], R], *, threads: int, ahead: int | None = None
) -> Iterator[tuple[T, R]]:
    """Yield items with their results in order, computed by threads a few items ahead.

    Where the caller goes on to something else, nothing waits for what is under way, nor does the
    end of the process: a file that does not answer could hold it up for ever.

    Args:
        items: what to work on.
        function: what to do with each; an exception is raised when its turn comes.
        threads: how many work at once.
        ahead: how many results wait at most; None for twice as many as threads.
    """
    ahead = 2 * threads if ahead is None else ahead
    jobs: SimpleQueue[tuple[T, Future[R]] | None] = SimpleQueue()
    pending: deque[tuple[T, Future[R]]] = deque()
    for _ in range(threads):
        Thread(target=_work, args=(jobs, function), daemon=True).start()
    try:
        source = iter(items)
        while True:
            for item in islice(source, ahead + 1 - len(pending)):
                pending.append((item, Future()))
                jobs.put(pending[-1])
            if not pending:
                return
            done, future = pending.popleft()
            yield done, _result(future)
    finally:
        for _, future in pending:
            future.cancel()
        for _ in range(threads):
            jobs.put(None)


def _result(future: Future[R]) -> R:
    """Wait for a result, waking now and then: a signal that comes as a wait begins is not seen."""
    while not future.done():
        wait([future], timeout=1)
    return future.result()


def _work(jobs: SimpleQueue[tuple[T, Future[R]] | None], function: Callable[[T], R]) -> None:
    """Compute what is put in a queue, up to None."""
    while (job := jobs.get()) is not None:
        item, future = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(item))
            except BaseException as error:
                future.set_exception(error)


def spread(items: Sequence[T], *, at_most: int) -> list[T]:
    """Return so many items, or all of fewer, that lie evenly over all of them."""
    number = min(len(items), at_most)
    return [items[place * len(items) // number] for place in range(number)]


def progress_bar(*, delay: float = 2, **options: Any) -> tqdm[Any]:
    """Return a progress bar on stderr, which tells a log file its state every 30 seconds.

    Args:
        delay: seconds before it shows: what is done sooner needs none.
        options: of `tqdm`.
    """
    # There is no stderr where a program has no console, or was started with it closed.
    interval = 0.1 if sys.stderr is not None and sys.stderr.isatty() else 30
    if sys.stderr is None:
        options["disable"] = True
    return tqdm(mininterval=interval, maxinterval=interval, smoothing=0, delay=delay, **options)


def grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`, the last one possibly shorter."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group

"""Going through many items: ahead by threads, in groups, with a progress bar."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")


def prefetched(
    items: Iterable[T], function: Callable[[T], R], *, threads: int
) -> Iterator[tuple[T, R]]:
    """Yield items with their results in order, computed by threads a few items ahead.

    Args:
        items: what to work on.
        function: what to do with each; an exception is raised when its turn comes.
        threads: how many work at once; up to twice as many results wait.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in items:
                pending.append((item, pool.submit(function, item)))
                if len(pending) > 2 * threads:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()


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
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group

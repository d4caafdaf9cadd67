"""Signals that are taken for a while in place of what they do by themselves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Union

Handler = Union[Callable[[int, Union[FrameType, None]], object], signal.Handlers]


def stopping_signals() -> list[signal.Signals]:
    """Return SIGINT, SIGTERM, and SIGHUP, of a closed terminal, unless `nohup` has it ignored."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # Windows has none
    return numbers


@contextmanager
def handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Have a handler take signals; in the main thread, which alone can."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers if is_main}
    try:
        yield
    finally:
        for number, owner in before.items():
            signal.signal(number, owner)

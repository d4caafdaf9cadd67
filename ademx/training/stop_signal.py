"""How a training is asked to stop: by signals, which let the update under way end first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from ademx.signals import handled, stopping_signals


class Interrupted(BaseException):
    """A signal to stop has come while something was waited for."""


class StopSignal(ExitStack):
    """Records SIGTERM, SIGHUP and Ctrl-C, whose second interrupts at once. A context manager.

    Args:
        patience: seconds from a signal to when it ends the waiting in `interrupting`.

    Attributes:
        number: number of the signal, once it has come.
        agreed: all workers know that they stop after the update that is under way.
    """

    def __init__(self, patience: float) -> None:
        super().__init__()
        self.number: int | None = None
        self.agreed = False
        self._patience = patience
        self._is_due = self._is_waiting = False

    def __enter__(self) -> StopSignal:
        self.enter_context(handled(stopping_signals(), self._record_signal))
        self.enter_context(handled([signal.SIGALRM], self._end_waiting))
        self.callback(signal.setitimer, signal.ITIMER_REAL, 0)
        return self

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise `Interrupted` in the block once a signal has come, whatever it waits for."""
        try:
            self._is_waiting = True
            if self._is_due:
                raise Interrupted
            yield
        finally:
            self._is_waiting = False

    def _record_signal(self, number: int, frame: FrameType | None) -> None:
        if self.number == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        if self._patience:
            signal.setitimer(signal.ITIMER_REAL, self._patience)
        else:
            self._end_waiting(number, frame)

    def _end_waiting(self, number: int, frame: FrameType | None) -> None:
        self._is_due = True
        if self._is_waiting:
            self._is_waiting = False  # once: what is waited for may have to be put in order
            raise Interrupted

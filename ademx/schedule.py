"""Learning rates as functions of the number of updates; no MXNet is needed.

A schedule is called with the number of updates that its run has counted and returns the rate. It
starts `offset` updates into the whole training: a resumed run goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from ademx.errors import InputError

LR_TYPES = ("fixed", "step", "linear")


@dataclass(frozen=True)
class StepSchedule:
    """A rate that falls to a tenth at given updates.

    Attributes:
        steps: numbers of updates, rising; update `step` (from 0) is the first with a lower rate.
            Without any the rate is the same throughout.
        base_lr: the rate before the first step.
        offset: updates of the whole training that come before this run.
    """

    steps: tuple[int, ...]
    base_lr: float
    offset: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, default=1) < 1 or list(self.steps) != sorted(set(self.steps)):
            raise InputError(f"steps {self.steps}: expected rising numbers of updates, 1 or more")

    def __call__(self, num_update: int) -> float:
        """Return the rate after `num_update` updates."""
        passed = sum(self.offset + num_update >= step for step in self.steps)
        return self.base_lr * 0.1**passed


class LinearSchedule:
    """A rate that falls in a straight line: base · (1 − n / total), never below a floor.

    MXNet's optimisers set `base_lr` where they are given a `learning_rate` too.

    Args:
        total: updates after which the line reaches 0. For a whole training it is one more than
            its updates, so that the last one still moves.
        stop_lr: the floor.
        offset: updates of the whole training that come before this run.
        base_lr: the rate at the start of the whole training.

    Raises:
        ValueError: `total` is below 1.

    Source: ademxapp:util/lr_scheduler.py, LinearScheduler.
    """

    def __init__(
        self, total: int, *, stop_lr: float = 1e-6, offset: int = 0, base_lr: float = 0.1
    ) -> None:
        if total < 1:
            raise InputError(f"total {total}: expected a number of updates, 1 or more")
        self.total = total
        self.stop_lr = stop_lr
        self.offset = offset
        self.base_lr = base_lr

    def __call__(self, num_update: int) -> float:
        """Return the rate after `num_update` updates."""
        rate = self.base_lr * (1 - (self.offset + num_update) / self.total)
        return max(rate, self.stop_lr)


Schedule = Union[StepSchedule, LinearSchedule]


def make_schedule(
    lr_type: str,
    *,
    base_lr: float,
    num_updates: int,
    offset: int = 0,
    stop_lr: float = 1e-6,
    steps: tuple[int, ...] = (),
) -> Schedule:
    """Return the schedule of a training.

    Args:
        lr_type: "fixed", "step" or "linear".
        base_lr: the rate at the start of the whole training.
        num_updates: updates of the whole training.
        offset: updates that come before this run.
        stop_lr: the floor of "linear".
        steps: where "step" falls to a tenth, updates of the whole training.

    Raises:
        ValueError: an unknown type, "step" without steps, or steps without "step".
    """
    if lr_type not in LR_TYPES:
        raise InputError(f"--lr-type {lr_type!r}: choose one of {', '.join(LR_TYPES)}")
    if bool(steps) != (lr_type == "step"):
        raise InputError(f"--lr-type {lr_type} with --lr-steps {steps}: give both or neither")
    if lr_type == "linear":
        return LinearSchedule(num_updates + 1, stop_lr=stop_lr, offset=offset, base_lr=base_lr)
    return StepSchedule(steps, base_lr, offset=offset)

"""Learning rates, against the release's numbers and arithmetic by hand."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ademx.schedule import LinearSchedule, StepSchedule, make_schedule


@pytest.mark.parametrize("case", ["from start", "resumed"])
def test_linear_schedule_gives_the_releases_rates(golden, case):
    stored = np.load(golden / "linear_schedule.npz")
    schedule = LinearSchedule(
        int(stored[f"{case}/updates"]),
        stop_lr=float(stored[f"{case}/stop_lr"]),
        offset=int(stored[f"{case}/offset"]),
        base_lr=float(stored[f"{case}/base_lr"]),
    )
    expected = stored[f"{case}/lr"]
    found = [schedule(count) for count in range(len(expected))]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_linear_run_in_two_parts_has_the_rates_of_one():
    whole = make_schedule("linear", base_lr=0.1, num_updates=10)
    rest = make_schedule("linear", base_lr=0.1, num_updates=10, offset=6)
    assert [rest(count) for count in range(6)] == [whole(6 + count) for count in range(6)]
    # The line reaches 0 at 11: the last of ten updates has a tenth of the way left, by hand.
    assert whole(9) == pytest.approx(0.1 * 2 / 11, rel=1e-12)


def test_steps_cut_the_rate_to_a_tenth_from_that_update_on():
    schedule = make_schedule("step", base_lr=1.0, num_updates=9, steps=(2, 5))
    assert [schedule(n) for n in range(7)] == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    resumed = StepSchedule((2, 5), 1.0, offset=4)
    assert [resumed(n) for n in range(2)] == pytest.approx([0.1, 0.01])


def test_fixed_never_moves():
    assert make_schedule("fixed", base_lr=0.3, num_updates=5, offset=3)(10**6) == 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr_type": "cosine"}, "'cosine': choose one of fixed, step, linear"),
        ({"lr_type": "step"}, "give both or neither"),
        ({"lr_type": "linear", "steps": (3,)}, "give both or neither"),
        ({"lr_type": "step", "steps": (5, 2)}, "expected rising numbers"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(base_lr=0.1, num_updates=10, **arguments)


def test_total_below_one_is_refused():
    with pytest.raises(ValueError, match="total 0: expected a number of updates"):
        LinearSchedule(0)


def test_a_linear_schedules_numbers_are_told_apart_by_name():
    with pytest.raises(TypeError, match="positional"):
        LinearSchedule(9, 0.1)  # a base rate or a floor?


def test_schedules_survive_the_way_to_a_server():
    for schedule in (StepSchedule((), 0.1), StepSchedule((3,), 0.1), LinearSchedule(9, offset=2)):
        copy = pickle.loads(pickle.dumps(schedule, 0))
        assert [copy(n) for n in range(5)] == [schedule(n) for n in range(5)]

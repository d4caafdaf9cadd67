"""Orders of an epoch and batches of a part, against counting by hand."""

import numpy as np
import pytest

from iters.samplers import Schedule, epoch_order


def order(sampler, labels, seed=0, epoch=0):
    return epoch_order(sampler, labels, seed=seed, epoch=epoch).tolist()


def test_fixed_keeps_the_order():
    assert order("fixed", [5, 6, 7], seed=3, epoch=4) == [0, 1, 2]


def test_shuffled_visits_every_sample_once_and_differs_by_seed_and_epoch():
    orders = {(s, e): order("shuffled", range(50), s, e) for s in (0, 1) for e in (0, 1)}
    assert all(sorted(one) == list(range(50)) for one in orders.values())
    assert len({tuple(one) for one in orders.values()}) == 4
    assert order("shuffled", range(50), 1, 1) == orders[1, 1]


def test_shuffled_puts_each_sample_everywhere_equally_often():
    firsts = [order("shuffled", range(5), epoch=epoch)[0] for epoch in range(2000)]
    # 400 expected of each; the standard deviation is √(2000·0.2·0.8) = 18.
    assert np.abs(np.bincount(firsts, minlength=5) - 400).max() < 90


def test_balanced_draws_each_class_once_in_every_run_of_as_many_positions():
    labels = np.array([3] * 14 + [7] * 4 + [9] * 3)
    drawn = labels[order("balanced", labels.tolist(), seed=1)]
    assert len(drawn) == 21
    assert all(sorted(run) == [3, 7, 9] for run in drawn.reshape(7, 3).tolist())


def test_balanced_uses_all_samples_of_a_class_before_one_comes_again():
    labels = [0] * 18 + [1] * 3 + [2] * 3
    drawn = order("balanced", labels)  # 24 positions: 8 of each class
    ones = [sample for sample in drawn if labels[sample] == 1]
    assert [sorted(ones[start : start + 3]) for start in (0, 3)] == [[18, 19, 20]] * 2
    assert len(set(ones[6:])) == 2
    assert len({sample for sample in drawn if labels[sample] == 0}) == 8
    assert drawn != order("balanced", labels, epoch=1)


def test_balanced_when_the_classes_do_not_divide_the_epoch():
    labels = np.array([4, 4, 5, 6, 6])
    drawn = labels[order("balanced", labels.tolist())]
    assert len(drawn) == 5
    assert sorted(drawn[:3]) == [4, 5, 6]
    assert len(set(drawn[3:])) == 2


def test_order_is_not_drawn_from_the_stream_of_the_first_sample():
    sample = np.random.default_rng([3, 4, 0]).permutation(20)
    assert (sample == np.random.default_rng([3, 4]).permutation(20)).all()  # numpy's trap
    assert order("shuffled", range(20), 3, 4) != sample.tolist()


def test_parts_together_read_what_one_reader_reads():
    whole = Schedule("shuffled", range(23), seed=2, batch_size=6)
    parts = [
        Schedule("shuffled", range(23), seed=2, batch_size=2, num_parts=3, part_index=index)
        for index in range(3)
    ]
    assert [part.num_batches for part in parts] == [whole.num_batches] * 3 == [4] * 3
    for batch in range(4):
        expected = whole.samples(5, whole.positions(batch))
        got = [part.samples(5, part.positions(batch)) for part in parts]
        assert np.concatenate(got).tolist() == expected.tolist()


def test_last_batch_begins_the_epoch_again():
    schedule = Schedule("fixed", range(5), seed=0, batch_size=3)
    assert schedule.positions(1).tolist() == [3, 4, 5]
    assert schedule.samples(0, schedule.positions(1)).tolist() == [3, 4, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "random"}, "unknown sampler 'random': expected one of fixed, shuffled, bal"),
        ({"labels": []}, "there are no samples"),
        ({"batch_size": 0}, "batch 0, seed 0: expected at least 1 and 0"),
        ({"seed": -1}, "seed -1: expected"),
        ({"num_parts": 2, "part_index": 2}, "part 2 of 2: expected 0 to 1"),
        ({"part_index": -1}, "part -1 of 1"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {"sampler": "fixed", "labels": range(3), "seed": 0, "batch_size": 1, **change}
    with pytest.raises(ValueError, match=message):
        Schedule(arguments.pop("sampler"), arguments.pop("labels"), **arguments)

"""What both tests share: reading ahead, grouping, options, and writing JSON."""

import dataclasses
import json
import math
import threading
from pathlib import Path

import pytest

from ademx.files import write_json
from ademx.iteration import grouped, prefetched
from ademx.testing.options import EvaluationOptions
from ademx.testing.record import RunRecord

OPTIONS = EvaluationOptions(
    weights=(Path("a.params"),), data_root=Path(), output=Path("out"), test_scales=(64,)
)


def test_results_come_in_order_whatever_takes_longer():
    done = [threading.Event() for _ in range(8)]

    def square(n):
        if n % 3 == 0:
            assert done[n + 1].wait(60)
        done[n].set()
        return n * n

    found = prefetched(range(8), square, threads=3)
    assert list(found) == [(n, n * n) for n in range(8)]


@pytest.mark.parametrize(("ahead", "most"), [(None, 6), (1, 2)])
def test_threads_work_ahead_but_not_far(ahead, most):
    taken, lock = [], threading.Lock()

    def items():
        for number in range(100):
            with lock:
                taken.append(number)
            yield number

    results = prefetched(items(), lambda number: number, threads=2, ahead=ahead)
    next(results)
    assert 2 <= len(taken) <= most  # else a dataset would pile up in memory
    results.close()


def test_an_error_is_raised_in_its_turn():
    def fail(number):
        if number == 2:
            raise KeyError("second")
        return number

    results = prefetched(range(5), fail, threads=4)
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(KeyError, match="second"):
        next(results)


def test_groups_are_full_but_for_the_last():
    assert list(grouped(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(grouped([], 3)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": ()}, "--weights: expected at least one"),
        ({"test_scales": ()}, "expected lengths above 0"),
        ({"test_scales": (64, -1)}, "expected lengths above 0"),
        ({"test_scales": (64, 80, 64)}, "a scale is given twice"),
        ({"batch_images": 0}, "--batch-images 0: expected 1 or above"),
        ({"prefetch_threads": 0}, "--prefetch-threads 0: expected 1 or above"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(OPTIONS, **change)


def test_json_has_neither_nan_nor_half_characters(tmp_path):
    path = tmp_path / "scores.json"
    write_json(
        path,
        {"iou": float("nan"), "images": ("été", b"caf\xe9".decode("utf-8", "surrogateescape"))},
    )
    text = path.read_bytes().decode("utf-8")
    assert "été" in text
    assert json.loads(text, parse_constant=pytest.fail) == {
        "iou": None,
        "images": ["été", "caf\udce9"],
    }


def test_a_record_is_what_its_json_was():
    value = {
        **{"pixel_accuracy": 90.0, "mean_accuracy": None, "mean_iou": 50.5},
        **{"class_iou": {"a": 50.5}, "absent_classes": "skip", "confusion": [[3]]},
        **{"dataset": "voc", "num_images": 2, "num_broken": 1},
        "broken": [{"image": "b.jpg", "error": "b.jpg: cut short"}],
        "weights": [{"file": "w.params", "md5": "0" * 32}],
        "settings": {"command": "evaluate segmentation", "split": "val", "width": 2},
        **{"devices": ["cpu(0)"], "versions": {"numpy": "1.26"}},
        "published": {"mean_iou": 80.84, "decimals": 2, "setting": "flip", "source": "README"},
    }
    record = RunRecord.from_json(value)
    assert (record.broken[0].error, record.weights[0].file) == ("b.jpg: cut short", "w.params")
    assert (record.settings.split, record.published.values) == ("val", {"mean_iou": 80.84})
    # What older runs did not record is as it was then.
    assert (record.settings.exif, record.settings.test_steps) == ("auto", 1)
    written = record.to_json()
    assert math.isnan(written.pop("mean_accuracy")) and value.pop("mean_accuracy") is None
    assert written == value

"""Checkpoints: what is written is read again, and nothing else passes for one."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from ademx import params
from ademx.training import checkpoints
from ademx.training.checkpoints import BrokenState, State

LABEL = "voc_rna-a1_cls21_s8"
ARGS = {"conv1a_weight": np.arange(600, dtype=np.float32).reshape(20, 30)}
AUX = {"bn7_moving_mean": np.float32([1.5, 2.5])}


def save(folder: Path, epoch: int, *, batch: int = 0, number: float = 1.0) -> Path:
    if batch:
        path = checkpoints.interrupted_path(folder, LABEL, 10 * epoch + batch)
    else:
        path = checkpoints.epoch_path(folder, LABEL, epoch)
    state = State(
        epoch,
        batch,
        record={"settings": {"seed": 3}},
        momentum={name: number * array for name, array in ARGS.items()},
        device_statistics=(AUX, {"bn7_moving_mean": np.float32([3, 4])}),
    )
    checkpoints.save(path, ARGS, AUX, state)
    return path


def newest(folder: Path) -> tuple[int, int] | None:
    found = checkpoints.find_newest(folder, LABEL)
    return None if found is None else (found.state.epoch, found.state.batch)


def test_what_is_written_is_read_again(tmp_path):
    path = save(tmp_path, 7, number=0.25)
    assert path.name == "voc_rna-a1_cls21_s8_ep-0007.params"
    found = checkpoints.load_state(path.with_suffix(".state"))
    assert (found.state.epoch, found.state.batch) == (7, 0)
    assert found.state.record == {"settings": {"seed": 3}}
    np.testing.assert_array_equal(
        found.state.momentum["conv1a_weight"], 0.25 * ARGS["conv1a_weight"]
    )
    second = found.state.device_statistics[1]["bn7_moving_mean"]
    np.testing.assert_array_equal(second, [3, 4])
    args, aux = params.load(found.params_path)
    np.testing.assert_array_equal(args["conv1a_weight"], ARGS["conv1a_weight"])
    np.testing.assert_array_equal(aux["bn7_moving_mean"], AUX["bn7_moving_mean"])


def test_the_newest_is_the_furthest_on(tmp_path):
    assert newest(tmp_path / "not there") is None
    for epoch in (9, 10, 2):
        save(tmp_path, epoch)
    assert newest(tmp_path) == (10, 0)
    save(tmp_path, 10, batch=4)
    assert newest(tmp_path) == (10, 4)
    save(tmp_path, 11)
    assert newest(tmp_path) == (11, 0)


def test_another_labels_checkpoints_are_not_ours(tmp_path):
    save(tmp_path, 3)
    assert checkpoints.find_newest(tmp_path, "voc_rna-a1_cls21_s8_coco") is None
    assert checkpoints.held_files(tmp_path, "voc_rna-a1_cls21") == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".params", ".state"])
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_damaged_pair_is_passed_over(tmp_path, caplog, suffix, damage):
    save(tmp_path, 1)
    broken = save(tmp_path, 2).with_suffix(suffix)
    damage(broken)
    assert newest(tmp_path) == (1, 0)
    if not (suffix == ".state" and damage is Path.unlink):  # parameters alone are no checkpoint
        assert "passed over" in caplog.text and "ep-0002" in caplog.text


def write_record(path: Path, text: bytes) -> None:
    """Replace what a state says by a text, in a whole file."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    with open(path, "wb") as file:
        np.savez(file, **{**arrays, "record": np.frombuffer(text, np.uint8)})


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"


def change_index(place: int, value: int):
    """Return what sets a byte of the first entry of a zip's index."""

    def change(data: bytes) -> bytes:
        at = data.index(b"PK\x01\x02") + place
        return data[:at] + bytes([value]) + data[at + 1 :]

    return change


DAMAGE = {
    "encrypted": change_index(8, 1),
    "compressed": change_index(10, 14),
    "a page": lambda data: b"<html>",
    "nothing": lambda data: b"",
    "an array": lambda data: b"\x93NUMPY\x01\x00v\x00" + HEADER.ljust(117) + b"\n" + bytes(24),
    "zeros": lambda data: bytes(len(data)),
}
RECORDS = {
    "nested": b"[" * 100_000,
    "a list": b"[]",
    "no epoch": b'{"version": 1}',
    "text": b'{"version": 1, "epoch": "1", "batch": 0, "record": {}, "params_md5": ""}',
    "no record": b'{"version": 1, "epoch": 1, "batch": 0, "record": 3, "params_md5": ""}',
    "newer": b'{"version": 2, "epoch": 1, "batch": 0, "record": {}, "params_md5": ""}',
    "a byte": b'{"version": "\xff"}',
}


@pytest.mark.parametrize("damage", [*DAMAGE, *RECORDS])
def test_no_damage_of_a_state_is_more_than_that(tmp_path, damage):
    path = save(tmp_path, 1).with_suffix(".state")
    if damage in DAMAGE:
        before = path.read_bytes()
        path.write_bytes(DAMAGE[damage](before))
        assert path.read_bytes() != before
    else:
        write_record(path, RECORDS[damage])
    with pytest.raises(BrokenState, match=r"ep-0001\.state: not a complete checkpoint"):
        checkpoints.load_state(path)
    assert newest(tmp_path) is None


def test_state_of_an_older_writing_does_not_fit_new_parameters(tmp_path):
    path = save(tmp_path, 2)
    params.save(path, {"conv1a_weight": ARGS["conv1a_weight"] + 1}, AUX)
    with pytest.raises(BrokenState, match=r"ep-0002.params has MD5 [0-9a-f]{32}, not"):
        checkpoints.load_state(path.with_suffix(".state"))


def test_a_pickle_in_a_state_is_not_loaded(tmp_path):
    path = checkpoints.epoch_path(tmp_path, LABEL, 1)
    params.save(path, ARGS, AUX)
    with open(path.with_suffix(".state"), "wb") as file:
        np.savez(file, record=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BrokenState, match="allow_pickle=False"):
        checkpoints.load_state(path.with_suffix(".state"))


def test_a_disk_that_fills_up_spares_what_was_there(tmp_path):
    save(tmp_path, 1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses to let any file grow beyond this, in the middle of a write.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"ep-0001\.params"):
            save(tmp_path, 1, number=2.0)
        with pytest.raises(OSError, match=r"ep-0002\.params"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_clearing_up(tmp_path):
    first, second = save(tmp_path, 1, batch=2), save(tmp_path, 1, batch=3)
    epoch = save(tmp_path, 1)
    for name in (f".{epoch.name}.0a1b2c3d.tmp", ".other_ep-0001.params.0a1b2c3d.tmp"):
        (tmp_path / name).touch()
    checkpoints.remove_interrupted(tmp_path, LABEL, keep=second)
    checkpoints.remove_partial(tmp_path, LABEL)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        *(
            path.with_suffix(suffix).name
            for path in (second, epoch)
            for suffix in (".params", ".state")
        ),
        ".other_ep-0001.params.0a1b2c3d.tmp",
    }
    assert not first.exists()
    assert [path.name for path in checkpoints.held_files(tmp_path, LABEL, after=1)] == [
        second.name,
        second.with_suffix(".state").name,
    ]

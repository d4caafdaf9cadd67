"""Iterators: the same batches from any workers, epochs, parts, broken files, the end of it all."""

import gc
import logging
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from fake_workers import FakeAugmentation, all_done, wait_until, worker_processes
from PIL import Image

from ademx.compat import import_mxnet
from iters.augment_classification import ClassificationAugmentation
from iters.augment_segmentation import SegmentationAugmentation
from iters.batches import TooManyBroken
from iters.datasets import DATASETS
from iters.iterators import TrainingIter
from iters.lists import find_samples
from iters.samples import Sample
from iters.transforms import RNA
from iters.workers import WorkerError

mx = import_mxnet()
pytestmark = pytest.mark.usefixtures("nothing_left")


def make_samples(folder, contents, label=lambda number: number % 3):
    folder.mkdir(exist_ok=True)
    samples = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.bin"
        path.write_bytes(content)
        samples.append(Sample(number, path, label(number), path.stem))
    return samples


def numbered(folder, count):
    """Return samples that the fake augmentation turns into their own numbers."""
    return make_samples(folder, [bytes([number]) for number in range(count)])


def make_iter(samples, batch_size=4, **options):
    options = {"num_workers": 0, "sampler": "fixed", **options}
    return TrainingIter(samples, augmentation=FakeAugmentation(), batch_size=batch_size, **options)


def arrays(batch):
    return batch.data[0].asnumpy(), batch.label[0].asnumpy(), batch.index.tolist(), batch.pad


def read_epochs(iterator, epochs=2):
    """Return all that some epochs hold."""
    batches = []
    for _ in range(epochs):
        iterator.reset()
        batches += [arrays(batch) for batch in iterator]
    return batches


def numbers(batch):
    return batch.data[0].asnumpy()[:, 0, 0, 0].tolist()


def test_is_a_data_iter_of_this_shape(tmp_path):
    with make_iter(numbered(tmp_path, 5)) as iterator:
        assert isinstance(iterator, mx.io.DataIter)
        (data,), (label,) = iterator.provide_data, iterator.provide_label
        assert (data.name, data.shape, data.dtype) == ("data", (4, 3, 2, 2), np.float32)
        assert (label.name, label.shape, label.dtype) == ("softmax_label", (4,), np.float32)
        batch = iterator.next()
        assert batch.data[0].shape == data.shape and batch.label[0].shape == label.shape
        assert batch.data[0].dtype == batch.label[0].dtype == np.float32
        assert numbers(batch) == [0, 1, 2, 3]
        assert batch.label[0].asnumpy().tolist() == [0, 1, 2, 0]


def test_last_batch_wraps_round_and_says_so(tmp_path):
    with make_iter(numbered(tmp_path, 6)) as iterator:
        assert iterator.num_batches == 2
        first, last = iterator
        assert (numbers(first), first.pad) == ([0, 1, 2, 3], 0)
        assert (numbers(last), last.pad, last.index.tolist()) == ([4, 5, 0, 1], 2, [4, 5, 0, 1])
        # What is read again is drawn again alike.
        assert (first.data[0][:2] == last.data[0][2:]).asnumpy().all()
        assert iterator.files(last) == [str(tmp_path / f"{i}.bin") for i in (4, 5, 0, 1)]


def test_more_rows_than_samples(tmp_path):
    with make_iter(numbered(tmp_path, 3), 8) as iterator:
        (batch,) = iterator
        assert (numbers(batch), batch.pad) == ([0, 1, 2, 0, 1, 2, 0, 1], 5)


def test_draws_depend_on_seed_epoch_and_position(tmp_path):
    with make_iter(numbered(tmp_path, 6), seed=9) as iterator:
        iterator.seek(3, 1)
        data = iterator.next().data[0].asnumpy()
        for row, position in enumerate([4, 5, 0, 1]):
            draws = np.random.default_rng([9, 3, position]).random(2)
            assert data[row, 1:, 0, 0] == pytest.approx(draws, abs=1e-7)


@pytest.mark.parametrize("sampler", ["fixed", "shuffled", "balanced"])
def test_any_workers_give_bit_identical_batches(tmp_path, sampler):
    contents = [b"broken" if number in (3, 4, 17) else bytes([number]) for number in range(23)]
    samples = make_samples(tmp_path, contents)
    results = []
    for prefetcher, num_workers in [
        ("process", 0),
        ("process", 1),
        ("process", 3),
        ("thread", 1),
        ("thread", 3),
    ]:
        options = {"sampler": sampler, "seed": 4, "prefetcher": prefetcher}
        with make_iter(samples, 5, num_workers=num_workers, **options) as iterator:
            results.append((read_epochs(iterator), len(iterator.broken)))
    (expected, num_broken), *others = results
    assert len(expected) == 2 * 5 and num_broken == (3 if sampler != "balanced" else num_broken)
    for batches, broken in others:
        assert broken == num_broken
        for one, other in zip(batches, expected):
            assert (one[0] == other[0]).all() and (one[1] == other[1]).all()
            assert one[2:] == other[2:]


def write_pictures(folder, count):
    """Write JPEG images of noise that is smooth enough to be an image, and labels."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        height, width = rng.integers(40, 90, 2).tolist()
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.jpg", quality=90)
        label = rng.integers(0, 21, (height, width), dtype=np.uint8)
        Image.fromarray(label).save(folder / f"{number}.png")
        samples.append(Sample(number, folder / f"{number}.jpg", number % 3, str(number)))
    return samples


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_real_augmentations_are_bit_identical_too(tmp_path, task):
    samples = write_pictures(tmp_path, 9)
    augmentation = ClassificationAugmentation(32, RNA)
    if task == "segmentation":
        augmentation = SegmentationAugmentation(30, 90, (0.7, 1.3), 8, RNA, DATASETS["voc"])
        samples = [replace(s, label=s.image.with_suffix(".png")) for s in samples]
    results = []
    for prefetcher, num_workers in [("process", 0), ("process", 2), ("thread", 3)]:
        options = {"prefetcher": prefetcher, "num_workers": num_workers, "batch_size": 4}
        with TrainingIter(samples, augmentation=augmentation, seed=2, **options) as iterator:
            results.append(read_epochs(iterator))
            assert len(iterator.broken) == 0
    assert len(results[0]) == 6
    for batches in results[1:]:
        for one, other in zip(batches, results[0]):
            assert (one[0] == other[0]).all() and (one[1] == other[1]).all()
    # The rows are what the augmentation makes of the sample with the draws of the position.
    data, labels, index, _ = results[0][4]
    out, out_label = np.empty_like(data[2]), np.empty_like(labels[2])
    arguments = [samples[index[2]].image.read_bytes(), np.random.default_rng([2, 1, 6]), out]
    if task == "segmentation":
        arguments.insert(1, samples[index[2]].label.read_bytes())
        arguments.append(out_label)
    augmentation.apply(*arguments)
    assert (out == data[2]).all()
    assert task == "classification" or (out_label == labels[2]).all()


def test_resuming_gives_what_follows(tmp_path):
    samples = numbered(tmp_path, 10)
    with make_iter(samples, 3, sampler="shuffled", num_workers=2) as iterator:
        whole = read_epochs(iterator, 3)
        iterator.seek(1, 2)
        assert (iterator.epoch, iterator.num_batches) == (1, 4)
        rest = [arrays(batch) for batch in iterator] + read_epochs(iterator, 1)
        for one, other in zip(rest, whole[6:]):
            assert (one[0] == other[0]).all() and (one[1] == other[1]).all()
            assert one[2:] == other[2:]
        assert len(rest) == len(whole[6:]) == 6
        iterator.seek(0, 4)
        with pytest.raises(StopIteration, match=r"^$"):
            iterator.next()
        iterator.reset()
        assert iterator.epoch == 1
        iterator.reset()  # nothing was read: it stays
        assert iterator.epoch == 1
        for place in ((-1, 0), (0, 5), (0, -1)):
            with pytest.raises(ValueError, match=r"epoch .*, batch .*: expected 0 or above, and 0"):
                iterator.seek(*place)


def test_parts_cover_what_one_reader_reads(tmp_path):
    samples = numbered(tmp_path, 22)
    options = {"sampler": "shuffled", "seed": 1}
    with make_iter(samples, 4, **options) as whole:
        expected = read_epochs(whole, 1)
    parts = []
    for index in range(2):
        with make_iter(samples, 2, num_parts=2, part_index=index, **options) as part:
            parts.append(read_epochs(part, 1))
    assert len(expected) == len(parts[0]) == len(parts[1]) == 6
    for one, *halves in zip(expected, *parts):
        assert (np.concatenate([half[0] for half in halves]) == one[0]).all()
        assert halves[0][3] + halves[1][3] == one[3]


def test_a_batch_is_a_copy(tmp_path):
    with make_iter(numbered(tmp_path, 40), 4, num_workers=1) as iterator:
        batches = list(iterator)
        kept = [numbers(batch) for batch in batches]
    del iterator
    gc.collect()
    assert kept == np.arange(40).reshape(10, 4).tolist()


def test_a_broken_image_is_replaced_by_the_next_and_counted(tmp_path, caplog):
    contents = [bytes([number]) for number in range(6)]
    contents[1] = contents[2] = contents[5] = b"broken"
    samples = make_samples(tmp_path, contents)
    (tmp_path / "2.bin").unlink()
    with make_iter(samples, 3, max_broken=3) as iterator, caplog.at_level(logging.WARNING):
        first = iterator.next()
        assert (numbers(first), len(iterator.broken)) == ([0, 3, 3], 2)
        assert first.index.tolist() == [0, 3, 3]
        assert first.label[0].asnumpy().tolist() == [0, 0, 0]
        draws = first.data[0].asnumpy()[:, 1, 0, 0]
        expected = [np.random.default_rng([0, 0, i]).random() for i in range(3)]
        assert draws == pytest.approx(expected, abs=1e-7)
        assert (numbers(iterator.next()), len(iterator.broken)) == ([3, 4, 0], 3)
        read_epochs(iterator, 2)  # they are not counted again
        assert len(iterator.broken) == 3
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert "1.bin: not an image" in messages[0]
    assert messages[1] == f"skipped {tmp_path / '2.bin'}: No such file or directory"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_broken_images_end_the_run_at_the_same_batch(tmp_path, num_workers):
    contents = [bytes([number]) for number in range(20)]
    contents[2] = contents[9] = contents[10] = b"broken"
    samples = make_samples(tmp_path, contents)
    with make_iter(samples, 4, num_workers=num_workers, max_broken=2) as iterator:
        iterator.next()
        wait_until(lambda: all_done(iterator._pool))  # workers have met some of the others
        assert len(iterator.broken) == 1
        assert numbers(iterator.next()) == [4, 5, 6, 7]
        with pytest.raises(TooManyBroken, match=r"3 training .* at most 2 \(--max-b") as e:
            iterator.next()
        assert all(f"{number}.bin: not an image" in str(e.value) for number in (2, 9, 10))
        with pytest.raises(ValueError, match="the iterator is closed"):
            iterator.next()


def test_nothing_but_broken_images(tmp_path):
    samples = make_samples(tmp_path, [b"broken"] * 5)
    message = r"5 training images are broken: expected at most 10 .*/2\.bin: not .*; and 2 more, na"
    with make_iter(samples, 2) as iterator, pytest.raises(TooManyBroken, match=message):
        iterator.next()


def kill_a_busy_worker(iterator):
    wait_until(lambda: iterator._pool.memory.states["busy"].all())
    os.kill(worker_processes()[0], signal.SIGKILL)


def test_killed_worker_ends_the_epoch_and_names_a_file(tmp_path):
    samples = make_samples(tmp_path, [b"stuck"] * 20)
    with make_iter(samples, 2, num_workers=2) as iterator:
        states = iterator._pool.memory.states
        threading.Thread(target=kill_a_busy_worker, args=(iterator,)).start()
        with pytest.raises(WorkerError, match=r"killed by SIGKILL .* on .*/\d+\.bin"):
            list(iterator)
        assert not states["finished"].any()  # the other was not waited for
        assert worker_processes() == []


def test_a_worker_that_raises_names_its_file(tmp_path):
    samples = make_samples(tmp_path, [b"\1", b"\2", b"raise", b"\3"])
    for prefetcher in ("process", "thread"):
        message = r"2\.bin: worker . .* raised KeyError: 'some bug'"
        with make_iter(samples, 2, num_workers=2, prefetcher=prefetcher) as iterator:  # noqa: SIM117
            with pytest.raises(WorkerError, match=message):
                list(iterator)


def test_ctrl_c_while_waiting_ends_the_workers(tmp_path, monkeypatch):
    samples = make_samples(tmp_path, [b"slow"] * 8)
    iterator = make_iter(samples, 4, num_workers=1)
    receive = iterator._pool.receive

    def interrupt():
        wait_until(lambda: iterator._pool.memory.states["busy"].all())
        os.kill(os.getpid(), signal.SIGINT)

    def interrupted():
        threading.Thread(target=interrupt).start()
        return receive()

    monkeypatch.setattr(iterator._pool, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        iterator.next()
    assert worker_processes() == []


def test_an_iterator_that_is_dropped_ends_its_workers(tmp_path):
    iterator = make_iter(numbered(tmp_path, 8), 2, num_workers=2)
    iterator.next()
    assert len(worker_processes()) == 2
    del iterator
    gc.collect()
    assert worker_processes() == []


def test_segmentation(tmp_path):
    for number in range(2):
        (tmp_path / f"label{number}").write_bytes(bytes([number, 2, 3, 255]))
    samples = make_samples(tmp_path, [b"\5", b"\6"], lambda number: tmp_path / f"label{number}")
    options = {"sampler": "fixed", "batch_size": 2, "num_workers": 1}
    with TrainingIter(samples, augmentation=FakeAugmentation((4,)), **options) as iterator:
        (label,) = iterator.provide_label
        assert (label.name, label.shape) == ("softmax_label", (2, 4))
        batch = iterator.next()
        assert numbers(batch) == [5, 6]
        assert batch.label[0].asnumpy().tolist() == [[0, 2, 3, 255], [1, 2, 3, 255]]


def test_segmentation_rounds_the_crop_up_to_the_stride(tmp_path):
    augmentation = SegmentationAugmentation(500, 500, (0.7, 1.3), 8, RNA, DATASETS["voc"])
    samples = make_samples(tmp_path, [b"\5"], lambda number: tmp_path / "label")
    options = {"batch_size": 2, "num_workers": 0}
    with TrainingIter(samples, augmentation=augmentation, **options) as iterator:
        assert iterator.provide_data[0].shape == (2, 3, 504, 504)
        assert iterator.provide_label[0].shape == (2, 63 * 63)


def test_records_give_the_batches_of_the_files(tmp_path):
    samples = numbered(tmp_path / "files", 7)
    writer = mx.recordio.MXIndexedRecordIO(
        str(tmp_path / "train.idx"), str(tmp_path / "train.rec"), "w"
    )
    for sample in samples:
        header = mx.recordio.IRHeader(0, sample.label, sample.index, 0)
        writer.write_idx(sample.index, mx.recordio.pack(header, sample.image.read_bytes()))
    writer.close()
    records = find_samples("ilsvrc-cls", tmp_path, "train")
    options = {"sampler": "shuffled", "num_workers": 2}
    with make_iter(samples, 3, **options) as one, make_iter(records, 3, **options) as other:
        for ours, theirs in zip(read_epochs(one), read_epochs(other)):
            assert (ours[0] == theirs[0]).all() and (ours[1] == theirs[1]).all()
        other.reset()
        assert other.files(other.next())[0].startswith(f"{tmp_path / 'train.rec'}, record 0000000")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": -1}, "-1 workers, 10 broken: expected 0 or above"),
        ({"max_broken": -1}, "-1 broken: expected 0 or above"),
        ({"sampler": "random"}, "unknown sampler 'random'"),
        ({"prefetcher": "fork"}, "unknown prefetcher 'fork'"),
        ({"batch_size": 0}, "batch 0, seed 0: expected at least 1"),
        ({"num_parts": 2, "part_index": 2}, "part 2 of 2"),
    ],
)
def test_wrong_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_iter(numbered(tmp_path, 2), **options)


def test_samples_that_do_not_fit_the_task(tmp_path):
    without = make_samples(tmp_path, [b"\1"], lambda number: None)
    with pytest.raises(ValueError, match=r"0\.bin: label None: expected a class id to train on"):
        make_iter(without)
    options = {"augmentation": FakeAugmentation((4,)), "batch_size": 1, "num_workers": 0}
    with pytest.raises(ValueError, match=r"0\.bin: label 0: expected a label image to train on"):
        TrainingIter(numbered(tmp_path, 1), **options)
    images = make_samples(tmp_path, [b"\1"], lambda number: tmp_path / "label")
    with pytest.raises(ValueError, match="'balanced' draws classes: these samples have label im"):
        TrainingIter(images, sampler="balanced", **options)
    with pytest.raises(ValueError, match="there are no samples"):
        make_iter([])

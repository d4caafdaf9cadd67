"""RecordIO files against MXNet's own writer, and class folders."""

import os
import random
import struct

import pytest
from commands import make_runner

import ademx  # noqa: F401  # makes numpy ready for MXNet
from ademx.cli import main
from iters.decode import BrokenImage
from iters.lists import find_samples, read_list_file
from iters.sources import read_bytes, read_record_file, write_records

MAGIC = struct.pack("<I", 0xCED7230A)


def contents():
    """Images of all remainders of 4, empty, and with the magic where it splits a record."""
    source = random.Random(0)
    plain = [source.randbytes(length) for length in (0, 1, 30, 31, 32, 1000)]
    return [*plain, MAGIC, MAGIC * 3, b"abcd" + MAGIC + b"xy", b"ab" + MAGIC, plain[4] + MAGIC]


def write_records_by_mxnet(folder, images, labels=None, keys=None):
    mx = pytest.importorskip("mxnet")
    path = folder / "train.rec"
    writer = mx.recordio.MXIndexedRecordIO(str(folder / "train.idx"), str(path), "w")
    for number, image in enumerate(images):
        label = number % 7 if labels is None else labels[number]
        key = number if keys is None else keys[number]
        writer.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, label, key, 0), image))
    writer.close()
    return path


def test_records_come_back_as_mxnet_packed_them(tmp_path):
    path = write_records_by_mxnet(tmp_path, contents(), keys=[10 * i for i in range(11)])
    records = read_record_file(path)
    assert [record.key for record in records] == [10 * i for i in range(11)]
    assert [record.label for record in records] == [i % 7 for i in range(11)]
    assert [read_bytes(path, record.offset) for record in records] == contents()


def test_label_array_of_one_counts_as_a_label(tmp_path):
    path = write_records_by_mxnet(tmp_path, [b"image"], labels=[[5.0]])
    (record,) = read_record_file(path)
    assert record.label == 5
    assert read_bytes(path, record.offset) == b"image"


def protobuf():
    """A message of protobuf's own library, a map of names to numbers as SageMaker's."""
    struct_pb2 = pytest.importorskip("google.protobuf.struct_pb2")
    message = struct_pb2.Struct()
    message.update({"values": [1.5, 2.5] * 20, "label": 3})
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("label", "image", "message"),
    [
        ([2, 5, 1, 0.1, 0.1, 0.5, 0.5, 3, 0.2, 0.2, 0.9, 0.9], b"image", "boxes of 2 objects"),
        ([4, 6, 640, 480, 1, 0.1, 0.1, 0.5, 0.5, 0], b"image", "boxes of 1 objects, for detection"),
        ([1, 0, 0, 1], b"image", "found 4 labels: expected"),
        ([3804847, 3890011], b"", "found 2 labels and no image, as InsightFace's"),
    ],
)
def test_records_of_other_tasks_are_named(tmp_path, label, image, message):
    path = write_records_by_mxnet(tmp_path, [b"first", image], labels=[0, label])
    with pytest.raises(ValueError, match=rf"record 1 at byte 40: .*{message}.*one class id"):
        read_record_file(path)


def test_records_of_other_software_are_named(tmp_path):
    mx = pytest.importorskip("mxnet")
    writer = mx.recordio.MXRecordIO(str(tmp_path / "sage.rec"), "w")
    writer.write(protobuf())
    writer.close()
    with pytest.raises(ValueError, match=r"sage\.rec, record 0 .* found a protobuf message"):
        read_record_file(tmp_path / "sage.rec")
    # TensorFlow's: length, its checksum, a message, its checksum.
    message = protobuf()
    framed = struct.pack("<QI", len(message), 0) + message + bytes(4)
    (tmp_path / "flow.rec").write_bytes(framed * 2)
    with pytest.raises(ValueError, match=r"flow\.rec, record 0 .* TensorFlow's \(TFRecord\)"):
        read_record_file(tmp_path / "flow.rec")
    (tmp_path / "zip.rec").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(
        ValueError, match=r"zip\.rec, record 0 .* found 504b0304: expected 0a23d7ce"
    ):
        read_record_file(tmp_path / "zip.rec")


def test_an_index_that_is_made_is_mxnets(tmp_path):
    path = write_records_by_mxnet(tmp_path, contents())
    index = path.with_suffix(".idx")
    by_mxnet = index.read_bytes()
    found = make_runner().invoke(main, ["data", "index", str(path)])
    assert found.exit_code == 1 and "train.idx exists: add --overwrite" in found.stderr
    index.unlink()
    found = make_runner().invoke(main, ["data", "index", str(path)])
    assert found.exit_code == 0 and "train.idx: 11 records" in found.stdout
    assert index.read_bytes() == by_mxnet


def test_no_index_is_left_of_a_damaged_file(tmp_path):
    path = write_records_by_mxnet(tmp_path, contents())
    path.write_bytes(path.read_bytes()[:-8])
    path.with_suffix(".idx").unlink()
    found = make_runner().invoke(main, ["data", "index", str(path)])
    assert found.exit_code == 1
    assert "record 10 at byte " in found.stderr and "pack the file again" in found.stderr
    assert os.listdir(tmp_path) == ["train.rec"]


def test_a_file_of_its_own(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8")
    assert read_bytes(tmp_path / "a.jpg") == b"\xff\xd8"


@pytest.mark.parametrize("label", [[1.0, 2.0], 2.5, -1, float("nan")])
def test_a_label_that_is_no_class_id(tmp_path, label):
    path = write_records_by_mxnet(tmp_path, [b"image"], labels=[label])
    with pytest.raises(ValueError, match=r"train\.rec, record 0 at byte 0: .*label.*expected one"):
        read_record_file(path)


def test_record_cut_short(tmp_path):
    path = write_records_by_mxnet(tmp_path, [bytes(100), bytes(100)])
    offset = read_record_file(path)[1].offset
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BrokenImage, match=f"record at byte {offset}: the file ends after 74 of"):
        read_bytes(path, offset)
    with pytest.raises(ValueError, match=r"record 1 at byte .*the file ends after 74 of 124 bytes"):
        read_record_file(path)


@pytest.mark.parametrize("offset", [4, 10**6])
def test_offset_where_no_record_begins(tmp_path, offset):
    path = write_records_by_mxnet(tmp_path, [bytes(100)])
    with pytest.raises(BrokenImage, match=f"record at byte {offset}: found .*expected 0a23d7ce"):
        read_bytes(path, offset)
    (tmp_path / "train.idx").write_text(f"0\t{offset}\n")
    with pytest.raises(ValueError, match=f"record 0 at byte {offset}: found .*: pack the file"):
        read_record_file(path)


def test_a_file_without_an_index_is_taken_in_its_order(tmp_path):
    """As MXNet's reader goes through it, over records in several parts too."""
    path = write_records_by_mxnet(tmp_path, contents(), keys=range(10, 21))
    (tmp_path / "train.idx").unlink()
    records = read_record_file(path)
    assert [(record.key, record.label) for record in records] == [(i, i % 7) for i in range(11)]
    assert [read_bytes(path, record.offset) for record in records] == contents()
    assert [s.label for s in find_samples("ilsvrc-cls", tmp_path, "train")] == [
        i % 7 for i in range(11)
    ]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"train\.rec, record 10 at byte \d+: the file ends after"):
        read_record_file(path)


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path, monkeypatch):
    """It is an error with the file's name; a mapped file would end the process."""
    path = write_records_by_mxnet(tmp_path, [bytes(5000)] * 9)
    read = os.pread

    def read_of_less(file, length, offset):
        os.truncate(path, 10000)
        return read(file, length, offset)

    monkeypatch.setattr(os, "pread", read_of_less)
    with pytest.raises(ValueError, match=r"train\.rec, record 2 at byte 1\d+: found the end"):
        read_record_file(path)


@pytest.mark.parametrize("name", ["a.jpg", "train.rec", "train.idx", "some.lst"])
@pytest.mark.parametrize("kind", ["a folder", "a named pipe"])
def test_what_is_no_file_is_refused_by_name(tmp_path, kind, name):
    write_records_by_mxnet(tmp_path, [b"image"])
    path = tmp_path / name
    path.unlink(missing_ok=True)
    path.mkdir() if kind == "a folder" else os.mkfifo(path)
    read = {
        "a.jpg": lambda: read_bytes(path),
        "some.lst": lambda: read_list_file(path, task="segmentation", root=tmp_path),
    }.get(name, lambda: read_record_file(tmp_path / "train.rec"))
    with pytest.raises(OSError, match=f"{name}: found {kind}: expected a file"):
        read()


@pytest.mark.parametrize(
    ("index", "message"),
    [("", "index is empty"), ("0\t0\nx\n", r"train\.idx, line 2: found 'x': expected a number")],
)
def test_malformed_index(tmp_path, index, message):
    path = write_records_by_mxnet(tmp_path, [b"image"])
    (tmp_path / "train.idx").write_text(index)
    with pytest.raises(ValueError, match=message):
        read_record_file(path)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"RecordIO file .*train\.rec: no such file"):
        read_record_file(tmp_path / "train.rec")
    (tmp_path / "train.rec").touch()
    with pytest.raises(ValueError, match=r"train\.rec: the file is empty"):
        read_record_file(tmp_path / "train.rec")


def test_samples_of_a_record_file(tmp_path):
    path = write_records_by_mxnet(tmp_path, [b"one", b"two"], labels=[4, 2])
    for list_file in (None, path):
        samples = find_samples("ilsvrc-cls", tmp_path, "train", list_file=list_file)
        assert [(s.index, s.image, s.label, s.name) for s in samples] == [
            (0, path, 4, "00000000"),
            (1, path, 2, "00000001"),
        ]
        assert [read_bytes(s.image, s.offset) for s in samples] == [b"one", b"two"]
        assert str(samples[1]) == f"{path}, record 00000001"


def test_a_record_file_does_not_serve_segmentation(tmp_path):
    with pytest.raises(ValueError, match="class ids, and no labels for segmentation"):
        find_samples("voc", tmp_path, "train", list_file=tmp_path / "train.rec")


def make_files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_class_folders_are_numbered_in_sorted_order(tmp_path):
    make_files(
        tmp_path,
        *(
            "train/n00000002/b.JPEG",
            "train/n00000002/a.JPEG",
            "train/n00000001/c.jpg",
            "train/n00000010/d.png",
        ),
        *(
            "train/n00000001/notes.txt",
            "train/README",
            "val/n00000010/e.JPEG",
            "val/n00000002/f.JPEG",
        ),
    )
    samples = find_samples("ilsvrc-cls", tmp_path, "train")
    assert [(s.image.name, s.label) for s in samples] == [
        ("c.jpg", 0),
        ("a.JPEG", 1),
        ("b.JPEG", 1),
        ("d.png", 2),
    ]
    # "train" numbers the classes of a split that lacks some.
    samples = find_samples("ilsvrc-cls", tmp_path, "val")
    assert [(s.image.name, s.label) for s in samples] == [("f.JPEG", 1), ("e.JPEG", 2)]
    make_files(tmp_path, "val/n00000003/x.JPEG")
    with pytest.raises(ValueError, match=r"val/n00000003: there is no such class in .*train"):
        find_samples("ilsvrc-cls", tmp_path, "val")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("names", [("1", "10", "2"), ("goldfish", "tench"), ("n01440764", "x")])
def test_folders_of_ilsvrc_that_are_no_synsets_are_refused(tmp_path, names, split):
    """Sorted, they number the classes in another order than the released networks' classes."""
    make_files(tmp_path, *(f"{split}/{name}/a.JPEG" for name in names))
    with pytest.raises(
        ValueError, match=f"{split}: found class folders that are no synsets: .*n##"
    ):
        find_samples("ilsvrc-cls", tmp_path, split)
    samples = find_samples("places", tmp_path, split)
    assert [s.label for s in samples] == list(range(len(names)))


def test_a_list_goes_before_class_folders(tmp_path):
    make_files(tmp_path, "train/n00000001/a.JPEG")
    (tmp_path / "train.lst").write_text("0\t7\tb.JPEG\n")
    assert [s.label for s in find_samples("ilsvrc-cls", tmp_path, "train")] == [7]


def test_nothing_found_names_all_places(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"for train.lst, and for train.rec, and for train/<cl"
    ):
        find_samples("places", tmp_path, "train")


def own_records(folder, images):
    path = folder / "own.rec"
    with open(path, "wb") as record_file, open(folder / "own.idx", "wb") as index_file:
        write_records(images, record_file=record_file, index_file=index_file)
    return path


def test_records_are_written_as_mxnet_writes_them(tmp_path):
    """Byte for byte, with the magic at every place of a record, aligned and not."""
    images = contents() + [bytes(i) + MAGIC + bytes(5) + MAGIC for i in range(8)]
    images += [MAGIC[:3] + MAGIC, MAGIC + MAGIC[:2] + MAGIC, MAGIC[:2] + MAGIC * 2]
    theirs = write_records_by_mxnet(tmp_path, images, keys=[3 * i for i in range(len(images))])
    path = own_records(tmp_path, [(3 * i, i % 7, image) for i, image in enumerate(images)])
    assert path.read_bytes() == theirs.read_bytes()
    assert (tmp_path / "own.idx").read_text() == (tmp_path / "train.idx").read_text()


def test_written_records_are_read_by_mxnet_and_by_us(tmp_path):
    mx = pytest.importorskip("mxnet")
    path = own_records(tmp_path, [(i, 300 + i, image) for i, image in enumerate(contents())])
    reader = mx.recordio.MXIndexedRecordIO(str(tmp_path / "own.idx"), str(path), "r")
    records = read_record_file(path)
    assert len(records) == len(contents()) == len(reader.keys)
    for number, (record, image) in enumerate(zip(records, contents())):
        header, theirs = mx.recordio.unpack(reader.read_idx(number))
        assert (header.flag, header.label, header.id, header.id2) == (0, 300 + number, number, 0)
        assert theirs == image == read_bytes(path, record.offset)
        assert (record.key, record.label) == (number, 300 + number)


def test_a_record_too_long_to_write(tmp_path):
    class Huge(bytes):
        def __radd__(self, header):
            return self

        def __len__(self):
            return 1 << 29

    with pytest.raises(ValueError, match="record 5: found 536870912 bytes: expected less than 5"):
        own_records(tmp_path, [(5, 0, Huge())])

"""ILSVRC's and Places' lists and RecordIO files on small copies of the official layouts."""

import io

import numpy as np
import pytest
import scipy.io
from commands import make_runner
from PIL import Image

from ademx.cli import main
from ademx.data.lists.plans import ListOptions
from ademx.data.lists.write import make_lists
from iters.images import load_sample
from iters.lists import find_samples
from iters.sources import read_bytes

# Sorted order of the synsets, and what the development kit numbers them.
SYNSETS = ("n01440764", "n01443537", "n02119789", "n07753592")
DEVKIT_IDS = {"n02119789": 1, "n07753592": 2, "n01440764": 3, "n01443537": 4}


def jpeg(number):
    """A small picture that differs from number to number."""
    pixels = np.random.default_rng(number).integers(0, 255, (9, 12, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_images(root, *names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))


def write_train(root):
    write_images(
        root,
        *(f"train/{synset}/{synset}_{number}.JPEG" for number in (10, 2) for synset in SYNSETS),
    )


def write_devkit(root, truth=(3, 1, 2, 4, 3)):
    """Write meta.mat, with a synset above the others as the real one has, and val's truth."""
    folder = root / "ILSVRC2012_devkit_t12/data"
    folder.mkdir(parents=True)
    rows = [(number, name, 0) for name, number in DEVKIT_IDS.items()]
    rows.append((1001, "n00001740", 3))
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    synsets = np.empty((len(rows), 1), fields)
    for index, row in enumerate(rows):
        synsets[index, 0] = row
    scipy.io.savemat(folder / "meta.mat", {"synsets": synsets})
    lines = "".join(f"{number}\n" for number in truth)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    return folder


def write_flat(root, split, count):
    names = [f"{split}/ILSVRC2012_{split}_{number:08d}.JPEG" for number in range(1, count + 1)]
    write_images(root, *names)
    return names


def read(path):
    return [line.split("\t") for line in path.read_text().splitlines()]


def assert_read_back(name, root, written):
    for row in written:
        samples = find_samples(name, root, row.split)
        assert len(samples) == row.num_samples
        assert [str(sample.image) for sample in samples] == [
            str(root / image) for _, _, image in read(row.path)
        ]
        labels = [int(label) for _, label, _ in read(row.path)]
        assert [s.label for s in samples] == (
            [None] * len(labels) if row.split == "test" else labels
        )
        assert all(sample.image.is_file() for sample in samples)


def test_class_folders(tmp_path):
    write_train(tmp_path)
    write_images(tmp_path, f"val/{SYNSETS[3]}/b.JPEG", f"val/{SYNSETS[1]}/a.JPEG")
    (tmp_path / "train" / SYNSETS[0] / "notes.txt").touch()
    written = make_lists("ilsvrc-cls", tmp_path)
    assert [(row.path.name, row.num_samples, row.expected) for row in written] == [
        ("train.lst", 8, 1281167),
        ("val.lst", 2, 50000),
    ]
    assert read(tmp_path / "train.lst") == [
        [str(2 * label + place), str(label), f"train/{synset}/{synset}_{number}.JPEG"]
        for label, synset in enumerate(SYNSETS)
        for place, number in enumerate((10, 2))
    ]
    assert read(tmp_path / "val.lst") == [
        ["0", "1", f"val/{SYNSETS[1]}/a.JPEG"],
        ["1", "3", f"val/{SYNSETS[3]}/b.JPEG"],
    ]
    assert_read_back("ilsvrc-cls", tmp_path, written)
    assert not (tmp_path / "class_ids.txt").exists()


@pytest.mark.parametrize("with_train", [True, False])
def test_development_kit(tmp_path, with_train):
    """Truth 3, 1, 2, 4, 3 in the kit's numbers is classes 0, 2, 3, 1, 0 in the sorted order."""
    if with_train:
        write_train(tmp_path)
    names = write_flat(tmp_path, "val", 5)
    write_devkit(tmp_path)
    written = make_lists("ilsvrc-cls", tmp_path)
    assert [row.split for row in written] == ["train", "val"][not with_train :]
    labels = ["0", "2", "3", "1", "0"]
    assert read(tmp_path / "val.lst") == [
        [str(index), label, name] for index, (label, name) in enumerate(zip(labels, names))
    ]
    assert_read_back("ilsvrc-cls", tmp_path, written)
    # A line of class_ids.txt is the kit's number of that class.
    assert (tmp_path / "class_ids.txt").read_text().split() == ["3", "4", "1", "2"]


def test_kaggle(tmp_path):
    base = "ILSVRC/Data/CLS-LOC"
    write_train(tmp_path / base)
    val = write_flat(tmp_path / base, "val", 3)
    test = write_flat(tmp_path / base, "test", 2)
    rows = [(3, SYNSETS[1]), (1, SYNSETS[2]), (2, SYNSETS[0])]
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        + "".join(f"ILSVRC2012_val_{n:08d},{s} 1 2 3 4 {s} 5 6 7 8 \n" for n, s in rows)
    )
    written = make_lists("ilsvrc-cls", tmp_path)
    assert [row.split for row in written] == ["train", "val", "test"]
    assert read(tmp_path / "val.lst") == [
        [str(index), label, f"{base}/{name}"] for index, (label, name) in enumerate(zip("201", val))
    ]
    assert read(tmp_path / "test.lst") == [
        [str(index), "0", f"{base}/{name}"] for index, name in enumerate(test)
    ]
    assert_read_back("ilsvrc-cls", tmp_path, written)


def test_kaggle_without_train(tmp_path):
    """The classes are then those of Kaggle's list, sorted."""
    write_flat(tmp_path / "ILSVRC/Data/CLS-LOC", "val", 1)
    lines = "".join(f"{synset} a name, another\n" for synset in reversed(SYNSETS))
    (tmp_path / "LOC_synset_mapping.txt").write_text(lines)
    (tmp_path / "LOC_val_solution.csv").write_text(
        f"ImageId,PredictionString\nILSVRC2012_val_00000001,{SYNSETS[2]} 1 2 3 4 \n"
    )
    make_lists("ilsvrc-cls", tmp_path)
    assert [row[1] for row in read(tmp_path / "val.lst")] == ["2"]


def test_flat_val_without_truth(tmp_path):
    write_train(tmp_path)
    write_flat(tmp_path, "val", 2)
    with pytest.raises(FileNotFoundError, match="no truth for the images in val of ilsvrc-cls"):
        make_lists("ilsvrc-cls", tmp_path)
    assert not list(tmp_path.glob("*.lst"))


def test_val_alone_without_anything_that_numbers_the_classes(tmp_path):
    write_flat(tmp_path, "val", 2)
    with pytest.raises(FileNotFoundError, match="neither class folders nor a list of the synsets"):
        make_lists("ilsvrc-cls", tmp_path)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (
            (3, 1),
            r"val_00000003\.JPEG: its class is not given in .*ground_truth\.txt: expected one",
        ),
        ((3, 1, 77), r"val_00000003\.JPEG: its class is 77 in .*: expected one of the 4 synsets"),
        ((3, 1, 1001), r"val_00000003\.JPEG: its class is 1001 in "),
    ],
)
def test_truth_that_does_not_fit(tmp_path, truth, message):
    write_train(tmp_path)
    write_flat(tmp_path, "val", 3)
    write_devkit(tmp_path, truth)
    with pytest.raises(ValueError, match=message):
        make_lists("ilsvrc-cls", tmp_path)
    assert not list(tmp_path.glob("*.lst"))


def test_a_class_of_val_that_train_has_not(tmp_path):
    write_train(tmp_path)
    write_images(tmp_path, "val/n09999999/a.JPEG")
    with pytest.raises(ValueError, match=r"a\.JPEG: its class is n09999999 in .*val: expected one"):
        make_lists("ilsvrc-cls", tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_class_folders_that_are_no_synsets(tmp_path, split):
    write_images(tmp_path, f"{split}/1/a.JPEG", f"{split}/2/b.JPEG", f"{split}/10/c.JPEG")
    with pytest.raises(
        ValueError, match=f"{split}: found class folders that are no synsets: 1, 10"
    ):
        make_lists("ilsvrc-cls", tmp_path)
    assert not list(tmp_path.glob("*.lst"))


def test_other_numbers_of_classes_are_warned_of(tmp_path, caplog):
    write_train(tmp_path)
    make_lists("ilsvrc-cls", tmp_path)
    assert "found 4 classes, expected 1000" in caplog.text
    caplog.clear()
    for number in range(996):
        (tmp_path / f"train/n1{number:07d}").mkdir()
    make_lists("ilsvrc-cls", tmp_path)
    assert "expected 1000" not in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a MATLAB file"),
        ({"words": np.zeros(2)}, "expected the development kit's synsets with WNID"),
        ({"synsets": np.zeros((2, 1))}, "expected the development kit's synsets with WNID"),
    ],
)
def test_a_damaged_meta_file_is_named(tmp_path, content, message):
    write_train(tmp_path)
    folder = write_devkit(tmp_path)
    if content is None:
        (folder / "meta.mat").write_bytes(b"x" * 300)
    else:
        scipy.io.savemat(folder / "meta.mat", content)
    with pytest.raises(ValueError, match=rf"meta\.mat: {message}"):
        make_lists("ilsvrc-cls", tmp_path)


def test_class_ids_are_not_overwritten_unless_told_to(tmp_path):
    write_train(tmp_path)
    write_devkit(tmp_path)
    (tmp_path / "class_ids.txt").write_text("mine\n")
    with pytest.raises(FileExistsError, match=r"class_ids\.txt exists: choose another folder"):
        make_lists("ilsvrc-cls", tmp_path)
    assert not (tmp_path / "train.lst").exists()
    make_lists("ilsvrc-cls", tmp_path, ListOptions(overwrite=True))
    assert (tmp_path / "class_ids.txt").read_text() == "3\n4\n1\n2\n"


def run(*arguments):
    return make_runner().invoke(main, ["data", "lists", *map(str, arguments)])


def test_record_files(tmp_path):
    """The images' own bytes, read back by us and by MXNet."""
    mx = pytest.importorskip("mxnet")
    write_train(tmp_path)
    result = run("ilsvrc-cls", "--root", tmp_path, "--rec")
    assert result.exit_code == 0, result.stderr
    samples = find_samples("ilsvrc-cls", tmp_path, "train")
    records = find_samples("ilsvrc-cls", tmp_path, "train", list_file=tmp_path / "train.rec")
    reader = mx.recordio.MXIndexedRecordIO(
        str(tmp_path / "train.idx"), str(tmp_path / "train.rec"), "r"
    )
    assert len(samples) == len(records) == len(reader.keys) == 8
    for index, (sample, record) in enumerate(zip(samples, records)):
        assert record.label == sample.label
        assert read_bytes(record.image, record.offset) == sample.image.read_bytes()
        assert (load_sample(record).image == load_sample(sample).image).all()
        header, encoded = mx.recordio.unpack(reader.read_idx(index))
        assert (header.flag, header.label, header.id) == (0, sample.label, index)
        assert encoded == sample.image.read_bytes()


def test_record_files_in_mxnets_iterator(tmp_path):
    mx = pytest.importorskip("mxnet")
    write_train(tmp_path)
    make_lists("ilsvrc-cls", tmp_path, ListOptions(rec=True))
    iterator = mx.io.ImageRecordIter(
        path_imgrec=str(tmp_path / "train.rec"),
        path_imgidx=str(tmp_path / "train.idx"),
        data_shape=(3, 9, 12),
        batch_size=8,
        preprocess_threads=1,
    )
    batch = iterator.next()
    assert batch.label[0].asnumpy().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    images = batch.data[0].asnumpy().transpose(0, 2, 3, 1)
    for image, sample in zip(images, find_samples("ilsvrc-cls", tmp_path, "train")):
        # MXNet's JPEG decoder and Pillow's round differently.
        assert np.abs(image - load_sample(sample).image).mean() < 2


def test_record_files_are_not_overwritten_unless_told_to(tmp_path):
    write_train(tmp_path)
    (tmp_path / "train.idx").write_text("mine")
    result = run("ilsvrc-cls", "--root", tmp_path, "--rec")
    assert result.exit_code == 1
    assert "train.idx exists: choose another folder with --output" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "train.idx"]
    assert run("ilsvrc-cls", "--root", tmp_path, "--rec", "--overwrite").exit_code == 0
    assert (tmp_path / "train.idx").read_text().startswith("0\t0\n1\t")


def write_places(root):
    write_images(
        root,
        *("data_256/a/abbey/00000001.jpg", "data_256/y/yard/00000002.jpg"),
        *("val_256/Places365_val_00000001.jpg", "test_256/Places365_test_00000001.jpg"),
    )
    (root / "places365_train_standard.txt").write_text(
        "/a/abbey/00000001.jpg 0\n/y/yard/00000002.jpg 363\n"
    )
    (root / "places365_val.txt").write_text("Places365_val_00000001.jpg 165\n")
    (root / "places365_test.txt").write_text("Places365_test_00000001.jpg\n")


def test_places(tmp_path):
    write_places(tmp_path)
    result = run("places", "--root", tmp_path, "--rec")
    assert result.exit_code == 0, result.stderr
    assert [line.split()[1:] for line in result.stdout.splitlines()[1:]] == [
        ["2", "1803460", "NO"],
        ["1", "36500", "NO"],
        ["1", "328500", "NO"],
    ]
    assert read(tmp_path / "train.lst") == [
        ["0", "0", "data_256/a/abbey/00000001.jpg"],
        ["1", "363", "data_256/y/yard/00000002.jpg"],
    ]
    assert read(tmp_path / "val.lst") == [["0", "165", "val_256/Places365_val_00000001.jpg"]]
    assert read(tmp_path / "test.lst") == [["0", "0", "test_256/Places365_test_00000001.jpg"]]
    assert "test.lst: the labels are not public: it has 0 in their place" in result.stderr
    written = make_lists("places", tmp_path)
    assert_read_back("places", tmp_path, written)
    (record,) = find_samples("places", tmp_path, "val", list_file=tmp_path / "val.rec")
    assert (record.label, read_bytes(record.image, record.offset)) == (165, jpeg(2))


@pytest.mark.parametrize("line", ["/a/abbey/1.jpg", "/a/abbey/1.jpg abbey", "1", "/a/x.jpg -1"])
def test_a_malformed_list_of_places(tmp_path, line):
    write_places(tmp_path)
    (tmp_path / "places365_train_standard.txt").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"standard\.txt: found '.*': expected a path and a class"):
        make_lists("places", tmp_path)


def test_missing_images_of_places(tmp_path):
    write_places(tmp_path)
    (tmp_path / "data_256/y/yard/00000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"y/yard/00000002\.jpg is not there: incomplete"):
        make_lists("places", tmp_path)
    assert not list(tmp_path.glob("*.lst"))

"""PASCAL Context's lists and labels, from MATLAB files of 459 labels."""

import numpy as np
import pytest
import scipy.io
from PIL import Image

from ademx.data.lists.pascal_context import LABEL_IDS
from ademx.data.lists.write import make_lists
from iters.datasets import DATASETS, decode_label
from iters.images import load_label
from iters.lists import find_samples

BASE = "VOCdevkit/VOC2010"

# The 59 ids in the order of the dataset's own list of 59, as several public conversions have it.
IDS_BY_CLASS = [
    *(2, 23, 25, 31, 34, 45, 59, 65, 72, 98, 397, 113, 207, 258, 284, 308, 347, 368, 416, 427),
    *(9, 18, 22, 33, 44, 46, 68, 80, 85, 104, 115, 144, 158, 159, 162, 187, 189, 220, 232, 259),
    *(260, 105, 296, 355, 295, 324, 326, 349, 354, 360, 366, 19, 415, 420, 424, 440, 445, 454, 458),
]
# The same ids as gluoncv's reader of this dataset has them (not part of its releases), which
# numbers the classes by the sorted ids.
GLUONCV_IDS = [
    *(0, 2, 259, 260, 415, 324, 9, 258, 144, 18, 19, 22, 23, 397, 25, 284, 158, 159, 416, 33, 162),
    *(420, 454, 295, 296, 427, 44, 45, 46, 308, 59, 440, 445, 31, 232, 65, 354, 424, 68, 326, 72),
    *(458, 34, 207, 80, 355, 85, 347, 220, 349, 360, 98, 187, 104, 105, 366, 189, 368, 113, 115),
]


def write_context(root, *, maps="trainval", base=BASE, val="cx"):
    """Write a and b in train, c in val, and x in val without a label map."""
    for split, names in (("train", "ba"), ("val", val)):
        path = root / base / f"ImageSets/Main/{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
        for name in names:
            image = root / base / f"JPEGImages/{name}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()
    folder = root / maps
    folder.mkdir(parents=True, exist_ok=True)
    for name in "abc":
        scipy.io.savemat(folder / f"{name}.mat", {"LabelMap": label_map(name)}, do_compression=True)
    return folder


def label_map(name):
    """All of the 460 labels, in an order that differs from image to image."""
    return np.random.default_rng(ord(name)).permutation(460).reshape(20, 23).astype(np.uint16)


def test_ids_of_the_59_classes():
    names = DATASETS["pascal-context"].class_names[1:]
    assert [LABEL_IDS[name] for name in names] == IDS_BY_CLASS
    assert sorted(LABEL_IDS.values()) == sorted(GLUONCV_IDS)[1:]
    assert len(LABEL_IDS) == 59
    # The distribution numbers its 459 labels in alphabetical order.
    assert sorted(LABEL_IDS) == sorted(LABEL_IDS, key=LABEL_IDS.get)


@pytest.mark.parametrize("dataset", ["pascal-context", "pascal-context-59"])
def test_lists_and_labels(tmp_path, dataset):
    write_context(tmp_path)
    (tmp_path / "train.lst").write_text("VOC's own, in the root that both share\n")
    written = make_lists(dataset, tmp_path)
    assert [(row.path.name, row.num_samples, row.expected) for row in written] == [
        ("pascal-context_train.lst", 2, 4998),
        ("pascal-context_val.lst", 1, 5105),
    ]
    assert "VOC's own" in (tmp_path / "train.lst").read_text()
    assert (tmp_path / "pascal-context_train.lst").read_text().splitlines() == [
        f"{BASE}/JPEGImages/{name}.jpg\t{BASE}/SegmentationClassContext/{name}.png" for name in "ba"
    ]
    for split, names in (("train", "ba"), ("val", "c")):
        samples = find_samples(dataset, tmp_path, split)
        assert [sample.name for sample in samples] == list(names)
        for sample in samples:
            stored = load_label(sample.label)
            assert sample.image.is_file()
            # Class k is where the map has the k-th id; everything else is 0.
            for class_id, number in enumerate(IDS_BY_CLASS, start=1):
                assert stored[label_map(sample.name) == number] == class_id
            assert np.count_nonzero(stored) == 59
            classes = decode_label(DATASETS[dataset], stored)
            shift, background = (0, 0) if dataset == "pascal-context" else (1, 255)
            assert (classes[stored > 0] == stored[stored > 0] - shift).all()
            assert (classes[stored == 0] == background).all()


def test_labels_are_palette_images(tmp_path):
    write_context(tmp_path)
    make_lists("pascal-context", tmp_path)
    with Image.open(tmp_path / BASE / "SegmentationClassContext/a.png") as image:
        assert image.mode == "P"
        place = tuple(np.argwhere(label_map("a") == 2)[0])
        assert image.convert("RGB").getpixel((int(place[1]), int(place[0]))) == (128, 0, 0)


@pytest.mark.parametrize(
    ("base", "maps"),
    [
        (BASE, "trainval"),
        (BASE, f"{BASE}/trainval"),
        (BASE, "VOCdevkit/trainval"),
        ("VOC2010", "trainval"),
        ("", "trainval"),
    ],
)
def test_where_the_files_may_lie(tmp_path, base, maps):
    write_context(tmp_path, base=base, maps=maps)
    make_lists("pascal-context", tmp_path)
    (sample,) = find_samples("pascal-context", tmp_path, "val")
    assert sample.image == tmp_path / base / "JPEGImages/c.jpg"
    assert sample.label == tmp_path / base / "SegmentationClassContext/c.png"


def write_names(path, changes=()):
    names = {number: f"other {number}" for number in range(1, 460)}
    names.update({number: name for name, number in LABEL_IDS.items()})
    names.update(changes)
    path.write_text("".join(f"{number}: {name}\n" for number, name in names.items()))


@pytest.mark.parametrize("inside", [True, False])
def test_names_of_the_distribution(tmp_path, inside):
    folder = write_context(tmp_path)
    path = (folder if inside else tmp_path) / "labels.txt"
    write_names(path)
    make_lists("pascal-context", tmp_path)
    write_names(path, {397: "diningtable"})
    make_lists("pascal-context", tmp_path)
    write_names(path, {44: "bus", 45: "building"})
    with pytest.raises(ValueError, match=r"labels\.txt: label 44 is bus: expected building: these"):
        make_lists("pascal-context", tmp_path)
    path.write_text("1: accordion\nx aeroplane\n")
    with pytest.raises(ValueError, match=r"labels\.txt: found 'x aeroplane': expected a number, a"):
        make_lists("pascal-context", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a MATLAB file"),
        ({"labels": np.zeros((2, 2), np.uint16)}, "found labels: expected LabelMap"),
        ({"LabelMap": np.full((2, 2), 460, np.uint16)}, "found class 460: expected 0 to 459"),
    ],
)
def test_a_damaged_map_is_named(tmp_path, content, message):
    folder = write_context(tmp_path)
    if content is None:
        (folder / "b.mat").write_bytes((folder / "b.mat").read_bytes()[:150])
    else:
        scipy.io.savemat(folder / "b.mat", content)
    with pytest.raises(ValueError, match=rf"trainval/b\.mat: {message}"):
        make_lists("pascal-context", tmp_path)
    assert not list(tmp_path.glob("*.lst"))


def test_missing_files(tmp_path):
    folder = write_context(tmp_path)
    (tmp_path / BASE / "JPEGImages/b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"JPEGImages/b\.jpg is not there: incomplete"):
        make_lists("pascal-context", tmp_path)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no labels \(looked for trainval/\*\.mat .*VOC2010"
    ):
        make_lists("pascal-context", tmp_path)
    (tmp_path / BASE / "ImageSets/Main/val.txt").unlink()
    assert not (tmp_path / BASE / "SegmentationClassContext").exists()

"""`ademx data lists` on small copies of the official layouts, VOC with SBD above all.

ILSVRC and Places are in test_data_classification.py, COCO in test_data_coco.py and Context in
test_data_context.py.
"""

import contextlib
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from commands import make_runner
from PIL import Image

from ademx.cli import main
from ademx.data.lists import label_files
from ademx.data.lists.plans import ListOptions
from ademx.data.lists.write import make_lists
from ademx.errors import MissingDependency
from iters.lists import find_samples, read_list_file


def write_files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_text(root, name, content):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content)


def write_sbd_label(folder, name, stored):
    """Write a label as SBD does: a struct, with the boundaries of each class beside the map."""
    (folder / "cls").mkdir(parents=True, exist_ok=True)
    boundaries = np.zeros((20, 1), object)
    content = {"Segmentation": stored, "Boundaries": boundaries}
    scipy.io.savemat(folder / f"cls/{name}.mat", {"GTcls": content}, do_compression=True)


VOC_FOLDERS = {"root": "VOCdevkit/VOC2012", "devkit": "VOC2012", "itself": ""}


def write_voc(root, *, where="root", **names):
    """Write VOC's folder: by default a and b in train, c and d in val."""
    names = names or {"train": "ab", "val": "cd"}
    base = root / VOC_FOLDERS[where]
    for split, members in names.items():
        write_text(base, f"ImageSets/Segmentation/{split}.txt", "".join(f"{m}\n" for m in members))
        write_files(base, *(f"JPEGImages/{name}.jpg" for name in members))
        if split != "test":
            write_files(base, *(f"SegmentationClass/{name}.png" for name in members))
    return base


def stored_label(name):
    """A label that differs from image to image, all classes of VOC in it."""
    source = np.random.default_rng(ord(name))
    return source.integers(0, 21, (6, 9)).astype(np.uint8)


def write_sbd(folder, *, train="aec", val="fd", images=""):
    """Write SBD: by default it has one image of VOC's train (a), two of its val, and e and f."""
    for split, names in (("train", train), ("val", val)):
        write_text(folder, f"{split}.txt", "".join(f"{name}\n" for name in names))
        for name in names:
            write_sbd_label(folder, name, stored_label(name))
    write_files(folder, *(f"img/{name}.jpg" for name in images))
    return folder


def lines(path):
    return Path(path).read_text().splitlines()


def voc_line(name, folder="SegmentationClass", image=None):
    base = "VOCdevkit/VOC2012"
    image = image or f"{base}/JPEGImages/{name}.jpg"
    return f"{image}\t{base}/{folder}/{name}.png"


def snapshot(root):
    return sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file())


def run(*arguments):
    return make_runner().invoke(main, ["data", "lists", *map(str, arguments)])


def assert_read_back(dataset, root, written):
    """Each list names what is there, and finding the split leads to the same files."""
    for row in written:
        samples = read_list_file(row.path, task="segmentation", root=root)
        assert len(samples) == row.num_samples
        assert all(sample.image.is_file() for sample in samples)
        assert all(sample.label is None or sample.label.is_file() for sample in samples)
        found = find_samples(dataset, root, row.split)
        assert [(s.image.resolve(), s.label and s.label.resolve()) for s in found] == [
            (s.image.resolve(), s.label and s.label.resolve()) for s in samples
        ]


def test_voc(tmp_path):
    write_voc(tmp_path, train="ba", val="cd", trainval="abcd", test="xy")
    result = run("voc", "--root", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert lines(tmp_path / "train.lst") == [voc_line("b"), voc_line("a")]
    assert lines(tmp_path / "val.lst") == [voc_line("c"), voc_line("d")]
    assert lines(tmp_path / "trainval.lst") == [voc_line(name) for name in "abcd"]
    assert lines(tmp_path / "test.lst") == [
        f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg" for name in "xy"
    ]
    header, *rows = (line.split() for line in result.stdout.splitlines())
    assert header == ["list", "samples", "expected", "agree"]
    assert rows == [
        [str(tmp_path / "train.lst"), "2", "1464", "NO"],
        [str(tmp_path / "val.lst"), "2", "1449", "NO"],
        [str(tmp_path / "trainval.lst"), "4", "2913", "NO"],
        [str(tmp_path / "test.lst"), "2", "1456", "NO"],
    ]
    assert "train.lst: 2 samples, expected 1464" in result.stderr
    assert "SBD" not in result.stderr


def test_the_published_number_of_images_agrees(tmp_path):
    write_voc(tmp_path, val=[f"2007_{number:06d}" for number in range(1449)])
    result = run("voc", "--root", tmp_path)
    assert result.stdout.splitlines()[1].split()[1:] == ["1449", "1449", "yes"]
    assert "expected" not in result.stderr


@pytest.mark.parametrize("where", VOC_FOLDERS)
def test_voc_is_read_back_wherever_it_lies(tmp_path, where):
    write_voc(tmp_path, where=where, train="a", val="cd", test="x")
    written = make_lists("voc", tmp_path)
    assert [row.split for row in written] == ["train", "val", "test"]
    assert_read_back("voc", tmp_path, written)


def test_voc_mentions_sbd(tmp_path):
    write_voc(tmp_path)
    write_sbd(tmp_path / "VOCdevkit/benchmark_RELEASE/dataset")
    result = run("voc", "--root", tmp_path)
    assert "`ademx data lists voc-sbd` makes its train+.lst" in result.stderr
    assert lines(tmp_path / "train.lst") == [voc_line("a"), voc_line("b")]


def test_train_plus(tmp_path):
    """VOC's train and SBD without VOC's val: a and b with VOC's labels, e and f with SBD's."""
    base = write_voc(tmp_path)
    write_sbd(tmp_path / "benchmark_RELEASE/dataset", images="aef")
    write_files(base, "JPEGImages/e.jpg")
    written = make_lists("voc-sbd", tmp_path)
    assert [(row.split, row.num_samples, row.expected) for row in written] == [
        ("train+", 4, 10582),
        ("val", 2, 1449),
    ]
    assert lines(tmp_path / "train+.lst") == [
        voc_line("a"),
        voc_line("b"),
        voc_line("e", "SegmentationClassAug"),
        voc_line("f", "SegmentationClassAug", "benchmark_RELEASE/dataset/img/f.jpg"),
    ]
    assert lines(tmp_path / "val.lst") == [voc_line("c"), voc_line("d")]
    assert_read_back("voc-sbd", tmp_path, written)
    assert sorted(path.name for path in (base / "SegmentationClassAug").iterdir()) == [
        "e.png",
        "f.png",
    ]


def test_an_image_that_is_named_twice_is_one_sample_of_train_plus(tmp_path):
    base = write_voc(tmp_path)
    write_sbd(tmp_path / "benchmark_RELEASE/dataset", train="aece", images="f")
    write_files(base, "JPEGImages/e.jpg")
    names = base / "ImageSets/Segmentation/train.txt"
    names.write_text(2 * names.read_text())
    make_lists("voc-sbd", tmp_path)
    found = [Path(line.split("\t")[0]).stem for line in lines(tmp_path / "train+.lst")]
    assert found == ["a", "b", "e", "f"]


def test_sbds_labels_as_png(tmp_path):
    """The numbers of the MATLAB file; each shows in VOC's colour when the palette is applied."""
    base = write_voc(tmp_path)
    write_sbd(tmp_path / "benchmark_RELEASE/dataset", images="ef")
    make_lists("voc-sbd", tmp_path)
    with Image.open(base / "SegmentationClassAug/e.png") as image:
        assert (image.format, image.mode) == ("PNG", "P")
        assert (np.array(image) == stored_label("e")).all()
        colours = np.array(image.convert("RGB"))
    known = {0: (0, 0, 0), 1: (128, 0, 0), 12: (64, 0, 128), 15: (192, 128, 128), 20: (0, 64, 128)}
    for number, colour in known.items():
        assert (colours[stored_label("e") == number] == colour).all()


@pytest.mark.parametrize(
    ("folder", "given"),
    [
        ("data/benchmark_RELEASE/dataset", None),
        ("data/VOCdevkit/benchmark_RELEASE/dataset", None),
        ("data/VOCdevkit/VOC2012/benchmark_RELEASE/dataset", None),
        ("elsewhere/sbd", "elsewhere/sbd"),
        ("elsewhere/dataset", "elsewhere"),
        ("elsewhere/benchmark_RELEASE/dataset", "elsewhere"),
    ],
)
def test_where_sbd_may_lie(tmp_path, folder, given):
    """The root is VOCdevkit, and SBD in it, in VOC2012, beside it or where --sbd says."""
    root = tmp_path / "data/VOCdevkit"
    write_voc(root, where="devkit")
    write_sbd(tmp_path / folder, images="ef")
    arguments = ["--sbd", tmp_path / given] if given else []
    result = run("voc-sbd", "--root", root, *arguments)
    assert result.exit_code == 0, result.stderr
    image = read_list_file(root / "train+.lst", task="segmentation", root=root)[3].image
    assert image.resolve() == (tmp_path / folder / "img/f.jpg").resolve()


def test_paths_out_of_a_root_that_is_a_link(tmp_path):
    """`..` leads up from where the link points to, and so must the list's paths."""
    write_voc(tmp_path / "disk/deep/voc")
    write_sbd(tmp_path / "sbd", images="ef")
    (tmp_path / "link").symlink_to(tmp_path / "disk/deep/voc")
    make_lists("voc-sbd", tmp_path / "link", ListOptions(sbd=tmp_path / "sbd"))
    assert lines(tmp_path / "link/train+.lst")[3].startswith("../../../sbd/img/f.jpg\tVOCdevkit/")
    samples = find_samples("voc-sbd", tmp_path / "link", "train+")
    assert all(sample.image.is_file() and sample.label.is_file() for sample in samples)


def test_a_relative_root(tmp_path, monkeypatch):
    write_voc(tmp_path / "data")
    write_sbd(tmp_path / "benchmark_RELEASE/dataset", images="ef")
    monkeypatch.chdir(tmp_path / "data")
    make_lists("voc-sbd", ".", ListOptions(sbd=Path("../benchmark_RELEASE")))
    assert lines("train+.lst")[0] == voc_line("a")
    assert lines("train+.lst")[3].startswith("../benchmark_RELEASE/dataset/img/f.jpg\t")


def test_labels_that_are_there_whole_are_kept(tmp_path, caplog):
    base = write_voc(tmp_path)
    write_sbd(tmp_path / "benchmark_RELEASE/dataset", images="ef")
    make_lists("voc-sbd", tmp_path)
    labels = {name: base / f"SegmentationClassAug/{name}.png" for name in "ef"}
    own = np.full((6, 9), 7, np.uint8)
    Image.fromarray(own).save(labels["e"])
    before = labels["e"].read_bytes()
    labels["f"].write_bytes(labels["f"].read_bytes()[:-30])  # a copy that was interrupted
    with caplog.at_level("INFO"):
        make_lists("voc-sbd", tmp_path)
    assert labels["e"].read_bytes() == before
    with Image.open(labels["f"]) as image:
        assert (np.array(image) == stored_label("f")).all()
    assert "voc-sbd train+: kept 1 of 2 label images" in caplog.text


def test_many_labels_in_two_processes(tmp_path):
    """What is wrong with one crosses the process boundary, and those before it are kept."""
    names = [chr(0x4E00 + number) for number in range(120)]
    base = write_voc(tmp_path)
    folder = tmp_path / "benchmark_RELEASE/dataset"
    write_sbd(folder, train=names, val=names[:1], images=names)
    last = folder / f"cls/{names[-1]}.mat"
    whole = last.read_bytes()
    last.write_bytes(whole[:200])
    with pytest.raises(ValueError, match=f"{last}: cannot be read as a MATLAB file"):
        make_lists("voc-sbd", tmp_path, ListOptions(jobs=2))
    made = base / "SegmentationClassAug"
    assert sorted(path.name for path in made.iterdir()) == [f"{name}.png" for name in names[:-1]]
    last.write_bytes(whole)
    make_lists("voc-sbd", tmp_path, ListOptions(jobs=1))
    samples = find_samples("voc-sbd", tmp_path, "train+")[2:]
    assert [sample.name for sample in samples] == names
    for name, sample in zip(names, samples):
        with Image.open(sample.label) as image:
            assert (np.array(image) == stored_label(name)).all()


def test_many_labels_where_dev_shm_cannot_be_written(tmp_path, monkeypatch, caplog):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(label_files, "ProcessPoolExecutor", refuse)
    names = [chr(0x4E00 + number) for number in range(120)]
    base = write_voc(tmp_path)
    write_sbd(tmp_path / "benchmark_RELEASE/dataset", train=names, val=names[:1], images=names)
    make_lists("voc-sbd", tmp_path, ListOptions(jobs=2))
    assert len(list((base / "SegmentationClassAug").iterdir())) == 120
    assert "/dev/shm (Read-only file system): one process makes the labels" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a MATLAB file"),
        (b"not a MATLAB file" * 20, "cannot be read as a MATLAB file"),
        ({"other": np.zeros(3)}, "found other: expected a struct GTcls with a field Segment"),
        ({"GTcls": {"Boundaries": np.zeros(3)}}, "found GTcls: expected a struct GTcls"),
        ({"GTcls": np.zeros((3, 3))}, "found GTcls: expected a struct GTcls"),
        ({"GTcls": {"Segmentation": np.full((3, 4), 21, np.uint8)}}, "found class 21: expected 0"),
        ({"GTcls": {"Segmentation": np.zeros((3, 4, 2), np.uint8)}}, r"found \(3, 4, 2\): expect"),
        ({"GTcls": {"Segmentation": np.full((3, 4), 0.5)}}, r"found \(3, 4\): expected a label"),
    ],
)
def test_a_damaged_matlab_file_is_named(tmp_path, content, message):
    write_voc(tmp_path)
    folder = write_sbd(tmp_path / "benchmark_RELEASE/dataset", images="ef")
    if isinstance(content, bytes):
        (folder / "cls/f.mat").write_bytes(content)
    else:
        scipy.io.savemat(folder / "cls/f.mat", content)
    with pytest.raises(ValueError, match=rf"cls/f\.mat: {message}"):
        make_lists("voc-sbd", tmp_path)
    assert not list(tmp_path.glob("*.lst"))


def test_cut_and_garbled_matlab_files_never_end_in_another_error(tmp_path):
    """Whatever happens to the bytes, the file is named or the label is a label."""
    write_voc(tmp_path)
    folder = write_sbd(tmp_path / "benchmark_RELEASE/dataset", train="e", val="e", images="e")
    path = folder / "cls/e.mat"
    whole = path.read_bytes()
    source = np.random.default_rng(0)
    for number in range(150):
        damaged = bytearray(whole)
        if number % 2:
            damaged = damaged[: source.integers(len(whole))]
        else:
            damaged[source.integers(120, len(whole))] ^= 1 << source.integers(8)
        path.write_bytes(damaged)
        try:
            make_lists("voc-sbd", tmp_path, ListOptions(overwrite=True))
        except ValueError as error:
            assert str(path) in str(error)
        (tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug/e.png").unlink(missing_ok=True)


def missing(root, what):
    """Remove a file of the layout and return what is left."""
    (root / what).unlink()
    return snapshot(root)


@pytest.mark.parametrize(
    ("dataset", "file", "message"),
    [
        (
            "voc",
            "VOCdevkit/VOC2012/JPEGImages/c.jpg",
            r"c\.jpg is not there: .*for VOCdevkit/VOC2012/J",
        ),
        ("voc", "VOCdevkit/VOC2012/SegmentationClass/b.png", r"Class/b\.png is not there: inco"),
        ("voc-sbd", "VOCdevkit/VOC2012/SegmentationClass/d.png", r"Class/d\.png is not there"),
        ("voc-sbd", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", r"val\.txt is not there"),
        ("voc-sbd", "benchmark_RELEASE/dataset/cls/f.mat", r"cls/f\.mat is not there: incomplete"),
        ("voc-sbd", "benchmark_RELEASE/dataset/img/e.jpg", r"img/e\.jpg is not there: incomplete"),
        ("voc-sbd", "benchmark_RELEASE/dataset/val.txt", "no SBD: .* in /.*benchmark_REL.*--sbd"),
    ],
)
def test_nothing_is_written_where_a_file_is_missing(tmp_path, dataset, file, message):
    write_voc(tmp_path)
    write_sbd(tmp_path / "benchmark_RELEASE/dataset", images="ef")
    before = missing(tmp_path, file)
    result = run(dataset, "--root", tmp_path, "--output", tmp_path / "new")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    with pytest.raises(FileNotFoundError, match=message):
        make_lists(dataset, tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("dataset", "layout"),
    [
        ("voc", r"no image set of voc in .*: looked there for VOCdevkit/VOC2012/JPEGImages"),
        ("voc-sbd", "no image set .*benchmark_RELEASE/dataset/cls"),
        ("coco", r"no split .*annotations/instances_\{train2017,val2017\}\.json"),
        ("coco20", "no split of coco20"),
        ("cityscapes", "no split .*leftImg8bit/.*gtFine/"),
        ("cityscapes-coarse", "no split .*gtCoarse/"),
        ("ade20k", "no split .*ADEChallengeData2016/images"),
        ("pascal-context", r"no images .*trainval/\*\.mat"),
        ("pascal-context-59", "no images of pascal-context-59"),
        ("ilsvrc-cls", "neither train nor val .*ILSVRC2012_devkit_t12/data"),
        ("places", r"no split .*places365_val\.txt"),
    ],
)
def test_an_empty_root_is_told_the_layout(tmp_path, dataset, layout):
    with pytest.raises(FileNotFoundError, match=layout):
        make_lists(dataset, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_lists_are_not_overwritten_unless_told_to(tmp_path):
    write_voc(tmp_path)
    write_text(tmp_path, "val.lst", "mine.jpg\tmine.png\n")
    before = snapshot(tmp_path)
    result = run("voc", "--root", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path / 'val.lst'} exists: choose another folder with --output" in result.stderr
    assert snapshot(tmp_path) == before
    assert run("voc", "--root", tmp_path, "--overwrite").exit_code == 0
    assert lines(tmp_path / "val.lst") == [voc_line("c"), voc_line("d")]


def test_a_list_with_the_same_content_is_no_obstacle(tmp_path):
    """`voc` and then `voc-sbd` both make val.lst, the same one."""
    write_voc(tmp_path)
    write_sbd(tmp_path / "benchmark_RELEASE/dataset", images="ef")
    assert run("voc", "--root", tmp_path).exit_code == 0
    assert run("voc-sbd", "--root", tmp_path).exit_code == 0
    assert run("voc-sbd", "--root", tmp_path).exit_code == 0


def test_another_folder_for_the_lists(tmp_path):
    write_voc(tmp_path / "voc")
    result = run("voc", "--root", tmp_path / "voc", "--output", tmp_path / "new/lists")
    assert result.exit_code == 0, result.stderr
    path = tmp_path / "new/lists/train.lst"
    assert lines(path) == [voc_line("a"), voc_line("b")]
    assert not list((tmp_path / "voc").glob("*.lst"))
    samples = find_samples("voc", tmp_path / "voc", "train", list_file=path)
    assert [sample.image.is_file() for sample in samples] == [True, True]


def test_train_plus_plus(tmp_path):
    write_voc(tmp_path / "voc")
    write_sbd(tmp_path / "voc/benchmark_RELEASE/dataset", images="ef")
    arguments = ("voc-sbd", "--root", tmp_path / "voc", "--coco", tmp_path / "coco")
    (tmp_path / "coco").mkdir()
    result = run(*arguments)
    assert result.exit_code == 1
    assert f"`ademx data lists coco20 --root {tmp_path / 'coco'}`" in result.stderr
    assert not list((tmp_path / "voc").glob("*.lst"))
    for split in ("train2017", "val2017"):
        write_files(tmp_path / "coco", f"{split}/1.jpg", f"labels20/{split}/1.png")
        line = f"{split}/1.jpg\tlabels20/{split}/1.png\n"
        write_text(tmp_path / "coco", f"coco20_{split}.lst", line)
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[3].split()[1:] == ["6", "-", "-"]
    found = lines(tmp_path / "voc/train++.lst")
    assert found[:4] == lines(tmp_path / "voc/train+.lst")
    assert found[4:] == [
        f"../coco/{split}/1.jpg\t../coco/labels20/{split}/1.png"
        for split in ("train2017", "val2017")
    ]
    samples = find_samples("voc-sbd", tmp_path / "voc", "train++")
    assert all(sample.image.is_file() and sample.label.is_file() for sample in samples)


CITY = "aachen/aachen_000000_000019"


def write_cityscapes(root):
    for split in ("train", "val", "test", "train_extra"):
        write_files(root, f"leftImg8bit/{split}/{CITY}_leftImg8bit.png")
    for split in ("train", "val", "test"):
        write_files(root, f"gtFine/{split}/{CITY}_gtFine_labelIds.png")
    for split in ("train", "val", "train_extra"):
        write_files(root, f"gtCoarse/{split}/{CITY}_gtCoarse_labelIds.png")


def test_cityscapes_fine_and_coarse_in_one_root(tmp_path):
    write_cityscapes(tmp_path)
    fine = make_lists("cityscapes", tmp_path)
    coarse = make_lists("cityscapes-coarse", tmp_path)
    assert [(row.path.name, row.num_samples, row.expected) for row in fine + coarse] == [
        ("train.lst", 1, 2975),
        ("val.lst", 1, 500),
        ("test.lst", 1, 1525),
        ("cityscapes-coarse_train.lst", 1, 2975),
        ("cityscapes-coarse_val.lst", 1, 500),
        ("cityscapes-coarse_train_extra.lst", 1, 19998),
    ]
    assert lines(tmp_path / "val.lst") == [
        f"leftImg8bit/val/{CITY}_leftImg8bit.png\tgtFine/val/{CITY}_gtFine_labelIds.png"
    ]
    assert lines(tmp_path / "test.lst") == [f"leftImg8bit/test/{CITY}_leftImg8bit.png"]
    assert lines(tmp_path / "cityscapes-coarse_train_extra.lst") == [
        f"leftImg8bit/train_extra/{CITY}_leftImg8bit.png\t"
        f"gtCoarse/train_extra/{CITY}_gtCoarse_labelIds.png"
    ]
    assert_read_back("cityscapes", tmp_path, fine)
    assert_read_back("cityscapes-coarse", tmp_path, coarse)


def test_cityscapes_without_labels(tmp_path):
    write_cityscapes(tmp_path)
    before = missing(tmp_path, f"gtFine/val/{CITY}_gtFine_labelIds.png")
    with pytest.raises(FileNotFoundError, match=r"_gtFine_labelIds\.png is not there: incomplete"):
        make_lists("cityscapes", tmp_path)
    assert snapshot(tmp_path) == before


def test_ade20k(tmp_path):
    base = "ADEChallengeData2016"
    for split, name in (("training", "train_2"), ("training", "train_1"), ("validation", "val_1")):
        write_files(
            tmp_path,
            f"{base}/images/{split}/ADE_{name}.jpg",
            f"{base}/annotations/{split}/ADE_{name}.png",
        )
    write_files(tmp_path, "release_test/testing/ADE_test_1.jpg")
    written = make_lists("ade20k", tmp_path)
    assert [(row.path.name, row.num_samples, row.expected) for row in written] == [
        ("train.lst", 2, 20210),
        ("val.lst", 1, 2000),
        ("test.lst", 1, 3352),
    ]
    assert lines(tmp_path / "test.lst") == ["release_test/testing/ADE_test_1.jpg"]
    assert lines(tmp_path / "train.lst") == [
        f"{base}/images/training/ADE_train_{n}.jpg\t{base}/annotations/training/ADE_train_{n}.png"
        for n in (1, 2)
    ]
    assert_read_back("ade20k", tmp_path, written)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_file_names_need_not_be_utf8(tmp_path):
    folders = [
        tmp_path / f"ADEChallengeData2016/{kind}/training" for kind in ("images", "annotations")
    ]
    for folder, suffix in zip(folders, (b".jpg", b".png")):
        folder.mkdir(parents=True)
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9" + suffix)).touch()
    (written,) = make_lists("ade20k", tmp_path)
    assert b"/caf\xe9.jpg\t" in written.path.read_bytes()
    (sample,) = read_list_file(written.path, task="segmentation", root=tmp_path)
    assert sample.image.is_file()


@pytest.mark.parametrize("name", ["a\tb", "a\nb"])
def test_a_name_that_no_list_can_hold(tmp_path, name):
    write_files(
        tmp_path,
        f"ADEChallengeData2016/images/training/{name}.jpg",
        f"ADEChallengeData2016/annotations/training/{name}.png",
    )
    with pytest.raises(ValueError, match=r"a\\.b\.jpg': a name with tabs, line breaks or outer sp"):
        make_lists("ade20k", tmp_path)
    assert not list(tmp_path.glob("*.lst"))


def test_an_empty_image_set(tmp_path):
    write_voc(tmp_path, train="")
    with pytest.raises(ValueError, match=r"train\.txt: the file is empty: unpack it again"):
        make_lists("voc", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("flowers",), "'flowers' is not one of"),
        (("ade20k", "--sbd", "."), "--sbd is for voc-sbd, not for ade20k"),
        (("voc", "--coco", "."), "--coco is for voc-sbd, not for voc"),
        (("coco", "--min-pixels", "5"), "--min-pixels is for coco20, not for coco"),
        (("voc", "--rec"), "--rec is for ilsvrc-cls, places, not for voc"),
        (("voc", "--jobs", "0"), "--jobs"),
        (("voc", "--output", __file__), "is a file"),
    ],
)
def test_usage_errors(tmp_path, arguments, message):
    result = run(*arguments, "--root", tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_wrong_arguments_of_the_function(tmp_path):
    with pytest.raises(ValueError, match=r"no lists are made of 'own\.yaml': choose one of ilsvrc"):
        make_lists("own.yaml", tmp_path)
    with pytest.raises(ValueError, match="voc: RecordIO files are for classification"):
        make_lists("voc", tmp_path, ListOptions(rec=True))
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder: give the root of voc"):
        make_lists("voc", tmp_path / "nowhere")


def test_help_says_what_is_our_reading():
    text = " ".join(run("--help").stdout.split())
    assert "never says how it was made. This is our reading" in text
    assert "PNGs that are there whole are kept" in text


def test_without_scipy(tmp_path, monkeypatch):
    write_voc(tmp_path)
    write_sbd(tmp_path / "benchmark_RELEASE/dataset", images="ef")
    monkeypatch.delitem(sys.modules, "scipy.io")
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingDependency, match=r"needs scipy.*`pip install 'ademx\[data\]'`"):
        make_lists("voc-sbd", tmp_path)
    assert [row.split for row in make_lists("voc", tmp_path)] == ["train", "val"]


def test_a_pipe_where_a_list_would_be_written_is_refused(tmp_path):
    image = "ADEChallengeData2016/images/training/a.jpg"
    write_files(tmp_path, image, image.replace("images", "annotations").replace("jpg", "png"))
    os.mkfifo(tmp_path / "train.lst")
    with pytest.raises(OSError, match=r"train\.lst: found a named pipe: expected a file"):
        make_lists("ade20k", tmp_path)


STUCK_LABELS = """
import os, sys, time
from pathlib import Path
from ademx.data.lists.label_files import make_labels
from ademx.data.lists.plans import Entry


class Stuck:
    def read(self):
        Path(f"started-{os.getpid()}").touch()
        time.sleep(10_000)


if __name__ == "__main__":
    make_labels([Entry(Path("a.jpg"), Path(f"{n}.png"), Stuck()) for n in range(200)],
                palette=(), jobs=2)
"""


def running():
    """Every process that is not dead yet -> its parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(path.parent.name)] = int(parent)
    return found


def wait_until(holds):
    for _ in range(6000):
        if holds():
            return
        time.sleep(0.02)
    pytest.fail("it did not come to pass within two minutes")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_end_with_the_command_that_is_killed(tmp_path):
    """Those that make labels, and the one that removes the semaphores of all."""
    (tmp_path / "stuck.py").write_text(STUCK_LABELS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    process = subprocess.Popen([sys.executable, "stuck.py"], cwd=tmp_path, env=environment)
    try:
        wait_until(lambda: len(list(tmp_path.glob("started-*"))) == 2)
        started = {pid for pid, parent in running().items() if parent == process.pid}
        assert len(started) >= 3
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: started.isdisjoint(running()))

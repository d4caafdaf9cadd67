"""List files and the datasets' folder layouts, made in a temporary folder."""

import os
import sys

import pytest

from iters.datasets import DATASETS
from iters.lists import find_samples, read_list_file
from iters.samples import Sample


def make_files(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_list(tmp_path, content):
    path = tmp_path / "some.lst"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_classification_list(tmp_path):
    path = write_list(tmp_path, "7\t3\tval/a.JPEG\n8\t999\tval/b c.JPEG\n")
    assert read_list_file(path, task="classification", root=tmp_path) == [
        Sample(0, tmp_path / "val/a.JPEG", 3, "a"),
        Sample(1, tmp_path / "val/b c.JPEG", 999, "b c"),
    ]


def test_segmentation_list(tmp_path):
    path = write_list(tmp_path, "images/a.jpg\tlabels/a.png\n/abs/b.jpg\t/abs/b.png\n")
    samples = read_list_file(path, task="segmentation", root="root")
    assert [(str(s.image), str(s.label), s.name) for s in samples] == [
        (os.path.join("root", "images/a.jpg"), os.path.join("root", "labels/a.png"), "a"),
        ("/abs/b.jpg", "/abs/b.png", "b"),
    ]


def test_segmentation_list_without_labels(tmp_path):
    path = write_list(tmp_path, "a.jpg\nb.jpg\t\n")
    samples = read_list_file(path, task="segmentation", root=tmp_path)
    assert [(s.name, s.label) for s in samples] == [("a", None), ("b", None)]


def test_byte_order_mark_crlf_blank_lines_and_spaces(tmp_path):
    path = write_list(tmp_path, b"\xef\xbb\xbf0\t1\ta.jpg \r\n\r\n  \n 1 \t2 \tb.jpg")
    samples = read_list_file(path, task="classification", root=tmp_path)
    assert [(s.index, s.label, s.image.name) for s in samples] == [(0, 1, "a.jpg"), (1, 2, "b.jpg")]


def test_a_list_as_im2rec_writes_it(tmp_path):
    path = write_list(tmp_path, "0\t3.000000\ta.jpg\n17 \t 999.000000 \t b.jpg\n2\t0.\tc.jpg\n")
    samples = read_list_file(path, task="classification", root=tmp_path)
    assert [(s.label, s.name) for s in samples] == [(3, "a"), (999, "b"), (0, "c")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_as_windows_saves_it(tmp_path, encoding):
    mark = "" if encoding == "utf-16" else "\ufeff"
    path = write_list(tmp_path, f"{mark}0\t1\tcafé.jpg\r\n\r\n1\t2\t图.jpg\r\n".encode(encoding))
    samples = read_list_file(path, task="classification", root=tmp_path)
    assert [(s.label, s.name) for s in samples] == [(1, "café"), (2, "图")]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_file_names_need_not_be_utf8(tmp_path):
    path = write_list(tmp_path, b"0\t1\tcaf\xe9.jpg\n")
    (sample,) = read_list_file(path, task="classification", root=tmp_path)
    assert os.fsencode(sample.image.name) == b"caf\xe9.jpg"


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("classification", "0\t1\ta.jpg\n1\tcat\tb.jpg\n", "line 2: label 'cat': expected an int"),
        ("classification", "\n0\t-1\ta.jpg\n", "line 2: label '-1': expected an integer, 0 or"),
        ("classification", "0\t1.5\ta.jpg\n", "line 1: label '1.5'"),
        ("classification", "0\tnan\ta.jpg\n", "line 1: label 'nan'"),
        ("classification", "0\t1\ta.jpg\n1\t2\tb\0.jpg\n", "line 2: found a NUL character"),
        ("segmentation", "a.jpg\ta.png\n".encode("utf-16-le"), "line 1: found a NUL .*UTF-16"),
        ("segmentation", b"\xff\xfea\0\x00\xd8", "not UTF-16, though it begins so"),
        ("classification", "a.jpg\t1\t0\n", "line 1: index 'a.jpg'"),
        ("classification", "0 1 a.jpg\n", r"line 1: found \['0 1 a.jpg'\]: expected index, label"),
        ("classification", "0\t1\t\n", "line 1: found .*: expected index, label and image"),
        ("segmentation", "a.jpg\ta.png\tx\n", "line 1: found .*: expected image and label"),
        ("segmentation", "\ta.png\n", "line 1: found .*: expected image and label"),
        ("segmentation", "a.jpg\ta.png\nb.jpg\n", "line 2: some lines have a label and some"),
        ("segmentation", " \n\n", "some.lst: the list is empty"),
    ],
)
def test_malformed_lists_name_file_and_line(tmp_path, task, content, message):
    path = write_list(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_list_file(path, task=task, root=tmp_path)
    assert str(path) in str(caught.value)


def test_missing_list_and_unknown_task(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"list file .*none\.lst: no such file"):
        read_list_file(tmp_path / "none.lst", task="segmentation", root=tmp_path)
    with pytest.raises(ValueError, match="unknown task 'detection': expected one of classific"):
        read_list_file(tmp_path / "none.lst", task="detection", root=tmp_path)


def test_names_that_repeat_are_numbered(tmp_path):
    path = write_list(tmp_path, "x/0.jpg\tx/0.png\ny/0.jpg\ty/0.png\nz/1.jpg\tz/1.png\n")
    samples = read_list_file(path, task="segmentation", root=tmp_path)
    assert [s.name for s in samples] == ["000000_0", "000001_0", "000002_1"]


@pytest.mark.parametrize("base", ["", "VOC2012/", "VOCdevkit/VOC2012/"])
def test_voc_layout(tmp_path, base):
    names_file = tmp_path / base / "ImageSets/Segmentation/val.txt"
    make_files(
        tmp_path,
        f"{base}ImageSets/Segmentation/val.txt",
        *(f"{base}JPEGImages/{name}.jpg" for name in ("2007_2", "2007_1", "2007_9")),
        f"{base}SegmentationClass/2007_1.png",
        f"{base}SegmentationClass/2007_2.png",
        f"{base}SegmentationClassAug/2007_2.png",
    )
    names_file.write_text("2007_2\r\n2007_1\n")
    samples = find_samples("voc", tmp_path, "val")
    assert samples == [
        Sample(
            index,
            tmp_path / base / f"JPEGImages/{name}.jpg",
            tmp_path / base / f"SegmentationClass/{name}.png",
            name,
        )
        for index, name in enumerate(["2007_2", "2007_1"])
    ]


def test_voc_takes_sbds_labels_where_it_has_none(tmp_path):
    make_files(
        tmp_path,
        "ImageSets/Segmentation/train_aug.txt",
        "JPEGImages/a.jpg",
        "SegmentationClassAug/a.png",
    )
    (tmp_path / "ImageSets/Segmentation/train_aug.txt").write_text("a\n")
    (sample,) = find_samples("voc", tmp_path, "train_aug")
    assert sample.label == tmp_path / "SegmentationClassAug/a.png"


def test_a_missing_file_is_left_to_whoever_reads_it(tmp_path):
    make_files(tmp_path, "ImageSets/Segmentation/val.txt")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    (sample,) = find_samples("voc", tmp_path, "val")
    assert sample.image == tmp_path / "JPEGImages/a.jpg"
    assert sample.label == tmp_path / "SegmentationClass/a.png"


def test_cityscapes_layout(tmp_path):
    make_files(
        tmp_path,
        "leftImg8bit/val/munster/munster_000000_000019_leftImg8bit.png",
        "leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png",
        "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png",
        "gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png",
        "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png",
    )
    first, second = find_samples("cityscapes", tmp_path, "val")
    assert first.name == "frankfurt_000000_000294_leftImg8bit"
    label = "gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png"
    assert second.label == tmp_path / label


def test_coarse_labels_lie_in_a_folder_of_their_own(tmp_path):
    make_files(
        tmp_path,
        "leftImg8bit/train_extra/ulm/ulm_000000_000019_leftImg8bit.png",
        "gtCoarse/train_extra/ulm/ulm_000000_000019_gtCoarse_labelIds.png",
    )
    (sample,) = find_samples("cityscapes-coarse", tmp_path, "train_extra")
    label = "gtCoarse/train_extra/ulm/ulm_000000_000019_gtCoarse_labelIds.png"
    assert sample.label == tmp_path / label


@pytest.mark.parametrize("dataset", DATASETS)
def test_lists_are_called_as_in_the_release_but_where_datasets_share_a_root(tmp_path, dataset):
    """COCO's list has labels of 81 classes, VOC's is of other images than Context's."""
    name = {
        "coco20": "coco20_train.lst",
        "cityscapes-coarse": "cityscapes-coarse_train.lst",
        "pascal-context": "pascal-context_train.lst",
        "pascal-context-59": "pascal-context_train.lst",  # the same files and labels
    }.get(dataset, "train.lst")
    task = DATASETS[dataset].task
    line = "a.jpg\ta.png\n" if task == "segmentation" else "0\t7\ta.jpg\n"
    for other in ("train.lst", "coco_train.lst", "voc_train.lst"):
        (tmp_path / other).write_text(line)
    if name != "train.lst":
        with pytest.raises(FileNotFoundError, match=f"looked there for .*{name}: correct"):
            find_samples(dataset, tmp_path, "train")
    (tmp_path / name).write_text(line.replace("a.", "b."))
    (sample,) = find_samples(dataset, tmp_path, "train")
    assert sample.name == "b"


@pytest.mark.parametrize("folder", ["release_test/testing", "testing"])
def test_ade20ks_test_images_are_an_archive_of_their_own(tmp_path, folder):
    make_files(
        tmp_path,
        "ADEChallengeData2016/images/training/ADE_train_00000001.jpg",
        f"{folder}/ADE_test_00000002.jpg",
        f"{folder}/ADE_test_00000001.jpg",
    )
    found = [(sample.image, sample.label) for sample in find_samples("ade20k", tmp_path, "test")]
    assert found == [(tmp_path / folder / f"ADE_test_0000000{n}.jpg", None) for n in (1, 2)]


def test_split_list_in_the_root(golden):
    """The golden images come with a list, and with no layout of their dataset."""
    samples = find_samples("ilsvrc-cls", golden / "ilsvrc_val", "val")
    assert [s.label for s in samples] == [5, 42, 79, 116]
    assert all(s.image.is_file() for s in samples)
    samples = find_samples("voc", golden / "voc_val", "val")
    assert [s.name for s in samples] == ["2007_000001", "2007_000002", "2007_000003"]
    assert all(s.image.is_file() and s.label.is_file() for s in samples)


def test_a_given_list_goes_first(tmp_path):
    make_files(tmp_path, "images/validation/a.jpg", "annotations/validation/a.png")
    path = write_list(tmp_path, "b.jpg\tb.png\n")
    (sample,) = find_samples("ade20k", tmp_path, "val", list_file=path)
    assert sample.image == tmp_path / "b.jpg"


def test_the_test_split_has_no_labels(tmp_path):
    (tmp_path / "test.lst").write_text("0\t17\ta.jpg\n")
    (sample,) = find_samples("places", tmp_path, "test")
    assert sample.label is None


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("voc", r"no 'vall' split of voc in .*ImageSets/Segmentation/vall.txt.*vall.lst.*--list-"),
        ("cityscapes", "leftImg8bit/vall/.*, and for vall.lst: "),
        ("ade20k", "images/.training,.*ADEChallengeData2016.*release_test.*, and for vall.lst: "),
        ("coco", "looked there for vall.lst: .*data lists coco --root"),
        ("ilsvrc-cls", "looked there for vall.lst, and for vall.rec, and for vall/"),
        ("cityscapes-coarse", "leftImg8bit/vall/.*, and for cityscapes-coarse_vall.lst"),
    ],
)
def test_what_is_missing_is_named(tmp_path, dataset, message):
    with pytest.raises(FileNotFoundError, match=message):
        find_samples(dataset, tmp_path, "vall")


def test_missing_root_and_unknown_dataset(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder: give the root of voc"):
        find_samples("voc", tmp_path / "nowhere", "val")
    with pytest.raises(ValueError, match="unknown dataset 'vok'"):
        find_samples("vok", tmp_path, "val")

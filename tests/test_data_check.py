"""`ademx data check`: small layouts made by hand, and broken in one way each."""

import io
import json
import os
import struct
import sys
import zlib

import numpy as np
import pytest
from commands import make_runner
from PIL import Image

from ademx.cli import main
from ademx.data.check.dataset import check_dataset
from iters.datasets import DATASETS, VOID, allowed_values
from iters.decode import BrokenImage
from iters.images import load_image, load_label
from iters.variants import explain_values

WIDTH, HEIGHT = 24, 16


def pixels(name):
    """An image that no other name has."""
    source = np.random.default_rng(zlib.crc32(name.encode()))
    return source.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def encoded(name, kind="JPEG"):
    file = io.BytesIO()
    Image.fromarray(pixels(name)).save(file, kind)
    return file.getvalue()


def save_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(path.name, "PNG" if path.suffix == ".png" else "JPEG"))


def save_label(path, values, size=(HEIGHT, WIDTH), dtype=np.uint8):
    """Rows of the values in turn, the last one down to the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    label = np.full(size, values[-1], dtype)
    label[: len(values)] = np.array(values, dtype)[:, None]
    Image.fromarray(label).save(path)


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_voc(root):
    for split, names in {"train": "ab", "val": "cd"}.items():
        write_text(root / f"ImageSets/Segmentation/{split}.txt", "\n".join(names) + "\n")
        for name in names:
            save_image(root / f"JPEGImages/{name}.jpg")
            save_label(root / f"SegmentationClass/{name}.png", [0, 20, VOID])
    return root


def make_cityscapes(root):
    for split, names in {"train": "ab", "val": "cd"}.items():
        for name in names:
            save_image(root / f"leftImg8bit/{split}/ulm/{name}_leftImg8bit.png")
            save_label(root / f"gtFine/{split}/ulm/{name}_gtFine_labelIds.png", [0, 33, 7])
            save_label(root / f"gtFine/{split}/ulm/{name}_gtFine_color.png", [0])
    return root


def make_ade20k(root):
    for split, folder in {"train": "training", "val": "validation"}.items():
        for number in (1, 2):
            save_image(root / f"images/{folder}/ADE_{split}_{number}.jpg")
            save_label(root / f"annotations/{folder}/ADE_{split}_{number}.png", [0, 150, 1])
    return root


def make_places(root):
    """Two images of the last class in a list; val in a RecordIO file."""
    write_text(root / "train.lst", "0\t364\timages/a.jpg\n1\t0\timages/b.jpg\n")
    for name in "ab":
        save_image(root / f"images/{name}.jpg")
    write_records(root / "val.rec", [(3, encoded("c")), (4, encoded("d"))])
    return root


def write_records(path, records):
    """What im2rec writes: magic, length, flag, label, two ids, image, up to a multiple of 4."""
    data, index = b"", ""
    for key, (label, image) in enumerate(records):
        index += f"{key}\t{len(data)}\n"
        content = struct.pack("<IfQQ", 0, label, key, 0) + image
        data += struct.pack("<II", 0xCED7230A, len(content)) + content + bytes(-len(content) % 4)
    path.write_bytes(data)
    path.with_suffix(".idx").write_text(index)


LAYOUTS = {
    "voc": make_voc,
    "cityscapes": make_cityscapes,
    "ade20k": make_ade20k,
    "places": make_places,
}


def problems_of(name, root, **options):
    """Kind, split, path below the root and detail of each problem."""
    found = check_dataset(name, root, expect_counts=False, **options)
    assert found.ok == (not found.problems)
    return [shown(problem, root) for problem in found.problems]


def remarks_of(name, root, kind, **options):
    found = check_dataset(name, root, expect_counts=False, **options)
    return [shown(remark, root)[1:] for remark in found.remarks if remark.kind == kind]


def shown(problem, root):
    path = problem.path and os.path.relpath(problem.path, root)
    return problem.kind, problem.split, path, problem.detail.replace(f"{root}/", "")


def hints_of(name, root):
    return [problem.hint for problem in check_dataset(name, root, expect_counts=False).problems]


def run(*arguments):
    return make_runner().invoke(main, ["data", "check", *map(str, arguments)])


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_intact_dataset(tmp_path, name):
    root = LAYOUTS[name](tmp_path)
    found = check_dataset(name, root, expect_counts=False)
    assert found.problems == []
    table = DATASETS[name].splits
    assert found.counts == {"train": (2, table["train"]), "val": (2, table["val"])}
    result = run(name, "--root", root, "--no-counts")
    assert result.exit_code == 0
    assert f"nothing is wrong with {name} in {root}; every file was read" in result.stdout
    assert result.stderr == ""


def test_counts_differ_from_the_published_ones(tmp_path):
    found = check_dataset("voc", make_voc(tmp_path))
    assert [(p.kind, p.split, p.detail) for p in found.problems] == [
        ("count", "train", "2 images: expected 1,464"),
        ("count", "val", "2 images: expected 1,449"),
    ]
    result = run("voc", "--root", tmp_path)
    assert result.exit_code == 1
    assert "val: 2 images: expected 1,449" in result.stdout
    assert "with --no-counts" in result.stdout
    assert "(2)" in result.stderr


# What is there of the splits.


def test_splits_that_are_not_there_are_remarked_on(tmp_path):
    make_voc(tmp_path)
    absent = remarks_of("voc", tmp_path, "split")
    assert [split for split, _, _ in absent] == ["trainval", "test"]
    assert "looked there for ImageSets/Segmentation/trainval.txt" in absent[0][2]


def test_a_split_that_was_asked_for_must_be_there(tmp_path):
    ((kind, split, _, detail),) = problems_of("voc", make_voc(tmp_path), splits=["val", "test"])
    assert (kind, split) == ("split", "test")
    assert "ImageSets/Segmentation/test.txt" in detail


def test_one_split_must_be_there(tmp_path):
    found = problems_of("cityscapes", tmp_path)
    assert [problem[:2] for problem in found] == [
        ("split", "train"),
        ("split", "val"),
        ("split", "test"),
    ]


def test_there_must_be_a_root(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        check_dataset("voc", tmp_path / "nowhere")


def test_a_malformed_list(tmp_path):
    write_text(tmp_path / "train2017.lst", "a.jpg\ta.png\tx\n")
    ((kind, split, _, detail),) = problems_of("coco", tmp_path)
    assert (kind, split) == ("list", "train2017")
    assert "expected image and label" in detail


def test_record_file_without_its_index(tmp_path):
    (make_places(tmp_path) / "val.idx").unlink()
    assert problems_of("places", tmp_path) == []


def test_a_list_that_is_a_named_pipe(tmp_path):
    os.mkfifo(tmp_path / "val.idx")
    (make_places(tmp_path / "places") / "val.idx").unlink()
    (tmp_path / "val.idx").rename(tmp_path / "places/val.idx")
    ((kind, split, _, detail),) = problems_of("places", tmp_path / "places")
    assert (kind, split) == ("list", "val")
    assert "val.idx: found a named pipe: expected a file" in detail


def make_own(root):
    write_text(
        root / "own.yaml",
        "name: mine\nclasses: [sky, sea]\nvoid: 9\nlists: {train: t.lst, val: v.lst}\n",
    )
    for split, name in (("t", "a"), ("v", "b")):
        write_text(root / f"{split}.lst", f"{name}.jpg\t{name}.png\n")
        save_image(root / f"{name}.jpg")
        save_label(root / f"{name}.png", [0, 1, 9])
    return str(root / "own.yaml")


def test_a_dataset_of_ones_own(tmp_path):
    own = make_own(tmp_path)
    assert problems_of(own, tmp_path) == []
    save_label(tmp_path / "b.png", [0, 2, 1])
    assert problems_of(own, tmp_path) == [("value", "val", "b.png", f"2 ({WIDTH} px)")]


def test_a_split_that_ones_own_dataset_lacks(tmp_path):
    ((kind, split, _, detail),) = problems_of(make_own(tmp_path), tmp_path, splits=["test"])
    assert (kind, split) == ("split", "test")
    assert "train, val" in detail


# Files that are missing, misnamed or broken.


@pytest.mark.parametrize("quick", [False, True])
def test_missing_files(tmp_path, quick):
    make_voc(tmp_path)
    (tmp_path / "JPEGImages/a.jpg").unlink()
    (tmp_path / "SegmentationClass/d.png").unlink()
    assert problems_of("voc", tmp_path, quick=quick) == [
        ("missing", "train", "JPEGImages/a.jpg", "not there"),
        ("missing", "val", "SegmentationClass/d.png", "not there"),
    ]


def test_a_missing_folder_is_named(tmp_path):
    make_voc(tmp_path)
    (tmp_path / "SegmentationClass").rename(tmp_path / "Labels")
    assert set(hints_of("voc", tmp_path)) == {
        f"there is no folder {tmp_path / 'SegmentationClass'}"
    }


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell cases apart")
@pytest.mark.parametrize("name", ["a.JPG", "a.jpeg", "A.jpg", "a.jpg.jpg"])
def test_voc_image_of_another_name(tmp_path, name):
    make_voc(tmp_path)
    (tmp_path / "JPEGImages/a.jpg").rename(tmp_path / "JPEGImages" / name)
    assert problems_of("voc", tmp_path) == [
        ("misnamed", "train", "JPEGImages/a.jpg", f"not there, but {name} is")
    ]


def test_voc_list_with_suffixes(tmp_path):
    make_voc(tmp_path)
    write_text(tmp_path / "ImageSets/Segmentation/val.txt", "c.jpg\nd.jpg\n")
    assert ("misnamed", "val", "JPEGImages/c.jpg.jpg", "not there, but c.jpg is") in problems_of(
        "voc", tmp_path
    )


def test_a_label_beside_its_image_does_not_stand_for_it(tmp_path):
    own = make_own(tmp_path)
    (tmp_path / "a.jpg").unlink()
    assert problems_of(own, tmp_path) == [("missing", "train", "a.jpg", "not there")]


@pytest.mark.parametrize(
    ("make", "name", "renamed", "ending"),
    [
        (make_ade20k, "images/training/ADE_train_1.jpg", "ADE_train_1.JPG", ".jpg"),
        (
            make_cityscapes,
            "leftImg8bit/val/ulm/c_leftImg8bit.png",
            "c_leftImg8bit.PNG",
            "_leftImg8bit.png",
        ),
        (make_cityscapes, "leftImg8bit/val/ulm/c_leftImg8bit.png", "c.png", "_leftImg8bit.png"),
    ],
)
def test_an_image_that_no_layout_finds(tmp_path, make, name, renamed, ending):
    path = make(tmp_path) / name
    path.rename(path.with_name(renamed))
    dataset = make.__name__.replace("make_", "")
    split = "train" if "train" in name else "val"
    folder = os.path.dirname(name)
    detail = f"the name does not end in {ending}: the image is in no split"
    assert problems_of(dataset, tmp_path) == [("misnamed", split, f"{folder}/{renamed}", detail)]


def test_a_label_with_another_stem_than_its_image(tmp_path):
    folder = make_cityscapes(tmp_path) / "gtFine/val/ulm"
    (folder / "c_gtFine_labelIds.png").rename(folder / "x_gtFine_labelIds.png")
    (problem,) = check_dataset("cityscapes", tmp_path, expect_counts=False).problems
    assert shown(problem, tmp_path) == (
        "misnamed",
        "val",
        "gtFine/val/ulm/c_gtFine_labelIds.png",
        "not there",
    )
    assert problem.hint == f"{folder} has labels of no image: x_gtFine_labelIds.png"


def test_files_that_no_split_lists_are_remarked_on(tmp_path):
    make_voc(tmp_path)
    for name in ("x.jpg", "z.PPM"):  # of every kind that prediction takes for an image
        save_image(tmp_path / "JPEGImages" / name)
    save_label(tmp_path / "SegmentationClass/y.png", [0])
    assert problems_of("voc", tmp_path) == []
    assert remarks_of("voc", tmp_path, "unlisted") == [
        (None, "JPEGImages", "images that no split lists (2): x.jpg, z.PPM"),
        (None, "SegmentationClass", "labels of no image (1): y.png"),
    ]
    # What lies there for another split is not astray.
    assert remarks_of("voc", tmp_path, "unlisted", splits=["val"]) == remarks_of(
        "voc", tmp_path, "unlisted"
    )


BROKEN = {
    "half of it lost": lambda content: content[: len(content) // 2],
    "its end lost": lambda content: content[:-30],
    "empty": lambda content: b"",
    "a page": lambda content: b"<html>404</html>",
    "its beginning lost": lambda content: content[20:],
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize(
    "name", ["JPEGImages/c.jpg", "SegmentationClass/c.png"], ids=["image", "label"]
)
def test_unreadable_files(tmp_path, name, how):
    path = make_voc(tmp_path) / name
    path.write_bytes(BROKEN[how](path.read_bytes()))
    with pytest.raises(BrokenImage, match=path.name):  # what testing says of it
        (load_image if path.suffix == ".jpg" else load_label)(path)
    ((kind, split, told, detail),) = problems_of("voc", tmp_path)
    assert (kind, split, told) == ("unreadable", "val", name)
    if how in ("half of it lost", "its end lost"):
        assert "truncated" in detail.lower()
    else:
        assert detail == "not an image of a known format"
    assert problems_of("voc", tmp_path, quick=True) == []  # it opens none


def test_a_file_that_cannot_be_opened(tmp_path):
    path = make_voc(tmp_path) / "JPEGImages/c.jpg"
    path.unlink()
    path.symlink_to(path)
    detail = "Too many levels of symbolic links"
    assert problems_of("voc", tmp_path) == [("unreadable", "val", "JPEGImages/c.jpg", detail)]


@pytest.mark.parametrize(
    ("make", "kind"), [(os.mkdir, "a folder"), (os.mkfifo, "a named pipe")], ids=["folder", "pipe"]
)
def test_a_folder_or_a_pipe_in_place_of_an_image(tmp_path, make, kind):
    path = make_voc(tmp_path) / "JPEGImages/c.jpg"
    path.unlink()
    make(path)
    ((*told, detail),) = problems_of("voc", tmp_path)
    assert told == ["unreadable", "val", "JPEGImages/c.jpg"]
    assert detail.startswith(f"found {kind}: expected a file")


def test_an_unreadable_record(tmp_path):
    make_places(tmp_path)
    write_records(tmp_path / "val.rec", [(0, encoded("c")), (1, encoded("d")[:-30])])
    ((kind, split, told, detail),) = problems_of("places", tmp_path)
    assert (kind, split, told) == ("unreadable", "val", "val.rec, record 00000001")
    assert "truncated" in detail


def test_label_of_another_size(tmp_path):
    save_label(make_voc(tmp_path) / "SegmentationClass/c.png", [0, VOID], size=(WIDTH, HEIGHT))
    detail = "16×24 pixels, the image 24×16 (width × height)"
    assert problems_of("voc", tmp_path) == [("size", "val", "SegmentationClass/c.png", detail)]


# Numbers in labels.


def test_cityscapes_allows_the_label_ids_of_its_own_tools():
    helpers = pytest.importorskip("cityscapesscripts.helpers.labels")
    assert allowed_values(DATASETS["cityscapes"]) == {label.id for label in helpers.labels}


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("voc", {*range(21), 255}),
        ("coco20", {*range(21), 255}),
        ("ade20k", set(range(151))),
        ("pascal-context", {*range(60), 255}),
        ("pascal-context-59", {*range(60), 255}),
        ("coco", {*range(91), 255} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}),
    ],
)
def test_allowed_values(name, allowed):
    assert allowed_values(DATASETS[name]) == allowed


def test_wrong_values_are_told_with_their_pixels(tmp_path):
    path = make_cityscapes(tmp_path) / "gtFine/val/ulm/d_gtFine_labelIds.png"
    save_label(path, [34, 7, 99, 99, 26])
    detail = f"99 ({2 * WIDTH} px), 34 ({WIDTH} px)"
    assert problems_of("cityscapes", tmp_path) == [
        ("value", "val", "gtFine/val/ulm/d_gtFine_labelIds.png", detail)
    ]
    assert hints_of("cityscapes", tmp_path) == [""]


def test_many_wrong_values_are_cut_short(tmp_path):
    save_label(make_ade20k(tmp_path) / "annotations/training/ADE_train_1.png", range(151, 166))
    ((_, _, _, detail),) = problems_of("ade20k", tmp_path)
    assert detail.startswith(f"165 ({2 * WIDTH} px), 151 ({WIDTH} px), 152")
    assert detail.endswith(f"157 ({WIDTH} px) and 7 more")


def test_numbers_of_16_bits_are_not_taken_for_void(tmp_path):
    # What iterators read as 255, void.
    path = make_voc(tmp_path) / "SegmentationClass/c.png"
    save_label(path, [300, 0, VOID], dtype=np.uint16)
    assert load_label(path)[0, 0] == VOID
    assert problems_of("voc", tmp_path) == [
        ("value", "val", "SegmentationClass/c.png", f"300 ({WIDTH} px)")
    ]


def test_train_ids_in_place_of_label_ids(tmp_path):
    helpers = pytest.importorskip("cityscapesscripts.helpers.labels")
    train_ids = [label.trainId % 256 for label in helpers.labels if 0 <= label.id <= 12]
    save_label(make_cityscapes(tmp_path) / "gtFine/train/ulm/a_gtFine_labelIds.png", train_ids)
    assert hints_of("cityscapes", tmp_path) == [
        "these are train ids: take *_labelIds.png, which gtFine_trainvaltest.zip has too, not "
        "*_labelTrainIds.png"
    ]


def test_instance_ids_in_place_of_label_ids(tmp_path):
    path = make_cityscapes(tmp_path) / "gtFine/train/ulm/a_gtFine_labelIds.png"
    save_label(path, [7, 26001, 24003], dtype=np.uint16)
    (problem,) = check_dataset("cityscapes", tmp_path, expect_counts=False).problems
    assert problem.detail == f"24003 ({14 * WIDTH} px), 26001 ({WIDTH} px)"
    assert "these are instance ids" in problem.hint


@pytest.mark.parametrize(
    ("name", "values", "hint"),
    [
        ("ade20k", [0, 149, 255], "classes from 0 and void 255"),
        ("ade20k", [0, 976, 12], "the full ADE20K"),
        ("ade20k", [3, 200], "the full ADE20K"),
        ("pascal-context", [2, 459], "labels of 459 classes"),
        ("pascal-context-59", [2, 100], "labels of 459 classes"),
        ("coco", [0, 12, 80], "may be class ids"),
        ("coco", [0, 92, 181, 255], "COCO-Stuff"),
        ("coco20", [0, 44, 90], "COCO's category ids"),
        ("voc", [0, 44, 90], ""),
    ],
)
def test_typical_mix_ups(name, values, hint):
    told = explain_values(DATASETS[name], values)
    assert hint in told if hint else told == ""


@pytest.mark.parametrize("library", ["Pillow", "OpenCV"])
def test_voc_colours_turned_into_grey(library):
    colours = [DATASETS["voc"].palette[stored] for stored in (*range(21), VOID)]
    image = np.array([colours], np.uint8)
    if library == "Pillow":
        greys = np.asarray(Image.fromarray(image).convert("L"))
    else:
        cv2 = pytest.importorskip("cv2")
        greys = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert "turned into grey" in explain_values(DATASETS["voc"], set(greys.ravel().tolist()))


@pytest.mark.parametrize(
    ("name", "path", "hint"),
    [
        ("voc", "SegmentationClass/a.png", "palette PNGs"),
        ("cityscapes", "gtFine/train/ulm/a_gtFine_labelIds.png", "not *_color.png"),
        ("ade20k", "annotations/training/ADE_train_1.png", "not *_seg.png"),
    ],
)
def test_labels_in_colour(tmp_path, name, path, hint):
    root = LAYOUTS[name](tmp_path)
    save_image(root / path)
    (problem,) = check_dataset(name, root, expect_counts=False).problems
    detail = (
        "cannot be used as a label: mode RGB: expected one number a pixel (a grey or palette PNG)"
    )
    assert shown(problem, root) == ("value", "train", path, detail)
    assert hint in problem.hint


def test_val_labels_without_void(tmp_path):
    folder = make_voc(tmp_path) / "SegmentationClass"
    for name in "ac":  # of train and of val
        save_label(folder / f"{name}.png", [0, 5])
    (problem,) = check_dataset("voc", tmp_path, expect_counts=False).problems
    path = "SegmentationClass/c.png"
    assert shown(problem, tmp_path) == ("void", "val", path, "no pixel is 255")
    assert problem.hint.startswith("1 of 2 labels have none")


def test_val_is_looked_at_whatever_else_is(tmp_path):
    save_label(make_voc(tmp_path) / "SegmentationClass/c.png", [0, 5])
    write_text(tmp_path / "ImageSets/Segmentation/trainval.txt", "a\nb\nc\nd\n")
    found = problems_of("voc", tmp_path, splits=["trainval", "val"])
    assert [problem[:2] for problem in found] == [("void", "val")]


def test_only_vocs_own_labels_must_have_void(tmp_path):
    make_own(tmp_path)
    save_label(tmp_path / "b.png", [0, 1])
    assert problems_of(str(tmp_path / "own.yaml"), tmp_path) == []


def test_classes_without_a_pixel_are_remarked_on(tmp_path):
    save_label(make_own_label(tmp_path), [1, 9])
    assert remarks_of(str(tmp_path / "own.yaml"), tmp_path, "empty") == [
        ("train", None, "no pixel of 1 of 2 classes: 0 sky")
    ]


def make_own_label(root):
    make_own(root)
    return root / "a.png"


def test_images_without_a_label_are_remarked_on(tmp_path):
    own = make_own(tmp_path)
    write_text(tmp_path / "v.lst", "b.jpg\n")
    assert remarks_of(own, tmp_path, "unlabelled") == [("val", None, "1 of 1 images")]


# Duplicates.


def copy(path, to):
    to.write_bytes(path.read_bytes())


def test_the_same_bytes_in_train_and_val(tmp_path):
    folder = make_voc(tmp_path) / "JPEGImages"
    copy(folder / "b.jpg", folder / "c.jpg")
    assert problems_of("voc", tmp_path) == [
        ("duplicate", "val", "JPEGImages/c.jpg", "the bytes of JPEGImages/b.jpg, of train")
    ]
    assert problems_of("voc", tmp_path, quick=True) == []
    assert problems_of("voc", tmp_path, splits=["val"]) == []


@pytest.mark.parametrize("quick", [False, True])
def test_the_same_name_in_train_and_val(tmp_path, quick):
    for split in ("train", "val"):
        for folder, make in (("leftImg8bit", save_image), ("gtFine_labelIds", None)):
            path = tmp_path / folder.split("_")[0] / split / f"ulm{split}" / f"a_{folder}.png"
            make(path) if make else save_label(path, [7])
    path = tmp_path / "leftImg8bit/val/ulmval/a_leftImg8bit.png"
    Image.fromarray(pixels("other")).save(path)
    detail = "the name of leftImg8bit/train/ulmtrain/a_leftImg8bit.png, of train"
    assert problems_of("cityscapes", tmp_path, quick=quick) == [
        ("duplicate", "val", "leftImg8bit/val/ulmval/a_leftImg8bit.png", detail)
    ]


def test_a_val_image_in_the_list_of_train(tmp_path):
    make_voc(tmp_path)
    write_text(tmp_path / "ImageSets/Segmentation/train.txt", "a\nb\nd\n")
    assert problems_of("voc", tmp_path) == [
        ("duplicate", "val", "JPEGImages/d.jpg", "train lists it too")
    ]


def test_trainval_is_train_and_val(tmp_path):
    make_voc(tmp_path)
    write_text(tmp_path / "ImageSets/Segmentation/trainval.txt", "a\nb\nc\nd\n")
    path = tmp_path / "JPEGImages/d.jpg"
    path.write_bytes(b"")
    # Read, and told, once.
    assert [problem[:3] for problem in problems_of("voc", tmp_path)] == [
        ("unreadable", "val", "JPEGImages/d.jpg")
    ]


def test_duplicates_within_a_split_are_remarked_on(tmp_path):
    folder = make_voc(tmp_path) / "JPEGImages"
    copy(folder / "a.jpg", folder / "b.jpg")
    write_text(tmp_path / "ImageSets/Segmentation/val.txt", "c\nd\nc\n")
    assert problems_of("voc", tmp_path) == []
    assert remarks_of("voc", tmp_path, "duplicate") == [
        ("train", "JPEGImages/b.jpg", "the bytes of JPEGImages/a.jpg"),
        ("val", "JPEGImages/c.jpg", "listed twice"),
    ]


def test_broken_files_are_no_duplicates(tmp_path):
    folder = make_voc(tmp_path) / "JPEGImages"
    for name in "ac":
        (folder / f"{name}.jpg").write_bytes(b"")
    assert {problem[0] for problem in problems_of("voc", tmp_path)} == {"unreadable"}


@pytest.mark.parametrize(("year", "expected"), [("2014", []), ("2017", ["duplicate"])])
def test_coco_shares_out_its_images_anew_in_2017(tmp_path, year, expected):
    for name in (f"train{year}", "val2017"):
        write_text(tmp_path / f"{name}.lst", f"{name}/a.jpg\tlabels/a.png\n")
        save_image(tmp_path / name / "a.jpg")
    save_label(tmp_path / "labels/a.png", [0, 90])
    assert [problem[0] for problem in problems_of("coco", tmp_path)] == expected


def test_photographs_that_were_collected_twice_are_remarked_on(tmp_path):
    make_places(tmp_path)
    copy_of_a = (tmp_path / "images/a.jpg").read_bytes()
    write_records(tmp_path / "val.rec", [(3, copy_of_a)])
    assert problems_of("places", tmp_path) == []
    detail = "the bytes of images/a.jpg, of train"
    told = ("val", "val.rec, record 00000000", detail)
    assert remarks_of("places", tmp_path, "duplicate") == [told]
    # Under the same name somebody copied the file.
    write_text(tmp_path / "val.lst", "0\t3\tval/a.jpg\n")
    (tmp_path / "val").mkdir()
    (tmp_path / "val/a.jpg").write_bytes(copy_of_a)
    assert problems_of("places", tmp_path) == [("duplicate", "val", "val/a.jpg", detail)]


def test_classes_may_number_their_images_alike(tmp_path):
    make_places(tmp_path)
    write_text(tmp_path / "val.lst", "0\t3\tval/a.jpg\n")
    (tmp_path / "val").mkdir()
    Image.fromarray(pixels("other")).save(tmp_path / "val/a.jpg")
    assert problems_of("places", tmp_path) == []


# Classes of a classification dataset.


def test_class_ids_out_of_range(tmp_path):
    make_places(tmp_path)
    write_text(tmp_path / "train.lst", "0\t364\timages/a.jpg\n1\t365\timages/b.jpg\n")
    write_records(tmp_path / "val.rec", [(1000, encoded("c"))])
    assert problems_of("places", tmp_path) == [
        ("class", "train", "images/b.jpg", "class id 365: expected 0 to 364"),
        ("class", "val", "val.rec, record 00000000", "class id 1000: expected 0 to 364"),
    ]
    assert hints_of("places", tmp_path) == ["", ""]


def test_class_ids_from_1(tmp_path):
    make_places(tmp_path)
    write_text(tmp_path / "train.lst", "0\t1\timages/a.jpg\n1\t365\timages/b.jpg\n")
    assert hints_of("places", tmp_path) == ["the ids begin with 1: they must begin with 0"]


def test_classes_without_an_image_are_remarked_on(tmp_path):
    empty = remarks_of("places", make_places(tmp_path), "empty")
    detail = "no image of 363 of 365 classes: 1, 2, 3, 4, 5, 6, 7, 8 and 355 more"
    assert empty[0] == ("train", None, detail)


def test_number_of_class_folders(tmp_path):
    for name in ("n00000001", "n00000002"):
        save_image(tmp_path / f"train/{name}/{name}.JPEG")
    save_image(tmp_path / "val/n00000002/v.JPEG")
    found = check_dataset("ilsvrc-cls", tmp_path, expect_counts=False)
    (problem,) = found.problems
    told = ("class", None, "train", "2 class folders: expected 1,000")
    assert shown(problem, tmp_path) == told
    for number in range(3, 1001):
        (tmp_path / f"train/n{number:08d}").mkdir()
    assert problems_of("ilsvrc-cls", tmp_path) == []
    # Where a list numbers the classes, folders do not.
    images = [f"train/n0000000{number}/n0000000{number}.JPEG" for number in (1, 2)]
    write_text(tmp_path / "train.lst", f"0\t7\t{images[0]}\n1\t9\t{images[1]}\n")
    (tmp_path / "train/n00000003").rmdir()
    assert problems_of("ilsvrc-cls", tmp_path, splits=["train"]) == []


@pytest.mark.parametrize("names", [("1", "2", "10"), ("tench", "goldfish"), ("n01440764", "2")])
def test_class_folders_of_ilsvrc_that_are_no_synsets(tmp_path, names):
    """Their sorted order is not that of the classes: 1, 10, 2."""
    for name in names:
        save_image(tmp_path / f"train/{name}/{name}.JPEG")
    ((kind, split, _, detail),) = problems_of("ilsvrc-cls", tmp_path)
    assert (kind, split) == ("list", "train")
    assert "found class folders that are no synsets" in detail
    assert problems_of("places", tmp_path, splits=["train"])[0][0] == "class"  # their number
    write_text(tmp_path / "train.lst", f"0\t7\ttrain/{names[0]}/{names[0]}.JPEG\n")
    assert problems_of("ilsvrc-cls", tmp_path, splits=["train"]) == []


# The command.


def test_what_the_command_prints(tmp_path):
    folder = make_voc(tmp_path) / "JPEGImages"
    names = [f"x{number:02d}" for number in range(12)]
    write_text(tmp_path / "ImageSets/Segmentation/val.txt", "\n".join(names))
    (folder / "b.jpg").write_bytes(b"")
    file = tmp_path / "found.json"
    result = run("voc", "--root", tmp_path, "--no-counts", "--json", file)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["split", "images", "expected", "problems"]
    assert lines[1].split() == ["train", "2", "1,464", "1"]
    assert lines[2].split() == ["val", "12", "1,449", "24"]
    assert "files that are not there: 12" in lines
    start = lines.index("files that are not there: 12") + 1
    assert lines[start] == f"  val: {folder / 'x00.jpg'}: not there"
    assert lines[start + 10] == "  … and 2 more"
    assert f"  train: {folder / 'b.jpg'}: not an image of a known format" in lines
    assert result.stderr == (
        f"Error: voc in {tmp_path} is not in order: files that cannot be decoded (1), "
        "files that are not there (12), files of another name (12)\n"
    )
    assert "--overwrite" in run("voc", "--root", tmp_path, "--json", file).stderr
    record = json.loads(file.read_text())
    assert record["ok"] is False
    assert record["splits"]["val"] == {"images": 12, "expected": 1449, "problems": 24}
    assert len(record["problems"]) == 25
    assert record["problems"][0] == {
        "kind": "unreadable",
        "split": "train",
        "path": str(folder / "b.jpg"),
        "detail": "not an image of a known format",
        "hint": "",
    }


def test_a_hint_is_printed_once(tmp_path):
    folder = make_voc(tmp_path) / "SegmentationClass"
    for name in "cd":
        save_label(folder / f"{name}.png", [0, 1])
    result = run("voc", "--root", tmp_path, "--no-counts")
    assert "val labels without a void pixel: 2" in result.stdout
    assert result.stdout.count("→ 2 of 2 labels have none") == 1


def test_quick_command(tmp_path):
    (make_voc(tmp_path) / "JPEGImages/c.jpg").write_bytes(b"")
    result = run("voc", "--root", tmp_path, "--no-counts", "--quick")
    assert result.exit_code == 0
    assert "no file was opened" in result.stdout


def test_list_file_of_one_split(tmp_path):
    make_voc(tmp_path)
    path = tmp_path / "my.lst"
    write_text(path, "JPEGImages/a.jpg\tSegmentationClass/a.png\n")
    result = run("voc", "--root", tmp_path, "--split", "mine", "--list-file", path)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == ["mine", "1", "0"]


def test_usage(tmp_path):
    path = make_voc(tmp_path) / "JPEGImages/a.jpg"
    for arguments, message in (
        (("--list-file", path), "give that with --split"),
        (("--json", tmp_path / "no/file.json"), "there is no folder"),
    ):
        result = run("voc", "--root", tmp_path, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    result = run("vox", "--root", tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "unknown dataset 'vox'" in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_file_names_that_are_not_utf8(tmp_path):
    make_voc(tmp_path)
    list_file = tmp_path / "my.lst"
    list_file.write_bytes(b"caf\xe9.jpg\n")
    result = run("voc", "--root", tmp_path, "--split", "val", "--list-file", list_file)
    assert result.exit_code == 1
    assert r"caf\xe9.jpg: not there" in result.stdout


def test_names_cannot_act_on_a_terminal(tmp_path):
    """ESC and a line break in the name of a file that is missing come out as escapes."""
    make_voc(tmp_path)
    write_text(tmp_path / "val.lst", "JPEGImages/\x1b[2Jc.jpg\tSegmentationClass/c.png\n")
    found = run(
        *("voc", "--root", tmp_path, "--no-counts", "--split", "val"),
        *("--list-file", tmp_path / "val.lst"),
    )
    assert found.exit_code == 1
    assert r"\x1b[2Jc.jpg" in found.stdout
    assert "\x1b" not in found.stdout + found.stderr

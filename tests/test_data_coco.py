"""COCO's labels against gluoncv's own drawing, pixel for pixel, and against masks by hand."""

import json
import random
import sys

import numpy as np
import pytest
from commands import make_runner
from gluoncv_beside_torch import import_gluoncv
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ademx.cli import main
from ademx.data.lists.coco import CocoLabel, category_ids
from ademx.data.lists.plans import ListOptions
from ademx.data.lists.write import make_lists
from ademx.errors import MissingDependency
from iters.datasets import DATASETS, decode_label
from iters.images import load_label
from iters.lists import find_samples

HEIGHT, WIDTH = 40, 60
CATEGORY_IDS = [number for number in DATASETS["coco"].stored_ids if number]


def polygon(source):
    """A polygon that may be concave, cross itself and reach out of the image."""
    points = source.randint(3, 7)
    return [
        round(source.uniform(-3, side + 3), 2) for _ in range(points) for side in (WIDTH, HEIGHT)
    ]


def crowd(source):
    """A crowd region: run lengths of 0 and 1 down the columns."""
    counts, left = [], HEIGHT * WIDTH
    while left:
        counts.append(min(left, source.randint(1, 300)))
        left -= counts[-1]
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def make_annotations(source, image_id, *, categories=CATEGORY_IDS, first=1):
    """Overlapping objects of one or several polygons, and crowds among them."""
    annotations = []
    for number in range(first, first + source.randint(1, 8)):
        is_crowd = source.random() < 0.3
        shape = (
            crowd(source) if is_crowd else [polygon(source) for _ in range(source.randint(1, 3))]
        )
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": source.choice(categories),
                "iscrowd": int(is_crowd),
                "segmentation": shape,
            }
        )
    return annotations


def rectangle(number, image_id, category_id, box):
    left, top, right, bottom = box
    outline = [left, top, right, top, right, bottom, left, bottom]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "segmentation": [outline],
    }


def write_coco(root, annotations, *, split="val2017", images=None):
    """Write a split: an annotation file, and an empty file for each image."""
    images = images or sorted({annotation["image_id"] for annotation in annotations})
    (root / split).mkdir(parents=True, exist_ok=True)
    for number in images:
        (root / split / f"{number:012d}.jpg").touch()
    names = zip(DATASETS["coco"].stored_ids[1:], DATASETS["coco"].class_names[1:])
    content = {
        "images": [
            {"id": number, "file_name": f"{number:012d}.jpg", "height": HEIGHT, "width": WIDTH}
            for number in images
        ],
        "categories": [{"id": number, "name": name} for number, name in names],
        "annotations": annotations,
    }
    path = root / f"annotations/instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def gluoncv_dataset():
    pytest.importorskip("mxnet")
    return import_gluoncv().data.COCOSegmentation


def gluoncv_drawer(categories):
    """gluoncv's dataset, which is otherwise made from files, with these categories."""
    drawer = object.__new__(type("Drawer", (gluoncv_dataset(),), {"CAT_LIST": categories}))
    drawer.coco_mask = coco_mask
    return drawer


def test_the_twenty_categories_are_gluoncvs():
    expected = {number: class_id for class_id, number in enumerate(gluoncv_dataset().CAT_LIST)}
    del expected[0]
    assert category_ids("coco20") == expected


def test_category_ids_are_stored_as_they_are():
    assert category_ids("coco") == {number: number for number in CATEGORY_IDS}
    assert len(CATEGORY_IDS) == 80


@pytest.mark.parametrize("dataset", ["coco", "coco20"])
def test_labels_are_those_of_gluoncv(tmp_path, dataset):
    """60 images of random polygons, overlaps and crowds, through files and back."""
    drawer = gluoncv_drawer([0, *CATEGORY_IDS] if dataset == "coco" else gluoncv_dataset().CAT_LIST)
    source = random.Random(5)
    # Half of the categories in these are VOC's, so that coco20 has something to leave out.
    categories = [*category_ids("coco20"), *source.sample(CATEGORY_IDS, 20)]
    per_image = {n: make_annotations(source, n, categories=categories) for n in range(1, 61)}
    write_coco(tmp_path, [a for annotations in per_image.values() for a in annotations])
    make_lists(dataset, tmp_path, ListOptions(min_pixels=0))
    samples = {int(s.name): s for s in find_samples(dataset, tmp_path, "val2017")}
    num_crowds = 0
    for number, annotations in per_image.items():
        expected = drawer._gen_seg_mask(annotations, HEIGHT, WIDTH)
        num_crowds += sum(annotation["iscrowd"] for annotation in annotations)
        if number not in samples:
            assert dataset == "coco20"
            assert not expected.any()
            continue
        stored = load_label(samples[number].label)
        assert (decode_label(DATASETS[dataset], stored) == expected).all()
        assert stored.shape == (HEIGHT, WIDTH)
    assert num_crowds > 20
    assert len(samples) > 50


def test_the_first_annotation_wins(tmp_path):
    """Two rectangles of known pixels that overlap, a train (7) before a truck (8)."""
    annotations = [rectangle(1, 9, 7, (10, 5, 30, 20)), rectangle(2, 9, 8, (20, 10, 50, 35))]
    write_coco(tmp_path, annotations)
    make_lists("coco", tmp_path)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[10:35, 20:50] = 8
    expected[5:20, 10:30] = 7
    (sample,) = find_samples("coco", tmp_path, "val2017")
    assert (load_label(sample.label) == expected).all()
    assert (sample.image, sample.label) == (
        tmp_path / "val2017/000000000009.jpg",
        tmp_path / "labels81/val2017/000000000009.png",
    )
    make_lists("coco20", tmp_path, ListOptions(min_pixels=0))
    expected[expected == 8] = 0  # no class of VOC
    expected[expected == 7] = 19
    (sample,) = find_samples("coco20", tmp_path, "val2017")
    assert (load_label(sample.label) == expected).all()
    assert sample.label == tmp_path / "labels20/val2017/000000000009.png"


def test_masks_of_all_three_encodings(tmp_path):
    """Polygons, run lengths and compressed run lengths, by annToMask one after another."""
    source = random.Random(1)
    annotations = make_annotations(source, 3) + make_annotations(source, 3, first=50)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[3:30, 40:55] = 1
    packed = coco_mask.encode(mask)
    packed["counts"] = packed["counts"].decode()
    first = {"id": 99, "image_id": 3, "category_id": 90, "iscrowd": 1, "segmentation": packed}
    path = write_coco(tmp_path, [first, *annotations])
    coco = COCO(str(path))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    for annotation in reversed(coco.dataset["annotations"]):
        expected[coco.annToMask(annotation) == 1] = annotation["category_id"]
    assert (expected[3:30, 40:55] == 90).all()
    make_lists("coco", tmp_path)
    (sample,) = find_samples("coco", tmp_path, "val2017")
    assert (load_label(sample.label) == expected).all()


@pytest.mark.parametrize(
    "shape",
    [
        *([], [[]], [[3.0, 4.0]], [[3.0, 4.0, 20.0, 9.0]], [[3, 4, 20, 9], [30, 9, 40, 20]]),
        *([[3.0, 4.0, 20.0, 9.0, 5.0]], [[3, 4, 20, 9, 1e12, 3]], [[3, 4, 20, 9, float("nan"), 3]]),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["alone", "before", "behind"])
def test_degenerate_polygons_are_skipped_and_listed(tmp_path, caplog, shape, where):
    """Beside one of its annotation's own polygons that is sound, and beside another annotation."""
    sound, other = rectangle(70, 1, 16, (2, 3, 20, 30)), rectangle(72, 1, 7, (30, 3, 50, 30))
    good = {"alone": [], "before": sound["segmentation"], "behind": sound["segmentation"]}[where]
    shapes = [*shape, *good] if where == "before" else [*good, *shape]
    write_coco(tmp_path, [{**sound, "id": 71, "segmentation": shapes}, other])
    make_lists("coco", tmp_path)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:30, 30:50] = 7
    if good:
        expected[3:30, 2:20] = 16
    (sample,) = find_samples("coco", tmp_path, "val2017")
    assert (load_label(sample.label) == expected).all()
    messages = [message for message in caplog.messages if "skipped" in message]
    if not shape and good:
        assert not messages
    else:
        (message,) = messages
        count = max(1, len(shape))
        assert f"instances_val2017.json: skipped {count} polygons" in message
        assert "annotation 71 of image 1" in message


def test_images_with_few_pixels_are_left_out(tmp_path):
    """Images 1 to 3 have 999, 1000 and 1001 pixels of a bird; 4 has a truck, 5 nothing."""
    sizes = {1: 999, 2: 1000, 3: 1001}
    annotations = []
    for number, pixels in sizes.items():
        mask = np.zeros(HEIGHT * WIDTH, np.uint8)
        mask[:pixels] = 1
        counts = {"size": [HEIGHT, WIDTH], "counts": [0, pixels, HEIGHT * WIDTH - pixels]}
        annotations.append(
            {**rectangle(number, number, 16, (0, 0, 1, 1)), "segmentation": counts, "iscrowd": 1}
        )
    annotations.append(rectangle(4, 4, 8, (0, 0, 60, 40)))
    write_coco(tmp_path, annotations, images=range(1, 6))
    arguments = ["data", "lists", "coco20", "--root", str(tmp_path)]
    result = make_runner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1].split() == [
        str(tmp_path / "coco20_val2017.lst"),
        *("1", "-", "-"),
    ]
    assert [s.name[-1] for s in find_samples("coco20", tmp_path, "val2017")] == ["3"]
    assert len(list((tmp_path / "labels20/val2017").iterdir())) == 1
    result = make_runner().invoke(main, [*arguments, "--min-pixels", "0"])
    assert result.exit_code == 1
    assert "coco20_val2017.lst exists" in result.stderr
    result = make_runner().invoke(main, [*arguments, "--min-pixels", "0", "--overwrite"])
    assert result.exit_code == 0
    assert [s.name[-1] for s in find_samples("coco20", tmp_path, "val2017")] == ["1", "2", "3"]
    # All images are in the list of 81 classes.
    result = make_runner().invoke(main, ["data", "lists", "coco", "--root", str(tmp_path)])
    assert result.stdout.splitlines()[1].split()[1:] == ["5", "5000", "NO"]
    assert len(find_samples("coco", tmp_path, "val2017")) == 5
    assert not load_label(tmp_path / "labels81/val2017/000000000005.png").any()


def test_no_image_with_enough_pixels(tmp_path):
    write_coco(tmp_path, [rectangle(1, 1, 16, (0, 0, 5, 5))])
    with pytest.raises(ValueError, match="val2017: found no image with enough labelled pixels"):
        make_lists("coco20", tmp_path)
    assert not list(tmp_path.glob("*.lst"))


def test_the_splits_that_are_there(tmp_path, caplog):
    for split in ("val2014", "train2017"):
        write_coco(tmp_path, [rectangle(1, 1, 16, (0, 0, 5, 5))], split=split)
    (tmp_path / "val2017").mkdir()
    written = make_lists("coco", tmp_path)
    assert [(row.split, row.expected) for row in written] == [
        ("val2014", 40504),
        ("train2017", 118287),
    ]
    assert "val2017 is left out: there is no " in caplog.text
    assert "annotations/instances_val2017.json" in caplog.text


def test_labels_that_are_there_are_kept_and_read(tmp_path):
    """Also to decide which images have enough pixels."""
    annotations = [rectangle(n, n, 16, (0, 0, 60, 40)) for n in (1, 2)]
    write_coco(tmp_path, annotations)
    make_lists("coco20", tmp_path)
    labels = [tmp_path / f"labels20/val2017/00000000000{n}.png" for n in (1, 2)]
    labels[0].write_bytes(b"")
    stamp = labels[1].stat().st_mtime_ns
    make_lists("coco20", tmp_path, ListOptions(overwrite=True))
    assert (load_label(labels[0]) == 3).all()
    assert labels[1].stat().st_mtime_ns == stamp
    make_lists("coco20", tmp_path, ListOptions(overwrite=True, min_pixels=2399))
    with pytest.raises(ValueError, match="no image with enough"):
        make_lists("coco20", tmp_path, ListOptions(overwrite=True, min_pixels=2400))


def broken(content, change):
    value = json.loads(content)
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-100], "not an annotation file of COCO's instances: JSONDecodeError"),
        (lambda text: "[]", "not an annotation file .*: AssertionError"),
        (
            lambda text: broken(text, lambda v: v["images"][0].pop("height")),
            r"not an annotation file .*: KeyError\('height'\)",
        ),
        (
            lambda text: broken(text, lambda v: v["annotations"][0].pop("image_id")),
            r"not an annotation file .*: KeyError\('image_id'\)",
        ),
        (
            lambda text: broken(text, lambda v: v["categories"][0].update(name="cat")),
            "category 1 is 'cat': expected 'person': another set of categories .*data import coco`",
        ),
        (
            lambda text: broken(text, lambda v: v["annotations"][0].update(segmentation=[3, 4])),
            "annotation 71 of image 1 cannot be drawn",
        ),
        (
            lambda text: broken(text, lambda v: v["annotations"][0].pop("segmentation")),
            "annotation 71 of image 1 cannot be drawn: KeyError",
        ),
        (
            lambda text: broken(
                text,
                lambda v: v["annotations"][0].update(
                    segmentation={"size": [3, 3], "counts": [0, 9]}
                ),
            ),
            "annotation 71 of image 1 cannot be drawn",
        ),
        (
            lambda text: broken(
                text,
                lambda v: v["annotations"][0].update(
                    segmentation={"size": [HEIGHT, WIDTH], "counts": "garbage"}
                ),
            ),
            "annotation 71 of image 1 cannot be drawn: .*run lengths of another size",
        ),
    ],
)
def test_a_damaged_annotation_file_is_named(tmp_path, change, message):
    path = write_coco(tmp_path, [rectangle(71, 1, 16, (0, 0, 60, 40))])
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=rf"instances_val2017\.json: {message}"):
        make_lists("coco", tmp_path)
    assert not list(tmp_path.glob("*.lst"))


def test_missing_images(tmp_path):
    write_coco(tmp_path, [rectangle(n, n, 16, (0, 0, 60, 40)) for n in (1, 2, 3)])
    for number in (2, 3):
        (tmp_path / f"val2017/00000000000{number}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"0002\.jpg is not there nor 1 others: incomple"):
        make_lists("coco", tmp_path)
    assert not (tmp_path / "labels81").exists()


def test_drawing_changes_no_annotation():
    annotations = tuple(make_annotations(random.Random(3), 4))
    before = json.dumps(annotations)
    CocoLabel("x.json", HEIGHT, WIDTH, annotations, category_ids("coco")).read()
    assert json.dumps(annotations) == before


def test_without_pycocotools(tmp_path, monkeypatch):
    write_coco(tmp_path, [rectangle(1, 1, 16, (0, 0, 60, 40))])
    monkeypatch.delitem(sys.modules, "pycocotools.coco")
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingDependency, match=r"needs pycocotools.*'ademx\[data\]'"):
        make_lists("coco", tmp_path)

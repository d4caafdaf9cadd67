"""`ademx data import coco`: masks by pycocotools, any category ids, files and splits."""

import io
import json
import random
import shutil

import numpy as np
import pytest
from commands import make_runner
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ademx.cli import main
from ademx.data.imports.coco import import_coco
from ademx.data.imports.write import CocoImportOptions
from ademx.data.lists.coco import fits_run_lengths
from iters.find_dataset import read_dataset
from iters.images import load_label
from iters.lists import find_samples

HEIGHT, WIDTH = 40, 60
CATEGORIES = {0: "cat", 300: "dog", 7: "cow"}  # in no order, one 0, one above 255


def run_lengths(source):
    counts, left = [], HEIGHT * WIDTH
    while left:
        counts.append(min(left, source.randint(1, 300)))
        left -= counts[-1]
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def outline(source):
    """One of the three forms: polygons, run lengths, and those compressed."""
    kind = source.randrange(3)
    if kind == 0:
        return [
            [
                round(source.uniform(-3, side + 3), 2)
                for _ in range(source.randint(3, 7))
                for side in (WIDTH, HEIGHT)
            ]
            for _ in range(source.randint(1, 3))
        ]
    if kind == 1:
        return run_lengths(source)
    packed = coco_mask.frPyObjects(run_lengths(source), HEIGHT, WIDTH)
    return {**packed, "counts": packed["counts"].decode()}


def rectangle(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(number, image_id, category_id, segmentation, **more):
    return {
        **{"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": 0},
        **{"segmentation": segmentation, **more},
    }


def image_bytes(size=(HEIGHT, WIDTH), turn=None):
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()


def write(path, annotations, *, images=(1,), names="{}.png", beside=True, **more):
    """Write an annotation file and, unless told not to, its images beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [
            {"id": number, "file_name": names.format(number), "height": HEIGHT, "width": WIDTH}
            for number in images
        ],
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
        "annotations": annotations,
    }
    path.write_text(json.dumps({**content, **more}))
    for number in images if beside else ():
        (path.parent / names.format(number)).write_bytes(image_bytes())
    return path


def run(*arguments):
    return make_runner().invoke(main, ["data", "import", "coco", *map(str, arguments)])


def imported(tmp_path, annotations, **options):
    """Return the label of one image with these annotations, classes 1 cat, 2 cow, 3 dog."""
    path = write(tmp_path / "source/all.json", annotations)
    import_coco(path, CocoImportOptions(tmp_path / "made", **options))
    return load_label(tmp_path / "made/labels/1.png")


@pytest.mark.parametrize("order", [None, "first", "last"])
def test_masks_are_those_of_pycocotools(tmp_path, order):
    source = random.Random(3)
    images = range(1, 11)
    annotations = [
        annotation(number, source.choice(images), source.choice([*CATEGORIES]), outline(source))
        for number in range(60)
    ]
    for one in annotations[::5]:
        one["iscrowd"] = 1
    path = write(tmp_path / "source/all.json", annotations, images=images)
    import_coco(path, CocoImportOptions(tmp_path / "made", order=order))
    coco, classes = COCO(str(path)), {0: 1, 7: 2, 300: 3}
    for number in images:
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        of_image = coco.loadAnns(coco.getAnnIds(number))
        for one in of_image if order == "last" else reversed(of_image):
            expected[coco.annToMask(one) == 1] = classes[one["category_id"]]
        found = load_label(tmp_path / f"made/labels/{number}.png")
        np.testing.assert_array_equal(found, expected)
    assert read_dataset(tmp_path / "made/dataset.yaml").class_names == (
        *("background", "cat", "cow", "dog"),
    )


def test_a_background_of_its_own(tmp_path):
    """As labelme's converter writes it, category 0; it hides nothing that comes before."""
    names = [{"id": 0, "name": "_background_"}, {"id": 1, "name": "cat"}]
    shapes = [
        annotation(1, 1, 1, rectangle(0, 0, 20, 20)),
        annotation(2, 1, 0, rectangle(10, 10, 30, 30)),
        annotation(3, 1, 1, rectangle(20, 20, 40, 40)),
    ]
    path = write(tmp_path / "source/all.json", shapes, categories=names)
    import_coco(path, CocoImportOptions(tmp_path / "made", unlabelled="void"))
    expected = np.full((HEIGHT, WIDTH), 255, np.uint8)
    expected[20:40, 20:40] = 1
    expected[10:30, 10:30] = 0
    expected[:20, :20] = 1
    np.testing.assert_array_equal(load_label(tmp_path / "made/labels/1.png"), expected)
    assert read_dataset(tmp_path / "made/dataset.yaml").class_names == ("background", "cat")


def test_what_encloses_nothing_is_left_out_and_counted(tmp_path):
    lengths = {"size": [HEIGHT, WIDTH], "counts": [0, 9]}
    shapes = [
        *([], None, [[]], [[3.0, 4.0]], [[3, 4, 20, 9]], [[3, 4, 20, 9, 5]], [3, 4, 20, 9, 30, 9]),
        *([[3, 4, 20, 9, 1e12, 3]], [["3", 4, 20, 9, 30, 3]], lengths, {"counts": [2400]}, "none"),
        {"size": [3, 3], "counts": [0, 9]},
        # Compressed: of another length, below 0, unfinished, of other characters, of none.
        *({"size": [HEIGHT, WIDTH], "counts": text} for text in ("8", "@", "X", "é", "", "o" * 99)),
        {"size": [HEIGHT, WIDTH], "counts": [-1, 2401]},
        [[30, 30, 50, 35], *rectangle(40, 20, 50, 30)],
    ]
    annotations = [annotation(number, 1, 0, shape) for number, shape in enumerate(shapes)]
    del annotations[1]["segmentation"]
    annotations.append(annotation(90, 1, 7, rectangle(5, 5, 15, 15)))
    annotations.append(annotation(91, 2, 7, rectangle(5, 5, 15, 15)))
    path = write(tmp_path / "source/all.json", annotations)
    found = run(path, "--output", tmp_path / "made", "--json", tmp_path / "it.json")
    assert found.exit_code == 0, found.stderr
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[20:30, 40:50] = 1
    expected[5:15, 5:15] = 2
    np.testing.assert_array_equal(load_label(tmp_path / "made/labels/1.png"), expected)
    record = json.loads((tmp_path / "it.json").read_text())
    assert record["skipped"] == {
        "annotation of an image that the file does not list": 1,
        "annotation without an outline, of a box alone": 2,
        # Seven numbers that are no lists count each.
        "polygon of fewer than three points, or that lies nowhere": 4 + 6 + 2 + 1,
        "run lengths that are not of the image": 4 + 6 + 1,
    }
    assert [row["shapes"] for row in record["labels"]] == [1, 1, 0]


def test_boxes_alone(tmp_path):
    """What detection has: the error says what is missing."""
    shapes = [annotation(number, 1, 0, None, bbox=[1, 2, 3, 4]) for number in range(7)]
    found = run(write(tmp_path / "source/all.json", shapes), "--output", tmp_path / "made")
    assert found.exit_code == 1
    assert "left out: 7 × annotation without an outline, of a box alone" in found.stderr
    assert "found no shape with the label of a class" in found.stderr


def test_compressed_run_lengths_are_counted_as_pycocotools_packs_them():
    source = random.Random(4)
    for _ in range(200):
        shape = run_lengths(source)
        if source.random() < 0.5:  # differences of many digits, also below 0
            shape = {"size": [HEIGHT, WIDTH], "counts": [1000, 1, 1, 1200, 1, 197]}
        packed = coco_mask.frPyObjects(shape, HEIGHT, WIDTH)
        text = packed["counts"].decode()
        assert fits_run_lengths({"size": [HEIGHT, WIDTH], "counts": text}, (HEIGHT, WIDTH))
        assert not fits_run_lengths({"size": [HEIGHT, WIDTH], "counts": text[:-1]}, (HEIGHT, WIDTH))
        assert not fits_run_lengths({"size": [WIDTH, HEIGHT], "counts": text}, (HEIGHT, WIDTH))


def test_categories_without_a_name(tmp_path):
    shapes = [
        annotation(1, 1, 5, rectangle(0, 0, 9, 9)),
        annotation(2, 1, 6, rectangle(20, 0, 29, 9)),
    ]
    path = write(tmp_path / "source/all.json", shapes, categories=[{"id": 5}])
    found = run(path, "--output", tmp_path / "made")
    assert found.exit_code == 0, found.stderr
    assert read_dataset(tmp_path / "made/dataset.yaml").class_names == (
        *("background", "category 5", "category 6"),
    )


def test_several_files_are_splits(tmp_path):
    """As COCO lays them out, and as Roboflow exports them; the same name in two splits."""
    shapes = [annotation(1, 1, 0, rectangle(0, 0, 9, 9))]
    for split in ("train2017", "val2017"):
        write(tmp_path / f"coco/annotations/instances_{split}.json", shapes, beside=False)
        (tmp_path / f"coco/{split}").mkdir()
        (tmp_path / f"coco/{split}/1.png").write_bytes(image_bytes())
        (tmp_path / f"coco/annotations/captions_{split}.json").write_text("{}")
    for split in ("train", "valid", "test"):
        write(tmp_path / f"exported/{split}/_annotations.coco.json", shapes)
    for name, splits in (("coco", ["train", "val"]), ("exported", ["test", "train", "val"])):
        found = run(tmp_path / name, "--output", tmp_path / f"made-{name}")
        assert found.exit_code == 0, found.stderr
        dataset = read_dataset(tmp_path / f"made-{name}/dataset.yaml")
        assert sorted(dataset.lists) == splits
        for split in splits:
            (sample,) = find_samples(dataset, tmp_path / f"made-{name}", split)
            assert sample.image == tmp_path / f"made-{name}/images/{split}/1.png"
            assert sample.image.is_file() and load_label(sample.label)[0, 0] == 1


def test_an_image_of_two_splits_is_told(tmp_path):
    shapes = [annotation(1, 1, 0, rectangle(0, 0, 9, 9))]
    for split, images in (("train", (1, 2, 3)), ("val", (3, 4))):
        write(tmp_path / f"in/{split}.json", shapes, images=images)
    found = run(tmp_path / "in", "--output", tmp_path / "made")
    assert found.exit_code == 0, found.stderr
    (line,) = (line for line in found.stderr.splitlines() if "more than one split" in line)
    assert "1 images are" in line and "train and val" in line
    assert line.endswith(f": {tmp_path / 'in/3.png'}")


def test_splits_of_two_years_keep_their_names(tmp_path):
    shapes = [annotation(1, 1, 0, rectangle(0, 0, 9, 9))]
    for split in ("train2014", "train2017", "val2017"):
        write(tmp_path / f"coco/annotations/instances_{split}.json", shapes)
    import_coco(tmp_path / "coco", CocoImportOptions(tmp_path / "made"))
    assert list(read_dataset(tmp_path / "made/dataset.yaml").lists) == [
        *("train2014", "train2017", "val"),
    ]


@pytest.mark.parametrize(
    "said", ["a/1.png", r"C:\photos\1.png", "/photos/1.png", "../../1.png", "1.png"]
)
def test_images_are_found_and_stay_within_the_output(tmp_path, said):
    shapes = [annotation(1, 1, 0, rectangle(0, 0, 9, 9))]
    path = write(tmp_path / "in/annotations/all.json", shapes, names=said, beside=False)
    (tmp_path / "in/images").mkdir()
    (tmp_path / "in/images/1.png").write_bytes(image_bytes())
    before = {*tmp_path.rglob("*")}
    found = run(path, "--output", tmp_path / "made")
    assert found.exit_code == 0, found.stderr
    new = {*tmp_path.rglob("*")} - before
    assert all((tmp_path / "made") in (one, *one.parents) for one in new)
    assert sum(one.name == "1.png" for one in new) == 2
    # And where they are said to be.
    shutil.move(tmp_path / "in/images", tmp_path / "elsewhere")
    found = run(path, "--output", tmp_path / "again")
    assert found.exit_code == 1
    assert "no such image in" in found.stderr and "--images says where they are" in found.stderr
    found = run(path, "--output", tmp_path / "again", "--images", tmp_path / "elsewhere")
    assert found.exit_code == 0, found.stderr


@pytest.mark.parametrize(
    ("turn", "size", "is_turned"),
    [(6, (WIDTH, HEIGHT), True), (6, (HEIGHT, WIDTH), False), (3, (HEIGHT, WIDTH), False)],
)
def test_an_image_is_turned_where_only_that_fits(tmp_path, turn, size, is_turned):
    shapes = [annotation(1, 1, 0, rectangle(0, 0, 9, 9))]
    path = write(tmp_path / "source/all.json", shapes)
    (tmp_path / "source/1.png").write_bytes(image_bytes(size, turn))
    found = run(path, "--output", tmp_path / "made")
    assert found.exit_code == 0, found.stderr
    with Image.open(tmp_path / "made/images/1.png") as image:
        assert (image.height, image.width) == (HEIGHT, WIDTH)
    assert ("images set upright by their EXIF data: 1" in found.stdout) == is_turned
    assert ("though their EXIF data turn them: 1 (1)" in found.stderr) == (not is_turned)
    if turn == 3:
        found = run(path, "--output", tmp_path / "turned", "--exif", "turn")
        assert "images set upright by their EXIF data: 1" in found.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "all.json: no images: expected annotations in COCO's form; those of labelme"),
        ('{"shapes": [], "imagePath": "a.png"}', "all.json: no images: expected annotations in"),
        ('{"images": [', "all.json: not an annotation file of COCO's instances: JSONDecodeError"),
        ("[]", "all.json: not an annotation file of COCO's instances: AssertionError"),
        ('{"images": [{"id": 1}]}', r"not an annotation file .* KeyError\('file_name'\)"),
        ('{"images": [{"id": 1, "file_name": 3}]}', "not an annotation file .* AttributeError"),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}',
            "all.json: 2 images have the id 1: expected one each",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "categories": [{"id": 0}, {"id": 0}]}',
            "all.json: 2 categories have the id 0: expected one each",
        ),
        ('{"images": [{"id": 1, "file_name": "a"}]}', "1 of 1 images cannot be used, the first: a"),
    ],
)
def test_files_that_are_none_of_cocos(tmp_path, content, message):
    (tmp_path / "all.json").write_text(content)
    with pytest.raises((ValueError, OSError), match=message):
        import_coco(tmp_path / "all.json", CocoImportOptions(tmp_path / "made"))
    assert not (tmp_path / "made").exists()


def test_many_images_that_are_not_there(tmp_path):
    """The first ones are named, one by one, and the number of the others."""
    path = write(tmp_path / "all.json", [], images=range(30), beside=False)
    found = run(path, "--output", tmp_path / "made")
    assert found.exit_code == 1
    assert "30 of 30 images cannot be used" in found.stderr
    assert found.stderr.count("no such image") == 21
    assert "… and 10 more" in found.stderr

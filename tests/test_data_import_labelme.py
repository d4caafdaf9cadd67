"""`ademx data import labelme`: pixels by labelme's own rule, labels, files, and refusals."""

import base64
import io
import json
import tracemalloc

import cv2
import numpy as np
import pytest
from commands import make_runner
from PIL import Image, ImageDraw, ImageOps

from ademx.cli import main
from ademx.data.drawn.make import make_dataset
from ademx.data.imports import write as write_module
from ademx.data.imports.classes import Classes
from ademx.data.imports.labelme import LabelmeLabel, Shape, import_labelme
from ademx.data.imports.write import ImportOptions
from iters.datasets import VOID
from iters.drawn import SCENERIES, draw_for_segmentation
from iters.find_dataset import read_dataset
from iters.images import load_label
from iters.lists import find_samples

HEIGHT, WIDTH = 40, 60
POLYGON, RECTANGLE, CIRCLE = "polygon", "rectangle", "circle"


def shape(label, points, kind=POLYGON, **more):
    return {
        **{"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}},
        **more,
    }


def box(label, left, top, right, bottom, **more):
    """A rectangle of the pixels from left to right and top to bottom, the last ones included."""
    return shape(label, [[left, top], [right, bottom]], RECTANGLE, **more)


def noise(number=0, size=(HEIGHT, WIDTH)):
    return np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def annotate(folder, name, shapes, *, image=None, **more):
    """Write an image and labelme's JSON file beside it."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    if image is not False:
        path.write_bytes(encoded(noise()) if image is None else image)
    content = {
        **{"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": path.name},
        **{"imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH},
    }
    (folder / f"{name}.json").write_text(json.dumps({**content, **more}))


def run(*arguments):
    return make_runner().invoke(main, ["data", "import", "labelme", *map(str, arguments)])


def imported(tmp_path, shapes, **options):
    """Return the label of one image of these shapes."""
    annotate(tmp_path / "source", "a", shapes)
    import_labelme(tmp_path / "source", ImportOptions(tmp_path / "made", **options))
    return load_label(tmp_path / "made/labels/a.png")


def by_pillow(draw_one):
    mask = Image.new("L", (WIDTH, HEIGHT))
    draw_one(ImageDraw.Draw(mask))
    return np.asarray(mask) > 0


# --- pixels


def test_a_rectangle_has_both_of_its_corners(tmp_path):
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5:21, 10:31] = 1
    found = imported(tmp_path, [shape("cat", [[30, 5], [10, 20]], RECTANGLE)])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(20))
def test_polygons_are_drawn_as_labelme_draws_them(tmp_path, seed):
    """Concave ones, crossing ones and such as reach out of the image; the later one wins."""
    source = np.random.default_rng(seed)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    shapes = []
    for number, label in enumerate("abcd", start=1):
        xy = source.uniform(-4, [WIDTH + 4, HEIGHT + 4], (source.integers(3, 8), 2))
        points = [tuple(point) for point in xy.tolist()]
        shapes.append(shape(label, points))
        inside = by_pillow(lambda draw, xy=points: draw.polygon(xy, outline=1, fill=1))
        expected[inside] = number
    np.testing.assert_array_equal(imported(tmp_path, shapes), expected)


def test_polygons_between_whole_pixels_are_also_opencvs(tmp_path):
    """Where all corners are pixel centres, another library's rule is the same."""
    points = [[5, 5], [45, 5], [45, 30], [25, 10], [5, 30]]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(expected, [np.array(points, np.int32)], 1)
    np.testing.assert_array_equal(imported(tmp_path, [shape("cat", points)]), expected)


def test_a_circle_has_what_its_rim_has_inside(tmp_path):
    """Its centre, then a point on the rim, 10 pixels away; half a pixel is the rim's."""
    found = imported(tmp_path, [shape("cat", [[30, 20], [38, 26]], CIRCLE)])
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    distance = np.hypot(rows - 20, columns - 30)
    assert (found[distance <= 9.5] == 1).all()
    assert (found[distance >= 11] == 0).all()


def test_a_mask_lies_in_its_box(tmp_path):
    inside = np.random.default_rng(1).integers(0, 2, (6, 9)).astype(bool)
    data = base64.b64encode(encoded(inside)).decode()
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[4:10, 7:16] = inside
    points = [[7.6, 4.2], [15.9, 9.9]]  # of which labelme takes the whole part
    np.testing.assert_array_equal(
        imported(tmp_path, [shape("cat", points, "mask", mask=data)]), expected
    )


@pytest.mark.parametrize("order", [None, "last", "first"])
def test_the_later_shape_wins_unless_the_first_is_to(tmp_path, order):
    given = {} if order is None else {"order": order}
    found = imported(tmp_path, [box("cat", 0, 0, 20, 20), box("dog", 10, 10, 30, 30)], **given)
    assert (found[0, 0], found[30, 30]) == (1, 2)
    assert found[15, 15] == (1 if order == "first" else 2)


def test_a_shape_within_its_group_is_a_hole(tmp_path):
    """An island in it is not, nor one of another label, of another group, or of no group."""
    shapes = [
        box("grass", 0, 0, 59, 39),
        box("pond", 20, 12, 25, 20, group_id=7),  # an island, before what it lies in
        box("pond", 5, 5, 40, 30, group_id=7),
        box("pond", 10, 8, 35, 25, group_id=7),
        box("duck", 36, 10, 38, 12, group_id=7),
        box("pond", 50, 5, 55, 10),
        box("pond", 51, 6, 53, 8),
    ]
    expected = np.full((HEIGHT, WIDTH), 2, np.uint8)
    expected[5:31, 5:41] = 3
    expected[8:26, 10:36] = 2
    expected[12:21, 20:26] = 3
    expected[10:13, 36:39] = 1
    expected[5:11, 50:56] = 3
    np.testing.assert_array_equal(imported(tmp_path, shapes), expected)


def test_parts_and_copies_of_a_group_are_no_holes(tmp_path):
    shapes = [
        box("cat", 2, 2, 10, 10, group_id=1),
        box("cat", 2, 2, 10, 10, group_id=1),  # the same once more
        box("cat", 8, 8, 20, 20, group_id=1),  # overlaps
        box("cat", 40, 2, 50, 10, group_id=1),
    ]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:11, 2:11] = expected[8:21, 8:21] = expected[2:11, 40:51] = 1
    np.testing.assert_array_equal(imported(tmp_path, shapes), expected)


def test_many_groups_of_a_large_image_take_little_memory():
    """Each is held in its own box: as many masks of the whole image are 200 MB."""
    shapes = [
        Shape("cat", RECTANGLE, ((60 * n + left, 50), (60 * n + right, 90)), n)
        for n in range(30)
        for left, right in ((5, 50), (15, 30))
    ]
    label = LabelmeLabel(2000, 3400, shapes, Classes(("background", "cat"), {"cat": 1}, 0, "last"))
    tracemalloc.start()
    found = label.read()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.count_nonzero(found) == 30 * (46 - 16) * 41
    assert most < 50e6


def test_what_has_no_area_is_left_out_and_counted(tmp_path):
    shapes = [
        box("cat", 2, 2, 10, 10),
        shape("cat", [[30, 30]], "point"),
        shape("cat", [[30, 30], [40, 30]], "line"),
        shape("cat", [[30, 30], [40, 30]]),
        shape("cat", [[30, 30], [40, 30], [40, 1e12]]),
        shape("cat", [[30, 30], [40, 30], [float("nan"), 3]]),
        shape("cat", [[30, 30], [40, 30], [45, 35]], CIRCLE),
        shape("cat", [[1, 2], [3, 4]], "cuboid"),
        shape("cat", [[1, 2], [3, 4]], [3]),
        shape("cat", [[], []], "mask"),
        shape("cat", [[1, 2, 3], [4, 5, 6]], RECTANGLE),
        shape(" ", [[30, 30], [40, 30], [40, 40]]),
        shape("cat", [[0, 0], [5, 5]], "mask", mask=base64.b64encode(b"no image").decode()),
        shape("cat", [[0, 0], [5, 5]], "mask"),
    ]
    annotate(tmp_path / "source", "a", shapes)
    found = run(tmp_path / "source", "--output", tmp_path / "made", "--json", tmp_path / "it.json")
    assert found.exit_code == 0, found.stderr
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:11, 2:11] = 1
    np.testing.assert_array_equal(load_label(tmp_path / "made/labels/a.png"), expected)
    record = json.loads((tmp_path / "it.json").read_text())
    assert record["skipped"] == {
        "point: has no area": 1,
        "line: has no area": 1,
        "polygon: 2 points, expected 3": 1,
        "polygon: points that lie nowhere": 2,
        "circle: 3 points, expected 2": 1,
        "cuboid: unknown kind of shape": 1,
        "[3]: unknown kind of shape": 1,
        "mask: points that lie nowhere": 1,
        "rectangle: points that lie nowhere": 1,
        "polygon: without a label": 1,
        "mask: no image of the size of its box": 2,
    }
    assert "left out: 1 × point: has no area; 1 × line: has no area; " in found.stderr
    assert record["labels"][0]["shapes"] == 1


def test_drawn_photographs_come_back_pixel_for_pixel(tmp_path):
    """Objects that hide parts of others, and borders of no class, by `__ignore__`."""
    make_dataset("labelme", tmp_path / "photos", images=40, seed=2)
    found = run(tmp_path / "photos", "--output", tmp_path / "made")
    assert found.exit_code == 0, found.stderr
    assert "images without a JSON file, left out: 1 (new.jpg)" in found.stderr
    names = read_dataset(tmp_path / "made/dataset.yaml").class_names
    classes = {0: 0, VOID: VOID}
    for class_id, (name, _) in SCENERIES["voc"].things.items():
        classes[class_id] = names.index(name)
    for number in range(40):
        scene = draw_for_segmentation("voc", "photographs", number, seed=2)
        label = load_label(tmp_path / f"made/labels/{number:06d}.png")
        np.testing.assert_array_equal(label, np.vectorize(classes.get)(scene.label))


# --- images


@pytest.mark.parametrize("turn", range(1, 9))
def test_images_are_set_upright_as_labelme_shows_them(tmp_path, turn):
    """A half turn, too, which sizes cannot tell."""
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = noise(size=(HEIGHT, WIDTH) if turn < 5 else (WIDTH, HEIGHT))
    image = encoded(stored, exif=exif)
    annotate(tmp_path / "source", "a", [box("cat", 0, 0, 5, 5)], image=image)
    made = import_labelme(tmp_path / "source", ImportOptions(tmp_path / "made"))
    path = tmp_path / "made/images/a.png"
    with Image.open(path) as found, Image.open(io.BytesIO(image)) as original:
        np.testing.assert_array_equal(np.asarray(found), ImageOps.exif_transpose(original))
        assert found.getexif().get(0x0112, 1) == 1
    assert made.turned == (turn > 1)
    assert (path.read_bytes() == image) == (turn == 1)


def test_a_turned_jpeg_stays_one(tmp_path):
    smooth = np.broadcast_to(np.arange(WIDTH, dtype=np.uint8)[:, None, None] * 4, (60, 40, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    image = encoded(smooth.copy(), "JPEG", exif=exif, quality=95)
    annotate(tmp_path / "source", "a", [box("cat", 0, 0, 5, 5)], image=False, imagePath="b.jpg")
    (tmp_path / "source/b.jpg").write_bytes(image)
    import_labelme(tmp_path / "source", ImportOptions(tmp_path / "made"))
    with Image.open(tmp_path / "made/images/a.jpg") as found:
        assert (found.format, found.size) == ("JPEG", (WIDTH, HEIGHT))
        difference = np.asarray(found).astype(int) - np.rot90(smooth, -1)
    assert np.abs(difference).max() <= 6  # of 255, by two compressions


def test_annotations_of_the_stored_image(tmp_path):
    """By a tool that does not turn: refused with what to do, and taken then."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = encoded(noise(), exif=exif)
    annotate(tmp_path / "source", "a", [box("cat", 0, 0, 5, 5)], image=image)
    found = run(tmp_path / "source", "--output", tmp_path / "made")
    assert found.exit_code == 1
    assert "is 60×40 pixels (height × width), its annotations are of 40×60" in found.stderr
    assert "--exif auto takes" in found.stderr
    assert not (tmp_path / "made").exists()
    found = run(tmp_path / "source", "--output", tmp_path / "made", "--exif", "auto")
    assert found.exit_code == 0, found.stderr
    assert (tmp_path / "made/images/a.png").read_bytes() == image


@pytest.mark.parametrize("said", ["../photos/b.png", r"..\photos\b.png", "/elsewhere/c.png"])
def test_where_the_image_lies(tmp_path, said):
    """Relative to the JSON file, on Windows too; one of another machine beside the JSON file."""
    folder = tmp_path / "source/json"
    annotate(folder, "a", [box("cat", 0, 0, 5, 5)], image=False, imagePath=said)
    (tmp_path / "source/photos").mkdir()
    (tmp_path / "source/photos/b.png").write_bytes(encoded(noise(1)))
    (folder / "c.png").write_bytes(encoded(noise(2)))
    import_labelme(tmp_path / "source", ImportOptions(tmp_path / "made"))
    found = (tmp_path / "made/images/json/a.png").read_bytes()
    assert found == encoded(noise(2 if "c.png" in said else 1))


@pytest.mark.parametrize("head", ["", "data:image/jpeg;base64,"])
@pytest.mark.parametrize("pack", [base64.b64encode, base64.encodebytes])  # in one line, in many
def test_an_embedded_image_stands_in_for_a_missing_file(tmp_path, pack, head):
    data = head + pack(encoded(noise(3), "JPEG")).decode()
    annotate(tmp_path / "source", "a", [box("cat", 0, 0, 5, 5)], image=False, imageData=data)
    annotate(tmp_path / "source", "b", [box("cat", 0, 0, 5, 5)], imageData=data)
    import_labelme(tmp_path / "source", ImportOptions(tmp_path / "made"))
    assert (tmp_path / "made/images/a.jpg").read_bytes() == encoded(noise(3), "JPEG")
    assert (tmp_path / "made/images/b.png").read_bytes() == encoded(noise())


def test_links(tmp_path):
    annotate(tmp_path / "source", "a", [box("cat", 0, 0, 5, 5)])
    (tmp_path / "source/b.jpg").touch()  # nobody has annotated it
    found = run(tmp_path / "source", "--output", tmp_path / "made", "--link")
    assert found.exit_code == 0, found.stderr
    assert (tmp_path / "made/images/a.png").resolve() == tmp_path / "source/a.png"
    assert "images without a JSON file, left out: 1 (b.jpg)" in found.stderr


# --- labels


def two_images(folder):
    annotate(folder, "a", [box("dog", 0, 0, 5, 5), box("Dog", 8, 0, 9, 5), box("cat", 0, 8, 5, 9)])
    annotate(folder, "b", [box("dog ", 0, 0, 5, 5), box("__ignore__", 8, 0, 9, 5)])


def rows(stdout):
    return [line.split() for line in stdout.splitlines()[1 : stdout.splitlines().index("")]]


def test_all_labels_are_classes_and_alike_ones_are_pointed_out(tmp_path):
    two_images(tmp_path / "source")
    found = run(tmp_path / "source", "--output", tmp_path / "made", "--split", 1)
    assert found.exit_code == 0, found.stderr
    assert rows(found.stdout) == [
        ["Dog", "1", "Dog", "1", "1"],
        ["cat", "2", "cat", "1", "1"],
        ["dog", "3", "dog", "1", "1"],
        ["'dog", "'", "4", "dog", "1", "1"],
        ["__ignore__", "255", "void", "1", "1"],
        ["all", "5", "2"],
    ]
    assert "alike" in found.stderr
    for pair in ("'Dog' (1) and 'dog' (1)", "'dog' (1) and 'dog ' (1)"):
        assert pair in found.stderr
    assert "cat" not in found.stderr
    dataset = read_dataset(tmp_path / "made/dataset.yaml")
    assert dataset.class_names == ("background", "Dog", "cat", "dog", "dog ")
    label = load_label(tmp_path / "made/labels/b.png")
    assert [label[0, 0], label[0, 8], label[20, 20]] == [4, 255, 0]


def test_one_word_in_two_spellings_of_unicode_is_pointed_out(tmp_path):
    shapes = [box("caf\u00e9", 0, 0, 5, 5), box("cafe\u0301", 9, 9, 9, 9)]
    annotate(tmp_path / "source", "a", shapes)
    assert "look alike" in run(tmp_path / "source", "--output", tmp_path / "made").stderr


def test_a_rare_misspelling_is_pointed_out(tmp_path):
    shapes = [box("bicycle", 0, 0, 5, 5)] * 20 + [box("bycicle", 9, 9, 9, 9)]
    annotate(tmp_path / "source", "a", shapes)
    found = run(tmp_path / "source", "--output", tmp_path / "made")
    assert "'bicycle' (20) and 'bycicle' (1)" in found.stderr


def test_labels_that_are_not_listed(tmp_path):
    two_images(tmp_path / "source")
    names = tmp_path / "names.txt"
    names.write_text("__ignore__\n_background_\ndog\ncow\n")
    found = run(tmp_path / "source", "--output", tmp_path / "made", "--labels", names)
    assert found.exit_code == 1
    for text in ("'Dog' (1; listed is 'dog')", "'cat' (1", "'dog ' (1; listed is 'dog')"):
        assert text in found.stderr
    assert "'dog' (1" not in found.stderr
    assert not (tmp_path / "made").exists()
    for way, stored in (("skip", 0), ("void", 255)):
        output = tmp_path / way
        found = run(tmp_path / "source", "--output", output, "--labels", names, "--unlisted", way)
        assert found.exit_code == 0, found.stderr
        assert "classes without a shape: cow" in found.stderr
        assert "'cat' (1" in found.stderr
        assert read_dataset(output / "dataset.yaml").class_names == ("background", "dog", "cow")
        label = load_label(output / "labels/a.png")
        assert [label[0, 0], label[0, 8], label[8, 0], label[30, 30]] == [1, stored, stored, 0]


def test_labels_that_mean_one_class(tmp_path):
    two_images(tmp_path / "source")
    names = tmp_path / "names.txt"
    names.write_text("cat\nhound\tdog\tDog\tdog \n")
    found = run(tmp_path / "source", "--output", tmp_path / "made", "--labels", names)
    assert found.exit_code == 0, found.stderr
    assert read_dataset(tmp_path / "made/dataset.yaml").class_names == (
        *("background", "cat", "hound"),
    )
    assert [load_label(tmp_path / f"made/labels/{name}.png")[0, 0] for name in "ab"] == [2, 2]


def test_without_a_background(tmp_path):
    shapes = [box("road", 0, 0, 20, 39), box("sky", 21, 0, 40, 39)]
    found = imported(tmp_path, shapes, unlabelled="void")
    assert read_dataset(tmp_path / "made/dataset.yaml").class_names == ("road", "sky")
    assert [found[0, 0], found[0, 30], found[0, 50]] == [0, 1, 255]


def test_names_that_yaml_reads_as_something_else(tmp_path):
    imported(tmp_path, [box(label, 0, 0, 5, 5) for label in ("no", "7", "ñandú", "a: b", "null")])
    assert set(read_dataset(tmp_path / "made/dataset.yaml").class_names) == {
        *("background", "no", "7", "ñandú", "a: b", "null"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog\ncat\ndog\n", r"names\.txt, line 3: found 'dog' again, as in line 1"),
        ("\n", r"names\.txt: the file is empty"),
        ("cow\n", "labels that .*names.txt does not list"),
    ],
)
def test_files_of_labels_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, [box("dog", 0, 0, 5, 5)], labels=tmp_path / "names.txt")


# --- files


def test_the_splits(tmp_path):
    """All images once, a part of them in train, by the seed and the names alone."""
    for number in range(10):
        annotate(tmp_path / "source", f"{number}", [box("cat", 0, 0, 5, 5)])

    def split(name, **options):
        import_labelme(tmp_path / "source", ImportOptions(tmp_path / name, **options))
        dataset = read_dataset(tmp_path / name / "dataset.yaml")
        found = {
            split: [sample.name for sample in find_samples(dataset, tmp_path / name, split)]
            for split in dataset.lists
        }
        assert sorted(name for names in found.values() for name in names) == [
            str(number) for number in range(10)
        ]
        return found

    first = split("a")
    assert [len(names) for names in first.values()] == [8, 2]
    assert split("b") == first
    assert split("c", seed=1) != first
    assert [len(names) for names in split("d", split=0.999).values()] == [9, 1]
    assert list(split("e", split=1)) == ["train"]


def test_a_train_split_without_any_shape_is_told(tmp_path):
    """Of two images one is drawn for train: with half of the seeds the one without a shape."""
    annotate(tmp_path / "source", "a", [])
    annotate(tmp_path / "source", "b", [box("cat", 0, 0, 5, 5)])
    for seed in range(10):
        made = tmp_path / f"{seed}"
        found = run(tmp_path / "source", "--output", made, "--name", "own", "--seed", seed)
        is_empty = "a.png" in (made / "train.lst").read_text()
        assert ("no image of train has cat: another --seed" in found.stderr) == is_empty


def test_the_printed_commands_name_what_was_made(tmp_path, monkeypatch):
    """A shell takes the printed lines as they are; README's own are run by test_own_dataset."""
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        annotate(
            tmp_path / "source",
            f"{number}",
            [box("cat", 0, 0, 30, 30)],
            image=encoded(noise(number)),
        )
    found = run("source", "--output", "my pets")
    assert found.exit_code == 0, found.stderr
    assert "--dataset 'my pets/dataset.yaml' --data-root 'my pets' " in found.stdout
    assert "--model own-my-pets_rna-a1_cls2_s8" in found.stdout
    checked = make_runner().invoke(
        main, ["data", "check", "my pets/dataset.yaml", "--root", "my pets"]
    )
    assert checked.exit_code == 0, checked.stderr


def test_an_interrupted_import_leaves_nothing(tmp_path, monkeypatch):
    for number in range(3):
        annotate(tmp_path / "source", f"{number}", [box("cat", 0, 0, 5, 5)])
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):

        def interrupt(*_):
            assert list(tmp_path.glob("made/**/*.png"))
            raise KeyboardInterrupt

        context.setattr(write_module, "_write_images", interrupt)
        import_labelme(tmp_path / "source", ImportOptions(tmp_path / "made"))
    assert not (tmp_path / "made").exists()
    import_labelme(tmp_path / "source", ImportOptions(tmp_path / "made"))
    found = run(tmp_path / "source", "--output", tmp_path / "made")
    assert found.exit_code == 1
    assert "--output" in found.stderr and "expected a new or an empty folder" in found.stderr


def broken_sources(folder):
    annotate(folder, "good", [box("cat", 0, 0, 5, 5)])
    annotate(folder, "gone", [], image=False)
    annotate(folder, "small", [], imageHeight=20)
    annotate(folder, "text", [], image=b"no image")
    annotate(folder, "number", [{**box("cat", 0, 0, 5, 5), "label": 3}])
    (folder / "list.json").write_text("[]")
    (folder / "half.json").write_text('{"shapes": [')
    (folder / "coco.json").write_text('{"images": [], "annotations": []}')
    annotate(folder, "one", [])
    annotate(folder, "two", [], image=False, imagePath="one.png")
    annotate(folder, "cut", [], image=encoded(noise())[:-500])
    annotate(folder, "tab\tin it", [])
    (folder / "words.json").write_bytes('{"shapes": "ж"}'.encode("cp1251"))


def test_files_that_cannot_be_used_are_all_named(tmp_path):
    broken_sources(tmp_path / "source")
    found = run(tmp_path / "source", "--output", tmp_path / "made")
    assert found.exit_code == 1
    assert "11 of 13 files cannot be used, the first: " in found.stderr
    assert "--skip-broken" in found.stderr
    for message in (
        "gone.json: its image 'gone.png' is not there, nor in imageData",
        "small.png is 40×60 pixels (height × width), its annotations are of 20×60",
        "text.png cannot be used as an image: not an image of a known format",
        "number.json: not labelme's: label is 3, expected a text",
        "list.json: not labelme's: the file is [], expected an object",
        "half.json: not JSON: ",
        "coco.json: it looks like COCO's annotations: `ademx data import coco`",
        "one.png: annotated 2 times",
        "cut.png': cannot be used as an image: ",
        r"tab\tin it.png': a name with tabs, line breaks or outer spaces cannot be listed",
        "words.json: not in UTF-8",
    ):
        assert message in found.stderr
    assert not (tmp_path / "made").exists()
    found = run(tmp_path / "source", "--output", tmp_path / "made", "--skip-broken")
    assert found.exit_code == 0, found.stderr
    assert "without a JSON file" not in found.stderr
    assert [path.name for path in (tmp_path / "made/images").iterdir()] == ["good.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--name", "My Pets"), "--name 'My Pets': expected lower-case letters, digits and hyph"),
        (("--name", "voc"), "--name 'voc': expected"),
        (("--name", "pets-cls"), "--name 'pets-cls': expected"),
        (("--split", "0"), "--split 0.0: expected a part above 0, up to 1"),
        (("--unlisted", "skip"), "--unlisted is for --labels"),
    ],
)
def test_options_that_cannot_be(tmp_path, arguments, message):
    annotate(tmp_path / "source", "a", [box("cat", 0, 0, 5, 5)])
    found = run(tmp_path / "source", "--output", tmp_path / "made", *arguments)
    assert found.exit_code == 1
    assert message in found.stderr


def test_sources_without_what_is_needed(tmp_path):
    (tmp_path / "empty").mkdir()
    found = run(tmp_path / "empty", "--output", tmp_path / "made")
    assert (found.exit_code, "no .json file in this folder" in found.stderr) == (1, True)
    annotate(tmp_path / "source", "a", [])
    found = run(tmp_path / "source", "--output", tmp_path / "made")
    assert found.exit_code == 1
    assert "found no shape with the label of a class" in found.stderr

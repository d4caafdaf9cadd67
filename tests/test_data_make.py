"""`ademx data make`: drawn datasets in the official layouts, read by what reads the real ones."""

import hashlib
import json
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
from scenes import voc_scene

from ademx.cli import main
from ademx.data.drawn import segmentation as drawn_segmentation
from ademx.data.drawn.make import make_dataset
from ademx.data.lists.plans import ListOptions
from ademx.data.lists.write import make_lists
from ademx.data.new_folder import new_folder
from ademx.files import locked
from iters.datasets import DATASETS, VOID, decode_label
from iters.drawn import SCENERIES, draw_for_classification, draw_for_segmentation
from iters.images import load_image, load_label
from iters.lists import find_samples

IMAGES = 3
SEED = 5

# Which scenes a dataset for segmentation shows.
SCENES = {
    "voc": "voc",
    "voc-sbd": "voc",
    "coco": "coco",
    "coco20": "coco",
    "cityscapes": "cityscapes",
    "cityscapes-coarse": "cityscapes-coarse",
    "ade20k": "ade20k",
    "pascal-context": "pascal-context",
    "pascal-context-59": "pascal-context",
}
SPLITS = {
    "ilsvrc-cls": ["train", "val", "test"],
    "places": ["train", "val", "test"],
    "voc": ["train", "val", "test"],
    "voc-sbd": ["train+", "val"],
    "coco": ["train2017", "val2017"],
    "coco20": ["train2017", "val2017"],
    "cityscapes": ["train", "val", "test"],
    "cityscapes-coarse": ["train", "val", "train_extra"],
    "ade20k": ["train", "val", "test"],
    "pascal-context": ["train", "val"],
    "pascal-context-59": ["train", "val"],
}
LABELLED = [(name, split) for name in SCENES for split in SPLITS[name] if split != "test"]
CLASSIFIED = [(name, split) for name in ("ilsvrc-cls", "places") for split in ("train", "val")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function that gives the root of a drawn dataset with its lists."""
    roots = {}

    def get(name):
        if name not in roots:
            roots[name] = tmp_path_factory.mktemp(name)
            make_dataset(name, roots[name], images=IMAGES, seed=SEED)
            make_lists(name, roots[name], ListOptions(min_pixels=0, jobs=1))
        return roots[name]

    return get


def stored(path):
    return np.array(Image.open(path))


def assert_alike(found, drawn):
    """JPEG loses at most the noise, of standard deviation 10 and so of mean size 8."""
    assert found.shape == drawn.shape
    assert np.abs(found.astype(float) - drawn).mean() < 8


def contents(root):
    """Return the path of each file below a folder -> what identifies its bytes."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


# ---- the truth comes back -----------------------------------------------------------------------


def test_every_dataset_is_drawn():
    assert set(SPLITS) == set(DATASETS)


@pytest.mark.parametrize(("name", "split"), LABELLED)
def test_lists_and_labels_give_back_what_was_drawn(made, name, split):
    samples = find_samples(name, made(name), split)
    assert len(samples) == IMAGES
    for number, sample in enumerate(samples):
        scene = draw_for_segmentation(SCENES[name], split, number, seed=SEED)
        found = decode_label(DATASETS[name], load_label(sample.label))
        np.testing.assert_array_equal(found, truth(name, split, number, scene.label))
        assert_alike(load_image(sample.image), scene.image)


def truth(name, split, number, label):
    """Return the class ids that a dataset has for a drawn label."""
    if name == "voc-sbd" and split == "train+" and number >= (IMAGES + 1) // 2:
        return draw_for_segmentation("sbd", split, number, seed=SEED).label
    table = np.arange(256)
    if name == "coco20":  # person, car, dog, bottle, tv, toothbrush
        for coco, voc in {1: 15, 3: 7, 17: 12, 40: 5, 63: 20, 80: 0}.items():
            table[coco] = voc
    if name == "pascal-context-59":
        table = np.where(table == 0, VOID, np.where(table == VOID, VOID, table - 1))
    return table[label]


@pytest.mark.parametrize(("name", "split"), CLASSIFIED)
def test_lists_give_back_the_classes_that_were_drawn(made, name, split):
    samples = find_samples(name, made(name), split)
    assert len(samples) == IMAGES
    expected = [
        draw_for_classification(DATASETS[name].num_classes, split, number, seed=SEED)
        for number in range(IMAGES)
    ]
    for sample in samples:  # in the order of the classes, or of the images
        (image,) = [image for image, class_id in expected if class_id == sample.label]
        assert_alike(load_image(sample.image), image)


@pytest.mark.parametrize("name", [name for name in SPLITS if "test" in SPLITS[name]])
def test_images_of_test_have_no_truth(made, name):
    samples = find_samples(name, made(name), "test")
    assert len(samples) == IMAGES
    assert all(sample.label is None and sample.image.is_file() for sample in samples)
    assert not [path for path in made(name).rglob("*test*") if path.suffix == ".mat"]


@pytest.mark.parametrize("scenery", SCENERIES)
def test_labels_fit_the_images(scenery):
    """Each object is one colour but for the noise, and one class but for void around it."""
    for number in range(10):
        scene = draw_for_segmentation(scenery, "val", number, seed=SEED)
        assert scene.image.shape[:2] == scene.label.shape == scene.things.shape
        for thing in range(1, scene.things.max() + 1):
            seen = scene.things == thing
            if seen.sum() > 50:
                assert (scene.image[seen].std(axis=0) < 13).all()  # the noise is 10
                assert len(set(np.unique(scene.label[seen])) - {VOID}) <= 1


@pytest.mark.parametrize("scenery", SCENERIES)
def test_all_classes_of_a_scenery_are_drawn(scenery):
    drawn = {
        class_id
        for number in range(40)
        for class_id in np.unique(draw_for_segmentation(scenery, "train", number, seed=0).label)
    }
    row = SCENERIES[scenery]
    layers = set(row.layers) or {0}
    assert drawn - {VOID} == (layers | set(row.things)) - {VOID}
    has_void = row.void_width or row.margin or row.has_bonnet
    assert (VOID in drawn) == bool(has_void)


def test_a_scene_of_voc_has_shapes_of_its_classes():
    image, label = voc_scene(np.random.default_rng(3))
    assert image.shape[:2] == label.shape and 96 <= min(label.shape) <= max(label.shape) <= 128
    assert set(np.unique(label)) <= {0, 1, 7, 12, 15, VOID}


def test_a_classs_colours_tell_it_from_others():
    """The nearest of 40 other images, by the mean colour and that of the middle."""

    def features(image):
        height, width = image.shape[:2]
        middle = image[height * 2 // 5 : height * 3 // 5, width * 2 // 5 : width * 3 // 5]
        return np.concatenate([image.mean(axis=(0, 1)), middle.mean(axis=(0, 1))])

    known, asked = (
        [draw_for_classification(1000, split, number, seed=0) for number in range(40)]
        for split in ("train", "val")
    )
    ids = np.array([class_id for _, class_id in known])
    assert len(set(ids)) == 40 and [class_id for _, class_id in asked] == ids.tolist()
    rows = np.array([features(image) for image, _ in known])
    nearest = [np.abs(rows - features(image)).sum(axis=1).argmin() for image, _ in asked]
    assert np.mean(ids[nearest] == ids) > 0.8


@pytest.mark.parametrize("num_classes", [365, 1000])
def test_the_first_images_show_a_class_each(num_classes):
    numbers = [0, 1, 2, 3, num_classes - 1, num_classes]
    ids = [draw_for_classification(num_classes, "val", n, seed=0)[1] for n in numbers]
    assert ids[-1] == ids[0] and len(set(ids[:-1])) == 5


# ---- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SPLITS, "labelme"])
def test_a_seed_draws_the_same_bytes(tmp_path, name):
    for folder, seed in (("one", 1), ("again", 1), ("other", 2)):
        make_dataset(name, tmp_path / folder, images=2, seed=seed)
    one, again, other = (contents(tmp_path / folder) for folder in ("one", "again", "other"))
    assert one == again
    assert set(one) == set(other)
    images = [path for path in one if path.endswith((".jpg", ".JPEG", "leftImg8bit.png"))]
    assert images and not {one[path] for path in images} & {other[path] for path in images}


@pytest.mark.parametrize("name", SPLITS)
def test_no_image_is_in_two_splits(made, name):
    samples = [s for split in SPLITS[name] for s in find_samples(name, made(name), split)]
    assert len(samples) == IMAGES * len(SPLITS[name])
    assert len({load_image(sample.image).tobytes() for sample in samples}) == len(samples)


def test_fewer_images_are_the_first_of_more(tmp_path):
    make_dataset("ade20k", tmp_path / "two", images=2)
    make_dataset("ade20k", tmp_path / "three", images=3)
    two, three = contents(tmp_path / "two"), contents(tmp_path / "three")
    assert two.items() < three.items()


def test_fine_and_coarse_labels_are_of_the_same_images(made):
    fine, coarse = (made(name) for name in ("cityscapes", "cityscapes-coarse"))
    for image in sorted(fine.glob("leftImg8bit/train/*/*.png")):
        np.testing.assert_array_equal(stored(coarse / image.relative_to(fine)), stored(image))
        path = str(image.relative_to(fine)).replace("leftImg8bit", "{0}")
        ids = stored(fine / path.format("gtFine").replace(".png", "_labelIds.png"))
        blobs = stored(coarse / path.format("gtCoarse").replace(".png", "_labelIds.png"))
        assert set(np.unique(blobs)) <= {0, *np.unique(ids)}
        assert (blobs[blobs != 0] == ids[blobs != 0]).all()
        assert 0.2 < np.mean(blobs == 0) < 0.8 and np.isin(ids, (1, 4)).any()


# ---- what else reads the official layouts -------------------------------------------------------


def test_gluoncv_reads_voc(made, gluon_data):
    voc = made("voc") / "VOCdevkit"
    _agree(gluon_data.VOCSegmentation(voc, "val", "testval"), "voc", split="val")
    assert len(gluon_data.VOCSegmentation(voc, "train", "testval")) == 2 * IMAGES  # trainval
    assert len(gluon_data.VOCSegmentation(voc, "test", "test")) == IMAGES


def test_gluoncv_reads_ade20k(made, gluon_data):
    data = gluon_data.ADE20KSegmentation(made("ade20k"), "val", "testval")
    order = np.argsort(data.images)  # gluoncv lists the folder as the disk does
    data.images, data.masks = ([paths[i] for i in order] for paths in (data.images, data.masks))
    _agree(data, "ade20k", split="val")


def test_gluoncv_reads_cityscapes(made, gluon_data):
    data = gluon_data.CitySegmentation(str(made("cityscapes")), "val", "testval")
    order = np.argsort(data.images)
    data.images = [data.images[i] for i in order]
    data.mask_paths = [data.mask_paths[i] for i in order]
    _agree(data, "cityscapes", split="val")


def _agree(data, name, *, split):
    """Compare gluoncv's labels, in which void is -1, with the drawn ones."""
    assert len(data) == IMAGES
    for number in range(IMAGES):
        label = draw_for_segmentation(name, split, number, seed=SEED).label.astype(int)
        found = data[number][1].asnumpy()
        np.testing.assert_array_equal(found, np.where(label == VOID, -1, label))


def test_voc_labels_have_its_palette(made):
    paths = sorted(made("voc").glob("VOCdevkit/VOC2012/SegmentationClass/*.png"))
    assert [path.stem for path in paths] == [f"2007_{n:06d}" for n in range(1, 2 * IMAGES + 1)]
    label = Image.open(paths[0])
    assert label.mode == "P"
    assert label.getpalette()[3 * 15 : 3 * 16] == [192, 128, 128]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("cityscapes", "gtFine/*/*/*_gtFine_labelIds.png"), ("ade20k", "*/annotations/*/*.png")],
)
def test_other_labels_are_grey(made, name, pattern):
    assert {Image.open(path).mode for path in made(name).glob(pattern)} == {"L"}


def test_cityscapes_own_table_knows_the_ids(made):
    table = pytest.importorskip("cityscapesscripts.helpers.labels")
    root = made("cityscapes")
    seen = {
        split: {
            int(i)
            for path in root.glob(f"gtFine/{split}/*/*_labelIds.png")
            for i in np.unique(stored(path))
        }
        for split in ("train", "val", "test")
    }
    names = {table.id2label[i].name for i in seen["train"] | seen["val"]}
    assert {"road", "sky", "building", "sidewalk", "ego vehicle", "static"} <= names
    for i in seen["test"]:
        assert table.id2label[i].ignoreInEval
    image = next(root.glob("leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit.png"))
    assert Image.open(image).size == (256, 128)


def test_pycocotools_reads_every_annotation(made):
    coco = pytest.importorskip("pycocotools.coco")
    mask_tools = pytest.importorskip("pycocotools.mask")
    ids = DATASETS["coco"].stored_ids
    for split in SPLITS["coco"]:
        data = coco.COCO(str(made("coco") / "annotations" / f"instances_{split}.json"))
        assert [row["id"] for row in data.cats.values()] == list(ids[1:])
        kinds = set()
        for number, image_id in enumerate(sorted(data.imgs)):
            label = draw_for_segmentation("coco", split, number, seed=SEED).label
            assert (data.imgs[image_id]["height"], data.imgs[image_id]["width"]) == label.shape
            found = np.zeros(label.shape, int)
            for row in data.imgToAnns[image_id]:
                mask = data.annToMask(row)
                assert not found[mask == 1].any()  # no two overlap
                found += mask * row["category_id"]
                assert row["area"] == mask.sum()
                assert row["bbox"] == mask_tools.toBbox(data.annToRLE(row)).tolist()
                kinds.add((row["iscrowd"], type(row["segmentation"])))
            np.testing.assert_array_equal(found, np.array(ids)[label])
        assert kinds == {(0, list), (1, dict)}


def test_sbd_has_borders_and_shares_images_with_voc(made):
    base = made("voc-sbd")
    sbd = base / "benchmark_RELEASE" / "dataset"
    names = [(sbd / f"{split}.txt").read_text().split() for split in ("train", "val")]
    voc = [
        (base / f"VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt").read_text().split()
        for split in ("train", "val")
    ]
    assert not set(names[0]) & set(names[1])
    assert all(set(names[0] + names[1]) & set(its_names) for its_names in voc)
    assert set(names[0] + names[1]) - set(voc[0] + voc[1])
    for name in names[0] + names[1]:
        image = sbd / "img" / f"{name}.jpg"
        assert (
            image.read_bytes() == (base / f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg").read_bytes()
        )
        struct = scipy.io.loadmat(sbd / "cls" / f"{name}.mat")["GTcls"][0, 0]
        label = struct["Segmentation"]
        assert label.dtype == np.uint8 and set(np.unique(label)) <= {0, 1, 7, 12, 15}
        assert struct["CategoriesPresent"].ravel().tolist() == sorted(set(np.unique(label)) - {0})
        assert struct["Boundaries"].shape == (20, 1)
        for class_id in range(1, 21):
            border = struct["Boundaries"][class_id - 1, 0].toarray().astype(bool)
            assert (label[border] == class_id).all()
            assert border.any() == (label == class_id).any()


def test_context_stores_459_classes(made):
    root = made("pascal-context")
    assert (root / "VOCdevkit/VOC2010/ImageSets/Main/val.txt").read_text().split() == [
        f"2008_{number:06d}" for number in range(IMAGES + 1, 2 * IMAGES + 1)
    ]
    maps = [scipy.io.loadmat(path)["LabelMap"] for path in sorted(root.glob("trainval/*.mat"))]
    assert len(maps) == 2 * IMAGES and {label.dtype for label in maps} == {np.dtype(np.uint16)}
    values = np.unique(np.concatenate([label.ravel() for label in maps]))
    # aeroplane 2, bag 9, dog 113, grass 187, person 284, sky 360, wood 458; two of no class.
    assert set(values) <= {1, 2, 9, 113, 187, 284, 360, 458, 459}
    assert {1, 187, 360, 459} < set(values)


def test_the_devkit_numbers_synsets_in_an_order_of_its_own(made):
    devkit = made("ilsvrc-cls") / "ILSVRC2012_devkit_t12" / "data"
    synsets = scipy.io.loadmat(devkit / "meta.mat", squeeze_me=True)["synsets"]
    leaves = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets[:1000]}
    assert sorted(leaves) == list(range(1, 1001)) and (synsets["num_children"][:1000] == 0).all()
    assert len(synsets) > 1000 and (synsets["num_children"][1000:] > 0).all()
    in_order = sorted(leaves.values())
    assert in_order != [leaves[i] for i in range(1, 1001)]
    assert sorted(str(row["WNID"]) for row in synsets)[:1000] != in_order
    truth = (devkit / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
    ids = [in_order.index(leaves[int(line)]) for line in truth]
    assert ids == [draw_for_classification(1000, "val", n, seed=SEED)[1] for n in range(IMAGES)]
    folders = sorted(path.name for path in (made("ilsvrc-cls") / "train").iterdir())
    assert folders == in_order


def test_classes_of_places_have_nested_folders(made):
    root = made("places")
    lines = (root / "categories_places365.txt").read_text().splitlines()
    names = [line.split()[0] for line in lines]
    assert names == sorted(names) and len(set(names)) == 365
    assert [line.split()[1] for line in lines] == [str(number) for number in range(365)]
    for line in (root / "places365_train_standard.txt").read_text().splitlines():
        path, class_id = line.split()
        assert path.rpartition("/")[0] == names[int(class_id)]
        assert (root / f"data_256{path}").is_file()


# ---- the command --------------------------------------------------------------------------------


def run(*arguments):
    return make_runner().invoke(main, ["data", "make", *map(str, arguments)])


def test_the_command_says_what_it_made(tmp_path):
    root = tmp_path / "of mine" / "voc"
    result = run("voc", "--root", root, "--images", 2, "--seed", 4)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[1:-1] == [
        ["train", "2", "images"],
        ["val", "2", "images"],
        ["test", "2", "images,", "no", "labels"],
    ]
    assert result.stdout.splitlines()[-1] == f"next: ademx data lists voc --root '{root}'"
    make_dataset("voc", tmp_path / "other", images=2, seed=4)
    assert contents(root) == contents(tmp_path / "other")
    assert [path.name for path in root.iterdir()] == ["VOCdevkit"]


def test_an_empty_folder_is_written_into(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("places", "--root", ".", "--images", 1).exit_code == 0
    assert (tmp_path / "places365_val.txt").is_file()
    assert not list(tmp_path.glob(".*"))


def test_a_command_killed_among_its_last_steps_is_completed(tmp_path, monkeypatch):
    make_dataset("coco", tmp_path / "whole", images=1)
    expected = contents(tmp_path / "whole")
    rename, renamed = Path.rename, []

    def killed(path: Path, target: Path) -> Path:
        renamed.append(target.name)
        if len(renamed) > 2:  # one of the dataset's folders is in its place
            raise KeyboardInterrupt
        return rename(path, target)

    root = tmp_path / "killed"
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(Path, "rename", killed)
        make_dataset("coco", root, images=1)
    assert contents(root) != expected
    with pytest.raises(ValueError, match="expected a new or an empty folder"):
        make_dataset("coco", root, images=1)
    assert contents(root) == expected


def test_what_a_killed_command_has_left_is_not_in_the_way(tmp_path):
    """It is removed, and what is drawn then is what is drawn into a new folder."""
    root = tmp_path / "voc"
    command = [sys.executable, "-m", "ademx", "data", "make", "voc", "--root", root]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    process = subprocess.Popen([*command, "--images", "100000"], env=environment)
    try:
        for _ in range(6000):
            if any(root.glob(".making.tmp/**/*.jpg")):
                break
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert any(root.glob(".making.tmp/**/*.jpg"))
    make_dataset("voc", root, images=1)
    make_dataset("voc", tmp_path / "new", images=1)
    assert contents(root) == contents(tmp_path / "new")
    assert sorted(path.name for path in root.iterdir()) == ["VOCdevkit"]


def test_two_commands_do_not_draw_into_one_folder(tmp_path):
    with locked(tmp_path, "--root"), pytest.raises(ValueError, match="is at work in it: wait"):
        make_dataset("voc", tmp_path, images=1)


def test_what_a_folder_holds_is_never_touched(tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOCdevkit" / "mine.txt").write_text("mine")
    result = run("voc", "--root", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path}: holds 'VOCdevkit'" in result.stderr and "choose another" in result.stderr
    assert list(contents(tmp_path)) == ["VOCdevkit/mine.txt"]


@pytest.mark.parametrize("is_new", [True, False])
def test_a_failure_leaves_nothing(tmp_path, monkeypatch, is_new):
    root = tmp_path / "voc"
    if not is_new:
        root.mkdir()
    save_label = drawn_segmentation.save_label

    def fail_at_the_third(path, *arguments, **options):
        if path.stem == "2007_000003":
            assert len(list(root.rglob("*.jpg"))) == 3
            raise OSError(28, "No space left on device", str(path))
        save_label(path, *arguments, **options)

    monkeypatch.setattr(drawn_segmentation, "save_label", fail_at_the_third)
    result = run("voc", "--root", root)
    assert result.exit_code == 1 and "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    assert root.exists() != is_new and not list(tmp_path.rglob("*.*"))


def test_splits_can_be_chosen(tmp_path):
    assert make_dataset("voc", tmp_path / "voc", images={"test": 1, "val": 2}) == {
        "val": 2,
        "test": 1,
    }
    lists = tmp_path / "voc" / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    names = {path.stem: path.read_text().split() for path in lists.iterdir()}
    assert names == {
        "val": ["2007_000001", "2007_000002"],
        "trainval": ["2007_000001", "2007_000002"],
        "test": ["2007_000003"],
    }


def test_coco_ids_go_on_from_split_to_split(tmp_path):
    make_dataset("coco", tmp_path / "coco", images=2)
    paths = [tmp_path / f"coco/annotations/instances_{split}.json" for split in SPLITS["coco"]]
    ids = [[row["id"] for row in json.loads(path.read_text())["images"]] for path in paths]
    assert ids == [[1, 2], [3, 4]]
    assert (tmp_path / "coco/val2017/000000000003.jpg").is_file()


@pytest.mark.parametrize(
    ("name", "images", "seed", "message"),
    [
        ("vok", 1, 0, "unknown dataset 'vok': expected one of ilsvrc-cls, places, voc"),
        ("voc", {"trainval": 1}, 0, "no split 'trainval' of voc can be drawn: expected one of tr"),
        ("voc", {"val": 0}, 0, "0 images of 'val': expected 1 or more"),
        ("voc", 1, -1, "seed -1: expected 0 or above"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, name, images, seed, message):
    with pytest.raises(ValueError, match=message):
        make_dataset(name, tmp_path / "data", images=images, seed=seed)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vok", "--root", "data"], "'vok' is not one of 'ilsvrc-cls'"),
        (["voc"], "Missing option '--root'"),
        (["voc", "--root", "data", "--images", "0"], "0 is not in the range x>=1"),
        (["voc", "--root", "data", "--seed", "-1"], "-1 is not in the range x>=0"),
    ],
)
def test_wrong_usage_is_explained(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["voc", "coco", "voc-sbd", "ilsvrc-cls"])
def test_files_that_cannot_be_written_are_named(tmp_path, name):
    """As on a full disk: no file may become longer than some bytes."""
    code = f"""if True:
        import resource, signal
        from pathlib import Path
        from ademx.data.drawn.make import make_dataset
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        make_dataset({name!r}, Path({str(tmp_path)!r}) / "root", images=2)
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = found.stderr.splitlines()[-1]
    assert last.startswith("OSError: [Errno 27] File too large"), found.stderr
    assert f"{tmp_path}/root/" in last
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_disk_that_names_no_file_gets_the_name_of_the_folder(tmp_path):
    """As of an image that is copied; /dev/full is a disk without room."""
    root = tmp_path / "root"
    with (
        pytest.raises(OSError, match=rf"No space left.*; nothing was made: '{root}'"),
        new_folder(root, "--output"),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"1")
    assert not root.exists()

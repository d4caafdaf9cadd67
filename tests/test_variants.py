"""Datasets as people have them: a tiny tree of each known variant, and what the commands say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from commands import make_runner, run_evaluate
from PIL import Image

from ademx.cli import main
from ademx.data.check.dataset import check_dataset
from ademx.data.drawn.make import make_dataset
from ademx.data.lists.pascal_context import LABEL_IDS
from ademx.data.lists.plans import ListOptions
from ademx.data.lists.write import make_lists
from iters import variants
from iters.datasets import DATASETS
from iters.images import load_label
from iters.lists import find_samples
from iters.samples import Sample

SHAPE = (8, 12)


def save(path: Path, pixels: np.ndarray | None = None, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.zeros((*SHAPE, 3), np.uint8) if pixels is None else pixels)
    if palette:
        image.putpalette(bytes(range(256)) * 3)
    image.save(path)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def lists(*arguments: object):
    return make_runner().invoke(main, ["data", "lists", *map(str, arguments)])


# ---- forms that are not read: every command says what they are, and what to do ------------------


def voc_of_2007(root: Path) -> None:
    save(root / "VOCdevkit/VOC2007/JPEGImages/000032.jpg")
    write(root / "VOCdevkit/VOC2007/ImageSets/Segmentation/val.txt", "000032")


def full_ade20k(root: Path) -> None:
    stem = "ADE20K_2021_17_01/images/ADE/validation/urban/street/ADE_val_00000001"
    save(root / f"{stem}.jpg")
    save(root / f"{stem}_seg.png")
    write(root / f"{stem}.json", "{}")


def full_ade20k_of_2016(root: Path) -> None:
    save(root / "images/validation/s/street/ADE_val_00000001.jpg")
    save(root / "images/validation/s/street/ADE_val_00000001_seg.png")


def full_ade20k_without_folders(root: Path) -> None:
    save(root / "images/validation/ADE_val_00000001.jpg")
    save(root / "images/validation/ADE_val_00000001_seg.png")


def cityscapes_with(kind: str, folder: str = "gtFine"):
    def make(root: Path) -> None:
        save(root / "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png")
        name = f"ulm_000000_000019_{folder}_{kind}.png"
        save(root / folder / "val/ulm" / name, np.zeros(SHAPE, np.uint8))

    return make


def ilsvrc_with(*names: str):
    def make(root: Path) -> None:
        for name in names:
            save(root / "val" / name / f"{name}.JPEG")

    return make


VARIANTS = [
    ("voc", voc_of_2007, "this is VOC 2007: ", "VOCtrainval_11-May-2012.tar"),
    ("ade20k", full_ade20k, "the full ADE20K", "ADEChallengeData2016.zip"),
    ("ade20k", full_ade20k_of_2016, "the full ADE20K", "ADEChallengeData2016.zip"),
    ("ade20k", full_ade20k_without_folders, "the full ADE20K", "ADEChallengeData2016.zip"),
    ("cityscapes", cityscapes_with("labelTrainIds"), "are train ids", "take *_labelIds.png"),
    ("cityscapes", cityscapes_with("instanceIds"), "are instance ids", "take *_labelIds.png"),
    ("cityscapes", cityscapes_with("color"), "are colours", "take *_labelIds.png"),
    ("ilsvrc-cls", ilsvrc_with("1", "10", "2"), "no synsets: 1, 10, 2", "--class-ids FILE"),
    ("ilsvrc-cls", ilsvrc_with("tench", "hen"), "no synsets: hen, tench", "--class-ids FILE"),
]
WEIGHTS = {
    "voc": "voc_rna-a1_cls21_s8",
    "ade20k": "ade20k_rna-a1_cls150_s8",
    "cityscapes": "cityscapes_rna-a1_cls19_s8",
    "ilsvrc-cls": "ilsvrc-cls_rna-a1_cls1000",
}


@pytest.mark.parametrize(("dataset", "make", "what", "cure"), VARIANTS)
def test_every_command_says_what_it_is_and_what_to_do(tmp_path, dataset, make, what, cure):
    root, weights = tmp_path / "data", tmp_path / f"{WEIGHTS[dataset]}_ep-0001.params"
    make(root)
    weights.touch()

    listed = lists(dataset, "--root", root)
    task = DATASETS[dataset].task
    evaluated = run_evaluate(task, weights, root, tmp_path / "out")
    checked = make_runner().invoke(main, ["data", "check", dataset, "--root", str(root)])

    for result, output in (
        *((listed, listed.stderr), (evaluated, evaluated.stderr)),
        (checked, checked.stdout),
    ):
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
        (line,) = [line for line in output.splitlines() if what in line]
        assert cure in line
    assert not list(root.rglob("*.lst"))


def test_coarse_cityscapes_too(tmp_path):
    cityscapes_with("labelTrainIds", "gtCoarse")(tmp_path)
    with pytest.raises(ValueError, match=r"gtCoarse_labelTrainIds.png: these are train ids.*gtCo"):
        find_samples("cityscapes-coarse", tmp_path, "val")


def test_a_variant_beside_what_is_read_is_no_trouble(tmp_path):
    make_dataset("voc", tmp_path, images=1)
    voc_of_2007(tmp_path)
    assert len(find_samples("voc", tmp_path, "val")) == 1
    with pytest.raises(FileNotFoundError, match="no 'vel' split") as told:
        find_samples("voc", tmp_path, "vel")
    assert "2007" not in str(told.value)

    cityscapes = tmp_path / "cityscapes"
    for kind in ("labelIds", "labelTrainIds", "color"):
        cityscapes_with(kind)(cityscapes)
    (sample,) = find_samples("cityscapes", cityscapes, "val")
    assert sample.label.name.endswith("labelIds.png")


def test_another_years_folder_as_the_root_is_told_by_its_numbers(tmp_path, caplog):
    root = tmp_path / "VOC2010"
    names = [f"2010_{number:06d}" for number in range(964)]
    save(root / "JPEGImages/x.jpg")
    save(root / "SegmentationClass/x.png", np.zeros(SHAPE, np.uint8))
    for name in names:
        os.link(root / "JPEGImages/x.jpg", root / f"JPEGImages/{name}.jpg")
        os.link(root / "SegmentationClass/x.png", root / f"SegmentationClass/{name}.png")
    write(root / "ImageSets/Segmentation/val.txt", *names)

    listed = lists("voc", "--root", root)
    assert "964 samples, expected 1449: this is VOC 2010: " in listed.stderr
    found = check_dataset("voc", root, quick=True)
    (problem,) = [one for one in found.problems if one.kind == "count"]
    assert problem.hint.startswith("this is VOC 2010: ")


@pytest.mark.parametrize(
    ("name", "pixels", "told"),
    [
        ("cityscapes", np.array([[0, 18, 255]], np.uint8), "these are train ids"),
        ("cityscapes", np.array([[7, 26001]], np.uint16), "these are instance ids"),
        ("voc", np.zeros((4, 4, 3), np.uint8), "not copies that were saved in RGB"),
        ("cityscapes", np.array([[0, 18, 33]], np.uint8), ""),
        ("voc", np.array([[0, 77]], np.uint8), ""),  # nothing that is known
    ],
)
def test_the_first_label_is_looked_at_before_a_long_run(tmp_path, caplog, name, pixels, told):
    samples = [Sample(0, tmp_path / "a.jpg", tmp_path / "a.png", "a")]
    variants.warn_of_labels(DATASETS[name], samples)  # whoever reads it says that it is missing
    save(tmp_path / "a.png", pixels)
    variants.warn_of_labels(DATASETS[name], samples)
    assert [told in message for message in caplog.messages] == ([True] if told else [])


# ---- ILSVRC's folders by a file that says which is which ----------------------------------------


def test_class_ids_say_which_folder_is_which_class(tmp_path):
    ilsvrc_with("10", "2", "1")(tmp_path)
    write(tmp_path / "ids.txt", "2", "10", "1")
    result = lists("ilsvrc-cls", "--root", tmp_path, "--class-ids", tmp_path / "ids.txt")
    assert result.exit_code == 0, result.stderr
    samples = find_samples("ilsvrc-cls", tmp_path, "val")
    assert {sample.image.parent.name: sample.label for sample in samples} == {
        **{"2": 0, "10": 1, "1": 2},
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [(["1", "2"], "no line for the folder .*val/10"), (["1", "2", "1"], "'1' more than once")],
)
def test_class_ids_that_do_not_fit(tmp_path, names, message):
    ilsvrc_with("10", "2", "1")(tmp_path)
    write(tmp_path / "ids.txt", *names)
    with pytest.raises(ValueError, match=message):
        make_lists("ilsvrc-cls", tmp_path, ListOptions(class_ids=tmp_path / "ids.txt"))
    assert not list(tmp_path.glob("*.lst"))


def test_class_ids_are_ilsvrcs(tmp_path):
    write(tmp_path / "ids.txt", "1")
    result = lists("places", "--root", tmp_path, "--class-ids", tmp_path / "ids.txt")
    assert result.exit_code == 2 and "--class-ids is for ilsvrc-cls" in result.stderr


# ---- VOC with SBD's labels as PNGs --------------------------------------------------------------


def write_voc_aug(root: Path, names: str, *, pairs: bool = False) -> Path:
    """Write a and b of train and c of val; beside their labels, PNGs of SBD's, and trainaug.txt."""
    base = root / "VOCdevkit/VOC2012"
    for split, its_names in (("train", "ab"), ("val", "c")):
        write(base / f"ImageSets/Segmentation/{split}.txt", *its_names)
        for name in its_names:
            save(base / f"SegmentationClass/{name}.png", np.zeros(SHAPE, np.uint8))
    for name in {*names, *"abc"}:
        save(base / f"JPEGImages/{name}.jpg")
        save(base / f"SegmentationClassAug/{name}.png", np.ones(SHAPE, np.uint8))
    lines = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" for n in names]
    file = "SegmentationAug/train_aug.txt" if pairs else "Segmentation/trainaug.txt"
    write(base / "ImageSets" / file, *(lines if pairs else names))
    return base


@pytest.mark.parametrize("pairs", [False, True])
def test_voc_reads_trainaug(tmp_path, pairs):
    base = write_voc_aug(tmp_path, "xab", pairs=pairs)
    samples = find_samples("voc", tmp_path, "trainaug")
    assert [sample.label.relative_to(base).as_posix() for sample in samples] == [
        *("SegmentationClassAug/x.png", "SegmentationClass/a.png", "SegmentationClass/b.png"),
    ]
    (written,) = [row for row in make_lists("voc", tmp_path) if row.split == "trainaug"]
    assert (written.num_samples, written.expected) == (3, 10582)
    counts = check_dataset("voc", tmp_path, quick=True).counts
    assert counts["trainaug"] == (3, 10582)


def test_who_has_no_trainaug_is_not_told(tmp_path):
    make_dataset("voc", tmp_path, images=1)
    found = check_dataset("voc", tmp_path, expect_counts=False)
    assert not [one for one in (*found.problems, *found.remarks) if one.split == "trainaug"]


def test_train_plus_without_sbd(tmp_path):
    """The list has a name of val, which the release leaves out, and lacks one of train."""
    write_voc_aug(tmp_path, "xac")
    result = lists("voc-sbd", "--root", tmp_path)
    assert result.exit_code == 0, result.stderr
    labels = [sample.label for sample in find_samples("voc-sbd", tmp_path, "train+")]
    assert [(path.parent.name, path.stem) for path in labels] == [
        *(("SegmentationClass", "a"), ("SegmentationClass", "b")),
        ("SegmentationClassAug", "x"),
    ]
    (line,) = [line for line in result.stderr.splitlines() if "trainaug.txt: its" in line]
    assert line.endswith("only the former has c; only the latter has b")


def test_train_plus_beside_sbd(tmp_path):
    make_dataset("voc-sbd", tmp_path, images=4)
    base = tmp_path / "VOCdevkit/VOC2012"
    make_lists("voc-sbd", tmp_path)
    names = [sample.image.stem for sample in find_samples("voc-sbd", tmp_path, "train+")]
    aug = base / "ImageSets/Segmentation/trainaug.txt"
    write(aug, *names)
    assert f"the same {len(names)} names as train+" in lists("voc-sbd", "--root", tmp_path).stderr
    write(aug, *names[1:], "odd")
    told = lists("voc-sbd", "--root", tmp_path).stderr
    assert f"only the former has odd; only the latter has {names[0]}" in told


# ---- PASCAL Context as others have it -----------------------------------------------------------


@pytest.fixture
def context(tmp_path) -> Path:
    """Return a drawn PASCAL Context, with its own labels made into `expected`."""
    make_dataset("pascal-context", tmp_path, images=3)
    return tmp_path


def label_maps(root: Path) -> dict[str, np.ndarray]:
    """Return the distribution's labels with the 59 classes' ids alone, as the others have them."""
    scipy_io = pytest.importorskip("scipy.io")
    known = np.array(sorted(LABEL_IDS.values()))
    maps = {p.stem: scipy_io.loadmat(p)["LabelMap"] for p in (root / "trainval").glob("*.mat")}
    return {name: np.where(np.isin(ids, known), ids, 0) for name, ids in maps.items()}


def expected_labels(root: Path) -> dict[str, np.ndarray]:
    """Return what the lists make of the distribution's own labels, and remove both."""
    written = make_lists("pascal-context", root)
    labels = {}
    for row in written:
        for sample in find_samples("pascal-context", root, row.split):
            labels[sample.image.stem] = load_label(sample.label)
            sample.label.unlink()
        row.path.unlink()
    for path in (root / "trainval").glob("*.mat"):
        path.unlink()
    return labels


def found_labels(root: Path) -> dict[str, np.ndarray]:
    samples = [s for split in ("train", "val") for s in find_samples("pascal-context", root, split)]
    return {sample.image.stem: load_label(sample.label) for sample in samples}


def write_detail(root: Path, maps: dict[str, np.ndarray], *, left_out: str) -> Path:
    """Write the Detail API's file: masks by category, whose table has the names."""
    mask_tools = pytest.importorskip("pycocotools.mask")
    base = root / "VOCdevkit/VOC2010"
    content = {"images": [], "annos_segmentation": [], "categories": []}
    content["categories"] = [{"category_id": n, "name": name} for name, n in LABEL_IDS.items()]
    for split in ("train", "val"):
        for name in (base / f"ImageSets/Main/{split}.txt").read_text().split():
            if name == left_out:
                continue
            number, (height, width) = int(name.replace("_", "")), maps[name].shape
            image = {"image_id": number, "file_name": f"{name}.jpg", "phase": split}
            content["images"].append({**image, "height": height, "width": width})
            for label in np.unique(maps[name][maps[name] > 0]):
                runs = mask_tools.encode(np.asfortranarray(maps[name] == label, np.uint8))
                runs["counts"] = runs["counts"].decode()
                part = {"image_id": number, "category_id": int(label), "segmentation": runs}
                content["annos_segmentation"].append(part)
    path = base / "trainval_merged.json"
    path.write_text(json.dumps(content))
    return path


def test_context_in_the_detail_apis_form(context, monkeypatch):
    maps = label_maps(context)
    expected = expected_labels(context)
    left_out = sorted(expected)[0]
    write_detail(context, maps, left_out=left_out)

    # As many images as the real file has are no fewer than there should be.
    whole = variants.Variant("the Detail API's", counts={"train": 2}, is_whole=True)
    monkeypatch.setitem(variants._VARIANTS, "pascal-context", (whole,))
    result = lists("pascal-context", "--root", context)
    assert result.exit_code == 0, result.stderr
    rows = [line.split()[1:] for line in result.stdout.splitlines()]
    assert rows == [["samples", "expected", "agree"], ["2", "2", "yes"], ["3", "5105", "NO"]]
    assert "2 samples, expected 4998: the Detail API's" in result.stderr
    found = found_labels(context)
    del expected[left_out]
    assert found.keys() == expected.keys()
    for name, label in expected.items():
        np.testing.assert_array_equal(found[name], label)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("trainval_merged.json", "as the Detail API has it"),
        ("ImageSets/SegmentationContext/val.txt", "the lists of a converter"),
    ],
)
def test_what_lists_reads_is_told_by_the_others(tmp_path, file, told):
    write(tmp_path / "VOCdevkit/VOC2010" / file, "{}")
    with pytest.raises(FileNotFoundError, match=f"{told}.*by `ademx data lists pascal-context`"):
        find_samples("pascal-context", tmp_path, "val")
    (problem,) = check_dataset("pascal-context", tmp_path).problems
    assert told in problem.detail
    result = lists("pascal-context", "--root", tmp_path)  # which needs the images
    assert "no images of pascal-context" in result.stderr and told not in result.stderr


@pytest.mark.parametrize(
    "change",
    [{"size": [3, 3]}, {"size": None}, {"counts": "~~~"}, {"counts": ""}, {"counts": [1, 2]}],
)
def test_run_lengths_of_another_size_are_one_line(context, change):
    """pycocotools would end the process."""
    maps = label_maps(context)
    expected_labels(context)
    path = write_detail(context, maps, left_out="")
    content = json.loads(path.read_text())
    content["annos_segmentation"][0]["segmentation"].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"trainval_merged.json: annotation .* cannot be drawn"):
        make_lists("pascal-context", context)


@pytest.mark.parametrize("content", ["{", "[]", '{"categories": []}', '{"categories": [{}]}'])
def test_a_damaged_detail_file_is_one_line(context, content):
    expected_labels(context)
    (context / "trainval_merged.json").write_text(content)
    result = lists("pascal-context", "--root", context)
    assert result.exit_code == 1
    assert "trainval_merged.json: not the Detail API's annotation file" in result.stderr


@pytest.mark.parametrize("first", [1, 0])
def test_context_as_the_converters_pngs(context, first):
    """They number the classes by the sorted ids of the 459, which is the alphabetical order."""
    maps = label_maps(context)
    expected = expected_labels(context)
    known = np.array(sorted(LABEL_IDS.values()))
    base = context / "VOCdevkit/VOC2010"
    for name, ids in maps.items():
        numbers = np.searchsorted(known, ids) + first
        numbers[ids == 0] = 0 if first else 255
        save(base / f"SegmentationClassContext/{name}.png", numbers.astype(np.uint8))

    result = lists("pascal-context", "--root", context)
    assert result.exit_code == 0, result.stderr
    assert f"classes in alphabetical order, from {first}, the background" in result.stderr
    found = found_labels(context)
    assert found.keys() == expected.keys()
    for name, label in expected.items():
        np.testing.assert_array_equal(found[name], label)
    assert len(np.unique(np.concatenate([label.ravel() for label in found.values()]))) > 3
    check = check_dataset("pascal-context", context, expect_counts=False)
    assert check.ok, check.problems


def test_59_classes_with_a_palette_are_refused(context):
    expected = expected_labels(context)
    for name, label in expected.items():
        numbers = np.where(label == 0, 255, label.astype(int) - 1).astype(np.uint8)
        path = context / f"VOCdevkit/VOC2010/SegmentationClassContext/{name}.png"
        save(path, numbers, palette=True)
    result = lists("pascal-context", "--root", context)
    assert result.exit_code == 1
    assert "labels of 59 classes from 0 with the background as 255" in result.stderr

    # A list that names them all the same is found by check.
    names = sorted(expected)
    base = "VOCdevkit/VOC2010"
    rows = [f"{base}/JPEGImages/{n}.jpg\t{base}/SegmentationClassContext/{n}.png" for n in names]
    write(context / "pascal-context_val.lst", *rows)
    found = check_dataset("pascal-context", context, splits=["val"], expect_counts=False)
    (problem,) = found.problems
    assert (problem.kind, problem.split) == ("value", "val")
    assert problem.hint.startswith("these are labels of 59 classes from 0")


def test_the_detail_apis_counts_are_counted_as_such(tmp_path):
    rows = [f"JPEGImages/{number}.jpg\tlabels/{number}.png" for number in range(5104)]
    write(tmp_path / "pascal-context_val.lst", *rows)
    found = check_dataset("pascal-context", tmp_path, splits=["val"], quick=True)
    assert "count" not in {problem.kind for problem in found.problems}
    (remark,) = [one for one in found.remarks if one.kind == "count"]
    assert remark.detail == "5,104 images: expected 5,105"
    assert "the Detail API's trainval_merged.json" in remark.hint


def test_voc_2012_in_place_of_2010(tmp_path):
    save(tmp_path / "VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg")
    result = lists("pascal-context", "--root", tmp_path)
    assert result.exit_code == 1 and "VOCtrainval_03-May-2010.tar" in result.stderr

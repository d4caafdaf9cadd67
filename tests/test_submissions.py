"""What is packed for the benchmarks' servers, and what their rules forbid."""

import argparse
import io
import json
import logging
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import run_evaluate
from narrow import ILSVRC, write_weights
from PIL import Image

from ademx.data.drawn.make import make_dataset
from ademx.testing.submissions import (
    check_archive,
    check_ilsvrc,
    pack_labels,
    write_guesses,
)
from iters.datasets import DATASETS, encode_label
from iters.lists import find_samples
from iters.samples import Sample

SIZE = (24, 32)
FOLDER = "results/VOC2012/Segmentation/comp6_test_cls/"
ARCHIVES = {"voc": "results.tar", "cityscapes": "results.zip", "ade20k": "results.zip"}
STEMS = {
    "voc": ["2008_000006", "2010_000001", "2009_000042"],
    "cityscapes": [
        "munich_000001_000019_leftImg8bit",
        "berlin_000123_000019_leftImg8bit",
        "berlin_000124_000019_leftImg8bit",
    ],
    "ade20k": ["ADE_test_00000001", "ADE_test_00000003", "ADE_test_00000002"],
}


def write_run(name: str, folder: Path, stems=None, size=SIZE) -> tuple[list[Sample], dict]:
    """Write images and, as a run does, their label images.

    Returns:
        The samples, and the stored ids of each image by its name.
    """
    rng = np.random.default_rng(0)
    dataset = DATASETS[name]
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    samples, stored = [], {}
    for index, stem in enumerate(stems or STEMS[name]):
        image = folder / "images" / f"{stem}.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(image)
        samples.append(Sample(index, image, None, stem))
        stored[stem] = encode_label(dataset, rng.integers(0, dataset.num_classes, size))
        label = Image.fromarray(stored[stem])
        label.putpalette([value for colour in dataset.palette for value in colour])
        label.save(folder / "labels" / f"{stem}.png")
    return samples, stored


def read_files(path: Path) -> dict[str, bytes]:
    """Return an archive's files by their names, in its order."""
    if path.suffix == ".tar":
        with tarfile.open(path, "r:") as tar:
            return {member.name: tar.extractfile(member).read() for member in tar}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def write_files(path: Path, files: list[tuple[str, bytes]]) -> None:
    if path.suffix == ".tar":
        with tarfile.open(path, "w") as tar:
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files:
            archive.writestr(name, content)


def picture(pixels, *, mode=None, kind="PNG", **options) -> bytes:
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    if mode == "P":
        image.putpalette([value for value in range(256) for _ in range(3)])
    elif mode:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# ---- what is packed ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHIVES)
def test_each_image_has_its_stored_ids_in_the_archive(name, tmp_path):
    samples, stored = write_run(name, tmp_path)

    submission = pack_labels(DATASETS[name], samples, tmp_path)

    assert submission.path == tmp_path / "submission" / ARCHIVES[name]
    folder = FOLDER if name == "voc" else ""
    files = read_files(submission.path)
    assert list(files) == sorted(f"{folder}{stem}.png" for stem in stored)
    for stem, ids in stored.items():
        found = Image.open(io.BytesIO(files[f"{folder}{stem}.png"]))
        assert (found.format, found.mode) == ("PNG", "P" if name == "voc" else "L")
        np.testing.assert_array_equal(np.array(found), ids)
        if name == "voc":
            assert found.getpalette()[45:48] == [192, 128, 128]  # VOC's colour for a person
    assert "3 images" in submission.content
    assert sorted(path.name for path in (tmp_path / "submission").iterdir()) == [ARCHIVES[name]]
    check_archive(submission.path, samples, name)


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_same_labels_make_the_same_bytes(name, tmp_path):
    found = []
    for folder in ("one", "two"):
        samples, _ = write_run(name, tmp_path / folder)
        for number, path in enumerate((tmp_path / folder).rglob("*.png")):
            os.utime(path, (1e9 + 1e7 * number, len(found) * 1e9))
        order = samples[::-1] if found else samples
        found.append(pack_labels(DATASETS[name], order, tmp_path / folder).path.read_bytes())
    assert found[0] == found[1]


def test_cityscapes_own_tool_finds_and_scores_what_is_packed(tmp_path):
    tool = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="cityscapesScripts, the referee, is not installed",
    )
    samples, stored = write_run("cityscapes", tmp_path)
    submission = pack_labels(DATASETS["cityscapes"], samples, tmp_path)
    with zipfile.ZipFile(submission.path) as archive:
        archive.extractall(tmp_path / "received")
    rng = np.random.default_rng(5)
    truths, truth_files = [], []
    for stem, ids in stored.items():
        truths.append(np.where(rng.random(SIZE) < 0.5, ids, rng.integers(0, 34, SIZE)))
        path = tmp_path / stem.replace("leftImg8bit", "gtFine_labelIds.png")
        Image.fromarray(truths[-1].astype(np.uint8)).save(path)
        truth_files.append(str(path))
    settings = argparse.Namespace(**vars(tool.args))
    settings.predictionPath, settings.predictionWalk = str(tmp_path / "received"), None
    settings.evalInstLevelScore, settings.JSONOutput, settings.quiet = False, False, True

    received = [tool.getPrediction(settings, path) for path in truth_files]
    scores = tool.evaluateImgLists(received, truth_files, settings)["classScores"]

    assert [Path(path).stem for path in received] == list(stored)
    dataset, truth, found = DATASETS["cityscapes"], np.stack(truths), np.stack([*stored.values()])
    counted = np.isin(truth, dataset.stored_ids)
    for name, number in zip(dataset.class_names, dataset.stored_ids):
        both = (truth == number) & (found == number)
        either = counted & ((truth == number) | (found == number))
        assert 0 < scores[name] == pytest.approx(both.sum() / either.sum())


# ---- what is not packed ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coco", "coco20", "pascal-context", "pascal-context-59"])
def test_datasets_without_a_server_keep_their_labels(name, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    samples, _ = write_run(name, tmp_path, stems=["2008_000006"])
    assert pack_labels(DATASETS[name], samples, tmp_path) is None
    assert f"{name} has no server" in caplog.text
    assert not (tmp_path / "submission").exists()


@pytest.mark.parametrize(
    ("name", "stem", "expected"),
    [
        ("voc", "holiday", "2008_000006"),
        ("cityscapes", "frame_19", "berlin_000000_000019_leftImg8bit"),
        ("ade20k", "ADE_val_00000001", "ADE_test_00000001"),
    ],
)
def test_images_of_another_kind_are_not_packed(name, stem, expected, tmp_path, caplog):
    samples, _ = write_run(name, tmp_path, stems=[*STEMS[name], stem])
    assert pack_labels(DATASETS[name], samples, tmp_path) is None
    assert f"such as {expected}; found {stem}" in caplog.text
    assert not (tmp_path / "submission").exists()


def test_an_image_without_labels_is_named(tmp_path):
    samples, _ = write_run("voc", tmp_path)
    (tmp_path / "labels" / f"{STEMS['voc'][1]}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images .*2010_000001\.png; make them by"):
        pack_labels(DATASETS["voc"], samples, tmp_path)
    assert not (tmp_path / "submission").exists()


def test_a_label_that_breaks_a_rule_leaves_the_earlier_file(tmp_path):
    samples, stored = write_run("voc", tmp_path)
    path = pack_labels(DATASETS["voc"], samples, tmp_path).path
    before = path.read_bytes()
    stem = STEMS["voc"][2]
    ids = stored[stem].copy()
    ids[3, 4] = 255
    (tmp_path / "labels" / f"{stem}.png").write_bytes(picture(ids, mode="P"))
    with pytest.raises(ValueError, match=rf"results\.tar: the server .*{stem}\.png: values 255, "):
        pack_labels(DATASETS["voc"], samples, tmp_path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_part_of_the_test_set_is_not_passed_off_as_the_whole(tmp_path):
    for name, expected in (("voc", 1456), ("cityscapes", 1525)):
        samples, _ = write_run(name, tmp_path / name)
        submission = pack_labels(DATASETS[name], samples, tmp_path / name)
        assert submission.warnings[0] == f"found 3 images, but the test set has {expected}"
    assert submission.warnings[1].startswith(
        "3 of the images, such as munich_000001_000019_leftImg8bit.png, have not the 2048×1024"
    )


def test_a_label_is_as_large_as_its_image_was_when_it_was_tested(tmp_path):
    """A quarter of a turn by the EXIF data swaps the sides under `--exif turn`, not otherwise."""
    samples, _ = write_run("voc", tmp_path, size=(32, 24))
    lying = Image.Exif()
    lying[0x0112] = 6
    for sample in samples:
        Image.new("RGB", (32, 24)).save(sample.image, exif=lying)
    submission = pack_labels(DATASETS["voc"], samples, tmp_path, rule="turn")
    assert len(read_files(submission.path)) == 3
    for rule in ("auto", "ignore"):
        with pytest.raises(ValueError, match="24×32 pixels, expected 32×24 as its image"):
            pack_labels(DATASETS["voc"], samples, tmp_path, rule=rule)


# ---- the rules ---------------------------------------------------------------------------------

GREY = np.ones(SIZE)  # a value that every benchmark has
ALWAYS = {
    "an image is missing": (lambda files: files[1:], "{stem}: no file, expected one for each"),
    "a file too many": (
        lambda files: [*files, ("notes.txt", b"mine")],
        "notes.txt: no image of the test set, expected names like",
    ),
    "colours": (
        lambda files: [(files[0][0], picture(np.zeros((*SIZE, 3)))), *files[1:]],
        "{member}: expected a",
    ),
    "sixteen bits": (
        lambda files: [(files[0][0], _sixteen_bits()), *files[1:]],
        "{member}: expected a",
    ),
    "two bits": (
        lambda files: [(files[0][0], picture(GREY, mode="P", bits=2)), *files[1:]],
        "{member}: expected a",
    ),
    "no PNG": (
        lambda files: [(files[0][0], picture(GREY, kind="JPEG")), *files[1:]],
        "{member}: expected a",
    ),
    "cut short": (
        lambda files: [(files[0][0], files[0][1][:-60]), *files[1:]],
        "{member}: cannot be used as an image",
    ),
    "another size": (
        lambda files: [(files[0][0], _like(files[0][1], GREY[:, :-1])), *files[1:]],
        "{member}: 31×24 pixels, expected 32×24 as its image",
    ),
    "values": (
        lambda files: [(files[0][0], _like(files[0][1], GREY * 200)), *files[1:]],
        "{member}: values 200, expected",
    ),
    "a file twice": (
        lambda files: [*files, files[0]],
        "{member}: a second file for its image, expected one",
    ),
}


def _sixteen_bits() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ones(SIZE, np.uint16)).save(file, "PNG")
    return file.getvalue()


def _like(encoded: bytes, pixels) -> bytes:
    return picture(pixels, mode="P" if Image.open(io.BytesIO(encoded)).mode == "P" else None)


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile's, where a file is there twice
@pytest.mark.parametrize("rule", ALWAYS)
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_file_that_breaks_a_rule_is_refused(name, rule, tmp_path):
    samples, _ = write_run(name, tmp_path)
    packed = pack_labels(DATASETS[name], samples, tmp_path).path
    files = list(read_files(packed).items())
    change, message = ALWAYS[rule]
    path = tmp_path / f"changed{packed.suffix}"
    write_files(path, change(files))
    member = files[0][0]
    stem = re.sub("_leftImg8bit$", "", Path(member).stem)
    expected = re.escape(message.format(member=member, stem=stem))
    with pytest.raises(ValueError, match=f"changed.*the server would refuse it: {expected}"):
        check_archive(path, samples, name)


def _one_file(name: str, folder: Path, member: str, content: bytes) -> tuple[Path, list[Sample]]:
    """Write an archive of one file, for the dataset's first image."""
    samples, _ = write_run(name, folder, stems=STEMS[name][:1])
    path = folder / ARCHIVES[name]
    write_files(path, [(member, content)])
    return path, samples


@pytest.mark.parametrize(
    ("name", "member", "content", "message"),
    [
        ("voc", f"{FOLDER}2008_000006.png", picture(GREY), "expected an indexed PNG of 8 bits"),
        ("voc", f"{FOLDER}2008_000006.png", picture(GREY * 21, mode="P"), "values 21, expected cl"),
        ("voc", "2008_000006.png", picture(GREY, mode="P"), "no image of the test set"),
        ("voc", FOLDER.replace("6", "5") + "2008_000006.png", b"", "no image of the test set"),
        ("cityscapes", "munich_000001_000019.png", picture(GREY, mode="P"), "expected a grey PNG"),
        (
            "cityscapes",
            "munich_000001_000019.png",
            picture(GREY * 34),
            "expected label ids 0 to 33",
        ),
        ("cityscapes", "munich_000002_000019.png", picture(GREY), "no image of the test set"),
        ("cityscapes", "munich.png", picture(GREY), "expected names like berlin_000000_000019_le"),
        (
            "ade20k",
            "ADE_test_00000001.png",
            picture(GREY * 0),
            "values 0, expected classes 1 to 15",
        ),
        ("ade20k", "ADE_test_00000001.png", picture(GREY * 151), "values 151, expected classes"),
        ("ade20k", "ADE_test_00000001.jpg", picture(GREY), "no image of the test set"),
    ],
)
def test_each_server_has_rules_of_its_own(name, member, content, message, tmp_path):
    path, samples = _one_file(name, tmp_path, member, content)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_archive(path, samples, name)


@pytest.mark.parametrize(
    ("name", "member", "content"),
    [
        ("voc", f"{FOLDER}2008_000006.png", picture(GREY * 20, mode="P")),
        ("cityscapes", "results/munich/munich_000001_000019_mine.png", picture(GREY * 33)),
        ("cityscapes", "munich_000001_000019.png", picture(GREY * 0)),
        ("ade20k", "ADE_test_00000001.png", picture(GREY * 150)),
    ],
)
def test_what_the_rules_allow_passes(name, member, content, tmp_path):
    path, samples = _one_file(name, tmp_path, member, content)
    check_archive(path, samples, name)


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("damage", ["another kind", "cut short", "empty", "compressed"])
def test_what_is_no_archive_is_refused(name, damage, tmp_path):
    samples, _ = write_run(name, tmp_path)
    packed = pack_labels(DATASETS[name], samples, tmp_path).path
    whole = packed.read_bytes()
    path = tmp_path / packed.name
    if damage == "compressed":
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tmp_path / "labels", "labels")
    else:
        contents = {
            "another kind": b"<html>404</html>",
            "cut short": whole[: len(whole) // 2],
            "empty": b"",
        }
        path.write_bytes(contents[damage])
    with pytest.raises(ValueError, match=r"cannot be read as a (tar|zip) archive|: no file, exp"):
        check_archive(path, samples, name)


def test_ten_faults_are_shown_and_the_rest_counted(tmp_path):
    stems = [f"2008_{number:06d}" for number in range(14)]
    samples, _ = write_run("voc", tmp_path, stems=stems, size=(4, 4))
    path = tmp_path / "results.tar"
    write_files(path, [])
    with pytest.raises(ValueError, match=r"2008_000009: no file, .*; and 4 more$") as caught:
        check_archive(path, samples, "voc")
    assert str(caught.value).count("no file") == 10


# ---- ILSVRC ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3 4 5\n", "1 lines, expected 2, one for each image"),
        ("1 2 3 4 5\n6 7 8 9\n", "line 2: '6 7 8 9', expected 5 different whole numbers from 1 to"),
        ("1 2 3 4 5\n6 7 8 9 10 11\n", "line 2: '6 7 8 9 10 11'"),
        ("1 2 3 4 5\n6 7 8 9 6\n", "line 2: '6 7 8 9 6'"),
        ("0 2 3 4 5\n6 7 8 9 10\n", "line 1: '0 2 3 4 5'"),
        ("1 2 3 4 1001\n6 7 8 9 10\n", "line 1: '1 2 3 4 1001'"),
        ("1 2 3 4 5.0\n6 7 8 9 10\n", "line 1: '1 2 3 4 5.0'"),
        ("1 2 3 4 -5\n6 7 8 9 10\n", "line 1: '1 2 3 4 -5'"),
        ("1 2 3 4 5\n\n6 7 8 9 10\n", "3 lines, expected 2"),
        ("é 2 3 4 5\n6 7 8 9 10\n", "line 1: "),
    ],
)
def test_guesses_that_break_a_rule_are_refused(text, message, tmp_path):
    path = tmp_path / "submission.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"submission.txt: the server .*{re.escape(message)}"):
        check_ilsvrc(path, 2)


def test_guesses_that_keep_the_rules_pass(tmp_path):
    path = tmp_path / "submission.txt"
    path.write_text("1 2 3 4 1000\n6 7 8 9 10\n")
    check_ilsvrc(path, 2)


def _test_samples(names) -> list[Sample]:
    return [Sample(index, Path(f"{name}.JPEG"), None, name) for index, name in enumerate(names)]


def test_what_guesses_cannot_show_is_said(tmp_path):
    guesses = np.array([[1, 2, 3, 4, 5], [1000, 999, 998, 7, 6]])
    names = ["ILSVRC2012_test_00000002", "ILSVRC2012_test_00000001"]
    dataset = DATASETS["ilsvrc-cls"]
    samples = _test_samples(names)
    submission = write_guesses(dataset, samples, tmp_path, guesses=guesses, are_numbered=False)
    assert submission.path.read_text() == "1 2 3 4 5\n1000 999 998 7 6\n"
    counts, numbers, order = submission.warnings
    assert counts == "found 2 images, but the test set has 100000"
    assert "give them by --class-ids" in numbers
    assert "expected that of the images' names" in order
    samples = _test_samples(sorted(names))
    submission = write_guesses(dataset, samples, tmp_path, guesses=guesses, are_numbered=True)
    assert submission.warnings == (counts,)


def test_guesses_for_other_datasets_are_not_checked(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    guesses = np.array([[7, 7, 7, 7, 2000]])
    samples = _test_samples(["Places365_test_00000001"])
    arguments = {"guesses": guesses, "are_numbered": False}
    assert write_guesses(DATASETS["places"], samples, tmp_path, **arguments) is None
    assert (tmp_path / "submission.txt").read_text() == "7 7 7 7 2000\n"
    assert "no server is known for places" in caplog.text
    with pytest.raises(ValueError, match="line 1: '7 7 7 7 2000', expected 5 different"):
        write_guesses(DATASETS["ilsvrc-cls"], samples, tmp_path, **arguments)
    assert (tmp_path / "submission.txt").read_text() == "7 7 7 7 2000\n"


# ---- the commands ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "voc"
    make_dataset("voc", root, images={"train": 2, "val": 2, "test": 3})
    return root


def test_a_run_on_the_test_split_names_the_file_and_its_server(weights, data, tmp_path):
    result = run_evaluate("segmentation", weights, data, tmp_path, "--split", "test")
    assert result.exit_code == 0, result.stderr
    path = tmp_path / "submission" / "results.tar"
    rows = [(line[:12].strip(), line[12:]) for line in result.stdout.splitlines()[1:]]
    assert [name for name, _ in rows] == ["submission", "send it to", "it holds", "but"]
    assert rows[0][1] == str(path)
    assert "comp6" in rows[1][1] and "http://host.robots.ox.ac.uk:8080/" in rows[1][1]
    assert "indexed PNG of 8 bits a pixel" in rows[2][1] and "class ids 0 to 20" in rows[2][1]
    assert "1456" in rows[3][1]
    files = read_files(path)
    listed = (data / "VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt").read_text().split()
    assert list(files) == [f"{FOLDER}{name}.png" for name in listed]
    for name in listed:
        found = np.array(Image.open(io.BytesIO(files[f"{FOLDER}{name}.png"])))
        label = np.array(Image.open(tmp_path / "labels" / f"{name}.png"))
        np.testing.assert_array_equal(found, label)
    check_archive(path, find_samples("voc", data, "test"), "voc")


def test_a_run_that_turns_its_images_is_packed(weights, data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    lying = Image.Exif()
    lying[0x0112] = 6
    for sample in find_samples("voc", root, "test"):
        with Image.open(sample.image) as image:
            image.convert("RGB").resize((40, 24)).save(sample.image, exif=lying)
    options = ("--split", "test", "--exif", "turn")
    result = run_evaluate("segmentation", weights, root, tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    for content in read_files(tmp_path / "run" / "submission" / "results.tar").values():
        assert Image.open(io.BytesIO(content)).size == (24, 40)


def test_a_finished_run_resumed_packs_the_same_bytes(weights, data, tmp_path):
    assert run_evaluate("segmentation", weights, data, tmp_path, "--split", "test").exit_code == 0
    path = tmp_path / "submission" / "results.tar"
    before = path.read_bytes()
    shutil.rmtree(path.parent)
    result = run_evaluate("segmentation", weights, data, tmp_path, "--split", "test", "--resume")
    assert result.exit_code == 0, result.stderr
    assert path.read_bytes() == before
    assert json.loads((tmp_path / "scores.json").read_text())["images_per_second"] == 0
    result = run_evaluate("segmentation", weights, data, tmp_path, "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert not path.exists()  # it was of the test split


def test_an_incomplete_run_is_not_packed(weights, data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    name = find_samples("voc", root, "test")[1].name
    path = root / "VOCdevkit/VOC2012/JPEGImages" / f"{name}.jpg"
    image = path.read_bytes()
    path.write_bytes(image[:100])
    output = tmp_path / "out"
    result = run_evaluate("segmentation", weights, root, output, "--split", "test")
    assert result.exit_code == 1
    assert f"1 of 3 images have no result: {path}; go on by --resume" in result.stderr
    assert "submission" not in result.stdout
    assert not (output / "submission").exists()
    path.write_bytes(image)
    result = run_evaluate("segmentation", weights, root, output, "--split", "test", "--resume")
    assert result.exit_code == 0, result.stderr
    assert len(read_files(output / "submission" / "results.tar")) == 3


def test_splits_with_labels_are_not_packed(weights, data, tmp_path):
    result = run_evaluate("segmentation", weights, data, tmp_path, "--split", "val")
    assert result.exit_code == 0
    assert "submission" not in result.stdout
    assert not (tmp_path / "submission").exists()


def test_a_test_split_needs_its_label_images(weights, data, tmp_path):
    options = ("--split", "test", "--no-save-results")
    result = run_evaluate("segmentation", weights, data, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert "--no-save-results with --split test would keep nothing" in result.stderr
    assert not (tmp_path / "out").exists()
    options = (*options, "--save-predictions")
    assert run_evaluate("segmentation", weights, data, tmp_path / "out", *options).exit_code == 0
    assert not (tmp_path / "out" / "submission").exists()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    pytest.importorskip("mxnet")
    return write_weights(tmp_path_factory.mktemp("weights"), ILSVRC)


def _classification_list(data: Path, folder: Path, split="test") -> Path:
    """Write a list of the drawn VOC images as if they were ILSVRC's."""
    lines = []
    for index, sample in enumerate(find_samples("voc", data, split)):
        path = folder / f"ILSVRC2012_test_{index + 1:08d}.jpg"
        shutil.copy(sample.image, path)
        lines.append(f"{index}\t0\t{path}\n")
    (folder / "test.lst").write_text("".join(lines))
    return folder / "test.lst"


def test_a_classifier_names_its_guesses_and_their_server(classifier, data, tmp_path):
    list_file = _classification_list(data, tmp_path)
    options = ("--split", "test", "--list-file", list_file)
    result = run_evaluate("classification", classifier, data, tmp_path / "out", *options)
    assert result.exit_code == 0, result.stderr
    assert f"submission  {tmp_path / 'out' / 'submission.txt'}\n" in result.stdout
    assert "send it to  ILSVRC 2012 (classification), https://image-net.org" in result.stdout
    assert "it holds    3 lines of 5 numbers, 1 to 1000\n" in result.stdout
    check_ilsvrc(tmp_path / "out" / "submission.txt", 3)


def test_guesses_are_not_made_up_for_broken_images(classifier, data, tmp_path):
    list_file = _classification_list(data, tmp_path)
    broken = tmp_path / "ILSVRC2012_test_00000002.jpg"
    broken.write_text("<html>404</html>")
    options = ("--split", "test", "--list-file", list_file)
    result = run_evaluate("classification", classifier, data, tmp_path / "out", *options)
    assert result.exit_code == 1
    assert f"1 of 3 images have no result: {broken}" in result.stderr
    assert not (tmp_path / "out" / "submission.txt").exists()


def test_class_numbers_that_repeat_are_refused_at_once(classifier, data, tmp_path):
    list_file = _classification_list(data, tmp_path)
    (tmp_path / "ids.txt").write_text("\n".join(map(str, [1, *range(1, 1000)])))
    options = ("--split", "test", "--list-file", list_file, "--class-ids", tmp_path / "ids.txt")
    result = run_evaluate("classification", classifier, data, tmp_path / "out", *options)
    assert result.exit_code == 1
    assert "ids.txt: expected different numbers, found one twice" in result.stderr
    assert not (tmp_path / "out").exists()

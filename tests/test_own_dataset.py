"""Datasets that a YAML file describes: the file, its errors, and commands that take it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from commands import make_runner
from PIL import Image
from tiny_training import make_data

from ademx.cli import main
from iters import find_dataset
from iters.datasets import VOID, decode_label, encode_label
from iters.find_dataset import get_dataset, read_dataset
from iters.lists import find_samples
from iters.palettes import VOC as VOC_COLOURS

README = Path(__file__).parents[1] / "README.md"
NETWORK = "rna-224-0-1-1-1-1-1-1"


def write(folder: Path, text: str, *, lists: tuple[str, ...] = ("train.lst",)) -> Path:
    """Write a YAML file and empty lists beside it."""
    for name in lists:
        (folder / name).touch()
    path = folder / "pets.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def pets(**changes: str) -> str:
    """Return a file's text, with lines changed, or left out where they are changed to ""."""
    lines = {"name": "pets", "classes": "[background, cat, dog]", "lists": "{train: train.lst}"}
    return "".join(f"{key}: {value}\n" for key, value in {**lines, **changes}.items() if value)


def test_the_shortest_file(tmp_path):
    row = get_dataset(str(write(tmp_path, pets())))
    assert (row.name, row.task, row.num_classes) == ("pets", "segmentation", 3)
    assert row.class_names == ("background", "cat", "dog")
    assert row.lists == {"train": tmp_path / "train.lst"}
    assert (row.stored_ids, row.void_id, row.palette) == ((0, 1, 2), 255, VOC_COLOURS)


def test_stored_ids_colours_and_void(tmp_path):
    text = pets(
        stored_ids="[0, 255, 7]", void="128", palette="[[0, 0, 0], [192, 64, 0], [0, 128, 192]]"
    )
    row = read_dataset(write(tmp_path, text))
    stored = np.array([[0, 255, 7, 128, 1]], np.uint8)
    classes = np.array([[0, 1, 2, VOID, VOID]], np.uint8)
    np.testing.assert_array_equal(decode_label(row, stored), classes)
    np.testing.assert_array_equal(decode_label(row, np.array([300, -1])), [VOID, VOID])
    np.testing.assert_array_equal(encode_label(row, classes), [[0, 255, 7, 128, 128]])
    assert [row.palette[stored] for stored in (0, 255, 7)] == [
        (0, 0, 0),
        (192, 64, 0),
        (0, 128, 192),
    ]
    assert row.palette[128] == VOC_COLOURS[128]


def test_classification_has_no_label_files(tmp_path):
    row = read_dataset(write(tmp_path, pets(task="classification")))
    assert (row.task, row.palette, row.stored_ids) == ("classification", None, None)
    with pytest.raises(ValueError, match=r"pets.yaml: void: expected only where the task is segm"):
        read_dataset(write(tmp_path, pets(task="classification", void="0")))


def test_lists_lie_beside_the_file_and_name_paths_below_the_root(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    text = pets(lists="{train: train.lst, test: lists/test.lst}")
    (tmp_path / "lists").mkdir()
    row = read_dataset(write(tmp_path, text, lists=("train.lst", "lists/test.lst")))
    (tmp_path / "lists/test.lst").write_text("a.jpg\ta.png\n")
    (root / "val.lst").write_text("b.jpg\tb.png\n")
    (sample,) = find_samples(row, root, "test")  # whose truth is known, to its owner
    assert (sample.image, sample.label) == (root / "a.jpg", root / "a.png")
    with pytest.raises(
        FileNotFoundError, match=r"pets has no split 'val': .* lists of train, test"
    ):
        find_samples(row, root, "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: pets\n\tclasses: [a]\n", r"not YAML: line 2: found character '\\t'"),
        ("name: [pets\n", "not YAML: line 2: "),
        ("name: \x00", "not YAML: unacceptable character"),
        ("", "whole file: found None: expected a mapping with the keys name, classes, lists"),
        ("[a, b]", r"whole file: found \['a', 'b'\]: expected a mapping"),
        ("!!bool foo", "not YAML: a value that is not of its tag's type"),
        ('!!int ""', "not YAML: a value that is not of its tag's type"),
        ("!!float x", "not YAML: a value that is not of its tag's type"),
        ("!!timestamp x", "not YAML: a value that is not of its tag's type"),
        ("!!binary é", "not YAML: "),
        ("[" * 5000, "not YAML: brackets or braces within each other, too many"),
        ("{a: " * 5000, "not YAML: brackets or braces within each other, too many"),
        (
            pets(classes=r'[a, "b\e[2J"]'),
            r"classes\[1\]: found 'b\\x1b\[2J': expected text with",
        ),
        (pets(classes=r'[a, "b\uD800"]'), r"classes\[1\]: found 'b\\ud800': expected text with"),
        (pets(classes=r'[a, "b\nc"]'), r"classes\[1\]: found 'b\\nc': expected text with"),
        (pets(lists=r'{"va\al": a.lst}'), r"lists: found 'va\\x07l': expected text with"),
        (pets(void_id="0"), "unknown key 'void_id': expected some of name, classes, lists, task,"),
        (pets(classes=""), "classes: missing: expected name, classes, lists at least"),
        (pets(name="My Pets"), "name: found 'My Pets': expected lower-case letters, digits and"),
        (pets(name="no"), "name: found False: expected text: .* put quotes around"),
        (pets(name="voc"), "name: found 'voc': expected another than those of ilsvrc-cls, "),
        (pets(task="detection"), "task: found 'detection': expected segmentation or classif"),
        (pets(classes="3"), "classes: found 3: expected a list of names"),
        (pets(classes="[cat]"), r"classes: found \['cat'\]: expected two names or more"),
        (pets(classes="[yes, no]"), r"classes\[0\]: found True: expected text: YAML reads some"),
        (pets(classes="[a, 7]"), r"classes\[1\]: found 7: expected text: .* quotes .* \"7\""),
        (pets(classes="[a, ' ']"), r"classes\[1\]: found ' ': expected text"),
        (pets(classes="[a, b, a]"), r"classes\[2\]: found 'a': expected a name that no other"),
        (
            pets(classes=str([f"c{n}" for n in range(256)])),
            "classes: found 256: expected up to 255",
        ),
        (pets(stored_ids="[0, 1]"), "stored_ids: found 2 items: expected 3"),
        (pets(stored_ids="2"), "stored_ids: found 2: expected a list of 3"),
        (
            pets(stored_ids="[0, 1, 256]"),
            r"stored_ids\[2\]: found 256: expected a whole number from",
        ),
        (pets(stored_ids="[0, true, 2]"), r"stored_ids\[1\]: found True: expected a whole number"),
        (pets(stored_ids="[4, 1, 4]"), r"stored_ids: found \[4, 1, 4\]: expected a number of its"),
        (pets(void="1"), "void: found 1: expected a number that is not the stored id of a class"),
        (pets(stored_ids="[0, 1, 255]"), "void: found 255: expected a number that is not"),
        (pets(void="none"), "void: found 'none': expected a whole number from 0 to 255"),
        (pets(palette="[[0, 0, 0], [1, 1, 1]]"), "palette: found 2 items: expected 3"),
        (
            pets(palette="[[0, 0, 0], [1, 1], [2, 2, 2]]"),
            r"palette\[1\]: found 2 items: expected 3",
        ),
        (pets(palette="[red, green, blue]"), r"palette\[0\]: found 'red': expected a list of 3"),
        (
            pets(palette="[[0, 0, 0], [1, 1, 256], [2, 2, 2]]"),
            r"palette\[1\]\[2\]: found 256: expected a whole number from 0 to 255",
        ),
        (pets(lists="train.lst"), "lists: found 'train.lst': expected a mapping of splits to list"),
        (pets(lists="{}"), r"lists: found \{\}: expected a mapping"),
        (pets(lists="{2017: train.lst}"), "lists: found 2017: expected text"),
        (pets(lists="{val: 7}"), r"lists\[val\]: found 7: expected text"),
        (pets(lists="{val: no.lst}"), r"lists\[val\]: found 'no.lst': .* there is no .*/no.lst"),
    ],
)
def test_malformed_files_are_refused_by_their_key(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_dataset(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_comparing_names_takes_a_time_that_grows_with_their_number(tmp_path):
    """Each name is compared a bounded number of times, so 100,000 of them take seconds."""
    compared = 0

    class Counted(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    names = [Counted(f"class {number}") for number in range(3000)]
    assert find_dataset._class_names(names) == tuple(names)
    assert compared < 3 * 3000


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(OSError, match=r"pipe\.yaml: found a named pipe: expected a file"):
        get_dataset(str(tmp_path / "pipe.yaml"))


def test_the_file_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yml: no such file"):
        get_dataset(str(tmp_path / "none.yml"))
    with pytest.raises(ValueError, match=r"own-pets: a dataset of your own: give .*--dataset FILE"):
        get_dataset("own-pets")


# --- commands


def run(*arguments: object):
    return make_runner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def noise(tmp_path, monkeypatch) -> Path:
    """The current folder, with images of noise in data/ and a file that describes them."""
    pytest.importorskip("mxnet")
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "data", task="segmentation")
    text = pets(lists="{train: data/train.lst, val: data/train.lst}")
    return write(tmp_path, text, lists=())


TRAIN = (
    *("train", "segmentation", "--model", f"own-pets_{NETWORK}_cls3_s8", "--data-root", "data"),
    *("--output", "runs", "--crop-size", 32, "--origin-size", 48, "--batch-images", 2),
    *("--width", "0.0625", "--gpus", "", "--to-epoch", 2),
)
WEIGHTS = f"runs/own-pets_{NETWORK}_cls3_s8_ep-0002.params"
EVALUATE = (
    *("evaluate", "segmentation", "--weights", WEIGHTS, "--data-root", "data", "--gpus", ""),
    *("--test-scales", 48, "--output", "scores"),
)


def test_train_evaluate_predict(noise):
    # With processes, to which the dataset must travel.
    found = run(*TRAIN, "--dataset", noise.name, "--stop-epoch", 1, "--prefetcher", "process")
    assert found.exit_code == 0, found.stderr
    settings = json.loads(Path("runs/run.json").read_text())["settings"]
    described = {"name": "pets", "stored_ids": [0, 1, 2], "void": 255}
    assert settings["dataset"] == {**described, "classes": ["background", "cat", "dog"]}

    noise.write_text(noise.read_text() + "void: 200\n")
    found = run(*TRAIN, "--dataset", noise.name, "--resume")
    assert found.exit_code == 1
    assert "--dataset was name=" in found.stderr and ", now name=" in found.stderr
    noise.write_text(noise.read_text() + "palette: [[0, 0, 0], [9, 9, 9], [255, 0, 0]]\n")
    noise.write_text(noise.read_text().replace("void: 200\n", ""))
    found = run(*TRAIN, "--dataset", noise.name, "--resume")
    assert found.exit_code == 0, found.stderr

    found = run(*EVALUATE, "--dataset", noise.name)
    assert found.exit_code == 0, found.stderr
    scores = json.loads(Path("scores/scores.json").read_text())
    assert list(scores["class_iou"]) == ["background", "cat", "dog"]
    assert (scores["dataset"], scores["num_images"]) == ("pets", 6)
    noise.write_text(noise.read_text() + "stored_ids: [2, 1, 0]\n")
    found = run(*EVALUATE, "--dataset", noise.name, "--resume")
    assert found.exit_code == 1
    assert "cannot resume" in found.stderr and "[2, 1, 0]" in found.stderr

    found = run(
        *("predict", "data/0.png", "--weights", WEIGHTS, "--dataset", noise.name),
        *("--output", "shown", "--test-scales", 48, "--gpus", ""),
    )
    assert found.exit_code == 0, found.stderr
    shares = json.loads(Path("shown/shares/0.json").read_text())["classes"]
    assert {share["name"] for share in shares} <= {"background", "cat", "dog"}
    with Image.open("shown/labels/0.png") as label, Image.open("scores/labels/0.png") as tested:
        # The same classes, stored in other numbers by now.
        np.testing.assert_array_equal(np.asarray(label), 2 - np.asarray(tested))
        assert label.getpalette()[:9] == [255, 0, 0, 9, 9, 9, 0, 0, 0]


@pytest.mark.parametrize(
    "command", [TRAIN, EVALUATE, ("predict", "data/0.png", "--weights", WEIGHTS, "--output", "x")]
)
def test_a_label_of_ones_own_needs_the_file(noise, command):
    from narrow import write_weights

    shutil.copytree(
        write_weights(Path("made"), f"own-pets_{NETWORK}_cls3_s8", epoch=2).parent, "runs"
    )
    found = run(*command)
    assert found.exit_code == 1
    assert "own-pets: a dataset of your own: give the YAML file" in found.stderr
    found = run(*command, "--dataset", "voc")
    assert found.exit_code == 1
    assert "3 classes for segmentation; voc has 21" in found.stderr


def test_no_published_score_stands_beside_those_on_other_data(noise):
    """The label, the split and the options are those of a published test, the images are not."""
    from narrow import VOC, write_weights

    classes = str([f"c{number}" for number in range(21)])
    write(noise.parent, pets(classes=classes, lists="{val: val.lst}"), lists=("val.lst",))
    Path("val.lst").write_text("0.png\t0_label.png\n")
    found = run(
        *("evaluate", "segmentation", "--weights", write_weights(Path("made"), VOC)),
        *("--dataset", noise.name, "--data-root", "data", "--test-flipping", "--gpus", ""),
        *("--output", "scores", "--test-scales", 500),
    )
    assert found.exit_code == 0, found.stderr
    assert "mean IoU" in found.stdout and "published" not in found.stdout
    assert json.loads(Path("scores/scores.json").read_text())["published"] is None


def test_a_classifier(tmp_path, monkeypatch):
    pytest.importorskip("mxnet")
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "data", task="classification")
    classes = "[ant, bee, crow, dog]"
    text = pets(task="classification", classes=classes, lists="{train: data/train.lst}")
    write(tmp_path, text, lists=())
    train = (
        *("train", "classification", "--data-root", "data", "--output", "runs", "--width", 0.0625),
        *("--crop-size", 32, "--batch-images", 2, "--to-epoch", 1, "--gpus", ""),
        *("--dataset", "pets.yaml", "--model"),
    )
    found = run(*train, f"own-pets-cls_{NETWORK}_cls3")
    assert found.exit_code == 1
    assert "3 classes for classification; pets has 4" in found.stderr
    found = run(*train, f"own-pets-cls_{NETWORK}_cls4")
    assert found.exit_code == 0, found.stderr
    found = run(
        *("evaluate", "classification", "--weights", found.stdout.strip(), "--data-root", "data"),
        *("--dataset", "pets.yaml", "--split", "train", "--test-scales", 32, "--gpus", ""),
        *("--output", "scores"),
    )
    assert found.exit_code == 0, found.stderr
    assert json.loads(Path("scores/scores.json").read_text())["top5_error"] == 0


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    """From nothing to scores, but with fewer images and for one epoch."""
    pytest.importorskip("mxnet")
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").split("## A dataset of your own\n")[1]
    blocks = re.findall(r"(?:^    .*\n)+", re.split(r"\n##+ ", section)[0], re.MULTILINE)
    described, commands = "", []
    for block in map(dedent, blocks):
        if block.startswith("name:"):
            described = block
        else:
            commands += block.replace("\\\n", " ").splitlines()
    (tmp_path / "shapes.yaml").write_text(described)
    printed = {}
    for command in commands:
        command = re.sub(r"--(to-epoch|validate-every) \d+", r"--\1 1", command)
        command = re.sub(r"--images \d+", "--images 12", command)
        program, *arguments = shlex.split(re.sub(r"_ep-\d+", "_ep-0001", command), comments=True)
        assert program == "ademx"
        found = run(*arguments)
        assert found.exit_code == 0, found.stderr
        printed[arguments[0]] = found.stdout
        for option, file in zip(arguments, arguments[1:]):
            assert option not in ("--output", "--report") or Path(file).exists()
    assert {"data", "train", "evaluate"} <= printed.keys()
    settings = json.loads(Path("runs/shapes/run.json").read_text())["settings"]
    assert settings["frozen_statistics"] is False  # by --batch-statistics
    assert {line.split()[0] for line in printed["evaluate"].splitlines()[1:6]} == {
        *("background", "triangle", "square", "ellipse", "diamond"),
    }

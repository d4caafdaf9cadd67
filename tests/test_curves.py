"""`ademx plot`: what is read from metrics.jsonl and what is drawn."""

from __future__ import annotations

import io
import json
import math
import sys
from xml.etree import ElementTree

import pytest
from commands import make_runner
from PIL import Image

from ademx.cli import main
from ademx.errors import MissingDependency
from ademx.training.curves import draw, load_runs

matplotlib = pytest.importorskip("matplotlib")


def line(update, kind="update", **values):
    values = {"lr": 0.1, "cross-entropy": 3.0 / update, "images_per_second": 60.0, **values}
    return {"kind": kind, "label": "a1", "epoch": 1, "update": update, **values, "seconds": 2.0}


def write_run(folder, lines, *, tail=""):
    folder.mkdir(parents=True)
    text = "".join(json.dumps(each) + "\n" for each in lines) + tail
    (folder / "metrics.jsonl").write_text(text)
    return folder


def run(*arguments):
    return make_runner().invoke(main, ["plot", *map(str, arguments)])


def texts_of(path):
    """Return the words of an SVG, which matplotlib writes as comments beside the outlines."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.fromstring(path.read_bytes(), parser)
    return {node.text.strip() for node in root.iter() if node.tag is ElementTree.Comment}


def test_curves_are_the_numbers_of_the_file(tmp_path):
    lines = [line(1), line(2, new_metric=7), line(2, kind="epoch")]
    (loaded,) = load_runs([write_run(tmp_path / "a", lines)])
    assert loaded.name == "a"
    assert loaded.curves["update"] == {
        "lr": {1: 0.1, 2: 0.1},
        "cross-entropy": {1: 3.0, 2: 1.5},
        "images_per_second": {1: 60.0, 2: 60.0},
        "new_metric": {2: 7.0},
    }
    assert loaded.curves["epoch"]["cross-entropy"] == {2: 1.5}


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    folder = write_run(tmp_path / "a", [line(1), line(2)], tail='{"kind": "update", "upd')
    (loaded,) = load_runs([folder])
    assert list(loaded.curves["update"]["lr"]) == [1, 2]


def test_updates_that_were_made_again_count_once(tmp_path):
    lines = [line(1), line(2, lr=0.5), line(2, lr=0.25), line(3)]
    (loaded,) = load_runs([write_run(tmp_path / "a", lines)])
    assert loaded.curves["update"]["lr"] == {1: 0.1, 2: 0.25, 3: 0.1}


def test_a_loss_that_broke_down_is_a_gap(tmp_path):
    folder = write_run(tmp_path / "a", [line(1), line(2, lr=math.nan)])
    (loaded,) = load_runs([folder])
    assert math.isnan(loaded.curves["update"]["lr"][2])
    assert run(folder, "--output", tmp_path / "a.png").exit_code == 0


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    folders = [write_run(tmp_path / parent / "run", [line(1)]) for parent in "ab"]
    assert [each.name for each in load_runs(folders)] == list(map(str, folders))


@pytest.mark.parametrize("number", [1, 2])
def test_a_broken_line_in_the_middle_is_named(number, tmp_path):
    lines = [json.dumps(line(1)), json.dumps(line(2)), json.dumps(line(3))]
    lines[number - 1] = '{"no": "position"}'
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"metrics.jsonl, line {number}: expected a JSON object"):
        load_runs([folder])


def test_runs_of_different_lengths_and_metrics_share_a_picture(tmp_path):
    long = [line(n, top1=n / 100) for n in range(1, 90)] + [line(89, kind="epoch", top1=0.9)]
    short = [line(n, pixel_accuracy=0.5) for n in range(1, 9)]
    folders = [write_run(tmp_path / "long", long), write_run(tmp_path / "short", short)]
    picture = tmp_path / "curves.svg"
    result = run(*folders, "--output", picture)
    assert (result.exit_code, result.stdout) == (0, f"{picture}\n")
    assert texts_of(picture) >= {
        *("cross-entropy", "learning rate", "images per second", "top1", "pixel accuracy, %"),
        *("long", "short", "update"),
    }


def test_the_val_score_is_below_the_loss_over_the_same_axis(tmp_path):
    lines = [line(n) for n in range(1, 91)]
    lines += [
        {"kind": "val", "epoch": n, "update": 10 * n, "mean_iou": 50 + n, "error": "no"}
        for n in (3, 5)
    ]
    (loaded,) = load_runs([write_run(tmp_path / "a", lines)])
    assert loaded.curves["val"] == {"mean_iou": {30: 53.0, 50: 55.0}}
    picture = tmp_path / "curves.svg"
    assert run(tmp_path / "a", "--output", picture).exit_code == 0
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    panels = {}
    for group in ElementTree.fromstring(picture.read_bytes(), parser).iter():
        if group.get("id", "").startswith("axes_"):
            comments = [one.text.strip() for one in group.iter() if one.tag is ElementTree.Comment]
            frame = next(one.get("d") for one in group.iter() if one.get("d"))
            left, top = map(float, frame.split()[1:3])
            panels[comments[-1]] = (left, top, comments[: comments.index("update")])
    loss, score = panels["cross-entropy"], panels["mean IoU, % (val dashed)"]
    assert loss[0] == pytest.approx(score[0], abs=1) and loss[1] < score[1]
    assert min(one[1] for one in panels.values() if one[1] > loss[1]) == score[1]
    assert loss[2] == score[2] and "80" in loss[2]  # as many updates, although none is tested


def test_the_loss_is_drawn_where_it_should_be(tmp_path):
    """A falling line in the only panel: dark pixels go from top left to bottom right."""
    lines = [{"update": n, "loss": 10.0 - n} for n in range(11)]
    buffer = io.BytesIO()
    draw(load_runs([write_run(tmp_path / "a", lines)]), buffer, "png")
    with Image.open(buffer) as image:
        pixels = image.convert("RGB").load()
        blue = [
            (x, y)
            for x in range(image.width)
            for y in range(60, image.height)  # below the legend, which has the colour too
            if pixels[x, y] == (31, 119, 180)  # matplotlib's first colour
        ]
    first, last = min(blue), max(blue)
    assert last[0] - first[0] > 400
    assert last[1] - first[1] > 150
    middle = (first[0] + last[0]) // 2
    heights = [y for x, y in blue if x == middle]
    assert sum(heights) / len(heights) == pytest.approx((first[1] + last[1]) / 2, abs=3)


@pytest.mark.parametrize(
    ("suffix", "magic"), [("pdf", b"%PDF-"), ("PNG", b"\x89PNG\r\n"), ("svg", b"<?xml")]
)
def test_the_suffix_chooses_the_format(suffix, magic, tmp_path):
    folder = write_run(tmp_path / "a", [line(1), line(2)])
    picture = tmp_path / f"curves.{suffix}"
    assert run(folder / "metrics.jsonl", "--output", picture).exit_code == 0
    assert picture.read_bytes().startswith(magic)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", picture.name]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["full", "--output", "curves.gif"],
            1,
            "picture format 'gif': choose one of pdf, png, svg",
        ),
        (["full", "--output", "old.png"], 1, "old.png exists: choose another name or add --ov"),
        (["full", "--output", "no/curves.png"], 2, "there is no folder no"),
        (["absent"], 1, "absent: there is no such file; name the --output folder"),
        (["empty"], 1, "holds no complete line of metrics yet"),
    ],
)
def test_the_command_fails_in_one_line(arguments, status, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "full", [line(1)])
    write_run(tmp_path / "empty", [])
    (tmp_path / "old.png").write_text("mine")
    result = run(*arguments)
    assert result.exit_code == status
    assert message in result.stderr.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "old.png"]
    assert (tmp_path / "old.png").read_text() == "mine"


def test_without_matplotlib_the_command_says_what_to_install(tmp_path, monkeypatch):
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "matplotlib":
                raise ModuleNotFoundError(f"No module named {name!r}", name="matplotlib")

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    runs = load_runs([write_run(tmp_path / "a", [line(1)])])
    with pytest.raises(MissingDependency, match=r"matplotlib.*`pip install 'ademx\[plot\]'`"):
        draw(runs, io.BytesIO(), "png")

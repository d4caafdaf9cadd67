"""`ademx reproduce`: verdicts on published rows, on drawn data with narrow networks."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import make_runner
from narrow import ILSVRC, VOC, write_weights
from PIL import Image
from published_rows import publish_rows

from ademx import published
from ademx.cli import main
from ademx.data.drawn.make import make_dataset
from ademx.errors import InputError
from ademx.files import md5
from ademx.published import RESULTS, get_result
from ademx.reproduction.inputs import SearchFolders, find_row_weights
from ademx.reproduction.tolerance import pixel_tolerances
from ademx.testing.image_counts import load_image_counts, save_image_counts
from ademx.testing.numerics import PROBABILITY_FACTOR, SCORE_MARGIN
from iters.datasets import DATASETS

pytest.importorskip("mxnet")

SCALE = 64
IMAGES = 3
VOC_FILE, ILSVRC_FILE = f"{VOC}_ep-0001.params", f"{ILSVRC}_ep-0001.params"


def run(*arguments: object):
    return make_runner().invoke(main, ["reproduce", "--cpus", "1", *map(str, arguments)])


def report_of(output: Path) -> dict[str, dict]:
    rows = json.loads((output / "report.json").read_text(encoding="utf-8"))["rows"]
    return {row["row"]: row for row in rows}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_weights(folder, VOC)
    write_weights(folder, ILSVRC)
    return folder


def make_data(root: Path) -> Path:
    """Make a folder with VOC under one of its usual names, and ILSVRC's val as a list."""
    make_dataset("voc", root, images=IMAGES)  # makes VOCdevkit/VOC2012
    images = sorted(root.glob("VOCdevkit/VOC2012/JPEGImages/*.jpg"))[:IMAGES]
    (root / "ImageNet").mkdir()
    lines = [f"{n}\t{n}\t../{path.relative_to(root)}\n" for n, path in enumerate(images)]
    (root / "ImageNet" / "val.lst").write_text("".join(lines))
    return root


@pytest.fixture
def data(tmp_path) -> Path:
    """Return such a folder, to change."""
    return make_data(tmp_path / "data")


@pytest.fixture
def table(models, monkeypatch):
    """Make the narrow weights the released ones, and the small datasets whole."""
    set_table(models, monkeypatch)


@pytest.fixture(scope="module")
def tested(models, tmp_path_factory) -> Path:
    """Return a folder with data, and in "out" the reports of both rows, tested once for all."""
    folder = tmp_path_factory.mktemp("tested")
    make_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        set_table(models, patch)
        places = ("--data", folder / "data", "--models", models, "--output", folder / "out")
        assert run("voc-a1", "ilsvrc-a1", *places).exit_code == 1  # both differ
    return folder


@pytest.fixture
def done(tested, models, table, tmp_path) -> tuple[object, ...]:
    """Return the options that go on from a copy of these tests, in "out"."""
    shutil.copytree(tested / "out", tmp_path / "out")
    for scores in (tmp_path / "out").glob("*/scores.json"):
        os.utime(scores)  # written last, however coarse the clock
    return ("--data", tested / "data", "--models", models, "--output", tmp_path / "out")


def set_table(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VOC_FILE, ILSVRC_FILE):
        monkeypatch.setitem(published.RELEASED_FILES, name, md5(models / name))
    for name in ("voc", "ilsvrc-cls"):
        whole = dataclasses.replace(
            DATASETS[name], splits=dict.fromkeys(("train", "val", "test"), IMAGES)
        )
        monkeypatch.setitem(DATASETS, name, whole)
    publish(monkeypatch)


def publish(monkeypatch, *, flipping: bool = True, **values: dict[str, float]) -> None:
    """Publish other values; the two rows that are tested here are tested at a small scale."""
    rows = []
    for row in RESULTS:
        if row.name in ("voc-a1", "ilsvrc-a1"):
            options = {**row.options, "test_scales": (SCALE,)}
            if not flipping:
                options.pop("test_flipping", None)
            row = dataclasses.replace(row, options=options)
        rows.append(dataclasses.replace(row, values=values.get(row.name, row.values)))
    publish_rows(monkeypatch, rows)


def test_without_data_and_weights_every_row_says_what_is_missing(tmp_path):
    for name in ("data", "models"):
        (tmp_path / name).mkdir()
    places = ("--data", tmp_path / "data", "--models", tmp_path / "models")
    result = run(*places, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    rows = report_of(tmp_path / "out")
    assert [row["verdict"] for row in rows.values()] == ["not run"] * 23
    assert list(rows) == [row.name for row in RESULTS]
    told = {name: " ".join(row["reasons"]) for name, row in rows.items()}
    voc, weights = tmp_path / "data" / "voc", tmp_path / "models" / VOC_FILE
    for part in (
        "`VOCdevkit/VOC2012/SegmentationClass/*.png`, ",
        f" go to {voc}/",
        f"`ademx data check voc --root {voc} --split val`",
        f"{weights} (MD5 a34628a63d5f62dcb98c29c4e281f332)",
        f"`ademx weights verify {weights}`",
        "`ademx reproduce --train voc-a1`",
    ):
        assert part in told["voc-a1"]
    assert "server" in told["voc-test-a1"] and "never released" in told["voc-test-a1"]
    assert "--split test`" in told["cityscapes-test-a2-scales"]
    assert "`ademx reproduce --train ilsvrc-resnet50`" in told["ilsvrc-resnet50"]
    assert "`ademx reproduce --train voc-a-1conv`" in told["voc-a-1conv"]
    assert "names no scale" in told["context-a2"] and "--train context-a2" in told["context-a2"]
    for file in ("report.md", "report.html"):
        text = (tmp_path / "out" / file).read_text(encoding="utf-8")
        assert all(row.name in text for row in RESULTS)
    # A line for each row, then each reason once, with its number.
    lines, markdown = result.stdout.splitlines(), (tmp_path / "out" / "report.md").read_text()
    texts = dict(line.strip()[1:].split(") ", 1) for line in lines[23:])
    for line, row in zip(lines, rows.values()):
        name, numbers = re.fullmatch(r"(\S+): not run \((.*)\)", line).groups()
        assert name == row["row"]
        assert [texts[number] for number in numbers.split(", ")] == row["reasons"]
        assert f"| not run ({numbers}) |" in markdown
    assert len(set(texts.values())) == len(texts) < 25
    assert all(f"\n{number}. {text}\n" in markdown for number, text in texts.items())


def test_folders_and_names_that_users_may_leave_out_or_type(tmp_path, monkeypatch):
    """Data and models are looked for in data/ and models/; a row is also what its weights are."""
    monkeypatch.chdir(tmp_path)
    result = run(VOC, ILSVRC_FILE)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("ilsvrc-a1: not run (1, 2)\nvoc-a1: not run (3, 4)\n  (1) ")
    assert " go to data/voc/; " in result.stdout
    assert f" goes to models/{VOC_FILE} " in result.stdout


def test_commands_can_be_pasted_where_folders_have_spaces(tmp_path):
    data, models = tmp_path / "my data", tmp_path / "my models"
    result = run("voc-a1", "--data", data, "--models", models, "--output", tmp_path / "out")
    commands = re.findall(r"`(ademx (?:data|weights) .*?)`", result.stdout)
    assert [shlex.split(command) for command in commands] == [
        ["ademx", "data", "check", "voc", "--root", str(data / "voc"), "--split", "val"],
        ["ademx", "weights", "verify", str(models / VOC_FILE)],
    ]


def test_reproduced(done, tmp_path, monkeypatch):
    """What is published is what `ademx evaluate` finds by the command that is told, rounded."""
    output, told = tmp_path / "out", tmp_path / "told"
    rows = report_of(output)
    for name in ("voc-a1", "ilsvrc-a1"):
        command = [*shlex.split(rows[name]["command"])[1:], "--cpus", "1"]
        command[command.index("--output") + 1] = str(told / name)
        result = make_runner().invoke(main, command)
        assert result.exit_code == 0, result.stderr
    voc, ilsvrc = (
        json.loads((told / name / "scores.json").read_text()) for name in ("voc-a1", "ilsvrc-a1")
    )
    errors = {name: round(ilsvrc[name], 2) for name in ("top1_error", "top5_error")}
    mean_iou = round(voc["mean_iou"], 2)
    publish(monkeypatch, **{"voc-a1": {"mean_iou": mean_iou}, "ilsvrc-a1": errors})
    result = run("ilsvrc-a1", "voc-a1", *done)
    assert result.exit_code == 0, result.stderr
    rows = report_of(output)
    assert [row["verdict"] for row in rows.values()] == ["reproduced", "reproduced"]
    metric = rows["voc-a1"]["metrics"]["mean_iou"]
    assert metric["ours"] == voc["mean_iou"]
    assert metric["difference"] == pytest.approx(voc["mean_iou"] - mean_iou)
    assert metric["tolerance"]["rounding"] == pytest.approx(0.005)
    assert (
        metric["tolerance"]["numerics"] > 0 and metric["tolerance"]["cause"] == "pixels near a tie"
    )
    assert rows["ilsvrc-a1"]["metrics"]["top1_error"]["tolerance"]["cause"] == "near ties"
    assert "rounding, ±" in result.stdout
    # The pictures are in the page, which names the verdicts.
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "reproduced" in page and "image/webp" in page
    markdown = (output / "report.md").read_text(encoding="utf-8")
    assert f"| mean IoU | {mean_iou:.2f} | {voc['mean_iou']:.2f} |" in markdown


def test_differs(done, tmp_path, monkeypatch):
    publish(monkeypatch, **{"voc-a1": {"mean_iou": 99.5}})
    result = run("voc-a1", *done)
    assert result.exit_code == 1
    assert "1 of 1 rows differ or failed" in result.stderr
    row = report_of(tmp_path / "out")["voc-a1"]
    ours = row["metrics"]["mean_iou"]["ours"]
    assert row["verdict"] == "differs"
    assert row["reasons"] == [f"mean IoU {99.5 - ours:.2f} below the published 99.50"]


def test_the_tolerance_decides(done, tmp_path, monkeypatch):
    """Just within and just beyond what the report states."""
    metric = report_of(tmp_path / "out")["voc-a1"]["metrics"]["mean_iou"]
    allowed = metric["tolerance"]["rounding"] + metric["tolerance"]["numerics"]
    for distance, verdict in ((0.99, "reproduced"), (1.01, "differs")):
        publish(monkeypatch, **{"voc-a1": {"mean_iou": metric["ours"] + distance * allowed}})
        run("voc-a1", *done)
        assert report_of(tmp_path / "out")["voc-a1"]["verdict"] == verdict


def test_the_numerics_follow_from_near_ties_that_the_run_counted(tested, tmp_path, monkeypatch):
    output = tested / "out"
    metric = report_of(output)["voc-a1"]["metrics"]["mean_iou"]
    images = load_image_counts(output / "voc-a1")
    assert images.near_ties.margin == SCORE_MARGIN and len(images.near_ties.rows)
    allowed = pixel_tolerances(images, absent_classes="skip")["mean_iou"]
    assert metric["tolerance"]["numerics"] == allowed


@pytest.mark.parametrize("is_whole", [True, False])
def test_an_interrupted_test_keeps_its_near_ties(done, tmp_path, is_whole):
    """And one of an older version, which had none, is tested again."""
    folder = tmp_path / "out" / "voc-a1"
    before = load_image_counts(folder)
    first = min((folder / "correct").iterdir())
    Image.fromarray(np.array(Image.open(first))).save(first)  # loses its text
    marked = sorted((folder / "labels").iterdir())
    for path in marked:
        os.utime(path, (0, 0))
    (folder / "scores.json").unlink()
    if is_whole:
        (folder / "images.npz").unlink()
    else:
        save_image_counts(folder, dataclasses.replace(before, near_ties=None))
    run("voc-a1", *done)
    after = load_image_counts(folder)
    np.testing.assert_array_equal(after.near_ties.rows, before.near_ties.rows)
    # Of the other images nothing was lost.
    assert [path.stat().st_mtime == 0 for path in marked] == [False, True, True]


def test_a_finished_run_without_near_ties_is_tested_again(done, tmp_path):
    folder = tmp_path / "out" / "voc-a1"
    before = load_image_counts(folder)
    save_image_counts(folder, dataclasses.replace(before, near_ties=None))
    for path in (folder / "correct").iterdir():
        Image.fromarray(np.array(Image.open(path))).save(path)
    assert "voc-a1: tested again: the run in" in run("voc-a1", *done).stderr
    after = load_image_counts(folder)
    np.testing.assert_array_equal(after.near_ties.rows, before.near_ties.rows)
    assert report_of(tmp_path / "out")["voc-a1"]["verdict"] == "differs"


def test_unverified(data, models, tmp_path, monkeypatch):
    """Neither the weights nor the number of images are the published ones."""
    publish(monkeypatch, **{"voc-a1": {"mean_iou": 50.0}})
    output = tmp_path / "out"
    options = ("voc-a1", "--data", data, "--models", models, "--output", output)
    refused = run(*options)
    assert refused.exit_code == 0
    row = report_of(output)["voc-a1"]
    assert row["verdict"] == "not run" and row["metrics"]["mean_iou"]["ours"] is None
    told = "\n".join(row["reasons"])
    assert "3 images" in told and "1,449" in told and "MD5" in told and "--unverified" in told
    assert not (output / "voc-a1").exists()
    tested = run(*options, "--unverified")
    assert tested.exit_code == 0, tested.stderr
    row = report_of(output)["voc-a1"]
    assert row["verdict"] == "unverified"
    assert row["metrics"]["mean_iou"]["difference"] == row["metrics"]["mean_iou"]["ours"] - 50.0
    assert "MD5" in "\n".join(row["reasons"])


def test_another_precision_is_another_test(data, models, table, tmp_path):
    options = ("voc-a1", "--data", data, "--models", models, "--output", tmp_path / "out")
    result = run(*options, "--precision", "bfloat16")
    assert result.exit_code == 0
    assert "voc-a1: not run (1, 2)\n  (1) it is tested in bfloat16" in result.stdout


def test_own_weights_are_judged_and_told_apart(data, models, table, tmp_path):
    """The newest ones under the label that the recipe ends with."""
    own = tmp_path / "own"
    own.mkdir()
    for epoch in (2, 18):
        name = f"voc_rna-a1_cls21_s8_x1-39_ep-{epoch:04d}.params"
        (own / name).write_bytes((models / VOC_FILE).read_bytes())
    options = ("voc-a1", "--data", data, "--models", own, "--output", tmp_path / "out")
    result = run(*options)
    assert result.exit_code == 1, result.stderr
    assert "_ep-0018.params is of your own training, not the released ones" in result.stdout
    row = report_of(tmp_path / "out")["voc-a1"]
    assert (row["verdict"], row["weights"][-15:]) == ("differs", "_ep-0018.params")
    assert row["weights_md5"] == md5(models / VOC_FILE)


def test_the_authors_own_resnets_are_found_where_the_advice_puts_them(tmp_path):
    row, places = get_result("ilsvrc-resnet50"), SearchFolders(models=tmp_path)
    target = tmp_path / "ilsvrc-cls_rn-50_cls1000_ep-0001.params"
    (told,) = find_row_weights(row, places).problems
    assert f"`ademx convert ResNet-50-model.caffemodel {target}` makes them" in told
    target.touch()
    found = find_row_weights(row, places)
    assert (found.path, found.is_own) == (target, True)
    assert found.problems == (
        f"weights: {target} is taken to be converted from ResNet-50-model.caffemodel",
    )


def test_a_resnet_is_tested_by_ten_crops(data, table, tmp_path):
    """With weights of one's own training, there being no released ones."""
    write_weights(tmp_path / "own", "ilsvrc-cls_rn-34a_cls1000", epoch=120)
    places = ("--data", data, "--models", tmp_path / "own", "--output", tmp_path / "out")
    result = run("ilsvrc-resnet34a", *places)
    assert result.exit_code == 1, result.stderr
    assert "_ep-0120.params is of your own training, none were released" in result.stdout
    row = report_of(tmp_path / "out")["ilsvrc-resnet34a"]
    assert "--test-scales 256 --pool full --test-10crops" in row["command"]
    assert row["metrics"]["top1_error"]["published"] == 25.03
    scores = json.loads((tmp_path / "out" / "ilsvrc-resnet34a" / "scores.json").read_text())
    assert scores["published"]["top5_error"] == 7.76


def test_a_row_that_is_done_is_not_computed_again(done, tmp_path, monkeypatch):
    output = tmp_path / "out"
    before = report_of(output)["voc-a1"]

    def fail(options):
        raise InputError("computed again")

    monkeypatch.setattr("ademx.testing.segmentation.SegmentationTester.test", fail)
    run("voc-a1", *done)
    after = report_of(output)["voc-a1"]
    assert after["verdict"] == "differs" and after["metrics"] == before["metrics"]
    run("voc-a1", *done, "--overwrite")
    assert report_of(output)["voc-a1"]["reasons"] == ["computed again"]


def test_an_interrupted_row_goes_on(done, tmp_path):
    output = tmp_path / "out"
    before = report_of(output)["voc-a1"]["metrics"]
    labels = sorted((output / "voc-a1" / "labels").iterdir())
    kept = labels[0].stat().st_mtime_ns
    labels[1].unlink()
    (output / "voc-a1" / "scores.json").unlink()  # it is the last to be written
    result = run("voc-a1", *done)
    assert result.exit_code == 1  # it differs from what is published, as before
    assert report_of(output)["voc-a1"]["metrics"] == before
    assert labels[1].is_file() and labels[0].stat().st_mtime_ns == kept


def test_other_settings_need_overwrite(done, tmp_path, monkeypatch):
    publish(monkeypatch, flipping=False)
    changed = run("voc-a1", *done)
    assert changed.exit_code == 1
    row = report_of(tmp_path / "out")["voc-a1"]
    assert row["verdict"] == "failed"
    assert (
        "--test-flipping was given, now not given" in row["reasons"][0]
        and "--overwrite" in row["reasons"][0]
    )
    run("voc-a1", *done, "--overwrite")
    assert report_of(tmp_path / "out")["voc-a1"]["verdict"] == "differs"


def test_a_row_that_fails_does_not_stop_the_others(tested, models, table, tmp_path, monkeypatch):
    """The first row's weights are cut short; they have the released MD5 all the same."""
    folder, output = tmp_path / "models", tmp_path / "out"
    folder.mkdir()
    (folder / VOC_FILE).write_bytes((models / VOC_FILE).read_bytes())
    (folder / ILSVRC_FILE).write_bytes((models / ILSVRC_FILE).read_bytes()[:5000])
    monkeypatch.setitem(published.RELEASED_FILES, ILSVRC_FILE, md5(folder / ILSVRC_FILE))
    shutil.copytree(tested / "out" / "voc-a1", output / "voc-a1")
    places = ("--data", tested / "data", "--models", folder, "--output", output)
    result = run("ilsvrc-a1", "voc-a1", *places)
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    rows = report_of(output)
    assert rows["ilsvrc-a1"]["verdict"] == "failed"
    assert "cut off" in rows["ilsvrc-a1"]["reasons"][0]
    assert rows["voc-a1"]["verdict"] == "differs"


def test_a_broken_image_is_a_failure(data, models, table, tmp_path):
    image = min((data / "VOCdevkit").glob("**/JPEGImages/*.jpg"))
    val = data / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    val.write_text(val.read_text().replace(val.read_text().split()[0], image.stem))
    image.write_bytes(b"no image")
    result = run("voc-a1", "--data", data, "--models", models, "--output", tmp_path / "out")
    assert result.exit_code == 1
    row = report_of(tmp_path / "out")["voc-a1"]
    assert row["verdict"] == "failed"
    assert row["reasons"][0].startswith("1 of 3 images could not be tested: ")
    assert image.name in row["reasons"][0]


@pytest.mark.parametrize("flags", [(), ("--overwrite",)], ids=str)
def test_data_that_were_all_broken_can_be_repaired(flags, data, models, table, tmp_path):
    """No image could be tested, so there are no scores; the report says so and can be read."""
    output = tmp_path / "out"
    options = ("--data", data, "--models", models, "--output", output)
    images = sorted((data / "VOCdevkit").glob("**/JPEGImages/*.jpg"))
    content = {path: path.read_bytes() for path in images}
    for path in images:
        path.write_bytes(b"no image")
    for _ in range(2):
        broken = run("voc-a1", *options)
        assert broken.exit_code == 1 and "voc-a1: failed" in broken.stdout
        assert "3 of 3 images could not be tested" in broken.stdout
        assert report_of(output)["voc-a1"]["metrics"]["mean_iou"]["ours"] is None
    # Reports of earlier versions have a tolerance of null.
    report = json.loads((output / "report.json").read_text())
    report["rows"][0]["metrics"]["mean_iou"]["tolerance"] = {
        "rounding": 0.005,
        "numerics": None,
        "cause": "pixels",
    }
    (output / "report.json").write_text(json.dumps(report))
    for path, data_of_image in content.items():
        path.write_bytes(data_of_image)
    result = run("voc-a1", *options, *flags)
    assert "voc-a1: differs" in result.stdout
    assert report_of(output)["voc-a1"]["metrics"]["mean_iou"]["ours"] > 0


def test_a_refined_run_is_not_judged(done, tmp_path):
    """`evaluate --crf` into the row's folder is another test."""
    for name in ("scores.json", "run.json"):
        path = tmp_path / "out" / "voc-a1" / name
        record = json.loads(path.read_text())
        record.get("settings", record)["crf"] = {"iterations": 10}
        path.write_text(json.dumps(record))
    result = run("voc-a1", *done)
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    row = report_of(tmp_path / "out")["voc-a1"]
    assert (
        row["verdict"] == "failed" and "--crf was iterations=10, now not given" in row["reasons"][0]
    )


def test_a_run_with_another_rule_for_absent_classes_is_counted_anew(done, tmp_path):
    output = tmp_path / "out"
    before = report_of(output)["voc-a1"]
    command = [*shlex.split(before["command"])[1:], "--cpus", "1"]
    command[command.index("--output") + 1] = str(output / "voc-a1")
    result = make_runner().invoke(main, [*command, "--resume", "--absent-classes", "zero"])
    assert result.exit_code == 0, result.stderr
    scores = json.loads((output / "voc-a1" / "scores.json").read_text())
    assert scores["mean_iou"] < before["metrics"]["mean_iou"]["ours"]
    run("voc-a1", *done)
    assert report_of(output)["voc-a1"]["metrics"] == before["metrics"]


@pytest.mark.parametrize(
    "change",
    [
        {"mean_iou": "high"},
        {"mean_iou": 99.0},
        {"num_broken": None},
        {"num_broken": 3, "broken": []},
        {"weights": []},
        {"weights": [{"file": "x"}]},
        {"settings": []},
        {"confusion": [[1]]},
        {"class_iou": {}},
        {"absent_classes": 3},
    ],
    ids=str,
)
def test_a_doctored_score_file_is_written_again(change, done, tmp_path):
    output = tmp_path / "out"
    before = report_of(output)["voc-a1"]
    path = output / "voc-a1" / "scores.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, **change}))
    result = run("voc-a1", *done)
    assert "Traceback" not in result.stderr and isinstance(result.exception, SystemExit)
    assert report_of(output)["voc-a1"]["metrics"] == before["metrics"]
    assert json.loads(path.read_text())["confusion"] == whole["confusion"]


def test_processes_do_not_lose_each_others_rows(tmp_path):
    names = [row.name for row in RESULTS]
    script = """
import sys
from ademx.published import get_result
from ademx.reproduction.outcomes import Outcome, Reports
from pathlib import Path
reports = Reports(Path(sys.argv[1]))
print(flush=True)
sys.stdin.readline()
for name in sys.argv[2:]:
    reports.add(Outcome(get_result(name), "not run"))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path, *names[start::3]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for start in range(3)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    for process in processes:
        process.communicate()
    assert list(report_of(tmp_path)) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "fine"},
        {"row": "voc-a9"},
        {"reasons": None},
        {"metrics": {"mean_iou": {"ours": "much"}}},
        {"metrics": {"mean_iou": {"ours": 1.0}}},
        {"metrics": {"mean_iou": {"ours": 1.0, "tolerance": {"rounding": 1}}}},
        {"date": 3},
        {"diagnosis": "none"},
        {"diagnosis": [{"cause": "labels", "made": "yes", "likelihood": 1, "finding": ""}]},
        {"diagnosis": [{"cause": "labels", "made": True, "likelihood": 1}]},
    ],
    ids=str,
)
def test_a_doctored_report_is_named(change, done, tmp_path):
    path = tmp_path / "out" / "report.json"
    report = json.loads(path.read_text())
    report["rows"][1].update(change)
    path.write_text(json.dumps(report))
    result = run("ilsvrc-resnet50", *done)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert f"{path}: not what `ademx reproduce` writes" in result.stderr
    assert json.loads(path.read_text()) == report


def test_reports_keep_the_rows_of_earlier_calls(done, tmp_path):
    output = tmp_path / "out"
    run("ilsvrc-resnet50", "--output", output)
    rows = report_of(output)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "ilsvrc-a1": "differs",
        "voc-a1": "differs",
        "ilsvrc-resnet50": "not run",
    }
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "image/webp" in page and "ilsvrc-resnet50" in page


def test_a_foreign_report_is_left_alone(tmp_path):
    (tmp_path / "report.json").write_text('{"mine": 1}')
    result = run("voc-a1", "--output", tmp_path)
    assert result.exit_code == 1
    assert "not what `ademx reproduce` writes" in result.stderr
    assert (tmp_path / "report.json").read_text() == '{"mine": 1}'


def test_a_datasets_own_folder_can_be_named(data, models, table, tmp_path):
    moved = tmp_path / "elsewhere"
    (data / "VOCdevkit").rename(moved)
    places = ("--data", data, "--data", f"voc={moved}", "--models", models)
    result = run("voc-a1", *places, "--output", tmp_path / "out")
    assert "voc-a1: differs" in result.stdout
    assert report_of(tmp_path / "out")["voc-a1"]["data_root"] == str(moved)


def test_classification_ties_are_those_of_the_predictions(tested):
    output = tested / "out"
    metrics = report_of(output)["ilsvrc-a1"]["metrics"]
    probabilities = np.load(output / "ilsvrc-a1" / "predictions" / f"{SCALE}.npy")
    for k, name in ((1, "top1_error"), (5, "top5_error")):
        ties = [0, 0]
        for truth, row in enumerate(probabilities):
            rival = np.sort(np.delete(row, truth))[-k]
            if abs(row[truth] - rival) <= 2 * PROBABILITY_FACTOR * rival:
                ties[int(row[truth] > rival)] += 1
        assert metrics[name]["tolerance"]["numerics"] == pytest.approx(100 * max(ties) / IMAGES)


def test_the_list_of_rows():
    result = run("--list")
    assert result.exit_code == 0
    for row in RESULTS:
        assert f"{row.name}\n" in result.stdout
    assert "top-1 error 19.20, top-5 error 4.73 (released weights, --train)" in result.stdout
    assert "mean IoU 82.5 (no released weights)" in result.stdout
    assert "  places-a2: ours" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["voc-a9"], 1, "unknown row 'voc-a9': expected one of ilsvrc-a, "),
        (["--train", "voc-test-a1"], 1, "no recipe for 'voc-test-a1'"),
        (["voc-a1", "--epochs", "2"], 2, "--epochs: only with --train"),
        (["voc-a1", "--dry-run"], 2, "--dry-run: only with --train"),
        (["--train", "voc-a1", "--precision", "bfloat16"], 2, "--precision: not with --train"),
        (["--train", "voc-a1", "ade20k-a1"], 2, "--train takes the one row"),
        (["--data", "a", "--data", "b"], 2, "others as NAME=DIR, where NAME is one of ilsvrc-cls"),
        (["--data", __file__], 2, "expected a folder"),
        (["--models", __file__], 2, "is a file"),
        (["--output", __file__], 2, "is a file"),
    ],
)
def test_mistakes_are_explained(arguments, code, message, tmp_path):
    result = run("--output", tmp_path, *arguments)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_what_computes_nothing_needs_no_mxnet(tmp_path):
    calls = [["--list"], ["--output", str(tmp_path)], ["--train", "voc-a1", "--dry-run"]]
    script = (
        "import sys; sys.modules['mxnet'] = None; from ademx.cli import main\n"
        f"for call in {calls}: main(['reproduce', *call], standalone_mode=False)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    for part in ("  places-a2: ours", "voc-a1: not run", "--model voc_rna-a1_cls21_s8 "):
        assert part in found.stdout


def test_data_in_another_form_is_named_as_such(tmp_path):
    planned = run("--train", "voc-a1", "--data", tmp_path, "--models", tmp_path, "--dry-run")
    assert "dataset/{train,val}.txt`, or `VOC2012/SegmentationClassAug" in planned.stdout

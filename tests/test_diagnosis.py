"""What `ademx reproduce` says to look at: each known cause is put into a row that else is right.

The truth is what the network itself finds when it is tested in the right way, so that a right test
scores 100 %, and whatever else is done scores less.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from commands import main_text, make_runner
from narrow import VOC, write_weights
from PIL import Image
from published_rows import publish_rows
from scenes import voc_scene

from ademx import params
from ademx.cli import main
from ademx.devices import Devices
from ademx.files import md5
from ademx.published import RELEASED_FILES, RESULTS
from ademx.reproduction import diagnosis
from ademx.reproduction.case import Case
from ademx.reproduction.diagnosis import CAUSES
from ademx.reproduction.retest import AS_TESTED, Handful, Way
from ademx.testing.classification import ClassificationTester
from ademx.testing.image_counts import load_image_counts
from ademx.testing.options import ClassificationOptions, SegmentationOptions
from ademx.testing.segmentation import SegmentationTester
from iters.datasets import DATASETS
from iters.samples import Sample

pytest.importorskip("mxnet")

SCALE, IMAGES, PHOTOS = 64, 6, 12
A = "ilsvrc-cls_rna-a_cls1000"
NAMES = tuple(f"2012_{number:06d}" for number in range(IMAGES))


class Row(NamedTuple):
    """A row with its data and weights on disk, to change."""

    name: str
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def images(self) -> list[Path]:
        return sorted((self.folder / "data").rglob("JPEGImages/*.jpg"))

    @property
    def labels(self) -> list[Path]:
        return sorted((self.folder / "data").rglob("SegmentationClass/*.png"))

    @property
    def weights(self) -> Path:
        (path,) = (self.folder / "models").iterdir()
        return path

    def publish(self, label: str | None = None, *, scores: dict | None = None, **options) -> None:
        """Publish scores of a test with these options, for weights that are the released ones."""
        rows = []
        for row in RESULTS:
            if row.name == self.name:
                options = {
                    **row.options,
                    "test_flipping": False,
                    "test_scales": (SCALE,),
                    **options,
                }
                perfect = {name: 0.0 if "error" in name else 100.0 for name in row.values}
                row = dataclasses.replace(row, options=options, values=scores or perfect)
            rows.append(row)
        publish_rows(self.monkeypatch, rows)
        self.monkeypatch.setitem(RELEASED_FILES, self.weights.name, md5(self.weights))

    def diagnosis(self, *options: str) -> list[dict]:
        """Reproduce the row and return the findings of `report.json`."""
        places = ("--data", self.folder / "data", "--models", self.folder / "models")
        arguments = [self.name, *places, "--output", self.folder / "out", "--cpus", 1, *options]
        result = make_runner().invoke(main, ["reproduce", *map(str, arguments)])
        assert "Traceback" not in result.output and result.exit_code in (0, 1), result.output
        (row,) = json.loads((self.folder / "out" / "report.json").read_text())["rows"]
        page = main_text(self.folder / "out" / "report.html")
        for place, one in enumerate(row["diagnosis"], 1):
            text = f"{place}. {one['cause']}: {one['state']}: {one['finding']}"
            assert text in result.stdout
            assert text in (self.folder / "out" / "report.md").read_text()
            for part in re.split("[`'<>]", text.partition(". ")[2]):
                assert " ".join(part.split()) in page
        return row["diagnosis"]


def evaluate(task: str, weights: Path, data: Path, output: Path, *options: object) -> None:
    arguments = ["--weights", weights, "--data-root", data, "--output", output, "--cpus", 1]
    command = ["evaluate", task, *arguments, "--test-scales", SCALE, *options]
    result = make_runner().invoke(main, list(map(str, command)))
    assert result.exit_code == 0, result.output


def write_images(folder: Path, names: Sequence[str], *, seed: int = 0) -> None:
    """Write images without loss, whatever their suffix says."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for name in names:
        with (folder / f"{name}.jpg").open("wb") as file:
            Image.fromarray(voc_scene(rng)[0]).save(file, "PNG")


def change(path: Path, function: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write an image or a label again, as a function has it."""
    image = Image.open(path)
    palette = image.getpalette()
    changed = Image.fromarray(np.ascontiguousarray(function(np.array(image))))
    if palette:
        changed.putpalette(palette)
    with path.open("wb") as file:
        changed.save(file, "PNG")


def with_borders(classes: np.ndarray) -> np.ndarray:
    """Return classes with void where a pixel to the right or below has another class."""
    bordered = classes.copy()
    for axis in (0, 1):
        change = np.diff(classes, axis=axis, append=np.take(classes, [-1], axis)) != 0
        bordered[change] = 255
    return bordered


def label_by(row: Path, weights: Path, *options: object) -> None:
    """Make the truth of VOC's val what weights find."""
    base = row / "data" / "voc" / "VOCdevkit" / "VOC2012"
    shutil.rmtree(base / "SegmentationClass", ignore_errors=True)
    folder = row / "truth"
    shutil.rmtree(folder, ignore_errors=True)
    names = "".join(f"JPEGImages/{name}.jpg\n" for name in NAMES)
    (base / "val.lst").write_text(names)
    listed = ("--list-file", base / "val.lst", "--split", "test")
    evaluate("segmentation", weights, base, folder, *listed, *options)
    shutil.copytree(folder / "labels", base / "SegmentationClass")
    for name in NAMES:
        change(base / "SegmentationClass" / f"{name}.png", with_borders)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Return a folder with VOC's val and weights that are right everywhere."""
    folder = tmp_path_factory.mktemp("drawn")
    base = folder / "data" / "voc" / "VOCdevkit" / "VOC2012"
    write_images(base / "JPEGImages", NAMES)
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(NAMES))
    label_by(folder, write_weights(folder / "models", VOC))
    return folder


@pytest.fixture
def voc(drawn, tmp_path, monkeypatch) -> Row:
    """Return a row of VOC's val, to change."""
    shutil.copytree(drawn, tmp_path / "voc")
    whole = dataclasses.replace(DATASETS["voc"], splits={"val": IMAGES})
    monkeypatch.setitem(DATASETS, "voc", whole)
    return Row("voc-a1", tmp_path / "voc", monkeypatch)


def names_of(findings: list[dict], state: str) -> list[str]:
    return [one["cause"] for one in findings if one["state"] == state]


def test_a_right_row_has_none_and_a_worse_network_is_no_cause(voc):
    voc.publish()
    assert voc.diagnosis() == []
    rng = np.random.default_rng(0)

    def scramble(label: np.ndarray) -> np.ndarray:
        wrong = (rng.random(label.shape) < 0.2) & (label != 255)
        return np.where(wrong, rng.integers(0, 21, label.shape), label).astype(np.uint8)

    for path in voc.labels:
        change(path, scramble)
    findings = voc.diagnosis("--overwrite")
    assert names_of(findings, "found") == []
    assert {one["cause"] for one in findings} == set(CAUSES)
    assert names_of(findings, "not looked at") == ["another pooling geometry"]


def filled_borders(row: Row) -> None:
    row.publish()
    for path in row.labels:
        change(path, lambda label: np.where(label == 255, 0, label))


def sbd_labels(row: Row) -> None:
    row.publish()
    for path in row.labels:
        label = np.array(Image.open(path))
        folder = path.parents[1] / "SegmentationClassAug"
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.where(label == 255, 0, label)).save(folder / path.name)
        path.unlink()


def sbd_labels_renamed(row: Row) -> None:
    sbd_labels(row)
    folder = next((row.folder / "data").rglob("SegmentationClassAug"))
    (folder.parent / "SegmentationClass").rmdir()
    folder.rename(folder.parent / "SegmentationClass")


def shifted_ids(row: Row) -> None:
    row.publish()
    for path in row.labels:
        change(path, lambda label: np.where(label < 20, label + 1, label))


def absent_classes(row: Row) -> None:
    evaluate(
        "segmentation",
        row.weights,
        row.images[0].parents[3],
        row.folder / "zero",
        "--absent-classes",
        "zero",
    )
    zero = json.loads((row.folder / "zero" / "scores.json").read_text())
    row.publish(scores={"mean_iou": zero["mean_iou"]})


def other_scale(row: Row) -> None:
    row.publish(test_scales=(SCALE // 2,))


def other_filter(row: Row) -> None:
    label_by(row.folder, row.weights, "--no-choose-interp-method")
    row.publish()


def exchanged_colours(row: Row) -> None:
    row.publish()
    for path in row.images:
        change(path, lambda image: image[:, :, ::-1])


def other_normalization(row: Row) -> None:
    """The weights want the values less their mean, 0 to 255."""
    arguments, statistics = params.load(row.weights)
    deviation = 255 * np.array([0.229, 0.224, 0.225], np.float32)
    first = arguments["conv1a_weight"]
    arguments["conv1a_weight"] = first / deviation[:, None, None]
    params.save(row.weights, arguments, statistics)
    row.publish()


def other_weights(row: Row) -> None:
    row.publish()
    write_weights(row.weights.parent, VOC, seed=1)
    monkeypatch, name = row.monkeypatch, f"{VOC}_coco_ep-0001.params"
    monkeypatch.setitem(RELEASED_FILES, name, md5(row.weights))


def subset(row: Row) -> None:
    """Half of the truth is that of other images; the other half is left out."""
    row.publish()
    first, second = row.labels[:2]
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    sizes = [Image.open(path).size for path in row.images[:2]]
    for path, size in zip((first, second), sizes):
        Image.open(path).resize(size, Image.Resampling.NEAREST).save(path)
    names = next((row.folder / "data").rglob("val.txt"))
    names.write_text("\n".join(NAMES[:2]))


@pytest.mark.parametrize(
    ("put_in", "cause", "told"),
    [
        (filled_borders, "labels with filled borders", "6 of 6 labels have no pixel of 255"),
        (sbd_labels, "SegmentationClassAug as val", "6 of 6 labels lie in a folder of this name"),
        (sbd_labels_renamed, "SegmentationClassAug as val", "6 are grey PNGs without void"),
        (shifted_ids, "class ids shifted by one", "with the labels' ids lowered by 1"),
        (absent_classes, "absent classes", "`--absent-classes zero`"),
        (other_scale, "another scale", f"at scale {SCALE}"),
        (other_filter, "another filter", "resized by bicubic always"),
        (exchanged_colours, "RGB and BGR or the normalisation mixed up", "red and blue exchanged"),
        (other_normalization, "RGB and BGR or the normalisation mixed up", "as the other family"),
        (other_weights, "weights of another row", f"that of the released {VOC}_coco_ep-0001"),
        (subset, "a subset of the images", "2 images of the 6 of val"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_cause_that_was_put_in_comes_first(put_in, cause, told, voc):
    put_in(voc)
    findings = voc.diagnosis("--unverified")
    assert findings[0]["cause"] == cause
    assert findings[0]["state"] == "found"
    assert told in findings[0]["finding"]


@pytest.fixture(scope="module")
def classified(tmp_path_factory) -> Path:
    """Return a folder with images to classify, not square, and weights of Model A."""
    folder = tmp_path_factory.mktemp("classified")
    write_images(folder / "data" / "ImageNet" / "JPEGImages", [f"{n:03d}" for n in range(PHOTOS)])
    write_weights(folder / "models", A)
    return folder


@pytest.fixture
def ilsvrc(classified, tmp_path, monkeypatch) -> Row:
    """Return a row of ILSVRC's val, to change."""
    shutil.copytree(classified, tmp_path / "ilsvrc")
    whole = dataclasses.replace(DATASETS["ilsvrc-cls"], splits={"val": PHOTOS, "test": PHOTOS})
    monkeypatch.setitem(DATASETS, "ilsvrc-cls", whole)
    return Row("ilsvrc-a", tmp_path / "ilsvrc", monkeypatch)


def classify(row: Row, *options: object, shift: int = 0) -> None:
    """Make the truth what the weights find, shifted."""
    data = row.folder / "data" / "ImageNet"
    names = [f"JPEGImages/{path.name}" for path in row.images]
    lists = data / "all.lst", data / "val.lst"
    lists[0].write_text("".join(f"{n}\t0\t{name}\n" for n, name in enumerate(names)))
    listed = ("--list-file", lists[0], "--split", "test")
    evaluate("classification", row.weights, data, row.folder / "truth", *listed, *options)
    found = np.load(row.folder / "truth" / "predictions" / f"{SCALE}.npy").argmax(axis=1) + shift
    assert len(set(found.tolist())) > 4
    lines = (f"{n}\t{label}\t{name}\n" for n, (label, name) in enumerate(zip(found, names)))
    lists[1].write_text("".join(lines))


def labels_too_high(row: Row) -> None:
    classify(row, "--pool", "caffe", shift=1)
    row.publish()


def three_crops(row: Row) -> None:
    classify(row, "--pool", "caffe", "--test-3crops")
    row.publish()


def other_pool(row: Row) -> None:
    classify(row, "--pool", "full")
    row.publish()


def squashed_images(row: Row) -> None:
    classify(row, "--pool", "caffe")
    row.publish()
    for path in row.images:
        change(path, lambda image: np.array(Image.fromarray(image).resize((80, 80))))


def small_images(row: Row) -> None:
    classify(row, "--pool", "caffe")
    row.publish()
    for path in row.images:
        image = Image.open(path).convert("RGB")
        factor = 32 / min(image.size)
        with path.open("wb") as file:
            image.resize([round(side * factor) for side in image.size]).save(file, "PNG")


@pytest.mark.parametrize(
    ("put_in", "cause", "told"),
    [
        (labels_too_high, "class ids shifted by one", "with the labels' ids lowered by 1"),
        (three_crops, "another crop", "with three crops"),
        (squashed_images, "another crop", "12 images are all 80×80: cut or squashed copies"),
        (small_images, "another scale", "the shorter side of 12 images is 32: resized copies"),
        (other_pool, "another pooling geometry", "by `--pool full`"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_cause_that_was_put_into_a_classifiers_row_comes_first(put_in, cause, told, ilsvrc):
    put_in(ilsvrc)
    findings = ilsvrc.diagnosis()
    assert findings[0]["cause"] == cause
    assert findings[0]["state"] == "found"
    assert told in findings[0]["finding"]
    assert names_of(findings, "not looked at") == [
        "SegmentationClassAug as val",
        "labels with filled borders",
        "absent classes",
    ]


def test_a_damaged_image_is_no_end_and_the_findings_are_kept(voc):
    """What failed is told; a call that finds the same scores does not test again."""
    filled_borders(voc)
    assert voc.diagnosis()[0]["state"] == "found"
    voc.images[0].write_bytes(b"no image")
    assert names_of(voc.diagnosis(), "not looked at") == ["another pooling geometry"]
    path = voc.folder / "out" / "report.json"
    report = json.loads(path.read_text())
    report["rows"][0]["diagnosis"] = []
    path.write_text(json.dumps(report))
    findings = {one["cause"]: one for one in voc.diagnosis()}
    assert findings["labels with filled borders"]["state"] == "found"
    colours = findings["RGB and BGR or the normalisation mixed up"]
    assert colours["state"] == "not looked at" and voc.images[0].name in colours["finding"]


@pytest.mark.parametrize(
    ("gains", "state", "told"),
    [
        ([10, 10, 11, 9], "found", "4 images tested again: mean IoU 50.00 as tested, 60.00 twice"),
        ([40, 0, 0, 0], "not found", "60.00 twice, which may be chance among so few"),
        ([1, 1, 1, 1], "not found", "51.00 twice"),
        ([-20, -20, -20, -20], "not found", "30.00 twice"),
    ],
)
def test_a_gain_counts_that_is_no_chance_and_explains_a_part_of_what_is_missing(gains, state, told):
    scores = {AS_TESTED: np.full((4, 2), 50.0), Way(scale=2): 50.0 + np.array([gains, gains]).T}
    handful = SimpleNamespace(scores=lambda way=AS_TESTED: scores[way])
    case = SimpleNamespace(shortfall=10.0, handful=handful, is_segmentation=True)
    case.of_shortfall = lambda gain: Case.of_shortfall(case, gain)
    found = diagnosis._finding("any", lambda one: diagnosis._compare(one, {"twice": Way(2)}), case)
    assert found.state == state
    assert found.finding.endswith(told)


@pytest.mark.parametrize("options", [{}, {"test_3crops": True}, {"test_10crops": True}], ids=str)
def test_a_handful_is_classified_as_evaluate_does(options, classified, tmp_path):
    samples = [
        Sample(number, path, number, path.stem)
        for number, path in enumerate(sorted(classified.rglob("JPEGImages/*.jpg"))[:3])
    ]
    lines = (f"{one.index}\t{one.label}\t{one.image}\n" for one in samples)
    (tmp_path / "val.lst").write_text("".join(lines))
    scale = 256 if options.get("test_10crops") else SCALE
    (weights,) = (classified / "models").iterdir()
    places = {"weights": (weights,), "data_root": tmp_path, "output": tmp_path / "out"}
    tested = ClassificationOptions(**places, test_scales=(scale,), devices=Devices(), **options)
    ClassificationTester(tested).test()
    expected = np.load(tmp_path / "out" / "predictions" / f"{scale}.npy")
    right, probability = Handful(tested, samples).scores().T
    np.testing.assert_allclose(probability, 100 * expected[range(3), range(3)], rtol=1e-4)
    np.testing.assert_array_equal(right, 100.0 * (expected.argmax(axis=1) == range(3)))


def test_a_handful_is_segmented_as_evaluate_does(drawn, tmp_path):
    root = next(drawn.rglob("VOCdevkit"))
    (weights,) = (drawn / "models").iterdir()
    places = {"weights": (weights,), "data_root": root, "output": tmp_path / "out"}
    options = SegmentationOptions(**places, test_scales=(48,), devices=Devices())
    report = SegmentationTester(options).test()
    expected = load_image_counts(tmp_path / "out").class_iou()
    found = Handful(options, report.samples).scores()[:, 0]
    np.testing.assert_allclose(found, np.nanmean(expected, axis=1), rtol=1e-6)

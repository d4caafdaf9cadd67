"""The HTML report: which images it shows, what it says, and that it stays small and harmless."""

import base64
import dataclasses
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_runs import write_classification_run, write_segmentation_run

from ademx.errors import MissingDependency
from ademx.published import Result
from ademx.reports import page as report
from ademx.reports.choice import ClassificationImages, SegmentationImages, choose, hardest_classes
from ademx.reports.page import TableRow, write_report, write_run_report
from ademx.reports.pictures import PictureEncoder
from ademx.testing.record import Report, RunRecord, RunSettings, WeightsRead
from iters.datasets import DATASETS, Dataset

SIZE = (12, 20)
PALETTE = np.array(DATASETS["voc"].palette, np.uint8)


def pairs(count: int, *, seed: int = 0, classes=range(21)) -> list:
    """Return (truth, prediction) pairs: each image has two classes, a border of void, errors."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        one, other = rng.choice(list(classes), 2, replace=False)
        truth = np.where(np.arange(SIZE[1]) < rng.integers(4, 16), one, other).astype(np.uint8)
        truth = np.tile(truth, (SIZE[0], 1))
        prediction = truth.copy()
        wrong = rng.random(SIZE) < rng.uniform(0, 0.9)
        prediction[wrong] = rng.choice(list(classes))
        truth[0] = 255
        found.append((truth, prediction))
    return found


def mean_ious(found: list) -> list[float]:
    """Return each image's mean IoU over its classes, worked out class by class."""
    return [np.mean(list(class_ious(*pair).values())) for pair in found]


def class_ious(truth: np.ndarray, prediction: np.ndarray) -> dict[int, float]:
    counted = truth != 255
    ious = {}
    for number in {*truth[counted].tolist(), *prediction[counted].tolist()}:
        here, there = (truth == number) & counted, (prediction == number) & counted
        ious[number] = 100 * np.sum(here & there) / np.sum(here | there)
    return ious


class Page(HTMLParser):
    """A report's elements: data by id, and the text of those that are asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.data: dict[str, object] = {}
        self.text = ""
        self._open: list[str] = []
        self._id = None
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._id = attributes.get("id") if attributes.get("type") == "application/json" else None
        self._is_code = tag in ("style", "script") and self._id is None

    def handle_endtag(self, tag):
        self._is_code = False

    def handle_data(self, data):
        if self._id is not None:
            self.data[self._id] = json.loads(data)
            self._id = None
        elif not getattr(self, "_is_code", False):
            self.text += data

    def images(self, run: int = 1) -> list[dict]:
        return self.data[f"run-{run}-data"]["images"]

    def names(self, group: str) -> list[str]:
        return [image["name"] for image in self.images() if image["group"] == group]


def written(tmp_path: Path, *runs: Report, rows=()) -> Page:
    write_report(tmp_path / "report.html", runs, title="A report", rows=rows)
    return Page(tmp_path / "report.html")


def decoded(uri: str, mode: str = "RGB") -> np.ndarray:
    kind, data = uri.split(",")
    assert kind == "data:image/webp;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert(mode))


def row(*, verdict="reproduced", ours=80.82, detail="", **changes) -> TableRow:
    result = Result(
        name="voc-a1",
        dataset="voc",
        split="val",
        network="rna-a1",
        setting="scale 500, flip",
        values={"mean_iou": 80.84},
        source="README",
    )
    ours = {} if ours is None else {"mean_iou": ours}
    return TableRow(dataclasses.replace(result, **changes), verdict, ours, detail)


# ---- which images are shown --------------------------------------------------------------------


def test_worst_and_best_are_those_of_the_lowest_and_highest_mean_iou(tmp_path):
    found = pairs(40)
    page = written(tmp_path, write_segmentation_run(tmp_path / "run", found))
    names = [f"image_{index:03d}" for index in np.argsort(mean_ious(found), kind="stable")]
    assert page.names("worst") == names[:12]
    assert page.names("best") == names[::-1][:12]
    scores = {image["name"]: image["score"] for image in page.images()}
    for index, score in enumerate(mean_ious(found)):
        assert scores.get(f"image_{index:03d}", score) == pytest.approx(score, abs=0.005)


def test_a_few_images_are_each_shown_once(tmp_path):
    page = written(tmp_path, write_segmentation_run(tmp_path / "run", pairs(5)))
    assert (len(page.names("worst")), len(page.names("best"))) == (3, 2)
    assert len({image["name"] for image in page.images()}) == 5


def test_every_class_has_a_picture_and_its_worst_image_while_there_is_room(tmp_path):
    found = pairs(120, seed=3)
    images = SegmentationImages(write_segmentation_run(tmp_path / "run", found))
    few = set(choose(images, at_most=0))
    many = set(choose(images, at_most=1000))
    for number in range(21):
        ious = {
            index: class_ious(*pair)[number]
            for index, pair in enumerate(found)
            if number in class_ious(*pair)
        }
        assert few & ious.keys()
        lowest = [index for index, iou in ious.items() if iou == min(ious.values())]
        assert many & set(lowest)
    assert len(few) < 45 < len(many)


def test_facts_of_an_image_are_its_classes_with_their_iou_and_pixels(tmp_path):
    found = pairs(3)
    page = written(tmp_path, write_segmentation_run(tmp_path / "run", found))
    for image in page.images():
        truth, prediction = found[int(image["name"][-3:])]
        counted = truth != 255
        expected = [
            [number, iou, np.sum(truth == number), np.sum((prediction == number) & counted)]
            for number, iou in sorted(class_ious(truth, prediction).items())
        ]
        np.testing.assert_allclose(image["classes"], expected, atol=0.005)


def test_numbers_of_images_with_a_class_are_those_of_the_whole_run(tmp_path):
    found = pairs(60)
    page = written(tmp_path, write_segmentation_run(tmp_path / "run", found))
    expected = [sum(number in class_ious(*pair) for pair in found) for number in range(21)]
    assert page.data["run-1-data"]["numImages"] == expected
    assert page.data["run-1-data"]["numTested"] == 60


# ---- pictures ----------------------------------------------------------------------------------


def test_panels_are_truth_prediction_and_errors_pixel_by_pixel(tmp_path):
    found = pairs(3)
    page = written(tmp_path, write_segmentation_run(tmp_path / "run", found))
    for image in page.images():
        picture = page.data[image["key"]]
        truth, prediction = found[int(image["name"][-3:])]
        assert (picture["height"], picture["width"]) == SIZE
        np.testing.assert_array_equal(decoded(picture["truth"]), PALETTE[truth])
        np.testing.assert_array_equal(decoded(picture["prediction"]), PALETTE[prediction])
        error = decoded(picture["error"], "RGBA")
        is_red = (error[..., 0] > 200) & (error[..., 1] < 60) & (error[..., 3] == 255)
        np.testing.assert_array_equal(is_red, (truth != prediction) & (truth != 255))
        np.testing.assert_array_equal(error[truth == prediction][:, 3], 0)
        assert 0 < np.mean(error[truth == 255][:, 3] > 0) < 1  # hatched
        photograph = decoded(picture["image"]).astype(int)
        inside = photograph[2:, :, 0], truth[2:] * 9
        assert np.abs(inside[0] - inside[1]).mean() < 12  # a lossy copy of it


def test_stored_ids_have_their_own_colours(tmp_path):
    cityscapes = DATASETS["cityscapes"]
    road_and_car = np.array([[0, 13]], np.uint8).repeat(4, 0).repeat(4, 1)
    run = write_segmentation_run(tmp_path / "run", [(road_and_car,) * 2], dataset=cityscapes)
    page = written(tmp_path, run)
    picture = page.data[page.images()[0]["key"]]
    assert decoded(picture["truth"])[0, [0, 4]].tolist() == [[128, 64, 128], [0, 0, 142]]
    classes = page.data["run-1-data"]["classes"]
    assert classes[13] == {"name": "car", "colour": "#00008e"}


def test_missing_and_damaged_files_are_left_out_and_named(tmp_path):
    run = write_segmentation_run(tmp_path / "run", pairs(6))
    (run.folder / "image_000.jpg").unlink()
    (run.folder / "labels" / "image_001.png").unlink()
    (run.folder / "image_002.png").write_bytes(b"not a picture")
    Image.new("L", (3, 3)).save(run.folder / "labels" / "image_003.png")
    page = written(tmp_path, run)
    assert {image["name"] for image in page.images()} == {"image_004", "image_005"}
    for part in (
        "image_000.jpg: no such",
        "labels/image_001.png: no such",
        "image_002.png: cannot",
    ):
        assert part in page.text
    assert "labels/image_003.png: 3×3 pixels, but its image has 20×12" in page.text
    assert "4 notes on what is not shown" in page.text


@pytest.mark.parametrize(
    ("remove", "message"),
    [("images.npz", "images.npz: no such file"), ("labels", "--no-save-results")],
)
def test_a_run_without_its_files_has_scores_and_a_note(tmp_path, remove, message):
    run = write_segmentation_run(tmp_path / "run", pairs(4))
    shutil.move(run.folder / remove, tmp_path / "elsewhere")
    page = written(tmp_path, run)
    assert page.images() == []
    assert message in page.text
    assert f"{run.record.scores['mean_iou']:.2f} %" in page.text


def test_a_damaged_images_npz_is_a_note(tmp_path):
    run = write_segmentation_run(tmp_path / "run", pairs(4))
    (run.folder / "images.npz").write_bytes(b"PK")
    assert "images.npz: not what" in written(tmp_path, run).text


def test_a_split_without_labels_shows_predictions(tmp_path):
    run = write_segmentation_run(tmp_path / "run", pairs(30))
    samples = [dataclasses.replace(sample, label=None) for sample in run.samples]
    record = RunRecord(settings=run.record.settings, num_images=30)
    page = written(tmp_path, dataclasses.replace(run, samples=samples, record=record))
    assert len(page.names("sample")) == len(page.images()) == 24
    assert set(page.data["run-1-image-0"]) == {"width", "height", "image", "prediction"}
    assert "This split has no labels" in page.text


# ---- size --------------------------------------------------------------------------------------


def test_pictures_shrink_until_they_fit():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (150, 200, 3), dtype=np.uint8)
    classes = rng.integers(0, 21, (2, 150, 200), dtype=np.uint8)
    panels = dict(zip(("image", "truth", "prediction"), (noise, *classes)))
    sizes = {}
    for num_bytes in (1_000_000, 200_000, 120_000, 60_000):
        encoder = PictureEncoder(DATASETS["voc"], num_bytes=num_bytes, num_pictures=2)
        texts = [encoder.encode(panels), encoder.encode(panels)]
        assert sum(map(len, texts)) <= num_bytes
        sizes[num_bytes] = json.loads(texts[0])["width"]
        picture = json.loads(texts[1])
        assert decoded(picture["truth"]).shape == (picture["height"], picture["width"], 3)
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    assert sizes[1_000_000] == 200 > sizes[60_000]
    assert PictureEncoder(DATASETS["voc"], num_bytes=900, num_pictures=1).encode(panels) is None


def test_a_plain_picture_leaves_its_bytes_to_the_next():
    plain = {"image": np.zeros((300, 400, 3), np.uint8)}
    rng = np.random.default_rng(0)
    noise = {"image": rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)}
    dataset = DATASETS["ilsvrc-cls"]
    alone = PictureEncoder(dataset, num_bytes=50_000, num_pictures=1)
    after = PictureEncoder(dataset, num_bytes=100_000, num_pictures=2)
    assert len(after.encode(plain)) < 2_000
    beside = PictureEncoder(dataset, num_bytes=100_000, num_pictures=2)
    widths = [json.loads(each.encode(noise))["width"] for each in (alone, beside, after)]
    assert widths[0] == widths[1] < widths[2]


def test_500_images_of_noise_keep_to_the_size_of_the_file(tmp_path, monkeypatch):
    # A tenth of the real limit, with images of a tenth of VOC's pixels: the same, but quick.
    monkeypatch.setattr(report, "_FILE_BYTES", 1_600_000)
    monkeypatch.setattr(report, "_SECTION_BYTES", 100_000)
    monkeypatch.setattr(report, "_PICTURE_BYTES", 2_400)
    rng = np.random.default_rng(0)
    found = [tuple(rng.integers(0, 21, (2, 96, 128), dtype=np.uint8)) for _ in range(3)]
    run = write_segmentation_run(tmp_path / "run", found)
    # 500 samples of the same three images, each with a name of its own.
    samples = [
        dataclasses.replace(run.samples[index % 3], index=index, name=f"n{index:03d}")
        for index in range(500)
    ]
    for sample in samples:
        source = run.folder / "labels" / f"image_{sample.index % 3:03d}.png"
        (run.folder / "labels" / f"{sample.name}.png").symlink_to(source)
    counts = np.load(run.folder / "images.npz")["counts"]
    np.savez(
        run.folder / "images.npz",
        names=[sample.name for sample in samples],
        counts=[counts[index % 3] for index in range(500)],
    )
    run = dataclasses.replace(run, samples=samples)
    page = written(tmp_path, run, run)
    size = (tmp_path / "report.html").stat().st_size
    assert 800_000 < size < 1_700_000
    assert min(len(page.images(1)), len(page.images(2))) >= 24
    for image in page.images(2):
        assert decoded(page.data[image["key"]]["prediction"]).size


# ---- what is written ---------------------------------------------------------------------------


def test_scores_stand_beside_the_published_ones(tmp_path):
    published = {"mean_iou": 80.8, "decimals": 2, "setting": "scale 500, flip", "source": "README"}
    run = write_segmentation_run(tmp_path / "run", pairs(4), published=published)
    text = written(tmp_path, run).text
    ours = run.record.scores["mean_iou"]
    assert (
        f"mean IoU{ours:.2f} %published 80.80difference {ours - 80.8:+.2f}".replace("-", "−")
        in text
    )
    assert "Published: scale 500, flip (README)." in text
    assert "4 of 4 images tested." in text


@pytest.mark.parametrize(
    ("overlap", "shared"), [({}, 126), ({"overlap": 0}, 0), ({"overlap": 40}, 40)], ids=str
)
def test_what_else_was_done_to_the_scores_stands_above_them(overlap, shared, tmp_path):
    """Tiles share a quarter of their shorter side unless another overlap was given."""
    run = write_segmentation_run(tmp_path / "run", pairs(2))
    settings = {**run.record.settings.as_json, "test_steps": 2, "crf": {"iterations": 10}}
    settings |= {"tile": [504, 1008], **overlap}
    record = dataclasses.replace(run.record, settings=RunSettings.from_json(settings))
    run = dataclasses.replace(run, record=record)
    text = written(tmp_path, run).text
    tiles = f"tiles of 504×1008 pixels, of which neighbours share {shared}"
    assert f"scale 500 · flipped too · 2 test steps · {tiles} · CRF" in text


def test_bars_are_sorted_with_absent_classes_last(tmp_path):
    found = pairs(12, classes=(0, 3, 7, 15))
    page = written(tmp_path, write_segmentation_run(tmp_path / "run", found))
    bars = [attributes for tag, attributes in page.tags if "data-iou" in attributes]
    truth, prediction = (np.concatenate(each) for each in zip(*found))
    ious = class_ious(truth, prediction)
    names = DATASETS["voc"].class_names
    expected = sorted(ious, key=lambda number: -ious[number])
    assert [bar["data-name"] for bar in bars[: len(ious)]] == [names[n] for n in expected]
    assert [float(bar["data-iou"]) for bar in bars[: len(ious)]] == pytest.approx(
        [ious[number] for number in expected], abs=1e-4
    )
    assert {bar["data-iou"] for bar in bars[len(ious) :]} == {""}
    assert len(bars) == 21


def test_largest_confusions_are_a_table(tmp_path):
    truth = np.array([[0] * 10 + [3] * 10], np.uint8)
    prediction = np.array([[0] * 7 + [15] * 3 + [3] * 4 + [7] * 6], np.uint8)
    page = written(tmp_path, write_segmentation_run(tmp_path / "run", [(truth, prediction)]))
    assert "birdcar60.06" in page.text  # 6 of 10 pixels
    assert "backgroundperson30.03" in page.text
    assert page.text.index("birdcar") < page.text.index("backgroundperson")


def test_the_table_has_a_row_for_each_result(tmp_path):
    rows = [
        row(),
        row(name="b", ours=None, verdict="not run", detail="run `ademx data check <voc>`"),
        row(
            name="c",
            values={"mean_iou": 78.4, "class_iiou": 59.1},
            verdict="differs",
            decimals=1,
        ),
    ]
    page = written(tmp_path, write_segmentation_run(tmp_path / "run", pairs(2)), rows=rows)
    assert "3 rows: 1 reproduced, 1 differs, 1 not run." in page.text
    assert "mean IoU80.8480.82−0.02✓ reproduced" in page.text
    assert "mean IoU80.84––○ not run" in page.text
    assert "mean IoU78.480.82+2.42≠ differs" in page.text  # with the source's one decimal
    assert "class iIoU59.1––" in page.text
    assert "<code>ademx data check &lt;voc&gt;</code>" in page.source
    assert page.source.count('<a href="#run-1">voc-a1</a>') == 1
    assert page.source.index("Published and ours") < page.source.index('id="run-1"')


def test_options_files_and_versions_stand_at_the_end(tmp_path):
    run = write_segmentation_run(tmp_path / "run", pairs(2))
    record = dataclasses.replace(
        run.record,
        weights=[
            WeightsRead("m/voc_rna-a1_cls21_s8_ep-0001.params", "a34628a63d5f62dcb98c29c4e281f332"),
            WeightsRead("m/voc_rna-a1_cls21_s8_coco_ep-0001.params", "0" * 32),
            WeightsRead("mine.params", "2" * 32),
        ],
    )
    text = written(tmp_path, dataclasses.replace(run, record=record)).text
    text = text[text.index("Options, files and versions") :]
    assert "test flippingyes" in text
    assert "test scales500" in text
    assert "images per second4.0" in text
    assert "numpy1.26.4" in text
    assert "samples of val" + "1" * 32 in text
    assert "_s8_ep-0001.paramsa34628a63d5f62dcb98c29c4e281f332the released file" in text
    assert "coco_ep-0001.params" + "0" * 32 + "not the released file of this name" in text
    assert "mine.params" + "2" * 32 + "no released file has this name" in text
    assert re.search(r"Written by ademx \S+ on 20\d\d-\d\d-\d\d \d\d:\d\d UTC", text)


def test_broken_images_are_listed(tmp_path):
    run = write_segmentation_run(tmp_path / "run", pairs(3))
    broken = [{"image": "x", "error": "x.jpg: cut <short>"}]
    record = dataclasses.replace(run.record, num_images=4, broken=broken)
    page = written(tmp_path, dataclasses.replace(run, record=record))
    assert "3 of 4 images tested. 1 could not be" in page.text
    assert "x.jpg: cut <short>" in page.text


def test_text_from_data_is_never_markup(tmp_path):
    evil = "</script><b>&amp;'\""
    names = (evil, "two", "three")
    dataset = Dataset("own-x", "segmentation", 3, class_names=names, palette=((1, 2, 3),) * 256)
    run = write_segmentation_run(
        tmp_path / "run", pairs(3, classes=range(3)), dataset=dataset, title=evil
    )
    samples = [
        dataclasses.replace(run.samples[0], name="image_000"),
        *(dataclasses.replace(sample, image=tmp_path / evil) for sample in run.samples[1:]),
    ]
    run = dataclasses.replace(run, samples=samples)
    page = written(tmp_path, run, rows=[row(name=evil, detail=evil, verdict=evil)])
    assert "b" not in {tag for tag, _ in page.tags}
    assert page.data["run-1-data"]["classes"][0]["name"] == evil
    assert page.text.count(evil) >= 6


def test_names_cannot_act_on_the_page(tmp_path):
    """They are escaped, and set off from the text beside them."""
    names = list(DATASETS["voc"].class_names)
    names[1:5] = ["חתול", "a\x1b[2J\x07\nb", "\ud800", "x\u202ey</bdi><b>"]
    dataset = dataclasses.replace(DATASETS["voc"], class_names=tuple(names))
    run = write_segmentation_run(tmp_path / "run", pairs(4), dataset=dataset)
    page = written(tmp_path, run)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in (
        r"a\x1b[2J\x07\nb",
        r"\ud800",
        r"x\u202ey&lt;/bdi&gt;&lt;b&gt;",
        "\u2068חתול\u2069",
    ):
        assert f'<span class="name"><bdi>{name}</bdi></span>' in text
    assert not set("\x1b\x07\u202e") & set(text)
    assert r"\ud800" in page.text


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    run = write_segmentation_run(tmp_path / "run", pairs(2))
    odd = dataclasses.replace(run.samples[0], image=tmp_path / "caf\udce9.jpg")
    page = written(tmp_path, dataclasses.replace(run, samples=[odd, run.samples[1]]))
    assert r"caf\xe9.jpg: no such image file" in page.text


def test_nothing_but_the_pages_own_code_may_run_and_nothing_is_fetched(tmp_path):
    page = written(tmp_path, write_segmentation_run(tmp_path / "run", pairs(2)))
    policy = next(
        attributes["content"]
        for tag, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    for tag, name in (("style", "style-src"), ("script", "script-src")):
        (code,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.source, re.S)
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    for tag, attributes in page.tags:
        assert not re.match("https?:|//", attributes.get("src", "") + attributes.get("href", ""))
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag


# ---- classification ----------------------------------------------------------------------------


@pytest.fixture
def guesses() -> tuple[np.ndarray, list[int]]:
    """Return (2, 30, 1000) probabilities and the truth; image 4 was not tested."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 6, 30).tolist()
    logits = rng.normal(size=(2, 30, 1000))
    logits[:, np.arange(30), truth] += rng.uniform(-2, 9, 30)
    logits[:, :, :6] += 4
    found = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    found[:, 4] = np.nan
    return found.astype(np.float32), truth


def test_classification_images_are_ordered_by_the_lead_of_the_truth(tmp_path, guesses):
    probabilities, truth = guesses
    page = written(tmp_path, write_classification_run(tmp_path / "run", probabilities, truth))
    leads = {}
    for index, mean in enumerate(probabilities.mean(axis=0)):
        if index != 4:
            others = np.delete(mean, truth[index])
            leads[f"photo_{index:03d}"] = 100 * (mean[truth[index]] - others.max())
    order = sorted(leads, key=leads.get)
    assert page.names("worst") == order[:12]
    assert page.names("best") == order[::-1][:12]
    assert leads[order[0]] < 0 < leads[order[-1]]
    for image in page.images():
        assert image["lead"] == pytest.approx(leads[image["name"]], abs=0.006)


def test_classification_images_have_five_guesses_and_the_truth(tmp_path, guesses):
    probabilities, truth = guesses
    page = written(tmp_path, write_classification_run(tmp_path / "run", probabilities, truth))
    for image in page.images():
        index = int(image["name"][-3:])
        mean = probabilities.mean(axis=0)[index]
        assert image["truth"] == truth[index]
        assert image["score"] == pytest.approx(100 * mean[truth[index]], abs=0.006)
        assert [number for number, _ in image["guesses"]] == np.argsort(-mean)[:5].tolist()
        assert {entry[0] for entry in image["classes"]} == {truth[index], int(mean.argmax())}
        assert set(page.data[image["key"]]) == {"width", "height", "image"}


def test_classification_scores_are_those_of_each_scale_and_their_mean(tmp_path, guesses):
    published = {"top1_error": 19.2, "top5_error": 4.73, "setting": "scale 320", "source": "R"}
    run = write_classification_run(tmp_path / "run", *guesses, published=published)
    text = written(tmp_path, run).text
    probabilities, truth = guesses
    kept = np.arange(30) != 4
    wrong = probabilities.mean(axis=0)[kept].argmax(axis=1) != np.array(truth)[kept]
    error = 100 * wrong.mean()
    assert f"top-1 error{error:.2f} %published 19.20" in text
    for scale, rows in zip((256, 320), probabilities):
        error = 100 * np.mean(rows[kept].argmax(axis=1) != np.array(truth)[kept])
        assert f"{scale}{error:.2f}" in text


def test_hardest_classes_name_what_they_are_taken_for(tmp_path):
    probabilities = np.full((1, 6, 1000), 0.0, np.float32)
    truth, taken_for = [3, 3, 3, 8, 8, 9], [7, 7, 3, 8, 1, 9]
    probabilities[0, np.arange(6), taken_for] = 1
    run = write_classification_run(tmp_path / "run", probabilities, truth)
    first, second, third = hardest_classes(ClassificationImages(run), at_most=3)
    assert (first.number, first.num_images, first.taken_for) == (3, 3, 7)
    assert first.error == pytest.approx(200 / 3)
    assert (second.number, second.error, second.taken_for) == (8, 50, 1)
    assert (third.number, third.error, third.taken_for) == (9, 0, None)
    names = DATASETS["ilsvrc-cls"].class_names
    assert f"{names[3]}66.73{names[7]}" in written(tmp_path, run).text


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.unlink(), "320.npy: no such file"),
        (lambda path: path.write_bytes(b"x"), "320.npy: not what `ademx evaluate` wrote: "),
        (
            lambda path: np.save(path, np.zeros((3, 3))),
            "320.npy: not what `ademx evaluate` wrote: its shape is (3, 3), expected",
        ),
    ],
)
def test_probabilities_that_are_not_there_are_a_note(tmp_path, guesses, write, message):
    run = write_classification_run(tmp_path / "run", *guesses)
    write(run.folder / "predictions" / "320.npy")
    assert message in written(tmp_path, run).text


# ---- files -------------------------------------------------------------------------------------


def test_a_report_replaces_the_old_one_only_once_it_is_complete(tmp_path, monkeypatch):
    run = write_segmentation_run(tmp_path / "run", pairs(2))
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_, **__):
        raise RuntimeError("on the way")

    monkeypatch.setattr(report, "run_section", fail)
    with pytest.raises(RuntimeError, match="on the way"):
        write_report(path, [run], title="A report")
    assert path.read_text() == "old"
    assert {entry.name for entry in tmp_path.iterdir()} == {"run", "report.html"}


def test_a_report_into_a_missing_folder_is_one_error(tmp_path):
    with pytest.raises(OSError, match="nothing was replaced"):
        write_report(tmp_path / "missing" / "report.html", [], title="A report")


def test_a_pillow_without_webp_is_a_missing_dependency(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda feature: feature != "webp")
    with pytest.raises(MissingDependency, match="pip install"):
        write_report(tmp_path / "report.html", [], title="A report")


def test_a_report_of_one_run_is_named_after_its_weights_and_split(tmp_path):
    run = write_segmentation_run(tmp_path / "run", pairs(2))
    found = Report(run.folder, run.record, run.dataset, run.samples)
    write_run_report(tmp_path / "report.html", found)
    page = Page(tmp_path / "report.html")
    assert "<h1>voc_rna-a1_cls21_s8 on voc val</h1>" in page.source
    assert "<nav" not in page.source
    assert len(page.images()) == 2


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("name", report._SCRIPTS)
def test_scripts_are_without_syntax_errors(name):
    file = Path(report.__file__).with_name("assets") / f"{name}.js"
    subprocess.run(["node", "--check", file], check=True)

"""The HTML report in headless Chromium: it renders, filters, enlarges, and fetches nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from report_runs import write_classification_run, write_segmentation_run

from ademx.published import Result
from ademx.reports.page import TableRow, write_report
from iters.datasets import Dataset

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
EVIL = "</script><script>document.title = 'taken over'</script>"
NAMES = ("ground", EVIL, *(f"thing {number}" for number in range(2, 12)))
PALETTE = tuple((20 * number, 255 - 20 * number, 90) for number in range(256 // 21))
DATASET = Dataset("own-things", "segmentation", 12, class_names=NAMES, palette=PALETTE)
SIZE = (24, 40)  # rows, columns
IMAGES = 70

# The ratio of luminances of an element's text and what is behind it, as WCAG 2 defines it.
CONTRAST = """element => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element;
  const ground = (node) => getComputedStyle(node).backgroundColor;
  while (channels(ground(behind))[3] === 0) behind = behind.parentElement;
  const both = [luminance(getComputedStyle(element).color), luminance(ground(behind))].sort();
  return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
}"""


def make_pairs() -> list:
    """Return (truth, prediction) pairs: ground and one thing, with part of it mistaken."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(IMAGES):
        truth = np.zeros(SIZE, np.uint8)
        truth[4:20, 5:30] = 1 + index % 11
        truth[3, 5:30] = 255
        prediction = np.where(truth == 255, 0, truth).astype(np.uint8)
        prediction[4 : rng.integers(5, 19), 5 : rng.integers(6, 29)] = 1 + rng.integers(11)
        found.append((truth, prediction))
    return found


PAIRS = make_pairs()
# Only the first eleven classes of a thousand have images, one each but for the first.
TRUTH = [0, 0, 0, *range(1, 11)]


def make_probabilities() -> np.ndarray:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(1, len(TRUTH), 1000))
    logits[0, np.arange(len(TRUTH)), TRUTH] += 5
    logits[0, :4, 20] += 12  # four images are taken for class 20
    return np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)


def iou_of(pair, number: int) -> float | None:
    """Return a class's IoU in an image, None where it is absent."""
    truth, prediction = pair
    here, there = truth == number, (prediction == number) & (truth != 255)
    union = np.sum(here | there)
    return np.sum(here & there) / union if union else None


def name_of(index: int) -> str:
    return f"image_{index:03d}"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [
        write_segmentation_run(folder / "one", PAIRS, dataset=DATASET, title="things"),
        write_classification_run(folder / "two", make_probabilities(), TRUTH, title="classes"),
    ]
    verdicts = ("reproduced", "differs", "not run", "unverified", "failed")
    rows = [
        TableRow(
            Result(
                name="things" if verdict == "reproduced" else f"row {verdict}",
                dataset="voc",
                split="val",
                network="a rather long description of what was tested here",
                setting="2 conv, VOC+SBD+COCO, scale 500, flip, 2 test steps",
                values={"mean_iou": 80.84, "pixel_accuracy": 90.1},
                source="README",
            ),
            verdict,
            ours={"mean_iou": 80.8} if verdict == "reproduced" else {},
            detail="missing: /a/rather/long/path/without/any/place/to/break/it/at.params; run "
            "`ademx weights check /a/rather/long/path/without/any/place/to/break/it`",
        )
        for verdict in verdicts
    ]
    write_report(folder / "report.html", runs, title="Published results", rows=rows)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def window(browser, report) -> tuple:
    """Return a page, and the list of what goes wrong on it: a message, an error, a request."""
    problems = []

    def note_request(url: str) -> None:
        if not url.startswith(("data:", report.as_uri())):
            problems.append(f"request: {url[:100]}")

    page = browser.new_page()
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: note_request(request.url))
    return page, problems


@pytest.fixture
def page(window, report):
    """Load the report anew, in one window for all tests: to open one takes longer than the page."""
    page, problems = window
    problems.clear()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="light")
    page.goto(report.as_uri())
    yield page
    assert problems == []


def shown(page, run: int = 1) -> list[str]:
    """Return the names of the visible cards, from top to bottom."""
    return page.locator(f"#run-{run} .card:visible h5").all_inner_texts()


def check_images_load(page) -> int:
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    widths = page.evaluate("() => [...document.images].map(image => image.naturalWidth)")
    assert min(widths) > 0
    return len(widths)


def test_it_renders_and_every_image_loads(page):
    # Image, truth and prediction, and for the error what is below it; a photograph alone.
    assert check_images_load(page) == 24 * 5 + len(TRUTH)
    assert page.title() == "Published results"
    assert page.locator("h1").inner_text() == "Published results"
    assert page.locator("table.overview tbody").count() == 5
    page.locator("table.overview a").click()
    assert page.evaluate("location.hash") == "#run-1"


def test_worst_images_come_first(page):
    means = [
        np.mean([iou for number in range(12) if (iou := iou_of(pair, number)) is not None])
        for pair in PAIRS
    ]
    order = [name_of(index) for index in np.argsort(means, kind="stable")]
    assert shown(page) == order[:12] + order[::-1][:12]
    assert page.locator("#run-1 .count").inner_text() == (
        f"The 12 worst and 12 best of {IMAGES} by mean IoU."
    )


def test_a_class_is_chosen_from_the_list(page, report):
    data = page.evaluate("JSON.parse(document.getElementById('run-1-data').textContent)")
    with_pictures = {image["name"] for image in data["images"]}
    for number in (1, 4):
        page.locator("#run-1 select").select_option(str(number))
        ious = {name_of(i): iou_of(pair, number) for i, pair in enumerate(PAIRS)}
        ious = {name: iou for name, iou in ious.items() if iou is not None}
        names = shown(page)
        assert sorted(names) == sorted(with_pictures & ious.keys())
        assert 3 <= len(names) < len(ious)
        assert [ious[name] for name in names] == sorted(ious[name] for name in names)
        text = f"{len(names)} of the run’s {len(ious)} images with {NAMES[number]}"
        assert page.locator("#run-1 .count").inner_text().startswith(text)
    check_images_load(page)
    page.locator("#run-1 .all").click()
    assert len(shown(page)) == 24
    assert page.locator("#run-1 select").input_value() == ""


def test_more_images_than_fit_are_added_by_a_button(page):
    data = page.evaluate("JSON.parse(document.getElementById('run-1-data').textContent)")
    page.locator("#run-1 select").select_option("0")  # the ground is in every image
    assert len(shown(page)) == 24 < len(data["images"])
    while page.locator("#run-1 .more").count():
        before = len(shown(page))
        page.locator("#run-1 .more").click()
        focused = page.evaluate("document.activeElement.closest('.card').dataset.image")
        assert focused == shown(page)[before]
    assert sorted(shown(page)) == sorted(image["name"] for image in data["images"])


def test_a_click_on_a_bar_chooses_its_class_and_the_next_one_lets_go(page):
    bar = page.locator('#run-1 .bar[data-class="3"]')
    bar.click()
    assert bar.get_attribute("aria-pressed") == "true"
    assert page.locator("#run-1 select").input_value() == "3"
    assert all(iou_of(PAIRS[int(name[-3:])], 3) is not None for name in shown(page))
    assert page.locator("#run-1 .gallery").bounding_box()["y"] < 200  # scrolled there
    bar.click()
    assert bar.get_attribute("aria-pressed") == "false"
    assert len(shown(page)) == 24


def test_bars_are_put_in_order(page):
    def names():
        return page.locator("#run-1 .bars .name").all_inner_texts()

    by_iou = names()
    page.get_by_role("button", name="By name").click()
    things = [name for name in names() if name.startswith("thing")]
    assert things == [f"thing {number}" for number in range(2, 12)]
    page.get_by_role("button", name="By IoU").click()
    assert names() == by_iou
    truth, prediction = (np.concatenate(each) for each in zip(*PAIRS))
    ious = [iou_of((truth, prediction), NAMES.index(name)) for name in by_iou]
    assert ious == sorted(ious, reverse=True)


def confusion() -> np.ndarray:
    counts = np.zeros((12, 12), int)
    for truth, prediction in PAIRS:
        np.add.at(counts, (truth[truth != 255], prediction[truth != 255]), 1)
    return counts


def cell_text(truth: int, predicted: int) -> str:
    counts = confusion()
    share = 100 * counts[truth, predicted] / counts[truth].sum()
    number = counts[truth, predicted]
    pixels = f"{number:,}".replace(",", "\u202f")
    unit = "pixel" if number == 1 else "pixels"
    return (
        f"truth: {NAMES[truth]}\npredicted: {NAMES[predicted]}\n"
        f"{share:.2f} % of the row, {pixels} {unit}"
    )


def test_heat_map_says_what_is_under_the_pointer(page):
    canvas = page.locator("#run-1 .map canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    readout = page.locator("#run-1 .readout")
    side = 28  # of a cell, the largest: there is room
    start = box["width"] - 12 * side
    for truth, predicted in ((0, 0), (2, 5), (7, 7), (0, 7)):
        page.mouse.move(
            box["x"] + start + (predicted + 0.5) * side, box["y"] + start + (truth + 0.5) * side
        )
        assert readout.inner_text() == cell_text(truth, predicted)
    page.mouse.move(5, 5)
    assert readout.inner_text() == ""


def test_heat_map_is_read_with_the_arrow_keys(page):
    page.locator("#run-1 .map canvas").focus()
    readout = page.locator("#run-1 .readout")
    assert readout.inner_text() == cell_text(0, 0)
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    assert readout.inner_text() == cell_text(1, 1)
    page.keyboard.press("End")
    assert readout.inner_text() == cell_text(1, 11)
    page.keyboard.press("ArrowRight")  # stays within the map
    assert readout.inner_text() == cell_text(1, 11)


def test_heat_map_colours_follow_the_share_of_the_row(page):
    pixels = """cells => {
      const canvas = document.querySelector("#run-1 .map canvas");
      const start = canvas.width - 12 * 28;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      const { data, width } = context.getImageData(0, 0, canvas.width, canvas.height);
      return cells.map(([truth, predicted]) => {
        const at = 4 * (width * (start + truth * 28 + 12) + start + predicted * 28 + 12);
        return data[at] + data[at + 1] + data[at + 2];
      });
    }"""
    counts = confusion()
    shares = (counts / counts.sum(axis=1, keepdims=True)).ravel()
    cells = [divmod(index, 12) for index in range(144)]
    brightness = np.array(page.evaluate(pixels, cells))
    darker_first = np.argsort(-shares, kind="stable")
    assert np.all(np.diff(brightness[darker_first]) >= 0)
    assert len(set(brightness.tolist())) > 20


def test_large_view_by_keyboard_alone(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    names = shown(page)
    page.locator("#run-1 .panels").nth(2).focus()
    page.keyboard.press("Enter")
    title = page.locator("#viewer-title")
    assert title.inner_text() == names[2]
    assert page.locator("#viewer-position").inner_text().startswith("3 of 24 · mean IoU ")
    assert page.locator("#viewer figure").count() == 4
    check_images_load(page)
    page.keyboard.press("ArrowRight")
    assert title.inner_text() == names[3]
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert title.inner_text() == names[-1]  # round the end
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    # The dialog says that it was closed a moment after it has gone.
    page.wait_for_function(
        "name => document.activeElement.closest('.card')?.dataset.image === name", arg=names[-1]
    )


def test_large_view_names_the_classes_under_the_pointer(page):
    page.locator("#run-1 .panels").first.click()
    truth, prediction = PAIRS[int(page.locator("#viewer-title").inner_text()[-3:])]
    check_images_load(page)
    box = page.locator("#viewer .port").first.bounding_box()
    fit = min(box["width"] / SIZE[1], box["height"] / SIZE[0])
    left = box["x"] + (box["width"] - SIZE[1] * fit) / 2
    top = box["y"] + (box["height"] - SIZE[0] * fit) / 2

    def check(row: int, column: int, *, scale: float = 1, about: tuple = (0, 0)) -> None:
        x, y = left + (column + 0.5) * fit, top + (row + 0.5) * fit
        page.mouse.move(about[0] + (x - about[0]) * scale, about[1] + (y - about[1]) * scale)
        numbers = [classes[row, column] for classes in (truth, prediction)]
        expected = [": void" if number == 255 else f": {NAMES[number]}" for number in numbers]
        assert page.locator("#viewer figcaption b").all_inner_texts() == ["", *expected, ""]
        spots = page.eval_on_selector_all(
            "#viewer .spot", "spots => spots.map(spot => spot.style.left + ' ' + spot.style.top)"
        )
        assert len(spots) == 4
        assert len(set(spots)) == 1

    for row, column in ((0, 0), (4, 5), (12, 20), (19, 29), (3, 10)):
        check(row, column)
    # Enlarged about the middle of the port, every panel alike.
    page.keyboard.press("+")
    transforms = page.eval_on_selector_all(
        "#viewer .sheet", "sheets => sheets.map(sheet => sheet.style.transform)"
    )
    assert len(transforms) == 4
    assert len(set(transforms)) == 1
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for row, column in ((12, 29), (12, 30), (5, 10), (18, 8)):  # on both sides of a border
        check(row, column, scale=1.5, about=middle)
    page.keyboard.press("0")
    check(10, 18)


def test_large_view_zooms_by_wheel_and_moves_by_dragging(page):
    page.locator("#run-1 .panels").first.click()
    box = page.locator("#viewer .port").first.bounding_box()
    x, y = round(box["x"] + 100), round(box["y"] + 80)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -600)  # four times as large, and what is under the pointer stays there
    place = "document.querySelector('.sheet').style.transform.match(/[-\\d.]+/g).map(Number)"
    page.wait_for_function(f"{place}[2] === 4")
    left, top = -3 * (x - box["x"]), -3 * (y - box["y"])
    assert page.evaluate(place) == pytest.approx([left, top, 4], abs=0.1)
    page.mouse.down()
    page.mouse.move(x - 40, y + 10)
    page.mouse.up()
    assert page.evaluate(place) == pytest.approx([left - 40, top + 10, 4], abs=0.1)
    page.get_by_role("button", name="Next image").click()
    assert page.evaluate(place) == [0, 0, 1]


def test_large_view_lets_the_image_shine_through_the_maps(page):
    page.locator("#run-1 .panels").first.click()
    page.get_by_label("Opacity").fill("40")
    opacities = page.eval_on_selector_all(
        "#viewer img.map", "maps => maps.map(map => getComputedStyle(map).opacity)"
    )
    assert opacities == ["0.4"] * 3
    page.get_by_label("Opacity").focus()
    before = page.locator("#viewer-title").inner_text()
    page.keyboard.press("ArrowLeft")  # moves the slider, not to another image
    assert page.locator("#viewer-title").inner_text() == before
    assert page.get_by_label("Opacity").input_value() == "39"


def test_classifications_are_chosen_by_truth_or_guess(page):
    rows = make_probabilities()[0]
    page.locator("#run-2 select").select_option("20")
    taken = [f"photo_{index:03d}" for index in np.flatnonzero(rows.argmax(axis=1) == 20)]
    assert sorted(shown(page, run=2)) == taken != []
    page.locator("#run-2 button.link", has_text="tench").click()  # class 0
    assert set(shown(page, run=2)) >= {"photo_000", "photo_001", "photo_002"}
    page.locator("#run-2 .panels").first.click()
    assert page.locator("#viewer figure").count() == 1
    assert page.locator("#viewer .viewer-legend li").count() == 5
    page.keyboard.press("Escape")


def test_names_from_data_run_nothing(page):
    page.locator("#run-1 select").select_option("1")
    assert EVIL in page.locator("#run-1 .count").inner_text()
    page.locator("#run-1 .panels").first.click()
    assert EVIL in page.locator(".viewer-legend").inner_text()
    assert page.title() == "Published results"
    assert page.locator("script:not([type])").count() == 1


def ground(page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_and_light_follow_the_system_until_the_button_is_pressed(page):
    page.emulate_media(color_scheme="dark")
    dark = ground(page)
    page.emulate_media(color_scheme="light")
    light = ground(page)
    assert dark != light == "rgb(255, 255, 255)"
    page.locator("#theme").click()
    assert ground(page) == dark
    page.locator("#theme").click()
    assert ground(page) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.locator("#run-1 .panels").first.click()
    selectors = (
        *(".summary", ".small", ".hint", ".scores dt", ".scores .value", ".card h5", ".chips li"),
        *(".card-score", ".panel-name", ".good", ".bad", ".unsure", ".idle", ".overview a"),
        *(".overview small", ".overview .detail td", ".bar .name", "#theme", ".facts dt"),
        *(".chips .good", ".chips .bad", "#viewer-position", ".viewer-legend th", "footer p"),
    )
    ratios = page.evaluate(
        f"names => names.map(name => ({CONTRAST})(document.querySelector(name)))", selectors
    )
    faint = {name: ratio for name, ratio in zip(selectors, ratios) if ratio < 4.5}
    assert faint == {}


@pytest.mark.parametrize("width", [320, 768])
def test_narrow_screens_scroll_down_only(page, report, width):
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(report.as_uri())
    measure = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    assert page.evaluate(measure) == [width, width]
    page.locator("#run-1 .larger").click()  # the map scrolls within itself
    page.locator("#run-1 select").select_option("1")
    assert page.evaluate(measure) == [width, width]
    page.locator("#run-1 .panels").first.click()
    assert page.evaluate("document.getElementById('viewer').scrollWidth") <= width
    close = page.get_by_role("button", name="Close").bounding_box()
    assert close["x"] + close["width"] <= width
    page.get_by_role("button", name="Close").click()
    assert not page.locator("#viewer").is_visible()

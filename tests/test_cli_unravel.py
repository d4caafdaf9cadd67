"""`ademx unravel` as its user calls it: datasets and own pictures, files, refusals."""

from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest
from commands import make_runner
from fill import fill
from PIL import Image

from ademx import params
from ademx.cli import main
from ademx.labels import parse_label
from ademx.networks.graph import parameter_shapes
from ademx.unravelling.inputs import load_examples
from ademx.unravelling.options import UnravelOptions
from iters import transforms

CLASSIFIER = "ilsvrc-cls_rna-224-0-1-1-1-1-1-1_cls1000"
SEGMENTER = "voc_rna-224-0-1-1-1-1-1-1_cls21_s8"
SHORT = ("--images", 2, "--paths", 2, "--crop-size", 32, "--origin-size", 64, "--gpus", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with weights 1/32 as wide, a picture and a small VOC."""
    folder = tmp_path_factory.mktemp("unravel")
    for label in (CLASSIFIER, SEGMENTER):
        shapes = parameter_shapes(label, width=1 / 32)
        values = {name: fill(name, shape) for name, shape in shapes.items()}
        moving = {name: value for name, value in values.items() if "_moving_" in name}
        learnt = {name: value for name, value in values.items() if name not in moving}
        params.save(folder / f"{label}_ep-0001.params", learnt, moving)
    random = np.random.default_rng(0)
    pictures, data = folder / "pictures", folder / "data"
    for place in (pictures, data):
        place.mkdir()
    lists = {"segmentation": [], "classification": []}
    for number in range(3):
        image = random.integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(image).save(pictures / f"{number}.png")
        Image.fromarray(image).save(data / f"{number}.png")
        label = random.integers(0, 21, (48, 64)).astype(np.uint8)
        label[:30] = 255
        Image.fromarray(label).save(data / f"{number}_label.png")
        lists["segmentation"].append(f"{number}.png\t{number}_label.png")
        lists["classification"].append(f"{number}\t{7 * number}\t{number}.png")
    for task, lines in lists.items():
        (data / f"{task}.lst").write_text("\n".join(lines) + "\n")
    return folder


def unravel(label, folder, *options):
    weights = folder / f"{label}_ep-0001.params"
    arguments = ["unravel", label, "--weights", weights, *options]
    result = make_runner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def data_options(folder, task):
    return ("--data-root", folder / "data", "--list-file", folder / "data" / f"{task}.lst")


@pytest.mark.parametrize(
    ("label", "task"), [(CLASSIFIER, "classification"), (SEGMENTER, "segmentation")]
)
def test_the_json_file_has_what_is_printed(label, task, folder, tmp_path):
    pytest.importorskip("mxnet")
    file, picture = tmp_path / "u.json", tmp_path / "u.svg"
    options = ("--json", file, "--plot", picture, "--lesion", *SHORT)
    result = unravel(label, folder, *data_options(folder, task), *options)
    assert result.exit_code == 0, result.stderr
    found = json.loads(file.read_text())
    assert found["units"] == 6
    assert [row["length"] for row in found["lengths"]] == list(range(7))
    assert [row["paths"] for row in found["lengths"]] == [comb(6, k) for k in range(7)]
    norms = [row["norm"] for row in found["lengths"]]
    assert [row["share"] for row in found["lengths"]] == pytest.approx(norms / np.sum(norms))
    depth = found["effective_depth"]
    assert sum(norms[:depth]) < 0.95 * sum(norms) <= sum(norms[: depth + 1])
    assert found["lengths"][0]["mean_path_norm"] == norms[0]
    assert found["lengths"][1]["standard_error"] > 0
    assert "95 % of the sum" in found["definition"]
    assert set(found["units_starved"]) < {row["unit"] for row in found["received"]}
    assert len(found["lesions"]["without_branch"]) == 6
    assert found["settings"]["targets"] == "labels"
    assert len(set(found["settings"]["images"])) == 2
    assert f"effective depth   {depth} of 6" in result.stdout
    for row in found["lengths"]:
        assert f"{row['norm']:.3e}" in result.stdout
    assert b"</svg>" in picture.read_bytes()
    again = unravel(label, folder, *data_options(folder, task), *options)
    assert (again.exit_code, "exists" in again.stderr) == (1, True)
    result = unravel(
        *(label, folder, *data_options(folder, task), *options, "--overwrite"),
        *("--backend", "torch"),
    )
    by_torch = json.loads(file.read_text())
    assert by_torch["settings"]["backend"] == "torch" != found["settings"]["backend"]
    assert [row["norm"] for row in by_torch["lengths"]] == pytest.approx(norms, rel=1e-2)
    assert by_torch["loss"] == pytest.approx(found["loss"], rel=1e-4)


def test_pictures_of_one_s_own_have_their_most_probable_classes(folder, tmp_path):
    file = tmp_path / "u.json"
    result = unravel(
        *(CLASSIFIER, folder, "--pictures", folder / "pictures", "--json", file),
        *(*SHORT, "--lesion", "--images", 9),
    )
    assert result.exit_code == 0, result.stderr
    assert "--images 9: only 3 can be used" in result.stderr
    found = json.loads(file.read_text())
    assert found["settings"]["targets"] == "most probable classes"
    assert len(found["settings"]["images"]) == 3
    assert found["error"] == 0
    assert max(row["error"] for row in found["lesions"]["without_branch"]) > 0


def test_labels_of_pixels_are_those_of_the_output_s_cells(folder):
    options = UnravelOptions(
        SEGMENTER,
        folder / "x",
        data_root=folder / "data",
        list_file=folder / "data" / "segmentation.lst",
        images=3,
        crop_size=30,
        origin_size=64,
    )
    for example in load_examples(options, parse_label(SEGMENTER)):
        stem = example.name[: -len(".png")]
        image = np.array(Image.open(example.name))[8:40, 16:48]  # the middle 32×32 of 48×64
        assert (example.data == transforms.normalize(image, transforms.RNA)).all()
        label = np.array(Image.open(f"{stem}_label.png"))[8:40, 16:48]
        assert (example.target == label[4::8, 4::8]).all()


def test_small_images_are_filled_up(folder):
    options = UnravelOptions(
        SEGMENTER, folder / "x", pictures=(folder / "pictures",), crop_size=96, origin_size=64
    )
    example = next(load_examples(options, parse_label(SEGMENTER)))
    assert example.data.shape == (3, 96, 96)
    assert example.target is None
    image = transforms.normalize(np.array(Image.open(example.name)), transforms.RNA)
    assert (example.data[:, :48, :64] == image).all()
    assert not example.data[:, 48:].any() and not example.data[:, :, 64:].any()


PLAIN = "ilsvrc-cls_rn-plain34_cls1000"


@pytest.mark.parametrize(
    ("label", "options", "status", "message"),
    [
        (CLASSIFIER, (), 2, "expected --data-root of a dataset or --pictures of your own"),
        (CLASSIFIER, ("--pictures", "absent"), 1, "absent: no such file or folder"),
        (CLASSIFIER, ("--pictures", "pictures", "--dataset", "voc"), 2, "are for --data-root"),
        (CLASSIFIER, ("--pictures", "pictures", "--gpus", "0,1"), 2, "one device unravels"),
        (CLASSIFIER, ("--pictures", "pictures", "--plot", "a.gif"), 1, "'gif': choose one of"),
        (CLASSIFIER, ("--pictures", "pictures", "--origin-size", 9), 1, "a shorter side below"),
        (CLASSIFIER, ("--pictures", "pictures", "--paths", -1), 2, "-1 is not in the range"),
        (SEGMENTER, ("--data-root", "data"), 1, "no 'val' split of voc"),
        (PLAIN, ("--pictures", "pictures"), 1, "a plain network: it has no shortcuts"),
    ],
)
def test_refusals_name_the_way_out(label, options, status, message, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / f"{PLAIN}_ep-0001.params").touch()
    result = unravel(label, folder, *options)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_weights_of_another_network_are_refused(folder):
    weights = folder / f"{CLASSIFIER}_ep-0001.params"
    arguments = ["unravel", "a1", "--weights", weights, "--pictures", folder / "pictures"]
    result = make_runner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 1
    assert "does not fit the network" in result.stderr


def test_weights_that_no_gradient_passes_are_told_of(folder, tmp_path):
    values, moving = params.load(folder / f"{CLASSIFIER}_ep-0001.params")
    values = {name: 0 * value if "linear" in name else value for name, value in values.items()}
    params.save(tmp_path / f"{CLASSIFIER}_ep-0001.params", values, moving)
    result = unravel(CLASSIFIER, tmp_path, "--pictures", folder / "pictures", *SHORT)
    assert result.exit_code == 0
    assert "no gradient reaches the first unit" in result.stderr

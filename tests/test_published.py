"""Published numbers, typed a second time from the sources."""

import dataclasses
import re

import pytest

from ademx.labels import parse_label
from ademx.published import METRIC_NAMES, RELEASED_FILES, RESULTS, find_result, get_result

FLIPPED = {"split": "val", "test_flipping": True}

# Row, network, dataset and split, the values with the digits that the sources print, sources.
TABLE = """
ilsvrc-a                         | rna-a      | ilsvrc-cls val     | 19.20 4.73          | R
ilsvrc-a1                        | rna-a1     | ilsvrc-cls val     | 19.54 4.75          | R
voc-a-1conv                      | rna-a      | voc val            | 78.76               | S
voc-a1                           | rna-a1     | voc val            | 80.84               | R S
voc-a1-coco                      | rna-a1     | voc val            | 82.86               | R
voc-test-a1                      | rna-a1     | voc test           | 82.5                | R S
voc-test-a1-scales               | rna-a1     | voc test           | 83.1                | R
voc-test-a1-coco-scales          | rna-a1     | voc test           | 84.9                | R
cityscapes-a1                    | rna-a1     | cityscapes val     | 78.08               | R
cityscapes-test-a2               | rna-a2     | cityscapes test    | 78.4 59.1 90.9 81.1 | R
cityscapes-test-a2-scales        | rna-a2     | cityscapes test    | 79.4 58.0 91.0 80.1 | R
cityscapes-test-a2-coarse        | rna-a2     | cityscapes test    | 79.9 59.7 91.2 80.8 | R
cityscapes-test-a2-coarse-scales | rna-a2     | cityscapes test    | 80.6 57.8 91.0 79.1 | R
ade20k-a1                        | rna-a1     | ade20k val         | 80.55 43.34         | R
ade20k-a2                        | rna-a2     | ade20k val         | 43.73               | T
context-a2                       | rna-a2     | pascal-context val | 48.1                | S
ilsvrc-plain34                   | rn-plain34 | ilsvrc-cls val     | 28.54 10.02         | N
ilsvrc-resnet34a                 | rn-34a     | ilsvrc-cls val     | 25.03 7.76          | N
ilsvrc-resnet34b                 | rn-34b     | ilsvrc-cls val     | 24.52 7.46          | N
ilsvrc-resnet34c                 | rn-34c     | ilsvrc-cls val     | 24.19 7.40          | N
ilsvrc-resnet50                  | rn-50      | ilsvrc-cls val     | 22.85 6.71          | N
ilsvrc-resnet101                 | rn-101     | ilsvrc-cls val     | 21.75 6.05          | N
ilsvrc-resnet152                 | rn-152     | ilsvrc-cls val     | 21.43 5.71          | N
"""
SOURCES = {"R": "README", "S": "1611.10080", "T": "Table 4", "N": "1512.03385"}
METRICS = {
    "ilsvrc-cls val": ["top1_error", "top5_error"],
    "ade20k val rna-a1": ["pixel_accuracy", "mean_iou"],
    "cityscapes test": ["mean_iou", "class_iiou", "category_iou", "category_iiou"],
}


def test_the_whole_table():
    lines = [line for line in TABLE.splitlines() if line]
    assert len(lines) == len(RESULTS)
    for row, line in zip(RESULTS, lines):
        name, network, where, printed, sources = (field.strip() for field in line.split("|"))
        assert (row.name, row.network, f"{row.dataset} {row.split}") == (name, network, where)
        metrics = METRICS.get(where) or METRICS.get(f"{where} {network}") or ["mean_iou"]
        assert list(row.values) == metrics
        assert [row.printed(metric) for metric in metrics] == printed.split()
        assert all(SOURCES[source] in row.source for source in sources.split())


def test_rows_have_names_of_their_own():
    assert len({row.name for row in RESULTS}) == len(RESULTS)
    assert all(get_result(row.name) is row for row in RESULTS)
    assert all(metric in METRIC_NAMES for row in RESULTS for metric in row.values)
    with pytest.raises(ValueError, match=r"unknown row 'voc-a9': .* ilsvrc-a, .*152"):
        get_result("voc-a9")


@pytest.mark.parametrize(
    ("label", "options", "values"),
    [
        (
            "ilsvrc-cls_rna-a_cls1000",
            {"split": "val", "test_scales": (320,), "pool": "caffe"},
            {"top1_error": 19.20, "top5_error": 4.73},
        ),
        (
            "ilsvrc-cls_rna-a1_cls1000",
            {"split": "val", "test_scales": (320,)},
            {"top1_error": 19.54, "top5_error": 4.75},
        ),
        ("voc_rna-a1_cls21_s8", {**FLIPPED, "test_scales": (500,)}, {"mean_iou": 80.84}),
        ("voc_rna-a1_cls21_s8_coco", {**FLIPPED, "test_scales": (500,)}, {"mean_iou": 82.86}),
        ("cityscapes_rna-a1_cls19_s8", {**FLIPPED, "test_scales": (2048,)}, {"mean_iou": 78.08}),
        (
            "ade20k_rna-a1_cls150_s8",
            {**FLIPPED, "test_scales": (500,), "test_steps": 2},
            {"pixel_accuracy": 80.55, "mean_iou": 43.34},
        ),
    ],
)
def test_every_released_file_has_its_row(label, options, values):
    assert dict(find_result(label, **options).values) == values
    assert f"{label}_ep-0001.params" in RELEASED_FILES


@pytest.mark.parametrize(
    "change",
    [
        {"label": "ade20k_rna-a1_cls150_s16"},
        {"split": "test"},
        {"test_scales": (504,)},  # the same canvas, but not what was stated
        {"test_scales": (500, 400)},
        {"test_flipping": False},
        {"test_steps": 1},
        {"test_3crops": True},
        {"test_10crops": True},
        {"pool": "caffe"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_other_option_finds_nothing(change):
    options = {**FLIPPED, "label": "ade20k_rna-a1_cls150_s8", "test_scales": (500,)}
    options["test_steps"] = 2
    assert find_result(**options) is not None
    assert find_result(**{**options, **change}) is None


@pytest.mark.parametrize("variant", ["plain34", "34a", "34b", "34c", "50", "101", "152"])
def test_a_resnet_has_its_row_by_ten_crops_alone(variant):
    """Of 224 pixels from 256, by softmax, of nets that pool as Caffe does: its authors' README."""
    found = {"label": f"ilsvrc-cls_rn-{variant}_cls1000", "split": "val", "test_scales": (256,)}
    row = find_result(**found, test_10crops=True, pool="full")
    assert (row.network, row.is_released) == (f"rn-{variant}", False)
    assert find_result(**found, pool="full") is None
    assert find_result(**found, test_10crops=True) is None


def test_rows_without_a_checkpoint():
    """Some of each table, and how many rows each network has in all."""
    rows = {(row.dataset, row.split, row.network, row.setting): row.values for row in RESULTS}
    coarse = rows["cityscapes", "test", "rna-a2", "2 conv, fine+coarse, several scales"]
    assert dict(coarse) == {
        "mean_iou": 80.6,
        "class_iiou": 57.8,
        "category_iou": 91.0,
        "category_iiou": 79.1,
    }
    assert rows["voc", "val", "rna-a", "1 conv, VOC+SBD, scale 500, flip"]["mean_iou"] == 78.76
    assert rows["pascal-context", "val", "rna-a2", "2 conv, 60 classes"]["mean_iou"] == 48.1
    assert dict(rows["ilsvrc-cls", "val", "rn-34b", "ten crops"]) == {
        "top1_error": 24.52,
        "top5_error": 7.46,
    }
    counts = {}
    for row in RESULTS:
        counts[row.network] = counts.get(row.network, 0) + 1
    assert [counts.pop(name) for name in ("rna-a", "rna-a1", "rna-a2")] == [2, 8, 6]
    assert list(counts) == [f"rn-{n}" for n in ("plain34", "34a", "34b", "34c", "50", "101", "152")]
    assert set(counts.values()) == {1}


def test_rows_are_distinct_and_sound():
    keys = [(row.dataset, row.split, row.network, row.setting) for row in RESULTS]
    assert len(set(keys)) == len(keys)
    labels = [row.label for row in RESULTS if row.label]
    assert len(set(labels)) == len(labels)
    for row in RESULTS:
        assert row.source
        assert row.values
        assert all(0 < value < 100 for value in row.values.values())
        if "top1_error" in row.values:
            assert row.values["top5_error"] < row.values["top1_error"]


def test_labels_agree_with_the_fields_of_their_rows():
    for row in RESULTS:
        if row.label:
            assert row.label.startswith(f"{row.dataset}_{row.network}_cls")
            label = parse_label(row.label)
            assert (label.dataset, label.network) == (row.dataset, row.network)
            assert ("COCO" in row.setting) == ("coco" in label.tags)


def test_released_files_are_named_and_hashed_as_they_should():
    name = re.compile(r"[a-z0-9-]+_rna-a1?_cls\d+(_s8)?(_coco)?_ep-0001\.params")
    assert len(RELEASED_FILES) == len(set(RELEASED_FILES.values())) == 6
    for file, md5 in RELEASED_FILES.items():
        assert name.fullmatch(file)
        assert re.fullmatch("[0-9a-f]{32}", md5)
    assert {file[:-15] for file in RELEASED_FILES} == {
        row.label for row in RESULTS if row.is_released
    }


def test_results_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError, match="label"):
        RESULTS[0].label = "other"
    with pytest.raises(TypeError, match="does not support item assignment"):
        RESULTS[0].values["top1_error"] = 0.0

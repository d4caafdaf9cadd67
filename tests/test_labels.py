"""Model labels: what the release called its files, and what no file may be called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ademx.labels import TASKS, Label, parse_label

# Every released file, by hand.
RELEASED = {
    "ilsvrc-cls_rna-a_cls1000_ep-0001.params": Label("ilsvrc-cls", "rna", "a", 1000, epoch=1),
    "ilsvrc-cls_rna-a1_cls1000_ep-0001.params": Label("ilsvrc-cls", "rna", "a1", 1000, epoch=1),
    "voc_rna-a1_cls21_s8_ep-0001.params": Label("voc", "rna", "a1", 21, 8, epoch=1),
    "voc_rna-a1_cls21_s8_coco_ep-0001.params": Label("voc", "rna", "a1", 21, 8, ("coco",), 1),
    "cityscapes_rna-a1_cls19_s8_ep-0001.params": Label("cityscapes", "rna", "a1", 19, 8, epoch=1),
    "ade20k_rna-a1_cls150_s8_ep-0001.params": Label("ade20k", "rna", "a1", 150, 8, epoch=1),
}


@pytest.mark.parametrize("file_name", RELEASED)
def test_released_names_are_understood_and_written_back(file_name):
    label = parse_label(file_name)
    assert label == RELEASED[file_name]
    assert f"{label}_ep-{label.epoch:04d}.params" == file_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "cityscapes_rna-a1_cls19_s8_x1-140_ep-0064.params",
            Label("cityscapes", "rna", "a1", 19, 8, ("x1-140",), 64),
        ),
        (
            "ilsvrc-cls_rna-112-1-1-1-1-9-1-1_cls1000",
            Label("ilsvrc-cls", "rna", "112-1-1-1-1-9-1-1", 1000),
        ),
        ("places_rn-plain34_cls365", Label("places", "rn", "plain34", 365)),
        ("pascal-context_rna-a1_cls60_s8", Label("pascal-context", "rna", "a1", 60, 8)),
        ("voc_rna-a1_cls21_a_b_c", Label("voc", "rna", "a1", 21, 32, ("a", "b", "c"))),
        ("voc_rna-a1_cls21_ep-12345", Label("voc", "rna", "a1", 21, epoch=12345)),
        ("own-pets-2_rna-a1_cls3_s8_x", Label("own-pets-2", "rna", "a1", 3, 8, ("x",))),
    ],
)
def test_fields_are_read(text, expected):
    assert parse_label(text) == expected


@pytest.mark.parametrize(
    "path",
    [
        "models/voc_rna-a1_cls21_s8_ep-0001.params",
        "C:\\models\\voc_rna-a1_cls21_s8_ep-0001.params",
        "/some_folder/with_rna-b_cls3/voc_rna-a1_cls21_s8_ep-0001.pth",
        Path("models") / "voc_rna-a1_cls21_s8_ep-0001.safetensors",
    ],
)
def test_of_a_path_only_the_file_counts(path):
    assert parse_label(path) == Label("voc", "rna", "a1", 21, 8, epoch=1)


@pytest.mark.parametrize(
    ("label", "task"),
    [
        ("ilsvrc-cls_rna-a_cls1000", "classification"),
        ("places_rna-a1_cls365", "classification"),
        ("voc_rna-a1_cls21", "segmentation"),
        ("coco_rna-a1_cls81", "segmentation"),
        ("own-pets_rna-a1_cls3_s8", "segmentation"),
        ("own-pets-cls_rna-a1_cls3", "classification"),
    ],
)
def test_the_dataset_decides_the_task(label, task):
    assert parse_label(label).task == task


def test_the_network_is_family_and_variant():
    assert parse_label("ilsvrc-cls_rn-50_cls1000").network == "rn-50"


def test_a_trainings_best_weights_have_the_label_of_all_of_its_checkpoints():
    label = parse_label("voc_rna-a1_cls21_s8_coco")
    assert parse_label("runs/voc_rna-a1_cls21_s8_coco_best.params") == label
    assert parse_label("voc_rna-a1_cls21_s8_best").tags == ("best",)  # not a file's name


# A first tag such as "s8" would be a stride; "ep-0001" at the end an epoch.
TAGS = st.from_regex(r"x[a-z0-9-]{0,8}", fullmatch=True)


@given(
    st.builds(
        Label,
        dataset=st.sampled_from(list(TASKS)) | st.from_regex("own-[a-z0-9-]{1,9}", fullmatch=True),
        family=st.sampled_from(["rna", "rn"]),
        variant=st.from_regex(r"[a-z0-9]{1,4}(-[0-9]{1,3}){0,7}", fullmatch=True),
        num_classes=st.integers(1, 20000),
        output_stride=st.sampled_from([8, 16, 32]),
        tags=st.lists(TAGS, max_size=3).map(tuple),
    )
)
def test_what_is_written_is_read_back(label):
    assert parse_label(str(label)) == label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"label '': expected <dataset>_<rna\|rn>-<variant>_cls<classes>"),
        ("a1", r"label 'a1': expected <dataset>_.*such as cityscapes_rna-a1_cls19_s8"),
        ("voc_rna-a1", "label 'voc_rna-a1': expected <dataset>_"),
        ("voc_rna-a1_cls21__s8", "label 'voc_rna-a1_cls21__s8': expected <dataset>_"),
        ("voc_rna-a1_cls21_", "label 'voc_rna-a1_cls21_': expected <dataset>_"),
        (
            "mnist_rna-a1_cls10",
            "unknown dataset 'mnist': one of ilsvrc-cls, places, voc.*own-<name>",
        ),
        # Variants of a dataset: its networks have its name.
        ("coco20_rna-a1_cls21", "unknown dataset 'coco20'"),
        ("pascal-context-59_rna-a1_cls59", "unknown dataset 'pascal-context-59'"),
        ("own-_rna-a1_cls3", "unknown dataset 'own-'"),
        ("own-Pets_rna-a1_cls3", "unknown dataset 'own-Pets'"),
        ("voc_vgg-16_cls21", "'vgg-16' is not a field for network, such as rna-a1 or rn-50"),
        ("voc_rna_cls21", "'rna' is not a field for network"),
        ("voc_rna-A1_cls21", "'rna-A1' is not a field for network"),
        ("voc_rna-a1_21", "'21' is not a field for classes, such as cls21"),
        ("voc_rna-a1_cls0", "'cls0' is not a field for classes"),
        ("voc_rna-a1_cls21x", "'cls21x' is not a field for classes"),
    ],
)
def test_other_texts_are_refused_by_their_part(text, message):
    with pytest.raises(ValueError, match=message):
        parse_label(text)

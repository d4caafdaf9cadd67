"""Dataset tables against cityscapesscripts, gluoncv and arithmetic by hand."""

import numpy as np
import pytest

from ademx.labels import TASKS
from iters.datasets import DATASETS, VOID, decode_label, encode_label
from iters.find_dataset import get_dataset

SEGMENTATION = [name for name, row in DATASETS.items() if row.task == "segmentation"]


def test_labels_name_seven_datasets_and_the_rest_are_their_variants():
    variants = {
        "voc-sbd": "voc",
        "coco20": "voc",
        "cityscapes-coarse": "cityscapes",
        "pascal-context-59": "pascal-context",
    }
    assert [row.name for row in DATASETS.values()] == list(DATASETS)
    assert {n: row.task for n, row in DATASETS.items() if n not in variants} == TASKS
    for name, other in variants.items():
        assert DATASETS[name].task == DATASETS[other].task
        assert DATASETS[name].canvas == DATASETS[other].canvas
        assert DATASETS[name].origin_size == DATASETS[other].origin_size


@pytest.mark.parametrize("name", SEGMENTATION)
def test_tables_fit_together(name):
    row = DATASETS[name]
    stored = row.stored_ids or range(row.num_classes)
    assert len(row.class_names) == len(set(row.class_names)) == row.num_classes
    assert len(stored) == len(set(stored)) == row.num_classes
    assert row.void_id not in stored
    assert max(stored) < len(row.palette)
    assert np.asarray(row.palette, np.uint8).shape == (len(row.palette), 3)


def test_class_counts_and_largest_images():
    """Typed from the specification."""
    assert {name: row.num_classes for name, row in DATASETS.items()} == {
        "ilsvrc-cls": 1000,
        "places": 365,
        "voc": 21,
        "voc-sbd": 21,
        "coco": 81,
        "coco20": 21,
        "cityscapes": 19,
        "cityscapes-coarse": 19,
        "ade20k": 150,
        "pascal-context": 60,
        "pascal-context-59": 59,
    }
    assert {name: DATASETS[name].max_shape for name in SEGMENTATION} == {
        "voc": (500, 500),
        "voc-sbd": (500, 500),
        "coco": (640, 640),
        "coco20": (640, 640),
        "cityscapes": (1024, 2048),
        "cityscapes-coarse": (1024, 2048),
        "ade20k": (2100, 2100),
        "pascal-context": (500, 500),
        "pascal-context-59": (500, 500),
    }
    street = ["cityscapes", "cityscapes-coarse"]
    assert [name for name in SEGMENTATION if DATASETS[name].canvas == "image"] == street
    assert [name for name in SEGMENTATION if DATASETS[name].origin_size == 2048] == street
    assert [name for name in SEGMENTATION if DATASETS[name].absent_classes == "zero"] == ["ade20k"]


def test_numbers_of_images():
    """As the benchmarks' pages and papers give them."""
    assert {name: row.splits for name, row in DATASETS.items()} == {
        "ilsvrc-cls": {"train": 1281167, "val": 50000, "test": 100000},
        "places": {"train": 1803460, "val": 36500, "test": 328500},
        "voc": {
            **{"train": 1464, "val": 1449, "trainval": 1464 + 1449, "test": 1456},
            "trainaug": 10582,
        },
        "voc-sbd": {"train+": 10582, "val": 1449},
        "coco": {"train2014": 82783, "val2014": 40504, "train2017": 118287, "val2017": 5000},
        # Nobody published how many images show one of the 20 classes.
        "coco20": {"train2014": None, "val2014": None, "train2017": None, "val2017": None},
        "cityscapes": {"train": 2975, "val": 500, "test": 1525},
        "cityscapes-coarse": {"train": 2975, "val": 500, "train_extra": 19998},
        "ade20k": {"train": 20210, "val": 2000, "test": 3352},
        "pascal-context": {"train": 4998, "val": 5105},
        "pascal-context-59": {"train": 4998, "val": 5105},
    }


def test_unknown_dataset_lists_the_choices():
    with pytest.raises(ValueError, match=r"unknown dataset 'vok': .*ilsvrc-cls.*voc.*coco.*YAML"):
        get_dataset("vok")
    assert get_dataset("voc") is DATASETS["voc"]


@pytest.mark.parametrize("name", ["cityscapes", "cityscapes-coarse"])
def test_cityscapes_agrees_with_its_own_scripts(name):
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    row = DATASETS[name]
    used = sorted((lab for lab in labels if 0 <= lab.trainId < 255), key=lambda lab: lab.trainId)
    assert row.class_names == tuple(lab.name for lab in used)
    assert row.stored_ids == tuple(lab.id for lab in used)
    assert row.palette == tuple(lab.color for lab in labels if lab.id >= 0)
    ids = np.array([lab.id for lab in labels])  # int, -1 among them
    train_ids = [lab.trainId if lab.trainId >= 0 else VOID for lab in labels]
    np.testing.assert_array_equal(decode_label(row, ids), train_ids)


@pytest.fixture
def gluon_streets(gluon_data, tmp_path):
    """gluoncv's Cityscapes, which refuses to be made without an image."""
    for name in ("leftImg8bit/val/ulm/a_leftImg8bit.png", "gtFine/val/ulm/a_gtFine_labelIds.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    return gluon_data.CitySegmentation(tmp_path, "val", mode="testval")


@pytest.mark.parametrize("name", ["cityscapes", "cityscapes-coarse"])
def test_cityscapes_agrees_with_gluoncv(gluon_streets, name):
    row = DATASETS[name]
    respelled = {"bicyle": "bicycle"}
    assert list(row.class_names) == [respelled.get(n, n) for n in gluon_streets.CLASSES]
    assert list(row.stored_ids) == gluon_streets.valid_classes
    stored = np.arange(34)
    classes = gluon_streets._class_to_index(stored)  # -1 is void
    np.testing.assert_array_equal(decode_label(row, stored), np.where(classes < 0, VOID, classes))


def test_cityscapes_colours_agree_with_gluoncv_but_for_the_sky(gluon_data):
    """gluoncv's sky, (0, 130, 180), is not that of Cityscapes' own scripts, (70, 130, 180)."""
    from gluoncv.utils.viz.segmentation import cityspallete

    row = DATASETS["cityscapes"]
    theirs = np.reshape(cityspallete, (-1, 3)).tolist()
    theirs[row.class_names.index("sky")][0] = 70
    assert [list(row.palette[stored]) for stored in row.stored_ids] == theirs


@pytest.mark.parametrize("name", ["voc", "voc-sbd", "coco20"])
def test_voc_agrees_with_gluoncv(gluon_data, name):
    row = DATASETS[name]
    assert row.class_names == ("background", *gluon_data.VOCDetection.CLASSES)
    assert row.num_classes == gluon_data.VOCAugSegmentation.NUM_CLASS
    stored = np.array([[*range(21), 255]], np.uint8)
    classes = gluon_data.VOCSegmentation._mask_transform(None, stored).asnumpy()  # -1 is void
    np.testing.assert_array_equal(decode_label(row, stored), np.where(classes < 0, VOID, classes))


def test_voc_colours_agree_with_gluoncv(gluon_data):
    from gluoncv.utils.viz.segmentation import vocpallete

    assert np.ravel(DATASETS["voc"].palette).tolist() == vocpallete


def test_ade20k_is_coloured_as_in_the_release(gluon_data):
    """With VOC's colours. gluoncv has SceneParsing's own, in which walls are grey."""
    from gluoncv.utils.viz.segmentation import adepallete

    assert DATASETS["ade20k"].palette == DATASETS["voc"].palette
    assert adepallete[3:6] == [120, 120, 120] != list(DATASETS["ade20k"].palette[1])


def test_voc_colours_by_hand():
    """Class 12 is 0b1100: bit 2 is blue's first (128), bit 3 red's second (64)."""
    palette = DATASETS["voc"].palette
    assert palette[12] == (64, 0, 128)
    assert palette[15] == (192, 128, 128)
    assert palette[255] == (224, 224, 192)


def test_ade20k_agrees_with_gluoncv(gluon_data):
    names = [names.split(",")[0] for names in gluon_data.ADE20KSegmentation.CLASSES]
    row = DATASETS["ade20k"]
    assert list(row.class_names) == names
    assert row.num_classes == gluon_data.ADE20KSegmentation.NUM_CLASS
    stored = np.arange(151, dtype=np.uint8)[None]
    classes = gluon_data.ADE20KSegmentation._mask_transform(None, stored).asnumpy()  # -1 is void
    np.testing.assert_array_equal(decode_label(row, stored), np.where(classes < 0, VOID, classes))


def test_coco_agrees_with_gluoncv(gluon_data):
    row = DATASETS["coco"]
    assert list(row.class_names[1:]) == gluon_data.COCODetection.CLASSES
    # gluoncv knows the category ids of VOC's 20 classes, under VOC's names.
    respelled = {"diningtable": "dining table", "potted-plant": "potted plant", "sofa": "couch"}
    voc = gluon_data.COCOSegmentation
    assert len(voc.CLASSES) == voc.NUM_CLASS == DATASETS["coco20"].num_classes
    for name, category in zip(voc.CLASSES, voc.CAT_LIST):
        assert row.stored_ids[row.class_names.index(respelled.get(name, name))] == category


def test_coco_ids_end_at_90():
    """80 categories, numbered 1 to 90."""
    ids = DATASETS["coco"].stored_ids
    assert (ids[0], ids[1], ids[-1], len(ids)) == (0, 1, 90, 81)


def test_context_has_vocs_classes_first():
    names = DATASETS["pascal-context"].class_names
    voc = DATASETS["voc"].class_names
    assert [name for name, other in zip(names, voc) if name != other] == ["table"]
    assert names[21] == "bag"
    assert names[-1] == "wood"
    assert DATASETS["pascal-context-59"].class_names == names[1:]


@pytest.mark.parametrize(
    ("name", "stored", "classes"),
    [
        ("voc", [0, 20, 21, 254, 255], [0, 20, 255, 255, 255]),
        ("ade20k", [0, 1, 150, 151, 255], [255, 0, 149, 255, 255]),
        ("cityscapes", [0, 7, 9, 33, 255], [255, 0, 255, 18, 255]),
        ("pascal-context", [0, 59, 60, 255], [0, 59, 255, 255]),
        ("pascal-context-59", [0, 1, 59, 60, 255], [255, 0, 58, 255, 255]),
        ("coco", [0, 11, 12, 13, 90, 91], [0, 11, 255, 12, 80, 255]),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_decode_by_hand(name, stored, classes, dtype):
    decoded = decode_label(DATASETS[name], np.array([stored], dtype))
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == [classes]


def test_decode_takes_what_does_not_fit_a_byte_for_void():
    stored = np.array([-1, -256, 256, 65535, 3])
    assert decode_label(DATASETS["voc"], stored).tolist() == [255, 255, 255, 255, 3]


@pytest.mark.parametrize("name", SEGMENTATION)
def test_encode_inverts_decode(name):
    row = DATASETS[name]
    classes = np.array([*range(row.num_classes), VOID]).reshape(1, -1)
    stored = encode_label(row, classes)
    assert stored.dtype == np.uint8
    assert stored[0, -1] == row.void_id
    np.testing.assert_array_equal(decode_label(row, stored), classes)


def test_encode_by_hand():
    assert encode_label(DATASETS["cityscapes"], np.array([0, 5, 18, 255])).tolist() == [
        7,
        17,
        33,
        0,
    ]
    assert encode_label(DATASETS["ade20k"], np.array([0, 149])).tolist() == [1, 150]
    assert encode_label(DATASETS["coco"], np.array([12, 80])).tolist() == [13, 90]


def test_bad_arguments_are_refused():
    with pytest.raises(
        ValueError, match="class id 19 is not one of cityscapes's: expected 0 to 18"
    ):
        encode_label(DATASETS["cityscapes"], np.array([3, 19]))
    with pytest.raises(ValueError, match="class id -1 "):
        encode_label(DATASETS["voc"], np.array([-1]))
    with pytest.raises(ValueError, match="stored ids are float32: expected integers"):
        decode_label(DATASETS["voc"], np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="places is for classification"):
        decode_label(DATASETS["places"], np.zeros(3, np.uint8))

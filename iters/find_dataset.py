"""A dataset by its name, or one's own by the short YAML file that describes it."""

from __future__ import annotations

import dataclasses
import re
import reprlib
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ademx.compat import InputError, MissingFile
from iters import palettes
from iters.datasets import DATASETS, VOID, Dataset
from iters.files import read_file
from iters.palettes import Colour

if TYPE_CHECKING:
    import yaml

_REQUIRED = ("name", "classes", "lists")
_OF_LABEL_FILES = ("palette", "stored_ids", "void")
_KEYS = (*_REQUIRED, "task", *_OF_LABEL_FILES)
_TASKS = ("segmentation", "classification")
_NAME = re.compile("[a-z0-9-]+")
# Control characters, which act on terminals; halves of characters, which no file can be written
# with; separators of lines and paragraphs.
_UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp"})


def get_dataset(name: str) -> Dataset:
    """Return the dataset of this name, or the one that a YAML file describes.

    Args:
        name: key of :data:`DATASETS`, or path of a file whose name ends in .yaml or .yml.

    Raises:
        ValueError: there is none, the message lists the names; or the file is malformed.
        FileNotFoundError: there is no such file.
    """
    if name.endswith((".yaml", ".yml")):
        return read_dataset(name)
    if name.startswith("own-"):
        raise InputError(
            f"{name}: a dataset of your own: give the YAML file that describes it, "
            "--dataset FILE.yaml"
        )
    if name not in DATASETS:
        raise InputError(
            f"unknown dataset {name!r}: expected one of {', '.join(DATASETS)}, or a YAML file "
            "that describes your own"
        )
    return DATASETS[name]


def read_dataset(path: str | Path) -> Dataset:
    """Return the dataset that a YAML file describes, a mapping with these keys.

    - `name`: lower-case letters, digits and hyphens; none of :data:`iters.datasets.DATASETS`.
    - `classes`: a list of names, that of class id 0 first.
    - `lists`: the list file of each split, relative to the YAML file's folder. The paths in it
      are relative to the data root, as those of any list.
    - `task`: "segmentation", the default, or "classification".

    And of a dataset for segmentation, each of them optional:

    - `palette`: an RGB colour for each class, 0 to 255; by default VOC's of the stored id.
    - `stored_ids`: the number of each class in label files; by default the class id.
    - `void`: the number in label files where there is no class, 255 by default. Any other number
      that is not a stored id means the same.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is malformed; the message gives the file, the key, what was found there and
            what was expected.
    """
    path = Path(path)
    try:
        return make_dataset(_read_fields(path), path.parent)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_fields(path: Path) -> dict[str, Any]:
    import yaml  # not at the top: it would slow down the start of every command

    try:
        content = read_file(path)
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file: it should describe a dataset") from None
    try:
        fields = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {_cause(error)}") from None
    except RecursionError:
        raise InputError("not YAML: brackets or braces within each other, too many") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        # What PyYAML's own conversions raise, such as of "!!int" without a number.
        raise InputError(f"not YAML: a value that is not of its tag's type: {error!r}") from None
    if not isinstance(fields, dict):
        raise _misfit("whole file", fields, f"a mapping with the keys {', '.join(_REQUIRED)}")
    for key in fields:
        if key not in _KEYS:
            raise InputError(f"unknown key {key!r}: expected some of {', '.join(_KEYS)}")
    for key in _REQUIRED:
        if key not in fields:
            raise InputError(f"{key}: missing: expected {', '.join(_REQUIRED)} at least")
    return fields


def _cause(error: yaml.YAMLError) -> str:
    """Return the line and what is wrong there, of an error whose text has several lines."""
    import yaml

    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


def make_dataset(fields: dict[str, Any], folder: Path) -> Dataset:
    """Return the dataset of a YAML file in this folder that holds these keys and values.

    Raises:
        ValueError: a value is wrong; the message gives the key, see :func:`read_dataset`.
    """
    task = fields.get("task", "segmentation")
    if task not in _TASKS:
        raise _misfit("task", task, " or ".join(_TASKS))
    classes = _class_names(fields["classes"])
    dataset = Dataset(
        _name(fields["name"]),
        task,
        len(classes),
        class_names=classes,
        lists=_lists(fields["lists"], folder),
    )
    if task == "segmentation":
        return _with_stored_ids(dataset, fields)
    for key in _OF_LABEL_FILES:
        if key in fields:
            raise InputError(f"{key}: expected only where the task is segmentation")
    return dataset


def _with_stored_ids(dataset: Dataset, fields: dict[str, Any]) -> Dataset:
    count = dataset.num_classes
    if count > VOID:
        raise InputError(f"classes: found {count}: expected up to {VOID} for segmentation")
    numbers = fields.get("stored_ids", list(range(count)))
    stored_ids = tuple(_byte(*item) for item in _items("stored_ids", numbers, count=count))
    if len(set(stored_ids)) < count:
        raise _misfit("stored_ids", numbers, "a number of its own for each class")
    void = _byte("void", fields.get("void", VOID))
    if void in stored_ids:
        raise _misfit("void", void, "a number that is not the stored id of a class")
    palette = list(palettes.VOC)
    if "palette" in fields:
        colours = _items("palette", fields["palette"], count=count)
        for stored, item in zip(stored_ids, colours):
            palette[stored] = _colour(*item)
    return dataclasses.replace(dataset, palette=tuple(palette), stored_ids=stored_ids, void_id=void)


def _name(value: Any) -> str:
    name = _text("name", value)
    if not _NAME.fullmatch(name):
        raise _misfit("name", name, "lower-case letters, digits and hyphens")
    if name in DATASETS:
        raise _misfit("name", name, f"another than those of {', '.join(DATASETS)}")
    return name


def _class_names(value: Any) -> tuple[str, ...]:
    names = tuple(_text(*item) for item in _items("classes", value))
    if len(names) < 2:
        raise _misfit("classes", value, "two names or more, the background's among them")
    known: set[str] = set()
    for index, name in enumerate(names):
        if name in known:
            raise _misfit(f"classes[{index}]", name, "a name that no other class has")
        known.add(name)
    return names


def _lists(value: Any, folder: Path) -> dict[str, Path]:
    if not isinstance(value, dict) or not value:
        raise _misfit("lists", value, "a mapping of splits to list files, such as {train: a.lst}")
    lists = {}
    for key, file in value.items():
        split = _text("lists", key)
        path = folder / _text(f"lists[{split}]", file)
        if not path.is_file():
            raise _misfit(f"lists[{split}]", file, f"a list file, but there is no {path}")
        lists[split] = path
    return lists


def _items(key: str, value: Any, *, count: int | None = None) -> list[tuple[str, Any]]:
    """Return the items of a list, each with what messages call it."""
    if not isinstance(value, list):
        raise _misfit(key, value, "a list of names" if count is None else f"a list of {count}")
    if count is not None and len(value) != count:
        raise InputError(f"{key}: found {len(value)} items: expected {count}")
    return [(f"{key}[{index}]", item) for index, item in enumerate(value)]


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _misfit(
            key,
            value,
            "text: YAML reads some words as something else: put quotes around them, such as "
            '"no", "on", "null" or "7"',
        )
    if any(unicodedata.category(character) in _UNFIT for character in value):
        raise _misfit(key, value, "text without control characters and halves of characters")
    return value


def _byte(key: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 255:
        raise _misfit(key, value, "a whole number from 0 to 255")
    return value


def _colour(key: str, value: Any) -> Colour:
    red, green, blue = (_byte(*item) for item in _items(key, value, count=3))
    return red, green, blue


def _misfit(key: str, found: Any, expected: str) -> InputError:
    return InputError(f"{key}: found {reprlib.repr(found)}: expected {expected}")

"""Where a published row's data and weights are, and whether they are the published ones."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ademx.convert.layouts import RESNETS
from ademx.data.check.dataset import check_dataset
from ademx.errors import InputError, UserError
from ademx.files import md5
from ademx.labels import label_in, parse_label
from ademx.published import RELEASED_FILES, Result
from ademx.reproduction.recipes import RECIPES
from iters.datasets import DATASETS, Dataset
from iters.lists import find_samples

# Folders that a dataset is looked for in, in lower case; the first is the one that is proposed.
_FOLDERS: dict[str, tuple[str, ...]] = {
    "ilsvrc-cls": ("ilsvrc-cls", "ilsvrc", "ilsvrc12", "ilsvrc2012", "imagenet"),
    "places": ("places", "places365"),
    "voc": ("voc", "vocdevkit", "voc2012", "pascal_voc"),
    "coco": ("coco",),
    "cityscapes": ("cityscapes",),
    "ade20k": ("ade20k", "adechallengedata2016"),
    "pascal-context": ("pascal-context", "pascal_context", "context", "voc", "vocdevkit"),
}
# Datasets that are found where another one is.
_SAME_FOLDER = {
    "voc-sbd": "voc",
    "coco20": "coco",
    "cityscapes-coarse": "cityscapes",
    "pascal-context-59": "pascal-context",
}
# Datasets that are found in their official layout without lists.
_NEED_NO_LISTS = ("voc", "cityscapes", "cityscapes-coarse", "ade20k")

_SHOWN = 3  # problems of a dataset that are told one by one


@dataclass(frozen=True)
class SearchFolders:
    """Where to look.

    Attributes:
        data: folder that holds the datasets' folders.
        models: folder of `.params` files.
        roots: dataset -> its own folder, in place of `data`.
    """

    data: Path = Path("data")
    models: Path = Path("models")
    roots: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.roots:
            if name not in DATASETS:
                raise InputError(f"--data {name}=…: expected one of {', '.join(DATASETS)}")

    def roots_of(self, dataset: str) -> list[Path]:
        """Return the folders to look for a dataset in: its own, or those of its names, and `data`.

        Raises:
            OSError: `data` cannot be listed.
        """
        family = _SAME_FOLDER.get(dataset, dataset)
        own = self.roots.get(dataset, self.roots.get(family))
        if own is not None:
            return [own]
        if not self.data.is_dir():
            return []
        folders = sorted(path for path in self.data.iterdir() if path.is_dir())
        named = [path for name in _FOLDERS[family] for path in folders if path.name.lower() == name]
        return [*named, self.data]

    def proposed_root(self, dataset: str) -> Path:
        """Return where a dataset that was not found should be."""
        roots = [root for root in self.roots_of(dataset) if root != self.data]
        folder = _FOLDERS[_SAME_FOLDER.get(dataset, dataset)][0]
        return roots[0] if roots else self.data / folder


@dataclass(frozen=True)
class FoundInput:
    """A dataset's folder or a file of weights.

    Attributes:
        path: where it is; None if it is missing.
        problems: what is missing, or why it is not known to be what was published, each with the
            command that checks it; none if all is well.
        is_own: whether these are weights of one's own training.
    """

    path: Path | None
    problems: tuple[str, ...] = ()
    is_own: bool = False


def find_data(dataset: str, split: str, places: SearchFolders) -> FoundInput:
    """Return the folder of a dataset that has a split, and what is wrong with that split.

    Looked at are the folder that was named for the dataset, else those below `places.data` that
    have one of its usual names in any case, and `places.data` itself. No image is opened.
    """
    row = DATASETS[dataset]
    try:
        for root in places.roots_of(dataset):
            if _has_split(row, root, split):
                return FoundInput(root, _split_problems(row, root, split))
        return FoundInput(None, (_data_advice(row, split, places),))
    except (UserError, OSError) as error:  # a malformed list, a folder that cannot be read
        return FoundInput(None, (f"data: {error}",))


def _has_split(dataset: Dataset, root: Path, split: str) -> bool:
    try:
        find_samples(dataset, root, split)
    except FileNotFoundError:
        return False
    return True


def _split_problems(dataset: Dataset, root: Path, split: str) -> tuple[str, ...]:
    found = check_dataset(dataset, root, splits=[split], quick=True).problems
    if not found:
        return ()
    lines = [": ".join(part for part in (one.path, one.detail) if part) for one in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"{len(found) - _SHOWN} more problems")
    return (f"data: {'; '.join(lines)}: check by `{_check_command(dataset.name, root, split)}`",)


def _data_advice(dataset: Dataset, split: str, places: SearchFolders) -> str:
    root = places.proposed_root(dataset.name)
    lists = ""
    if dataset.name not in _NEED_NO_LISTS:
        command = f"ademx data lists {dataset.name} --root {_quote(root)}"
        lists = f"; make its lists by `{command}{' --coco COCO' if split == 'train++' else ''}`"
    layout = ", ".join(f"`{line}`" for line in dataset.layout).replace("`or ", "or `")
    check = _check_command(dataset.name, root, split)
    where = f"{layout} go to {root}/{lists}"
    return f"data: no {split} split of {dataset.name}: {where}; check by `{check}`"


def _check_command(dataset: str, root: Path, split: str) -> str:
    return f"ademx data check {dataset} --root {_quote(root)} --split {split}"


def _quote(path: Path) -> str:
    """Return a path as a shell takes it."""
    return shlex.quote(str(path))


def find_row_weights(row: Result, places: SearchFolders) -> FoundInput:
    """Return the weights of a row: the released ones, else those of one's own training."""
    recipe = RECIPES.get(row.name)
    own = [] if recipe is None else [recipe.label, recipe.stages[0].label]
    return find_weights(row.label, own, places)


def find_weights(released: str | None, own: list[str], places: SearchFolders) -> FoundInput:
    """Return the released weights of a label, else those of one's own training.

    Args:
        released: label of the released ones, if there are any.
        own: labels of one's own, the preferred first.
        places: where to look.
    """
    name = f"{released}_ep-0001.params"
    if name in RELEASED_FILES and (places.models / name).is_file():
        return _released_weights(places.models / name)
    for label in own:
        path = _newest_checkpoint(label, places.models)
        if path is not None:
            what = "not the released ones" if name in RELEASED_FILES else "none were released"
            problem = (
                f"weights: {path} is of your own training, {what}: from one training to the next "
                "scores move by more than the tolerance"
            )
            if path.name == name and _caffe_file(label):
                problem = f"weights: {path} is taken to be converted from {_caffe_file(label)}"
            return FoundInput(path, (problem,), is_own=True)
    return FoundInput(
        None, (_weights_advice(name if name in RELEASED_FILES else None, own, places),)
    )


def _caffe_file(label: str) -> str:
    """Return the name of the file that the authors of the ResNet paper released, "" if none."""
    parsed = parse_label(label)
    known = parsed.family == "rn" and parsed.variant in RESNETS["caffe"]
    return f"ResNet-{parsed.variant}-model.caffemodel" if known else ""


def _released_weights(path: Path) -> FoundInput:
    try:
        digest, released = md5(path), RELEASED_FILES[path.name]
    except OSError as error:
        return FoundInput(None, (f"weights: {error}",))
    if digest == released:
        return FoundInput(path)
    problem = (
        f"weights: {path} has MD5 {digest}, the released file {released}: check by "
        f"`ademx weights verify {_quote(path)}`"
    )
    return FoundInput(path, (problem,))


def _newest_checkpoint(label: str, models: Path) -> Path | None:
    """Return the checkpoint of a label with the most epochs, released files apart."""
    epochs = {}
    for path in models.glob(f"{label}_ep-*.params"):
        parsed = label_in(path)  # none with more than digits behind "ep-"
        if parsed and parsed.epoch is not None and path.name not in RELEASED_FILES:
            epochs[parsed.epoch] = path
    return epochs[max(epochs)] if epochs else None


def _weights_advice(released: str | None, own: list[str], places: SearchFolders) -> str:
    ways = ["weights: none were released"]
    if released is not None:
        path = places.models / released
        ways = [
            f"weights: the released file goes to {path} (MD5 {RELEASED_FILES[released]}); check by "
            f"`ademx weights verify {_quote(path)}`"
        ]
    elif own and (caffe := _caffe_file(own[0])):
        path = places.models / f"{own[0]}_ep-0001.params"
        ways = [f"weights: `ademx convert {caffe} {_quote(path)}` makes them of the authors' file"]
    ways += [
        f"`ademx reproduce --train {recipe.name}` leaves others in "
        f"{places.models}/, as {recipe.stages[-1].file_name}"
        for recipe in RECIPES.values()
        if recipe.label in own
    ]
    return "; ".join(ways)

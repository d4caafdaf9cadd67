"""What an import makes: images, label images, lists, and the YAML file that describes them."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml

from ademx import options as declare
from ademx.data.check.problems import first_few
from ademx.data.imports.classes import Classes, choose_classes
from ademx.data.lists.label_files import make_labels
from ademx.data.lists.plans import Entry, LabelSource, PlannedList
from ademx.data.lists.write import list_content
from ademx.data.new_folder import new_folder
from ademx.errors import InputError, UserError
from ademx.iteration import progress_bar
from ademx.options import option
from iters import exif, palettes
from iters.datasets import DATASETS
from iters.decode import decode_image, image_size, is_turned
from iters.exif import RULES
from iters.own_dataset import make_dataset

_log = logging.getLogger(__name__)

DESCRIPTION = "dataset.yaml"
_JPEG_QUALITY = 95  # of images that are set upright

T = TypeVar("T")


@dataclass(frozen=True)
class ImportOptions:
    """How a dataset is made of what an annotation tool wrote."""

    output: Path = option(help="Folder of the dataset, new or empty.", path="output")
    name: str | None = option(
        None, "Name of the dataset, for model labels.  [default: from the output folder]"
    )
    labels: Path | None = option(
        None,
        "The classes in order, one a line; other labels that mean it behind it, after tabs.  "
        "[default: all labels that are found]",
        path="file",
    )
    unlisted: str = option(
        "refuse",
        "Shapes with a label that --labels does not list: end, leave them out, or void (255).",
        choices=("refuse", "skip", "void"),
    )
    unlabelled: str = option(
        "background",
        "Pixels without a shape: a class of that name, or void (255).",
        choices=("background", "void"),
    )
    order: str | None = option(
        None,
        "Which shape wins where they overlap.  [default: last for labelme, first for coco]",
        choices=("first", "last"),
    )
    split: float = option(0.8, "Part of the images for train; the others are val.")
    seed: int = option(0, "Splits differently.", least=0)
    exif: str | None = option(
        None,
        "Turn an image as its EXIF orientation says; auto: where only that fits its annotations."
        "  [default: turn for labelme, auto for coco]",
        choices=RULES,
    )
    link: bool = option(False, "Link to the images in place of copies.")
    skip_broken: bool = option(False, "Leave out images whose files are missing or damaged.")
    jobs: int | None = option(None, "Processes that draw labels.  [default: the cores]", least=1)

    def __post_init__(self) -> None:
        declare.check(self)
        if not 0 < self.split <= 1:
            raise InputError(f"--split {self.split}: expected a part above 0, up to 1")
        if self.unlisted != "refuse" and self.labels is None:
            raise InputError("--unlisted is for --labels: without it all labels are classes")
        name = self.dataset_name
        if not re.fullmatch("[a-z0-9-]+", name) or name.endswith("-cls") or name in DATASETS:
            raise InputError(
                f"--name {name!r}: expected lower-case letters, digits and hyphens, without -cls "
                f"at the end, and none of {', '.join(DATASETS)}"
            )

    @property
    def dataset_name(self) -> str:
        """The name that was given, or one made from that of the folder."""
        if self.name is not None:
            return self.name
        return re.sub("[^a-z0-9]+", "-", self.output.absolute().name.lower()).strip("-")


@dataclass(frozen=True)
class Rule:
    """How shapes become a label image.

    Attributes:
        ids: stored id of each label whose shapes are drawn.
        unlabelled: stored id where there is no shape.
        order: which of overlapping shapes wins, "first" or "last".
    """

    ids: Mapping[str, int]
    unlabelled: int
    order: str


@dataclass(frozen=True)
class Picture:
    """An annotated image.

    Attributes:
        name: its path in the dataset without suffix, "/" between folders.
        file: the image's file; None where its bytes come from elsewhere.
        read: returns the encoded image.
        suffix: of its file, such as ".jpg".
        turned: whether it is set upright, as its EXIF data say.
        counts: number of shapes of each label.
        labelled: returns what the label image is made from.
        split: None where the import splits.
    """

    name: str
    file: Path | None
    read: Callable[[], bytes]
    suffix: str
    turned: bool
    counts: Mapping[str, int]
    labelled: Callable[[Rule], LabelSource]
    split: str | None = None


@dataclass(frozen=True)
class Source:
    """All that was found to import.

    Attributes:
        pictures: the images.
        labels: in the order of their classes, where no file says it.
        skipped: number of shapes that cannot be drawn, by what is wrong with them.
    """

    pictures: Sequence[Picture]
    labels: Sequence[str]
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelCount:
    """A label that was found.

    Attributes:
        label: its text.
        meaning: the class's name, "void", or "" where its shapes are left out.
        stored_id: in label images; None where they are left out.
        shapes: number of its shapes.
        images: number of images with one, for each split.
    """

    label: str
    meaning: str
    stored_id: int | None
    shapes: int
    images: Mapping[str, int]


@dataclass(frozen=True)
class Imported:
    """A dataset that was made.

    Attributes:
        description: its YAML file.
        name: of the dataset.
        classes: names in order.
        splits: number of images of each.
        labels: those that were found, in order of their stored ids.
        skipped: number of shapes that could not be drawn, by what is wrong with them.
        turned: number of images that were set upright.
    """

    description: Path
    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    labels: Sequence[LabelCount]
    skipped: Mapping[str, int]
    turned: int


def import_dataset(read: Callable[[], Source], options: ImportOptions, *, order: str) -> Imported:
    """Make a dataset of what a function finds, all of it or nothing.

    Args:
        read: finds the images and their shapes.
        options: what to make.
        order: which of overlapping shapes wins if the options do not say.

    Raises:
        ValueError: labels are not listed; the output folder holds something; a file is damaged.
        OSError: a file cannot be read or written.
    """
    with new_folder(options.output, "--output") as folder:
        source = read()
        counts = Counter({label: 0 for label in source.labels})
        for picture in source.pictures:
            counts.update(picture.counts)
        classes = choose_classes(
            counts,
            labels=options.labels,
            unlisted=options.unlisted,
            unlabelled=options.unlabelled,
        )
        splits = _split(source.pictures, options)
        rule = Rule(classes.ids, classes.unlabelled, options.order or order)
        entries = _write_lists(folder, splits, classes, rule, options.dataset_name)
        make_labels(entries, palette=palettes.VOC, jobs=options.jobs, title="labels")
        _write_images(entries, [one for part in splits.values() for one in part], options.link)
    rows = _label_counts(counts, splits, classes)
    _warn_of_untrained(rows, classes)
    return Imported(
        options.output / DESCRIPTION,
        options.dataset_name,
        classes.names,
        {split: len(pictures) for split, pictures in splits.items()},
        rows,
        dict(source.skipped),
        sum(picture.turned for picture in source.pictures),
    )


def usable(
    items: Sequence[T], read: Callable[[T], Picture], *, skip_broken: bool, unit: str
) -> list[Picture]:
    """Return the picture of each item that can be used.

    Raises:
        ValueError: some cannot, and are not to be skipped; all are logged.
    """
    pictures: list[Picture] = []
    problems: list[str] = []
    with progress_bar(total=len(items), desc="reading", unit=unit) as bar:
        for item in items:
            try:
                pictures.append(read(item))
            except (UserError, OSError) as error:
                problems.append(str(error))
            bar.update()
    names = Counter(picture.name for picture in pictures)
    files = Counter(picture.file for picture in pictures if picture.file)
    problems += [
        f"{file}: annotated {number} times" for file, number in files.items() if number > 1
    ]
    problems += [
        f"{name}: the name of {number} images" for name, number in names.items() if number > 1
    ]
    pictures = [
        one for one in pictures if names[one.name] == 1 and not (one.file and files[one.file] > 1)
    ]
    for problem in problems:
        _log.warning("%s%s", "left out: " if skip_broken else "", problem)
    if problems and not (skip_broken and pictures):
        raise InputError(
            f"{len(problems):,} of {len(items):,} {unit}s cannot be used, the first: {problems[0]}"
            ": mend them, or leave them out by --skip-broken"
        )
    return pictures


def fits(
    encoded: bytes, *, stated: tuple[int, int] | None, rule: str
) -> tuple[tuple[int, int], bool]:
    """Return height and width that an image's label has, and whether the image is turned for it.

    Args:
        encoded: the image's file.
        stated: height and width by the annotations; None where they do not say.
        rule: one of :data:`iters.exif.RULES`.

    Raises:
        ValueError: it is no image, or has another size than is stated.
    """
    size = image_size(encoded)
    turned = is_turned(encoded, stated, rule)
    if turned:
        size = exif.upright_size(size, exif.orientation(encoded))
    if stated is not None and stated != size:
        why = (
            "that is how it is stored, which --exif auto takes"
            if turned and stated == image_size(encoded)
            else "it was resized or changed since"
        )
        raise InputError(
            f"is {size[0]}×{size[1]} pixels (height × width), its annotations are of "
            f"{stated[0]}×{stated[1]}: {why}"
        )
    return size, turned


def _split(pictures: Sequence[Picture], options: ImportOptions) -> dict[str, list[Picture]]:
    """Return the images of each split, in the order in which they were found."""
    if any(picture.split for picture in pictures):
        splits: dict[str, list[Picture]] = {}
        for picture in pictures:
            splits.setdefault(picture.split or "train", []).append(picture)
        return splits

    def place(picture: Picture) -> bytes:
        return hashlib.sha256(f"{options.seed}\t{picture.name}".encode("utf-8", "replace")).digest()

    number = max(1, round(options.split * len(pictures)))
    if options.split < 1 and len(pictures) > 1:
        number = min(number, len(pictures) - 1)
    chosen = {picture.name for picture in sorted(pictures, key=place)[:number]}
    parts = {
        "train": [picture for picture in pictures if picture.name in chosen],
        "val": [picture for picture in pictures if picture.name not in chosen],
    }
    return {split: part for split, part in parts.items() if part}


def _write_lists(
    folder: Path,
    splits: Mapping[str, Sequence[Picture]],
    classes: Classes,
    rule: Rule,
    name: str,
) -> list[Entry]:
    """Write lists and YAML file, check that they can be read, and return the lists' lines."""
    entries: list[Entry] = []
    for split, pictures in splits.items():
        part = [
            Entry(
                folder / "images" / f"{picture.name}{picture.suffix}",
                folder / "labels" / f"{picture.name}.png",
                picture.labelled(rule),
            )
            for picture in pictures
        ]
        content = list_content(PlannedList(split, part), part, root=folder)
        (folder / f"{split}.lst").write_bytes(content)
        entries += part
    fields = {
        "name": name,
        "classes": list(classes.names),
        "lists": {split: f"{split}.lst" for split in splits},
    }
    make_dataset(fields, folder)
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
    return entries


def _write_images(entries: Sequence[Entry], pictures: Sequence[Picture], link: bool) -> None:
    with progress_bar(total=len(pictures), desc="images", unit="image") as bar:
        for entry, picture in zip(entries, pictures):
            entry.image.parent.mkdir(parents=True, exist_ok=True)
            if link and picture.file is not None and not picture.turned:
                entry.image.symlink_to(picture.file.absolute())
            else:
                encoded = picture.read()
                entry.image.write_bytes(upright(encoded) if picture.turned else encoded)
            bar.update()


def upright(encoded: bytes) -> bytes:
    """Return an image as it is shown, without EXIF data, as JPEG if it was one, else as PNG."""
    made = io.BytesIO()
    image = decode_image(encoded, turned=True)
    if encoded.startswith(b"\xff\xd8"):
        image.save(made, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        image.save(made, "PNG")
    return made.getvalue()


def _label_counts(
    counts: Mapping[str, int], splits: Mapping[str, Sequence[Picture]], classes: Classes
) -> list[LabelCount]:
    rows = []
    for label, shapes in counts.items():
        stored = classes.ids.get(label)
        names = dict(enumerate(classes.names))
        images = {
            split: sum(picture.counts.get(label, 0) > 0 for picture in pictures)
            for split, pictures in splits.items()
        }
        meaning = "" if stored is None else names.get(stored, "void")
        rows.append(LabelCount(label, meaning, stored, shapes, images))
    return sorted(rows, key=lambda row: 256 if row.stored_id is None else row.stored_id)


def _warn_of_untrained(rows: Sequence[LabelCount], classes: Classes) -> None:
    seen = {row.meaning for row in rows if row.images.get("train")}
    found = {row.meaning for row in rows if row.shapes and row.meaning in classes.names}
    if found - seen:
        _log.warning(
            "no image of train has %s: another --seed splits differently",
            first_few(sorted(found - seen)),
        )

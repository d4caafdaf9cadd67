"""What an import makes: images, label images, lists, and the YAML file that describes them."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ademx import options as declare
from ademx.data.imports.classes import Classes, choose_classes
from ademx.data.imports.source import JPEG_SUFFIXES, Picture, Source
from ademx.data.lists.label_files import make_labels
from ademx.data.lists.plans import Entry
from ademx.data.lists.write import list_content
from ademx.data.new_folder import new_folder
from ademx.errors import InputError
from ademx.iteration import progress_bar
from ademx.options import option
from ademx.text import first_few
from iters import palettes
from iters.datasets import DATASETS
from iters.decode import decode_image
from iters.exif import RULES
from iters.find_dataset import make_dataset

_log = logging.getLogger(__name__)

DESCRIPTION = "dataset.yaml"
_JPEG_QUALITY = 95  # of images that are set upright


@dataclass(frozen=True)
class ImportOptions:
    """How a dataset is made of what an annotation tool wrote, by default labelme."""

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
    order: str = option("last", "Which shape wins where they overlap.", choices=("first", "last"))
    split: float = option(
        0.8, "Part of the images for train, the others are val, where one file has all of them."
    )
    seed: int = option(0, "Splits differently.", least=0)
    exif: str = option(
        "turn",
        "Turn an image as its EXIF orientation says; auto: where only that fits its annotations.",
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
class CocoImportOptions(ImportOptions):
    """The same of annotations in COCO's form."""

    order: str = declare.other_default(ImportOptions, "order", "first")
    exif: str = declare.other_default(ImportOptions, "exif", "auto")
    images: Path | None = option(
        None, "Folder of the images.  [default: looked for, see above]", path="folder"
    )


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
        empty: number of images without a shape.
    """

    description: Path
    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    labels: Sequence[LabelCount]
    skipped: Mapping[str, int]
    turned: int
    empty: int


def import_dataset(read: Callable[[], Source], options: ImportOptions) -> Imported:
    """Make a dataset of what a function finds, all of it or nothing.

    Args:
        read: finds the images and their shapes.
        options: what to make.

    Raises:
        ValueError: labels are not listed; the output folder holds something; a file is damaged.
        OSError: a file cannot be read or written.
    """
    with new_folder(options.output, "--output") as folder:
        source = read()
        if source.skipped:
            parts = (f"{number:,} × {what}" for what, number in source.skipped.items())
            _log.warning("shapes that cannot be drawn, left out: %s", "; ".join(parts))
        counts = Counter({label: 0 for label in source.labels})
        for picture in source.pictures:
            counts.update(picture.counts)
        classes = choose_classes(
            counts,
            labels=options.labels,
            unlisted=options.unlisted,
            unlabelled=options.unlabelled,
            order=options.order,
        )
        splits = _split(source.pictures, options)
        entries = _write_lists(folder, splits, classes, options.dataset_name)
        make_labels(entries, palette=palettes.VOC, jobs=options.jobs, title="labels")
        _write_images(entries, [one for part in splits.values() for one in part], options.link)
    rows = _label_counts(counts, splits, classes)
    _warn_of_untrained(rows, classes, is_drawn=not any(one.split for one in source.pictures))
    _warn_of_turns(source.pictures)
    return Imported(
        options.output / DESCRIPTION,
        options.dataset_name,
        classes.names,
        {split: len(pictures) for split, pictures in splits.items()},
        rows,
        dict(source.skipped),
        sum(picture.turned for picture in source.pictures),
        sum(not picture.counts for picture in source.pictures),
    )


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
    folder: Path, splits: Mapping[str, Sequence[Picture]], classes: Classes, name: str
) -> list[Entry]:
    """Write lists and YAML file, check that they can be read, and return the lists' lines."""
    entries: list[Entry] = []
    for split, pictures in splits.items():
        part = [
            Entry(
                folder / "images" / picture.file_name,
                folder / "labels" / f"{picture.name}.png",
                picture.labelled(classes),
            )
            for picture in pictures
        ]
        content = list_content(split, part, root=folder)
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
                if picture.turned:
                    encoded = _encode_upright(encoded, entry.image.suffix)
                entry.image.write_bytes(encoded)
            bar.update()


def _encode_upright(encoded: bytes, suffix: str) -> bytes:
    """Return an image as it is shown, without EXIF data."""
    made = io.BytesIO()
    image = decode_image(encoded, turned=True)
    if suffix.lower() in JPEG_SUFFIXES:
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


def _warn_of_untrained(rows: Sequence[LabelCount], classes: Classes, *, is_drawn: bool) -> None:
    seen = {row.meaning for row in rows if row.images.get("train")}
    found = {row.meaning for row in rows if row.shapes and row.meaning in classes.names}
    if found - seen and "train" in rows[0].images:
        advice = ": another --seed splits differently" if is_drawn else ""
        _log.warning("no image of train has %s%s", first_few(sorted(found - seen)), advice)


def _warn_of_turns(pictures: Sequence[Picture]) -> None:
    """Tell of images that viewers turn and whose annotations were taken for the stored ones."""
    kept = [one.name for one in pictures if one.orientation != 1 and not one.turned]
    if kept:
        _log.warning(
            "images taken as they are stored, though their EXIF data turn them: %d (%s): look at "
            "one with its label; --exif turn sets them upright",
            *(len(kept), first_few(kept)),
        )

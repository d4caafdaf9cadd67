"""`ademx data import`: a dataset from what annotation tools write."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.cli.tables import aligned
from ademx.data.imports.coco import import_coco
from ademx.data.imports.labelme import import_labelme
from ademx.data.imports.write import CocoImportOptions, Imported, ImportOptions
from ademx.text import printable

_JSON_FILE = shared.json_file("Write what was found here too.")


@click.group("import")
def import_() -> None:
    """Make a dataset of what an annotation tool wrote.

    Writes images/, labels/ (palette PNGs of class ids), train.lst, val.lst and dataset.yaml into
    a new folder, which `ademx train`, `evaluate` and `data check` take as --data-root and
    --dataset, and `predict` as --dataset. An interrupted import leaves nothing and starts over.

    Every label that is found is a class of its own unless --labels says more; nothing is guessed.
    `__ignore__` means no class (255), `_background_` and `background` the same class. All labels
    are printed with their numbers of shapes, and those that look alike are pointed out.
    """


@import_.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@shared.as_object("options", ImportOptions)
@shared.from_signature
def labelme(source: Path, options: ImportOptions, json_file: Path | None = _JSON_FILE) -> None:
    """Import labelme's JSON files: SOURCE is a folder of them, also in folders below, or one.

    Polygons, rectangles, circles and masks are drawn as labelme draws them: a pixel is in a
    polygon whose centre is inside or which its outline touches. A shape that lies wholly within
    others of its label and group_id is a hole in them. Points and lines have no area: they are
    left out and counted, as are polygons of fewer than three points.

    Images are those of imagePath, or of the same name beside the JSON file, else the imageData in
    it. One that its EXIF data turn is set upright, as labelme shows it, and saved anew (JPEG of
    quality 95). Images without a JSON file are left out.
    """
    _tell(import_labelme(source, options), options, json_file)


@import_.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@shared.as_object("options", CocoImportOptions)
@shared.from_signature
def coco(source: Path, options: CocoImportOptions, json_file: Path | None = _JSON_FILE) -> None:
    """Import annotations in the form of COCO's instances, of any categories.

    SOURCE is an annotation file, or a folder with instances_*.json, or others, in it, in
    annotations/ or beside the images of each split. Several files are a split each. The images
    are looked for beside the file, in its folder's parent, and there in folders called as the
    split or images, unless --images says where they are.

    Polygons, run lengths and crowds are drawn as pycocotools draws them. What encloses nothing
    (polygons of fewer than three points, boxes alone, run lengths of another image) is left out
    and counted. The classes have the order of the category ids. All categories are classes, those
    without an annotation too. An image is turned by its EXIF data where only that fits the size
    that the file states.
    """
    _tell(import_coco(source, options), options, json_file)


def _tell(imported: Imported, options: ImportOptions, json_file: Path | None) -> None:
    description = str(imported.description)
    shared.write_record(json_file, {**dataclasses.asdict(imported), "description": description})
    click.echo(_table(imported))
    if imported.empty:
        click.echo(f"\nimages without a shape: {imported.empty:,}")
    if imported.turned:
        click.echo(f"\nimages set upright by their EXIF data: {imported.turned:,}")
    where = f"--dataset {shlex.quote(description)} --data-root {shlex.quote(str(options.output))}"
    label = f"own-{imported.name}_rna-a1_cls{len(imported.classes)}_s8"
    click.echo(
        printable(
            f"\nnext: ademx data check {shlex.quote(description)} "
            f"--root {shlex.quote(str(options.output))}\n"
            f"      ademx train segmentation {where} --model {label} …",
            keep="\n",
        )
    )


def _table(imported: Imported) -> str:
    splits = list(imported.splits)
    rows = [["label", "id", "class", "shapes", *(f"{split} images" for split in splits)]]
    for row in imported.labels:
        shown = row.label if row.label == row.label.strip() else repr(row.label)
        images = [f"{row.images[split]:,}" for split in splits]
        stored = "-" if row.stored_id is None else str(row.stored_id)
        rows.append([shown, stored, row.meaning or "left out", f"{row.shapes:,}", *images])
    totals = [f"{imported.splits[split]:,}" for split in splits]
    rows.append(["all", "", "", f"{sum(row.shapes for row in imported.labels):,}", *totals])
    return aligned(rows, num_texts=3)

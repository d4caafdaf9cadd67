"""`ademx data lists`: the release's lists from a dataset's official files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ademx import options as declare
from ademx.cli import options as shared
from ademx.cli.tables import aligned
from ademx.data.lists.plans import ListOptions
from ademx.data.lists.write import WrittenList, make_lists
from iters.datasets import DATASETS

# Option -> the datasets that it means something for.
_ONLY_FOR = {
    "sbd": ("voc-sbd",),
    "coco": ("voc-sbd",),
    "min_pixels": ("coco20",),
    "class_ids": ("ilsvrc-cls",),
    "rec": ("ilsvrc-cls", "places"),
}


@click.command()
@click.argument("dataset", metavar="DATASET", type=click.Choice(list(DATASETS)))
@click.option("--root", type=shared.EXISTING_FOLDER, required=True, help="Folder of the dataset.")
@shared.as_object("options", ListOptions)
def lists(dataset: str, root: Path, options: ListOptions) -> None:
    """Make the release's lists of DATASET from its official files.

    DATASET is ilsvrc-cls, places, voc, voc-sbd, coco, coco20, cityscapes, cityscapes-coarse,
    ade20k, pascal-context or pascal-context-59.

    Writes <split>.lst into the root for each split that is there: "index, class id, image" for
    classification, "image, label" for segmentation, separated by tabs, paths relative to the
    root. Where datasets share a root, the names say more: coco20_<split>.lst,
    cityscapes-coarse_<split>.lst and, for both numbers of classes, pascal-context_<split>.lst.
    Prints the number of samples beside the published one.

    Labels in other forms (SBD's and Context's MATLAB files, COCO's annotations) are made into
    PNGs beside the images, in SegmentationClassAug, SegmentationClassContext, labels81 and
    labels20. PNGs that are there whole are kept, so that an interrupted command goes on where it
    stopped: remove them to have them made anew.

    voc-sbd makes train+ (VOC's train and all of SBD but VOC's val), with VOC's own labels where
    VOC has some. Without SBD's own files its labels are taken from SegmentationClassAug/*.png and
    the names from ImageSets/Segmentation/trainaug.txt. With --coco it makes train++, that is
    train+ and all of coco20.

    pascal-context takes labels from the distribution's trainval/*.mat, else from the Detail API's
    trainval_merged.json, else from the PNGs that a converter left in SegmentationClassContext. Grey
    ones, of 59 or 60 classes in alphabetical order as mmsegmentation and gluoncv write them, stay:
    this project's order then goes into labels60.

    coco20 is COCO with labels of VOC's 20 classes. The release trained on it and never says how
    it was made. This is our reading: the 20 categories that VOC has too, the first annotation
    where objects overlap, crowds drawn as any object, images with more than 1000 labelled pixels;
    it is what gluoncv does to pre-train for VOC.

    ilsvrc-cls numbers the classes in the sorted order of their synsets. With the development kit
    it also writes class_ids.txt, for `ademx evaluate classification --class-ids`. Folders that are
    called 1 to 1000, or by names, have another order: --class-ids says which is which. Where they
    are the server's numbers, class_ids.txt is such a file.
    """
    for name in declare.chosen(options):
        names = _ONLY_FOR.get(name, (dataset,))
        if dataset not in names:
            raise click.UsageError(
                f"{declare.option_name(name)} is for {', '.join(names)}, not for {dataset}"
            )
    click.echo(_table(make_lists(dataset, root, options)))


def _table(written: Sequence[WrittenList]) -> str:
    rows = [("list", "samples", "expected", "agree")]
    for row in written:
        is_known = row.expected is not None
        expected = str(row.expected) if is_known else "-"
        agree = ("yes" if row.agrees else "NO") if is_known else "-"
        rows.append((str(row.path), str(row.num_samples), expected, agree))
    return aligned(rows)

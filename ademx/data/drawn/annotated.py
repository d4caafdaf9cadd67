"""Drawn scenes as people annotate them: COCO's instances, and labelme's file beside each image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.data.drawn.files import Drawing, save_image, save_lines
from iters.datasets import DATASETS, VOID
from iters.drawn import SCENERIES, Scene, draw_for_segmentation

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELME_SPLIT = "photographs"


def write_coco(drawing: Drawing) -> None:
    """Write the images of each split and its annotations/instances_<split>.json.

    The last object of each image is annotated as a crowd is, by the lengths of its runs.
    """
    coco = DATASETS["coco"]
    first = 1
    for split, count in drawing.counts.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id, scene in enumerate(drawing.scenes("coco", split), start=first):
            name = f"{image_id:012d}.jpg"
            save_image(drawing.folder / split / name, scene.image)
            height, width = scene.label.shape
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            annotations += [{"image_id": image_id, **instance} for instance in _instances(scene)]
        first += count
        content = {
            "info": {"description": "drawn scenes"},
            "images": images,
            "annotations": [{"id": i, **row} for i, row in enumerate(annotations, start=1)],
            "categories": [
                {"id": number, "name": name}
                for number, name in zip(coco.stored_ids or (), coco.class_names)
                if number  # the background is no category
            ],
        }
        save_lines(
            drawing.folder / "annotations" / f"instances_{split}.json", [json.dumps(content)]
        )


def _instances(scene: Scene) -> Iterator[dict[str, Any]]:
    """Yield an annotation, without its ids, for each object of a scene."""
    stored_ids = DATASETS["coco"].stored_ids or ()
    last = int(scene.things.max())
    for number in range(1, last + 1):
        mask = scene.things == number
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        is_crowd = number == last
        yield {
            "category_id": stored_ids[scene.label[mask][0]],
            "iscrowd": int(is_crowd),
            "segmentation": _run_lengths(mask) if is_crowd else [_polygon(mask)],
            "area": int(mask.sum()),
            "bbox": [int(value) for value in (left, top, right - left, bottom - top)],
        }


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Return how many pixels are outside, then inside, and so on, column by column."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    counts = np.diff(changes, prepend=0, append=pixels.size)
    return {"counts": counts.tolist(), "size": list(mask.shape)}


def _polygon(mask: NDArray[np.bool_]) -> list[float]:
    """Return the outline of a shape along the edges of its pixels, x after y after x.

    Args:
        mask: (H, W), true in one run of each row that it is true in, as in a convex shape.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = left + mask[rows].sum(axis=1)
    edges = np.stack([rows, rows + 1], axis=1).ravel()  # each row's upper and lower edge
    down = np.stack([right.repeat(2), edges], axis=1)
    up = np.stack([left.repeat(2), edges], axis=1)[::-1]
    points: list[float] = np.concatenate([down, up]).ravel().tolist()
    return points


def write_labelme(drawing: Drawing) -> None:
    """Write VOC's scenes with their shapes by name, and `new.jpg`, which nobody has annotated."""
    for number, scene in enumerate(drawing.scenes("voc", LABELME_SPLIT)):
        name = f"{number:06d}"
        save_image(drawing.folder / f"{name}.jpg", scene.image)
        height, width = scene.label.shape
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": list(_shapes(scene)),
            "imagePath": f"{name}.jpg",
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        save_lines(drawing.folder / f"{name}.json", [json.dumps(content)])
    new = draw_for_segmentation("voc", "new", 0, seed=drawing.seed)
    save_image(drawing.folder / "new.jpg", new.image)


def _shapes(scene: Scene) -> Iterator[dict[str, Any]]:
    """Yield the polygons of each object, from the farthest on: what has no class before it.

    One that another hides in the middle has one for the part above and one for that below.
    """
    for number in range(1, int(scene.things.max()) + 1):
        whole = scene.things == number
        inner = whole & (scene.label != VOID)
        masks = [("__ignore__", whole)]
        if inner.any():
            name, _ = SCENERIES["voc"].things[int(scene.label[inner][0])]
            masks.append((name, inner))
        for label, mask in masks:
            for points in _outlines(mask):
                yield {
                    "label": label,
                    "points": points,
                    "group_id": number,
                    "shape_type": "polygon",
                    "flags": {},
                }


def _outlines(mask: NDArray[np.bool_]) -> Iterator[list[list[int]]]:
    """Yield outlines through the centres of a shape's outermost pixels, x and y of each corner.

    Args:
        mask: (H, W); what lies between two pixels of a row counts as inside.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    is_apart = (np.diff(rows) > 1) | (left[1:] > right[:-1]) | (right[1:] < left[:-1])
    ends = [0, *(np.flatnonzero(is_apart) + 1).tolist(), rows.size]
    for part in map(slice, ends, ends[1:]):
        down = _side(rows[part], right[part], np.minimum)
        points = [*down, *_side(rows[part], left[part], np.maximum)[::-1]]
        yield points if len(points) > 2 else [*points, points[-1]]  # of a single row


def _side(rows: NDArray[Any], columns: NDArray[Any], inner: Any) -> list[list[int]]:
    """Return one side from the top to the bottom, with a corner between any two rows.

    The corner lies in both of their runs of pixels, so that no slanting line leaves the shape.
    """
    corners = inner(columns[:-1], columns[1:])
    corner_rows = np.where(corners == columns[1:], rows[:-1], rows[1:])
    points = np.empty((2 * len(rows) - 1, 2), int)
    points[::2] = np.stack([columns, rows], axis=1)
    points[1::2] = np.stack([corners, corner_rows], axis=1)
    found: list[list[int]] = points.tolist()
    return found

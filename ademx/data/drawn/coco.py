"""Drawn scenes as COCO distributes its own: images and a JSON file of instances."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.data.drawn.files import Drawing, save_image, save_lines
from iters.datasets import DATASETS
from iters.drawn import Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray


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

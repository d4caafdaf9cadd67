"""An image of a split, with its truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """An image of a split, with its truth.

    Attributes:
        index: position in the split, from 0.
        image: path of the image, or of the RecordIO file that holds it.
        label: path of the label image (segmentation), class id (classification), or None where
            the truth is not public.
        name: what output files are called: the image's file name without its suffix, unique in
            the split.
        offset: where its record begins in a RecordIO file, bytes; None for a file of its own.
    """

    index: int
    image: Path
    label: Path | int | None
    name: str
    offset: int | None = None

    def __str__(self) -> str:
        """Return what messages call it."""
        return str(self.image if self.offset is None else f"{self.image}, record {self.name}")

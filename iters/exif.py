"""How an image lies in its file, by the orientation that its EXIF data give, and when to turn it.

A camera stores what its sensor saw and notes how it was held. Today's tools draw labels on the
turned image; those of VOC, COCO and ADE20K were drawn on the stored one. Hence the default rule:
a sample's image is turned where only that fits its label's size. Half a turn cannot be told so.
"""

from __future__ import annotations

import io
import logging
import re
import threading

from PIL import ExifTags, Image

RULES = ("auto", "ignore", "turn")  # auto: where only that fits the label's size

_log = logging.getLogger(__name__)

# EXIF's orientation -> what sets the image upright, and what it is called.
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, "mirrored"),
    3: (Image.Transpose.ROTATE_180, "turned by 180°"),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, "mirrored and turned by 180°"),
    5: (Image.Transpose.TRANSPOSE, "mirrored and turned by 90°"),
    6: (Image.Transpose.ROTATE_270, "turned by 90°"),
    7: (Image.Transpose.TRANSVERSE, "mirrored and turned by 90°"),
    8: (Image.Transpose.ROTATE_90, "turned by 90°"),
}
# How those chunks of a PNG begin that may have the orientation: kind, then keyword.
_PNG_CHUNK = re.compile(rb"eXIf|[tz]TXtRaw profile type|iTXtXML:com\.adobe\.xmp")


def orientation(encoded: bytes) -> int:
    """Return the EXIF orientation of an image file, 2 to 8; 1 where it is upright or says nothing.

    What is no image, or has damaged EXIF data, counts as upright.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.format == "TIFF":  # Pillow turns these as it decodes them
                return 1
            if image.format == "PNG" and not _may_tell(encoded):
                return 1
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged in whatever way: nothing is known of its orientation
        return 1
    return found if found in _TURNS else 1


def _may_tell(png: bytes) -> bool:
    """Return whether a PNG, which Pillow would decode to look for it, may have an orientation.

    Source: PNG specification (ISO/IEC 15948), 5.3: length, kind and data of each chunk, checksum.
    """
    start = 8
    while start + 8 <= len(png):
        if _PNG_CHUNK.match(png, start + 4):
            return True
        start += 12 + int.from_bytes(png[start : start + 4], "big")
    return False


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image set upright."""
    return image.transpose(_TURNS[orientation][0]) if orientation in _TURNS else image


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return height and width of an image of these sides once it is set upright."""
    return size[::-1] if swaps_sides(orientation) else size


def describe_turn(orientation: int) -> str:
    """Return what an orientation other than 1 does to an image."""
    return f"EXIF orientation {orientation}, {_TURNS[orientation][1]}"


def swaps_sides(orientation: int) -> bool:
    """Return whether an image's sides show it: half a turn and mirrors leave them as they are."""
    return orientation >= 5


class Watch:
    """Warns of the first image that the default rule decides on, and keeps count of all.

    The first that no size shows to be turned is warned of too.
    """

    def __init__(self) -> None:
        self._turned: dict[str, bool] = {}  # an image's name -> whether it was set upright
        self._told: set[bool] = set()
        self._lock = threading.Lock()

    @property
    def counts(self) -> dict[str, int]:
        """How many images were set upright, and how many not though their EXIF data turn them."""
        turned = sum(self._turned.values())
        return {"turned": turned, "as_stored": len(self._turned) - turned}

    def note(self, name: str, orientation: int, *, turned: bool) -> None:
        """Count an image that is not upright by its EXIF data; one that comes again counts once."""
        with self._lock:
            is_first = swaps_sides(orientation) not in self._told
            self._told.add(swaps_sides(orientation))
            self._turned[name] = turned
        if is_first:
            done = "set upright, which alone fits its label" if turned else "taken as it is stored"
            done += (
                "" if swaps_sides(orientation) else ", for no size shows which way its label lies"
            )
            _log.warning(
                "%s: %s: %s. An image is set upright where only that fits its label's size; --exif "
                "turn and --exif ignore set another rule, and `ademx data check` lists the images",
                *(name, describe_turn(orientation), done),
            )

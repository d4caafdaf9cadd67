"""From the bytes of an image file to the pixels of a crop, decoding no row below it.

A decoder stops at the last row that the header promises. So the header is made to promise fewer:
baseline JPEG and PNG files, the common ones, then cost only the rows down to the crop's last.
Whatever else Pillow reads is decoded whole.
"""

from __future__ import annotations

import contextlib
import io
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile

from iters.transforms import DECODING_ERRORS, LABEL_MODES, BrokenImage, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[int, int, int, int]  # top, left, height, width, pixels

# JPEG's chroma is enlarged from the row above and the row below, each two pixels high: the last
# row of a crop is right once these many more are promised.
_JPEG_MARGIN = 4


def image_size(encoded: bytes) -> Size:
    """Return height and width that a file's header states.

    Raises:
        BrokenImage: it is no image; the message gives the cause, the caller knows the file.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.height, image.width
    except DECODING_ERRORS as error:
        raise _broken(error) from error


def decode_image(encoded: bytes, box: Box | None = None) -> Image.Image:
    """Return the pixels of an image file, or of a box in it, as a Pillow image in RGB.

    A file that was cut short is found wherever the box lies; other damage below the box is not.

    Args:
        encoded: the file.
        box: what is needed, within the image; None is all of it.

    Raises:
        BrokenImage: it cannot be decoded; the message gives the cause, the caller knows the file.
    """
    image = _decode(encoded, box)
    return image if image.mode == "RGB" else image.convert("RGB")


def decode_stored_ids(encoded: bytes, box: Box | None = None) -> NDArray[np.uint8]:
    """Return the stored ids of a label image, or of a box in it, (h, w) uint8.

    They are those of `iters.transforms.load_label`. Damage is found as by `decode_image`.

    Raises:
        BrokenImage: it cannot be decoded, or has colours instead of one number a pixel.
    """
    image = _decode(encoded, box)
    if image.mode not in LABEL_MODES:
        raise BrokenImage(
            f"cannot be used as a label: mode {image.mode}: "
            "expected one number a pixel (a grey or palette PNG)"
        )
    stored = np.asarray(image)
    if stored.dtype == np.uint8:
        return stored
    return np.where((stored >= 0) & (stored < 256), stored, 255).astype(np.uint8)


def _decode(encoded: bytes, box: Box | None) -> Image.Image:
    # gluoncv switches this on for the whole process: half an image would pass for a whole one.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    shortened = None if box is None else shorten(encoded, box[0] + box[2])
    if shortened is not None:
        # What cannot be shortened after all may be sound as a whole.
        with contextlib.suppress(*DECODING_ERRORS):
            return _load(shortened, box)
    try:
        return _load(encoded, box)
    except DECODING_ERRORS as error:
        raise _broken(error) from error


def _load(encoded: bytes, box: Box | None) -> Image.Image:
    image = Image.open(io.BytesIO(encoded))
    image.load()
    if box is None:
        return image
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height))


def _broken(error: Exception) -> BrokenImage:
    return BrokenImage(f"cannot be used as an image: {error}")


def shorten(encoded: bytes, rows: int) -> bytes | None:
    """Return a file whose first `rows` rows are those of this one, and which has few more.

    Returns:
        A file that promises less, or None: there is nothing to gain, the kind of file does not
        allow it, or its end is missing.
    """
    if encoded.startswith(b"\xff\xd8"):
        return _shorten_jpeg(encoded, rows + _JPEG_MARGIN)
    if encoded.startswith(b"\x89PNG\r\n\x1a\n"):
        return _shorten_png(encoded, rows)
    return None


def _shorten_jpeg(encoded: bytes, rows: int) -> bytes | None:
    """Change the height in the frame header of a JPEG whose one scan runs from top to bottom.

    Source: ITU-T T.81, B.2.2 (frame header) and B.2.3 (scan header).
    """
    position, frame = 2, None
    while encoded[position : position + 1] == b"\xff" and position + 4 < len(encoded):
        marker = encoded[position + 1]
        if marker in (0xC0, 0xC1):  # sequential, Huffman coded
            frame = position
        elif marker == 0xDA:
            break
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    else:
        return None
    # Progressive files, and those with a scan for each channel, go over the image repeatedly.
    if frame is None or encoded[frame + 9] != encoded[position + 4]:
        return None
    height = int.from_bytes(encoded[frame + 5 : frame + 7], "big")
    is_whole = encoded.rfind(b"\xff\xd9", position) >= 0
    if rows >= height or not is_whole:
        return None
    return encoded[: frame + 5] + rows.to_bytes(2, "big") + encoded[frame + 7 :]


def _shorten_png(encoded: bytes, rows: int) -> bytes | None:
    """Change the height in the header of a PNG that is not interlaced, and its checksum.

    Source: PNG specification (ISO/IEC 15948), 11.2.2.
    """
    header = encoded[12:29]  # "IHDR", width, height, depth, colours, compression, filter, interlace
    is_plain = len(header) == 17 and header[16] == 0
    is_whole = encoded.rfind(b"IEND", 33) >= 0
    if not (is_plain and is_whole) or rows >= int.from_bytes(header[8:12], "big"):
        return None
    header = header[:8] + rows.to_bytes(4, "big") + header[12:]
    return encoded[:12] + header + zlib.crc32(header).to_bytes(4, "big") + encoded[33:]

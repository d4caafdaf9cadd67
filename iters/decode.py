"""From the bytes of an image file to pixels: the one reader of images and labels.

Of a crop no row below it is decoded. A decoder stops at the last row that the header promises. So
the header is made to promise fewer: baseline JPEG and PNG files, the common ones, then cost only
the rows down to the crop's last. Whatever else Pillow reads is decoded whole.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from ademx.compat import InputError
from iters import exif

if TYPE_CHECKING:
    from numpy.typing import NDArray

Size = tuple[int, int]  # height, width, pixels
Box = tuple[int, int, int, int]  # top, left, height, width, pixels


class BrokenImage(InputError):
    """A file that is there but is not an image that can be used."""


class ColouredLabel(BrokenImage):
    """An image with colours where a label was expected."""


# What Pillow's decoders raise on damaged or foreign bytes.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)

_LABEL_MODES = ("1", "P", "L", "I;16", "I;16B", "I")

# Pillow stretches greys of 2 and 4 bits to 0 to 255, as it decodes by one of these.
_FEW_BITS = re.compile("L;([24])R?")
_PER_GREY = 257  # steps of 16 bits for each of 8

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


def is_turned(encoded: bytes, label_size: Size | None, rule: str) -> bool:
    """Return whether a sample's image is set upright as its EXIF data say.

    Args:
        encoded: the image file.
        label_size: height and width of its label image; None where there is none.
        rule: one of :data:`iters.exif.RULES`.

    Raises:
        BrokenImage: it is no image.
    """
    return sample_size(encoded, label_size, rule)[1]


def sample_size(encoded: bytes, label_size: Size | None, rule: str) -> tuple[Size, bool]:
    """Return a sample's height and width and whether it is set upright; see `is_turned`."""
    size = image_size(encoded)
    if rule == "ignore" or (rule == "auto" and label_size in (None, size)):
        return size, False
    orientation = exif.orientation(encoded)
    upright = exif.upright_size(size, orientation)
    turned = orientation != 1 if rule == "turn" else label_size == upright
    return upright if turned else size, turned


def decode_image(
    encoded: bytes, box: Box | None = None, *, turned: bool = False, over_white: bool = False
) -> Image.Image:
    """Return the pixels of an image file, or of a box in it, as a Pillow image in RGB.

    A file that was cut short is found wherever the box lies; other damage below the box is not.
    Grey and palette images become RGB, numbers of 16 bits are scaled to 8, 65535 to 255. Of
    several frames the first is taken.

    Args:
        encoded: the file.
        box: what is needed, within the image; None is all of it.
        turned: set it upright as its EXIF data say; the box lies in the upright image.
        over_white: show white where it is transparent; else the alpha channel is dropped.

    Raises:
        BrokenImage: it cannot be decoded, or its numbers have no range to be shown in; the
            message gives the cause, the caller knows the file.
    """
    orientation = exif.orientation(encoded) if turned else 1
    image, _ = _decode(encoded, box if orientation == 1 else None)
    try:
        image = _in_rgb(image, over_white=over_white)
    except DECODING_ERRORS as error:
        raise _broken(error) from error
    return image if orientation == 1 else _cut(exif.upright(image, orientation), box)


def decode_numbers(encoded: bytes, box: Box | None = None) -> NDArray[Any]:
    """Return the numbers that a label image, or a box in it, stores, (h, w) integers.

    They are read as they stand: a palette's indices, greys of 1 to 16 bits. Damage is found as by
    `decode_image`.

    Raises:
        BrokenImage: it cannot be decoded.
        ColouredLabel: it has colours instead of one number a pixel.
    """
    image, stretch = _decode(encoded, box)
    if image.mode not in _LABEL_MODES:
        raise ColouredLabel(
            f"cannot be used as a label: mode {image.mode}: "
            "expected one number a pixel (a grey or palette PNG)"
        )
    numbers = np.asarray(image)
    if image.mode == "1":
        return numbers.astype(np.uint8)
    return numbers if stretch == 1 else numbers // stretch


def decode_stored_ids(encoded: bytes, box: Box | None = None) -> NDArray[np.uint8]:
    """Return the stored ids of a label image, or of a box in it, (h, w) uint8.

    They are those of `decode_numbers`, but for numbers above 255, which no dataset has a class
    for: 255.

    Raises:
        BrokenImage: it cannot be decoded, or has colours instead of one number a pixel.
    """
    numbers = decode_numbers(encoded, box)
    if numbers.dtype == np.uint8:
        return numbers
    return np.where((numbers >= 0) & (numbers < 256), numbers, 255).astype(np.uint8)


def _decode(encoded: bytes, box: Box | None) -> tuple[Image.Image, int]:
    """Return the pixels as Pillow has them, and what stored numbers were multiplied by."""
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


def _load(encoded: bytes, box: Box | None) -> tuple[Image.Image, int]:
    image = Image.open(io.BytesIO(encoded))
    stretch = _stretch(image)  # known only before the image is decoded
    image.load()
    return _cut(image, box), stretch


def _cut(image: Image.Image, box: Box | None) -> Image.Image:
    if box is None:
        return image
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height))


def _stretch(image: ImageFile.ImageFile) -> int:
    """Return what Pillow is going to multiply the stored numbers by."""
    for tile in image.tile:
        options = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        found = _FEW_BITS.fullmatch(str(options[0])) if options else None
        if found:
            return 255 // ((1 << int(found[1])) - 1)
    return 1


def _in_rgb(image: Image.Image, *, over_white: bool) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image)).convert("RGB")
    if image.mode == "F":
        raise InputError("its pixels are fractions without a known range: save it as 8 or 16 bits")
    if image.mode in ("La", "RGBa"):  # colours multiplied by alpha convert to these alone
        image = image.convert(image.mode.upper())
    if over_white and (image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _from_16_bits(values: NDArray[Any]) -> Image.Image:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise InputError(
            f"its pixels are whole numbers from {low} to {high}, without a known range: save it "
            "as 8 or 16 bits"
        )
    return Image.fromarray(((values.astype(np.uint32) + _PER_GREY // 2) // _PER_GREY).astype("u1"))


def _broken(error: Exception) -> BrokenImage:
    # The text of the one gives an address in memory.
    is_unknown = isinstance(error, UnidentifiedImageError)
    cause = "not an image of a known format" if is_unknown else str(error)
    if isinstance(error, Image.DecompressionBombError):
        cause = (
            f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, for fear of a small file "
            "that fills the memory: cut it up; `ademx predict --max-pixels` takes it whole"
        )
    return BrokenImage(f"cannot be used as an image: {cause}")


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

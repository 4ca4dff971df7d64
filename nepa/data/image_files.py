"""Image files from anywhere, as Pillow reads them."""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

# What Pillow raises for a damaged file depends on its format; zlib, for one damaged in an archive.
DAMAGED = (
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    EOFError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
    zlib.error,
)
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "GIF", "TIFF")
# By the orientation that a camera noted.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(file: Path | BinaryIO) -> Image.Image:
    """Pillow's image of a file of the formats above, whatever the file is called.

    Pillow knows many more, and would start Ghostscript, a program that runs what the file says, for one of them.

    Raises:
        one of `DAMAGED`: it is of another format, or its header is damaged.
    """
    return Image.open(file, formats=FORMATS)


def what_is_wrong(error: Exception) -> str:
    """What one of `DAMAGED` says; Pillow's own words for a file of no known format hold an address in memory."""
    return "no image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its camera was held; itself where it is so.

    Pillow's own `exif_transpose` also writes the notes of the camera anew, and fails on those that are malformed.
    """
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)

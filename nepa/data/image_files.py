"""Image files from anywhere, as Pillow reads them."""

import zlib

from PIL import ExifTags, Image, UnidentifiedImageError

# What Pillow raises for a damaged file depends on its format; zlib, for one damaged in an archive.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, Image.DecompressionBombError, zlib.error)
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


def what_is_wrong(error: Exception) -> str:
    """What one of `DAMAGED` says; Pillow's own words for a file of no known format hold an address in memory."""
    return "no image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its camera was held; itself where it is so.

    Pillow's own `exif_transpose` also writes the notes of the camera anew, and fails on those that are malformed.
    """
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)

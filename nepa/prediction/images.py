"""Reading of images from anywhere: whatever is wrong with one is said in a line."""

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from nepa.data.image_files import DAMAGED, open_image, upright
from nepa.errors import UserError


def read_image(path: Path, channels: int) -> Image.Image:
    """An image file, turned upright as its camera says, in grey (1 channel) or RGB (3); the first frame of several.

    Raises:
        UserError: it is missing, empty, no image, truncated, damaged, too large to be unpacked, or of more than 8 bits.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with open_image(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise UserError(f"{path} has more than 8 bits per channel (mode {image.mode}); save it with 8")
                return upright(image).convert("L" if channels == 1 else "RGB")
        except FileNotFoundError:
            raise UserError(f"{path} not found; name an image file") from None
        except IsADirectoryError:
            raise UserError(f"{path} is a folder; name the images in it") from None
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            limit = round(Image.MAX_IMAGE_PIXELS / 1e6)
            raise UserError(f"{path} has more than {limit} million pixels; shrink it") from None
        except UnidentifiedImageError:
            reason = "is empty" if path.stat().st_size == 0 else "is no image of a known format"
            raise UserError(f"{path} {reason}; name a JPEG, PNG or the like") from None
        except PermissionError:
            raise UserError(f"{path} cannot be read (no permission); mend its permissions") from None
        except DAMAGED as error:
            raise UserError(f"{path} cannot be read ({error}); fetch it again") from None

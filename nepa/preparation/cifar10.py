"""CIFAR-10: as torchvision downloads it, or from a folder or archive of class folders."""

import gzip
import io
import shutil
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError

import numpy as np
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

from nepa.data.image_files import DAMAGED, open_image, what_is_wrong
from nepa.data.images import Images
from nepa.errors import UserError
from nepa.parameters.schema import CIFAR10_IMAGES as COUNTS
from nepa.preparation.image_folder import RawImage, find_images

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
DOWNLOADS = Path("data/downloads")
# What a folder of images calls them; `find_images` takes the test images for validation images.
SPLITS = {"train": "training", "test": "validation"}


def read_cifar10(path: str | None) -> dict[str, Images]:
    """Its `train` and `test` images (n, 32, 32, 3), labels in the order of `CLASSES`.

    Args:
        path: a folder or tar file, gzipped or not, with `train` and `test` of class folders; a folder with
            torchvision's copy, packed or unpacked; None to have torchvision download it to `data/downloads`.

    Raises:
        UserError: it is not there or cannot be fetched, or is not CIFAR-10 as it was published.
    """
    given = DOWNLOADS if path is None else Path(path)
    if path is None or any((given / name).exists() for name in (CIFAR10.base_folder, CIFAR10.filename)):
        archive = given / CIFAR10.filename
        # Else torchvision would fetch another one in its place.
        if given != DOWNLOADS and archive.exists() and not check_integrity(archive, CIFAR10.tgz_md5):
            raise UserError(f"{archive} is truncated or not CIFAR-10's; fetch it again")
        return {split: _torchvision(given, split == "train") for split in COUNTS}
    with TemporaryDirectory() as folder:
        unzipped = _unzipped(given, Path(folder))
        try:
            found = find_images(unzipped)
        except UserError as error:  # which names what is deleted at once
            raise UserError(str(error).replace(str(unzipped), str(given))) from None
        return {split: _decoded(given, split, found[name]) for split, name in SPLITS.items()}


def _torchvision(root: Path, train: bool) -> Images:
    """torchvision's reader, which checks the published MD5 of every file before it looks into it."""
    try:
        dataset = CIFAR10(str(root), train=train, download=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"CIFAR-10 could not be fetched to {root} ({error}); fetch {CIFAR10.filename} into a folder and name that "
            "folder in sources.images"
        ) from None
    return Images(dataset.data, np.array(dataset.targets, np.int64))


def _unzipped(path: Path, folder: Path) -> Path:
    """The tar file within a gzip file, where it is one: images are read from where they lie in it."""
    if path.suffix not in (".gz", ".tgz") or not path.exists():
        return path
    target = folder / "images.tar"
    try:
        with gzip.open(path) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is truncated or no gzip file ({error}); fetch it again") from None
    return target


def _decoded(source: Path, split: str, found: list[RawImage]) -> Images:
    classes = sorted({image.label for image in found})
    if classes != CLASSES or len(found) != COUNTS[split]:
        raise UserError(
            f"{source} holds {len(found)} images of {len(classes)} classes in {split}; "
            f"CIFAR-10 has {COUNTS[split]} of {', '.join(CLASSES)}"
        )
    pixels = np.empty((len(found), 32, 32, 3), np.uint8)
    for number, image in enumerate(tqdm(found, desc=f"decode {split}", unit="image", mininterval=5)):
        try:
            with open_image(io.BytesIO(image.read())) as decoded:
                pixels[number] = np.asarray(decoded.convert("RGB")).reshape(32, 32, 3)
        except DAMAGED as error:
            raise UserError(
                f"{source}: {image.name} is no image of 32x32 pixels ({what_is_wrong(error)}); fetch it again"
            ) from None
    return Images(pixels, np.array([CLASSES.index(image.label) for image in found], np.int64))

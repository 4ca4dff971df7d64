"""Finding every image of a source that lies in class folders, in one tar file of them, or in ILSVRC2012's own files.

Nothing is extracted: an archive is only looked through once for where each image lies in it, so its names can't lead
out of any folder.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
from scipy.io import loadmat
from torchvision.datasets.imagenet import ARCHIVE_META
from tqdm import tqdm

from nepa.errors import UserError

# What people call the two splits in their folders.
SPLITS = {"training": ("train", "training"), "validation": ("val", "validation", "valid", "test")}
EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
TRAINING, VALIDATION, DEVKIT = (ARCHIVE_META[part][0] for part in ("train", "val", "devkit"))  # ILSVRC2012's own
CHECKSUMS = dict(ARCHIVE_META.values())


@dataclass(frozen=True)
class RawImage:
    """Where an image lies: `size` bytes from `offset` of a file; its class and its name for messages."""

    file: str
    offset: int
    size: int
    label: str
    name: str

    def read(self) -> bytes:
        """Its bytes, as they are."""
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def find_images(path: Path) -> dict[str, list[RawImage]]:
    """Every image of `training` and `validation`, sorted by name.

    Args:
        path: a folder with `train` and `val` of class folders, a tar file of such folders, or a folder with
            ILSVRC2012's tar files and its development kit.

    Raises:
        UserError: something is missing, an archive is truncated, or ILSVRC2012's is not what was published.
    """
    if not path.exists():
        raise UserError(f"{path} not found; sources.images, or --images, names the folder or tar file of the images")
    if path.is_file():
        found = _by_split(path, _members(path))
    elif (path / TRAINING).exists() or (path / VALIDATION).exists():
        for name, checksum in CHECKSUMS.items():
            _check_archive(path / name, checksum)
        found = {
            "training": _ilsvrc_training(path / TRAINING),
            "validation": _ilsvrc_validation(path / VALIDATION, path / DEVKIT),
        }
    else:
        found = _by_split(path, _files(path))
    for split, images in found.items():
        if not images:
            raise UserError(f"{path} has no image below {' or '.join(SPLITS[split])}; expected {split} class folders")
    return {split: sorted(images, key=lambda image: image.name) for split, images in found.items()}


def write_sample(found: dict[str, list[RawImage]], counts: dict[str, int], folder: Path) -> int:
    """Write so many images of each split below `folder`, in class folders, taken evenly from all that were found.

    Returns:
        the number of their classes.
    """
    labels = set()
    for split, count in counts.items():
        for number in range(count):
            image = found[split][number * len(found[split]) // count]
            labels.add(image.label)
            path = folder / split / image.label / f"{number:05d}{PurePosixPath(image.name).suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.read())
    return len(labels)


def _check_archive(path: Path, expected: str) -> None:
    if not path.exists():
        raise UserError(f"{path} not found; fetch it, or give class folders instead")
    digest = hashlib.md5(usedforsecurity=False)
    with (
        path.open("rb") as file,
        tqdm(total=path.stat().st_size, desc=f"check {path.name}", unit="B", unit_scale=True, mininterval=5) as bar,
    ):
        while block := file.read(1 << 24):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != expected:
        raise UserError(f"{path} has the MD5 {digest.hexdigest()}, ILSVRC2012's has {expected}; fetch it again")


def _files(folder: Path) -> Iterator[RawImage]:
    for split in (name for names in SPLITS.values() for name in names):
        # `glob` would pass over folders that may not be read.
        for label in (folder / split).iterdir() if (folder / split).is_dir() else ():
            for file in label.iterdir() if label.is_dir() else ():
                if _is_image(file) and file.is_file():
                    name = file.relative_to(folder).as_posix()
                    yield RawImage(str(file), 0, file.stat().st_size, label.name, name)


def _members(archive: Path) -> Iterator[RawImage]:
    for member in _regular_files(archive):
        path = PurePosixPath(member.name)
        if _is_image(path):
            # By the same name as in a folder, wherever in the archive the splits lie.
            name = "/".join(path.parts[-3:])
            yield RawImage(str(archive), member.offset_data, member.size, path.parent.name, name)


def _is_image(path: PurePath) -> bool:
    hidden = any(part.startswith(".") for part in path.parts[-3:])  # as macOS and notebooks add files and classes
    return path.suffix.lower() in EXTENSIONS and not hidden


def _by_split(path: Path, images: Iterator[RawImage]) -> dict[str, list[RawImage]]:
    found: dict[str, list[RawImage]] = {split: [] for split in SPLITS}
    called: dict[str, set[str]] = {split: set() for split in SPLITS}
    for image in images:
        # .../<split>/<class>/<file>
        parts = PurePosixPath(image.name).parts
        for split, names in SPLITS.items():
            if len(parts) >= 3 and parts[-3] in names:
                found[split].append(image)
                called[split].add(parts[-3])
    for split, names in called.items():
        if len(names) > 1:
            raise UserError(f"{path} has {' and '.join(sorted(names))}, each of {split} images; leave one of them")
    return found


def _regular_files(archive: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(archive, "r:") as file:
            end = archive.stat().st_size
            for member in file:
                if (member.islnk() or member.issym()) and _is_image(PurePosixPath(member.name)):
                    raise UserError(
                        f"{archive}: {member.name} is a link; pack the file itself, as tar does with --dereference and "
                        "--hard-dereference"
                    )
                if member.isfile():
                    if member.offset_data + member.size > end:
                        raise UserError(f"{archive} is truncated in {member.name}; fetch it again")
                    yield member
    except tarfile.ReadError as error:
        raise UserError(f"{archive} is no complete, uncompressed tar file ({error}); fetch or unpack it") from None


def _ilsvrc_training(archive: Path) -> list[RawImage]:
    """The training file, whose checksum is that of the published one, is a tar of one tar per class."""
    found = []
    with tarfile.open(archive, "r:") as outer:
        for member in outer:
            label, start = PurePosixPath(member.name).stem, member.offset_data
            with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
                found += [
                    RawImage(str(archive), start + m.offset_data, m.size, label, f"{label}/{m.name}")
                    for m in inner
                    if m.isfile()
                ]
    return found


def _ilsvrc_validation(archive: Path, kit: Path) -> list[RawImage]:
    """The validation file is flat; the development kit has each image's class, in the order of their names."""
    with tarfile.open(kit, "r:gz") as file:
        contents = {PurePosixPath(m.name).name: file.extractfile(m).read() for m in file if m.isfile()}
    synsets = loadmat(io.BytesIO(contents["meta.mat"]), squeeze_me=True)["synsets"]
    by_number = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in np.atleast_1d(synsets)}
    truth = contents["ILSVRC2012_validation_ground_truth.txt"].split()
    images = sorted(_regular_files(archive), key=lambda member: member.name)
    return [
        RawImage(str(archive), member.offset_data, member.size, by_number[int(number)], member.name)
        for member, number in zip(images, truth, strict=True)
    ]

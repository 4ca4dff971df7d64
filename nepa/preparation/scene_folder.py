"""Segmentation data in ADE20K's layout, from a folder, a zip or a tar file, checked and copied into the project.

Only what has the layout's names is read, and it is written to names made here, so an archive can't write elsewhere.
"""

import io
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from nepa.data.image_files import DAMAGED, open_image, what_is_wrong
from nepa.data.scenes import SPLITS, Classes
from nepa.errors import UserError
from nepa.parameters.schema import SceneFolder

LAYOUT = re.compile(r"(?:^|.*/)(images|annotations)/(training|validation)/([^/.][^/]*)\.(jpg|jpeg|png)", re.IGNORECASE)
ENDINGS = {"images": {"jpg", "jpeg", "png"}, "annotations": {"png"}}  # JPEG would blur the classes of an annotation
CLASS_FILES = ("classes.txt", "objectInfo150.txt")
IGNORED = 255  # by MMSegmentation, as is 0, which it makes 255
MOST_CLASSES = 254
Member = tuple[str, Callable[[], bytes]]


@dataclass(frozen=True)
class RawScene:
    """One scene of a source: readers of the image and of its annotation."""

    stem: str
    ending: str
    read_image: Callable[[], bytes]
    read_annotation: Callable[[], bytes]


def find_scenes(source: Path) -> tuple[Classes, dict[str, list[RawScene]]]:
    """The classes and, by split, every scene of a source, sorted by name.

    Raises:
        UserError: the source or its list of classes is missing, or an image or an annotation has no partner.
    """
    members = dict(_members(source))
    classes = _classes(source, members)
    found: dict[tuple[str, str], dict[str, Member]] = {(k, s): {} for k in ("images", "annotations") for s in SPLITS}
    for name, read in members.items():
        if match := LAYOUT.fullmatch(name):
            kind, split, stem, ending = match.groups()
            kind, split, ending = kind.lower(), split.lower(), ending.lower()
            if ending not in ENDINGS[kind]:
                raise UserError(f"{source}: {name} must be a PNG file, as annotations are; convert it")
            if stem in found[kind, split]:
                raise UserError(f"{source}: {split} has two {kind} called {stem}; remove one")
            found[kind, split][stem] = (ending, read)
    scenes: dict[str, list[RawScene]] = {}
    for split in SPLITS:
        images, annotations = found["images", split], found["annotations", split]
        endings = sorted({ending for ending, _ in images.values()})
        if len(endings) > 1:
            raise UserError(f"{source}: {split} images end in {' and '.join(endings)}; give all the same ending")
        alone = sorted(set(images) ^ set(annotations))
        if alone:
            lacks = "image" if alone[0] in annotations else "annotation"
            raise UserError(f"{source}: {split} scene {alone[0]} has no {lacks}; fetch it again")
        scenes[split] = [RawScene(stem, *images[stem], annotations[stem][1]) for stem in sorted(images)]
    return classes, scenes


def write_scene_folder(data: SceneFolder, source: Path, target: Path) -> Classes:
    """Copy every pair of image and annotation of `source` below `target`, and return the classes.

    Raises:
        UserError: something is missing, cannot be read, or has a class without a name.
    """
    classes, found = find_scenes(source)
    for split, scenes in found.items():
        expected = getattr(data, split)
        if len(scenes) != expected:
            raise UserError(f"{source} holds {len(scenes)} {split} scenes; scenes.{split} is {expected}")
        write_scenes_of_split(source, split, scenes, classes, target)
    return classes


def write_scenes_of_split(source: Path, split: str, scenes: list[RawScene], classes: Classes, target: Path) -> None:
    """Copy scenes below `target`, each checked.

    Raises:
        UserError: one cannot be read, or has a class without a name, or none has any class.
    """
    labelled = False
    for kind in ("images", "annotations"):
        (target / kind / split).mkdir(parents=True)
    for scene in tqdm(scenes, desc=f"prepare scenes, {split}", unit=" scenes", mininterval=5):
        content, _ = _read(source, scene.stem, scene.read_image)
        classified, picture = _read(source, scene.stem, scene.read_annotation)
        annotation = np.asarray(picture)
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)  # upright, as MMSegmentation does it
        if decoded is None:
            raise UserError(f"{source}: {scene.stem} cannot be read by MMSegmentation's decoder; save it anew as JPEG")
        if annotation.shape != decoded.shape[:2]:
            raise UserError(
                f"{source}: annotation {scene.stem} is {annotation.shape}, its image, upright, {decoded.shape[:2]}; it "
                "needs one class for each pixel"
            )
        largest, known = annotation.max(where=annotation != IGNORED, initial=0), len(classes.names)
        labelled |= largest > 0
        if largest > known:
            raise UserError(
                f"{source}: annotation {scene.stem} has class {largest}; there are names for {known}, name it too"
            )
        (target / "images" / split / f"{scene.stem}.{scene.ending}").write_bytes(content)
        (target / "annotations" / split / f"{scene.stem}.png").write_bytes(classified)
    if not labelled:
        raise UserError(f"{source}: no pixel of the {split} scenes has a class; 0 and 255 are none, name 1 and so on")


def _members(source: Path) -> Iterator[Member]:
    """Name and reader of every file."""
    if source.is_dir():
        for folder, _, files in os.walk(source, onerror=_refuse, followlinks=True):
            for path in (Path(folder, name) for name in files):
                yield path.relative_to(source).as_posix(), path.read_bytes
        return
    try:
        if zipfile.is_zipfile(source):
            archive = zipfile.ZipFile(source)
            for name in archive.namelist():
                yield name, lambda name=name: archive.read(name)
            return
        archive = tarfile.open(source, "r:")  # noqa: SIM115 - open while its members are read
        for member in archive.getmembers():
            if member.isfile():
                yield member.name, lambda member=member: archive.extractfile(member).read()
    except FileNotFoundError:
        raise UserError(
            f"sources.scenes {source} not found; give a folder, zip or tar file in ADE20K's layout"
        ) from None
    except (tarfile.ReadError, zipfile.BadZipFile) as error:
        raise UserError(f"{source} is no complete zip or uncompressed tar file ({error}); fetch or unpack it") from None


def _refuse(error: OSError) -> None:
    """A folder that may not be read; `os.walk` would pass over it."""
    raise error


def _classes(source: Path, members: dict[str, Callable[[], bytes]]) -> Classes:
    for expected in CLASS_FILES:
        for name, read in members.items():
            if Path(name).name == expected:
                try:
                    lines = [line for line in read().decode("utf-8-sig").splitlines() if line.strip()]
                except UnicodeDecodeError as error:
                    raise UserError(f"{source}: {name} is no UTF-8 text ({error}); save it as such") from None
                except (*DAMAGED, zipfile.BadZipFile) as error:
                    raise UserError(f"{source}: {name} cannot be read ({error}); fetch it again") from None
                if expected == "objectInfo150.txt":  # a table whose last column has the names
                    lines = [line.split("\t")[-1].split(";")[0].split(",")[0] for line in lines[1:]]
                names = tuple(line.strip() for line in lines)
                twice = next((each for each in names if names.count(each) > 1), None)
                if expected == "classes.txt" and twice is not None:
                    raise UserError(f"{source}: {name} names the class {twice!r} twice; give each a name of its own")
                if len(names) > MOST_CLASSES:
                    raise UserError(
                        f"{source}: {name} names {len(names)} classes, MMSegmentation's annotations of 8 bits have "
                        f"room for {MOST_CLASSES}; leave out or join some"
                    )
                if len(names) < 2:
                    raise UserError(
                        f"{source}: {name} names {len(names)} classes; name two at least, such as the background"
                    )
                return Classes.with_colours(names)
    raise UserError(f"{source} has neither {' nor '.join(CLASS_FILES)}; name the classes there, one a line")


def _read(source: Path, stem: str, read: Callable[[], bytes]) -> tuple[bytes, Image.Image]:
    """A file's content as it is, and the image that it holds, which has been decoded."""
    try:
        content = read()
        image = open_image(io.BytesIO(content))
        image.load()
        return content, image
    except (*DAMAGED, zipfile.BadZipFile) as error:
        raise UserError(f"{source}: {stem} cannot be read ({what_is_wrong(error)}); fetch it again") from None

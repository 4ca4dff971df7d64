"""Writing an image folder as shards: in parallel, and restartable without redoing the shards that are finished.

While it runs, everything lies in a working folder of the run's own; a shard's record is written after the shard, so a
shard without a record is done again, and so is one with an image that could not be read: it may have been mended. What
is finished moves to `data/<recipe>/images` in one rename.
"""

import io
import json
import logging
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import simplejpeg
from PIL import Image, ImageFile
from tqdm import tqdm
from zc.lockfile import LockError, LockFile

from nepa.data import image_files
from nepa.data.image_files import DAMAGED, open_image, upright, what_is_wrong
from nepa.data.images import file_checksum
from nepa.data.shards import ShardIndex
from nepa.errors import UserError
from nepa.files import remove_partial, write_atomically, write_json
from nepa.parameters.schema import ImageFolder
from nepa.preparation.image_folder import RawImage, find_images

log = logging.getLogger("nepa")
READING = ("decode", "image_size", "crop_share", "mean", "std", "evaluate_on")  # say how what is stored is read
NAMED = 10  # classes in a message
SMALLEST = 4  # pixels on the shorter side: of fewer a random crop may hold none


@dataclass(frozen=True)
class Job:
    """One shard: where it goes, what goes into it and how."""

    target: Path
    images: list[RawImage]
    labels: list[int]
    data: ImageFolder

    @property
    def record(self) -> Path:
        """Written last: offsets, sizes and labels, what could not be read, and the shard's checksum."""
        return self.target.with_suffix(".json")


def prepare_shards(data: ImageFolder, source: Path, work: Path, target: Path, processes: int) -> None:
    """Write both splits of an image folder below `target`, with index and manifest.

    Args:
        source: the folder or tar file.
        work: where unfinished work is kept; a second call with the same source and settings goes on there.
        processes: that read and write.

    Raises:
        UserError: images are missing, more than `unreadable_allowed` cannot be read, or another process prepares them.
    """
    work.mkdir(parents=True, exist_ok=True)
    try:
        lock = LockFile(str(work.with_suffix(".lock")))
    except LockError:
        raise UserError(f"another process prepares images in {work}; wait until it has ended, or end it") from None
    with closing(lock):
        remove_partial(target)
        _prepare(data, source, work, target, processes)


def _prepare(data: ImageFolder, source: Path, work: Path, target: Path, processes: int) -> None:
    found = find_images(source)
    for split, images in found.items():
        expected = getattr(data, f"{split}_images")
        if len(images) != expected:
            raise UserError(f"{source} holds {len(images)} {split} images; data.{split}_images is {expected}")
    classes = sorted({image.label for images in found.values() for image in images})
    for name in classes:
        if name != name.encode(errors="ignore").decode():
            raise UserError(f"{source} has a class {name!r}, which is no UTF-8 text; rename it")
    if len(classes) != data.classes:
        names = ", ".join(classes[:NAMED]) + (", ..." if len(classes) > NAMED else "")
        raise UserError(f"{source} holds {len(classes)} classes ({names}); data.classes is {data.classes}")
    work = work / _identity(data, found)
    jobs = {split: list(_jobs(data, work / split, images, classes)) for split, images in found.items()}
    unreadable = _run([job for of_split in jobs.values() for job in of_split], data, source, processes)
    with write_atomically(target) as beside:
        _assemble(beside, jobs, classes, unreadable)
    shutil.rmtree(work)


def _identity(data: ImageFolder, found: dict[str, list[RawImage]]) -> str:
    """Names the work: other settings, another source or other code must not go on with it."""
    content = [data.model_dump(exclude={"unreadable_allowed", *READING})]
    content += [file_checksum(Path(code)) for code in (__file__, image_files.__file__)]
    content += [[image.name, image.size] for images in found.values() for image in images]
    return sha256(json.dumps(content).encode()).hexdigest()[:16]


def _jobs(data: ImageFolder, folder: Path, images: list[RawImage], classes: list[str]) -> Iterator[Job]:
    number = {label: index for index, label in enumerate(classes)}
    order = np.random.default_rng(data.split_seed).permutation(len(images))
    for shard, start in enumerate(range(0, len(images), data.images_per_shard)):
        chosen = [images[index] for index in order[start : start + data.images_per_shard]]
        yield Job(folder / f"{shard:05d}.tar", chosen, [number[image.label] for image in chosen], data)


def _run(jobs: list[Job], data: ImageFolder, source: Path, processes: int) -> list[list[str]]:
    """Write what is not written yet; returns the name of every unreadable image with the reason."""
    unreadable: list[list[str]] = []
    waiting = [job for job in jobs if not _is_finished(job)]
    total = sum(len(job.images) for job in jobs)
    done = total - sum(len(job.images) for job in waiting)
    if done:
        log.info(f"prepare images: goes on after {done:,} of {total:,} images")
    fresh = get_context("forkserver")  # its processes inherit no threads and no locks
    fresh.set_forkserver_preload([__name__])  # imported once, not by each
    with (
        tqdm(total=total, initial=done, unit=" images", desc="prepare images", mininterval=5) as bar,
        ProcessPoolExecutor(processes, fresh, _end_with, (os.getpid(),)) as pool,
    ):
        try:
            for job, bad in zip(waiting, pool.map(_write_shard, waiting), strict=True):
                bar.update(len(job.images))
                unreadable += bad
                _check_limit(unreadable, data, source)
        except UserError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        except BrokenProcessPool:
            raise UserError(
                f"a process that prepared {source} was killed, as for want of memory; the same command goes on, with "
                "fewer of them if execution's prepare has fewer cpus"
            ) from None
    return sorted(unreadable)


def _is_finished(job: Job) -> bool:
    return job.record.exists() and not json.loads(job.record.read_text())["unreadable"]


def _end_with(process: int) -> None:
    """End this one when `process` does: where that was killed, its workers would wait for ever."""

    def watch() -> None:
        while psutil.pid_exists(process):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _check_limit(unreadable: list[list[str]], data: ImageFolder, source: Path) -> None:
    if len(unreadable) > data.unreadable_allowed:
        name, reason = unreadable[0]
        raise UserError(
            f"{source}: {len(unreadable)} images cannot be read, data.unreadable_allowed is "
            f"{data.unreadable_allowed}; the first is {name} ({reason})"
        )


def _write_shard(job: Job) -> list[list[str]]:
    index: dict[str, list[int]] = {"offset": [], "size": [], "label": []}
    unreadable: list[list[str]] = []
    with write_atomically(job.target) as beside:
        with tarfile.open(beside, "w", format=tarfile.USTAR_FORMAT) as shard:
            for image, label in zip(job.images, job.labels, strict=True):
                content = image.read()  # a disk that fails is no damaged image
                try:
                    content = stored_bytes(content, job.data)
                except DAMAGED as error:
                    unreadable.append([image.name, what_is_wrong(error)])
                    continue
                member = tarfile.TarInfo(f"{len(index['label']):05d}.jpg")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
                index["offset"].append(shard.offset - -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
                index["size"].append(member.size)
                index["label"].append(label)
        checksum = file_checksum(beside)
    write_json(job.record, index | {"unreadable": unreadable, "sha256": checksum})
    return unreadable


def stored_bytes(content: bytes, data: ImageFolder) -> bytes:
    """The JPEG that is stored for an image file: upright, shorter side at most `stored_size`; the file where it is so.

    Raises:
        OSError: the file is no image, is truncated, has more than 8 bits a channel, or is too small.
    """
    image = open_image(io.BytesIO(content))
    image.load()  # all of it, so that a truncated file is found
    if image.mode.startswith(("I", "F")):
        raise OSError(f"more than 8 bits per channel (mode {image.mode})")
    if min(image.size) < SMALLEST:
        raise OSError(f"smaller than {SMALLEST} pixels")
    small_enough = data.stored_size is None or min(image.size) <= data.stored_size
    # Decoders differ in whether they turn an image as its camera was held, so that none is left to do.
    turned = upright(image)
    as_it_is = small_enough and turned is image and image.format == "JPEG" and image.mode in ("RGB", "L")
    if as_it_is and _decodes(content):
        return content
    image = turned.convert("RGB")
    if not small_enough:
        ratio = data.stored_size / min(image.size)
        size = tuple(max(1, round(side * ratio)) for side in image.size)
        image = image.resize(size, Image.Resampling.BICUBIC)
    stored = io.BytesIO()
    chroma = ":".join(str(data.stored_chroma))
    # Pillow takes a file larger than its buffer for a failure.
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, 4 * image.width * image.height)
    image.save(stored, "JPEG", quality=data.stored_quality, subsampling=chroma, optimize=True)
    return stored.getvalue()


def _decodes(content: bytes) -> bool:
    """Whether what reads the shards reads it too: it refuses some headers and samplings that Pillow takes."""
    try:
        simplejpeg.decode_jpeg(content, "RGB", strict=False)
    except (ValueError, KeyError):
        return False
    return True


def _assemble(folder: Path, jobs: dict[str, list[Job]], classes: list[str], unreadable: list[list[str]]) -> None:
    checksums, counts = {}, {}
    for split, of_split in jobs.items():
        (folder / split).mkdir(parents=True)
        parts: dict[str, list[int]] = {"shard": [], "offset": [], "size": [], "label": []}
        for number, job in enumerate(of_split):
            record = json.loads(job.record.read_text())
            parts["shard"] += [number] * len(record["label"])
            for key in ("offset", "size", "label"):
                parts[key] += record[key]
            # A link costs nothing and leaves the work whole until all is in place.
            try:
                os.link(job.target, folder / split / job.target.name)
            except OSError:  # `data` and `runs` lie on different disks
                shutil.copyfile(job.target, folder / split / job.target.name)
            checksums[f"{split}/{job.target.name}"] = record["sha256"]
        ShardIndex(**{key: np.array(values, np.int64) for key, values in parts.items()}).write(folder / f"{split}.npz")
        checksums[f"{split}.npz"] = file_checksum(folder / f"{split}.npz")
        counts[split] = len(parts["label"])
    # Nothing of where the source lay: one that is moved is prepared to the same files, and nothing is trained again.
    manifest = {"images": counts, "classes": classes, "unreadable": unreadable, "sha256": checksums}
    write_json(folder / "manifest.json", manifest)

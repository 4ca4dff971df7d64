"""How fast training images are read: ours and the reference's way, timed in turn in one process."""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.data import DataLoader

from nepa.bench.reference_loader import ReferenceImages, reference_loader
from nepa.bench.rows import Row
from nepa.bench.turns import ratio
from nepa.data.shards import ShardedImages
from nepa.data.stream import Drawn, Stream
from nepa.data.transforms import TrainingTransform
from nepa.parameters.schema import Augmentation, ImageFolder
from nepa.preparation.image_folder import find_images, write_sample
from nepa.preparation.shards import prepare_shards
from nepa.training.engine import build_dataloader

MOST_IMAGES = 2048  # they are read from the page cache again and again; to prepare all of ImageNet takes hours
# What is compared: whose loader on which files, and what with.
COMPARISONS = (
    (("ours", "stored"), ("reference", "originals")),
    (("ours", "originals"), ("reference", "originals")),
    (("ours", "stored"), ("reference", "stored")),
)


def prepare_for_bench(data: ImageFolder, path: Path, folder: Path) -> dict[str, Path]:
    """Prepare training images of what lies at `path` as the recipe stores them, and the originals as they are.

    Returns:
        the prepared folders by the names `stored` and `originals`.
    """
    found = find_images(path)
    count = min(MOST_IMAGES, len(found["training"]))
    classes = write_sample(found, {"training": count, "validation": 1}, folder / "sample")
    source = data.model_copy(update={"classes": classes, "training_images": count, "validation_images": 1})
    prepared = {"stored": folder / "stored", "originals": folder / "originals"}
    for name, target in prepared.items():
        size = data.stored_size if name == "stored" else None
        stored = source.model_copy(update={"stored_size": size})
        prepare_shards(stored, folder / "sample", folder / "work", target, len(os.sched_getaffinity(0)))
    return prepared


def measure_loader(
    data: ImageFolder,
    augmentation: Augmentation,
    prepared: dict[str, Path],
    *,
    workers: int,
    turns: int = 5,
    images: int = MOST_IMAGES,
    batch_size: int = 64,
) -> list[Row]:
    """Time the loaders of `COMPARISONS` in turn, on images repeated as often as it takes.

    Two rows for each comparison. `workers` 0: everything in this process on one thread, by its processor time, so
    images/s per core. Otherwise: in that many processes, by the clock, so images/s in all. All files lie in the page
    cache after the first turn.

    Args:
        prepared: what `prepare_for_bench` returned.
        workers: processes of the second row.
        turns: of which each times every loader once.
        images: in one turn, per loader.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    for count, clock in ((0, time.process_time), (workers, time.perf_counter)):
        loaders = {
            contestant: _loader(*contestant, data, augmentation, prepared, count, images, batch_size)
            for contestant in dict.fromkeys(itertools.chain(*COMPARISONS))
        }
        rates = {contestant: [] for contestant in loaders}
        for _ in range(turns):
            for contestant, loader in loaders.items():
                rates[contestant].append(_rate(loader, images // batch_size, clock))
        rows += [_row(ours, other, count, rates) for ours, other in COMPARISONS]
    torch.set_num_threads(threads)
    return rows


def _loader(
    whose: str,
    files: str,
    data: ImageFolder,
    augmentation: Augmentation,
    prepared: dict[str, Path],
    workers: int,
    images: int,
    batch_size: int,
) -> DataLoader:
    shards = ShardedImages(prepared[files], "training", TrainingTransform(data, augmentation))
    needed = images + batch_size * _waiting(workers)
    shards.chosen = np.tile(shards.chosen, -(-needed // len(shards)))
    if whose == "ours":
        return build_dataloader(Drawn(shards, seed=0), Stream(len(shards), batch_size, seed=0), workers)
    return reference_loader(ReferenceImages(shards, data, augmentation), batch_size, workers)


def _waiting(workers: int) -> int:
    """Batches to take before the clock starts: those that workers have ready by then cost nothing to take."""
    return 2 * workers + 1


def _rate(loader: DataLoader, batches: int, clock: Callable[[], float]) -> float:
    """Images/s of a loader."""
    stream = iter(loader)
    for _ in range(_waiting(loader.num_workers)):
        next(stream)
    started = clock()
    taken = sum(len(next(stream)["labels"]) for _ in range(batches))
    return taken / (clock() - started)


def _row(ours: tuple[str, str], other: tuple[str, str], workers: int, rates: dict[tuple[str, str], list[float]]) -> Row:
    seconds = [[1 / rate for rate in rates[contestant]] for contestant in (ours, other)]
    return {
        "files": ours[1],
        "reference_files": other[1],
        "workers": workers,
        "images_per_second": median(rates[ours]),
        "reference_images_per_second": median(rates[other]),
        "ratio": asdict(ratio(*seconds)),
    }

"""Prepared images too many for memory: JPEGs in sequential tar files, with an index of where each one lies.

`data/<recipe>/images/<split>/NNNNN.tar` hold the images in an order that was shuffled once, so that every shard is a
sample of the whole; `<split>.npz` holds for each image its shard, offset, size and label. The tar files can be read by
anything that reads tar; here they are read at random, by offset, so that a batch is a uniform sample of all images and
no buffer of shuffled blocks has to be filled, or restored when a run goes on. From the second epoch on they lie in the
page cache wherever memory holds them. Before that a random read costs latency, on a network disk most of all: a worker
therefore announces all reads of a batch to the system before it waits for the first, which on a local disk with an
empty cache made 4,500 to 6,400 images/s of one process 9,000 to 12,600.
"""

import os
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nepa.errors import UserError
from nepa.files import write_arrays


@dataclass(frozen=True)
class ShardIndex:
    """Where the images of one split lie; arrays (n,) int64."""

    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "ShardIndex":
        """Read `<split>.npz`.

        Raises:
            UserError: it is missing or truncated.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(file["shard"], file["offset"], file["size"], file["label"])
        except FileNotFoundError:
            raise UserError(f"{path} not found; run `nepa prepare images` first, or `dvc pull` it") from None
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete {path.parent} and prepare again") from None

    def write(self, path: Path) -> None:
        """Write `<split>.npz`."""
        write_arrays(path, vars(self))


class ShardedImages(Dataset):
    """One split of prepared shards.

    Args:
        folder: `data/<recipe>/images`.
        split: `training` or `validation`.
        transform: of an image (3, height, width) uint8 to what goes into the batch.
        chosen: indices of the images that take part; default all.

    Raises:
        UserError: a shard is missing or shorter than its index says.
    """

    def __init__(
        self, folder: Path, split: str, transform: Callable[[Tensor], Tensor], chosen: np.ndarray | None = None
    ) -> None:
        self.folder = folder / split
        self.index = ShardIndex.read(folder / f"{split}.npz")
        self.transform = transform
        self.chosen = np.arange(len(self.index.label)) if chosen is None else chosen
        ends = np.zeros(int(self.index.shard.max(initial=-1)) + 1, np.int64)
        np.maximum.at(ends, self.index.shard, self.index.offset + self.index.size)
        for shard, end in enumerate(ends):
            path = self._path(shard)
            if not path.exists() or path.stat().st_size < end:
                raise UserError(f"{path} is missing or truncated; `dvc checkout` or `dvc pull` it, or prepare again")
        self._files: dict[int, int] = {}
        # Each worker keeps every shard open; systems allow a process 1,024 files unless it asks for more.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        position = self.chosen[index]
        return {"images": self.transform(self.read(position)), "labels": int(self.index.label[position])}

    def prefetch(self, indices: list[int]) -> None:
        """Have the system read these images into memory, all at a time, while the first of them are worked on."""
        for position in self.chosen[indices]:
            file, size, offset = self._place(position)
            os.posix_fadvise(file, offset, size, os.POSIX_FADV_WILLNEED)

    def content(self, position: int) -> bytes:
        """The JPEG at a position of the index."""
        return os.pread(*self._place(position))

    def read(self, position: int) -> Tensor:
        """The image at a position of the index: RGB (3, height, width) uint8, channels last in memory.

        Raises:
            UserError: it cannot be decoded.
        """
        with self.decoding(position):
            # Not strict: what PIL only warns of, such as bytes too many, was no error when it was prepared either.
            pixels = simplejpeg.decode_jpeg(self.content(position), "RGB", strict=False)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    @contextmanager
    def decoding(self, position: int) -> Iterator[None]:
        """Within it an image that cannot be decoded is told by where it lies."""
        try:
            yield
        except ValueError as error:
            path, offset = self._path(self.index.shard[position]), self.index.offset[position]
            raise UserError(f"{path}: no image at byte {offset} ({error}); prepare again") from None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": {}}

    def _place(self, position: int) -> tuple[int, int, int]:
        """File descriptor, size and offset."""
        shard, offset, size = (int(a[position]) for a in (self.index.shard, self.index.offset, self.index.size))
        if shard not in self._files:  # opened by the worker that reads
            self._files[shard] = os.open(self._path(shard), os.O_RDONLY)
        return self._files[shard], size, offset

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.tar"

"""Prepared images too many for memory: JPEGs in sequential tar files, with an index of where each one lies.

`data/<recipe>/images/<split>/NNNNN.tar` hold the images in an order that was shuffled once, so that every shard is a
sample of the whole; `<split>.npz` holds for each image its shard, offset, size and label. The tar files can be read by
anything that reads tar; here they are read at random, by offset.
"""

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from nepa.errors import UserError


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
        np.savez(path, shard=self.shard, offset=self.offset, size=self.size, label=self.label)


class ShardedImages(Dataset):
    """One split of prepared shards.

    Args:
        folder: `data/<recipe>/images`.
        split: `training` or `validation`.
        transform: of a PIL image to a tensor (C, H, W).
        chosen: indices of the images that take part; default all.

    Raises:
        UserError: a shard is missing or shorter than its index says.
    """

    def __init__(
        self, folder: Path, split: str, transform: Callable[[Image.Image], Tensor], chosen: np.ndarray | None = None
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

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        position = self.chosen[index]
        return {"images": self.transform(self.read(position)), "labels": int(self.index.label[position])}

    def read(self, position: int) -> Image.Image:
        """The image at a position of the index, in RGB.

        Raises:
            UserError: it cannot be decoded.
        """
        shard, offset, size = (int(a[position]) for a in (self.index.shard, self.index.offset, self.index.size))
        if shard not in self._files:  # opened by the worker that reads
            self._files[shard] = os.open(self._path(shard), os.O_RDONLY)
        try:
            return Image.open(io.BytesIO(os.pread(self._files[shard], size, offset))).convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"{self._path(shard)}: no image at byte {offset} ({error}); prepare again") from None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": {}}

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.tar"

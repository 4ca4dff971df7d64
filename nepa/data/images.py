"""Prepared images: writing, checking and reading of `data/<recipe>/images`."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nepa.errors import UserError
from nepa.files import read_json
from nepa.parameters import Parameters


@dataclass(frozen=True)
class Images:
    """One split: pixels (n, H, W, C) uint8 and labels (n,) int64."""

    pixels: np.ndarray
    labels: np.ndarray

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Pixels (n, C, H, W) uint8, channels last in memory, and labels (n,)."""
        return torch.from_numpy(self.pixels).permute(0, 3, 1, 2), torch.from_numpy(self.labels)


def images_folder(parameters: Parameters) -> Path:
    """Where the recipe's prepared images lie."""
    return Path("data") / parameters.recipe / "images"


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict:
    """The manifest of a prepared folder.

    Raises:
        UserError: it is missing or no JSON.
    """
    return read_json(
        folder / "manifest.json",
        absent="run `nepa prepare` first, or `dvc pull` it",
        damaged=f"delete {folder} and run `nepa prepare`",
    )


def load_images(parameters: Parameters, split: str) -> Images:
    """One split of the prepared images.

    Raises:
        UserError: the file is missing, truncated or not what the manifest says.
    """
    path = images_folder(parameters) / f"{split}.npz"
    expected = read_manifest(path.parent)["sha256"].get(path.name)
    if not path.exists():
        raise UserError(f"{path} not found; run `nepa prepare images` first, or `dvc pull` it")
    if file_checksum(path) != expected:
        raise UserError(f"{path} is not what its manifest says (truncated?); delete {path.parent} and prepare again")
    try:
        with np.load(path, allow_pickle=False) as file:
            return Images(file["images"], file["labels"])
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete {path.parent} and prepare again") from None


def labelled_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of `count` images, equally many of each class, drawn by the seed alone, so that variants share them.

    All of them where `count` is not less than their number, which unreadable ones may have lowered.

    Raises:
        UserError: a class has too few.
    """
    if count >= len(labels):
        return np.arange(len(labels))
    generator = np.random.default_rng([seed, 1])
    classes = np.unique(labels)
    chosen = [generator.permutation(np.flatnonzero(labels == c))[: count // len(classes)] for c in classes]
    short = [int(c) for c, indices in zip(classes, chosen, strict=True) if len(indices) < count // len(classes)]
    if short:
        raise UserError(f"finetune.labels {count} needs {count // len(classes)} images of class {short[0]}; lower it")
    return np.sort(np.concatenate(chosen))

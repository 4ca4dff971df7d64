"""What a stage trains on and evaluates on, whatever the source: batches that `Preprocessing` turns into a model's."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_gather_object
from timm.data import ImageNetInfo
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from nepa.data.encoded import EncodedImages, joined
from nepa.data.images import images_folder, load_images, read_manifest
from nepa.data.normalisation import normalised
from nepa.data.shards import ShardedImages, ShardIndex
from nepa.data.transforms import EvaluationTransform, TrainingTransform, Transform
from nepa.data.workers import read_on
from nepa.errors import UserError
from nepa.parameters import Parameters
from nepa.parameters.schema import IN_MEMORY, Augmentation

EVALUATION_BATCH = 512


class ArrayDataset(Dataset):
    """Images (n, C, H, W) and labels (n,) in memory, taken a batch at a time as they are."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"images": self.images[indices], "labels": self.labels[indices]}


class AugmentedArrays(Dataset):
    """Images (n, C, H, W) uint8 and labels (n,) in memory, each image augmented when it is taken."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Transform) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.transform(self.images[index]), "labels": self.labels[index]}


def as_batch(samples: dict[str, Tensor] | list[dict[str, Any]]) -> dict[str, Tensor]:
    """The collate function: samples stacked, or what a dataset hands out as a whole batch, as it is.

    Images (B, C, H, W) have their channels last in memory, as they are decoded.
    """
    if isinstance(samples, dict):
        return samples
    if "encoded" in samples[0]:
        return joined(samples)
    batch = default_collate([sample | {"images": sample["images"].permute(1, 2, 0)} for sample in samples])
    return batch | {"images": batch["images"].permute(0, 3, 1, 2)}


def training_labels(parameters: Parameters) -> np.ndarray:
    """Labels (n,) int64 of the training images."""
    if isinstance(parameters.data, IN_MEMORY):
        return load_images(parameters, "training").labels
    return ShardIndex.read(images_folder(parameters) / "training.npz").label


def class_names(parameters: Parameters) -> list[str]:
    """Names of the classes, in the order of the labels; of ImageNet's in words, with their synset."""
    names = read_manifest(images_folder(parameters)).get("classes")
    if names is None:  # digits are their own names
        return [str(number) for number in range(parameters.data.classes)]
    imagenet = ImageNetInfo()
    if set(names) <= set(imagenet.label_names()):
        return [f"{imagenet.label_name_to_description(name)} ({name})" for name in names]
    return names


def training_dataset(
    parameters: Parameters, augmentation: Augmentation | None, chosen: np.ndarray | None = None
) -> ArrayDataset | AugmentedArrays | ShardedImages:
    """The training images, or those at the indices `chosen`, augmented each time they are taken.

    Raises:
        UserError: they are to be decoded on a GPU that is not there.
    """
    if isinstance(parameters.data, IN_MEMORY):
        images, labels = load_images(parameters, "training").tensors()
        if chosen is not None:
            images, labels = images[chosen], labels[chosen]
        if augmentation is None:
            return ArrayDataset(images, labels)
        return AugmentedArrays(images, labels, TrainingTransform(parameters.data, augmentation))
    folder = images_folder(parameters)
    if parameters.data.decode == "gpu":
        if not torch.cuda.is_available():
            raise UserError("data.decode is gpu, but torch finds none here; make it cpu")
        if augmentation.cropped_only:
            return EncodedImages(folder, "training", augmentation, chosen)
    return ShardedImages(folder, "training", TrainingTransform(parameters.data, augmentation), chosen)


def evaluation_batches(parameters: Parameters, split: str, workers: int = 0, shared: bool = True) -> DataLoader:
    """The images of a split in their order; batches of `images` (B, C, H, W) and `labels` (B,).

    Args:
        workers: processes that read them, where they are not in memory.
        shared: among the processes of this training: each takes as many, and the first images again where there are
            too few; `gather` puts what they found together again.
    """
    if isinstance(parameters.data, IN_MEMORY):
        dataset = ArrayDataset(*load_images(parameters, split).tensors())
    else:
        dataset = ShardedImages(images_folder(parameters), split, EvaluationTransform(parameters.data))
    # A generator of its own: looking at images must not change what training draws.
    return DataLoader(
        dataset,
        EVALUATION_BATCH,
        sampler=DefaultSampler(dataset, shuffle=False, seed=0) if shared else None,
        num_workers=0 if isinstance(dataset, ArrayDataset) else workers,
        worker_init_fn=read_on,
        collate_fn=as_batch,
        generator=torch.Generator(),
    )


def gather(values: Tensor, count: int) -> Tensor:
    """What all processes found for their share of `count` images, (n, ...) each, in the images' order: (count, ...)."""
    return torch.stack(all_gather_object(values), 1).flatten(0, 1)[:count]


def first_images(parameters: Parameters, split: str, count: int) -> Tensor:
    """The first `count` images of a split, or all if it has fewer, normalised: (n, C, H, W)."""
    found: list[Tensor] = []
    batches: Iterator[dict[str, Tensor]] = iter(evaluation_batches(parameters, split, shared=False))
    while sum(map(len, found)) < count and (batch := next(batches, None)) is not None:
        found.append(batch["images"])
    return normalised(torch.cat(found)[:count], parameters.data)

"""A stage's prepared data, as the stage reads it and as the reference would."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from nepa.bench.reference_loader import ReferenceImages, reference_loader, reference_transform
from nepa.bench.rows import NotMeasured
from nepa.data.datasets import training_dataset
from nepa.data.images import images_folder, load_images
from nepa.data.shards import ShardedImages
from nepa.data.transforms import TrainingTransform
from nepa.errors import UserError
from nepa.parameters import Parameters
from nepa.parameters.schema import IN_MEMORY, Augmentation, Stage


class Pictures(Dataset):
    """What is prepared as arrays, as PIL images, each of which torchvision augments and normalises on its own."""

    def __init__(self, parameters: Parameters, augmentation: Augmentation | None) -> None:
        images = load_images(parameters, "training")
        grey = images.pixels.shape[-1] == 1  # which PIL takes without a last axis
        self.pictures = [Image.fromarray(pixels[..., 0] if grey else pixels) for pixels in images.pixels]
        self.labels = images.labels.tolist()
        self.transform = reference_transform(parameters.data, augmentation)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        return {"images": self.transform(self.pictures[index]), "labels": self.labels[index]}


def prepared_dataset(parameters: Parameters, stage: Stage) -> Dataset:
    """What the stage trains on.

    Raises:
        NotMeasured: nothing is prepared.
    """
    try:
        if stage != "segment":
            return training_dataset(parameters, getattr(parameters, stage).augmentation)
        from nepa.segmentation.scenes import scenes_dataset

        return scenes_dataset(parameters, "training")
    except UserError as error:
        raise NotMeasured(str(error)) from None


def reference_batches(parameters: Parameters, stage: Stage, dataset: Dataset, count: int) -> Iterator[dict[str, Any]]:
    """Shuffled batches without end, read image by image in workers.

    Args:
        dataset: the stage's own; of scenes the reference reads the same.
        count: of workers.
    """
    data, settings = parameters.data, getattr(parameters, stage)
    if stage == "segment":
        from nepa.segmentation.scenes import as_batch

        loader = _shuffled(dataset, settings.batch_size, count, as_batch)
    elif isinstance(data, IN_MEMORY):
        loader = _shuffled(Pictures(parameters, settings.augmentation), settings.batch_size, count, default_collate)
    else:
        shards = ShardedImages(images_folder(parameters), "training", TrainingTransform(data, settings.augmentation))
        loader = reference_loader(ReferenceImages(shards, data, settings.augmentation), settings.batch_size, count)
    while True:
        yield from loader


def _shuffled(dataset: Dataset, batch_size: int, count: int, collate: Callable[[Any], Any]) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=count,
        persistent_workers=True,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
    )

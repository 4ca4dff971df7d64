"""The loader that ours is measured against: PIL and torchvision in the workers, float32 batches, as in the reference.

Written here from what the reference does; it shares nothing with ours but the shards that both read, and timm's
RandAugment, which both use as it is.
"""

import io

import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import (
    Compose,
    InterpolationMode,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToTensor,
)

from nepa.data.shards import ShardedImages
from nepa.data.transforms import TrainingTransform
from nepa.parameters.schema import Augmentation, Data, ImageFolder


def reference_transform(data: Data, augmentation: Augmentation | None) -> Compose:
    """From a PIL image to a normalised tensor (C, size, size)."""
    steps = [ToTensor(), Normalize([data.mean] * data.channels, [data.std] * data.channels)]
    if augmentation is not None:
        ours = TrainingTransform(data, augmentation)
        interpolation = InterpolationMode(augmentation.interpolation)
        crop = RandomResizedCrop(data.image_size, augmentation.crop_scale, interpolation=interpolation)
        steps = [crop, RandomHorizontalFlip(augmentation.flip), ours.rand_augment, *steps]
        if augmentation.random_erasing:
            steps.append(RandomErasing(augmentation.random_erasing, mode="pixel", device="cpu"))
    return Compose([step for step in steps if step is not None])


class ReferenceImages(Dataset):
    """The same JPEGs as `images`, each decoded, augmented and normalised on its own."""

    def __init__(self, images: ShardedImages, data: ImageFolder, augmentation: Augmentation) -> None:
        self.images = images
        self.transform = reference_transform(data, augmentation)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        position = self.images.chosen[index]
        picture = Image.open(io.BytesIO(self.images.content(position))).convert("RGB")
        return {"images": self.transform(picture), "labels": int(self.images.index.label[position])}


def reference_loader(images: ReferenceImages, batch_size: int, workers: int) -> DataLoader:
    """One epoch in a random order."""
    pinned = torch.cuda.is_available()
    return DataLoader(images, batch_size, shuffle=True, num_workers=workers, drop_last=True, pin_memory=pinned)

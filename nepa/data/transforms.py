"""Augmentation and evaluation of image folders: timm's transforms with the recipe's numbers."""

from collections.abc import Callable
from typing import Protocol

from PIL import Image
from timm.data import create_transform
from torch import Tensor

from nepa.parameters.schema import Augmentation, ImageFolder

Transform = Callable[[Image.Image], Tensor]


class Input(Protocol):
    """What an evaluation must know of a model's input: a recipe's `data` says it, and so does a checkpoint."""

    image_size: int
    channels: int
    mean: float
    std: float
    crop_share: float


def training_transform(data: ImageFolder, augmentation: Augmentation) -> Transform:
    """Random-resized crop, flip, RandAugment and random erasing, to a normalised tensor (C, H, W)."""
    return create_transform(
        data.image_size,
        is_training=True,
        scale=tuple(augmentation.crop_scale),
        hflip=augmentation.flip,
        color_jitter=0.0,
        auto_augment=augmentation.rand_augment,
        interpolation=augmentation.interpolation,
        re_prob=augmentation.random_erasing,
        re_mode="pixel",
        mean=(data.mean,) * data.channels,
        std=(data.std,) * data.channels,
    )


def evaluation_transform(data: Input) -> Transform:
    """Shorter side to image_size / crop_share, then the centre, to a normalised tensor (C, H, W)."""
    return create_transform(
        data.image_size,
        is_training=False,
        crop_pct=data.crop_share,
        interpolation="bicubic",
        mean=(data.mean,) * data.channels,
        std=(data.std,) * data.channels,
    )

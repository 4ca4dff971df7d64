"""Augmentation and evaluation of image folders: timm's crops, RandAugment and random erasing.

Images stay uint8 up to the batch and are normalised on the device (`nepa.data.preprocessing`). torch's antialiased
resizing of uint8 gives PIL's pixels in a fraction of its time: on crops of 250 photographs 0.03 levels of 255 apart in
the mean, bilinear ones at most 2 (`nepa bench --what fidelity` measures these). Bicubic overshoots are clipped between
the two passes, which PIL takes in another order: one pixel in 15,000 is further apart than 2, at most 22.
"""

import math
import random
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.auto_augment import RandAugment, posterize, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_pil_interp
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, resize

from nepa.parameters.schema import Augmentation, Cifar10, ImageFolder

ASPECT_RATIOS = (3 / 4, 4 / 3)
Transform = Callable[[Tensor], Tensor]


class Input(Protocol):
    """What an evaluation must know of a model's input: a recipe's `data` says it, and so does a checkpoint."""

    image_size: int
    crop_share: float


class Crop(NamedTuple):
    """Part of an image, in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flipped: int


def draw_crop(image: Tensor, augmentation: Augmentation) -> Crop:
    """Draw from Python's generator the random-resized crop of an image (..., H, W), and its flip.

    timm draws as torchvision does, without its small tensors, which take eight times as long.
    """
    box = RandomResizedCropAndInterpolation.get_params(image, augmentation.crop_scale, ASPECT_RATIOS)
    return Crop(*box, flipped=int(random.random() < augmentation.flip))


def crop_resized(image: Tensor, crop: Crop, size: int, interpolation: str) -> Tensor:
    """The crop of an image (C, H, W) uint8 on the CPU, resized with antialiasing to (C, size, size)."""
    top, left, height, width, flipped = crop
    part = image[None, :, top : top + height, left : left + width]
    # The fast kernel is for pixels without gaps between them; a copy costs a tenth of what it saves.
    part = part.contiguous(memory_format=torch.channels_last)
    part = F.interpolate(part, (size, size), mode=interpolation, antialias=True)[0]
    return part.flip(-1) if flipped else part


class TrainingTransform:
    """Random-resized crop, flip, RandAugment and random erasing of an image (3, H, W) uint8.

    Gives (3, size, size) uint8; with random erasing (4, size, size), the last being alpha: 0 where the image is erased.
    Noise is put there on the device, as it is in units of the normalised image.
    """

    def __init__(self, data: Cifar10 | ImageFolder, augmentation: Augmentation) -> None:
        self.data = data
        self.augmentation = augmentation
        self.rand_augment = self.erase = None
        if augmentation.rand_augment is not None:
            self.rand_augment = _rand_augment(data, augmentation)
        if augmentation.random_erasing:
            self.erase = RandomErasing(augmentation.random_erasing, device="cpu")

    def __call__(self, image: Tensor) -> Tensor:
        crop = draw_crop(image, self.augmentation)
        image = crop_resized(image, crop, self.data.image_size, self.augmentation.interpolation)
        if self.rand_augment is None and self.erase is None:
            return image
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        if self.rand_augment is not None:
            picture = self.rand_augment(picture)
        if self.erase is not None:
            alpha = self.erase(torch.full_like(image[:1], 255))
            picture.putalpha(Image.fromarray(alpha[0].numpy()))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def shorter_side(image_size: int, crop_share: float) -> int:
    """What an image's shorter side is resized to, in pixels, before its centre is cut out."""
    return math.floor(image_size / crop_share)


class EvaluationTransform:
    """Resized, then its centre: (C, H, W) to (C, size, size), both uint8."""

    def __init__(self, data: Input) -> None:
        self.size = data.image_size
        self.shorter_side = shorter_side(data.image_size, data.crop_share)

    def __call__(self, image: Tensor) -> Tensor:
        image = resize(image, [self.shorter_side], InterpolationMode.BICUBIC, antialias=True)
        return center_crop(image, [self.size, self.size])


def _rand_augment(data: Cifar10 | ImageFolder, augmentation: Augmentation) -> RandAugment:
    """timm's, with the settings that its create_transform gives it."""
    settings = {
        "translate_const": int(data.image_size * 0.45),
        "img_mean": (min(255, round(255 * data.mean)),) * data.channels,
        "interpolation": str_to_pil_interp(augmentation.interpolation),
    }
    rand_augment = rand_augment_transform(augmentation.rand_augment, settings)
    for operation in rand_augment.ops:
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterize
    return rand_augment


def _posterize(image: Image.Image, bits: int, **settings: object) -> Image.Image:
    """At its largest magnitude timm keeps no bit at all: black, which Pillow refuses since version 13."""
    return posterize(image, bits) if bits else Image.new(image.mode, image.size)

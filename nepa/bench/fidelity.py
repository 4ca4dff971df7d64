"""What speed costs in pixels: ours against the reference's transform, and stored images against their originals."""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from nepa.bench.rows import Row
from nepa.data.shards import ShardedImages
from nepa.data.transforms import EvaluationTransform, crop_resized, draw_crop, shorter_side
from nepa.parameters.schema import Augmentation, ImageFolder


def measure_fidelity(data: ImageFolder, augmentation: Augmentation, prepared: dict[str, Path]) -> Iterator[Row]:
    """Rows in levels of 255; what is stored is compared by the same crops of both.

    Args:
        prepared: folders by the names `stored` and `originals`.
    """
    for transform, (mean_error, largest) in {
        "training": training_error(prepared["originals"], data, augmentation),
        "evaluation": evaluation_error(prepared["originals"], data),
    }.items():
        yield {"transform": transform, "against": "PIL", "mean_difference": mean_error, "largest_difference": largest}
    difference, luma = storage_error(prepared["stored"], prepared["originals"], data, augmentation)
    yield {"files": "stored", "against": "originals", "mean_difference": difference, "luma_decibels": luma}


def training_error(folder: Path, data: ImageFolder, augmentation: Augmentation) -> tuple[float, float]:
    """Mean and largest difference, of 255, of the same crops through our transform and through PIL."""
    images, differences = _images(folder), []
    for position in images.chosen:
        image, picture = images.read(position), _picture(images, position)
        crop = draw_crop(image, augmentation)._replace(flipped=0)
        ours = crop_resized(image, crop, data.image_size, augmentation.interpolation)
        part = picture.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
        method = Image.Resampling[augmentation.interpolation.upper()]
        differences.append(_difference(ours, part.resize((data.image_size, data.image_size), method)))
    return mean(float(d.mean()) for d in differences), float(max(d.max() for d in differences))


def evaluation_error(folder: Path, data: ImageFolder) -> tuple[float, float]:
    """Mean and largest difference, of 255, of our evaluation transform from torchvision's on PIL images."""
    resized = Resize(shorter_side(data.image_size, data.crop_share), InterpolationMode.BICUBIC)
    theirs = Compose([resized, CenterCrop(data.image_size)])
    ours, images = EvaluationTransform(data), _images(folder)
    differences = [
        _difference(ours(images.read(position)), theirs(_picture(images, position))) for position in images.chosen
    ]
    return mean(float(d.mean()) for d in differences), float(max(d.max() for d in differences))


def storage_error(
    stored: Path, originals: Path, data: ImageFolder, augmentation: Augmentation
) -> tuple[float, float | None]:
    """How far crops of stored images are from the same crops of their originals.

    Returns:
        mean difference, of 255, and the median of the luma's peak signal-to-noise ratios, in dB; None where every
        image is stored as it is.
    """
    small, large, size = _images(stored), _images(originals), data.image_size
    differences, ratios = [], []
    for position in large.chosen:
        crop = draw_crop(large.read(position), augmentation)
        whole = _picture(large, position)
        crops = [
            picture.resize(
                (size, size),
                Image.Resampling[augmentation.interpolation.upper()],
                (
                    crop.left * picture.width / whole.width,
                    crop.top * picture.height / whole.height,
                    (crop.left + crop.width) * picture.width / whole.width,
                    (crop.top + crop.height) * picture.height / whole.height,
                ),
            )
            for picture in (_picture(small, position), whole)
        ]
        differences.append(float(np.abs(np.subtract(*crops, dtype=np.float32)).mean()))
        error = np.square(np.subtract(*(c.convert("L") for c in crops), dtype=np.float32)).mean()
        if error:  # an image that was small enough is stored as it is
            ratios.append(10 * math.log10(255**2 / error))
    return mean(differences), median(ratios) if ratios else None


def _images(folder: Path) -> ShardedImages:
    return ShardedImages(folder, "training", lambda image: image)


def _picture(images: ShardedImages, position: int) -> Image.Image:
    return Image.open(io.BytesIO(images.content(position))).convert("RGB")


def _difference(ours: Tensor, theirs: Image.Image) -> np.ndarray:
    return np.abs(ours.permute(1, 2, 0).numpy().astype(np.float32) - np.asarray(theirs, np.float32))

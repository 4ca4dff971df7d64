"""What happens to a batch on the device before a model sees it, in training and in evaluation alike."""

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from nepa.data.encoded import decoded
from nepa.data.normalisation import normalised
from nepa.parameters.schema import Augmentation, Data


class Preprocessing(BaseDataPreprocessor):
    """Moves a batch to the device, where JPEGs become images, uint8 images are normalised, and what is erased of them
    becomes noise.

    Args:
        augmentation: for JPEGs that are decoded here; how their crops are resized.
    """

    def __init__(self, data: Data, augmentation: Augmentation | None = None) -> None:
        super().__init__(non_blocking=True)
        self.data = data
        self.augmentation = augmentation

    def forward(self, data: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """`images` (B, C, H, W) float32 and `labels` (B,) of a batch of any kind that a loader hands out."""
        if "encoded" in data:
            images = decoded(data, self.data.image_size, self.augmentation.interpolation, self.device)
            data = {"images": images, "labels": data["labels"]}
        batch = self.cast_data(data)
        pixels, alpha = batch["images"].tensor_split([self.data.channels], 1)
        images = normalised(pixels, self.data)
        if alpha.shape[1]:
            images = torch.where(alpha > 0, images, torch.randn_like(images))
        return batch | {"images": images}

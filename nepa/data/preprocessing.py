"""What happens to a batch on the device before a model sees it, in training and in evaluation alike."""

from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from nepa.data.encoded import decoded
from nepa.data.normalisation import normalised
from nepa.parameters.schema import Augmentation, Data


class Preprocessing(BaseDataPreprocessor):
    """Moves a batch to the device, where JPEGs become images and uint8 images are normalised.

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
        return batch | {"images": normalised(batch["images"], self.data)}

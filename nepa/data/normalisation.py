"""From stored pixels to what a model sees."""

from torch import Tensor

from nepa.parameters.schema import Data


def normalised(images: Tensor, data: Data) -> Tensor:
    """Images (..., C, H, W) uint8 as float32, scaled to [0, 1], then by the recipe's mean and deviation.

    Images in floating point are normalised already and come back as they are.
    """
    if images.is_floating_point():
        return images
    return images.float().div_(255).sub_(data.mean).div_(data.std)

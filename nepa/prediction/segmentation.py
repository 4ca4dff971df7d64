"""A class for every pixel of an image, by MMSegmentation's own test."""

from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.dataset import pseudo_collate
from mmseg.datasets.transforms import LoadImageFromNDArray
from mmseg.models import SegTTAModel
from PIL import Image

from nepa.conversion.checkpoints import Checkpoint
from nepa.errors import UserError
from nepa.parameters.schema import Segmentation
from nepa.prediction.images import read_image
from nepa.segmentation.scenes import evaluation_alternatives

MOST_LOGITS = 2**29  # 2 GiB: one float32 for each class and pixel


class Segmentor:
    """A segmentor, run as it was tested: at its scales and flips, in its windows."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.description = checkpoint.description
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = SegTTAModel(checkpoint.model().model).to(device).eval()
        if not all(weights.isfinite().all() for weights in self.model.state_dict().values()):
            raise UserError(
                f"{checkpoint.path}: the segmentor's weights are not finite; its training has diverged, take another"
            )
        settings = self.description.segmentation
        self.pipeline = Compose([{"type": LoadImageFromNDArray}, evaluation_alternatives(settings, annotated=False)])

    @torch.no_grad()
    def segment(self, path: Path) -> tuple[Image.Image, np.ndarray]:
        """The image, and each pixel's class (H, W), uint8, counted from 0.

        Raises:
            UserError: the image cannot be read, or is too large or too small.
        """
        image = read_image(path, self.description.channels)
        settings = self.description.segmentation
        least = settings.least_side(self.description.model.patch_size)
        if min(image.size) * _smallest_scale(image, settings) < least:
            raise UserError(
                f"{path} is {image.width}x{image.height}; as it is tested its sides must have {least} pixels at least"
            )
        most = MOST_LOGITS // self.description.classes
        if image.width * image.height > most:
            raise UserError(
                f"{path} is {image.width}x{image.height}; shrink it to {most / 1e6:.0f} million pixels at most"
            )
        pixels = np.asarray(image)
        if pixels.ndim == 3:
            pixels = np.ascontiguousarray(pixels[..., ::-1])  # MMSegmentation reads colour as BGR
        sample = self.model.test_step(pseudo_collate([self.pipeline({"img": pixels})]))[0]
        return image, sample.pred_sem_seg.data.cpu().numpy().astype(np.uint8).reshape(pixels.shape[:2])


def _smallest_scale(image: Image.Image, settings: Segmentation) -> float:
    if settings.test_scale is None:
        return min(settings.test_scales)
    # MMSegmentation's Resize keeps the image's proportions and stays within both limits.
    longest, shortest = settings.test_scale
    return min(settings.test_scales) * min(longest / max(image.size), shortest / min(image.size))

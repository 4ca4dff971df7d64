"""JPEGs that are decoded on the device, `data.decode: gpu`: the workers only read them and draw the crops.

torchcodec decodes them, which has taken over torchvision's decoders; nvJPEG's pixels differ a little from a CPU's.
"""

from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

from nepa.data.shards import ShardedImages
from nepa.data.transforms import draw_crop
from nepa.parameters.schema import Augmentation


class EncodedImages(ShardedImages):
    """One split of prepared shards: JPEGs (bytes,) uint8, each with its crop (5,) int64, and labels."""

    def __init__(self, folder: Path, split: str, augmentation: Augmentation, chosen: np.ndarray | None = None) -> None:
        super().__init__(folder, split, nn.Identity(), chosen)
        self.augmentation = augmentation

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        position = self.chosen[index]
        content = self.content(position)
        with self.decoding(position):
            height, width = simplejpeg.decode_jpeg_header(content, strict=False)[:2]
        return {
            "encoded": torch.frombuffer(bytearray(content), dtype=torch.uint8),
            "crops": torch.tensor(draw_crop(torch.empty(height, width, device="meta"), self.augmentation)),
            "labels": int(self.index.label[position]),
        }


def joined(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """JPEGs end to end in one tensor: a batch of a thousand small ones costs a thousand files between processes."""
    return {
        "encoded": torch.cat([sample["encoded"] for sample in samples]),
        "sizes": torch.tensor([len(sample["encoded"]) for sample in samples]),
        "crops": torch.stack([sample["crops"] for sample in samples]),
        "labels": torch.tensor([sample["labels"] for sample in samples]),
    }


def decoded(batch: dict[str, Tensor], size: int, interpolation: str, device: torch.device) -> Tensor:
    """Images (B, 3, size, size) uint8 of a batch that `joined` made; its JPEGs have to lie in the CPU's memory."""
    from torchcodec.decoders import decode_jpeg  # the GPU's path alone needs it

    images = decode_jpeg(list(batch["encoded"].split(batch["sizes"].tolist())), device=device)
    shown = []
    for image, (*box, flipped) in zip(images, batch["crops"].tolist(), strict=True):
        crop = resized_crop(image, *box, [size, size], InterpolationMode(interpolation), antialias=True)
        shown.append(crop.flip(-1) if flipped else crop)
    return torch.stack(shown)

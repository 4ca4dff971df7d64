"""Classes of images with their probabilities."""

from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from nepa.conversion.checkpoints import Checkpoint
from nepa.data.normalisation import normalised
from nepa.data.transforms import EvaluationTransform
from nepa.errors import UserError
from nepa.prediction.images import read_image


class Classifier:
    """A classifier, shown images as its evaluation showed them: resized, the centre cut out, normalised."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.description = checkpoint.description
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = checkpoint.model().to(self.device)
        self.transform = EvaluationTransform(checkpoint.description)

    @torch.no_grad()
    def probabilities(self, path: Path) -> list[tuple[str, float]]:
        """Every class's name and probability, the likeliest first.

        Raises:
            UserError: the image cannot be read or is too narrow, or the model's output is not finite.
        """
        image = read_image(path, self.description.channels)
        # The shorter side becomes about as long as the input's, the longer one in proportion.
        if max(image.size) / min(image.size) * self.description.image_size**2 > Image.MAX_IMAGE_PIXELS:
            raise UserError(f"{path} is {image.width}x{image.height}, too narrow to be resized; cut it shorter")
        shown = normalised(self.transform(pil_to_tensor(image)), self.description)
        logits = self.model(shown[None].to(self.device))[0].float()
        if not logits.isfinite().all():
            raise UserError(f"{path}: the model's output is not finite; its training has diverged, take another one")
        shares = logits.softmax(0).cpu()
        return [(self.description.names[index], shares[index].item()) for index in shares.argsort(descending=True)]

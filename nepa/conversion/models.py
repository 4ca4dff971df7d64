"""The model that a checkpoint belongs to, built from what the checkpoint says of itself."""

from typing import TYPE_CHECKING

from timm.models.eva import Eva
from torch import Tensor, nn

from nepa.model.backbone import class_logits, eva_arguments
from nepa.model.description import Description

if TYPE_CHECKING:
    from mmseg.models import EncoderDecoder


def build_model(description: Description) -> "Eva | EncoderDecoder":
    """The backbone, classifier or segmentor whose weights a checkpoint holds, with weights that mean nothing yet."""
    if description.kind != "segmentor":
        return Eva(**eva_arguments(description))
    from nepa.segmentation.segmentor import assemble_segmentor  # MMSegmentation is slow to import

    arguments = eva_arguments(description) | {"img_size": description.segmentation.crop}
    return assemble_segmentor(description, Eva(dynamic_img_size=True, dynamic_img_pad=True, **arguments))


class Runnable(nn.Module):
    """A model as one function of normalised images (B, C, H, W), in evaluation mode.

    Features (B, 1 + patches, D) of a backbone, BOS first, with bidirectional attention; logits (B, classes) of a
    classifier; logits (B, classes, H, W) of a segmentor, for images of its crop's size.
    """

    def __init__(self, model: "Eva | EncoderDecoder", description: Description) -> None:
        super().__init__()
        self.model = model
        self.description = description
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        description = self.description
        if description.kind == "backbone":
            return self.model.forward_features(images)
        if description.kind == "classifier":
            return class_logits(self.model, images, description.attention, description.pool)
        return self.model.encode_decode(images, [{"img_shape": images.shape[2:]}])

"""UPerNet over NEPA (paper, Table 3), after MMSegmentation's own MAE recipe."""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder, SegDataPreProcessor
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from timm.models.eva import Eva
from torch import Tensor

from nepa.model.description import Description, describe, segmentation_of
from nepa.parameters import Parameters
from nepa.segmentation.backbone import NEPA


class ScenePreprocessing(SegDataPreProcessor):
    """MMSegmentation's, which would wait for a GPU at every copy, and once more to turn BGR into RGB."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._non_blocking = True
        self.reversed, self.channel_conversion = self.channel_conversion, False

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """`inputs` (B, C, H, W), normalised, and `data_samples`; in training, of what `as_batch` makes, padded."""
        data = self.cast_data(data)
        if training:
            truth = [PixelData(data=classes.long()) for classes in data["truth"]]
            data["data_samples"] = [SegDataSample(gt_sem_seg=classes) for classes in truth]
        batch = super().forward(data, training)
        return batch | {"inputs": batch["inputs"].flip(1)} if self.reversed else batch


@MODELS.register_module()
class UPerNet(EncoderDecoder):
    """MMSegmentation's EncoderDecoder, but its loss is one tensor of tensors, and its windows end where patches do.

    MMSegmentation measures the accuracy of every batch and head as well: the best of all classes at every pixel, and a
    GPU that is waited for.
    """

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """Logits (B, classes, H, W) of a window (B, C, H, W), padded to whole patches and cut again.

        The backbone would pad it too, but then MMSegmentation squeezes what came of the padding into the window.
        """
        height, width = inputs.shape[2:]
        patch = self.backbone.eva.patch_embed.patch_size[0]
        padded = F.pad(inputs, (0, -width % patch, 0, -height % patch))
        return super().encode_decode(padded, [{"img_shape": padded.shape[2:]}])[..., :height, :width]

    def forward(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None, mode: str = "tensor"
    ) -> dict[str, Tensor] | list[SegDataSample] | Tensor:
        """As MMSegmentation's; mode "loss" gives the sum of what the heads lose, under that name."""
        if mode != "loss":
            return super().forward(inputs, data_samples, mode)
        truth = torch.stack([sample.gt_sem_seg.data for sample in data_samples]).squeeze(1)
        return {"loss": self.loss(inputs, truth)}

    def loss(self, images: Tensor, truth: Tensor) -> Tensor:
        """Cross-entropy of decoder and auxiliary head, for images (B, C, H, W) with classes (B, H, W)."""
        levels = self.extract_feat(images)
        losses = []
        for head in (self.decode_head, self.auxiliary_head):
            logits = resize(head(levels), truth.shape[1:], mode="bilinear", align_corners=head.align_corners)
            losses.append(head.loss_decode(logits, truth, ignore_index=head.ignore_index))
        return sum(losses)


def build_segmentor(parameters: Parameters, backbone: Eva, classes: int) -> UPerNet:
    """A segmentor to be trained.

    Args:
        backbone: with its weights; the heads are drawn here.
        classes: of the scenes, without what is unlabelled.
    """
    settings = parameters.segment
    description = describe(parameters, classes, segmentation=segmentation_of(settings))
    segmentor = assemble_segmentor(description, backbone, settings.dropout, settings.auxiliary_weight)
    if not MMLogger.check_instance_created("nepa"):
        MMLogger.get_instance("nepa", log_level="ERROR")  # else init_weights prints a line for every weight
    segmentor.init_weights()
    return segmentor


def assemble_segmentor(
    description: Description, backbone: Eva, dropout: float = 0.0, auxiliary_weight: float = 0.0
) -> UPerNet:
    """Build what `segmentor_config` describes over a backbone, for weights of its own to be loaded."""
    init_default_scope("mmseg")
    config = segmentor_config(description, dropout, auxiliary_weight)
    config["data_preprocessor"]["type"] = ScenePreprocessing
    blocks = description.segmentation.blocks
    return UPerNet(**config, backbone={"type": NEPA, "backbone": backbone, "blocks": blocks})


def segmentor_config(
    description: Description, dropout: float = 0.0, auxiliary_weight: float = 0.0
) -> dict[str, dict[str, Any]]:
    """MMSegmentation's config of EncoderDecoder, but for the backbone.

    Four rescaled levels, UPerHead and the FCN auxiliary head.

    Args:
        dropout, auxiliary_weight: of training.
    """
    settings, width, channels = description.segmentation, description.model.width, description.channels
    norm = {"type": "BN", "requires_grad": True}
    shared = {"num_classes": description.classes, "norm_cfg": norm, "align_corners": False, "dropout_ratio": dropout}
    return {
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "mean": [255 * description.mean] * channels,
            "std": [255 * description.std] * channels,
            "bgr_to_rgb": channels == 3,
            "pad_val": 0,
            "seg_pad_val": 255,
            "size": (settings.crop, settings.crop),
        },
        "neck": {"type": "Feature2Pyramid", "embed_dim": width, "rescales": settings.rescales, "norm_cfg": norm},
        "decode_head": shared
        | {
            "type": "UPerHead",
            "in_channels": [width] * 4,
            "in_index": [0, 1, 2, 3],
            "pool_scales": tuple(settings.pool_scales),
            "channels": settings.decoder_channels,
            "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        },
        "auxiliary_head": shared
        | {
            "type": "FCNHead",
            "in_channels": width,
            "in_index": 2,
            "channels": settings.auxiliary_channels,
            "num_convs": 1,
            "concat_input": False,
            "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": auxiliary_weight},
        },
        "train_cfg": ConfigDict(),
        "test_cfg": ConfigDict(
            mode=settings.inference,
            crop_size=(settings.crop, settings.crop),
            stride=(settings.stride, settings.stride),
        ),
    }

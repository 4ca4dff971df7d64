"""UPerNet over NEPA (paper, Table 3), after MMSegmentation's own MAE recipe."""

from typing import Any

from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmseg.models import EncoderDecoder
from timm.models.eva import Eva

from nepa.model.description import Description, describe, segmentation_of
from nepa.parameters import Parameters
from nepa.segmentation.backbone import NEPA


def build_segmentor(parameters: Parameters, backbone: Eva, classes: int) -> EncoderDecoder:
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
) -> EncoderDecoder:
    """Build what `segmentor_config` describes over a backbone, for weights of its own to be loaded."""
    config = segmentor_config(description, dropout, auxiliary_weight)
    blocks = description.segmentation.blocks
    return EncoderDecoder(**config, backbone={"type": NEPA, "backbone": backbone, "blocks": blocks})


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
            "channels": settings.decoder_channels,
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

"""UPerNet over NEPA (paper, Table 3), after MMSegmentation's own MAE recipe."""

from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmseg.models import EncoderDecoder
from timm.models.eva import Eva

from nepa.parameters import Parameters
from nepa.segmentation.backbone import NEPA


def build_segmentor(parameters: Parameters, backbone: Eva, classes: int) -> EncoderDecoder:
    """EncoderDecoder with NEPA, four rescaled levels, UPerHead and the FCN auxiliary head.

    Args:
        backbone: with its weights; the heads are drawn here.
        classes: of the scenes, without what is unlabelled.
    """
    settings = parameters.segment
    width = parameters.model.width
    norm = {"type": "BN", "requires_grad": True}
    shared = {"num_classes": classes, "norm_cfg": norm, "align_corners": False, "dropout_ratio": settings.dropout}
    data = parameters.data
    segmentor = EncoderDecoder(
        data_preprocessor={
            "type": "SegDataPreProcessor",
            "mean": [255 * data.mean] * data.channels,
            "std": [255 * data.std] * data.channels,
            "bgr_to_rgb": data.channels == 3,
            "pad_val": 0,
            "seg_pad_val": 255,
            "size": (settings.crop, settings.crop),
        },
        backbone={"type": NEPA, "backbone": backbone, "blocks": settings.blocks},
        neck={"type": "Feature2Pyramid", "embed_dim": width, "rescales": settings.rescales, "norm_cfg": norm},
        decode_head=shared
        | {
            "type": "UPerHead",
            "in_channels": [width] * 4,
            "in_index": [0, 1, 2, 3],
            "pool_scales": tuple(settings.pool_scales),
            "channels": settings.decoder_channels,
            "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        },
        auxiliary_head=shared
        | {
            "type": "FCNHead",
            "in_channels": width,
            "in_index": 2,
            "channels": settings.decoder_channels,
            "num_convs": 1,
            "concat_input": False,
            "loss_decode": {
                "type": "CrossEntropyLoss",
                "use_sigmoid": False,
                "loss_weight": settings.auxiliary_weight,
            },
        },
        train_cfg=ConfigDict(),
        test_cfg=ConfigDict(
            mode=settings.inference,
            crop_size=(settings.crop, settings.crop),
            stride=(settings.stride, settings.stride),
        ),
    )
    if not MMLogger.check_instance_created("nepa"):
        MMLogger.get_instance("nepa", log_level="ERROR")  # else init_weights prints a line for every weight
    segmentor.init_weights()
    return segmentor

"""The scenes through MMSegmentation's own ADE20K dataset and pipeline."""

from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmseg.datasets import ADE20KDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs, RandomCrop

from nepa.data.scenes import CLASSES, PALETTE, scenes_folder
from nepa.parameters import Parameters


class Scenes(ADE20KDataset):
    """ADE20K's dataset class and layout with the scenes' classes: it refuses classes that are not its own."""

    METAINFO = {"classes": CLASSES, "palette": [list(colour) for colour in PALETTE]}


def scenes_dataset(parameters: Parameters, split: str) -> ADE20KDataset:
    """The scenes of `training` (random crops; no flip, which would change digits) or `validation` (whole)."""
    color = "grayscale" if parameters.data.channels == 1 else "color"
    pipeline: list[dict[str, Any]] = [{"type": LoadImageFromFile, "color_type": color}, {"type": LoadAnnotations}]
    if split == "training":
        crop, cat_max_ratio = parameters.segment.crop, parameters.segment.cat_max_ratio
        pipeline.append({"type": RandomCrop, "crop_size": (crop, crop), "cat_max_ratio": cat_max_ratio})
    pipeline.append({"type": PackSegInputs})
    return Scenes(
        data_root=str(scenes_folder(parameters)),
        data_prefix={"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"},
        img_suffix=".png",
        pipeline=pipeline,
    )

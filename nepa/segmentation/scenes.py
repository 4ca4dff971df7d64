"""The scenes through MMSegmentation's own ADE20K dataset and pipeline."""

from pathlib import Path
from typing import Any

import torch
from mmcv.transforms import LoadImageFromFile, RandomFlip, RandomResize, TestTimeAug
from mmseg.datasets import ADE20KDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs, PhotoMetricDistortion, RandomCrop, Resize
from torch import Tensor

from nepa.data.images import read_manifest
from nepa.data.scenes import Classes, scenes_folder
from nepa.errors import UserError
from nepa.parameters import Parameters
from nepa.parameters.schema import Segmentation


def scenes_dataset(parameters: Parameters, split: str) -> ADE20KDataset:
    """The scenes of `training` (random crops, augmented as the recipe says) or `validation` (whole).

    A validation sample holds lists, one entry for each scale and flip of the test.

    Raises:
        UserError: files are missing, or are there that were not prepared.
    """
    settings, folder = parameters.segment, scenes_folder(parameters)
    classes = Classes.read(folder)
    prepared = _prepared_files(folder, split)
    color = "grayscale" if parameters.data.channels == 1 else "color"
    pipeline: list[dict[str, Any]] = [{"type": LoadImageFromFile, "color_type": color}]
    if split == "training":
        pipeline.append({"type": LoadAnnotations})
        augmentation = settings.augmentation
        if augmentation is not None:
            scale, ratio = tuple(augmentation.scale), tuple(augmentation.ratio)
            pipeline.append({"type": RandomResize, "scale": scale, "ratio_range": ratio, "keep_ratio": True})
        crop = (settings.crop, settings.crop)
        pipeline.append({"type": RandomCrop, "crop_size": crop, "cat_max_ratio": settings.cat_max_ratio})
        if augmentation is not None:
            pipeline.append({"type": RandomFlip, "prob": augmentation.flip})
            if augmentation.photometric_distortion:
                pipeline.append({"type": PhotoMetricDistortion})
        pipeline.append({"type": PackSegInputs})
    else:
        pipeline.append(evaluation_alternatives(settings, annotated=True))
    # ADE20K's dataset class refuses classes that are not its own, so it is given ours.
    metainfo = {"classes": classes.names, "palette": [list(colour) for colour in classes.colours]}
    dataset = type("Scenes", (ADE20KDataset,), {"METAINFO": metainfo})
    return dataset(
        data_root=str(folder),
        data_prefix={"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"},
        img_suffix=Path(prepared["images"][0]).suffix,  # of all: `find_scenes` refuses several
        pipeline=pipeline,
    )


def _prepared_files(folder: Path, split: str) -> dict[str, list[str]]:
    """Names of a split's images and annotations by the manifest: MMSegmentation takes what lies there for all."""
    prepared, names = {}, read_manifest(folder)["sha256"]
    for kind in ("images", "annotations"):
        below = f"{kind}/{split}/"
        prepared[kind] = [name for name in names if name.startswith(below)]
        here = {below + path.name for path in (folder / below).glob("*")}
        for name in sorted(here.symmetric_difference(prepared[kind])):
            state = "not of the prepared scenes" if name in here else "missing"
            raise UserError(f"{folder / name} is {state}; `dvc checkout` or `dvc pull` the scenes, or prepare again")
    return prepared


def as_batch(samples: list[dict[str, Any]]) -> dict[str, list[Tensor]]:
    """The collate function of training: images (C, H, W) as `inputs` and their classes (1, H, W) as `truth`, uint8.

    Tensors alone: torch does not pin what is inside of MMSegmentation's samples, and a GPU would be waited for.
    """
    truth = [sample["data_samples"].gt_sem_seg.data.to(torch.uint8) for sample in samples]
    return {"inputs": [sample["inputs"] for sample in samples], "truth": truth}


def evaluation_alternatives(settings: Segmentation, annotated: bool) -> dict[str, Any]:
    """Config of the transform that makes one entry for each scale and flip of the test."""
    sizes = [{"type": Resize, "keep_ratio": True} | _size(settings.test_scale, by) for by in settings.test_scales]
    flips = [{"type": RandomFlip, "prob": prob} for prob in ([0.0, 1.0] if settings.test_flip else [0.0])]
    # The annotation comes after these: predictions are compared at its own size.
    annotation = [[{"type": LoadAnnotations}]] if annotated else []
    return {"type": TestTimeAug, "transforms": [sizes, flips, *annotation, [{"type": PackSegInputs}]]}


def _size(scale: list[int] | None, by: float) -> dict[str, Any]:
    """Arguments of `Resize`: the test's own scale, or the image's size, times a factor."""
    return {"scale_factor": by} if scale is None else {"scale": tuple(round(by * side) for side in scale)}

"""Writing of checkpoints in the formats of others, and in the pipeline's own.

`reference`: a folder with config.json and model.safetensors, as the reference implementation publishes them.
`pipeline`: one safetensors file, as the stages write them.
`timm`: a folder for `timm.create_model("local-dir:FOLDER")` after `import nepa`.
`mmsegmentation`: a folder with a config and the weights, for MMSegmentation's own tools.
`onnx`: a folder with the model as one graph (see `nepa.conversion.onnx_graph`).
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from nepa.conversion.checkpoints import Checkpoint
from nepa.conversion.loading import input_size, timm_arguments, timm_name
from nepa.conversion.model_card import write_model_card
from nepa.conversion.onnx_graph import write_onnx
from nepa.conversion.reference_config import reference_config
from nepa.conversion.reference_names import from_timm
from nepa.errors import UserError
from nepa.files import write_atomically
from nepa.model.description import Description
from nepa.model.weights import write_weights


def write_checkpoint(checkpoint: Checkpoint, target: Path, form: str) -> None:
    """Write a checkpoint as `reference`, `pipeline`, `timm`, `mmsegmentation` or `onnx`, all but one with a model card.

    Raises:
        UserError: the target exists, or the format has no such model.
    """
    if target.exists():
        raise UserError(f"{target} exists; name a new one")
    if form == "pipeline":
        write_weights(target, checkpoint.weights, checkpoint.description.content())
        return
    if checkpoint.description.kind == "segmentor" and form in ("reference", "timm"):
        raise UserError(f"{checkpoint.path} is a segmentor, which {form} does not have; write mmsegmentation or onnx")
    write = {
        "reference": _write_reference,
        "timm": _write_timm,
        "mmsegmentation": _write_mmsegmentation,
        "onnx": write_onnx,
    }[form]
    with write_atomically(target) as beside:
        beside.mkdir()
        difference = write(checkpoint, beside, target)
        write_model_card(checkpoint, beside, target, form, difference)


def _write_reference(checkpoint: Checkpoint, folder: Path, _: Path) -> None:
    config = reference_config(checkpoint.description)
    try:
        weights = from_timm(checkpoint.weights, qk_norm_scale=config.get("qk_norm_affine", False))
    except ValueError as error:
        raise UserError(f"cannot be written in the reference's format: {error.args[0]}") from None
    content = save({name: weight.contiguous() for name, weight in weights.items()}, {"format": "pt"})
    (folder / "model.safetensors").write_bytes(content)
    _write_config(folder / "config.json", config)


def _write_timm(checkpoint: Checkpoint, folder: Path, _: Path) -> None:
    description = checkpoint.description
    channels, size = description.channels, description.image_size
    config = {
        "architecture": timm_name(description),
        "num_classes": description.classes,
        "num_features": description.model.width,
        "global_pool": "avg",
        "model_args": timm_arguments(description),
        "pretrained_cfg": {
            "num_classes": description.classes,
            "input_size": [channels, size, size],
            "mean": [description.mean] * channels,
            "std": [description.std] * channels,
            "interpolation": "bicubic",
            "crop_pct": description.crop_share,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
        | ({"label_names": description.class_names} if description.class_names else {}),
    }
    write_weights(folder / "model.safetensors", _with_pooling_norm(checkpoint), description.content())
    _write_config(folder / "config.json", config)


def _write_mmsegmentation(checkpoint: Checkpoint, folder: Path, _: Path) -> None:
    if checkpoint.description.kind == "segmentor":
        _write_segmentor(checkpoint, folder)
        return
    # MMEngine reads no safetensors; this file of plain tensors is read with torch's weights-only loader.
    weights = {f"eva.{name}": w for name, w in _with_pooling_norm(checkpoint).items() if not name.startswith("head.")}
    _write_pickle({"state_dict": weights}, folder / "backbone.pth")
    depth = checkpoint.description.model.depth
    backbone = {
        "type": "NEPA",
        "backbone": _backbone_alone(checkpoint.description),
        # A third, a half, two thirds and all of the depth, as in MMSegmentation's MAE recipes for ViT-B and ViT-L.
        "blocks": [max(0, share - 1) for share in (depth // 3, depth // 2, 2 * depth // 3, depth)],
        # MMEngine puts the folder there that the config lies in, wherever that is moved to.
        "init_cfg": {"type": "Pretrained", "checkpoint": "{{ fileDirname }}/backbone.pth"},
    }
    config = {
        "custom_imports": {"imports": ["nepa.segmentation.backbone"]},
        "model": {"backbone": backbone},
    }
    _write_config(folder / "backbone.json", config)


def _write_pickle(content: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # by its name torch would raise an error of its own where the disk is full
        torch.save(content, file)


def _write_segmentor(checkpoint: Checkpoint, folder: Path) -> None:
    from nepa.segmentation.segmentor import segmentor_config

    description = checkpoint.description
    settings = description.segmentation
    meta = {"dataset_meta": {"classes": description.names, "palette": description.colours}}
    _write_pickle({"state_dict": checkpoint.weights, "meta": meta}, folder / "segmentor.pth")
    resize = {"scale_factor": 1.0} if settings.test_scale is None else {"scale": settings.test_scale}
    config = {
        "custom_imports": {"imports": ["nepa.segmentation.segmentor"]},
        "default_scope": "mmseg",
        "model": segmentor_config(description)
        | {
            "type": "UPerNet",
            "backbone": {"type": "NEPA", "backbone": _backbone_alone(description), "blocks": settings.blocks},
        },
        "test_pipeline": [
            {"type": "LoadImageFromFile", "color_type": "grayscale" if description.channels == 1 else "color"},
            {"type": "Resize", "keep_ratio": True} | resize,
            {"type": "PackSegInputs"},
        ],
    }
    _write_config(folder / "segmentor.json", config)


def _backbone_alone(description: Description) -> dict[str, Any]:
    """What `nepa.segmentation.backbone.NEPA` must know."""
    kept = description.model_dump(include={"model", "channels", "mean", "std"})
    return kept | {"image_size": input_size(description), "classes": 0}


def _with_pooling_norm(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights with the norm before the classifier, which a pretrained backbone lacks, at its initial values."""
    width = checkpoint.description.model.width
    return {"fc_norm.weight": torch.ones(width), "fc_norm.bias": torch.zeros(width)} | checkpoint.weights


def _write_config(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")

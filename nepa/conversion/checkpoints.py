"""Reading and writing of checkpoints in four formats; safetensors throughout, nothing is ever unpickled.

`reference`: a folder with config.json and model.safetensors, as the reference implementation publishes them.
`pipeline`: one safetensors file, as the stages write them.
`timm`: a folder for `timm.create_model("local-dir:FOLDER")` after `import nepa`.
`mmsegmentation`: a folder with the backbone and a config that MMSegmentation's configs can build on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models.eva import Eva
from torch import Tensor

from nepa.conversion.reference_config import describe_reference, reference_config
from nepa.conversion.reference_names import from_timm, to_timm
from nepa.errors import UserError
from nepa.model.backbone import eva_arguments
from nepa.training.checkpoints import write_atomically, write_weights


@dataclass(frozen=True)
class Checkpoint:
    """A model's weights in timm's names, and what they belong to (`nepa.model.backbone.describe`)."""

    description: dict[str, Any]
    weights: dict[str, Tensor]


def read_checkpoint(source: Path) -> Checkpoint:
    """Read a checkpoint of the reference, of the pipeline or of timm's format; it says itself which one it is.

    Raises:
        UserError: it is missing, truncated, no safetensors, or its weights are not those of its model.
    """
    path = source / "model.safetensors" if source.is_dir() else source
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise UserError(f"{path} not found; name a safetensors file or the folder that holds one") from None
    except SafetensorError as error:
        raise UserError(f"{path} is no complete safetensors file ({error}); fetch it again") from None
    if "nepa" in metadata:
        description = json.loads(metadata["nepa"])
        if not description["classes"]:  # timm's format has the norm before a classifier even without one
            weights = {name: weight for name, weight in weights.items() if not name.startswith("fc_norm.")}
        checkpoint = Checkpoint(description, weights)
    else:
        checkpoint = _of_reference(path, weights)
    _check(path, checkpoint)
    return checkpoint


def write_checkpoint(checkpoint: Checkpoint, target: Path, form: str) -> None:
    """Write a checkpoint as `reference`, `pipeline`, `timm` or `mmsegmentation`.

    Raises:
        UserError: the target exists, or the format has no such model.
    """
    if target.exists():
        raise UserError(f"{target} exists; name a new one")
    if form == "pipeline":
        write_weights(target, checkpoint.weights, checkpoint.description)
        return
    write = {"reference": _write_reference, "timm": _write_timm, "mmsegmentation": _write_mmsegmentation}[form]
    with write_atomically(target) as beside:
        beside.mkdir()
        write(checkpoint, beside, target)


def _of_reference(path: Path, weights: dict[str, Tensor]) -> Checkpoint:
    config_path = path.parent / "config.json"
    try:
        config = json.loads(config_path.read_text())
    except FileNotFoundError:
        raise UserError(f"{config_path} not found; the reference's weights need it beside them") from None
    except json.JSONDecodeError:
        raise UserError(f"{config_path} is truncated or no JSON; fetch it again") from None
    head = weights.get("classifier.weight")
    try:
        description = describe_reference(config, 0 if head is None else len(head))
        ours = to_timm(weights)
    except KeyError as error:
        raise UserError(
            f"{path}: {error.args[0]} is unknown or absent; this is no checkpoint of the reference"
        ) from None
    model = description["model"]
    if model["qk_norm"]:
        width = model["width"] // model["heads"]
        for block in range(model["depth"]):
            for norm in ("q_norm", "k_norm"):
                ours.setdefault(f"blocks.{block}.attn.{norm}.weight", torch.ones(width))
                ours[f"blocks.{block}.attn.{norm}.bias"] = torch.zeros(width)
    return Checkpoint(description, ours)


def _check(path: Path, checkpoint: Checkpoint) -> None:
    with torch.device("meta"):
        expected = Eva(**eva_arguments(checkpoint.description)).state_dict()
    for name, weight in checkpoint.weights.items():
        shape = tuple(expected[name].shape) if name in expected else "nothing"
        if shape != tuple(weight.shape):
            raise UserError(f"{path}: {name} is {tuple(weight.shape)}, its description wants {shape}; fetch it again")
    optional = ("fc_norm.",) if not checkpoint.description["classes"] else ()
    missing = [name for name in expected if name not in checkpoint.weights and not name.startswith(optional)]
    if missing:
        raise UserError(f"{path} lacks {missing[0]} and {len(missing) - 1} more; fetch it again")


def _write_reference(checkpoint: Checkpoint, folder: Path, _: Path) -> None:
    config = reference_config(checkpoint.description)
    try:
        weights = from_timm(checkpoint.weights, qk_norm_scale=config.get("qk_norm_affine", False))
    except ValueError as error:
        raise UserError(f"cannot be written in the reference's format: {error.args[0]}") from None
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _write_timm(checkpoint: Checkpoint, folder: Path, _: Path) -> None:
    description = checkpoint.description
    model = dict(description["model"])
    sizes = {"embed_dim": model.pop("width"), "depth": model.pop("depth"), "num_heads": model.pop("heads")}
    for of_initialisation in ("init_std", "patch_embedding_init"):
        model.pop(of_initialisation)
    config = {
        "architecture": "nepa_large_patch14_224" if sizes["embed_dim"] == 1024 else "nepa_base_patch14_224",
        "num_classes": description["classes"],
        "num_features": sizes["embed_dim"],
        "global_pool": "avg",
        "model_args": sizes | {"img_size": description["image_size"], "in_chans": description["channels"]} | model,
        "pretrained_cfg": {
            "num_classes": description["classes"],
            "input_size": [description["channels"], description["image_size"], description["image_size"]],
            "mean": [description["mean"]] * description["channels"],
            "std": [description["std"]] * description["channels"],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    write_weights(folder / "model.safetensors", _with_pooling_norm(checkpoint), description)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _write_mmsegmentation(checkpoint: Checkpoint, folder: Path, target: Path) -> None:
    # MMEngine reads no safetensors; this file of plain tensors is read with torch's weights-only loader.
    weights = {f"eva.{name}": w for name, w in _with_pooling_norm(checkpoint).items() if not name.startswith("head.")}
    torch.save({"state_dict": weights}, folder / "backbone.pth")
    depth = checkpoint.description["model"]["depth"]
    backbone = {
        "type": "NEPA",
        "backbone": checkpoint.description | {"classes": 0},
        # A third, a half, two thirds and all of the depth, as in MMSegmentation's MAE recipes for ViT-B and ViT-L.
        "blocks": [max(0, share - 1) for share in (depth // 3, depth // 2, 2 * depth // 3, depth)],
        "init_cfg": {"type": "Pretrained", "checkpoint": str(target.resolve() / "backbone.pth")},
    }
    config = {
        "custom_imports": {"imports": ["nepa.segmentation.backbone"]},
        "model": {"backbone": backbone},
    }
    (folder / "backbone.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _with_pooling_norm(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights with the norm before the classifier, which a pretrained backbone lacks, at its initial values."""
    width = checkpoint.description["model"]["width"]
    return {"fc_norm.weight": torch.ones(width), "fc_norm.bias": torch.zeros(width)} | checkpoint.weights

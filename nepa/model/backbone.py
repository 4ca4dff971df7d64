"""NEPA's backbone: timm's `Eva`, configured as the paper and the reference code have it."""

from pathlib import Path
from typing import Any

from timm import layers
from timm.models.eva import Eva
from torch import Tensor, nn

from nepa.errors import UserError
from nepa.model.architecture import backbone_arguments, freeze_qk_norm_bias
from nepa.model.description import Description, describe, read_description
from nepa.model.drop_path import DropPath
from nepa.model.rotary_embedding import RotaryEmbedding
from nepa.model.weights import check_weights, read_weights
from nepa.parameters import Parameters
from nepa.parameters.schema import Model


def build_backbone(
    parameters: Parameters,
    *,
    num_classes: int = 0,
    image_size: int | None = None,
    drop_path: float = 0.0,
    dynamic: bool = False,
) -> Eva:
    """The recipe's backbone with random weights.

    Args:
        parameters: the resolved parameters of a variant.
        num_classes: size of the classifier, which starts at zero as the reference's does; 0 for none.
        image_size: side of the input in pixels; default the recipe's.
        drop_path: stochastic depth rate of the last block.
        dynamic: accept any input size, padded to whole patches.
    """
    model = parameters.model
    arguments = eva_arguments(describe(parameters, num_classes))
    if image_size is not None:
        arguments["img_size"] = image_size
    backbone = Eva(drop_path_rate=drop_path, dynamic_img_size=dynamic, dynamic_img_pad=dynamic, **arguments)
    _initialise(backbone, model)
    as_nepa(backbone)
    return backbone


def as_nepa(backbone: Eva) -> None:
    """Give a timm `Eva` what it takes no argument for, in place."""
    if backbone.rope is not None:
        backbone.rope.__class__ = RotaryEmbedding
    freeze_qk_norm_bias(backbone.blocks)
    for block in backbone.blocks:
        for name, module in block.named_children():
            if isinstance(module, layers.DropPath):
                setattr(block, name, DropPath(module.drop_prob))


def eva_arguments(description: Description) -> dict[str, Any]:
    """Arguments of timm's `Eva` for what a checkpoint says of its model."""
    options = description.model.architecture()
    sizes = {"patch_size": "patch_size", "embed_dim": "width", "depth": "depth", "num_heads": "heads"}
    return (
        {"img_size": description.image_size, "in_chans": description.channels}
        | {"num_classes": description.classes if description.kind == "classifier" else 0}
        | {argument: options.pop(name) for argument, name in sizes.items()}
        | backbone_arguments(**options)
    )


def _initialise(backbone: Eva, model: Model) -> None:
    """The reference's weights: truncated normal, biases and classifier at zero; timm shrinks deeper layers instead."""
    for module in backbone.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if isinstance(module, nn.Conv2d) and model.patch_embedding_init == "uniform":
                continue  # torch's own
            nn.init.trunc_normal_(module.weight, std=model.init_std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for token in (backbone.cls_token, backbone.pos_embed):
        if token is not None:
            nn.init.trunc_normal_(token, std=model.init_std)
    if isinstance(backbone.head, nn.Linear):
        nn.init.zeros_(backbone.head.weight)


def class_logits(classifier: Eva, images: Tensor, attention: str, pool: str) -> Tensor:
    """Logits (B, classes) of images (B, C, H, W), with the attention and the pooling that `finetune` knows."""
    tokens = classifier.forward_features(images, is_causal=attention == "causal")
    # timm's head takes the mean over all tokens but the first, BOS.
    # A slice of the first and the last one: indices would be copied to a GPU, which waits for them.
    return classifier.forward_head(tokens[:, :: tokens.shape[1] - 1] if pool == "last_token" else tokens)


def load_backbone(backbone: Eva, path: Path, parameters: Parameters, again: str) -> Description:
    """Load pretrained weights into a backbone of any image size; a classifier and its norm stay as they are.

    Args:
        parameters: of the run that starts from them, whose model and pixels must be the checkpoint's.
        again: the command that makes the file.

    Returns:
        what the file says of itself.

    Raises:
        UserError: the file is missing, truncated, of another model, or no backbone.
    """
    weights, text = read_weights(
        path, absent=f"run {again} first, or `dvc pull` where a remote has it", damaged=f"delete it and run {again}"
    )
    if text is None:
        raise UserError(f"{path} does not say what model it is of; `nepa convert` can read the reference's checkpoints")
    description = read_description(text, path)
    if description.kind != "backbone":
        raise UserError(f"{path} is a {description.kind}, no pretrained backbone; run {again}")
    _same(description, describe(parameters), path, again)
    positions = weights.get("pos_embed")
    if positions is not None and backbone.pos_embed is not None:
        weights["pos_embed"] = layers.resample_abs_pos_embed(
            positions, backbone.patch_embed.grid_size, num_prefix_tokens=backbone.num_prefix_tokens
        )
    check_weights(path, weights, backbone.state_dict(), ("head.", "fc_norm."), f"run {again}")
    backbone.load_state_dict(weights, strict=False)
    return description


def _same(found: Description, wanted: Description, path: Path, again: str) -> None:
    """Refuse another model, also where every weight would fit, as with another base of RoPE."""
    its, ours = (
        {f"model.{key}": value for key, value in of.model.architecture().items()}
        | {f"data.{key}": getattr(of, key) for key in ("channels", "mean", "std")}
        for of in (found, wanted)
    )
    for key in ours:
        if its[key] != ours[key]:
            raise UserError(f"{path} was trained with {key} {its[key]}, params.yaml has {ours[key]}; run {again}")

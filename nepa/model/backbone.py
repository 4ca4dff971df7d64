"""NEPA's backbone: timm's `Eva`, configured as the paper and the reference code have it."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.eva import Eva
from torch import nn

from nepa.errors import UserError
from nepa.model.architecture import backbone_arguments
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
    options = model.model_dump(exclude={"patch_size", "width", "depth", "heads", "init_std", "patch_embedding_init"})
    backbone = Eva(
        img_size=image_size or parameters.data.image_size,
        patch_size=model.patch_size,
        in_chans=parameters.data.channels,
        num_classes=num_classes,
        embed_dim=model.width,
        depth=model.depth,
        num_heads=model.heads,
        drop_path_rate=drop_path,
        dynamic_img_size=dynamic,
        dynamic_img_pad=dynamic,
        **backbone_arguments(**options),
    )
    _initialise(backbone, model)
    for block in backbone.blocks:
        # The reference's q and k norms have no bias (released configuration); timm's stays at its zero.
        if model.qk_norm:
            block.attn.q_norm.bias.requires_grad_(False)
            block.attn.k_norm.bias.requires_grad_(False)
    return backbone


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


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Load pretrained weights into a backbone; only the classifier and its norm may be absent from the file.

    Raises:
        UserError: the file is missing, truncated, or was made by a model of another shape.
    """
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} not found; run `nepa pretrain` first, or `dvc pull` it") from None
    except SafetensorError as error:
        raise UserError(f"{path} is no complete checkpoint ({error}); delete it and run its stage again") from None
    own = backbone.state_dict()
    for name, weight in weights.items():
        if name not in own or own[name].shape != weight.shape:
            expected = tuple(own[name].shape) if name in own else "nothing"
            raise UserError(
                f"{path}: {name} is {tuple(weight.shape)}, the model of params.yaml has {expected}; "
                "pretrain again with these parameters"
            )
    missing = [name for name in own if name not in weights and not name.startswith(("head.", "fc_norm."))]
    if missing:
        raise UserError(f"{path} lacks {missing[0]} and {len(missing) - 1} more; pretrain again with these parameters")
    backbone.load_state_dict(weights, strict=False)

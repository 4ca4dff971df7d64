"""NEPA's components in the terms of timm's `Eva`; imports no timm, so that registering can't run in a circle."""

from functools import partial
from typing import Any

from torch import nn


def backbone_arguments(
    *,
    mlp: str = "gelu",
    mlp_ratio: float = 4.0,
    layer_scale: float | None = 1e-5,
    qk_norm: bool = True,
    rope: bool = True,
    rope_base: float = 100.0,
    rope_rescale: float | None = 2.0,
    absolute_positions: bool = False,
    norm_epsilon: float = 1e-12,
) -> dict[str, Any]:
    """Arguments of timm's `Eva` for NEPA's components; the defaults are the reference code's.

    Pre-norm, LayerScale on both branches, LayerNorm on each head's q and k, axial RoPE (DINOv3 form,
    rotate-half) on the patch tokens, mean over the patches followed by a second LayerNorm before the classifier.
    """
    return dict(
        mlp_ratio=mlp_ratio,
        swiglu_mlp=mlp == "swiglu",
        init_values=layer_scale,
        qk_norm=qk_norm,
        attn_type="rope",
        use_rot_pos_emb=rope,
        rope_type="dinov3",
        rope_temperature=rope_base,
        rope_rotate_half=True,
        rope_rescale_coords=rope_rescale,
        use_abs_pos_emb=absolute_positions,
        norm_layer=partial(nn.LayerNorm, eps=norm_epsilon),
        global_pool="avg",
        use_post_transformer_norm=True,
        use_fc_norm=True,
    )


def freeze_qk_norm_bias(blocks: nn.ModuleList) -> None:
    """The reference's q and k norms have no bias (released configuration); timm's stays at its zero."""
    for block in blocks:
        for norm in (block.attn.q_norm, block.attn.k_norm):
            if isinstance(norm, nn.LayerNorm):
                norm.bias.requires_grad_(False)

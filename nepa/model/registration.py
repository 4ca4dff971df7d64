"""NEPA's model names in timm: `timm.create_model('nepa_base_patch14_224')` after `import nepa`."""

from inspect import signature
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.eva import Eva

from nepa.model.architecture import backbone_arguments

_CONFIG = dict(
    url="",
    num_classes=1000,
    input_size=(3, 224, 224),
    pool_size=None,
    crop_pct=1.0,
    interpolation="bilinear",
    fixed_input_size=True,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    first_conv="patch_embed.proj",
    classifier="head",
)
# timm finds this by its name, as in its own model files.
default_cfgs = generate_default_cfgs({"nepa_base_patch14_224": _CONFIG, "nepa_large_patch14_224": _CONFIG})


def _create(name: str, pretrained: bool, sizes: dict[str, int], **overrides: Any) -> Eva:
    # NEPA's own terms first, then whatever timm's `Eva` takes.
    components = {key: overrides.pop(key) for key in list(overrides) if key in signature(backbone_arguments).parameters}
    arguments = dict(img_size=224, patch_size=14, **sizes, **backbone_arguments(**components)) | overrides
    out_indices = arguments.pop("out_indices", 3)
    features = dict(out_indices=out_indices, feature_cls="getter")
    return build_model_with_cfg(Eva, name, pretrained, feature_cfg=features, **arguments)


@register_model
def nepa_base_patch14_224(pretrained: bool = False, **kwargs: Any) -> Eva:
    """ViT-B/14 as in the released code (GELU); the paper's SwiGLU is `mlp="swiglu", mlp_ratio=8 / 3`."""
    sizes = dict(embed_dim=768, depth=12, num_heads=12)
    return _create("nepa_base_patch14_224", pretrained, sizes, **kwargs)


@register_model
def nepa_large_patch14_224(pretrained: bool = False, **kwargs: Any) -> Eva:
    """ViT-L/14 as in the released code (GELU)."""
    sizes = dict(embed_dim=1024, depth=24, num_heads=16)
    return _create("nepa_large_patch14_224", pretrained, sizes, **kwargs)

"""NEPA's model names in timm: `timm.create_model('nepa_base_patch14_224')` after `import nepa`."""

import logging
from collections.abc import Mapping
from inspect import signature
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import FeatureGetterNet
from timm.models.eva import Eva, checkpoint_filter_fn
from torch import Tensor

from nepa.model.architecture import backbone_arguments, freeze_qk_norm_bias

log = logging.getLogger("nepa")

SIZES = {
    "nepa_base_patch14_224": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "nepa_large_patch14_224": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}
INPUT = {"img_size": 224, "patch_size": 14}
_CONFIG = dict(
    url="",
    num_classes=1000,
    input_size=(3, 224, 224),
    pool_size=None,
    interpolation="bicubic",
    fixed_input_size=True,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    first_conv="patch_embed.proj",
    classifier="head",
)
# As the released code evaluates each.
_CROPS = {"nepa_base_patch14_224": 0.875, "nepa_large_patch14_224": 0.95}
# timm finds this by its name, as in its own model files.
default_cfgs = generate_default_cfgs({name: _CONFIG | {"crop_pct": _CROPS[name]} for name in SIZES})


class _Registered(Eva):
    """`Eva` that takes a checkpoint of another input size, patch size or number of classes.

    timm adapts what it downloads itself, but loads `checkpoint_path` as it is.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        freeze_qk_norm_bias(self.blocks)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """As torch's; the classifier and the norm before it keep their weights where they have no counterpart."""
        own = self.state_dict()
        weights = checkpoint_filter_fn(dict(state_dict), self)
        head = {name for name in (*own, *weights) if name.startswith(("head.", "fc_norm."))}
        unlike = {
            name for name in head if name not in weights or name not in own or weights[name].shape != own[name].shape
        }
        if unlike:
            log.warning(f"{', '.join(sorted(unlike))} stay as they are: the checkpoint has another classifier, or none")
        weights = {name: weight for name, weight in weights.items() if name not in unlike}
        return super().load_state_dict(weights | {name: own[name] for name in unlike & own.keys()}, strict, assign)


class _Features(FeatureGetterNet):
    """timm's feature extractor (`features_only`) that takes a checkpoint of the whole model too."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, without the blocks and the classifier that feature extraction has cut off."""
        if all(name.startswith("model.") for name in state_dict):
            return super().load_state_dict(state_dict, strict, assign)
        kept = self.model.state_dict()
        return self.model.load_state_dict({n: w for n, w in state_dict.items() if n in kept}, strict, assign)


def _create(name: str, pretrained: bool, **overrides: Any) -> Eva:
    # NEPA's own terms first, then whatever timm's `Eva` takes.
    components = {key: overrides.pop(key) for key in list(overrides) if key in signature(backbone_arguments).parameters}
    arguments = INPUT | SIZES[name] | backbone_arguments(**components) | overrides
    features = dict(out_indices=arguments.pop("out_indices", 3), feature_cls=_Features)
    return build_model_with_cfg(_Registered, name, pretrained, feature_cfg=features, **arguments)


@register_model
def nepa_base_patch14_224(pretrained: bool = False, **kwargs: Any) -> Eva:
    """ViT-B/14 as in the released code (GELU); the paper's SwiGLU is `mlp="swiglu", mlp_ratio=8 / 3`."""
    return _create("nepa_base_patch14_224", pretrained, **kwargs)


@register_model
def nepa_large_patch14_224(pretrained: bool = False, **kwargs: Any) -> Eva:
    """ViT-L/14 as in the released code (GELU)."""
    return _create("nepa_large_patch14_224", pretrained, **kwargs)

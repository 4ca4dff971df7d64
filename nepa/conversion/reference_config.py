"""The reference implementation's config.json in the terms of this project's checkpoints, and back."""

import math
from typing import Any

from pydantic import ValidationError

from nepa.errors import UserError
from nepa.model.description import Description
from nepa.parameters.schema import Model

# By the reference's defaults.
SWITCHES = {"use_gated_mlp": False, "qk_norm": False, "is_causal": True, "add_pooling_layer": False}
NUMBERS = {"hidden_size": None, "intermediate_size": None, "layerscale_value": 1e-5}


def describe_reference(config: dict[str, Any], classes: int) -> Description:
    """The description of a model of the reference's config; it keeps the config itself.

    Args:
        config: content of config.json; keys that it lacks have the reference's defaults.
        classes: of the classifier among the weights, 0 without one.

    Raises:
        UserError: the config asks for what this project's model does not have.
    """
    if config.get("model_type", "vit_nepa") != "vit_nepa":
        raise UserError(f"config.json: model_type {config['model_type']!r} is not the reference's 'vit_nepa'")
    switches = {key: config.get(key, default) for key, default in SWITCHES.items()}
    for key, value in switches.items():
        if not isinstance(value, bool):
            raise UserError(f"config.json: {key} is {value!r}, expected true or false; fetch it again")
    gated, qk_norm, is_causal, pooled = switches.values()
    for key, expected in (
        ("qkv_bias", True),
        ("qk_norm_bias", False),
        ("hidden_act", "silu" if gated else "gelu"),
    ):
        value = config.get(key, "gelu" if key == "hidden_act" else expected)
        if value != expected:
            raise UserError(f"config.json: {key} is {value!r}; only {expected!r} can be converted")
    if classes and not pooled:
        raise UserError(
            "config.json: add_pooling_layer is not true; a classifier of the last token has no norm before its head, "
            "only that of the mean can be converted"
        )
    numbers = {key: config.get(key, default) for key, default in NUMBERS.items()}
    width, hidden, layer_scale = numbers.values()
    if layer_scale is None:  # the reference then has none
        del numbers["layerscale_value"]
    for key, value in numbers.items():
        if not isinstance(value, int | float) or value <= 0:
            raise UserError(f"config.json: {key} is {value!r}, expected a number above 0; fetch it again")
    names = config.get("id2label") if classes else None
    if names is not None and not isinstance(names, dict):
        raise UserError(f"config.json: id2label holds {type(names).__name__}, expected a map; fetch it again")
    try:
        return Description(
            model=Model(
                patch_size=config["patch_size"],
                width=width,
                depth=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                mlp="swiglu" if gated else "gelu",
                mlp_ratio=_ratio(hidden, width),
                layer_scale=layer_scale,
                qk_norm=qk_norm,
                rope=True,
                rope_base=config.get("rope_theta", 100.0),
                rope_rescale=config.get("pos_embed_rescale", 2.0),
                absolute_positions=False,
                norm_epsilon=config.get("layer_norm_eps", 1e-12),
                init_std=config.get("initializer_range", 0.02),
                patch_embedding_init="truncated_normal",
            ),
            image_size=config["image_size"],
            channels=config.get("num_channels", 3),
            classes=classes,
            mean=0.5,
            std=0.5,
            # The released code evaluates ViT-L and ViT-B so; `crop_pct` is in the files that are written here.
            crop_share=config.get("crop_pct", 0.95 if width == 1024 else 0.875),
            attention="causal" if classes and is_causal else "bidirectional",
            class_names=names and [names[str(number)] for number in range(classes)],
            reference=config,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"config.json: {first['loc'][-1]}: {first['msg']}; fetch it again") from None


def reference_config(description: Description) -> dict[str, Any]:
    """config.json of the reference for a model; the one that it was read from, where it was.

    Raises:
        UserError: the reference has no such model.
    """
    if description.reference is not None:
        return description.reference
    model = description.model
    for key, expected in (("rope", True), ("absolute_positions", False)):
        value = getattr(model, key)
        if value != expected:
            raise UserError(f"model.{key} is {value}; the reference implementation only has {expected}")
    if description.kind == "classifier" and description.pool != "mean":
        raise UserError(
            f"finetune.pool is {description.pool}; the reference implementation has no norm between it and the head, "
            "only after the mean"
        )
    gated = model.mlp == "swiglu"
    classes = description.classes
    return {
        "architectures": ["ViTNepaForImageClassification" if classes else "ViTNepaForPreTraining"],
        "model_type": "vit_nepa",
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": int(model.width * model.mlp_ratio),
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "initializer_range": model.init_std,
        "layer_norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_base,
        "image_size": description.image_size,
        "patch_size": model.patch_size,
        "num_channels": description.channels,
        "qkv_bias": True,
        "qk_norm": model.qk_norm,
        "qk_norm_bias": False,
        "qk_norm_affine": model.qk_norm,
        "layerscale_value": model.layer_scale,
        "pos_embed_rescale": model.rope_rescale,
        "is_causal": _is_causal(description),
        "add_pooling_layer": classes > 0,
        "crop_pct": description.crop_share,
    } | ({"num_labels": classes, "id2label": dict(enumerate(description.names))} if classes else {})


def _is_causal(description: Description) -> bool:
    """As a classifier was fine-tuned, a backbone pretrained."""
    if description.kind == "classifier":
        return description.attention == "causal"
    return all(run.settings.get("causal_mask", True) for run in description.training)


def _ratio(hidden: int, width: int) -> float:
    """hidden / width, such that int(width * ratio) is `hidden` again, as timm computes it."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)

"""The reference implementation's parameter names, as in its published checkpoints, in timm's terms."""

import re

import torch
from torch import Tensor

_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "fc_norm": "fc_norm",
    "classifier": "head",
}
_BLOCK = {
    "attention.attention.q_norm": "attn.q_norm",
    "attention.attention.k_norm": "attn.k_norm",
    "attention.output.dense": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "layer_scale.lambda1": "gamma_1",
    "output.layer_scale.lambda1": "gamma_2",
    "output.dense": "mlp.fc2",
}
_PACKED = {
    # timm keeps these in one matrix, in this order.
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "mlp.fc1": ("intermediate.gate_proj", "intermediate.up_proj"),
}


def to_timm(reference: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict (or its gradients) in the reference's names, in timm's.

    Raises:
        KeyError: a name that the reference does not have.
    """
    weights: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, value in reference.items():
        name = name.removeprefix("vit_nepa.")
        block = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", name)
        if block is None:
            stem, dot, end = (name, "", "") if name in _TOP else name.rpartition(".")
            if stem not in _TOP:
                raise KeyError(name)
            weights[_TOP[stem] + dot + end] = value
            continue
        prefix, inner = f"blocks.{block[1]}.", block[2]
        if inner in _BLOCK:
            weights[prefix + _BLOCK[inner]] = value
            continue
        stem, _, end = inner.rpartition(".")
        packed = next((key for key, stems in _PACKED.items() if stem in stems), None)
        if packed is not None:
            parts.setdefault(f"{prefix}{packed}.{end}", {})[_PACKED[packed].index(stem)] = value
        elif stem in _BLOCK:
            weights[f"{prefix}{_BLOCK[stem]}.{end}"] = value
        else:
            raise KeyError(name)
    for name, values in parts.items():
        weights[name] = torch.cat([values[index] for index in sorted(values)])
    return weights


def from_timm(weights: dict[str, Tensor], *, qk_norm_scale: bool) -> dict[str, Tensor]:
    """A state dict in timm's names, in the reference's: what `to_timm` read, bit for bit.

    Args:
        qk_norm_scale: whether the reference's q and k norms have a learned scale; without one it is 1 and left out.

    Raises:
        ValueError: a weight that the reference does not have.
    """
    top = {timm: reference for reference, timm in _TOP.items()}
    block_names = {timm: reference for reference, timm in _BLOCK.items()}
    reference: dict[str, Tensor] = {}
    for name, value in weights.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        inner, prefix = (block[2], f"vit_nepa.encoder.layer.{block[1]}.") if block else (name, "")
        if inner in ("attn.q_norm.bias", "attn.k_norm.bias"):
            if value.any():
                raise ValueError(f"{name} is not zero; the reference's norm has no bias")
            continue
        if inner in ("attn.q_norm.weight", "attn.k_norm.weight") and not qk_norm_scale:
            if (value != 1).any():
                raise ValueError(f"{name} is not one; the reference's norm has no scale with qk_norm_affine off")
            continue
        names = block_names if block else top
        stem, end = (inner, "") if inner in names else inner.rsplit(".", 1)
        end = f".{end}" if end else ""
        if block and (packed := _PACKED.get(stem)) and (stem != "mlp.fc1" or _is_gated(weights, block[1])):
            for part, chunk in zip(packed, value.chunk(len(packed)), strict=True):
                reference[f"{prefix}{part}{end}"] = chunk.clone()
        elif block and stem == "mlp.fc1":
            reference[f"{prefix}intermediate.up_proj{end}"] = value
        elif stem in names:
            outer = "" if block or names[stem] in ("fc_norm", "classifier") else "vit_nepa."
            reference[f"{prefix}{outer}{names[stem]}{end}"] = value
        else:
            raise ValueError(f"{name} has no counterpart in the reference implementation")
    return reference


def _is_gated(weights: dict[str, Tensor], block: str) -> bool:
    return len(weights[f"blocks.{block}.mlp.fc1.weight"]) != weights[f"blocks.{block}.mlp.fc2.weight"].shape[1]

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
            stem, end = (name, "") if name in _TOP else name.rsplit(".", 1)
            weights[_TOP[stem] + (f".{end}" if end else "")] = value
            continue
        prefix, inner = f"blocks.{block[1]}.", block[2]
        if inner in _BLOCK:
            weights[prefix + _BLOCK[inner]] = value
            continue
        stem, end = inner.rsplit(".", 1)
        packed = next((key for key, stems in _PACKED.items() if stem in stems), None)
        if packed is None:
            weights[f"{prefix}{_BLOCK[stem]}.{end}"] = value
        else:
            parts.setdefault(f"{prefix}{packed}.{end}", {})[_PACKED[packed].index(stem)] = value
    for name, values in parts.items():
        weights[name] = torch.cat([values[index] for index in sorted(values)])
    return weights

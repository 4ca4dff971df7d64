"""What a model attends to at a patch, and which patches resemble what it predicts there (the views of Fig. 5)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nepa.objective.next_embedding import NextEmbeddingPrediction, Prediction

IMAGES = 3
LONGEST_SIDE = 128  # of the images that are kept, in pixels


@torch.no_grad()
def predict_with_attention(model: NextEmbeddingPrediction, images: Tensor) -> tuple[Prediction, Tensor]:
    """The model's prediction for images (B, C, H, W), and its last block's attention (B, heads, 1 + N, 1 + N).

    Row q of the attention is what token q attends to, and sums to 1; token 0 is BOS. timm's fused kernel yields no
    weights, so this one block takes timm's unfused path, which applies the same causal mask.
    """
    attention = model.backbone.blocks[-1].attn
    kept: list[Tensor] = []
    handle = attention.attn_drop.register_forward_hook(lambda module, inputs, output: kept.append(output))
    fused, attention.fused_attn = attention.fused_attn, False
    try:
        prediction = model.predict(images)
    finally:
        attention.fused_attn = fused
        handle.remove()
    return prediction, kept[0]


def query_patches(rows: int, columns: int) -> list[int]:
    """Two fixed queries, left of the middle: half and three quarters down, where a causal model has seen much."""
    return [row * columns + (columns - 1) // 2 for row in (rows // 2, 3 * rows // 4)]


@torch.no_grad()
def query_maps(model: NextEmbeddingPrediction, images: Tensor, mean: float, std: float) -> dict[str, np.ndarray]:
    """The views of the first few of the images (B, C, H, W), normalised by `mean` and `std`, in evaluation mode.

    Returns:
        `images` (I, H, W, C) uint8, thinned where large; `grid` (2,), the rows and columns of patches; `queries` (Q,),
        patch numbers in raster order; `targets` (Q,), the patches that the outputs there predict; `attention`
        (I, Q, 1 + N), the last block's, averaged over its heads, BOS first; `cosine` (I, Q, N) of the predicted
        embedding with every patch's own; `causal`, whether what comes after the query is hidden from it.
    """
    images = images[:IMAGES].to(next(model.parameters()).device)
    training = model.training
    model.eval()
    prediction, attention = predict_with_attention(model, images)
    model.train(training)
    grid = model.backbone.patch_embed.grid_size
    queries = torch.tensor(query_patches(*grid), device=images.device)
    predicted = F.normalize(prediction.own_position[:, queries].float(), dim=-1)
    cosine = predicted @ F.normalize(prediction.target.float(), dim=-1).transpose(1, 2)
    size = [side // -(-max(images.shape[-2:]) // LONGEST_SIDE) for side in images.shape[-2:]]
    pixels = F.adaptive_avg_pool2d((images * std + mean).clamp(0, 1) * 255, size).round()
    return {
        "images": pixels.permute(0, 2, 3, 1).byte().cpu().numpy(),
        "grid": np.array(grid),
        "queries": queries.cpu().numpy(),
        "targets": (queries + int(model.shift)).cpu().numpy(),
        "attention": attention[:, :, queries + 1].mean(1).half().cpu().numpy(),
        "cosine": cosine.half().cpu().numpy(),
        "causal": np.array(model.causal_mask),
    }

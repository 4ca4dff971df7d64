"""The objective: predict the next patch's embedding; negative cosine, stop-gradient on the target."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models import checkpoint
from timm.models.eva import Eva
from torch import Tensor, nn


@dataclass(frozen=True)
class Prediction:
    """What one forward pass yields; N patches, width D.

    Attributes:
        predicted: (B, N, D) final LayerNorm's output that is compared with `target`.
        target: (B, N, D) raw patch embeddings, not detached.
        own_position: (B, N, D) output at each patch's own position, to tell an identity map; without that of the last
            patch where it was left out.
    """

    predicted: Tensor
    target: Tensor
    own_position: Tensor


class NextEmbeddingPrediction(nn.Module):
    """NEPA's pretraining model with the switches of Tables 1a and 1c.

    Args:
        backbone: timm's `Eva` with one prefix token (BOS), no classifier.
        causal_mask: each token attends to itself and those before it; off: to all.
        shift: the output at a token predicts the patch after it (BOS predicts patch 0);
            off: the output at a patch predicts that patch itself.
        stop_gradient: no gradient through the target.
        input_mask_ratio: share of the input embeddings that a learned token replaces; all targets are predicted.
    """

    def __init__(
        self,
        backbone: Eva,
        *,
        causal_mask: bool = True,
        shift: bool = True,
        stop_gradient: bool = True,
        input_mask_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.causal_mask = causal_mask
        self.shift = shift
        self.stop_gradient = stop_gradient
        self.input_mask_ratio = input_mask_ratio
        if input_mask_ratio:
            self.mask_token = nn.Parameter(torch.zeros(backbone.embed_dim))
            nn.init.trunc_normal_(self.mask_token, std=0.02)

    def predict(self, images: Tensor) -> Prediction:
        """Predictions and their targets for images (B, C, H, W).

        In training the last patch is left out where nothing depends on it: with a causal mask no other token sees it,
        and with the shift there is no patch that it predicts.
        """
        embeddings = self.backbone.patch_embed(images)
        inputs = self._mask(embeddings) if self.input_mask_ratio and self.training else embeddings
        tokens, rope = self.backbone._pos_embed(inputs)
        if self.training and self.causal_mask and self.shift:
            tokens, rope = tokens[:, :-1], None if rope is None else rope[:-1]
        tokens = self.backbone.norm_pre(tokens)
        for block in self.backbone.blocks:
            if self.backbone.grad_checkpointing and self.training:
                tokens = checkpoint(block, tokens, rope=rope, is_causal=self.causal_mask)
            else:
                tokens = block(tokens, rope=rope, is_causal=self.causal_mask)
        outputs = self.backbone.norm(tokens)
        predicted = outputs[:, : embeddings.shape[1]] if self.shift else outputs[:, 1:]
        return Prediction(predicted, embeddings, outputs[:, 1:])

    def loss(self, prediction: Prediction) -> Tensor:
        """Mean negative cosine, in [-1, 1], in float32 whatever the model's precision."""
        target = prediction.target.detach() if self.stop_gradient else prediction.target
        # No cosine_similarity in half precision: its epsilon and its sums would be half precision too.
        predicted = F.normalize(prediction.predicted.float(), dim=-1)
        return -(predicted * F.normalize(target.float(), dim=-1)).sum(-1).mean()

    def forward(self, images: Tensor) -> Tensor:
        """The loss of images (B, C, H, W)."""
        return self.loss(self.predict(images))

    def _mask(self, embeddings: Tensor) -> Tensor:
        # The paper gives the ratio alone: that it is exact in every image, and what is put there, is ours.
        batch, patches, _ = embeddings.shape
        masked = round(self.input_mask_ratio * patches)
        rank = torch.rand(batch, patches, device=embeddings.device).argsort(dim=1).argsort(dim=1)
        return torch.where((rank < masked)[..., None], self.mask_token.to(embeddings.dtype), embeddings)

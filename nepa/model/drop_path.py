"""Stochastic depth that is compiled once for all blocks."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """timm's, with its rate in a tensor: it is another in each block, which as a number would be compiled anew.

    Args:
        rate: probability that an image skips a block's attention or its MLP.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.register_buffer("keep", torch.tensor(1 - rate), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Values (B, N, D), of some images zero and of the others larger, so that the mean stays."""
        if not self.training:
            return values
        kept = torch.rand(len(values), 1, 1, device=values.device) < self.keep
        return values * (kept / self.keep).to(values.dtype)

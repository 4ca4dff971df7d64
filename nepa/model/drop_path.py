"""Stochastic depth that is compiled once for all blocks."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """timm's, with its rate in a tensor: it is another in each block, which as a number would be compiled anew.

    Args:
        rate: probability that an image goes around what comes before.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.register_buffer("kept", torch.tensor(1 - rate), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Values (B, N, D), those of some images zero and the others larger, so that the mean stays."""
        if not self.training:
            return values
        drawn = torch.rand(len(values), 1, 1, device=values.device) < self.kept
        return values * (drawn / self.kept).to(values.dtype)

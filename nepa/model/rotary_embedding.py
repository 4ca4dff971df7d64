"""Axial rotary position embedding (RoPE), made where the model lies."""

import torch
from timm.layers import RotaryEmbeddingDinoV3
from timm.layers.pos_embed_sincos import _apply_coord_augs, _build_grid
from torch import Tensor


class RotaryEmbedding(RotaryEmbeddingDinoV3):
    """timm's, with its grid on the model's device.

    timm makes the grid on the CPU and copies it, at each step where training rescales it: a GPU would be waited for.
    On a CPU both are equal to the bit; on a GPU the draws are those of its own generator.
    """

    def _create_embed(self, feat_shape: list[int], no_aug: bool = False) -> Tensor:
        grid = _build_grid(
            feat_shape,
            grid_type="centered",
            grid_offset=self.grid_offset,
            grid_indexing=self.grid_indexing,
            normalize_coords=self.normalize_coords,
            device=self.periods.device,
        ).flatten(0, -2)
        if self.training and self.aug_active and not no_aug:
            grid = _apply_coord_augs(grid, self.shift_coords, self.jitter_coords, self.rescale_coords)
        return torch.cat(self._get_pos_embed_from_coords(grid), dim=-1)

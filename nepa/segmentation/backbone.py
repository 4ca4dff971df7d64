"""NEPA in MMSegmentation's registry."""

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from timm.models.eva import Eva
from torch import Tensor


@MODELS.register_module()
class NEPA(BaseModule):
    """A timm `Eva` as a segmentation backbone, with bidirectional attention (paper).

    Args:
        backbone: built for any image size (`dynamic_img_size`, `dynamic_img_pad`), with its weights.
        blocks: the outputs of these blocks become the levels; a block may serve more than one.
    """

    def __init__(self, backbone: Eva, blocks: list[int]) -> None:
        super().__init__()
        self.eva = backbone
        self.blocks = blocks
        # Blocks feed the decoder directly, as in MMSegmentation's MAE: these norms have no part in it.
        self.eva.norm.requires_grad_(False)
        self.eva.fc_norm.requires_grad_(False)

    def init_weights(self) -> None:
        """Keep the weights: they come with the backbone."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map (B, D, ceil(H / patch), ceil(W / patch)) per level, of images (B, C, H, W)."""
        wanted = sorted(set(self.blocks))
        maps = self.eva.forward_intermediates(images, indices=wanted, intermediates_only=True)
        by_block = dict(zip(wanted, maps, strict=True))
        return tuple(by_block[block] for block in self.blocks)

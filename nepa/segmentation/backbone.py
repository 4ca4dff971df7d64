"""NEPA in MMSegmentation's registry."""

from typing import Any

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from timm.models.eva import Eva
from torch import Tensor

from nepa.model.backbone import as_nepa, eva_arguments
from nepa.model.description import Description


@MODELS.register_module()
class NEPA(BaseModule):
    """A timm `Eva` as a segmentation backbone, with bidirectional attention (paper).

    Args:
        backbone: built for any image size (`dynamic_img_size`, `dynamic_img_pad`), with its weights; or what a
            checkpoint says of its model (`nepa.model.description`), to be built here.
        blocks: the outputs of these blocks become the levels; a block may serve more than one.
        drop_path: stochastic depth rate of the last block, of a backbone that is built here.
        init_cfg: MMEngine's `Pretrained`, for the same.
    """

    def __init__(
        self,
        backbone: Eva | dict[str, Any],
        blocks: list[int],
        drop_path: float = 0.0,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if isinstance(backbone, dict):
            sizes = {"dynamic_img_size": True, "dynamic_img_pad": True}
            backbone = Eva(drop_path_rate=drop_path, **sizes, **eva_arguments(Description(**backbone)))
            as_nepa(backbone)
        self.eva = backbone
        self.blocks = blocks
        # Blocks feed the decoder directly, as in MMSegmentation's MAE: these norms have no part in it.
        self.eva.norm.requires_grad_(False)
        self.eva.fc_norm.requires_grad_(False)
        self.eva.blocks[max(blocks) + 1 :].requires_grad_(False)

    def init_weights(self) -> None:
        """Load what `init_cfg` names; without one the weights are those that came with the backbone."""
        if self.init_cfg is not None:
            super().init_weights()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map (B, D, ceil(H / patch), ceil(W / patch)) per level, of images (B, C, H, W)."""
        wanted = sorted(set(self.blocks))
        maps = self.eva.forward_intermediates(images, indices=wanted, intermediates_only=True, stop_early=True)
        by_block = dict(zip(wanted, maps, strict=True))
        return tuple(by_block[block] for block in self.blocks)

"""What ours is measured against: the same model trained as the reference code does it, in a plain loop."""

import torch
from timm.models.eva import Eva
from timm.utils import ModelEmaV2
from torch import Tensor, nn

from nepa.parameters import Parameters
from nepa.training.optimizer import LayerwiseSchedule
from nepa.training.placement import device
from nepa.training.task import Task, peak_learning_rate

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class Baseline:
    """Eager; q, k and v projected apart; torch's default AdamW, unfused; the average of the weights tensor by tensor;
    loss and gradient norm read off the device at every step. MMSegmentation measures every batch's accuracy.
    Preprocessing, drop path and RoPE are ours, and so is it that pretraining leaves out the last patch.

    Args:
        task: its model is taken, and changed.
        steps: of the schedule.
    """

    def __init__(self, parameters: Parameters, task: Task, steps: int) -> None:
        self.settings = getattr(parameters, task.stage)
        split_projections(task.backbone)
        if task.stage == "segment":
            from mmseg.models import EncoderDecoder  # slow to import

            task.model.__class__ = EncoderDecoder
        self.model = task.model.to(device()).train()
        groups = task.parameter_groups(self.model, task.backbone, self.settings.weight_decay)
        rate = peak_learning_rate(self.settings)
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=tuple(self.settings.betas))
        self.trained = [parameter for group in groups for parameter in group["params"]]
        self.schedule = LayerwiseSchedule(self.optimizer, steps=steps, **task.schedule)
        decay = self.settings.ema_decay
        self.average = None if decay is None else ModelEmaV2(self.model, decay)
        self.steps = 0

    @property
    def kept(self) -> nn.Module:
        """The model that would be evaluated."""
        return self.model if self.average is None else self.average.module

    def step(self, batch: dict) -> tuple[float, float]:
        """One update; returns loss and gradient norm."""
        with torch.autocast(device().type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            losses = self.model(**self.model.data_preprocessor(batch, True), mode="loss")
        loss = sum(value for name, value in losses.items() if "loss" in name)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, self.settings.clip_gradient)
        read = loss.item(), norm.item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.average is not None:
            # As ours, the first step sets it.
            (self.average.update if self.steps else self.average.set)(self.model)
        self.steps += 1
        return read


def split_projections(backbone: Eva) -> None:
    """Give each block three projections of its own in place of the packed one, with the same weights; in place."""
    for block in backbone.blocks:
        packed = block.attn.qkv
        for number, name in enumerate(PROJECTIONS):
            part = nn.Linear(packed.in_features, packed.out_features // 3, packed.bias is not None)
            for own, whole in zip(part.parameters(), packed.parameters(), strict=True):
                own.data = whole.detach().chunk(3)[number].clone()
                own.requires_grad_(whole.requires_grad)
            setattr(block.attn, name, part)
        block.attn.qkv = None


def packed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names that they have where q, k and v are one projection."""
    q, k, v = PROJECTIONS
    parts = {name.replace(q, "qkv"): [name.replace(q, part) for part in (q, k, v)] for name in tensors if q in name}
    joined = {name: torch.cat([tensors[part] for part in of]) for name, of in parts.items()}
    rest = {name: tensor for name, tensor in tensors.items() if not any(part in name for part in PROJECTIONS)}
    return rest | joined

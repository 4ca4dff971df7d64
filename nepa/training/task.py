"""What a stage trains, apart from its data and from how it is carried out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmengine.model import BaseModel
from timm.models.eva import Eva
from torch import nn

from nepa.data.datasets import as_batch
from nepa.parameters.schema import Optimization, Segment, Stage
from nepa.training.optimizer import ClippedOptimizer, Group, Layers, build_optimizer, parameter_groups


def peak_learning_rate(settings: Optimization | Segment) -> float:
    """By the linear scaling rule, base x batch / 256 (paper); segmentation's is stated as it is."""
    if isinstance(settings, Segment):
        return settings.learning_rate
    return settings.base_learning_rate * settings.batch_size / 256


@dataclass(frozen=True)
class Task:
    """A model and how its learning rates go.

    Attributes:
        stage: whose settings and execution to take.
        model: takes a batch in mode "loss", of which its `loss` maps tensors to a tensor.
        backbone: a part of it.
        schedule: arguments of `LayerwiseSchedule` besides `steps`.
        layers, head_learning_rate: as `parameter_groups` takes them.
        collate: how samples become a batch.
        together: images that one pass can't take apart.
    """

    stage: Stage
    model: BaseModel
    backbone: Eva
    schedule: dict[str, Any]
    layers: Layers = "reference"
    head_learning_rate: float | None = None
    collate: Callable[[Any], Any] = as_batch
    together: int = 1

    def parameter_groups(self, model: nn.Module, backbone: nn.Module, weight_decay: float) -> list[Group]:
        """Groups for the optimizer, of the task's model or of a copy of it, wherever it lies."""
        return parameter_groups(model, backbone, weight_decay, self.layers, self.head_learning_rate)

    def optimizer(
        self, model: nn.Module, backbone: nn.Module, settings: Optimization | Segment, passes: int = 1
    ) -> ClippedOptimizer:
        """AdamW as the stage's settings have it, for the same; `passes` make up one step."""
        return build_optimizer(
            self.parameter_groups(model, backbone, settings.weight_decay),
            learning_rate=peak_learning_rate(settings),
            betas=settings.betas,
            clip_gradient=settings.clip_gradient,
            precision=settings.precision,
            passes=passes,
        )

"""What a stage trains, apart from its data and from how it is carried out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmengine.model import BaseModel
from timm.models.eva import Eva
from torch import nn

from nepa.data.datasets import as_batch
from nepa.parameters.schema import Stage
from nepa.training.optimizer import Group, parameter_groups


@dataclass(frozen=True)
class Task:
    """A model and how its learning rates go.

    Attributes:
        stage: whose settings and execution to take.
        model: takes a batch in mode "loss", of which its `loss` maps tensors to a tensor.
        backbone: a part of it.
        schedule: arguments of `LayerwiseSchedule` besides `steps`.
        layerwise: have groups of parameters for every layer.
        head_learning_rate: of head and final norm; None: as the rest.
        collate: how samples become a batch.
        together: images that one pass can't take apart.
    """

    stage: Stage
    model: BaseModel
    backbone: Eva
    schedule: dict[str, Any]
    layerwise: bool = True
    head_learning_rate: float | None = None
    collate: Callable[[Any], Any] = as_batch
    together: int = 1

    def parameter_groups(self, model: nn.Module, backbone: nn.Module, weight_decay: float) -> list[Group]:
        """Groups for the optimizer, of the task's model or of a copy of it, wherever it lies."""
        groups = parameter_groups(model, backbone, weight_decay, self.layerwise)
        if self.head_learning_rate is None:
            return groups
        return [group | {"lr": self.head_learning_rate} if group["distance"] == 0 else group for group in groups]

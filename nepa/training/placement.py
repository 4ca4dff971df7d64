"""Where a model is trained and how: its device, its copies or shares in several processes, its average."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from mmengine.dist import get_world_size
from mmengine.model import MMDistributedDataParallel
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from nepa.parameters.schema import TrainingExecution
from nepa.training.task import Task


@dataclass(frozen=True)
class Placement:
    """A model ready to be trained.

    Attributes:
        trained: the model on its device; its weights are those that the optimizer moves.
        wrapped: what the loop calls: the same, or DDP around it.
        backbone: a part of `trained`.
        averaged: the average of `trained`'s weights; None without one.
    """

    trained: nn.Module
    wrapped: nn.Module
    backbone: Eva
    averaged: nn.Module | None

    @property
    def kept(self) -> nn.Module:
        """The model that is evaluated and kept."""
        return self.trained if self.averaged is None else self.averaged


def device() -> torch.device:
    """Where this process trains."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def place(task: Task, execution: TrainingExecution, averaged: bool) -> Placement:
    """Put a task's model where it is trained, compiled and distributed as `execution` says.

    Every process holds the whole model (DDP), or, with `execution.shard`, its share of the weights, of their gradients
    and of the optimizer's state (FSDP2). Where weights are divided or blocks compiled, a copy is trained and the task's
    model itself stays as it is: to evaluate it then compiles nothing, which a few batches would not repay.

    Args:
        averaged: keep an average of the weights as well.
    """
    model, backbone = task.model, task.backbone
    name = next(name for name, module in model.named_modules() if module is backbone)
    alone = get_world_size() == 1
    sharded = execution.shard and not alone
    trained = model if alone or not (execution.shard or execution.compile) else deepcopy(model)
    synchronise_batch_norm(trained)
    trained.to(device())
    average = deepcopy(trained).requires_grad_(False) if averaged else None
    inner = trained.get_submodule(name)
    inner.set_grad_checkpointing(execution.recompute_activations)
    if execution.compile:
        from nepa.training.compilation import compile_training  # slow to import

        compile_training(trained, inner, alone)
    wrapped = trained
    if sharded:
        shard(trained, inner)
        if average is not None:
            shard(average, average.get_submodule(name))
    elif not alone:
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else None
        wrapped = MMDistributedDataParallel(trained, device_ids=devices, broadcast_buffers=False)
    return Placement(trained, wrapped, inner, average)


def keep_weights(placement: Placement, model: nn.Module) -> None:
    """Copy the weights that are kept into `model`, whole, in every process."""
    if placement.kept is model:
        return
    weights = placement.kept.state_dict()
    model.load_state_dict({name: w.full_tensor() if isinstance(w, DTensor) else w for name, w in weights.items()})
    model.to(device())


def shard(model: nn.Module, backbone: Eva) -> None:
    """Divide a model's weights among the processes, block by block, in place (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    for block in backbone.blocks:
        fully_shard(block)
    # By itself torch keeps these weights gathered for a backward pass; the average has none, and would keep old ones.
    fully_shard(model, reshard_after_forward=True)


def synchronise_batch_norm(model: nn.Module) -> None:
    """Take batch statistics over all processes, in place, as one process would over the whole batch."""
    if get_world_size() == 1:
        return
    if torch.cuda.is_available():
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm


class GlobalBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes on a CPU, where torch's SyncBatchNorm refuses to run."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        from torch.distributed.nn.functional import all_reduce  # slow to import

        values = features.float()  # of bfloat16, statistics would be too coarse
        count = values.numel() // values.shape[1] * get_world_size()
        mean = all_reduce(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(features.dtype)

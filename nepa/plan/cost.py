"""Steps, arithmetic, memory and disk of every stage of a recipe, from its numbers and from shapes alone.

Arithmetic is what torch's own counter finds for one forward and backward pass, on tensors that hold nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nepa.parameters import Parameters
from nepa.parameters.declared import declared
from nepa.parameters.loading import resolve_variant
from nepa.parameters.schema import IN_MEMORY, Finetune, Precision, Segment, Stage
from nepa.plan.tasks import build_task

# JPEG of quality 90 with chroma 420, bytes per pixel: mean over 250 ImageNet images prepared at 288.
JPEG_BYTES_PER_PIXEL = 0.320
# ImageNet's images as they are: 1,281,167 of them take 138 GB.
ORIGINAL_JPEG_BYTES = 108e3
# Sustained arithmetic per GPU that the paper's wall times amount to: 989 images/s on an H100 for ViT-B/14.
PAPER_TFLOPS = 137.0
BYTES_PER_PARAMETER = 20  # float32: weight, gradient, two moments and the average
BYTES_PER_ACTIVATION: dict[Precision, int] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of one image.

    Attributes:
        flops: floating-point operations.
        parameters: of the model that is trained.
        saved: elements that the backward pass keeps.
    """

    flops: int
    parameters: int
    saved: int


@dataclass(frozen=True)
class StageCost:
    """All runs of one stage.

    Attributes:
        steps, images: of one run.
        memory: bytes on one GPU: weights, gradients, optimizer, average, and what the backward pass keeps.
        checkpoint: bytes of one run's finished weights.
        further: of the further ablations, which run on request.
    """

    stage: str
    runs: int
    steps: int
    images: int
    one: Pass
    memory: float
    checkpoint: float
    further: bool = False

    @property
    def flops(self) -> float:
        """Of all runs."""
        return float(self.runs) * self.images * self.one.flops


def measure_pass(model: nn.Module, loss: Callable[[], Tensor], images: int = 1) -> Pass:
    """Count one pass.

    Args:
        model: best on the meta device, where nothing is computed.
        loss: of the model.
        images: that the loss is of.
    """
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    weights = {id(parameter.untyped_storage()) for parameter in model.parameters()}
    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        loss().backward()
    activations = sum(count for storage, count in saved.items() if storage not in weights)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Pass(counter.get_total_flops() // images, parameters, activations // images)


def one_pass(parameters: Parameters, stage: Stage) -> Pass:
    """One image of a stage's training."""
    segments = stage == "segment"
    with torch.device("cpu" if segments else "meta"):  # MMEngine's initialisation looks at the weights
        model = build_task(parameters, stage).model.to("meta").train()
    images = 2 if segments else 1  # batch norm needs two
    side = parameters.segment.crop if segments else parameters.data.image_size
    shape = {"pretrain": None, "finetune": (images,), "segment": (images, side, side)}[stage]
    with torch.device("meta"):
        truth = () if shape is None else (torch.empty(shape, dtype=torch.long),)
        pixels = torch.empty(images, parameters.data.channels, side, side)
        return measure_pass(model, lambda: model.loss(pixels, *truth), images)


def bytes_kept(parameters: Parameters, stage: Stage, one: Pass) -> float:
    """Activations of one image that wait for the backward pass, with fused attention.

    Args:
        one: as `one_pass` counts it, with the matrix of attention, which fused kernels do not keep.
    """
    model, side = parameters.model, parameters.segment.crop if stage == "segment" else parameters.data.image_size
    attention = model.depth * model.heads * ((-(-side // model.patch_size)) ** 2 + 1) ** 2
    return BYTES_PER_ACTIVATION[getattr(parameters, stage).precision] * (one.saved - attention)


def plan(parameters: Parameters, gpus: int) -> list[StageCost]:
    """Cost of every variant and seed; those of the main line that take equally many steps of equal cost share a row."""
    rows: dict[tuple[Any, ...], StageCost] = {}
    for training in declared(parameters):
        stage, variant = training.stage, training.variant
        cost = _cost(resolve_variant(parameters, training.group, variant), stage, len(training.seeds), gpus)
        alike = (stage, cost.steps, cost.images, cost.one.flops, variant if training.further else None)
        if first := rows.get(alike):
            rows[alike] = replace(first, runs=first.runs + cost.runs, memory=max(first.memory, cost.memory))
        else:
            name = f"{stage} {variant}" if any(key[0] == stage for key in rows) else stage
            rows[alike] = replace(cost, stage=name, further=training.further)
    return list(rows.values())


def image_bytes(parameters: Parameters) -> float:
    """Bytes of the prepared images."""
    data = parameters.data
    if isinstance(data, IN_MEMORY):
        images = data.training_images + data.validation_images + data.test_images
        return float(images * data.channels * data.image_size**2)
    # Most photographs are 4:3.
    each = ORIGINAL_JPEG_BYTES if data.stored_size is None else JPEG_BYTES_PER_PIXEL * data.stored_size**2 * 4 / 3
    return each * (data.training_images + data.validation_images)


def table(stages: list[StageCost], gpus: int, tflops: float) -> pd.DataFrame:
    """One row per stage, and one for all; before the further ablations one for all that run without being asked for.

    Args:
        tflops: sustained per GPU, in units of 1e12 per second.
    """

    def total(name: str, costs: list[StageCost]) -> dict[str, str]:
        flops = sum(cost.flops for cost in costs)
        return {
            "stage": name,
            "runs": f"{sum(cost.runs for cost in costs)}",
            "EFLOP": f"{flops / 1e18:,.3g}",
            "GPU-hours": f"{flops / (1e12 * tflops) / 3600:,.2f}",
            f"days on {gpus}": f"{flops / (1e12 * tflops) / 86400 / gpus:,.2f}",
            "GB of checkpoints": f"{sum(cost.runs * cost.checkpoint for cost in costs) / 1e9:,.2f}",
        }

    def line(cost: StageCost) -> dict[str, str]:
        return total(cost.stage, [cost]) | {
            "steps": f"{cost.steps:,}",
            "images, M": f"{cost.images / 1e6:,.2f}",
            "GFLOP/image": f"{cost.one.flops / 1e9:,.3g}",
            "GB per GPU": f"{cost.memory / 1e9:,.1f}",
        }

    default = [cost for cost in stages if not cost.further]
    further = [cost for cost in stages if cost.further]
    lines = [line(cost) for cost in default]
    if further:
        lines += [total("the default run", default), *(line(cost) for cost in further)]
    columns = ["stage", "runs", "steps", "images, M", "GFLOP/image", "EFLOP", "GPU-hours", f"days on {gpus}"]
    return pd.DataFrame([*lines, total("all", stages)])[[*columns, "GB per GPU", "GB of checkpoints"]].fillna("")


def _cost(parameters: Parameters, stage: Stage, runs: int, gpus: int) -> StageCost:
    settings = getattr(parameters, stage)
    one = one_pass(parameters, stage)
    if isinstance(settings, Segment):
        steps = settings.iterations
    else:
        images = settings.labels if isinstance(settings, Finetune) else parameters.data.training_images
        steps = settings.epochs * settings.steps_per_epoch(images)
    execution = getattr(parameters.execution, stage)
    at_once = -(-settings.batch_size // gpus)
    if execution.images_per_pass is not None:
        at_once = min(at_once, execution.images_per_pass)
    held = one.parameters * BYTES_PER_PARAMETER / (gpus if execution.shard else 1)
    memory = held + bytes_kept(parameters, stage, one) * at_once
    return StageCost(stage, runs, steps, steps * settings.batch_size, one, memory, 4.0 * one.parameters)

"""What the bench trains: a stage's own task, on samples that lie in memory."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.utils.data import Dataset

from nepa.data.datasets import ArrayDataset
from nepa.data.stream import Drawn, Stream
from nepa.parameters import Parameters
from nepa.parameters.schema import Optimization, Segment, Stage, TrainingExecution
from nepa.plan.cost import BYTES_PER_PARAMETER, bytes_kept, one_pass
from nepa.plan.tasks import build_task, scene_classes
from nepa.training.engine import Training, build_dataloader, prepare_process, run_training
from nepa.training.task import Task

SEED = 0
UNINTERRUPTED = 1e6  # minutes between checkpoints


@dataclass(frozen=True)
class Workload:
    """One stage's training, as both sides of a comparison do it.

    Attributes:
        parameters: as `on_this_machine` makes them.
        dataset: what it trains on.
    """

    parameters: Parameters
    stage: Stage
    dataset: Dataset

    @property
    def settings(self) -> Optimization | Segment:
        """The stage's."""
        return getattr(self.parameters, self.stage)

    @property
    def execution(self) -> TrainingExecution:
        """The stage's."""
        return getattr(self.parameters.execution, self.stage)

    def with_settings(self, **changes: Any) -> "Workload":
        """The same with other settings of the stage."""
        settings = self.settings.model_copy(update=changes)
        return replace(self, parameters=self.parameters.model_copy(update={self.stage: settings}))

    def task(self) -> Task:
        """The stage's task at full learning rate from the first step, with the same random weights at every call."""
        prepare_process(self.parameters, SEED)
        task = build_task(self.parameters, self.stage)
        return replace(task, schedule=task.schedule | {"warmup": 0})

    def batches(self, task: Task) -> Iterator[dict[str, Any]]:
        """The batches that `train` sees, in its order, without end."""
        stream = Stream(len(self.dataset), self.settings.batch_size, SEED)
        return iter(build_dataloader(Drawn(self.dataset, SEED), stream, self.execution.workers, task.collate))

    def train(
        self, task: Task, steps: int, record_every: int, measure: Callable[[nn.Module], dict[str, float]]
    ) -> Training:
        """Train as the stage does; `measure` is called after every `record_every` steps."""
        with tempfile.TemporaryDirectory() as scratch, _quiet():
            return run_training(
                self.parameters,
                task,
                self.dataset,
                title=f"bench {self.stage}",
                scratch=Path(scratch),
                identity="bench",
                steps=steps,
                seed=SEED,
                record_every=record_every,
                measure=measure,
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress lines, whose rates count the baseline's turns as well."""
    logger = logging.getLogger("nepa")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def on_this_machine(parameters: Parameters, stage: Stage, batch_size: int) -> Parameters:
    """The recipe with `batch_size` images a step on one device, and no more threads or workers than cores.

    Where there is no GPU, in float32, and not compiled, which is measured apart.
    """
    cores = len(os.sched_getaffinity(0))
    settings = {"batch_size": batch_size}
    recipe = getattr(parameters.execution, stage)
    carried_out = {"workers": min(cores, recipe.workers), "nodes": 1, "gpus": min(1, recipe.gpus)}
    if not torch.cuda.is_available():
        settings["precision"] = "float32"
        carried_out["compile"] = False
    execution = with_execution(parameters, stage, **carried_out).execution
    return parameters.model_copy(
        update={
            stage: getattr(parameters, stage).model_copy(update=settings),
            "execution": execution.model_copy(update={"checkpoint_minutes": UNINTERRUPTED, "watch": []}),
            "threads": min(cores, parameters.threads),
        }
    )


def with_execution(parameters: Parameters, stage: Stage, **changes: Any) -> Parameters:
    """The same, with the stage carried out otherwise."""
    carried_out = getattr(parameters.execution, stage).model_copy(update=changes)
    return parameters.model_copy(update={"execution": parameters.execution.model_copy(update={stage: carried_out})})


def noise(parameters: Parameters, stage: Stage, count: int) -> Dataset:
    """`count` samples of the stage's shapes and types, of random pixels and labels."""
    generator = torch.Generator().manual_seed(SEED)
    data = parameters.data
    if stage != "segment":
        augmentation = getattr(parameters, stage).augmentation
        alpha = augmentation is not None and augmentation.random_erasing > 0
        pixels = torch.randint(256, (count, *[data.image_size] * 2, data.channels + alpha), generator=generator)
        images = pixels.to(torch.uint8).permute(0, 3, 1, 2)  # as in what is decoded, channels are last in memory
        return ArrayDataset(images, torch.randint(data.classes, (count,), generator=generator))
    import nepa.segmentation  # noqa: F401 - lets MMSegmentation be imported

    # isort: split
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    def draw(channels: int, below: int) -> torch.Tensor:
        return torch.randint(below, (channels, *[parameters.segment.crop] * 2), generator=generator)

    return [
        {
            "inputs": draw(data.channels, 256).to(torch.uint8),
            "data_samples": SegDataSample(gt_sem_seg=PixelData(data=draw(1, scene_classes(parameters)))),
        }
        for _ in range(count)
    ]


def on_noise(parameters: Parameters, stage: Stage, count: int) -> Workload:
    """A stage's training on `count` samples of noise, which lie in memory."""
    # A GPU would wait while they are put into batches; beside a CPU a worker would take a core from the step.
    workers = int(torch.cuda.is_available())
    return Workload(with_execution(parameters, stage, workers=workers), stage, noise(parameters, stage, count))


def images_of_a_step(parameters: Parameters, stage: Stage, rate: float, seconds: float) -> int:
    """One device's share of the recipe's batch, or as much of it as fits: an even number.

    Args:
        rate: of matrix products, FLOP/s, of which a step is taken to reach half.
        seconds: that a step may take.
    """
    execution = getattr(parameters.execution, stage)
    share = getattr(parameters, stage).batch_size // execution.processes
    one = one_pass(parameters, stage)
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available
    # Both sides' weights, gradients, optimizers and averages; half of what is left is for what is not counted here.
    fitting = (free - 2 * BYTES_PER_PARAMETER * one.parameters) / 2 / bytes_kept(parameters, stage, one)
    quick = seconds * rate / 2 / one.flops
    return max(2, 2 * (int(min(share, fitting, quick)) // 2))

"""The one training loop: MMEngine's Runner, for pretraining, fine-tuning and segmentation alike."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner, set_random_seed
from torch import nn
from torch.utils.data import DataLoader, Dataset

from nepa.data.datasets import as_batch
from nepa.data.stream import Drawn, Share, Stream
from nepa.data.workers import read_on
from nepa.parameters import Parameters
from nepa.parameters.schema import Optimization, Segment, TrainingExecution
from nepa.runs.outcome import Outcome
from nepa.training.curves import Curves
from nepa.training.hooks import Averaging, History, Progress
from nepa.training.interruption import STOP_FILE, StopRequest, signals_to
from nepa.training.loop import StreamLoop, in_passes
from nepa.training.optimizer import ClippedOptimizer, Diverged, LayerwiseSchedule
from nepa.training.placement import Placement, keep_weights, place
from nepa.training.processes import join_processes, passes_per_step
from nepa.training.run_state import Checkpoints
from nepa.training.status import Status
from nepa.training.task import Task

log = logging.getLogger("nepa")


@dataclass(frozen=True)
class Training:
    """How a training went; the task's model then holds the averaged weights.

    Attributes:
        status: `ok` or `diverged`.
        history: one row per recorded interval: what it holds, by name.
        loss: mean over the last 50 steps; None where the first one was not finite.
        seconds: wall time of the loop, that of earlier processes of the same run included.
        earlier: that of earlier processes alone.
        waiting: share of this process's time that was spent waiting for data.
        folder: of its checkpoints, to be deleted when its results are written; None where there are none.
    """

    status: Outcome
    history: list[dict[str, float]]
    loss: float | None
    steps: int
    images: int
    seconds: float
    earlier: float
    waiting: float
    folder: Path | None


# Of a run whose pretraining diverged: there is nothing to start from.
NO_TRAINING = Training("diverged", [], loss=None, steps=0, images=0, seconds=0.0, earlier=0.0, waiting=0.0, folder=None)


def prepare_process(parameters: Parameters, seed: int) -> None:
    """Threads, the other processes of this training, every random generator; call before a model is built."""
    torch.set_num_threads(parameters.threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 in convolutions is float32, as it is in products
    join_processes()
    set_random_seed(seed)


def run_training(
    parameters: Parameters,
    task: Task,
    dataset: Dataset,
    *,
    title: str,
    scratch: Path,
    identity: str,
    steps: int,
    seed: int,
    record_every: int,
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
    measure_averaged: bool = False,
) -> Training:
    """Train for `steps` steps; leaves the exponential moving average of the weights in the task's model.

    The weights are taken as they come: initialise the model and load what it starts from before the call. Where an
    earlier process of the same run was stopped or killed, it goes on from its last checkpoint, and ends as if nothing
    had happened. A loss or a gradient that is not finite ends the training with status `diverged` and a message that
    says where; the model then holds the average of the finite steps before, and a GPU, which is asked every 50 steps,
    may have gone on averaging over weights that stood still.

    Args:
        title: for people.
        scratch: folder for what must survive a kill; not a result.
        identity: checksum of all that the run depends on; a run of another identity is not gone on with.
        record_every: steps between rows of the history.
        measure: what to add to a row, from the model as it is then (its average with `measure_averaged`); called by
            every process alike, and may only call the model itself.

    Raises:
        Stopped: by request, after a checkpoint.
    """
    settings: Optimization | Segment = getattr(parameters, task.stage)
    execution: TrainingExecution = getattr(parameters.execution, task.stage)
    status = Status(scratch, title)
    passes = passes_per_step(settings.batch_size, execution.images_per_pass, task.together)
    placement = place(task, execution, settings.ema_decay is not None)
    optimizer = task.optimizer(placement.trained, placement.backbone, settings, passes)
    stop = StopRequest(scratch / STOP_FILE)
    history = History(record_every, measure, placement.kept if measure_averaged else placement.trained)
    checkpoints = Checkpoints(
        scratch / identity[:16],
        placement=placement,
        optimizer=optimizer,
        schedule=LayerwiseSchedule(optimizer, steps=steps, **task.schedule),
        history=history,
        seconds=60 * parameters.execution.checkpoint_minutes,
        stop=stop,
        status=status,
    )
    start = checkpoints.restore()
    if start:
        log.info(f"{title}: goes on after step {start} of {steps}")
    elif any(scratch.glob("[0-9a-f]" * 16 + "/step-*.pt")):
        log.info(f"{title}: begins anew; what {scratch} has is of other parameters, data or code")
    shares = tuple(Share(get_rank() * passes + number, get_world_size() * passes) for number in range(passes))
    stream = Stream(len(dataset), settings.batch_size, seed, shares, start)
    collate = partial(in_passes, passes=passes, collate=task.collate)
    runner = _runner(
        placement.wrapped,
        optimizer,
        checkpoints.schedule,
        build_dataloader(Drawn(dataset, seed), stream, execution.workers, collate),
        {"start": start, "max_iters": steps, "seed": seed, "passes": passes},
        [
            *_averaging(placement, settings.ema_decay),
            history,
            *_curves(parameters, history, scratch),
            Progress(status, settings.batch_size),
            checkpoints,
        ],
        checkpoints.folder,
        seed,
    )
    outcome: Outcome = "ok"
    try:
        if start < steps:
            with signals_to(stop.hear):
                runner.train()
        history.settle()
    except Diverged as diverged:
        outcome = "diverged"
        history.settle()
        log.error(f"{title}: stopped at step {history.steps + 1} of {steps}: {diverged}")
    keep_weights(placement, task.model)
    return Training(
        status=outcome,
        history=history.rows,
        loss=history.loss,
        steps=history.steps,
        images=history.steps * settings.batch_size,
        seconds=checkpoints.elapsed,
        earlier=checkpoints.before,
        waiting=runner.train_loop.waiting if start < steps else 0.0,
        folder=checkpoints.folder,
    )


def build_dataloader(
    dataset: Dataset, stream: Stream, workers: int = 0, collate: Callable[[Any], Any] = as_batch
) -> DataLoader:
    """The endless loader of a stream's batches.

    Args:
        dataset: read by draws.
        workers: processes that read and augment; 0 for none.
        collate: how samples become a batch.
    """
    return DataLoader(
        dataset,
        batch_sampler=stream,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=read_on,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _averaging(placement: Placement, decay: float | None) -> list[Hook]:
    return [] if decay is None else [Averaging(placement.averaged, placement.trained, decay)]


def _curves(parameters: Parameters, history: History, scratch: Path) -> list[Hook]:
    watch = parameters.execution.watch
    return [Curves(history, scratch / "curves", watch)] if watch and is_main_process() else []


class _Runner(Runner):
    def wrap_model(self, model_wrapper_cfg: None, model: nn.Module) -> nn.Module:
        """As it was placed; MMEngine's own would undo SyncBatchNorm where it finds no wrapper, as with FSDP2."""
        return model

    def _init_model_weights(self) -> None:
        """The weights are taken as they come; MMEngine's own would draw timm's anew over the loaded ones."""

    def build_logger(self, *_: Any, **__: Any) -> MMLogger:
        """One for errors alone; MMEngine's own would leave an open file behind with each training."""
        return MMLogger.get_instance(self._experiment_name, log_level="ERROR")

    def build_visualizer(self, visualizer: None = None) -> None:
        """None: curves are written by `Curves`, and importing matplotlib takes as long as a tenth of a short run."""

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """Provenance is written with the results."""


def _runner(
    model: nn.Module,
    optimizer: ClippedOptimizer,
    schedule: LayerwiseSchedule,
    dataloader: DataLoader,
    loop: dict[str, Any],
    hooks: list[Hook],
    folder: Path,
    seed: int,
) -> Runner:
    unused = ("logger", "checkpoint", "timer", "sampler_seed", "runtime_info")
    return _Runner(
        model=model,
        work_dir=str(folder),
        experiment_name=f"{folder.name}-{time.time_ns()}",
        train_dataloader=dataloader,
        train_cfg={"type": StreamLoop} | loop,
        optim_wrapper=optimizer,
        param_scheduler=[schedule],
        default_hooks=dict.fromkeys(unused),
        custom_hooks=hooks,
        default_scope="mmengine",
        randomness={"seed": seed},
    )

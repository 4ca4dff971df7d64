"""The one training loop: MMEngine's Runner, for pretraining, fine-tuning and segmentation alike."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.optim import _ParamScheduler
from mmengine.runner import Runner, set_random_seed
from torch import nn
from torch.utils.data import DataLoader, Dataset

from nepa.data.datasets import as_batch
from nepa.data.stream import Drawn, Stream
from nepa.parameters import Parameters
from nepa.training.hooks import History, Progress, averaged_model
from nepa.training.optimizer import ClippedOptimizer, Diverged

log = logging.getLogger("nepa")


@dataclass(frozen=True)
class Training:
    """How a training went; the model given to `run_training` then holds the averaged weights.

    Attributes:
        status: `ok` or `diverged`.
        history: one row per recorded interval.
        loss: mean over the last 50 steps.
        seconds: wall time of the loop.
    """

    status: str
    history: pd.DataFrame
    loss: float
    steps: int
    images: int
    seconds: float


def prepare_process(parameters: Parameters, seed: int) -> None:
    """Threads and every random generator (Python, NumPy, torch); call before a model is built."""
    torch.set_num_threads(parameters.threads)
    set_random_seed(seed)


def build_dataloader(
    dataset: Dataset, batch_size: int, seed: int, workers: int = 0, collate: Callable[[Any], Any] = as_batch
) -> DataLoader:
    """An endless loader whose order depends on the seed alone, so that variants of a seed see the same batches.

    Args:
        workers: processes that read and augment; 0 for none.
        collate: how samples become a batch.
    """
    return DataLoader(
        Drawn(dataset, seed),
        batch_sampler=Stream(len(dataset), batch_size, seed),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=workers > 0 and torch.cuda.is_available(),
    )


def run_training(
    model: BaseModel,
    dataloader: DataLoader,
    optimizer: ClippedOptimizer,
    schedule: _ParamScheduler,
    *,
    title: str,
    steps: int,
    ema_decay: float | None,
    seed: int,
    folder: Path,
    record_every: int,
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
    measure_averaged: bool = False,
) -> Training:
    """Train for `steps` steps; leaves the exponential moving average of the weights in `model`.

    The weights are taken as they come: initialise the model and load what it starts from before the call. A loss or a
    gradient that is not finite ends the training with status `diverged` and a message that says where; the model then
    holds the average of the finite steps before.

    Args:
        ema_decay: of the average that is evaluated and kept; None for the weights as they are.
        model: takes a batch of `dataloader` in mode "loss".
        folder: for what MMEngine writes while it runs; not a result.
        record_every: steps between rows of the history.
        measure: what to add to a row, from the model as it is then (its average with `measure_averaged`).
    """
    # Runner.train() would call init_weights, which draws timm's weights anew over the loaded ones.
    for module in model.modules():
        if hasattr(module, "_is_init"):
            module._is_init = True
    history = History(record_every, measure, measure_averaged)
    runner = Runner(
        model=model,
        work_dir=str(folder),
        experiment_name=f"{folder.name}-{time.time_ns()}",
        train_dataloader=dataloader,
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": steps, "val_interval": steps + 1},
        optim_wrapper=optimizer,
        param_scheduler=[schedule],
        default_hooks={"logger": None, "checkpoint": None, "timer": None, "sampler_seed": None},
        custom_hooks=[
            *([] if ema_decay is None else [EMAHook(momentum=1 - ema_decay)]),
            history,
            Progress(title, dataloader.batch_sampler.batch_size),
        ],
        default_scope="mmengine",
        log_level="ERROR",
        randomness={"seed": seed},
    )
    started = time.monotonic()
    status = "ok"
    try:
        runner.train()
    except Diverged as diverged:
        status = "diverged"
        log.error(f"{title}: stopped at step {len(history.losses) + 1} of {steps}: {diverged}")
    seconds = time.monotonic() - started
    model.load_state_dict(averaged_model(runner).state_dict())
    last = history.losses[-50:]
    return Training(
        status=status,
        history=pd.DataFrame(history.rows),
        loss=sum(last) / len(last) if last else float("nan"),
        steps=len(history.losses),
        images=len(history.losses) * dataloader.batch_sampler.batch_size,
        seconds=seconds,
    )

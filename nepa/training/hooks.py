"""Hooks for MMEngine's Runner: progress, history, and what a stage measures along the way."""

import logging
import time
from collections.abc import Callable
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import nn

log = logging.getLogger("nepa")


class History(Hook):
    """Means of loss, learning rate and gradient norm over every `every` steps, and what `measure` adds to a row.

    Args:
        every: steps between rows.
        measure: called with the model that is to be looked at; its values join the row.
        averaged: look at the averaged weights instead of the present ones.
    """

    def __init__(
        self, every: int, measure: Callable[[nn.Module], dict[str, float]] | None = None, averaged: bool = False
    ) -> None:
        self.every = every
        self.measure = measure
        self.averaged = averaged
        self.losses: list[float] = []
        self.gradients: list[float] = []
        self.rows: list[dict[str, float]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        self.losses.append(outputs["loss"].item())
        self.gradients.append(runner.optim_wrapper.gradient_norm)
        if (batch_idx + 1) % self.every and batch_idx + 1 != runner.max_iters:
            return
        since = self.every if (batch_idx + 1) % self.every == 0 else (batch_idx + 1) % self.every
        row = {
            "step": batch_idx + 1,
            "loss": sum(self.losses[-since:]) / since,
            "learning_rate": max(group["lr"] for group in runner.optim_wrapper.param_groups),
            "gradient_norm": sum(self.gradients[-since:]) / since,
        }
        if self.measure is not None:
            model = averaged_model(runner) if self.averaged else runner.model
            row |= self.measure(model)
        self.rows.append(row)


class Progress(Hook):
    """A line every `seconds`: step, loss, learning rate, images/s and time left."""

    priority = "LOW"

    def __init__(self, title: str, batch_size: int, seconds: float = 5.0) -> None:
        self.title = title
        self.batch_size = batch_size
        self.seconds = seconds

    def before_train(self, runner: Runner) -> None:
        self.started = self.shown = time.monotonic()
        self.first = runner.iter

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        now, step = time.monotonic(), batch_idx + 1
        if now - self.shown < self.seconds and step != runner.max_iters:
            return
        self.shown = now
        rate = (step - self.first) / (now - self.started)
        minutes, seconds = divmod(round((runner.max_iters - step) / rate), 60)
        learning_rate = max(group["lr"] for group in runner.optim_wrapper.param_groups)
        log.info(
            f"{self.title}  step {step}/{runner.max_iters}  loss {outputs['loss'].item():.4f}  "
            f"lr {learning_rate:.2e}  {rate * self.batch_size:.0f} images/s  {minutes}:{seconds:02d} left"
        )


def averaged_model(runner: Runner) -> nn.Module:
    """The exponential moving average that the runner's EMAHook keeps; without one the model itself."""
    averages = (hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook))
    return next(averages, runner.model)

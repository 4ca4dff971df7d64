"""Hooks for MMEngine's Runner: average of the weights, history, progress, and what a stage measures along the way."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nepa.training.optimizer import Diverged
from nepa.training.status import Status

log = logging.getLogger("nepa")
LAST = 50  # steps over which the final loss is a mean


class Averaging(Hook):
    """Updates an exponential moving average of the weights after each step; the first step sets it.

    Args:
        averaged: a copy of `trained`.
        decay: share of the average that stays.
    """

    def __init__(self, averaged: nn.Module, trained: nn.Module, decay: float) -> None:
        # torch's AveragedModel does the same, but looks all of these up again at every step.
        self.averaged, self.trained = list(averaged.parameters()), list(trained.parameters())
        saved, buffers = averaged.state_dict().keys(), dict(trained.named_buffers())  # what is not saved is constant
        self.buffers = [(buffer, buffers[name]) for name, buffer in averaged.named_buffers() if name in saved]
        self.update = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        copied = self.buffers  # statistics of batch norm are an average already
        if batch_idx == 0:
            copied = [*zip(self.averaged, self.trained, strict=True), *copied]
        else:
            self.update(self.averaged, self.trained, batch_idx)
        for averaged, trained in copied:
            averaged.copy_(trained)


class History(Hook):
    """Means of loss, learning rate and gradient norm over every `every` steps, and what `measure` adds to a row.

    Losses and norms stay on the device until a row is due, so that a GPU is not waited for at every step.

    Args:
        every: steps between rows.
        measure: called with the model that is to be looked at; its values join the row.
        measured: the model that is looked at.
    """

    COLUMNS = ("step", "loss", "learning_rate", "gradient_norm")  # of a row, without what `measure` adds

    def __init__(
        self, every: int, measure: Callable[[nn.Module], dict[str, float]] | None, measured: nn.Module
    ) -> None:
        self.every = every
        self.measure = measure
        self.measured = measured
        self.rows: list[dict[str, float]] = []
        self.steps = 0
        self.sums = [0.0, 0.0]
        self.last: deque[float] = deque(maxlen=LAST)
        self.pending: list[tuple[Tensor, Tensor]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        self.pending.append((outputs["loss"], runner.optim_wrapper.gradient_norm))
        step = batch_idx + 1
        due = step % self.every == 0 or step == runner.max_iters
        if due or len(self.pending) == LAST:
            self.settle()
        if not due:
            return
        since = step % self.every or self.every
        row = {
            "step": step,
            "loss": self.sums[0] / since,
            "learning_rate": max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups),
            "gradient_norm": self.sums[1] / since,
        }
        self.sums = [0.0, 0.0]
        if self.measure is not None:
            row |= self.measure(self.measured)
        self.rows.append(row)

    def settle(self) -> None:
        """Take what is pending off the device.

        Raises:
            Diverged: one of it is not finite; the steps before it count.
        """
        if not self.pending:
            return
        values = torch.stack([torch.stack(pair) for pair in self.pending]).cpu().double()
        all_reduce(values, "mean")
        self.pending = []
        finite = values.isfinite().all(1).tolist()
        values = values if all(finite) else values[: finite.index(False)]
        self.steps += len(values)
        self.last.extend(values[:, 0].tolist())
        self.sums = [before + added for before, added in zip(self.sums, values.sum(0).tolist(), strict=True)]
        if not all(finite):
            raise Diverged("loss or gradient norm is not finite")

    @property
    def loss(self) -> float | None:
        """Mean over the last steps; None before the first."""
        return sum(self.last) / len(self.last) if self.last else None

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, once it is settled."""
        return {"rows": self.rows, "steps": self.steps, "sums": self.sums, "last": list(self.last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember it again."""
        self.rows, self.steps, self.sums = state["rows"], state["steps"], state["sums"]
        self.last.extend(state["last"])


class Progress(Hook):
    """A line every `seconds`: step, loss, learning rate, images/s and time left; the same goes to the status file."""

    priority = "BELOW_NORMAL"  # before the schedule sets the next step's rate

    def __init__(self, status: Status, batch_size: int, seconds: float = 5.0) -> None:
        self.status = status
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
        left = (runner.max_iters - step) / rate
        minutes, seconds = divmod(round(left), 60)
        learning_rate = max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups)
        loss = outputs["loss"].item()
        log.info(
            f"{self.status.title}  step {step}/{runner.max_iters}  loss {loss:.4f}  "
            f"lr {learning_rate:.2e}  {rate * self.batch_size:.0f} images/s  {minutes}:{seconds:02d} left"
        )
        self.status.update(
            step=step, steps=runner.max_iters, loss=loss, images_per_second=rate * self.batch_size, seconds_left=left
        )

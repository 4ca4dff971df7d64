"""What a training needs to go on exactly where it was, on disk while it runs.

Neither engine owns these files: both delete a stage's outputs before they run it again. They lie in a folder named by
a checksum of all that the run depends on, so that other parameters, data or code never go on from them. The order of
the images and every random draw follow from the seed and the step (nepa.data.stream), so the step is all there is to
remember of them.
"""

import logging
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from nepa.errors import UserError
from nepa.files import write_atomically
from nepa.training.hooks import History
from nepa.training.interruption import Stopped, StopRequest
from nepa.training.optimizer import ClippedOptimizer, LayerwiseSchedule
from nepa.training.placement import Placement
from nepa.training.processes import agree, full_state, load_state
from nepa.training.status import Status

KEPT = 2  # the one before is there for when the last is damaged
SAVE, STOP = 1, 2
log = logging.getLogger("nepa")


def read_latest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint below `folder` that is whole; None without one. What is damaged is named and left out."""
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, OSError) as error:
            damaged = str(error)
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # once for all of a node
        log.warning(f"{path} is damaged ({damaged}); going on from the checkpoint before it")
    return None


class Checkpoints(Hook):
    """Writes a checkpoint every so often and when asked to stop, then ends the training with `Stopped`.

    Args:
        folder: of this run alone.
        placement, optimizer, schedule, history: what is saved and restored.
        seconds: between checkpoints.
        stop: asked after each step.
        status: is told of each checkpoint.
    """

    priority = "VERY_LOW"  # the last one: what it saves is what the next step starts from

    def __init__(
        self,
        folder: Path,
        *,
        placement: Placement,
        optimizer: ClippedOptimizer,
        schedule: LayerwiseSchedule,
        history: History,
        seconds: float,
        stop: StopRequest,
        status: Status,
    ) -> None:
        self.folder = folder
        self.placement = placement
        self.optimizer = optimizer
        self.schedule = schedule
        self.history = history
        self.seconds = seconds
        self.stop = stop
        self.status = status
        self.before = 0.0  # seconds of training in earlier processes
        self.started = self.written = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of training, those of earlier processes included."""
        return self.before + time.monotonic() - self.started

    def restore(self) -> int:
        """Load the newest whole checkpoint, if there is one; returns its step, else 0.

        Raises:
            UserError: another process of this training has found another one, as where a disk shows files late.
        """
        state = read_latest(self.folder)
        step = 0 if state is None else state["step"]
        newest, oldest = agree(step), -agree(-step)
        if newest != oldest:
            raise UserError(
                f"{self.folder}: one process finds the checkpoint of step {newest}, another that of {oldest}; look "
                "whether all of them see the same files, and run the stage again"
            )
        self.started = self.written = time.monotonic()
        if state is None:
            return 0
        load_state(state["model"], state["optimizer"], self.placement.trained, self.optimizer.optimizer)
        if self.placement.averaged is not None:
            load_state(state["averaged"], None, self.placement.averaged, None)
        self.history.load_state_dict(state["history"])
        self.before = state["seconds"]
        self.schedule.go_to(step)
        return step

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        step, now = batch_idx + 1, time.monotonic()
        # What follows the last step may take long too.
        since = self.started if step == runner.max_iters else self.written
        due = is_main_process() and now - since >= self.seconds
        wanted = agree(STOP if self.stop.requested else SAVE if due else 0)
        if wanted:
            self.write(step)
            self.written = time.monotonic()
        if wanted == STOP:
            agree(0)  # all wait for who writes: torchrun ends the others 30 s after the first has gone
            self.status.update(state="stopped", step=step, steps=runner.max_iters)
            raise Stopped(
                f"{self.status.title}: stopped at step {step} of {runner.max_iters} as asked; "
                "the same command goes on from there"
            )

    def write(self, step: int) -> None:
        """Write the state after `step` steps, and keep the one before it."""
        self.history.settle()
        model, optimizer = full_state(self.placement.trained, self.optimizer.optimizer)
        average = None if self.placement.averaged is None else full_state(self.placement.averaged, None)[0]
        if not is_main_process():
            return
        state = {
            "step": step,
            "model": model,
            "optimizer": optimizer,
            "averaged": average,
            "history": self.history.state_dict(),
            "seconds": self.elapsed,
        }
        written = self.folder / f"step-{step:09d}.pt"
        with write_atomically(written) as beside, beside.open("wb") as file:
            torch.save(state, file)
        found = sorted(self.folder.glob("step-*.pt"))
        now = found.index(written)
        for path in (*found[: max(0, now + 1 - KEPT)], *found[now + 1 :]):  # a later one was damaged
            path.unlink()
        self.status.update(checkpoint_step=step, checkpoint_time=time.time())

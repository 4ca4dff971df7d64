"""MMEngine's training loop, on a stream that goes on at any step."""

from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from nepa.data.stream import set_random_state


class StreamLoop(IterBasedTrainLoop):
    """Steps of one optimizer update each, drawn from a loader that starts where the run goes on.

    MMEngine's own loop reads again what was trained on before a resume, and counts passes instead of updates.

    Args:
        start: steps that were done before.
        seed: of what the model itself draws in training; with the step it determines every such draw.
        passes: forward and backward passes into which each step's images are divided.
    """

    def __init__(
        self, runner: Runner, dataloader: DataLoader, max_iters: int, *, start: int, seed: int, passes: int
    ) -> None:
        super().__init__(runner, dataloader, max_iters)
        self._iter = start
        self.seed = seed
        self.passes = passes

    def run(self) -> None:
        """Train; hooks are called once a step."""
        self.runner.optim_wrapper.initialize_count_status(
            self.runner.model, self._iter * self.passes, self._max_iters * self.passes
        )
        self.runner.call_hook("before_train")
        self.runner.model.train()
        batches = iter(self.dataloader)
        while self._iter < self._max_iters:
            self.run_iter(next(batches))
        self.runner.call_hook("after_train")

    def run_iter(self, batch: dict[str, Any]) -> None:
        """One step on a batch of tensors or lists, all equally long."""
        losses = []
        each = len(next(iter(batch.values()))) // self.passes
        for number in range(self.passes):
            part = {key: values[number * each : (number + 1) * each] for key, values in batch.items()}
            set_random_state(self.seed, 1, self._iter, share=get_rank() * self.passes + number)
            losses.append(self.runner.model.train_step(part, optim_wrapper=self.runner.optim_wrapper)["loss"].detach())
        loss = losses[0] if self.passes == 1 else torch.stack(losses).mean()
        self.runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs={"loss": loss})
        self._iter += 1

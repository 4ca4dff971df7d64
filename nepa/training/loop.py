"""MMEngine's training loop, on a stream that goes on at any step."""

import time
from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from nepa.data.stream import set_random_state


def in_passes(samples: Any, passes: int, collate: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """The collate function of a step's images: a batch for each forward and backward pass.

    Args:
        samples: a list of them, or a dictionary of tensors (B, ...) that a dataset hands out as a whole.
        collate: makes a batch of the samples of one pass.
    """
    whole = isinstance(samples, dict)
    each = (len(next(iter(samples.values()))) if whole else len(samples)) // passes
    parts = [slice(number * each, (number + 1) * each) for number in range(passes)]
    return [collate({key: values[p] for key, values in samples.items()} if whole else samples[p]) for p in parts]


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
        self._waited = 0.0
        self._since: float | None = None  # the end of the first step, whose batch waits for workers to start

    def run(self) -> None:
        """Train; hooks are called once a step."""
        try:
            self._take_steps()
        finally:
            # Runner and loop refer to each other. What the garbage collector has to find is taken apart in no order: a
            # loader whose queues are closed first would wait ten seconds for each of its workers.
            self._runner = None

    def _take_steps(self) -> None:
        self.runner.optim_wrapper.initialize_count_status(
            self.runner.model, self._iter * self.passes, self._max_iters * self.passes
        )
        self.runner.call_hook("before_train")
        self.runner.model.train()
        batches = self.dataloader_iterator  # MMEngine's, whose workers read already
        self.run_iter(next(batches))
        self._since = time.perf_counter()
        while self._iter < self._max_iters:
            asked = time.perf_counter()
            batch = next(batches)
            self._waited += time.perf_counter() - asked
            self.run_iter(batch)
        self.runner.call_hook("after_train")

    @property
    def waiting(self) -> float:
        """Share of the time since the first step that was spent waiting for data; an upper bound where a GPU, which
        runs behind, was busy meanwhile."""
        return 0.0 if self._since is None else self._waited / (time.perf_counter() - self._since)

    def run_iter(self, batch: list[dict[str, Any]]) -> None:
        """One step on a batch that lies here as `in_passes` made it."""
        losses = []
        for number, part in enumerate(batch):
            set_random_state(self.seed, 1, self._iter, share=get_rank() * self.passes + number)
            losses.append(self.runner.model.train_step(part, optim_wrapper=self.runner.optim_wrapper)["loss"].detach())
        loss = losses[0] if self.passes == 1 else torch.stack(losses).mean()
        self.runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs={"loss": loss})
        self._iter += 1

"""The order in which training draws its images: a function of the seed and the step alone.

Nothing of it is state: a run goes on at any step, with any number of workers, processes or passes per step, and sees
the images that an uninterrupted one would have seen, augmented alike, down to the boxes of random erasing.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler


class Draw(NamedTuple):
    """One image of a batch.

    Attributes:
        index: of the image in its dataset.
        number: how many were drawn before it since training began; what augments this image is drawn from it.
    """

    index: int
    number: int


@dataclass(frozen=True)
class Share:
    """One of several equal parts of every batch: what one process sees, or one forward pass of it.

    A part is symmetric about the middle of the batch, so that Mixup, which pairs the first image with the last and so
    on, pairs the same images however the batch is shared.
    """

    number: int = 0
    of: int = 1

    def positions(self, batch_size: int) -> np.ndarray:
        """Positions (batch_size / of,) of the part in the batch."""
        each = batch_size // self.of
        first = np.arange(self.number * (each // 2), (self.number + 1) * (each // 2))
        middle = [self.of * (each // 2) + self.number] if each % 2 else []
        return np.concatenate([first, middle, batch_size - 1 - first[::-1]]).astype(np.int64)


class Stream(Sampler[list[Draw]]):
    """Endless batches; each epoch is a permutation of its own, and a batch may reach from one into the next.

    Args:
        length: images of the dataset.
        batch_size: of all processes together.
        seed: of the order.
        shares: parts of each batch that are wanted here, in this order.
        start: step of the first batch.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, shares: tuple[Share, ...] = (Share(),), start: int = 0
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.positions = np.concatenate([share.positions(batch_size) for share in shares])
        self.start = start

    def __iter__(self) -> Iterator[list[Draw]]:
        step, orders = self.start, {}
        while True:
            numbers = step * self.batch_size + self.positions
            epochs = range(step * self.batch_size // self.length, ((step + 1) * self.batch_size - 1) // self.length + 1)
            orders = {epoch: orders[epoch] if epoch in orders else self._order(epoch) for epoch in epochs}
            yield [Draw(int(orders[n // self.length][n % self.length]), n) for n in numbers.tolist()]
            step += 1

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.length)


class Drawn(Dataset):
    """A dataset that is read by draws, for a loader whose batches are a `Stream`'s.

    What is random in a sample comes from the seed and the draw's number, whichever process reads it. A dataset that
    hands out whole batches (`__getitems__`) has nothing random.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, draws: list[Draw]) -> Any:
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__([draw.index for draw in draws])
        if hasattr(self.dataset, "prefetch"):
            self.dataset.prefetch([draw.index for draw in draws])
        return [self[draw] for draw in draws]

    def __getitem__(self, draw: Draw) -> Any:
        set_random_state(self.seed, 0, draw.number)
        return self.dataset[draw.index]


def set_random_state(*key: int, share: int = 0) -> None:
    """Set every random generator to a state that depends on the arguments alone, in some 15 us.

    `torch.manual_seed` alone takes twelve times as long.

    Args:
        key: of all generators.
        share: of torch's alone: parts of one batch differ in what is drawn for each image, such as drop path, and
            agree in what Mixup draws from NumPy for the batch as a whole.
    """
    random.seed(" ".join(map(str, key)))  # which Python hashes with SHA-512
    numpy, cpu, cuda = (random.getrandbits(32) for _ in range(3))
    np.random.seed(numpy)
    torch.default_generator.manual_seed(cpu + share)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(cuda + share)

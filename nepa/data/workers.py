"""The processes that read for a loader, while their training is asked to stop."""

import signal
from typing import Any

from torch.utils.data import DataLoader

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # that ask a training to stop


def read_on(worker: int) -> None:
    """Worker_init_fn of a training's loaders: leave it to the training what becomes of a request to stop.

    SLURM and torchrun signal every process of a training; one that lost a worker could not write its checkpoint.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def dismiss(iterator: Any) -> None:
    """End an iterator's workers, if it has any: Python does so by SIGTERM, which they do not hear, and would wait."""
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def dismiss_persistent(loader: DataLoader) -> None:
    """The same of a loader whose workers outlive an epoch."""
    dismiss(loader._iterator)

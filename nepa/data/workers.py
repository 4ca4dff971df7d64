"""The processes that read for a loader, while their training is asked to stop."""

import atexit
import signal
from typing import Any
from weakref import WeakSet

from torch.utils.data import DataLoader

_loaders: WeakSet[DataLoader] = WeakSet()
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # that ask a training to stop


def read_on(worker: int) -> None:
    """Worker_init_fn of a training's loaders: leave it to the training what becomes of a request to stop.

    SLURM and torchrun signal every process of a training; one that lost a worker could not write its checkpoint.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def dismissed_at_exit(loader: DataLoader) -> DataLoader:
    """The same loader; its persistent workers end before Python waits for them, whatever ends the process."""
    _loaders.add(loader)
    return loader


@atexit.register
def _dismiss_all() -> None:
    for loader in list(_loaders):
        dismiss(loader._iterator)


def dismiss(iterator: Any) -> None:
    """End an iterator's workers, if it has any: Python does so by SIGTERM, which they do not hear, and would wait."""
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()

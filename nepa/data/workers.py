"""The processes that read for a loader, while their training is asked to stop."""

import atexit
import signal
from multiprocessing import active_children

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # that ask a training to stop


def read_on(worker: int) -> None:
    """Worker_init_fn of a training's loaders: leave it to the training what becomes of a request to stop.

    SLURM and torchrun signal every process of a training; one that lost a worker could not write its checkpoint.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def _end_all() -> None:
    """Python would ask them by SIGTERM, which they do not hear, and wait; some loaders' iterators nobody can reach."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes a worker's end for a failure
    for process in active_children():
        if process.daemon:
            process.kill()

"""Being asked to stop, by SIGTERM, SIGUSR1 or Ctrl-C, or by SLURM before the time is up; one process per run."""

import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from nepa.data.workers import SIGNALS

EXIT_CODE = os.EX_TEMPFAIL  # 75: stopped on request, goes on at the next call
STOP_FILE = "stop"
log = logging.getLogger("nepa")


class Stopped(Exception):
    """Training ended on request, after a checkpoint; the same command goes on from there."""


@contextmanager
def signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within it a signal that asks to stop calls `handler`; after it, what it called before."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


class StopRequest:
    """Whether this process, or the one that started it and its siblings, has been asked to stop.

    Args:
        file: made by the process that started several, when it is asked itself.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._heard = False

    def hear(self, number: int, _: FrameType | None) -> None:
        """A handler of signals; a second Ctrl-C interrupts at once."""
        self._heard = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @property
    def requested(self) -> bool:
        """Has anyone asked?"""
        return self._heard or self.file.exists()


@contextmanager
def only_process(scratch: Path) -> Iterator[None]:
    """Within it no other process trains the same run.

    An engine that was killed can leave a training behind: that is asked to stop, and this one goes on from its
    checkpoint.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "lock"
    while True:
        file = path.open("ab")
        if not _locks(file):
            log.warning(f"{scratch}: another process trains this run; it is asked to stop, this one goes on from there")
        while not _locks(file):
            (scratch / STOP_FILE).touch()  # again and again: one that is just starting takes it for an old one
            time.sleep(0.2)
        # Who had it before has taken the file away, and someone else may have made it anew.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            break
        file.close()
    try:
        (scratch / STOP_FILE).unlink(missing_ok=True)
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _locks(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # the system names no file
        error.filename = file.name
        raise
    return True

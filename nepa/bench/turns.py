"""Two things timed in turn, and their ratio with its spread."""

import time
from contextlib import suppress
from dataclasses import dataclass
from statistics import quantiles
from typing import NamedTuple, Self

import psutil
import torch


class Reading(NamedTuple):
    """Seconds by the clock, and of processors that this process and its children have used."""

    wall: float
    processor: float

    @classmethod
    def at_start(cls) -> Self:
        """The clocks, read last: to look for the children among all processes of a machine takes milliseconds."""
        of_children = _children_s_time()
        processor = time.process_time() + of_children
        return cls(wall_clock(), processor)

    @classmethod
    def at_end(cls) -> Self:
        """The clocks, read first."""
        wall, own = wall_clock(), time.process_time()
        return cls(wall, own + _children_s_time())

    def since(self, before: "Reading") -> "Reading":
        """What has passed."""
        return Reading(self.wall - before.wall, self.processor - before.processor)


def wall_clock() -> float:
    """Seconds, once all that a GPU was given is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _children_s_time() -> float:
    seconds = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            used = child.cpu_times()
            seconds += used.user + used.system
    return seconds


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is.

    Attributes:
        value, low, high: median, first and third quartile of the turns' own ratios.
    """

    value: float
    low: float
    high: float


def ratio(ours: list[float], baseline: list[float]) -> Ratio:
    """Of the seconds of turns that were taken alternately, two at least; pairs are neighbours in time."""
    low, value, high = quantiles([its / mine for mine, its in zip(ours, baseline, strict=True)], method="inclusive")
    return Ratio(value, low, high)

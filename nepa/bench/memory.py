"""Peak of what torch allocates."""

import gc
import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler says on every start that it finds no GPU


def release_memory() -> None:
    """Give back what earlier trainings of this process have left: a GPU counts it as taken."""
    gc.collect()
    torch.cuda.empty_cache()


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that tensors which `run` makes take at once, on the device where models are trained."""
    gc.collect()  # what else is freed meanwhile would be subtracted
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    taken = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            taken += event.nbytes()
            peak = max(peak, taken)
    return peak

"""A training step of each stage, ours and the baseline's in turn."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import cycle, islice
from statistics import median
from typing import Any

import torch
from torch import nn

from nepa.bench.agreement import check_agreement
from nepa.bench.baseline import Baseline
from nepa.bench.memory import peak_bytes
from nepa.bench.rows import Row
from nepa.bench.turns import Reading, ratio, wall_clock
from nepa.bench.workload import Workload
from nepa.plan.cost import one_pass

WARMUP = 1  # turns, besides ours in which the first step falls
FEWEST, MOST = 5, 21  # turns that are timed
STEPS_TO_ESTIMATE = 20  # the length of a step, at most
BATCHES = 4  # that the baseline takes again and again where no loader is measured

Batches = Iterator[dict[str, Any]]


class Turns:
    """Gives the baseline as many steps after every so many of ours: what `run_training` calls to measure.

    Attributes:
        ours, baseline: what each turn took; in ours' first one kernels are chosen and compiled.
    """

    def __init__(self, baseline: Baseline, batches: Batches, steps: int) -> None:
        self.theirs = baseline
        self.batches = batches
        self.steps = steps
        self.ours: list[Reading] = []
        self.baseline: list[Reading] = []
        self.started = Reading.at_start()

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.ours.append(Reading.at_end().since(self.started))
        started = Reading.at_start()
        for batch in islice(self.batches, self.steps):
            self.theirs.step(batch)
        self.baseline.append(Reading.at_end().since(started))
        self.started = Reading.at_start()
        return {}


def measure_step(workload: Workload, batches: Batches | None, rate: float, seconds: float) -> Row:
    """Check that both do the same, then time them in turn.

    Args:
        batches: what the baseline reads; None for the same few again and again, which costs nothing.
        rate: of matrix products at the step's precision, FLOP/s.
        seconds: that all turns together should take.

    Raises:
        Disagreement: they do not do the same.
    """
    difference = check_agreement(workload)
    each = _seconds_of_a_step(workload)
    turns = min(MOST, max(FEWEST, math.floor(seconds / 2 / each)))
    steps = max(1, round(seconds / 2 / turns / each))
    first, ours, baseline = _take_turns(workload, batches, turns, steps)
    images = steps * workload.settings.batch_size
    flops = one_pass(workload.parameters, workload.stage).flops

    def side(taken: list[Reading], run: Callable[[Workload], None]) -> dict[str, float]:
        per_second = images / median(reading.wall for reading in taken)
        speed = {
            "images_per_second": per_second,
            "flops_per_second": flops * per_second,
            "share_of_matrix_rate": flops * per_second / rate,
        }
        return speed | ({"peak_memory_mb": peak_bytes(lambda: run(workload)) / 1e6} if batches is None else {})

    compiled = workload.execution.compile
    return {
        "stage": workload.stage,
        "batch_size": workload.settings.batch_size,
        "precision": workload.settings.precision,
        "compiled": compiled,
        "compile_seconds": first.wall - median(reading.wall for reading in ours) if compiled else None,
        "ours": side(ours, _train_ours),
        "baseline": side(baseline, _train_baseline),
        "ratio": asdict(ratio([r.wall for r in ours], [r.wall for r in baseline])),
        # Not disturbed by neighbours; a GPU's time is not in it.
        "processor_ratio": None
        if torch.cuda.is_available()
        else asdict(ratio([r.processor for r in ours], [r.processor for r in baseline])),
        "turns": turns,
        "steps_per_turn": steps,
        "largest_difference": difference,
    }


def _seconds_of_a_step(workload: Workload) -> float:
    """Of the baseline's quickest, of as many as a second has, two at least."""
    task, seconds = workload.task(), []
    baseline = Baseline(workload.parameters, task, STEPS_TO_ESTIMATE)
    for batch in islice(workload.batches(task), STEPS_TO_ESTIMATE):
        started = wall_clock()
        baseline.step(batch)
        seconds.append(wall_clock() - started)
        if len(seconds) > 1 and sum(seconds) > 1:
            break
    return min(seconds)


def _take_turns(
    workload: Workload, batches: Batches | None, turns: int, steps: int
) -> tuple[Reading, list[Reading], list[Reading]]:
    """Ours' first turn, then those of both that count."""
    task, count = workload.task(), 1 + WARMUP + turns
    if batches is None:
        batches = cycle(list(islice(workload.batches(task), BATCHES)))
    baseline, ours = Baseline(workload.parameters, task, count * steps), workload.task()
    in_turn = Turns(baseline, batches, steps)
    workload.train(ours, count * steps, steps, in_turn)
    return in_turn.ours[0], in_turn.ours[1 + WARMUP :], in_turn.baseline[1 + WARMUP :]


# Two steps: in the first one there is no state of the optimizer yet.
def _train_ours(workload: Workload) -> None:
    workload.train(workload.task(), 2, 2, lambda _: {})


def _train_baseline(workload: Workload) -> None:
    task = workload.task()
    baseline = Baseline(workload.parameters, task, 2)
    for batch in islice(workload.batches(task), 2):
        baseline.step(batch)

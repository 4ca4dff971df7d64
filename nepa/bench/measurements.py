"""All that `nepa bench` measures of a recipe, by name."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch._inductor.utils import fresh_cache

from nepa.bench.fidelity import measure_fidelity
from nepa.bench.growth import measure_growth
from nepa.bench.loader import measure_loader, prepare_for_bench
from nepa.bench.matrix import matrix_rates
from nepa.bench.memory import release_memory
from nepa.bench.rows import NotMeasured, Row, not_measured
from nepa.bench.stage_data import prepared_dataset, reference_batches
from nepa.bench.start import measure_idle_engines, measure_start
from nepa.bench.step import measure_step
from nepa.bench.waiting import measure_waiting
from nepa.bench.workload import SEED, Workload, images_of_a_step, on_noise, on_this_machine, with_execution
from nepa.errors import UserError
from nepa.parameters import Parameters
from nepa.parameters.schema import IN_MEMORY, Stage
from nepa.training.placement import device

# What leaves a case without its figures, and the others theirs.
OBSTACLES = (NotMeasured, UserError, torch.OutOfMemoryError)
SLOWEST_STEP = 1 / 20  # of a comparison's seconds
SAMPLES = 4  # batches of them


@dataclass(frozen=True)
class Bench:
    """A recipe on this machine.

    Attributes:
        stages: of those that train.
        batch_size: images of a step; None for what `images_of_a_step` finds.
        seconds: that a comparison should take.
        scratch: a folder for the JPEGs as they are prepared.
        images: where JPEGs lie that the loaders are to read, as `sources.images` takes it.
    """

    parameters: Parameters
    stages: tuple[Stage, ...]
    batch_size: int | None
    seconds: float
    scratch: Path
    images: Path | None = None

    @cached_property
    def rates(self) -> list[Row]:
        """Of matrix products, by precision."""
        rates = matrix_rates(self.of_stage("pretrain", 1).threads)
        release_memory()
        return rates

    @cached_property
    def photographs(self) -> dict[str, Path]:
        """The JPEGs prepared in two ways, as `prepare_for_bench` does it.

        Raises:
            NotMeasured: there are none.
        """
        if isinstance(self.parameters.data, IN_MEMORY):
            raise NotMeasured("the recipe's images lie in memory")
        if self.images is None:
            raise NotMeasured("no JPEGs to read; say with --images where some lie")
        return prepare_for_bench(self.parameters.data, self.images, self.scratch)

    def rate(self, parameters: Parameters, stage: Stage) -> float:
        """Of matrix products at a stage's precision, FLOP/s."""
        precision = getattr(parameters, stage).precision
        return next(row["flops_per_second"] for row in self.rates if row["precision"] == precision)

    def of_stage(self, stage: Stage, batch_size: int | None = None) -> Parameters:
        """The parameters by which a stage is measured, with all memory for it."""
        release_memory()
        parameters = on_this_machine(self.parameters, stage, batch_size or 1)
        if batch_size is None:
            rate = self.rate(parameters, stage)
            fitting = images_of_a_step(self.parameters, stage, rate, self.seconds * SLOWEST_STEP)
            parameters = on_this_machine(self.parameters, stage, self.batch_size or fitting)
        return parameters


def _matrix(bench: Bench) -> Iterator[Row]:
    for row in bench.rates:
        yield {"device": device().type} | row
    yield from _on_a_gpu({"precision": row["precision"]} for row in bench.rates)


def _step(bench: Bench) -> Iterator[Row]:
    for stage in bench.stages:
        yield from _step_of(bench, bench.of_stage(stage), stage)
    yield from _on_a_gpu({"stage": stage} for stage in bench.stages)


def _compiled(bench: Bench) -> Iterator[Row]:
    for stage in bench.stages:
        parameters = bench.of_stage(stage)
        if getattr(parameters.execution, stage).compile:
            yield not_measured("the recipe's step is compiled here: see the step", stage=stage)
        else:
            yield from _step_of(bench, with_execution(parameters, stage, compile=True), stage)


def _step_of(bench: Bench, parameters: Parameters, stage: Stage) -> Iterator[Row]:
    """Alone, then with each side's loader; what is compiled for the first lies in torch's cache for the second, and for
    the stage's next process, whose start is measured then."""
    compiled = getattr(parameters.execution, stage).compile
    with fresh_cache() if compiled else nullcontext():  # the cache stays where an error goes through it
        try:
            yield from _timed(bench, parameters, stage)
            if compiled:
                release_memory()
                yield measure_start(parameters, stage)
        except OBSTACLES as reason:
            yield not_measured(reason, stage=stage)


def _timed(bench: Bench, parameters: Parameters, stage: Stage) -> Iterator[Row]:
    rate, batch = bench.rate(parameters, stage), getattr(parameters, stage).batch_size
    workload = on_noise(parameters, stage, SAMPLES * batch)
    yield {"device": device().type, "loader": False} | measure_step(workload, None, rate, bench.seconds)
    try:
        dataset = prepared_dataset(parameters, stage)
        batches = reference_batches(parameters, stage, dataset, _idle_cores(parameters))
        workload = Workload(parameters, stage, dataset)
        yield {"device": device().type, "loader": True} | measure_step(workload, batches, rate, bench.seconds)
    except NotMeasured as reason:
        yield not_measured(reason, device=device().type, loader=True, stage=stage)


def _loader(bench: Bench) -> Iterator[Row]:
    data, augmentation = bench.parameters.data, bench.parameters.pretrain.augmentation
    try:
        workers = bench.of_stage("pretrain", 1).execution.pretrain.workers
        yield from measure_loader(data, augmentation, bench.photographs, workers=workers)
    except NotMeasured as reason:
        yield not_measured(reason)


def _fidelity(bench: Bench) -> Iterator[Row]:
    data, augmentation = bench.parameters.data, bench.parameters.pretrain.augmentation
    random.seed(SEED)
    try:
        yield from measure_fidelity(data, augmentation, bench.photographs)
    except NotMeasured as reason:
        yield not_measured(reason)


def _waiting(bench: Bench) -> Iterator[Row]:
    for stage in bench.stages:
        try:
            yield measure_waiting(bench.of_stage(stage), stage)
        except OBSTACLES as reason:
            yield not_measured(reason, stage=stage)


def _start(bench: Bench) -> Iterator[Row]:
    for stage in bench.stages:
        try:
            yield measure_start(bench.of_stage(stage), stage)
        except NotMeasured as reason:
            yield not_measured(reason, stage=stage)
    try:
        yield from measure_idle_engines()
    except NotMeasured as reason:
        yield not_measured(reason, command="dvc repro and snakemake, with nothing to do")


def _growth(bench: Bench) -> Iterator[Row]:
    parameters = bench.of_stage("pretrain", 1)
    yield from measure_growth(parameters, bench.rate(parameters, "pretrain"))


MEASUREMENTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "matrix": _matrix,
    "step": _step,
    "compiled": _compiled,
    "loader": _loader,
    "fidelity": _fidelity,
    "waiting": _waiting,
    "start": _start,
    "growth": _growth,
}


def _on_a_gpu(cases: Iterator[Row]) -> Iterator[Row]:
    """Where there is no GPU, or the recipe asks for none, what one would be needed for."""
    if not torch.cuda.is_available():
        for case in cases:
            yield not_measured("no GPU here that the recipe asks for", device="cuda", **case)


def _idle_cores(parameters: Parameters) -> int:
    """Cores that training leaves to the reference's loader, one at least."""
    return max(1, len(os.sched_getaffinity(0)) - parameters.threads)

"""How time and memory of a pretraining step grow with image size, batch and width."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import isqrt

import torch

from nepa.bench.memory import peak_bytes, release_memory
from nepa.bench.rows import Row, not_measured
from nepa.bench.turns import wall_clock
from nepa.bench.workload import Workload, bytes_kept, on_noise, on_this_machine
from nepa.parameters import Parameters
from nepa.plan.cost import BYTES_PER_PARAMETER, one_pass
from nepa.training.placement import device

HEAD = 32  # channels of an attention head
FEWEST, MOST = 8, 50  # steps, of which the quickest counts: neighbours can only slow them


@dataclass(frozen=True)
class Size:
    """Of one pretraining step.

    Attributes:
        tokens: patches of an image.
    """

    tokens: int
    batch: int
    width: int
    depth: int


@dataclass(frozen=True)
class Sweep:
    """Sizes along each axis; what is not varied is as in `base`."""

    base: Size
    tokens: tuple[int, ...]
    batch: tuple[int, ...]
    width: tuple[int, ...]

    def __iter__(self) -> Iterator[tuple[str, Size]]:
        for axis in ("tokens", "batch", "width"):
            for value in getattr(self, axis):
                # Long sequences are the one thing that needs no batch.
                size = replace(self.base, **{axis: value})
                yield axis, replace(size, batch=1) if axis == "tokens" else size


SWEEPS = {
    "cpu": Sweep(
        Size(tokens=64, batch=8, width=128, depth=2),
        tokens=(16, 64, 256, 1024, 4096),
        batch=(1, 4, 16, 64, 256),
        width=(32, 64, 128, 256, 512, 1024),
    ),
    "cuda": Sweep(
        Size(tokens=256, batch=64, width=768, depth=12),
        tokens=(64, 256, 1024, 4096, 16384),
        batch=(1, 4, 16, 64, 256),
        width=(128, 256, 512, 1024, 2048),
    ),
}


def measure_growth(parameters: Parameters, rate: float) -> Iterator[Row]:
    """One row per size: what a step takes, and what it would take at the matrix rate, keeping each activation once.

    A size that does not fit is not measured.

    Args:
        rate: of matrix products at the recipe's precision, FLOP/s.
    """
    for axis, size in SWEEPS[device().type]:
        workload = _workload(parameters, size)
        one = one_pass(workload.parameters, "pretrain")
        floor = size.batch * one.flops / rate
        kept = bytes_kept(workload.parameters, "pretrain", one)
        memory = BYTES_PER_PARAMETER * one.parameters + size.batch * kept
        row = {"axis": axis} | asdict(size)
        release_memory()
        try:
            seconds = _quickest_step(workload, steps=min(MOST, max(FEWEST, round(1 / floor))))
            peak = peak_bytes(lambda workload=workload: _quickest_step(workload, steps=2))
        except torch.OutOfMemoryError as reason:
            yield not_measured(reason, **row)
            continue
        yield row | {
            "seconds": seconds,
            "floor_seconds": floor,
            "peak_memory_mb": peak / 1e6,
            "floor_memory_mb": memory / 1e6,
        }


def _workload(parameters: Parameters, size: Size) -> Workload:
    model = parameters.model.model_copy(update={"width": size.width, "depth": size.depth, "heads": size.width // HEAD})
    data = parameters.data.model_copy(update={"image_size": isqrt(size.tokens) * model.patch_size})
    sized = parameters.model_copy(update={"model": model, "data": data})
    return on_noise(on_this_machine(sized, "pretrain", size.batch), "pretrain", size.batch)


def _quickest_step(workload: Workload, steps: int) -> float:
    ends: list[float] = []
    workload.train(workload.task(), steps, 1, lambda _: ends.append(wall_clock()) or {})
    return min(after - before for before, after in zip(ends, ends[1:], strict=False))

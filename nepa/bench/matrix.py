"""The rate at which the device multiplies matrices: the ceiling of everything else."""

import torch

from nepa.bench.rows import Row
from nepa.bench.turns import Reading
from nepa.training.placement import device

SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
REPETITIONS = 5  # of each size


def matrix_rates(threads: int) -> list[Row]:
    """The best of several sizes of square matrices, as torch multiplies them by default.

    Args:
        threads: on a CPU.
    """
    torch.set_num_threads(threads)
    return [_best(precision) for precision in ("float32", "bfloat16")]


def _best(precision: str) -> Row:
    rates = {}
    for size in SIZES[device().type]:
        factors = torch.randn(2, size, size, device=device()).to(getattr(torch, precision))
        seconds = []
        for _ in range(1 + REPETITIONS):
            started = Reading.now()
            factors[0] @ factors[1]
            seconds.append(Reading.now().since(started).wall)
        rates[size] = 2 * size**3 / min(seconds)
    best = max(rates, key=lambda size: rates[size])
    return {"precision": precision, "size": best, "flops_per_second": rates[best]}

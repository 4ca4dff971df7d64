"""The rate at which the device multiplies matrices: the ceiling of everything else."""

import torch
from torch import Tensor

from nepa.bench.rows import Row
from nepa.bench.turns import wall_clock
from nepa.training.placement import device

SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
REPETITIONS = 5  # of each size
SHORTEST = 0.05  # seconds that are timed: of so many products as take that long
LONGEST = 0.1  # seconds of one product, after which no larger one is tried: emulated bfloat16 would take minutes


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
        _seconds(factors, 1)
        once = _seconds(factors, 1)
        products = max(1, round(SHORTEST / once))
        rates[size] = 2 * size**3 / min(_seconds(factors, products) for _ in range(REPETITIONS))
        if once > LONGEST:
            break
    best = max(rates, key=lambda size: rates[size])
    return {"precision": precision, "size": best, "flops_per_second": rates[best]}


def _seconds(factors: Tensor, products: int) -> float:
    """Of one product, when so many follow each other."""
    started = wall_clock()
    for _ in range(products):
        factors[0] @ factors[1]
    return (wall_clock() - started) / products

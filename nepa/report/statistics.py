"""Mean, deviation and paired comparison over seeds."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t, ttest_ind


@dataclass(frozen=True)
class Difference:
    """Mean difference over seeds, with its 95 % interval (Student's t).

    Attributes:
        low, high: the interval; infinite with fewer than two seeds.
        n: seeds, on the side that has fewer.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def resolved(self) -> bool:
        """The interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_difference(ours: dict[int, float], other: dict[int, float]) -> Difference | None:
    """`ours` minus `other`, each a value by seed; None without a common seed."""
    seeds = sorted(set(ours) & set(other))
    if not seeds:
        return None
    differences = np.array([ours[seed] - other[seed] for seed in seeds])
    mean, n = float(differences.mean()), len(seeds)
    if n < 2:
        return Difference(mean, -np.inf, np.inf, n)
    half = float(t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    return Difference(mean, mean - half, mean + half, n)


def independent_difference(ours: dict[int, float], other: dict[int, float]) -> Difference | None:
    """`ours` minus `other`, each a value by seed, whatever the seeds (Welch); None where a side is empty."""
    if not ours or not other:
        return None
    left, right = list(ours.values()), list(other.values())
    mean, n = float(np.mean(left) - np.mean(right)), min(len(left), len(right))
    if n < 2:
        return Difference(mean, -np.inf, np.inf, n)
    interval = ttest_ind(left, right, equal_var=False).confidence_interval()
    return Difference(mean, float(interval.low), float(interval.high), n)

"""Mean, deviation and paired comparison over seeds."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import nct, t, ttest_ind

POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Difference:
    """Mean difference over seeds, with its 95 % interval (Student's t).

    Attributes:
        low, high: the interval; infinite with fewer than two seeds.
        n: seeds, on the side that has fewer.
        chance: the two-sided p-value, that seeds alone make a difference as large; 1 with fewer than two.
    """

    mean: float
    low: float
    high: float
    n: int
    chance: float

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
        return Difference(mean, -np.inf, np.inf, n, 1.0)
    error = float(differences.std(ddof=1) / np.sqrt(n))
    half = float(t.ppf(0.975, n - 1)) * error
    chance = 2 * float(t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Difference(mean, mean - half, mean + half, n, chance)


def seeds_needed(difference: Difference, expected: float) -> int | None:
    """With how many seeds an interval excludes 0 in four of five cases, were the true difference `expected`.

    By the power of the two-sided t-test at 5 %, with the deviation between pairs in `difference`, of two seeds at
    least; of few seeds that is itself known roughly.

    Returns:
        None where more than `MOST_SEEDS` are needed.
    """
    deviation = (difference.high - difference.low) / 2 / float(t.ppf(0.975, difference.n - 1)) * np.sqrt(difference.n)
    seeds = np.arange(2, MOST_SEEDS + 1)
    power = nct.sf(t.ppf(0.975, seeds - 1), seeds - 1, abs(expected) / deviation * np.sqrt(seeds))
    return int(seeds[power >= POWER][0]) if (power >= POWER).any() else None


def independent_difference(ours: dict[int, float], other: dict[int, float]) -> Difference | None:
    """`ours` minus `other`, each a value by seed, whatever the seeds (Welch); None where a side is empty."""
    if not ours or not other:
        return None
    left, right = list(ours.values()), list(other.values())
    mean, n = float(np.mean(left) - np.mean(right)), min(len(left), len(right))
    if n < 2:
        return Difference(mean, -np.inf, np.inf, n, 1.0)
    test = ttest_ind(left, right, equal_var=False)
    interval = test.confidence_interval()
    return Difference(mean, float(interval.low), float(interval.high), n, float(test.pvalue))


def holds_among(chances: list[float]) -> list[bool]:
    """Which comparisons stay resolved at 95 % when all are judged together, by Holm's step-down correction."""
    held = [False] * len(chances)
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        if chances[place] > 0.05 / (len(chances) - rank):
            break
        held[place] = True
    return held

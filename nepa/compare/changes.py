"""What differs between two sides: DVC's own diff of parameters and metrics, and whether seeds explain it."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd
from dvc.utils.diff import diff

from nepa.compare.sides import Side
from nepa.report.markdown import NONE
from nepa.report.statistics import Difference, independent_difference, paired_difference

Judgement = Literal[
    "seeds lost", "beyond the seeds", "within the seeds", "one seed", "alike in all seeds", "the schedule"
]
JUDGEMENTS: tuple[Judgement, ...] = get_args(Judgement)
SCHEDULE = ("steps", "images", "labels")  # follow from the settings; nothing of them is measured
Seeds = dict[int, float | None]  # None where the run has no number, as where it diverged
ROUNDED = 1e-6  # of a value: float32 has no more digits, and a seed's rounding is no finding
NO_WIDTH = 1e-6  # of an interval, as a share of the difference: seeds that differ by as much each could not do less


@dataclass(frozen=True)
class Change:
    """A metric of a variant that is not the same on both sides.

    Attributes:
        run: `recipe/stage/variant`.
        first, second: means over the seeds that are compared; None of none.
        difference: `second` minus `first`, with its interval; None where a side has lost all seeds.
        paired: over seeds that both sides have.
        lost: a side has a seed's run but not its number, as where it diverged: the seeds that are left prove nothing.
    """

    run: str
    metric: str
    first: float | None
    second: float | None
    difference: Difference | None
    paired: bool
    lost: bool

    @property
    def judgement(self) -> Judgement:
        """Whether the interval excludes 0, by the report's rule."""
        if self.metric in SCHEDULE:
            return "the schedule"
        if self.lost or self.difference is None:
            return "seeds lost"
        if self.difference.n < 2:
            return "one seed"
        if self.difference.high - self.difference.low <= NO_WIDTH * abs(self.difference.mean):
            return "alike in all seeds"
        return "beyond the seeds" if self.difference.resolved else "within the seeds"


def changed_parameters(first: Side, second: Side) -> pd.DataFrame | None:
    """Parameters that differ; None where a side's are unknown."""
    if first.parameters is None or second.parameters is None:
        return None
    sides = ({"": {"data": side.parameters}} for side in (first, second))
    changes = diff(*sides).get("", {})
    return pd.DataFrame(
        {"parameter": key} | {side: _setting(values[of]) for side, of in (("A", "old"), ("B", "new"))}
        for key, values in sorted(changes.items())
    )


def changed_metrics(first: Side, second: Side) -> tuple[list[Change], int]:
    """Metrics that changed, the gravest first, and how many did not; per-class metrics are left out."""
    changes, same = [], 0
    for (run, metric), sides in sorted(_values(first, second).items()):
        if not all(sides):
            continue  # on one side only
        before, after = ({seed: value for seed, value in side.items() if value is not None} for side in sides)
        lost = sides[0].keys() - before.keys() != sides[1].keys() - after.keys()
        common = sorted(before.keys() & after.keys())
        if common:
            before, after = ({seed: values[seed] for seed in common} for values in (before, after))
            difference = paired_difference(after, before)
        else:
            difference = independent_difference(after, before)
        if common and not lost and all(math.isclose(before[seed], after[seed], rel_tol=ROUNDED) for seed in common):
            same += 1
            continue
        means = (sum(values.values()) / len(values) if values else None for values in (before, after))
        changes.append(Change(run, metric, *means, difference, bool(common), lost))
    return sorted(changes, key=lambda change: JUDGEMENTS.index(change.judgement)), same


def changed_statuses(first: Side, second: Side) -> pd.DataFrame:
    """Runs that both sides have and whose status differs."""
    return pd.DataFrame(
        {"run": str(run), "A": first.metrics[run]["status"], "B": second.metrics[run]["status"]}
        for run in sorted(first.metrics.keys() & second.metrics.keys())
        if first.metrics[run]["status"] != second.metrics[run]["status"]
    )


def runs_alone(side: Side, other: Side) -> list[str]:
    """Runs that one side has and the other has not, by variant with their seeds."""
    seeds: dict[str, list[str]] = defaultdict(list)
    for run in sorted(side.metrics.keys() - other.metrics.keys()):
        seeds[run.of_all_seeds].append(str(run.seed))
    return [f"{run} (seed {', '.join(numbers)})" for run, numbers in seeds.items()]


def _setting(value: Any) -> str:
    return NONE if value is None else str(value)


def _values(first: Side, second: Side) -> dict[tuple[str, str], tuple[Seeds, Seeds]]:
    """Numbers of both sides, by run and metric, by seed; of metrics that are a number with any seed."""
    found: dict[tuple[str, str], tuple[Seeds, Seeds]] = defaultdict(lambda: ({}, {}))
    for number, side in enumerate((first, second)):
        for run, metrics in side.metrics.items():
            for metric, value in metrics.items():
                if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
                    found[run.of_all_seeds, metric][number][run.seed] = None if value != value else value
    return {
        key: sides
        for key, sides in found.items()
        if any(value is not None for side in sides for value in side.values())
    }

"""What differs between two sides: DVC's own diff of parameters and metrics, and whether seeds explain it."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd
from dvc.utils.diff import diff

from nepa.compare.sides import Side
from nepa.report.markdown import NONE
from nepa.report.statistics import Difference, independent_difference, paired_difference

Judgement = Literal["beyond the seeds", "within the seeds", "one seed", "alike in all seeds", "the schedule"]
JUDGEMENTS: tuple[Judgement, ...] = get_args(Judgement)
SCHEDULE = ("steps", "images", "labels")  # follow from the settings; nothing of them is measured
NO_WIDTH = 1e-6  # of an interval, as a share of the difference: seeds that differ by as much each could not do less


@dataclass(frozen=True)
class Change:
    """A metric of a variant that is not the same on both sides.

    Attributes:
        run: `recipe/stage/variant`.
        first, second: means over the seeds that are compared.
        difference: `second` minus `first`, with its interval.
        paired: over seeds that both sides have.
    """

    run: str
    metric: str
    first: float
    second: float
    difference: Difference
    paired: bool

    @property
    def judgement(self) -> Judgement:
        """Whether the interval excludes 0, by the report's rule."""
        if self.metric in SCHEDULE:
            return "the schedule"
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
    """Metrics that changed, those beyond the seeds first, and how many did not; per-class metrics are left out."""
    both = _values(first, second)
    changes, same = [], 0
    for (run, metric), (before, after) in sorted(both.items()):
        common = sorted(before.keys() & after.keys())
        if common:
            before, after = ({seed: values[seed] for seed in common} for values in (before, after))
            difference = paired_difference(after, before)
        else:
            difference = independent_difference(after, before)
        if difference is None:
            continue  # on one side only
        if common and before == after:
            same += 1
            continue
        means = (sum(values.values()) / len(values) for values in (before, after))
        changes.append(Change(run, metric, *means, difference, bool(common)))
    return sorted(changes, key=lambda change: JUDGEMENTS.index(change.judgement)), same


def changed_statuses(first: Side, second: Side) -> pd.DataFrame:
    """Runs that both sides have and whose status differs."""
    return pd.DataFrame(
        {"run": run, "A": first.metrics[run]["status"], "B": second.metrics[run]["status"]}
        for run in sorted(first.metrics.keys() & second.metrics.keys())
        if first.metrics[run]["status"] != second.metrics[run]["status"]
    )


def runs_alone(side: Side, other: Side) -> list[str]:
    """Runs that one side has and the other has not, by variant with their seeds."""
    seeds: dict[str, list[str]] = defaultdict(list)
    for path in sorted(side.metrics.keys() - other.metrics.keys()):
        run, seed = path.rsplit("/seed-", 1)
        seeds[run].append(seed)
    return [f"{run} (seed {', '.join(numbers)})" for run, numbers in seeds.items()]


def _setting(value: Any) -> str:
    return NONE if value is None else str(value)


def _values(first: Side, second: Side) -> dict[tuple[str, str], tuple[dict[int, float], dict[int, float]]]:
    """Numbers of both sides, by run and metric, by seed."""
    found: dict[Any, tuple[dict[int, float], dict[int, float]]] = defaultdict(lambda: ({}, {}))
    sides = ({run: {"data": metrics} for run, metrics in side.metrics.items()} for side in (first, second))
    for path, metrics in diff(*sides, with_unchanged=True).items():
        run, seed = path.rsplit("/seed-", 1)
        for metric, values in metrics.items():
            for side, value in zip(found[run, metric], (values["old"], values["new"]), strict=True):
                if isinstance(value, int | float) and not isinstance(value, bool) and value == value:  # nan is none
                    side[int(seed)] = value
    return {key: values for key, values in found.items() if "." not in key[1]}

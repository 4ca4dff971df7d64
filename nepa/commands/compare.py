"""`nepa compare`: what differs between two revisions, experiments or folders of results."""

import pandas as pd

from nepa.compare.changes import (
    JUDGEMENTS,
    Change,
    changed_metrics,
    changed_parameters,
    changed_statuses,
    runs_alone,
)
from nepa.compare.sides import Side, read_side
from nepa.report import markdown
from nepa.report.statistics import holds_among


def describe(first: str, second: str) -> str:
    """Parameters and metrics that differ, as text.

    Args:
        first, second: a git revision, a DVC experiment, or a folder.
    """
    sides = read_side(first), read_side(second)
    statuses = changed_statuses(*sides)
    changes, same = changed_metrics(*sides)
    parts = [f"A is `{first}`, B is `{second}`.", _parameters(*sides)]
    if not statuses.empty:
        parts.append(f"Status of {len(statuses)} runs:\n\n{markdown.table(statuses)}")
    parts.append(f"Metrics: {same} equal, {len(changes)} changed{_counted(changes)}.")
    if changes:
        parts.append(markdown.table(pd.DataFrame(map(_row, changes))))
        parts.append("Means over the seeds compared, B minus A seed by seed where both have the same; 95 % intervals.")
        if together := _together(changes):
            parts.append(together)
    for name, one, other in (("A", *sides), ("B", *sides[::-1])):
        if alone := runs_alone(one, other):
            parts.append(f"Only in {name}: {'; '.join(alone)}.")
    return "\n\n".join(parts)


def _parameters(first: Side, second: Side) -> str:
    changed = changed_parameters(first, second)
    if changed is None:
        unknown = " and ".join(side.name for side in (first, second) if side.parameters is None)
        return f"Parameters: unknown of {unknown}, without a params.yaml."
    if changed.empty:
        return "Parameters: all equal."
    return f"Parameters: {len(changed)} differ.\n\n{markdown.table(changed)}"


def _counted(changes: list[Change]) -> str:
    counts = ((kind, sum(change.judgement == kind for change in changes)) for kind in JUDGEMENTS)
    text = ", ".join(f"{count} {kind}" for kind, count in counts if count)
    return f": {text}" if text else ""


def _together(changes: list[Change]) -> str:
    """How many stay beyond the seeds when all are judged together: of many intervals some exclude 0 by chance."""
    chances = [c.difference.chance for c in changes if c.judgement in ("beyond the seeds", "within the seeds")]
    if not chances:
        return ""
    return (
        f"Of these {len(chances)} intervals one in twenty would exclude 0 by chance alone; judged together, by Holm's "
        f"correction, {sum(holds_among(chances))} stay beyond the seeds."
    )


def _row(change: Change) -> dict[str, str]:
    difference = change.difference
    first, second = (markdown.NONE if mean is None else f"{mean:.4g}" for mean in (change.first, change.second))
    interval, count = markdown.NONE, 0
    if difference is not None:
        count = difference.n
        interval = f"{difference.mean:+.3g}"
        if count > 1:
            interval += f" [{difference.low:+.3g}, {difference.high:+.3g}]"
    return {
        "run": change.run,
        "metric": change.metric,
        "A": first,
        "B": second,
        "B − A": interval,
        "seeds": f"{count}" if change.paired or not count else f"{count}, unpaired",
        "judgement": change.judgement,
    }

"""What a row of one of the paper's tables shows here, by a stated rule."""

from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from nepa.report.collect import Run
from nepa.report.paper import paper
from nepa.report.statistics import Difference, paired_difference

# Fine-tuning counts as failed when it diverges or ends this close to chance, in points of top-1.
MARGIN_OVER_CHANCE = 5.0
# A level counts as reproduced when its whole interval lies this close to the paper's figure, in points.
LEVEL_MARGIN = 1.0
# Points. An interval of no width tells nothing: seeds that differ by as many images each could not differ less.
FINEST = 1e-3
Kind = Literal[
    "reproduced",
    "partly reproduced",
    "not reproduced",
    "not resolved",
    "not tested",
    "not run",
    "not in the paper",
    "reference",
]


@dataclass(frozen=True)
class Verdict:
    """What the summary counts a row as, and what its table says."""

    kind: Kind
    text: str

    @property
    def detail(self) -> str:
        """What the text says beyond the kind, to stand after it."""
        rest = self.text.removeprefix(self.kind)
        return rest if rest != self.text else f": {rest}"


def by_seed(runs: list[Run], stage: str, variant: str, metric: str) -> dict[int, float]:
    """A metric by seed, without the seeds that have none."""
    return {
        run.seed: run.metrics[metric]
        for run in runs
        if (run.stage, run.variant) == (stage, variant) and run.metrics[metric] is not None
    }


def lost_seeds(runs: list[Run], stage: str, variant: str, metric: str) -> str:
    """How many seeds diverged, hence are not in `by_seed`, in words; empty where none did."""
    values = [run.metrics[metric] for run in runs if (run.stage, run.variant) == (stage, variant)]
    lost = values.count(None)
    return f"{lost} of {len(values)} seeds diverged" if lost else ""


def can_decide(difference: Difference | None) -> TypeGuard[Difference]:
    """The interval is of two seeds at least and has a width."""
    return difference is not None and difference.n > 1 and difference.high - difference.low >= FINEST


def finetuning_fails(metrics: dict[str, Any]) -> bool:
    """Diverged (no accuracy), or no better than chance plus a margin."""
    # Without a confusion matrix there are so many classes that chance is below a point.
    chance = 100 / len(metrics["confusion"]) if metrics["confusion"] else 0
    return metrics["top1"] is None or metrics["top1"] < chance + MARGIN_OVER_CHANCE


def row_verdict(
    runs: list[Run], stage: str, metric: str, variant: str, reference: str, figures: dict[str, Any]
) -> Verdict:
    """One variant of one of the paper's tables, compared with the table's reference seed by seed.

    Args:
        runs: of one recipe.
        figures: the paper's, by variant: a number, `fail`, or None where it has no such row.
    """
    tuned = [run for run in runs if (run.stage, run.variant) == (stage, variant)]
    figure = figures.get(variant)
    if not tuned:
        return Verdict("not run", "not run")
    if variant == reference:
        return Verdict("reference", "the reference")
    if figure == "fail":
        pretrained = {run.seed: run.status for run in runs if (run.stage, run.variant) == ("pretrain", variant)}
        return _failure(tuned, pretrained, paper()["failures"][variant])
    if lost := lost_seeds(runs, stage, variant, metric):
        if figure is None:
            return Verdict("not in the paper", lost)
        return Verdict("not reproduced", f"not reproduced: {lost}")
    if lost := lost_seeds(runs, stage, reference, metric):
        # Those that are left are no fair sample: the variant's seeds are counted where it is the one that diverged.
        if figure is None:
            return Verdict("not in the paper", f"of {reference} {lost}")
        return Verdict("not resolved", f"not resolved: of {reference} {lost}")
    difference = paired_difference(by_seed(runs, stage, reference, metric), by_seed(runs, stage, variant, metric))
    if not can_decide(difference) or not difference.resolved:
        if figure is None:
            return Verdict("not in the paper", "not resolved")
        beside = _beside(difference, figures[reference] - figure) if can_decide(difference) else ""
        return Verdict("not resolved", f"not resolved{beside}")
    if figure is None:
        return Verdict("not in the paper", f"{reference} is {'better' if difference.mean > 0 else 'worse'}")
    if (difference.mean > 0) == (figures[reference] > figure):
        return Verdict("reproduced", "reproduced: same sign")
    return Verdict("not reproduced", "not reproduced: opposite sign")


def level_verdict(values: dict[int, float], figure: float, lost: str = "") -> Verdict:
    """Our level by seed beside the paper's, where both are on the paper's data, by the interval of their distance.

    Args:
        lost: what `lost_seeds` says.
    """
    if lost:
        return Verdict("not reproduced", f"level not reproduced: {lost}")
    distance = paired_difference(values, dict.fromkeys(values, figure))
    if distance is None or distance.n < 2:
        return Verdict("not resolved", "level not resolved: needs two seeds")
    interval = f"{distance.mean:+.1f} [{distance.low:+.1f}, {distance.high:+.1f}]"
    if max(-distance.low, distance.high) <= LEVEL_MARGIN:
        return Verdict("reproduced", f"level reproduced: {interval}")
    if max(distance.low, -distance.high) > LEVEL_MARGIN:
        return Verdict("not reproduced", f"level not reproduced: {interval}")
    return Verdict("not resolved", f"level not resolved: {interval}")


def _beside(difference: Difference, paper: float) -> str:
    """Whether an interval that contains 0 contains the paper's difference as well; then it speaks against neither."""
    also = "and also" if difference.low <= paper <= difference.high else "but not"
    return f": the interval contains 0 {also} the paper's {paper:+.1f}"


def _failure(tuned: list[Run], pretrained: dict[int, str], mode: str) -> Verdict:
    """Whether all seeds fail, and as in the paper: there pretraining ends as `mode`.

    Args:
        pretrained: how each seed's pretraining ended.
    """
    failed = sum(run.status != "ok" or finetuning_fails(run.metrics) for run in tuned)
    if failed < len(tuned):
        of = f"{failed} of {len(tuned)} seeds fail" if failed else "does not fail"
        return Verdict("not reproduced", f"not reproduced: {of}")
    endings = {pretrained.get(run.seed, run.status) for run in tuned}
    modes = sorted("fine-tuning alone" if ending == "ok" else ending for ending in endings)
    how = "fails" if modes == [mode] else "fails otherwise"
    what = ", ".join(modes) + ("" if modes == [mode] else f"; in the paper {mode}")
    if not all(finetuning_fails(run.metrics) for run in tuned):
        return Verdict("partly reproduced", f"partly reproduced: pretraining {how} ({what}), fine-tuning does not")
    return Verdict(kind := "reproduced" if modes == [mode] else "partly reproduced", f"{kind}: {how} ({what})")

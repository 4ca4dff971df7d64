"""What a row of one of the paper's tables shows here, by a stated rule."""

from typing import Any

from nepa.report.collect import Run
from nepa.report.statistics import paired_difference

# Fine-tuning counts as failed when it diverges or ends this close to chance, in points of top-1.
MARGIN_OVER_CHANCE = 5.0


def by_seed(runs: list[Run], stage: str, variant: str, metric: str) -> dict[int, float]:
    """A metric by seed, without the seeds that have none."""
    return {
        run.seed: run.metrics[metric]
        for run in runs
        if (run.stage, run.variant) == (stage, variant) and run.metrics[metric] is not None
    }


def finetuning_fails(accuracy: float | None, classes: int) -> bool:
    """Diverged (no accuracy), or no better than chance plus a margin."""
    return accuracy is None or accuracy < 100 / classes + MARGIN_OVER_CHANCE


def row_verdict(
    runs: list[Run], stage: str, metric: str, variant: str, reference: str, figures: dict[str, Any], classes: int
) -> str:
    """One variant of one of the paper's tables, compared with the table's reference seed by seed.

    Args:
        runs: of one recipe.
        figures: the paper's, by variant: a number, `fail`, or None where it has no such row.
        classes: of the classification, for what counts as a failure.
    """
    tuned = [run for run in runs if (run.stage, run.variant) == (stage, variant)]
    figure = figures.get(variant)
    if not tuned:
        return "not run"
    if figure == "fail":
        pretraining_fails = all(run.status in ("collapsed", "identity", "diverged") for run in tuned)
        tuning_fails = all(finetuning_fails(run.metrics["top1"], classes) for run in tuned)
        if pretraining_fails and tuning_fails:
            return "reproduced: fails"
        if pretraining_fails:
            return f"pretraining's failure reproduced ({tuned[0].status}); fine-tuning's failure not reproduced"
        return "not reproduced"
    difference = paired_difference(by_seed(runs, stage, reference, metric), by_seed(runs, stage, variant, metric))
    if variant == reference or difference is None:
        return ""
    if not difference.resolved:
        return "not resolved"
    if figure is None:
        return f"{reference} is {'better' if difference.mean > 0 else 'worse'}"
    same_sign = (difference.mean > 0) == (figures[reference] > figure)
    return "reproduced: same sign" if same_sign else "not reproduced: opposite sign"

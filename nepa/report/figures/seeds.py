"""Every seed's accuracy, so that a mean cannot hide a run that failed."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nepa.report.collect import Run
from nepa.report.figures.style import WIDTH, in_order, line_of

PANELS = (("finetune", "top1", "Top-1"), ("segment", "mIoU", "mIoU"))


def draw_seeds(runs: list[Run]) -> Figure | None:
    """A dot for each run's top-1 or mIoU, none where it diverged, and a stroke at the mean of its variant."""
    found = [panel for panel in PANELS if any(run.stage == panel[0] for run in runs)]
    if not found:
        return None
    variants = [in_order(run.variant for run in runs if run.stage == stage) for stage, _, _ in found]
    rows = [len(of) for of in variants]
    figure = Figure((WIDTH, 0.27 * sum(rows) + 0.9 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    for panel, (stage, metric, title), of in zip(panels, found, variants, strict=True):
        _draw_panel(panel, [run for run in runs if run.stage == stage], metric, of)
        panel.set(title=f"{title} of every seed", xlabel=f"{metric} (%)")
    return figure


def _draw_panel(panel: Axes, runs: list[Run], metric: str, variants: list[str]) -> None:
    for row, variant in enumerate(variants):
        values = [run.metrics[metric] for run in runs if run.variant == variant and run.metrics[metric] is not None]
        if values:
            colour = line_of(variant)["color"]
            panel.plot(values, [row] * len(values), "o", color=colour, alpha=0.55, markersize=6, markeredgewidth=0)
            panel.plot(sum(values) / len(values), row, "|", color="black", markersize=14, markeredgewidth=1.6)
    panel.set_yticks(range(len(variants)), variants)
    panel.set_ylim(len(variants) - 0.5, -0.5)
    panel.grid(axis="y", color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)

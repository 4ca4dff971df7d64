"""Every seed's accuracy, so that a mean cannot hide a run that failed."""

from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nepa.report.collect import Run
from nepa.report.figures.style import WIDTH, in_order, line_of
from nepa.report.verdict import by_seed

PANELS = (("finetune", "top1", "Top-1"), ("segment", "mIoU", "mIoU"))


def draw_seeds(runs: list[Run]) -> Figure | None:
    """A dot for each run's top-1 or mIoU, none where it diverged, and a stroke at the mean of its variant."""
    variants = {panel: in_order(run.variant for run in runs if run.stage == panel[0]) for panel in PANELS}
    found = {panel: names for panel, names in variants.items() if names}
    if not found:
        return None
    rows = [len(names) for names in found.values()]
    figure = Figure((WIDTH, 0.27 * sum(rows) + 0.9 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    for panel, ((stage, metric, title), names) in zip(panels, found.items(), strict=True):
        _draw_panel(panel, {name: [*by_seed(runs, stage, name, metric).values()] for name in names})
        panel.set(title=f"{title} of every seed", xlabel=f"{metric} (%)")
    return figure


def _draw_panel(panel: Axes, values_of: dict[str, list[float]]) -> None:
    for row, (variant, values) in enumerate(values_of.items()):
        if values:
            colour = line_of(variant)["color"]
            panel.plot(values, [row] * len(values), "o", color=colour, alpha=0.55, markersize=6, markeredgewidth=0)
            panel.plot(mean(values), row, "|", color="black", markersize=14, markeredgewidth=1.6)
    panel.set_yticks(range(len(values_of)), values_of)
    panel.set_ylim(len(values_of) - 0.5, -0.5)
    panel.grid(axis="y", color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)

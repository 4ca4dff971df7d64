"""Every seed's accuracy, so that a mean cannot hide a run that failed."""

from statistics import mean, median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nepa.report.collect import Run
from nepa.report.figures.style import WIDTH, in_order, line_of
from nepa.report.verdict import by_seed

PANELS = (("finetune", "top1", "Top-1"), ("segment", "mIoU", "mIoU"))
FAR = 20  # points from the median variant; what lies further has a panel of its own, or the rest would run together


def draw_seeds(runs: list[Run]) -> Figure | None:
    """A dot for each run's top-1 or mIoU, none where it diverged, and a stroke at the mean of its variant."""
    panels = []
    for stage, metric, title in PANELS:
        names = in_order(run.variant for run in runs if run.stage == stage)
        values = {name: [*by_seed(runs, stage, name, metric).values()] for name in names}
        means = {name: mean(found) for name, found in values.items() if found}
        if not means:
            continue
        far = {name for name in means if abs(means[name] - median(means.values())) > FAR}
        for wanted, where in ((set(names) - far, ""), (far, ", variants further off")):
            if shown := {name: values[name] for name in names if name in wanted}:
                panels.append((shown, {"title": f"{title} of every seed{where}", "xlabel": f"{metric} (%)"}))
    if not panels:
        return None
    rows = [len(shown) for shown, _ in panels]
    figure = Figure((WIDTH, 0.27 * sum(rows) + 0.9 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    for panel, (shown, texts) in zip(axes, panels, strict=True):
        _draw_panel(panel, shown)
        panel.set(**texts)
    return figure


def _draw_panel(panel: Axes, values_of: dict[str, list[float]]) -> None:
    for row, (variant, values) in enumerate(values_of.items()):
        if values:
            colour = line_of(variant)["color"]
            # Equal ones would hide each other.
            beside = [row + 0.16 * values[:number].count(value) for number, value in enumerate(values)]
            panel.plot(values, beside, "o", color=colour, alpha=0.55, markersize=6, markeredgewidth=0)
            panel.plot(mean(values), row, "|", color="black", markersize=14, markeredgewidth=1.6)
    names = [name if values else f"{name}, diverged" for name, values in values_of.items()]
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(values_of) - 0.5, -0.5)
    panel.grid(axis="y", color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)

"""Fig. 3: what training looks like with and without four parts of the method."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nepa.report.collect import Run
from nepa.report.figures.style import WIDTH, plot_history, with_plain_numbers
from nepa.report.paper import paper

AXES = {
    "top1": {"ylabel": "top-1, validation images (%)", "ylim": (0, None)},
    "loss": {"ylabel": "pretraining loss (−1 to 1)", "ylim": (-1.03, None)},
    "gradient_norm": {"ylabel": "gradient norm", "yscale": "log"},
}


def draw_ablations(runs: list[Run]) -> Figure | None:
    """The panels, each a pair of variants (see paper.yaml); a pair that lacks one is left out."""
    ran = {(run.stage, run.variant) for run in runs}
    panels = [
        panel
        for panel in paper()["figure_3"]
        if {(panel["stage"], panel["with"]), (panel["stage"], panel["without"])} <= ran
    ]
    if not panels:
        return None
    rows = math.ceil(len(panels) / 2)
    figure = Figure((WIDTH, 3.3 * rows), layout="constrained")
    for axes, panel in zip(figure.subplots(rows, min(2, len(panels)), squeeze=False).flat, panels, strict=False):
        axes.set_title(f"with and without {panel['part']}")
        _draw_panel(axes, runs, panel)
    for axes in figure.axes[len(panels) :]:
        axes.set_axis_off()
    return figure


def _draw_panel(axes: Axes, runs: list[Run], panel: dict[str, str]) -> None:
    for side in ("with", "without"):
        plot_history(axes, runs, panel["stage"], panel[side], panel["column"])
    stage = {"finetune": "fine-tuning", "pretrain": "pretraining"}[panel["stage"]]
    axes.set(xlabel=f"step of {stage}", **AXES[panel["column"]])
    if axes.get_yscale() == "log":
        with_plain_numbers(axes.yaxis)
    axes.legend()

"""Fig. 3: what training looks like with and without four parts of the method."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nepa.report.collect import Run
from nepa.report.figures.style import WIDTH, plot_history, with_plain_numbers
from nepa.report.table import paper

AXES = {
    "top1": {"ylabel": "top-1, validation images (%)", "ylim": (0, 100)},
    "loss": {"ylabel": "pretraining loss (−1 to 1)", "ylim": (-1.03, None)},
    "gradient_norm": {"ylabel": "gradient norm", "yscale": "log"},
}


def draw_ablations(runs: list[Run]) -> Figure | None:
    """The four panels, each a pair of variants (see paper.yaml); a pair that lacks one leaves its panel empty."""
    panels = paper()["figure_3"]
    ran = {(run.stage, run.variant) for run in runs}
    whole = [{(panel["stage"], panel["with"]), (panel["stage"], panel["without"])} <= ran for panel in panels]
    if not any(whole):
        return None
    figure = Figure((WIDTH, 6.6), layout="constrained")
    for axes, letter, panel, drawn in zip(figure.subplots(2, 2).flat, "abcd", panels, whole, strict=True):
        axes.set_title(f"({letter}) with and without {panel['part']}")
        if drawn:
            _draw_panel(axes, runs, panel)
        else:
            axes.set_axis_off()
            missing = [name for name in (panel["with"], panel["without"]) if (panel["stage"], name) not in ran]
            axes.text(0.5, 0.5, "not run:\n" + "\n".join(missing), ha="center", va="center", color="0.3")
    return figure


def _draw_panel(axes: Axes, runs: list[Run], panel: dict[str, str]) -> None:
    for side in ("with", "without"):
        plot_history(axes, runs, panel["stage"], panel[side], panel["column"])
    stage = {"finetune": "fine-tuning", "pretrain": "pretraining"}[panel["stage"]]
    axes.set(xlabel=f"step of {stage}", **AXES[panel["column"]])
    if axes.get_yscale() == "log":
        with_plain_numbers(axes.yaxis)
    axes.legend()

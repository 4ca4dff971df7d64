"""Fig. 7: the pretraining loss, and beneath it what the loss does not tell, spread and rank of the embeddings."""

from matplotlib.figure import Figure

from nepa.objective.failure import COLLAPSED_BELOW
from nepa.report.collect import Run
from nepa.report.figures.style import WIDTH, in_order, plot_history


def draw_curves(runs: list[Run]) -> Figure | None:
    """Loss, relative spread and effective rank of the main line's pretrained variants."""
    pretrained = [run for run in runs if run.stage == "pretrain" and not run.further]
    if not pretrained:
        return None
    figure = Figure((WIDTH, 8.6), layout="constrained")
    loss, spread, rank = figure.subplots(3, 1, sharex=True)
    for variant in in_order(run.variant for run in pretrained):
        plot_history(loss, pretrained, "pretrain", variant, "loss")
        plot_history(spread, pretrained, "pretrain", variant, "relative_spread")
        plot_history(rank, pretrained, "pretrain", variant, "effective_rank")
    loss.set(title="Pretraining loss", ylabel="negative cosine (−1 to 1)", ylim=(-1.03, None))
    spread.set(title="Spread of the patch embeddings", ylabel="relative spread (0 to 1)", yscale="log")
    rank.set(title="Rank of the patch embeddings", xlabel="step", ylabel="effective rank (1: a line)", ylim=(0.9, None))
    spread.axhline(COLLAPSED_BELOW, color="0.5", linestyle=":", linewidth=1)
    where = dict(xycoords=("axes fraction", "data"), ha="right", va="bottom")
    spread.annotate("collapsed below", (0.99, COLLAPSED_BELOW), color="0.3", fontsize=9, **where)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return figure

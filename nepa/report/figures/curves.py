"""Fig. 7: the pretraining loss, and beneath it what the loss does not tell, distance and rank of the embeddings."""

from matplotlib.figure import Figure

from nepa.objective.failure import COLLAPSED_ABOVE
from nepa.report.collect import Run
from nepa.report.figures.style import WIDTH, in_order, plot_history


def draw_curves(runs: list[Run]) -> Figure | None:
    """Loss, mean pairwise cosine and effective rank of the main line's pretrained variants."""
    pretrained = [run for run in runs if run.stage == "pretrain" and not run.further]
    if not pretrained:
        return None
    figure = Figure((WIDTH, 8.6), layout="constrained")
    loss, distance, rank = figure.subplots(3, 1, sharex=True)
    for variant in in_order(run.variant for run in pretrained):
        plot_history(loss, pretrained, "pretrain", variant, "loss")
        plot_history(distance, pretrained, "pretrain", variant, "1 - mean_pairwise_cosine")
        plot_history(rank, pretrained, "pretrain", variant, "effective_rank")
    loss.set(title="Pretraining loss", ylabel="negative cosine (−1 to 1)", ylim=(-1.03, None))
    distance.set(title="Distance of two patch embeddings, in the mean", ylabel="1 − mean cosine (0 to 2)", yscale="log")
    rank.set(title="Rank of the patch embeddings", xlabel="step", ylabel="effective rank (1: a line)", ylim=(0.9, None))
    distance.axhline(1 - COLLAPSED_ABOVE, color="0.5", linestyle=":", linewidth=1)
    where = dict(xycoords=("axes fraction", "data"), ha="right", va="bottom")
    distance.annotate("collapsed below", (0.99, 1 - COLLAPSED_ABOVE), color="0.3", fontsize=9, **where)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return figure

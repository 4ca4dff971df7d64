"""Which classes a fine-tuned model takes for which."""

import numpy as np
from matplotlib.figure import Figure

from nepa.report.collect import Run
from nepa.report.figures.style import WIDTH

SHOWN = ("full", "from_scratch")
WRITTEN_UP_TO = 12  # classes: more leave no room for their names, nor for numbers in the cells
LONGEST = 14  # letters of a name: more would leave the matrix no room
TICKS = 10


def draw_confusion(runs: list[Run]) -> Figure | None:
    """Rows of the confusion matrix in percent, over all seeds, of `full` and of training from scratch."""
    tuned = [run for run in runs if run.stage == "finetune" and run.variant in SHOWN and run.metrics["confusion"]]
    if not tuned:
        return None
    names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in tuned[0].metrics["class_names"]]
    matrices = {}
    for variant in SHOWN:
        counts = [np.array(run.metrics["confusion"]) for run in tuned if run.variant == variant]
        if counts:
            matrices[f"{variant}, {len(counts)} seed{'s' * (len(counts) > 1)}"] = sum(counts)
    figure = Figure((WIDTH, 4.1), layout="compressed")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for panel, (title, counts) in zip(panels, matrices.items(), strict=True):
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        picture = panel.imshow(share, cmap="Blues", vmin=0, vmax=100)
        classes = len(counts)
        every = range(0, classes, -(-classes // TICKS) if classes > WRITTEN_UP_TO else 1)
        panel.set(title=title, xlabel="predicted class", ylabel="true class", xticks=every, yticks=every)
        panel.spines[:].set_visible(True)
        if classes <= WRITTEN_UP_TO:
            panel.set_xticklabels(names, rotation=90 if max(map(len, names)) > 2 else 0, parse_math=False)
            panel.set_yticklabels(names, parse_math=False)
            for (row, column), value in np.ndenumerate(share):
                if round(value):
                    colour = "white" if value > 55 else "black"
                    panel.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8.5)
    figure.colorbar(picture, ax=panels, label="of the true class's images (%)", shrink=0.8)
    return figure

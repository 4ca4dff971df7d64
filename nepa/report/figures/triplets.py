"""Fig. 5: a query patch, what the model attends to there, and which patches resemble what it predicts there."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nepa.report.collect import Run
from nepa.report.figures.style import AMOUNTS, SIGNED, WIDTH, first_runs, with_samples

PER_ROW = 2  # triplets side by side
EXAMPLES = 6  # of a variant that stands alone
NAME_WIDTH = 16  # characters of a variant's name beside its row


def draw_triplets(runs: list[Run]) -> Figure | None:
    """Triplets of each variant's first seed that did not diverge: the same images and queries for all of them."""
    chosen = first_runs(with_samples(runs), "pretrain")
    if not chosen:
        return None
    rows_each = max(1, EXAMPLES // PER_ROW // len(chosen))
    rows = rows_each * len(chosen)
    figure = Figure((WIDTH, 1.42 * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, 3 * PER_ROW, squeeze=False)
    for number, (variant, run) in enumerate(chosen.items()):
        views = run.samples()
        images, queries = views["attention"].shape[:2]
        for example in range(rows_each * PER_ROW):
            row, column = number * rows_each + example // PER_ROW, 3 * (example % PER_ROW)
            # The image changes faster than the query, so that a single row has two images with a query each.
            image, query = example % images, (example // images + example % images) % queries
            _draw_triplet(grid[row, column : column + 3], views, image, query)
        name = textwrap.fill(variant.replace("_", " "), NAME_WIDTH).replace("\n", " \n").replace(" ", "_")
        grid[number * rows_each, 0].set_ylabel(f"{name}\nseed {run.seed}", fontsize=9)
    for column in range(3 * PER_ROW):
        grid[0, column].set_title(("image and query", "attention", "cosine")[column % 3], fontsize=10)
    for colours, norm, label, where in (
        (AMOUNTS, Normalize(0, 1), "attention, share of the map's largest", (0, 3)),
        (SIGNED, Normalize(-1, 1), "cosine of the predicted embedding with each patch's", (3, 6)),
    ):
        bar = figure.colorbar(
            ScalarMappable(norm, colours), ax=grid[-1, slice(*where)], location="bottom", aspect=40, pad=0.02
        )
        bar.set_label(label, fontsize=9)
        bar.set_ticks(np.linspace(norm.vmin, norm.vmax, 5))
        bar.ax.tick_params(labelsize=9)
    return figure


def _draw_triplet(panels: np.ndarray, views: dict[str, np.ndarray], image: int, query: int) -> None:
    rows, columns = views["grid"]
    position, target = views["queries"][query], views["targets"][query]
    weights = views["attention"][image, query].astype(float)
    attention = weights[1:].reshape(rows, columns)
    if views["causal"]:
        hidden = np.arange(rows * columns).reshape(rows, columns) > position
        attention = np.ma.array(attention, mask=hidden)
    pixels = views["images"][image]
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)  # in patches, for all three
    picture: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255, "extent": extent, "interpolation": "nearest"}
    panels[0].imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, **picture)
    panels[1].set_facecolor("0.85")
    panels[1].imshow(attention, cmap=AMOUNTS, vmin=0, vmax=attention.max(), extent=extent)
    panels[2].imshow(views["cosine"][image, query].astype(float).reshape(rows, columns), cmap=SIGNED, vmin=-1, vmax=1)
    panels[1].set_xlabel(f"BOS {100 * weights[0]:.0f} %", fontsize=8.5, labelpad=5)
    for panel in panels:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
        panel.autoscale(False)
        _outline(panel, *divmod(int(position), int(columns)), columns)
        if panel is not panels[1] and target != position and target < rows * columns:
            row, column = divmod(int(target), int(columns))
            dot = {"markersize": min(6, 48 / columns), "markerfacecolor": "white", "markeredgecolor": "black"}
            panel.plot(column, row, "o", zorder=4, **dot)


def _outline(axes: Axes, row: int, column: int, columns: int) -> None:
    """Around a patch, in white with a black rim, to be seen on every colour."""
    gap = 0.015 * columns
    corner, side = (column - 0.5 - gap, row - 0.5 - gap), 1 + 2 * gap
    for colour, width in (("black", 2), ("white", 1)):
        line = {"edgecolor": colour, "linewidth": width * min(1.6, 16 / columns)}
        axes.add_patch(Rectangle(corner, side, side, fill=False, clip_on=False, zorder=3, **line))

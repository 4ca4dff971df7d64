"""The growth of time and memory as a figure: measured, and predicted from arithmetic and from what is kept."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from nepa.bench.rows import Row
from nepa.report.figures import save_figure
from nepa.report.figures.style import STYLE, WIDTH, line_of

NAME = "growth.png"
MEASURED, PREDICTED = line_of("full")["color"], line_of("no_stop_gradient")["color"]
AXES = {"tokens": "patches of an image", "batch": "images of a step", "width": "channels of the model (width)"}
FIXED = {"tokens": "patches: {}", "batch": "images: {}", "width": "width: {}"}


def draw_growth(rows: list[Row], title: str, folder: Path) -> None:
    """Draw the rows of `measure_growth` that were measured, logarithmic both ways, a panel for each axis and quantity.

    The slopes that are written out are those of the last segments.
    """
    table = pd.DataFrame(row for row in rows if "not_measured" not in row)
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 5.8), layout="constrained")
        panels = figure.subplots(2, 3, sharey="row", sharex="col")
        for column, axis in enumerate(AXES):
            varied = table[table["axis"] == axis].set_index(axis)
            _panel(panels[0, column], varied["seconds"], varied["floor_seconds"])
            _panel(panels[1, column], varied["peak_memory_mb"], varied["floor_memory_mb"])
            fixed = [text.format(varied[name].iloc[0]) for name, text in FIXED.items() if name != axis]
            panels[0, column].set_title(", ".join(fixed), fontsize=10)
            panels[1, column].set_xlabel(AXES[axis])
        panels[0, 0].set_ylabel("time of a step (s)")
        panels[1, 0].set_ylabel("peak memory (MB)")
        figure.suptitle(title)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        save_figure(figure, folder / NAME)


def slope(values: pd.Series) -> float:
    """Of the last segment of a curve, logarithmic both ways."""
    (before, after), (low, high) = np.log(values.index[-2:]), np.log(values.to_numpy()[-2:])
    return (high - low) / (after - before)


def _panel(panel: Axes, measured: pd.Series, predicted: pd.Series) -> None:
    panel.loglog(measured.index, measured, "o-", color=MEASURED, markersize=4, label="measured")
    label = "predicted from arithmetic and activations"
    panel.loglog(predicted.index, predicted, "--", color=PREDICTED, label=label)
    for text, values, colour, height in (
        ("slope", measured, MEASURED, 0.13),
        ("predicted", predicted, PREDICTED, 0.03),
    ):
        where = {"xy": (0.98, height), "xycoords": "axes fraction", "ha": "right"}
        panel.annotate(f"{text} {slope(values):.2f}", color=colour, fontsize=9.5, **where)
    panel.xaxis.set_major_locator(LogLocator(base=4, subs=(1,)))
    panel.xaxis.set_major_formatter("{x:,g}")
    panel.xaxis.set_minor_formatter("")

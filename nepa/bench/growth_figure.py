"""The growth of time and memory as a figure: measured, and the floor whose slope is the one to expect."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display library

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import LogLocator  # noqa: E402

from nepa.training.checkpoints import write_atomically  # noqa: E402

STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
MEASURED, EXPECTED = "#0072B2", "#D55E00"
AXES = {"tokens": "patches of an image", "batch": "images of a step", "width": "width of the model"}
QUANTITIES = {"seconds": "seconds of a step", "memory_mb": "peak memory (MB)"}


def draw_growth(rows: list[dict], title: str, path: Path) -> None:
    """Draw the rows of `measure_growth`, logarithmic both ways, a panel for each axis and quantity."""
    table = pd.DataFrame(rows)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 3, figsize=(8.5, 5.6), layout="constrained", sharey="row")
        for column, axis in enumerate(AXES):
            varied = table[table["axis"] == axis].set_index(axis)
            _panel(panels[0, column], varied["seconds"], varied["floor_seconds"])
            _panel(panels[1, column], varied["peak_memory_mb"], varied["floor_memory_mb"])
            panels[0, column].set_title(_fixed(varied.iloc[0], axis))
            panels[1, column].set_xlabel(AXES[axis])
        for row, label in enumerate(QUANTITIES.values()):
            panels[row, 0].set_ylabel(label)
        figure.suptitle(title)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        with write_atomically(path) as beside:
            figure.savefig(beside, dpi=130, format="png", metadata={"Software": None})
        plt.close(figure)


def slope(values: pd.Series) -> float:
    """Of the last segment of a curve, logarithmic both ways."""
    (before, after), (low, high) = np.log(values.index[-2:]), np.log(values.to_numpy()[-2:])
    return (high - low) / (after - before)


def _panel(panel: Axes, measured: pd.Series, floor: pd.Series) -> None:
    panel.loglog(measured.index, measured, "o-", color=MEASURED, markersize=4, label="measured")
    panel.loglog(floor.index, floor, "--", color=EXPECTED, label="floor, with the slope to expect")
    for values, colour, below in ((measured, MEASURED, False), (floor, EXPECTED, True)):
        panel.annotate(
            f"{slope(values):.2f}", (values.index[-1], values.iloc[-1]), xytext=(2, -11 if below else 5),
            textcoords="offset points", ha="right", color=colour, fontsize=9,
        )  # fmt: skip
    panel.xaxis.set_major_locator(LogLocator(base=4, subs=(1,)))
    panel.xaxis.set_major_formatter("{x:,g}")
    panel.xaxis.set_minor_formatter("")


def _fixed(size: pd.Series, axis: str) -> str:
    others = {"tokens": "{} patches", "batch": "{} images", "width": "width {}"}
    return ", ".join(text.format(size[name]) for name, text in others.items() if name != axis)

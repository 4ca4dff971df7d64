"""How every figure looks: its size, its fonts, and one colour and dash per variant."""

import zlib
from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator

from nepa.report.collect import Run

WIDTH = 8.5  # inches; a reader sees it some 850 pixels wide, so that a point of font size is 1.4 pixels
PIXELS_PER_INCH = 130
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
}
# Okabe and Ito's colours, then some of Tol's: told apart by colour-blind readers. Dashes let a line that lies under
# another be seen. In the order in which figures list the variants.
VARIANTS: dict[str, tuple[str, str]] = {
    "full": ("#0072B2", "-"),
    "no_causal_mask": ("#E69F00", "-"),
    "no_shift": ("#009E73", "--"),
    "no_stop_gradient": ("#D55E00", "-."),
    "from_scratch": ("#000000", "--"),
    "from_scratch_long": ("#888888", "-"),
    "plain": ("#56B4E9", "--"),
    "layer_scale": ("#CC79A7", "-"),
    "layer_scale_rope": ("#332288", "-"),
    "gated_mlp": ("#882255", "-"),
    "gated_mlp_without_qk_norm": ("#999933", "--"),
}
OTHER_COLOURS = ("#AA4499", "#44AA99", "#661100", "#6699CC", "#117733")
OTHER_DASHES = ("-", "--", "-.")
AMOUNTS = "viridis"  # both colour maps are as readable to colour-blind eyes
SIGNED = "PuOr"


def line_of(variant: str) -> dict[str, str]:
    """Colour and dash of a variant, in every figure and of every recipe the same."""
    number = zlib.crc32(variant.encode())  # by name alone, whatever else has run
    other = OTHER_COLOURS[number % len(OTHER_COLOURS)], OTHER_DASHES[number // 8 % len(OTHER_DASHES)]
    colour, dash = VARIANTS.get(variant, other)
    return {"color": colour, "linestyle": dash}


def in_order(variants: Iterable[str]) -> list[str]:
    """Variants without repetition: those above in their order, then others by name."""
    found = set(variants)
    known = [variant for variant in VARIANTS if variant in found]
    return known + sorted(found - set(known))


def first_runs(runs: list[Run], stage: str) -> dict[str, Run]:
    """Each variant's run with the first seed, of one stage."""
    first = {run.variant: run for run in reversed(runs) if run.stage == stage}
    return {variant: first[variant] for variant in in_order(first)}


def with_samples(runs: list[Run]) -> list[Run]:
    """Those that kept something to be drawn: what diverged has nothing, whatever it started from."""
    sound = [run for run in runs if run.status != "diverged" and run.metrics.get("mIoU", True) is not None]
    return [run for run in sound if (run.folder / "samples.npz").exists()]


def with_plain_numbers(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of every decade of a logarithmic axis, written out."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter("")


def plot_history(axes: Axes, runs: list[Run], stage: str, variant: str, value: str) -> None:
    """A curve of the history: the mean over seeds, and a band from the lowest to the highest; none of what diverged
    before its first row.

    Args:
        value: a column, or an expression of columns as pandas evaluates it.
    """
    histories = [run.history() for run in runs if (run.stage, run.variant) == (stage, variant)]
    histories = [history for history in histories if len(history)]
    if not histories:
        return
    table = pd.concat([history.set_index("step").eval(value) for history in histories], axis=1)
    line = line_of(variant)
    marker = "o" if len(table) == 1 else None  # of a single row there is no line
    axes.plot(table.index, table.mean(axis=1), label=variant, marker=marker, **line)
    band = table.min(axis=1), table.max(axis=1)
    axes.fill_between(table.index, *band, color=line["color"], alpha=0.15, linewidth=0)

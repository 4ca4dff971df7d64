"""Pieces of Markdown that the report is made of."""

import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from nepa.report.statistics import Difference

NONE = "–"
EMPTY = "(none)"


def table(content: pd.DataFrame) -> str:
    """A table, or `EMPTY`."""
    return EMPTY if content.empty else content.to_markdown(index=False, disable_numparse=True)


def section(recipe: str, title: str) -> str:
    """The heading of a recipe's section; headings must differ, since links lead to them."""
    return f"{recipe}, {title}"


def anchor(heading: str) -> str:
    """What code hosts make of a heading: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def link(text: str, heading: str) -> str:
    """A link to a heading of the same document."""
    return f"[{text}](#{anchor(heading)})"


def bold(text: str) -> str:
    """Emphasised."""
    return f"**{text}**"


def joined(values: Iterable[Any], by: str = ", ") -> str:
    """Values as one text; `NONE` for none."""
    return by.join(str(value) for value in values) or NONE


def mean(value: float, deviation: float, digits: int = 1) -> str:
    """Mean ± standard deviation over seeds; the mean alone of one seed, `NONE` of none."""
    if pd.isna(value):
        return NONE
    return f"{value:.{digits}f}" + ("" if pd.isna(deviation) else f" ± {deviation:.{digits}f}")


def interval(difference: Difference | None, seeds: int = 0) -> str:
    """Mean difference and its interval; of how many seeds, where they are fewer than `seeds`."""
    if difference is None:
        return NONE
    if difference.n < 2:
        return f"{difference.mean:+.1f} (n = 1)"
    fewer = f" (n = {difference.n})" if difference.n < seeds else ""
    # An interval that excludes 0 must not look as if it touched it.
    nearest = min(abs(difference.low), abs(difference.high))
    digits = 2 if difference.low * difference.high > 0 and nearest < 0.05 else 1
    return f"{difference.mean:+.1f} [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]{fewer}"


def paper_figure(figure: float | str | None) -> str:
    """A figure of the paper, or `NONE` where it states none."""
    return NONE if figure is None or pd.isna(figure) else str(figure)


def setting(value: Any) -> str:
    """A value of params.yaml."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)

"""A machine's folder of measurements, a file for each, and the same as tables."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from nepa.bench.rows import Row

FOLDER = Path("results/bench")


def results_folder(hardware: str, recipe: str) -> Path:
    """Where a machine's measurements of a recipe lie."""
    return FOLDER / re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-") / recipe


def describe(title: str, rows: list[Row]) -> str:
    """Rows as a table in Markdown, a column for each case."""
    table = pd.json_normalize(rows, sep=" ").T.map(_number).fillna("")
    table.index = table.index.str.replace("_", " ")
    headers = [title] + [""] * len(rows)
    return table.to_markdown(headers=headers, disable_numparse=True)


def _number(value: Any) -> Any:
    return f"{value:,.4g}" if isinstance(value, float) and value == value else value

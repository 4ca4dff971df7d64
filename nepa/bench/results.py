"""The file of one machine's measurements, and the same as tables."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from nepa.bench.rows import Row
from nepa.errors import UserError
from nepa.training.checkpoints import write_json

FOLDER = Path("results/bench")


def slug(hardware: str) -> str:
    """A machine's name as a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-")


def add_measurement(path: Path, measurement: dict[str, Any]) -> None:
    """Write a measurement into a machine's file, in place of the one before of the same kind and recipe.

    Raises:
        UserError: the file holds something else.
    """
    try:
        before = json.loads(path.read_text())["measurements"] if path.exists() else []
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path} is not what `nepa bench` wrote; move it away, or give another --output") from None
    kind = measurement["what"], measurement["recipe"]
    others = [other for other in before if (other["what"], other["recipe"]) != kind]
    ordered = sorted([*others, measurement], key=lambda each: (each["what"], each["recipe"]))
    write_json(path, {"measurements": ordered})


def describe(what: str, rows: list[Row]) -> str:
    """Rows as a table in Markdown, a column for each case."""
    table = pd.json_normalize(rows, sep=" ").T.map(_number).fillna("")
    table.index = table.index.str.replace("_", " ")
    headers = [what] + [""] * len(rows)
    return table.to_markdown(headers=headers, disable_numparse=True)


def _number(value: Any) -> Any:
    return f"{value:,.4g}" if isinstance(value, float) and value == value else value

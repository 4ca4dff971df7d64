"""The rows of the paper's tables as the report shows them; its tables and its summary are made of these alone."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from nepa.report.collect import Run
from nepa.report.paper import on_the_papers_data, paper, paper_tables, scored_stage
from nepa.report.statistics import Difference, paired_difference
from nepa.report.verdict import Verdict, by_seed, level_verdict, lost_seeds, row_verdict


@dataclass(frozen=True)
class Comparison:
    """One row.

    Attributes:
        mean, std: over `n` seeds; nan without.
        difference: the table's reference minus this variant, seed by seed; None for the reference itself.
        paper: its figure: a number, `fail`, or None.
    """

    task: str
    variant: str
    metric: str
    status: str
    mean: float
    std: float
    n: int
    difference: Difference | None
    paper: float | str | None
    verdict: Verdict


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables with what stands beside it.

    Attributes:
        name: such as `Table 1a`.
        subject: what it is about, and with what model.
    """

    task: str
    name: str
    subject: str
    reference: str
    rows: list[Comparison]

    @property
    def ran(self) -> bool:
        """Something stands beside it."""
        return any(row.status != "not_run" for row in self.rows)


def compare_with_paper(recipe: str, runs: list[Run], table: pd.DataFrame) -> list[PaperTable]:
    """Every table of the paper, in its order, beside one recipe's runs.

    Args:
        table: `build_table`'s.
    """
    mine = table[table["recipe"] == recipe]
    compared = []
    for task, stated in paper_tables(recipe).items():
        reference = stated.get("reference", "full")
        levels = on_the_papers_data(recipe) and stated.get("levels", True)
        rows = [
            _compare(runs, row, reference, stated["rows"], levels)
            for row in mine[mine["task"] == task].astype(object).itertuples()
        ]
        if rows:
            name, subject = stated["title"].split(": ", 1)
            compared.append(PaperTable(task, name, subject, reference, rows))
    return compared


def _compare(runs: list[Run], row: Any, reference: str, figures: dict[str, Any], levels: bool) -> Comparison:
    stage = scored_stage(row.task)
    values = by_seed(runs, stage, row.variant, row.metric)
    difference = paired_difference(by_seed(runs, stage, reference, row.metric), values)
    verdict = row_verdict(runs, stage, row.metric, row.variant, reference, figures)
    figure = figures.get(row.variant)
    if verdict.kind == "reference" and isinstance(figure, float) and levels:
        verdict = level_verdict(values, figure, lost_seeds(runs, stage, row.variant, row.metric))
    reason = paper()["untested"].get(row.recipe, {}).get(row.variant)
    if reason and verdict.kind != "not run":
        verdict = Verdict("not tested", f"not tested: {reason}")
    return Comparison(
        row.task, row.variant, row.metric, row.status, row.mean, row.std, row.n,
        None if row.variant == reference else difference, figure, verdict,
    )  # fmt: skip

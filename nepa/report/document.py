"""results/report.md: the tables, figures and provenance of what has run, each from a file that a stage wrote."""

from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd

from nepa.objective.failure import COLLAPSED_ABOVE, IDENTITY_ABOVE
from nepa.parameters import Parameters
from nepa.parameters.loading import read_text
from nepa.parameters.recipes import RECIPES, opening
from nepa.report import markdown, summary
from nepa.report.collect import Run
from nepa.report.comparisons import PaperTable, compare_with_paper
from nepa.report.facts import cost_table, pretraining_table, provenance_table, settings_table, variants_table
from nepa.report.paper import on_the_papers_data, paper
from nepa.report.verdict import LEVEL_MARGIN, MARGIN_OVER_CHANCE


def write_document(
    parameters: Parameters, runs: list[Run], table: pd.DataFrame, figures: dict[str, dict[str, str]]
) -> str:
    """The report as Markdown.

    Args:
        runs: of all recipes.
        table: `build_table`'s.
        figures: paths of pictures, relative to the report, by recipe and name.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals.update(table=markdown.table, link=markdown.link, section=markdown.section)
    template = environment.from_string(files("nepa.report").joinpath("report.md.j2").read_text())
    current = parameters.recipe
    names = [current, *sorted({run.recipe for run in runs} - {current})]
    recipes = [_recipe(parameters, name, runs, table, figures[name]) for name in names]
    return template.render(
        parameters=parameters,
        recipes=recipes,
        not_run=summary.what_did_not_run(parameters, len(recipes[0]["not_run"]), RECIPES, runs),
        not_attempted=paper()["not_attempted"],
        limits={
            "over_chance": MARGIN_OVER_CHANCE,
            "level": LEVEL_MARGIN,
            "collapsed": COLLAPSED_ABOVE,
            "identity": IDENTITY_ABOVE,
        },
        settings=settings_table(parameters),
        variants=variants_table(parameters),
    )


def _recipe(
    parameters: Parameters, name: str, runs: list[Run], table: pd.DataFrame, figures: dict[str, str]
) -> dict[str, Any]:
    mine = [run for run in runs if run.recipe == name]
    tables = compare_with_paper(name, mine, table)
    ran = [compared for compared in tables if compared.ran]
    return {
        "name": name,
        "runs": mine,
        "what_ran": summary.what_ran(parameters, name, mine),
        "counts": summary.counts(ran),
        "intervals": summary.intervals(ran, mine),
        "gain": summary.gain(mine),
        "unequal": summary.unequal(ran, mine),
        "of_the_paper": on_the_papers_data(name),
        "findings": summary.findings_table(name, ran, figures),
        "not_run": summary.not_run_rows(tables),
        "statement": _statement(name).split("\n\n", 1),
        "pretraining": pretraining_table(table[table["recipe"] == name]),
        "tables": [(compared.name, compared.subject, comparison_table(compared)) for compared in ran],
        "figures": figures,
        "cost": cost_table(mine),
        "provenance": provenance_table(mine),
        "evaluated_on": markdown.joined(sorted({r.metrics["evaluated_on"] for r in mine if r.stage == "finetune"})),
    }


def comparison_table(compared: PaperTable) -> pd.DataFrame:
    """One of the paper's tables, ours beside it; a difference of fewer seeds than others says of how many."""
    seeds = max(row.n for row in compared.rows)
    return pd.DataFrame(
        {
            "variant": f"`{row.variant}`",
            "status": row.status,
            f"{row.metric}, %": markdown.mean(row.mean, row.std) + (f" (n = {row.n})" if row.n else ""),
            f"{compared.reference} − variant": markdown.interval(row.difference, seeds),
            "paper": markdown.paper_figure(row.paper),
            "verdict": row.verdict.text,
        }
        for row in compared.rows
    )


def _statement(recipe: str) -> str:
    """What a recipe can show, from its own page, or else what its file opens with."""
    page, numbers = RECIPES / f"{recipe}.md", RECIPES / f"{recipe}.yaml"
    if page.exists():
        return read_text(page).strip()
    if not numbers.exists():
        return f"({page} does not exist: what this recipe can show is unsaid.)"
    lines = opening(read_text(numbers)).splitlines()
    return "\n".join("> " + line.removeprefix("#").strip() + "  " for line in lines)

"""What the paper states, from paper.yaml, and which of it a recipe stands for."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from nepa.parameters.schema import Stage


@cache
def paper() -> dict[str, Any]:
    """The paper's tables and settings."""
    return yaml.safe_load(files("nepa.report").joinpath("paper.yaml").read_text())


def paper_tables(recipe: str) -> dict[str, dict[str, Any]]:
    """The paper's tables, with the title and the rows that the recipe's variants stand for; no rows where none do."""
    own, tables = of_recipe(recipe).get("tables", {}), paper()["tables"]
    stands_for = of_recipe(recipe).get("stands_for", tables)
    return {
        task: table | own.get(task, {}) | ({} if task in stands_for else {"rows": {}}) for task, table in tables.items()
    }


def on_the_papers_data(recipe: str) -> bool:
    """The recipe's levels compare with the paper's, not its differences alone: paper.yaml names it."""
    return recipe in paper()["recipes"]


def of_recipe(recipe: str) -> dict[str, Any]:
    """What of the paper stands otherwise for one recipe; empty where nothing does."""
    return paper()["recipes"].get(recipe, {})


def scored_stage(task: str) -> Stage:
    """The stage whose metric a table has."""
    return "segment" if task == "segmentation" else "finetune"

"""results/report.md: the tables, figures and provenance of what has run, each from a file that a stage wrote."""

import itertools
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from nepa.parameters import Parameters
from nepa.report.collect import Run
from nepa.report.statistics import Difference, paired_difference
from nepa.report.table import paper, paper_tables
from nepa.report.verdict import by_seed, row_verdict

RECIPES = Path("recipes")
NONE = "–"
EMPTY = "(none)"


def write_document(parameters: Parameters, runs: list[Run], table: pd.DataFrame, figures: dict[str, list[str]]) -> str:
    """The report as Markdown.

    Args:
        runs: of all recipes.
        table: `build_table`'s.
        figures: paths of pictures, relative to the report, by recipe.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(files("nepa.report").joinpath("report.md.j2").read_text())
    current = parameters.recipe
    recipes = []
    for name in [current, *sorted({run.recipe for run in runs} - {current})]:
        mine = [run for run in runs if run.recipe == name]
        rows, tables = table[table["recipe"] == name], paper_tables(name)
        recipes.append(
            {
                "name": name,
                "statement": _statement(name),
                "ablation": _markdown(ablation_table(parameters, mine, rows)),
                "classification": _markdown(compared_table(parameters, mine, rows, "classification")),
                "segmentation": _markdown(compared_table(parameters, mine, rows, "segmentation")),
                "further": [
                    {"title": tables[task]["title"], "table": _markdown(table)}
                    for task in further_tasks(mine, tables)
                    if not (table := compared_table(parameters, mine, rows, task)).empty
                ],
                "figures": {Path(path).stem: path for path in figures.get(name, [])},
                "cost": _markdown(cost_table(mine)),
                "provenance": _markdown(provenance_table(mine)),
                "evaluated_on": _joined(run.metrics["evaluated_on"] for run in mine if run.stage == "finetune"),
            }
        )
    return template.render(
        parameters=parameters,
        recipes=recipes,
        NONE=EMPTY,
        settings=_markdown(settings_table(parameters)),
        variants=_markdown(variants_table(parameters)),
        not_run=_markdown(not_run_table(table)),
    )


def ablation_table(parameters: Parameters, runs: list[Run], rows: pd.DataFrame) -> pd.DataFrame:
    """Table 1a: what pretraining did, what fine-tuning made of it, and what that says about the paper's row."""
    figures = paper_tables(_recipe(rows))["ablation"]["rows"]
    lines = []
    ablation = rows[rows["task"] == "ablation"]
    if (ablation["status"] == "not_run").all():
        return pd.DataFrame()
    for row in ablation.itertuples():
        measures = rows[(rows["task"] == "pretraining") & (rows["variant"] == row.variant)].set_index("metric")["mean"]
        difference = _difference(runs, "finetune", "top1", "full", row.variant)
        lines.append(
            {
                "variant": row.variant,
                "status": row.status,
                "loss": _number(measures.get("evaluation_loss"), 4),
                "relative spread": _number(measures.get("relative_spread"), 4),
                "cosine with own position": _number(measures.get("identity_cosine"), 4),
                "top-1": _mean(row),
                "full − variant": _interval(difference),
                "paper": _paper(figures.get(row.variant)),
                "verdict": row_verdict(runs, "finetune", "top1", row.variant, "full", figures, parameters.data.classes),
            }
        )
    return pd.DataFrame(lines)


def compared_table(parameters: Parameters, runs: list[Run], rows: pd.DataFrame, task: str) -> pd.DataFrame:
    """The variants of one task, each compared with the table's reference seed by seed."""
    stated = paper_tables(_recipe(rows))[task]
    stage, reference = "segment" if task == "segmentation" else "finetune", stated.get("reference", "full")
    lines = []
    for row in rows[(rows["task"] == task) & (rows["status"] != "not_run")].itertuples():
        difference = _difference(runs, stage, row.metric, reference, row.variant)
        verdict = row_verdict(runs, stage, row.metric, row.variant, reference, stated["rows"], parameters.data.classes)
        lines.append(
            {
                "variant": row.variant,
                "status": row.status,
                row.metric: _mean(row),
                f"{reference} − variant": _interval(difference),
                "paper": _paper(row.paper),
                "verdict": verdict,
            }
        )
    return pd.DataFrame(lines)


def further_tasks(runs: list[Run], tables: dict[str, dict[str, Any]]) -> list[str]:
    """The paper's other tables of which a variant of their own has run."""
    ran = {run.variant for run in runs if run.further}
    return [task for task, stated in tables.items() if ran & set(stated["rows"])]


def cost_table(runs: list[Run]) -> pd.DataFrame:
    """Wall time, throughput and memory by stage, as its runs recorded them."""
    by_stage: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_stage[run.stage].append(run.provenance)
    lines = []
    for stage, facts in sorted(by_stage.items(), key=lambda item: ["pretrain", "finetune", "segment"].index(item[0])):
        trained = [fact["images_per_second"] for fact in facts if fact["images_per_second"]]
        lines.append(
            {
                "stage": stage,
                "runs": len(facts),
                "training, s": f"{sum(fact['seconds'] for fact in facts):.0f}",
                "whole process, s": f"{sum(fact['stage_seconds'] for fact in facts):.0f}",
                "images/s, median": f"{pd.Series(trained).median():,.0f}" if trained else NONE,
                "peak memory, MB": f"{max(fact['peak_memory_mb'] for fact in facts):,}",
            }
        )
    return pd.DataFrame(lines)


def provenance_table(runs: list[Run]) -> pd.DataFrame:
    """Code, data, hardware and versions by stage; more than one value means that the runs differ."""
    lines = []
    for stage in sorted({run.stage for run in runs}):
        facts = [run.provenance for run in runs if run.stage == stage]
        lines.append(
            {
                "stage": stage,
                "code": _joined(fact["code"][:12] for fact in facts),
                "data": _joined(fact["data"][:12] for fact in facts),
                "hardware": _joined(fact["hardware"] for fact in facts),
                "threads": _joined(fact["threads"] for fact in facts),
                "versions": _joined(", ".join(f"{k} {v}" for k, v in fact["versions"].items()) for fact in facts),
                "finished": max(fact["finished"] for fact in facts),
            }
        )
    return pd.DataFrame(lines)


def settings_table(parameters: Parameters) -> pd.DataFrame:
    """Where the recipe in place has neither the paper's setting nor the released code's."""
    lines = []
    for name, stated in paper()["settings"].items():
        section, key = name.split(".")
        ours = getattr(getattr(parameters, section), key)
        if ours not in stated.values():
            theirs = {source: _value(stated[source]) if source in stated else NONE for source in ("paper", "code")}
            lines.append({"setting": f"`{name}`", "here": _value(ours)} | theirs)
    return pd.DataFrame(lines)


def variants_table(parameters: Parameters) -> pd.DataFrame:
    """What each variant changes in the shared settings."""
    lines = []
    for group in ("pretraining", "finetuning", "segmentation"):
        for variant, sections in parameters.variants(group).items():
            changes = [
                f"`{section}.{key}` {_value(value)} (shared: {_value(getattr(getattr(parameters, section), key))})"
                for section, values in sections.items()
                for key, value in values.items()
            ]
            lines.append({"group": group, "variant": variant, "changes": "; ".join(changes) or "nothing"})
    return pd.DataFrame(lines)


def not_run_table(table: pd.DataFrame) -> pd.DataFrame:
    """The paper's rows that nothing here stands beside."""
    titles = paper()["tables"]
    lines = [
        {"paper": titles[row.task]["title"], "row": row.variant, "paper's figure": _paper(row.paper)}
        for row in table[table["status"] == "not_run"].itertuples()
        if row.task in titles and row.paper is not None and not pd.isna(row.paper)
    ]
    return pd.DataFrame(lines)


def _difference(runs: list[Run], stage: str, metric: str, reference: str, variant: str) -> Difference | None:
    if variant == reference:
        return None
    return paired_difference(by_seed(runs, stage, reference, metric), by_seed(runs, stage, variant, metric))


def _recipe(rows: pd.DataFrame) -> str:
    return "" if rows.empty else rows["recipe"].iloc[0]


def _statement(recipe: str) -> str:
    """What a recipe can show, from its own page, or else what its file opens with."""
    page, numbers = RECIPES / f"{recipe}.md", RECIPES / f"{recipe}.yaml"
    if page.exists():
        return page.read_text().strip()
    if not numbers.exists():
        return f"({page} does not exist: what this recipe can show is unsaid.)"
    lines = itertools.takewhile(lambda line: line.startswith("#"), numbers.read_text().splitlines())
    return "\n".join("> " + line.removeprefix("#").strip() + "  " for line in lines)


def _joined(values: Any) -> str:
    return ", ".join(sorted({str(value) for value in values})) or NONE


def _markdown(table: pd.DataFrame) -> str:
    return EMPTY if table.empty else table.to_markdown(index=False, disable_numparse=True)


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None or pd.isna(value) else f"{value:.{digits}f}"


def _mean(row: Any) -> str:
    if not row.n:
        return NONE
    deviation = "" if pd.isna(row.std) else f" ± {row.std:.1f}"
    return f"{row.mean:.1f}{deviation} (n = {row.n})"


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return NONE
    if difference.n < 2:
        return f"{difference.mean:+.1f} (n = 1)"
    return f"{difference.mean:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"


def _paper(figure: float | str | None) -> str:
    return NONE if figure is None or pd.isna(figure) else str(figure)


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)

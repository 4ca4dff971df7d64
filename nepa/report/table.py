"""results/table.csv: every measured figure beside the paper's, one row per task, variant and metric."""

from collections import Counter
from typing import Any

import pandas as pd

from nepa.parameters import Parameters
from nepa.report.collect import Run
from nepa.report.paper import paper_tables, scored_stage

COLUMNS = ["task", "variant", "metric", "mean", "std", "n", "paper", "recipe", "status"]
PRETRAINING_METRICS = (
    "evaluation_loss",
    "mean_pairwise_cosine",
    "effective_rank",
    "identity_cosine",
)


def joint_status(statuses: list[str]) -> str:
    """The status that all seeds share, else `partial` with counts; `not_run` for none."""
    if not statuses:
        return "not_run"
    if len(set(statuses)) == 1:
        return statuses[0]
    counts = ", ".join(f"{count} {status}" for status, count in sorted(Counter(statuses).items()))
    return f"partial ({counts})"


def build_table(parameters: Parameters, runs: list[Run]) -> pd.DataFrame:
    """The table of all recipes that have run; what the recipe in place declares and lacks counts as not_run."""
    recipes = sorted({run.recipe for run in runs} | {parameters.recipe})
    rows = [row for recipe in recipes for row in _rows(parameters, recipe, [r for r in runs if r.recipe == recipe])]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(parameters: Parameters, recipe: str, runs: list[Run]) -> list[dict[str, Any]]:
    here = recipe == parameters.recipe
    main = [run for run in runs if not run.further]
    further = [run for run in runs if run.further]
    classified = set(parameters.seeds.classification) if here else set()
    segmented = set(parameters.seeds.segmentation) if here else set()
    pretraining = list(parameters.pretraining) if here else _variants(main, "pretrain")
    finetuning = list(parameters.finetuning) if here else _variants(main, "finetune", but=[*pretraining, "full"])
    segmentation = list(parameters.segmentation) if here else _variants(main, "segment")
    random = {run.variant for run in runs if run.metrics.get("initialisation") == "random"}
    figures = paper_tables(recipe)
    rows = [
        _row("pretraining", "pretrain", variant, metric, of, seeds)
        for of, variants, seeds in ((main, pretraining, classified), (further, _variants(further, "pretrain"), set()))
        for variant in variants
        for metric in PRETRAINING_METRICS
    ]
    # Further ablations that no table of the paper has stand with the variants of the same kind, as do those from random
    # weights, which its tables have without a figure.
    ran = set(_variants(further, "finetune"))
    own = ran & random | ran - {variant for table in figures.values() for variant in table["rows"]}
    pretrained = pretraining + sorted(own & set(_variants(further, "pretrain")))
    finetuned = finetuning + sorted(own - set(pretrained))
    floor = [variant for variant in finetuned if variant in random]
    tasks = {
        # Nothing is ablated where `full` stands alone.
        "ablation": (pretrained + floor if len(pretrained) > 1 else [], classified),
        "classification": (["full", *finetuned], classified),
        "segmentation": (segmentation, segmented),
    }
    compared = set(parameters.further_ablations.seeds) if here else set()
    tasks |= {
        task: (list(table["rows"]), compared)
        for task, table in figures.items()
        if task not in tasks and ran & set(table["rows"])
    }
    for task, (variants, seeds) in tasks.items():
        stage, metric = scored_stage(task), figures[task]["metric"]
        rows += [_row(task, stage, name, metric, runs, compared if name in own else seeds) for name in variants]
    if here:
        present = {(row["task"], row["variant"]) for row in rows}
        rows += [
            _row(task, "", variant, table["metric"], [], set())
            for task, table in figures.items()
            for variant, figure in table["rows"].items()
            if (task, variant) not in present and figure is not None
        ]
    for row in rows:
        row["recipe"] = recipe
        row["paper"] = figures.get(row["task"], {"rows": {}})["rows"].get(row["variant"])
    return rows


def _variants(runs: list[Run], stage: str, but: list[str] | None = None) -> list[str]:
    return sorted({run.variant for run in runs if run.stage == stage} - set(but or []))


def _row(task: str, stage: str, variant: str, metric: str, runs: list[Run], expected: set[int]) -> dict[str, Any]:
    found = [run for run in runs if (run.stage, run.variant) == (stage, variant)]
    missing = len(expected - {run.seed for run in found}) if found else 0
    values = pd.Series([run.metrics[metric] for run in found], dtype=float).dropna()
    return {
        "task": task,
        "variant": variant,
        "metric": metric,
        "mean": values.mean(),
        "std": values.std(ddof=1),
        "n": len(values),
        "status": joint_status([run.status for run in found] + ["not_run"] * missing),
    }

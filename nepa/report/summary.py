"""The report's first page: what ran and what it shows, counted and listed from the verdicts of the tables below it."""

from collections import Counter
from pathlib import Path

import pandas as pd

from nepa.parameters import Parameters
from nepa.parameters.declared import declared_runs
from nepa.report.collect import Run
from nepa.report.comparisons import Comparison, PaperTable
from nepa.report.figures.confusion import SHOWN as CONFUSION_OF
from nepa.report.markdown import NONE, bold, interval, joined, link, paper_figure, section
from nepa.report.paper import paper, scored_stage
from nepa.report.statistics import MOST_SEEDS, Difference, holds_among, paired_difference, seeds_needed
from nepa.report.verdict import by_seed, can_decide, lost_seeds

# In the order of the summary. `reference` is no finding.
KINDS = ("reproduced", "partly reproduced", "not reproduced", "not resolved", "not tested", "not in the paper")
# What should be equal in runs that are compared, and no ledger knows: a stage of another machine is up to date.
OF_THE_MACHINE = ("hardware", "versions")
# A pretrained variant and one from random weights: the main line; a pair that differs in its start alone; the same with
# random weights that are trained for as long as pretraining and fine-tuning together; longer pretraining with either.
FLOORS = (
    ("full", "from_scratch"),
    ("patch_embedding_trained", "from_scratch"),
    ("patch_embedding_trained", "from_scratch_long"),
    ("longer_pretraining", "from_scratch"),
    ("longer_pretraining", "from_scratch_long"),
)
# In the paper these fail: whether they do better than random weights here.
FAILURES = tuple((variant, "from_scratch") for variant in paper()["failures"])
# The picture that shows a table's rows best, and the heading it stands under.
PICTURES = {
    "ablation": ("curves", "Fig. 7"),
    "components": ("ablations", "Fig. 3"),
    "classification": ("confusion", "confusion matrix"),
    "segmentation": ("segmentations", "predicted segmentations"),
}


def what_ran(parameters: Parameters, recipe: str, runs: list[Run]) -> str:
    """How many runs of a recipe have finished, on what and when; of those declared, for the recipe in place."""
    if not runs:
        return "nothing has run."
    seeds = {
        stage: joined(str(seed) for seed in sorted({run.seed for run in runs if run.stage == stage}))
        for stage in dict.fromkeys(run.stage for run in runs)
    }
    count = str(len(runs))
    if recipe == parameters.recipe:
        count += f" of {len(declared_runs(parameters))} declared"
    finished = sorted(run.provenance["finished"] for run in runs)
    dates = joined(dict.fromkeys((finished[0][:10], finished[-1][:10])), " to ")
    hardware = joined(sorted({run.provenance["hardware"] for run in runs}), " and ")
    of_stages = joined((f"{stage} {numbers}" for stage, numbers in sorted(seeds.items())), "; ")
    return f"{count} runs have finished, {dates}, on {hardware}. Seeds: {of_stages}."


def missing_runs(parameters: Parameters, runs: list[Run]) -> list[str]:
    """Declared runs of the recipe in place that have not finished, by stage and seeds.

    Args:
        runs: of the recipe in place.
    """
    absent = declared_runs(parameters) - {(run.stage, run.variant, run.seed) for run in runs}
    seeds: dict[tuple[str, str], list[int]] = {}
    for stage, variant, seed in sorted(absent):
        seeds.setdefault((stage, variant), []).append(seed)
    alike: dict[tuple[str, str], list[str]] = {}
    for (stage, variant), numbers in seeds.items():
        alike.setdefault((stage, joined(numbers)), []).append(f"`{variant}`")
    return [f"{stage} with seed {numbers} of {joined(variants)}" for (stage, numbers), variants in alike.items()]


def counts(tables: list[PaperTable]) -> str:
    """How many of the paper's comparisons came out how; one that stands in two of its tables counts once."""
    distinct = {(table.reference, row.variant, row.metric, row.verdict.kind) for table, row in _findings(tables)}
    found = Counter(kind for *_, kind in distinct if kind != "not in the paper")
    total = sum(found.values())
    kinds = [kind for kind in KINDS if kind != "not in the paper" and (found[kind] or kind != "not tested")]
    parts = [f"{found[kind]} {kind}" for kind in kinds]
    return (
        f"Comparisons of the paper that have been made here: {total}, of which {joined(parts)}; one that stands in two "
        "tables counts once."
    )


def intervals(tables: list[PaperTable], runs: list[Run]) -> str:
    """How many comparisons an interval decides, those with random weights included, and which stay resolved when all
    are judged together: at 95 % each, one in twenty excludes 0 by chance."""
    differences = {
        f"{table.reference} − {row.variant}, {row.metric}": row.difference
        for table, row in _findings(tables)
        if row.paper != "fail" and row.verdict.kind != "not tested" and can_decide(row.difference)
    }
    differences |= {f"{name}, top1": difference for name, difference in _over_random_weights(runs).items()}
    if not differences:
        return "No interval decides a row."
    held = holds_among([difference.chance for difference in differences.values()])
    kept = [f"`{name}`" for name, holds in zip(differences, held, strict=True) if holds]
    resolved = sum(difference.resolved for difference in differences.values())
    return (
        f"Comparisons that an interval decides (one that stands twice counts once): {len(differences)}; {resolved} of "
        "these intervals exclude 0, and one in twenty does so by chance. Excluding it when judged together, by Holm's "
        f"correction: {joined(kept) if kept else 'none'}."
    )


def gain(runs: list[Run]) -> str:
    """What pretraining is worth over random weights here, and what without the parts that make it fail in the paper;
    where the first is little, its variants have little to lose."""
    found, failing = (
        joined(f"`{name}`: {interval(difference)}" for name, difference in _over_random_weights(runs, pairs).items())
        for pairs in (FLOORS, FAILURES)
    )
    if found == NONE:
        return ""
    said = f"What pretraining is worth over random weights here: {found}."
    return said if failing == NONE else f"{said} The same of what fails in the paper: {failing}."


def unequal(tables: list[PaperTable], runs: list[Run]) -> str:
    """Rows whose runs differ from those they are compared with in more than a setting, and in what; empty for none."""
    found: dict[str, dict[str, None]] = {}  # rows by what they differ in
    for table, row in _findings(tables):
        differing = [
            fact
            for fact in OF_THE_MACHINE
            if any(
                _differ(runs, stage, table.reference, row.variant, fact)
                for stage in ("pretrain", scored_stage(table.task))
            )
        ]
        if differing:
            found.setdefault(joined(differing, " and "), {})[f"`{row.variant}`"] = None
    rows = joined((f"{facts} of {joined(names)}" for facts, names in found.items()), "; ")
    return f"Compared although more differs than a setting: {rows}." if found else ""


def _differ(runs: list[Run], stage: str, first: str, second: str, fact: str) -> bool:
    """Both variants have runs of the stage, and the fact is not the same of both."""
    values = [
        {str(run.provenance[fact]) for run in runs if (run.stage, run.variant) == (stage, variant)}
        for variant in (first, second)
    ]
    return all(values) and values[0] != values[1]


def _over_random_weights(runs: list[Run], pairs: tuple[tuple[str, str], ...] = FLOORS) -> dict[str, Difference]:
    differences = {
        f"{pretrained} − {random}": paired_difference(
            *(by_seed(runs, "finetune", name, "top1") for name in (pretrained, random))
        )
        for pretrained, random in pairs
        if not any(lost_seeds(runs, "finetune", name, "top1") for name in (pretrained, random))
    }
    return {name: difference for name, difference in differences.items() if can_decide(difference)}


def findings_table(recipe: str, tables: list[PaperTable], figures: dict[str, str]) -> pd.DataFrame:
    """Every row with a verdict, the resolved ones first, each with its evidence.

    Args:
        figures: the recipe's pictures, by name.
    """
    of_figure_3 = [panel[side] for panel in paper()["figure_3"] for side in ("with", "without")]
    shown = {"confusion": CONFUSION_OF, "ablations": of_figure_3}
    lines = []
    for table, row in sorted(_findings(tables), key=lambda finding: KINDS.index(finding[1].verdict.kind)):
        evidence = [link(table.name, section(recipe, table.name))]
        picture, heading = PICTURES.get(table.task, ("", ""))
        if picture in figures and row.variant in shown.get(picture, [row.variant]):
            evidence.append(link(heading, section(recipe, heading)))
        lines.append(
            {
                # A reference's own text stands under `here`.
                "verdict": bold(row.verdict.kind) + ("" if row.variant == table.reference else row.verdict.detail),
                "row": f"`{row.variant}`",
                "here": _here(table, row),
                "paper": _paper_difference(table, row),
                "seeds needed": _seeds_needed(table, row),
                "evidence": joined(evidence),
            }
        )
    return pd.DataFrame(lines)


def not_run_rows(tables: list[PaperTable]) -> pd.DataFrame:
    """The paper's rows that nothing here stands beside."""
    return pd.DataFrame(
        {
            "paper": table.name,
            "subject": table.subject,
            "row": f"`{row.variant}`",
            "paper's figure": paper_figure(row.paper),
        }
        for table in tables
        for row in table.rows
        if row.verdict.kind == "not run" and row.paper is not None
    )


def what_did_not_run(parameters: Parameters, rows: int, recipes: Path, runs: list[Run]) -> list[str]:
    """What this report says nothing about: declared runs, the paper's rows, whole recipes.

    Args:
        rows: of `not_run_rows`, for the recipe in place.
        recipes: folder of the recipes' files.
        runs: of all recipes.
    """
    current = parameters.recipe
    missing = missing_runs(parameters, [run for run in runs if run.recipe == current])
    others = sorted({path.stem for path in recipes.glob("*.yaml")} - {run.recipe for run in runs} - {current})
    return [
        f"declared by `{current}` and absent: {joined(missing, '; ') if missing else 'nothing'}",
        f"rows of the paper's tables that `{current}` stands for, beside which it has no run: "
        + (link(str(rows), "Rows of the paper that have not run") if rows else "none"),
        "recipes without any result here, hence nothing beside the rows that are theirs alone, such as ViT-L's: "
        + (joined(f"`{name}`" for name in others) if others else "none"),
    ]


def _findings(tables: list[PaperTable]) -> list[tuple[PaperTable, Comparison]]:
    """Rows with a verdict; one that the paper does not have, and that stands in two tables, once."""
    found: dict[tuple[str, ...], tuple[PaperTable, Comparison]] = {}
    for table in tables:
        for row in table.rows:
            if row.verdict.kind in KINDS:
                own = row.verdict.kind == "not in the paper"
                key = (row.variant, row.metric) if own else (table.task, row.variant)
                found[key] = (table, row)
    return list(found.values())


def _here(table: PaperTable, row: Comparison) -> str:
    status = "" if row.status == "ok" else f"{row.status}; "
    if row.variant == table.reference:
        return status + row.verdict.text
    return f"{status}{table.reference} − it: {interval(row.difference)}"


def _paper_difference(table: PaperTable, row: Comparison) -> str:
    difference = _stated_difference(table, row)
    return paper_figure(row.paper) if difference is None else f"{difference:+.1f}"


def _seeds_needed(table: PaperTable, row: Comparison) -> str:
    stated = _stated_difference(table, row)
    if stated is None or row.verdict.kind == "not tested" or not can_decide(row.difference):
        return NONE
    return str(seeds_needed(row.difference, stated) or f"> {MOST_SEEDS}")


def _stated_difference(table: PaperTable, row: Comparison) -> float | None:
    """The paper's, between two rows that it gives figures of."""
    reference = next((other.paper for other in table.rows if other.variant == table.reference), None)
    if isinstance(row.paper, float) and isinstance(reference, float) and row.variant != table.reference:
        return reference - row.paper
    return None

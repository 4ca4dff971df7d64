"""The report's tables of facts: what pretraining did, cost, provenance, and where the settings leave the paper's."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from nepa.parameters import Parameters
from nepa.parameters.loading import GROUPS
from nepa.parameters.schema import STAGES
from nepa.report.collect import Run
from nepa.report.markdown import NONE, joined, mean, setting
from nepa.report.paper import of_recipe, paper


def pretraining_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What each variant's pretraining ended as; of the rows of `build_table` that belong to one recipe."""
    lines = []
    pretraining = rows[(rows["task"] == "pretraining") & (rows["status"] != "not_run")]
    for variant, mine in pretraining.groupby("variant", sort=False):
        measures = {row.metric: (row.mean, row.std) for row in mine.itertuples()}
        lines.append(
            {
                "variant": f"`{variant}`",
                "status": mine["status"].iloc[0],
                "loss": mean(*measures["evaluation_loss"], digits=4),
                "cosine of two patches": mean(*measures["mean_pairwise_cosine"], digits=4),
                "effective rank": mean(*measures["effective_rank"], digits=1),
                "cosine with own position": mean(*measures["identity_cosine"], digits=4),
                "seeds": mine["n"].max(),
            }
        )
    return pd.DataFrame(lines)


def cost_table(runs: list[Run]) -> pd.DataFrame:
    """Summed time, throughput and memory by stage, as its runs recorded them."""
    lines = []
    for stage in STAGES:
        facts = [run.provenance for run in runs if run.stage == stage]
        trained = pd.Series([fact["images_per_second"] for fact in facts if fact["images_per_second"]], dtype=float)
        if facts:
            lines.append(
                {
                    "stage": stage,
                    "runs": len(facts),
                    "training, s, sum": f"{sum(fact['seconds'] for fact in facts):,.0f}",
                    "whole process, s, sum": f"{sum(fact['stage_seconds'] for fact in facts):,.0f}",
                    "images/s, median (range)": NONE
                    if trained.empty
                    else f"{trained.median():,.0f} ({trained.min():,.0f} to {trained.max():,.0f})",
                    "peak memory, MB, largest": f"{max(fact['peak_memory_mb'] for fact in facts):,}",
                }
            )
            if on_gpus := [fact["peak_gpu_memory_mb"] for fact in facts if "peak_gpu_memory_mb" in fact]:
                lines[-1]["of a GPU"] = f"{max(on_gpus):,}"
    return pd.DataFrame(lines).fillna(NONE)


def provenance_table(runs: list[Run]) -> pd.DataFrame:
    """Code, data, hardware and versions by stage; more than one value means that the runs differ."""
    lines = {"code": {}, "data": {}, "hardware": {}, "threads": {}, "last finished": {}}
    versions: dict[str, dict[str, str]] = {}
    for stage in STAGES:
        if not (facts := [run.provenance for run in runs if run.stage == stage]):
            continue
        lines["code"][stage] = _distinct(fact["code"][:12] for fact in facts)
        lines["data"][stage] = _distinct(fact["data"][:12] for fact in facts)
        lines["hardware"][stage] = _distinct(fact["hardware"] for fact in facts)
        lines["threads"][stage] = _distinct(fact["threads"] for fact in facts)
        lines["last finished"][stage] = max(fact["finished"] for fact in facts)
        for package in facts[0]["versions"]:
            of_package = versions.setdefault(package, {})
            of_package[stage] = _distinct(fact["versions"].get(package, NONE) for fact in facts)
    return (
        pd.DataFrame([{"": name} | values for name, values in (lines | versions).items()]) if runs else pd.DataFrame()
    )


def settings_table(parameters: Parameters) -> pd.DataFrame:
    """Where the recipe in place follows neither the paper nor its released code, or whom it follows where they differ.

    In paper.yaml `a / b` is the ratio of two settings.
    """
    lines = []
    stated_settings = paper()["settings"] | of_recipe(parameters.recipe).get("settings", {})
    for name, stated in stated_settings.items():
        if name.startswith("segment.") and parameters.scenes is None:
            continue
        ours, *divisor = (_value(parameters, key) for key in name.split(" / "))
        if divisor:
            ours = round(ours / divisor[0], 3)
        followed = [source for source, value in stated.items() if value == ours]
        if len(followed) < len(stated):
            theirs = {source: setting(stated[source]) if source in stated else NONE for source in ("paper", "code")}
            line = {"setting": f"`{name}`", "here": setting(ours)} | theirs
            lines.append(line | {"as in": joined(followed) if followed else "neither"})
    return pd.DataFrame(lines)


def variants_table(parameters: Parameters) -> pd.DataFrame:
    """What each variant changes in the shared settings, one change a row."""
    return pd.DataFrame(
        {
            "variant": f"`{variant}` of {group}",
            "setting": f"`{of}.{key}`",
            "here": setting(value),
            "shared": setting(getattr(getattr(parameters, of), key)),
        }
        for group in GROUPS
        for variant, sections in parameters.variants(group).items()
        for of, values in sections.items()
        for key, value in values.items()
    )


def _value(parameters: Parameters, name: str) -> Any:
    value: Any = parameters
    for key in name.split("."):
        value = getattr(value, key, None)  # what is switched off, or another source of data, has no such setting
    return value


def _distinct(values: Iterable[object]) -> str:
    return joined(sorted({str(value) for value in values}))

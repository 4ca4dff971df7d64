"""`nepa status`: what runs, how far it is, and how long what has finished took."""

import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from nepa.errors import UserError
from nepa.files import read_json
from nepa.runs.paths import RESULTS, RUN_FOLDERS, SCRATCH, RunName
from nepa.training.status import STATUS_FILE, read_status

SILENT_AFTER = 120  # seconds: a running training speaks every five


def describe_status() -> str:
    """What runs or was left unfinished, then what has finished, with means over seeds, of all recipes; from files
    alone, so it also works on another machine that sees the same disk.

    Raises:
        UserError: the current folder is not the project's.
    """
    if not Path("params.yaml").exists():
        raise UserError("params.yaml not found; run from the project's root, where it lies")
    unfinished = [_unfinished(path) for path in sorted(SCRATCH.glob(f"{RUN_FOLDERS}/{STATUS_FILE}"))]
    seeds: dict[Path, list[Path]] = defaultdict(list)
    for root in RESULTS.values():
        for path in sorted(root.glob(f"{RUN_FOLDERS}/run.json")):
            seeds[path.parent.parent].append(path)
    finished = [_finished(paths) for paths in seeds.values()]
    parts = [
        pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
        for rows in ([row for row in unfinished if row], finished)
        if rows
    ]
    return "\n\n".join(parts) or "nothing has run here; `dvc repro` runs what is out of date"


def _unfinished(path: Path) -> dict[str, str] | None:
    facts = read_status(path)
    if facts is None:
        return None
    silent = time.time() - facts["updated"]
    running = facts["state"] != "stopped"
    state = facts["state"] if not running or silent < SILENT_AFTER else f"silent for {_duration(silent)}"
    checkpoint = "none"
    if "checkpoint_step" in facts:
        checkpoint = f"step {facts['checkpoint_step']}, {_duration(time.time() - facts['checkpoint_time'])} ago"
    where = facts["host"] + (f", job {facts['job']}" if facts["job"] else f", process {facts['process']}")
    row = {"run": f"{RunName.of(path.parent).recipe}: {facts['title']}", "state": state, "step": "–", "loss": "–"}
    row |= {"images/s": "–", "left": "–", "last checkpoint": checkpoint, "where": where}
    if "step" in facts:
        row["step"] = f"{facts['step']:,} / {facts['steps']:,}"
    if "loss" in facts:
        row |= {"loss": f"{facts['loss']:.4f}", "images/s": f"{facts['images_per_second']:,.0f}"}
        row["left"] = _duration(facts["seconds_left"]) if state == "running" else "–"
    return row


def _finished(runs: list[Path]) -> dict[str, str]:
    names = sorted(RunName.of(run.parent) for run in runs)
    again = "run its stage again"
    facts: list[dict[str, Any]] = [read_json(run, absent=again, damaged=f"delete it and {again}") for run in runs]
    return {
        "finished": f"{names[0].recipe}: {names[0].stage} {names[0].variant}",
        "seeds": " ".join(str(name.seed) for name in names),
        "training, each": _duration(mean(fact["seconds"] for fact in facts)),
        "whole stage, each": _duration(mean(fact["stage_seconds"] for fact in facts)),
        "images/s": f"{mean(fact['images_per_second'] for fact in facts):,.0f}",
        "last at": max(fact["finished"] for fact in facts),
    }


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

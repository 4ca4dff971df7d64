"""`nepa convert`: no stage of the graph; a checkpoint from or for elsewhere."""

import json
import logging
from dataclasses import replace
from pathlib import Path

from nepa.conversion.checkpoints import Checkpoint, read_checkpoint
from nepa.conversion.formats import write_checkpoint
from nepa.errors import UserError
from nepa.model.description import Results
from nepa.stages.paths import RunPaths

log = logging.getLogger("nepa")


def run(source: Path, target: Path, form: str) -> None:
    """Read `source`, whatever its format, and write `target` in another."""
    checkpoint = _with_results(read_checkpoint(source))
    write_checkpoint(checkpoint, target, form)
    count = sum(weight.numel() for weight in checkpoint.weights.values())
    log.info(f"{source} -> {target}: {form}, {count:,} numbers, {checkpoint.description.classes} classes")


def _with_results(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its run's metrics and provenance, where it lies where the pipeline has put it."""
    description = checkpoint.description
    if not description.training:
        return checkpoint
    last = description.training[-1]
    for further in (False, True):
        paths = RunPaths(description.recipe, last.stage, last.variant, last.seed, further)
        here = checkpoint.path.resolve().parent == paths.checkpoints.resolve()
        if here and (paths.results / "metrics.json").exists():
            metrics, facts = (_read(paths.results / f"{name}.json") for name in ("metrics", "run"))
            for key in ("confusion", "class_names"):
                metrics.pop(key, None)  # large, and of no use on a card
            results = Results(metrics=metrics, run=facts)
            return replace(checkpoint, description=description.model_copy(update={"results": results}))
    return checkpoint


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        raise UserError(f"{path} is absent or truncated; delete its folder and run its stage again") from None

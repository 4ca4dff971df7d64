"""`nepa convert`: a checkpoint from or for elsewhere."""

import logging
from dataclasses import replace
from pathlib import Path

from nepa.conversion.checkpoints import Checkpoint, read_checkpoint
from nepa.conversion.formats import write_checkpoint
from nepa.files import read_json
from nepa.model.description import Results

log = logging.getLogger("nepa")

AGAIN = "delete its folder and run its stage again"


def run(source: Path, target: Path, form: str) -> None:
    """Read `source`, whatever its format, and write `target` in another."""
    checkpoint = _with_results(read_checkpoint(source))
    write_checkpoint(checkpoint, target, form)
    count = sum(weight.numel() for weight in checkpoint.weights.values())
    log.info(f"{source} -> {target}: {form}, {count:,} numbers, {checkpoint.description.classes} classes")


def _with_results(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its run's metrics and provenance, where they lie beside it as the pipeline has put them."""
    beside = [checkpoint.path.with_name(f"{name}.json") for name in ("metrics", "run")]
    if not checkpoint.description.training or not all(map(Path.exists, beside)):
        return checkpoint
    metrics, facts = (read_json(path, absent=AGAIN, damaged=AGAIN) for path in beside)
    for key in ("confusion", "class_names"):
        metrics.pop(key, None)  # large, and of no use on a card
    results = Results(metrics=metrics, run=facts)
    return replace(checkpoint, description=checkpoint.description.model_copy(update={"results": results}))

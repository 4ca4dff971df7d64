"""`nepa convert`: no stage of the graph; a checkpoint from or for elsewhere."""

import logging
from pathlib import Path

from nepa.conversion.checkpoints import read_checkpoint, write_checkpoint

log = logging.getLogger("nepa")


def run(source: Path, target: Path, form: str) -> None:
    """Read `source`, whatever its format, and write `target` in another."""
    checkpoint = read_checkpoint(source)
    write_checkpoint(checkpoint, target, form)
    count = sum(weight.numel() for weight in checkpoint.weights.values())
    log.info(f"{source} -> {target}: {form}, {count:,} numbers, {checkpoint.description['classes']} classes")

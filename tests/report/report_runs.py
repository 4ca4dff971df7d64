"""Runs as the stages write them, with chosen numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

PROVENANCE = {
    "seconds": 2.0,
    "stage_seconds": 5.0,
    "images_per_second": 100.0,
    "peak_memory_mb": 800,
    "hardware": "a processor",
    "threads": 1,
    "versions": {"torch": "2"},
    "code": "c" * 64,
    "data": "d" * 64,
    "finished": "2026-01-01T00:00:00+00:00",
}
HISTORIES = {
    "pretrain": "step,loss,learning_rate,gradient_norm,relative_spread\n4,-0.5,0.1,1,0.5\n8,-0.9,0,1,0.6\n",
    "finetune": "step,loss,learning_rate,gradient_norm,top1\n4,2,0.1,1,20\n8,1,0,1,60\n",
    "segment": "step,loss,learning_rate,gradient_norm\n4,2,0.1,1\n",
}
METRICS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "evaluation_loss": -0.9,
        "relative_spread": 0.6,
        "mean_pairwise_cosine": 0.1,
        "effective_rank": 3.0,
        "identity_cosine": 0.4,
    },
    "finetune": {"top1": 80.0, "evaluated_on": "test", "initialisation": "pretrained"},
    "segment": {"mIoU": 50.0},
}


def write_run(stage: str, variant: str, seed: int, recipe: str = "smallest", **metrics: Any) -> Path:
    """Write one run below the current folder; returns its folder."""
    folder = Path("results/runs") / recipe / stage / variant / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"status": "ok"} | METRICS[stage] | metrics))
    (folder / "run.json").write_text(json.dumps(PROVENANCE))
    (folder / "history.csv").write_text(HISTORIES[stage])
    if stage == "segment":
        maps = np.random.default_rng(0).integers(0, 10, (2, 32, 32), dtype=np.uint8)
        arrays = {f"image_{row}": 25 * maps[row] for row in range(2)}
        arrays |= {f"{kind}_{row}": maps[row] for kind in ("truth", "prediction") for row in range(2)}
        colours = np.arange(30, dtype=np.uint8).reshape(10, 3) * 8
        np.savez(folder / "samples.npz", names=np.array([f"digit {n}" for n in range(10)]), colours=colours, **arrays)
    return folder

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
    "pretrain": "step,loss,learning_rate,gradient_norm,mean_pairwise_cosine,effective_rank\n"
    "4,-0.5,0.1,1,0.5,2\n8,-0.9,0,1,0.25,3\n",
    "finetune": "step,loss,learning_rate,gradient_norm,top1\n4,2,0.1,1,20\n8,1,0,1,60\n",
    "segment": "step,loss,learning_rate,gradient_norm\n4,2,0.1,1\n",
}
METRICS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "evaluation_loss": -0.9,
        "mean_pairwise_cosine": 0.1,
        "effective_rank": 3.0,
        "identity_cosine": 0.4,
    },
    "finetune": {
        "top1": 80.0,
        "evaluated_on": "test",
        "initialisation": "pretrained",
        "confusion": [[8 * (row == column) + 1 for column in range(10)] for row in range(10)],
        "class_names": [str(number) for number in range(10)],
    },
    "segment": {"mIoU": 50.0},
}


def pretraining_samples(side: int = 8, channels: int = 1, grid: int = 4) -> dict[str, np.ndarray]:
    """What the stage `pretrain` keeps for Fig. 5, with random content."""
    generator = np.random.default_rng(0)
    patches = grid * grid
    attention = generator.random((3, 2, 1 + patches)).astype(np.float16)
    return {
        "images": generator.integers(0, 256, (3, side, side, channels), dtype=np.uint8),
        "grid": np.array([grid, grid]),
        "queries": np.array([patches // 2, 3 * patches // 4]),
        "targets": np.array([patches // 2 + 1, 3 * patches // 4 + 1]),
        "attention": attention / attention.sum(-1, keepdims=True),
        "cosine": generator.uniform(-1, 1, (3, 2, patches)).astype(np.float16),
        "causal": np.array(True),
    }


def segmentation_samples(
    height: int = 32, width: int = 32, channels: int = 1, classes: int = 10
) -> dict[str, np.ndarray]:
    """What the stage `segment` keeps, with random content."""
    generator = np.random.default_rng(0)
    shape = (height, width) if channels == 1 else (height, width, channels)
    arrays = {f"image_{row}": generator.integers(0, 256, shape, dtype=np.uint8) for row in range(2)}
    arrays |= {
        f"{kind}_{row}": generator.integers(0, classes, (height, width), dtype=np.uint8)
        for kind in ("truth", "prediction")
        for row in range(2)
    }
    colours = generator.integers(0, 256, (classes, 3), dtype=np.uint8)
    return arrays | {"names": np.array([f"class {number}" for number in range(classes)]), "colours": colours}


SAMPLES = {"pretrain": pretraining_samples, "segment": segmentation_samples}


def write_run(
    stage: str, variant: str, seed: int, recipe: str = "smallest", root: str = "results/runs", **metrics: Any
) -> Path:
    """Write one run below the current folder; returns its folder."""
    folder = Path(root) / recipe / stage / variant / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"status": "ok"} | METRICS[stage] | metrics))
    (folder / "run.json").write_text(json.dumps(PROVENANCE))
    (folder / "history.csv").write_text(HISTORIES[stage])
    if stage in SAMPLES:
        np.savez(folder / "samples.npz", **SAMPLES[stage]())
    return folder

"""What can be watched while a training runs."""

import csv
import signal
from pathlib import Path

import pandas as pd
import pytest
import yaml
from signals import signalled
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nepa.command_line import main

LEDGER = ("dvc.yaml", ".dvc")


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "segment"])
def test_curves_hold_the_history_of_every_stage(project: Path, stage: str) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["execution"] |= {"watch": ["tensorboard", "dvclive"]}
    raw["pretrain"]["monitor_every"] = 1
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    if stage != "pretrain":
        assert main(["pretrain"]) == 0
    with signalled(stage, 2, signal.SIGTERM):
        assert main([stage]) == 75
    curves = Path(f"runs/smallest/{stage}/full/seed-0/curves")
    # A process that is killed after its last checkpoint leaves rows that will come once more.
    with (curves / "dvclive/plots/metrics/learning_rate.tsv").open("a") as file:
        file.write("0\t2\t0.5\n")
    assert main([stage]) == 0
    history = pd.read_csv(f"results/runs/smallest/{stage}/full/seed-0/history.csv")
    events = EventAccumulator(str(curves / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == history["step"].tolist()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(history["loss"].tolist())
    with (curves / "dvclive/plots/metrics/learning_rate.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [int(row["step"]) for row in rows] == history["step"].tolist()
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(history["learning_rate"].tolist())
    assert not any(Path(name).exists() for name in LEDGER)

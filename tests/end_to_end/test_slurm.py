"""The miniature ablations through a real SLURM of two nodes: a job is killed, another is stopped, both go on."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from clones import IDLE, change, copy_of_the_working_tree, environment, run, shrunk
from conftest import ROOT

pytestmark = pytest.mark.slow
SCRIPT = ROOT / "workflow/profiles/slurm/one-machine.sh"
# What a machine without accounting needs; all else is the profile's.
SNAKEMAKE = [
    "snakemake", "--workflow-profile", "workflow/profiles/slurm", "--slurm-no-account",
    "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5",
]  # fmt: skip
PREPARE = ["dvc", "repro", "prepare_images"]  # quicker here than in jobs of its own


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True)
    if started.returncode == 77:
        pytest.skip(started.stdout.splitlines()[-1])
    assert started.returncode == 0, started.stdout + started.stderr
    yield
    subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture(scope="module")
def clone(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = shrunk(pretraining=("full", "no_shift"))
    raw["segmentation"] = {}
    raw["pretrain"]["epochs"] = 120
    raw["execution"]["checkpoint_minutes"] = 0.01
    clone = copy_of_the_working_tree(tmp_path_factory.mktemp("cluster") / "clone", raw)
    run(clone, PREPARE)
    return clone


def status(clone: Path, variant: str) -> dict | None:
    path = clone / f"runs/smallest/pretrain/{variant}/seed-0/status.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def curve(clone: Path, variant: str = "full") -> pd.DataFrame:
    return pd.read_csv(clone / f"results/runs/smallest/pretrain/{variant}/seed-0/history.csv")


def test_ablations_with_one_job_killed_and_one_stopped(clone: Path) -> None:
    with (clone.parent / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [*SNAKEMAKE, "ablations"], cwd=clone, env=environment(clone), stdout=output, stderr=output
        )
    interrupted: dict[str, str] = {}
    while len(interrupted) < 2:
        assert process.poll() is None, (clone.parent / "output.txt").read_text()[-6000:]
        for variant in {"full", "no_shift"} - set(interrupted):
            facts = status(clone, variant)
            if facts is None or "checkpoint_step" not in facts:
                continue
            if variant == "full":
                os.kill(facts["process"], signal.SIGKILL)
            else:  # as SLURM does before the time is up: all processes of the job's steps
                subprocess.run(["scancel", "--signal=TERM", facts["job"]], check=True)
            interrupted[variant] = facts["job"]
        time.sleep(0.02)
    assert process.wait(400) == 0, (clone.parent / "output.txt").read_text()[-6000:]
    shown = (clone.parent / "output.txt").read_text()
    assert shown.count("Trying to restart job") == 2
    for variant in interrupted:
        assert "goes on after step" in (clone / f"runs/logs/pretrain_{variant}_0.log").read_text()
    stopped = clone / f".snakemake/slurm_logs/rule_stage_pretrain_no_shift_0/{interrupted['no_shift']}.log"
    assert "as asked; the same command goes on from there" in stopped.read_text()
    assert (clone / "results/report.md").exists()
    assert IDLE["dvc"] in run(clone, ["dvc", "repro", "report"])

    found = curve(clone)
    shutil.rmtree(clone / "results/runs/smallest/pretrain/full")
    run(clone, ["nepa", "pretrain"])
    assert curve(clone).equals(found)


def test_a_stage_on_two_nodes(clone: Path) -> None:
    """One torchrun on each; the curve is that of one process."""
    expected = curve(clone)
    shutil.rmtree(clone / "results/runs/smallest/pretrain/full")
    shutil.rmtree(clone / ".dvc/cache")  # else DVC brings back what it knows
    run(clone, PREPARE)
    change(clone, "execution", "pretrain", shrunk(pretraining=())["execution"]["pretrain"] | {"nodes": 2})
    run(clone, [*SNAKEMAKE, "stage_pretrain_full_0"])
    facts = json.loads((clone / "results/runs/smallest/pretrain/full/seed-0/run.json").read_text())
    assert facts["processes"] == 2
    assert (curve(clone) - expected).abs().max().max() < 1e-5
    assert (
        "node[1-2]" in subprocess.run(["squeue", "--states=all", "--noheader"], capture_output=True, text=True).stdout
    )


def test_several_nodes_without_slurm(clone: Path) -> None:
    shown = run(clone, ["nepa", "pretrain"], status=2)
    assert shown.splitlines()[-1].endswith("2 nodes need a SLURM job; start it there, or set nodes to 1")

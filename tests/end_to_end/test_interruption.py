"""Killed at any moment under either engine, a run goes on and ends as one that was never killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml
from clones import IDLE, copy_of_the_working_tree, environment, run, shrunk

pytestmark = pytest.mark.slow
RUN = Path("smallest/pretrain/full/seed-0")
COMMANDS = {
    "dvc": ["dvc", "repro", "pretrain@full-0"],
    "snakemake": ["snakemake", "--cores", "1", "stage_pretrain_full_0"],
}
KILLS = {"while it trains": 7, "while it writes a checkpoint": 3}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which one pretraining has run without an engine; a checkpoint follows every step."""
    raw = shrunk(pretraining=("full",))
    raw["pretrain"] |= {"epochs": 40}
    raw["execution"]["checkpoint_minutes"] = 0.0
    clone = copy_of_the_working_tree(tmp_path_factory.mktemp("interruption") / "clone", raw)
    run(clone, ["dvc", "repro", "prepare_images"])
    run(clone, ["nepa", "pretrain"])
    return clone


def outcome(clone: Path) -> dict[str, bytes]:
    names = [f"results/runs/{RUN}/metrics.json", f"results/runs/{RUN}/history.csv"]
    return {name: (clone / name).read_bytes() for name in [*names, f"checkpoints/{RUN}/backbone.safetensors"]}


def forget(clone: Path) -> None:
    for folder in ("results/runs", "checkpoints", "runs"):
        shutil.rmtree(clone / folder, ignore_errors=True)


def start(clone: Path, command: list[str]) -> subprocess.Popen:
    with (clone.parent / "output.txt").open("w") as output:
        return subprocess.Popen(
            command, cwd=clone, env=environment(clone), stdout=output, stderr=output, start_new_session=True
        )


def wait_for(process: subprocess.Popen, pattern: str, clone: Path) -> bool:
    """Until a file of the run's folder is there, or the process ends."""
    while process.poll() is None:
        if list((clone / "runs" / RUN).glob(pattern)):
            return True
        time.sleep(0.001)
    return False


def training_of(clone: Path) -> int:
    """The process that trains, or the last one that did."""
    return json.loads((clone / "runs" / RUN / "status.json").read_text())["process"]


def halt_while_it_writes_a_checkpoint(process: subprocess.Popen, clone: Path) -> None:
    """Halt the training with a checkpoint unfinished; where it was faster than the signal, at the next one."""
    training = psutil.Process(training_of(clone))
    unfinished = f"*/.step-*.{training.pid}.partial"
    while wait_for(process, unfinished, clone):
        training.suspend()
        while training.status() not in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}:
            time.sleep(0.001)
        if list((clone / "runs" / RUN).glob(unfinished)):
            return
        training.resume()
    pytest.fail("the training ended before a checkpoint was caught unfinished")


def kill(process: subprocess.Popen) -> None:
    """The engine, its shell and the training, as a node that goes down takes them all."""
    session = ["--session", str(process.pid)]
    found = subprocess.run(["pgrep", *session], check=True, capture_output=True, text=True).stdout.split()
    subprocess.run(["pkill", "--signal", "KILL", *session], check=True)
    process.wait()
    while any(psutil.pid_exists(int(pid)) for pid in found):
        time.sleep(0.01)  # DVC takes a lock for held while there is a process of that number, a dead one too


@pytest.mark.parametrize("engine", COMMANDS)
def test_sigkill_at_random_moments(uninterrupted: Path, tmp_path: Path, engine: str) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(uninterrupted, clone, symlinks=True)
    expected = outcome(clone)
    forget(clone)
    chosen = random.Random(engine)
    steps = []
    for moment in chosen.sample(sorted(KILLS), counts=KILLS.values(), k=sum(KILLS.values())):
        process = start(clone, COMMANDS[engine])
        begun = set((clone / "runs" / RUN).glob("*/step-*.pt"))
        while process.poll() is None and set((clone / "runs" / RUN).glob("*/step-*.pt")) <= begun:
            time.sleep(0.01)  # else it would be killed before it has done anything
        time.sleep(chosen.uniform(0, 0.3))
        if moment == "while it writes a checkpoint":
            halt_while_it_writes_a_checkpoint(process, clone)
        kill(process)
        steps.append(max(int(path.stem[5:]) for path in (clone / "runs" / RUN).glob("*/step-*.pt")))
        assert not (clone / f"results/runs/{RUN}/metrics.json").exists()
    assert steps == sorted(steps)
    shown = run(clone, COMMANDS[engine])
    assert f"goes on after step {steps[-1]} of " in shown
    assert outcome(clone) == expected
    other = next(name for name in COMMANDS if name != engine)
    assert IDLE[other] in run(clone, COMMANDS[other])


def test_a_training_that_an_engine_left_behind_is_taken_over(uninterrupted: Path, tmp_path: Path) -> None:
    """Only the engine is killed; the training goes on alone until the next one asks it to stop."""
    clone = tmp_path / "clone"
    shutil.copytree(uninterrupted, clone, symlinks=True)
    expected = outcome(clone)
    forget(clone)
    process = start(clone, COMMANDS["dvc"])
    assert wait_for(process, "*/step-*.pt", clone)
    left_behind = training_of(clone)
    os.kill(left_behind, signal.SIGSTOP)  # else it could end before the next one comes
    process.kill()
    process.wait()
    process, shown = start(clone, COMMANDS["dvc"]), ""
    while "another process trains this run; it is asked to stop" not in shown:
        assert process.poll() is None, shown
        shown = (clone.parent / "output.txt").read_text()
        time.sleep(0.1)
    os.kill(left_behind, signal.SIGCONT)
    assert process.wait() == 0
    assert "goes on after step" in (clone.parent / "output.txt").read_text()
    assert outcome(clone) == expected


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_asked_to_stop(uninterrupted: Path, tmp_path: Path, name: str) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(uninterrupted, clone, symlinks=True)
    forget(clone)
    process = start(clone, ["nepa", "pretrain"])
    assert wait_for(process, "*/step-*.pt", clone)
    process.send_signal(getattr(signal, name))
    assert process.wait(60) == 75
    last = (clone.parent / "output.txt").read_text().splitlines()[-1]
    assert last.startswith("nepa: pretrain full seed 0: stopped at step ") and last.endswith("goes on from there")
    assert json.loads((clone / "runs" / RUN / "status.json").read_text())["state"] == "stopped"
    shown = run(clone, ["nepa", "status"])
    assert "| smallest: pretrain full seed 0 | stopped " in shown


def test_a_signal_to_every_process_of_a_training(uninterrupted: Path, tmp_path: Path) -> None:
    """As SLURM and torchrun give it: those that read the data go on until the checkpoint is written."""
    clone = tmp_path / "clone"
    shutil.copytree(uninterrupted, clone, symlinks=True)
    expected = outcome(clone)
    forget(clone)
    raw = yaml.safe_load((clone / "params.yaml").read_text())
    raw["execution"]["pretrain"]["workers"] = 2
    (clone / "params.yaml").write_text(yaml.safe_dump(raw))
    process = start(clone, ["nepa", "pretrain"])
    assert wait_for(process, "*/step-*.pt", clone)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 75
    assert "goes on after step" in run(clone, ["nepa", "pretrain"])
    assert outcome(clone) == expected

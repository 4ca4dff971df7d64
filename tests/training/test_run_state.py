"""Going on after an interruption: bit for bit what an uninterrupted run gives, from checkpoints of the same run."""

import logging
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from signals import signalled
from torch.utils.data import DataLoader

from nepa.command_line import main
from nepa.runs import start
from nepa.stages import pretrain
from nepa.training import engine

STAGES = ("pretrain", "finetune", "segment")
SCRATCH = Path("runs/smallest")


def change(**sections: dict) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    for section, values in sections.items():
        raw[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(raw))


@pytest.fixture
def drawing(project: Path) -> Path:
    """Every stage draws something in training, and a checkpoint follows every step."""
    change(
        execution={"checkpoint_minutes": 0.0},
        objective={"input_mask_ratio": 0.4},
        model={"rope_rescale": 2.0},
        finetune={"mixup": 0.5, "drop_path": 0.3},
        segment={"dropout": 0.5, "drop_path": 0.3, "iterations": 5},
    )
    return project


def outcome(stage: str) -> dict[str, bytes]:
    """What must be the same: metrics, history, samples, weights."""
    folders = (Path("results/runs/smallest") / stage, Path("checkpoints/smallest") / stage)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    assert len(files) >= 3
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_as_if_nothing_had_happened(drawing: Path, stage: str) -> None:
    if stage != "pretrain":
        assert main(["pretrain"]) == 0
    assert main([stage]) == 0
    expected = outcome(stage)
    for step, number in ((1, signal.SIGTERM), (2, signal.SIGUSR1)):  # counted from where the run goes on
        shutil.rmtree(f"results/runs/smallest/{stage}", ignore_errors=True)
        with signalled(stage, step, number):
            assert main([stage]) == 75
        assert not (Path("results/runs/smallest") / stage).exists()
    assert main([stage]) == 0
    assert outcome(stage) == expected
    assert not list(SCRATCH.rglob("*.pt"))


def test_a_stop_after_the_last_step_leaves_the_evaluation(drawing: Path) -> None:
    with signalled("pretrain", 12):
        assert main(["pretrain"]) == 75
    with signalled("pretrain", 1):  # no step is left
        assert main(["pretrain"]) == 0


def stop_at(step: int) -> None:
    with signalled("pretrain", step):
        assert main(["pretrain"]) == 75


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:4000] + b"XXXX" + b[4004:], lambda _: b""])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    drawing: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["pretrain"]) == 0
    expected = outcome("pretrain")
    stop_at(5)
    before, last = sorted(SCRATCH.rglob("*.pt"))
    assert (before.name, last.name) == ("step-000000004.pt", "step-000000005.pt")
    last.write_bytes(damage(last.read_bytes()))
    with caplog.at_level(logging.INFO, "nepa"):
        assert main(["pretrain"]) == 0
    assert f"{last} is damaged" in caplog.text
    assert "goes on after step 4 of 12" in caplog.text
    assert outcome("pretrain") == expected


def test_a_damaged_checkpoint_makes_room_for_whole_ones(drawing: Path) -> None:
    stop_at(9)
    whole, damaged = sorted(SCRATCH.rglob("*.pt"))
    damaged.write_bytes(b"")
    whole.rename(whole.with_name("step-000000005.pt"))
    state = torch.load(whole.with_name("step-000000005.pt"), weights_only=True) | {"step": 5}
    torch.save(state, whole.with_name("step-000000005.pt"))
    change(execution={"checkpoint_minutes": 10.0})
    stop_at(2)
    assert sorted(path.name for path in SCRATCH.rglob("*.pt")) == ["step-000000005.pt", "step-000000007.pt"]


def test_changed_parameters_start_anew(drawing: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop_at(5)
    change(pretrain={"weight_decay": 0.1})
    with caplog.at_level(logging.INFO, "nepa"):
        assert main(["pretrain"]) == 0
    assert "goes on after" not in caplog.text
    assert f"begins anew; what {SCRATCH}/pretrain/full/seed-0 has is of other parameters" in caplog.text
    # How a run is carried out is no part of what it depends on, and the earlier run has lost nothing.
    change(pretrain={"weight_decay": 0.05}, execution={"checkpoint_minutes": 1.0})
    with caplog.at_level(logging.INFO, "nepa"):
        assert main(["pretrain"]) == 0
    assert "goes on after step 5 of 12" in caplog.text


def test_what_is_edited_while_it_runs_is_not_recorded_as_its_own(
    drawing: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """DVC reads parameters and sources when a stage has ended."""
    evaluate = pretrain.evaluate_pretraining

    def after(edit: Callable[[], Any]) -> None:
        monkeypatch.setattr(pretrain, "evaluate_pretraining", lambda *given: (edit(), evaluate(*given))[1])

    # Another variant, and how runs are carried out, are nothing to it.
    after(lambda: change(pretraining={"masked": {"objective": {"shift": False}}}, execution={"watch": []}))
    assert main(["pretrain"]) == 0
    expected = outcome("pretrain")
    shutil.rmtree("results")
    shutil.rmtree("checkpoints")

    after(lambda: change(pretrain={"weight_decay": 0.1}))
    assert main(["pretrain"]) == 2
    assert "params.yaml has changed for pretrain full seed 0 since it began; put it back" in capsys.readouterr().err
    change(pretrain={"weight_decay": 0.05})
    source = drawing / "model.py"
    source.write_text("now")
    with monkeypatch.context() as patch:
        patch.setattr(start, "loaded_sources", lambda: {source: b"then"})
        patch.setattr(pretrain, "evaluate_pretraining", evaluate)
        assert main(["pretrain"]) == 2
    assert f"{source} has changed since pretrain full seed 0 began; put it back" in capsys.readouterr().err
    assert not Path("results").exists() and not Path("checkpoints").exists()

    monkeypatch.setattr(pretrain, "evaluate_pretraining", evaluate)
    with caplog.at_level(logging.INFO, "nepa"):
        assert main(["pretrain"]) == 0
    assert "goes on after step 12 of 12" in caplog.text
    assert outcome("pretrain") == expected


@pytest.mark.slow
def test_scenes_are_the_same_from_any_number_of_workers(drawing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used, build = [], engine.build_dataloader

    def noted(*arguments: Any, **options: Any) -> DataLoader:
        loader = build(*arguments, **options)
        used.append(loader.num_workers)
        return loader

    change(
        segment={"augmentation": {"scale": [40, 40], "ratio": [0.5, 2.0], "flip": 0.5, "photometric_distortion": False}}
    )
    assert main(["pretrain"]) == 0
    monkeypatch.setattr(engine, "build_dataloader", noted)
    found = []
    for workers in (0, 2):
        raw = yaml.safe_load(Path("params.yaml").read_text())
        raw["execution"]["segment"]["workers"] = workers
        Path("params.yaml").write_text(yaml.safe_dump(raw))
        assert main(["segment"]) == 0
        found.append(outcome("segment"))
    assert found[0] == found[1] and used == [0, 2]

"""What `nepa status` says, from files alone."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from signals import signalled

from nepa.command_line import main
from nepa.runs.clock import process_seconds

RUN = Path("results/runs/smallest/pretrain/full/seed-0")
STATUS = Path("runs/smallest/pretrain/full/seed-0/status.json")


def shown(capsys: pytest.CaptureFixture) -> list[str]:
    capsys.readouterr()
    assert main(["status"]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_nothing_has_run(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert shown(capsys) == ["nothing has run here; `dvc repro` runs what is out of date"]


def test_a_run_from_its_start_to_its_end(project: Path, capsys: pytest.CaptureFixture) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["execution"]["checkpoint_minutes"] = 0.0
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    with signalled("pretrain", 3, signal.SIGTERM):
        assert main(["pretrain"]) == 75
    line = shown(capsys)[2]
    assert line.startswith("| smallest: pretrain full seed 0 | stopped | 3 / 12 |") and "| step 3, 0:0" in line

    facts = json.loads(STATUS.read_text())
    running = facts | {"state": "running", "loss": -0.5, "images_per_second": 1234.5, "seconds_left": 3723.0}
    STATUS.write_text(json.dumps(running | {"updated": time.time()}))
    assert "| running | 3 / 12 | -0.5000 | 1,234 | 1:02:03 |" in shown(capsys)[2]
    STATUS.write_text(json.dumps(running | {"updated": time.time() - 600}))
    assert "| silent for 10:0" in shown(capsys)[2]

    checkpoint = next(STATUS.parent.rglob("step-000000003.pt"))
    state = torch.load(checkpoint, weights_only=True) | {"seconds": 1000.0}
    torch.save(state, checkpoint)
    lived = process_seconds()
    assert main(["pretrain"]) == 0
    facts = json.loads((RUN / "run.json").read_text())
    assert 1000 < facts["seconds"] < 1100 and facts["stage_seconds"] > 1000 + lived  # of both processes
    lines = shown(capsys)
    assert not any("stopped" in line for line in lines)
    assert lines[2].startswith("| smallest: pretrain full | 0 | 16:4")
    shutil.copytree(RUN, RUN.with_name("seed-7"))
    assert shown(capsys)[2].startswith("| smallest: pretrain full | 0 7 | 16:4")


def test_a_damaged_result_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 2
    assert capsys.readouterr().err == "nepa: error: params.yaml not found; run from the project's root, where it lies\n"
    Path("params.yaml").touch()
    status = Path("runs/small/pretrain/full/seed-0/status.json")
    status.parent.mkdir(parents=True)
    status.write_bytes(b"\xff")
    assert main(["status"]) == 0 and capsys.readouterr().out.startswith("nothing has run here")
    path = Path("results/runs/small/pretrain/full/seed-0/run.json")
    path.parent.mkdir(parents=True)
    path.write_text('{"seconds": ')
    assert main(["status"]) == 2
    assert (
        capsys.readouterr().err == f"nepa: error: {path} is truncated or no JSON; delete it and run its stage again\n"
    )
    path.write_text("{}")  # whole, but of another version
    assert main(["status"]) == 2
    assert capsys.readouterr().err == f"nepa: error: {path} lacks 'seconds'; delete it and run its stage again\n"

"""Several processes give what one gives, count every image once, and end when one of them dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist
import yaml
from conftest import needs_compiler
from torch.multiprocessing import spawn

from nepa.command_line import main
from nepa.errors import UserError
from nepa.training.processes import passes_per_step
from nepa.training.run_state import Checkpoints
from nepa.training.status import read_status

pytestmark = pytest.mark.slow
RESULTS = Path("results/runs/smallest")


@pytest.fixture
def shared(project: Path) -> Path:
    """Stages that draw nothing for each image on its own in training, as the processes' draws are not one process's."""
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["finetune"] |= {"mixup": 0.5, "batch_size": 16}
    raw["segment"] |= {"dropout": 0.0, "batch_size": 4}
    raw["pretrain"] |= {"monitor_every": 1}
    raw["execution"] |= {"checkpoint_minutes": 0.0}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    assert main(["prepare"]) == 0
    return project


def execution(stage: str, **changes: object) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["execution"][stage] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(raw))


def torchrun(stage: str, processes: int = 2) -> subprocess.Popen:
    """Start a stage in several processes, as it does itself where there are as many GPUs."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            "-m",
            "nepa.command_line",
            stage,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    shown, _ = process.communicate(timeout=300)
    assert process.returncode == 0, shown[-4000:]
    return shown


def curves(stage: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / stage / "full/seed-0/history.csv")


def metrics(stage: str) -> dict:
    return json.loads((RESULTS / stage / "full/seed-0/metrics.json").read_text())


def test_two_processes_give_the_curve_of_one(shared: Path) -> None:
    expected = {}
    for stage in ("pretrain", "finetune", "segment"):
        assert main([stage]) == 0
        expected[stage] = curves(stage), metrics(stage)
    shutil.rmtree("results")
    for stage, (curve, of_one) in expected.items():
        processes = 4 if stage == "finetune" else 2  # of 801 images' predictions two might change places unnoticed
        shown = finish(torchrun(stage, processes))
        assert stage != "pretrain" or shown.count("step 12/12") == 1  # one speaks for all
        found = curves(stage)
        assert (found - curve).abs().max().max() < 1e-5
        assert metrics(stage)["loss"] == pytest.approx(of_one["loss"], abs=1e-5)
        facts = json.loads((RESULTS / stage / "full/seed-0/run.json").read_text())
        assert facts["processes"] == processes
    # An odd number: one of the processes has had one image less to evaluate.
    assert sum(map(sum, metrics("finetune")["confusion"])) == 801
    assert metrics("finetune")["confusion"] == expected["finetune"][1]["confusion"]
    assert metrics("segment")["IoU"] == pytest.approx(expected["segment"][1]["IoU"], abs=0.5)


def test_sharded_weights_and_several_passes_give_the_same_curve(shared: Path) -> None:
    """A batch in passes, in one process and in two; FSDP2."""
    assert main(["pretrain"]) == 0
    expected = curves("pretrain")
    for changes in ({"images_per_pass": 8}, {"recompute_activations": True}):
        execution("pretrain", **changes)
        assert main(["pretrain"]) == 0
        assert (curves("pretrain") - expected).abs().max().max() < 1e-5
    for changes in ({"images_per_pass": 4}, {"images_per_pass": 4, "shard": True}):  # two passes in each process
        execution("pretrain", **changes)
        finish(torchrun("pretrain"))
        assert (curves("pretrain") - expected).abs().max().max() < 1e-5


def test_a_sharded_average_is_the_latest_whenever_it_is_looked_at(shared: Path) -> None:
    """It has no backward pass, after which weights are gathered anew; nor does a checkpoint do so here."""
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["finetune"]["epochs"] = 12
    raw["execution"]["checkpoint_minutes"] = 10.0
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    assert main(["pretrain"]) == main(["finetune"]) == 0
    expected = curves("finetune")
    execution("finetune", shard=True)
    finish(torchrun("finetune"))
    assert (curves("finetune") - expected).abs().max().max() < 1e-5


@needs_compiler
@pytest.mark.parametrize("shard", [False, True])
def test_two_compiled_processes_give_the_curve_of_one(shared: Path, shard: bool) -> None:
    assert main(["pretrain"]) == 0
    expected = curves("pretrain")
    execution("pretrain", shard=shard, compile=True)
    finish(torchrun("pretrain"))
    assert (curves("pretrain") - expected).abs().max().max() < 1e-4


def restore(rank: int, folder: Path, rendezvous: Path) -> None:
    """The second process sees no checkpoint."""
    dist.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=2)
    nothing = dict.fromkeys(("placement", "optimizer", "schedule", "history", "seconds", "stop", "status"))
    with pytest.raises(UserError, match="one process finds the checkpoint of step 3, another that of 0; look whether"):
        Checkpoints(folder / "elsewhere" if rank else folder, **nothing).restore()
    dist.destroy_process_group()


def test_processes_that_see_different_checkpoints_do_not_start(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / "step-000000003.pt")
    spawn(restore, (tmp_path, tmp_path / "rendezvous"), nprocs=2)


def wait_for_step(process: subprocess.Popen, step: int) -> dict:
    path = Path("runs/smallest/pretrain/full/seed-0/status.json")
    while process.poll() is None:
        if path.exists() and (facts := json.loads(path.read_text())).get("checkpoint_step", 0) >= step:
            return facts
        time.sleep(0.01)
    raise AssertionError(process.communicate()[0][-4000:])


@pytest.mark.parametrize(("shard", "alone"), [(False, True), (True, True), (True, False)])
def test_it_goes_on_alone_or_in_as_many_processes(shared: Path, shard: bool, alone: bool) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["pretrain"]["epochs"] = 20
    raw["execution"]["pretrain"]["shard"] = shard
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    assert main(["pretrain"]) == 0
    expected = curves("pretrain")
    shutil.rmtree("results")
    process = torchrun("pretrain")
    first = wait_for_step(process, 5)
    os.kill(first["process"], signal.SIGTERM)  # one hears it, both stop
    process.communicate(timeout=120)
    assert not RESULTS.exists()
    raw["execution"]["checkpoint_minutes"] = 10.0
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    if alone:
        command = [str(Path(sys.executable).with_name("nepa")), "pretrain"]
        shown = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
    else:
        shown = finish(torchrun("pretrain"))
    assert "goes on after step" in shown
    assert (curves("pretrain") - expected).abs().max().max() < 1e-5


@pytest.mark.parametrize(
    ("batch", "limit", "together", "passes"), [(16, None, 2, 1), (20, 5, 2, 5), (20, 5, 1, 4), (12, 4, 1, 3)]
)
def test_passes_are_as_few_as_fit(batch: int, limit: int | None, together: int, passes: int) -> None:
    assert passes_per_step(batch, limit, together) == passes


@pytest.mark.parametrize(("batch", "limit", "said"), [(15, None, "multiples of 2"), (16, 1, "must be at least 2")])
def test_what_passes_cannot_divide_is_refused(batch: int, limit: int | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        passes_per_step(batch, limit, together=2)


SLOW_DISK = """import os, time, torch
save = torch.save
def slowly(*given):
    time.sleep(4)
    save(*given)
if os.environ.get("RANK") == "0":
    torch.save = slowly
"""


def test_none_leaves_before_the_checkpoint_is_written(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one has gone torchrun ends the others, whatever they still write."""
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["pretrain"]["epochs"] = 500
    raw["execution"]["checkpoint_minutes"] = 10.0
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow/sitecustomize.py").write_text(SLOW_DISK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "slow"), prepend=os.pathsep)
    process = torchrun("pretrain")
    scratch = Path("runs/smallest/pretrain/full/seed-0")
    while "step" not in (read_status(scratch / "status.json") or {}):
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.1)
    trainings = psutil.Process(process.pid).children()
    trainings[0].send_signal(signal.SIGTERM)
    psutil.wait_procs(trainings, callback=lambda one: list(scratch.glob("*/step-*.pt")) or pytest.fail(f"{one} left"))
    assert "stopped at step" in process.communicate()[0]


def test_a_second_ctrl_c_ends_what_hangs(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from nepa.training.launch import _run; "
        f"_run(['sleep', '100'], Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    while not psutil.Process(process.pid).children():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    while not (tmp_path / "stop").exists():
        time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=20)[1]


def test_a_dead_process_ends_them_all(shared: Path) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["pretrain"]["epochs"] = 500
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    process = torchrun("pretrain")
    first = wait_for_step(process, 2)["process"]
    others = [child.pid for child in psutil.Process(process.pid).children() if child.pid != first]
    os.kill(others[0], signal.SIGKILL)
    started = time.monotonic()
    shown, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and time.monotonic() - started < 90
    assert "Signal 9 (SIGKILL)" in shown
    assert not RESULTS.exists()


@pytest.fixture
def two_gpus(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that says it has two GPUs: as many processes are started, which then find none and use the CPU."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    execution("pretrain", gpus=2)
    return shared


def test_a_stage_starts_a_process_for_each_gpu(two_gpus: Path) -> None:
    interrupted = signal.getsignal(signal.SIGINT)
    assert main(["pretrain"]) == 0
    facts = json.loads((RESULTS / "pretrain/full/seed-0/run.json").read_text())
    assert facts["processes"] == 2
    assert signal.getsignal(signal.SIGINT) is interrupted


def test_fewer_gpus_than_asked_for(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    execution("pretrain", gpus=8)
    assert main(["pretrain"]) == 0
    assert "execution asks for 8 GPUs on each node; going on with the 0 that are here" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
def test_gpus_that_torch_cannot_use(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As with an older driver, which counts them all the same: days on a CPU are not what was asked for."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    execution("pretrain", gpus=1)
    assert main(["pretrain"]) == 2
    assert "2 GPUs are here, but torch for CUDA" in capsys.readouterr().err
    execution("pretrain", gpus=0)
    assert main(["pretrain"]) == 0


@pytest.mark.parametrize("asked", ["who started them", "they alone"])  # as SLURM does on several nodes
def test_asked_to_stop(two_gpus: Path, asked: str) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["pretrain"]["epochs"] = 500
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    script = (
        "import torch, nepa.command_line as c; torch.cuda.device_count = lambda: 2; "
        "torch.cuda.is_available = lambda: True; exit(c.main(['pretrain']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_step(process, 2)
    torchrun = psutil.Process(process.pid).children()
    for hearing in [process] if asked == "who started them" else torchrun[0].children():
        hearing.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "stopped at step" in shown
    status = json.loads(Path("runs/smallest/pretrain/full/seed-0/status.json").read_text())
    assert status["state"] == "stopped" and status["checkpoint_step"] == status["step"]

"""`nepa bench`: its table, its files, and what it says of that which it could not measure."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, needs_compiler

from nepa.bench import growth, matrix, measurements, start
from nepa.bench.growth import HEAD, SWEEPS, Size, Sweep
from nepa.bench.growth_figure import draw_growth, slope
from nepa.bench.measurements import MEASUREMENTS, Bench
from nepa.bench.results import results_folder
from nepa.bench.rows import Row
from nepa.bench.stage_data import prepared_dataset, reference_batches
from nepa.bench.workload import Workload, on_this_machine
from nepa.command_line import MEASURED, main
from nepa.data.images import Images
from nepa.errors import UserError
from nepa.parameters import Parameters, load_parameters
from nepa.parameters.recipes import recipe_parameters
from nepa.parameters.schema import STAGES, Stage
from nepa.stages.prepare_images import write_splits

CIRCUMSTANCES = {"what", "recipe", "command", "hardware", "versions", "threads", "cores", "load_before", "finished"}
without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "SIZES", {"cpu": (128, 256), "cuda": (1024,)})
    monkeypatch.setattr(start, "REPETITIONS", 1)


def bench(output: Path, *arguments: str) -> None:
    assert main(["bench", *arguments, "--seconds", "0.1", "--output", str(output)]) == 0


def content(output: Path, name: str) -> dict:
    return json.loads((output / f"{name}.json").read_text())


def test_each_measurement_can_be_asked_for() -> None:
    assert tuple(MEASUREMENTS) == MEASURED


def test_a_file_says_what_was_measured_where(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bench(tmp_path / "out", "--what", "matrix", "loader")
    found = content(tmp_path / "out", "matrix")
    assert found.keys() >= CIRCUMSTANCES | {"rows"} and found["recipe"] == "smallest"
    assert found["command"].startswith("nepa bench --what matrix loader")
    rates = [row for row in found["rows"] if "flops_per_second" in row]
    assert [row["precision"] for row in rates] == ["float32", "bfloat16"]
    assert all(row["flops_per_second"] > 1e8 for row in rates)
    (row,) = content(tmp_path / "out", "loader")["rows"]
    assert row == {"not_measured": "the recipe's images lie in memory"}
    table = capsys.readouterr().out
    assert "| matrix, smallest" in table and "| not measured" in table


def test_what_was_measured_before_a_failure_is_kept(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(bench: Bench) -> Iterator[Row]:
        yield {"measured": 1}
        raise UserError("no more")

    monkeypatch.setitem(MEASUREMENTS, "matrix", stopped)
    assert main(["bench", "--what", "matrix", "--output", str(tmp_path / "out")]) == 2
    assert content(tmp_path / "out", "matrix")["rows"] == [{"measured": 1}]


@without_a_gpu
def test_a_stage_that_does_not_fit_leaves_the_others_their_rows(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(workload: Workload, *_: object) -> Row:
        if workload.stage == "pretrain":
            raise torch.OutOfMemoryError("out of memory\nand how much")
        return {"measured": 1}

    monkeypatch.setattr(measurements, "measure_step", step)
    bench(tmp_path / "out", "--what", "step", "--stages", "pretrain", "finetune", "--batch-size", "4")
    rows = content(tmp_path / "out", "step")["rows"]
    assert rows[0] == {"stage": "pretrain", "not_measured": "out of memory"} and rows[1]["measured"] == 1


def test_a_process_that_fails_leaves_the_others_their_rows(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that has no room for both."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho Traceback >&2\necho torch.OutOfMemoryError: CUDA out of memory >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    bench(tmp_path / "out", "--what", "start", "--stages", "pretrain", "finetune")
    rows = content(tmp_path / "out", "start")["rows"]
    told = "the stage's process ended with 1: torch.OutOfMemoryError: CUDA out of memory"
    assert rows[:2] == [{"stage": stage, "not_measured": told} for stage in ("pretrain", "finetune")] and rows[2:]


def test_sizes_that_do_not_fit_leave_the_others_theirs(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(workload: Workload, steps: int) -> float:
        if workload.parameters.model.width == 128:
            raise torch.OutOfMemoryError("out of memory\nand how much")
        return torch.ones(workload.settings.batch_size).sum().item()

    small = Sweep(Size(tokens=16, batch=2, width=32, depth=1), tokens=(16, 64), batch=(1, 2), width=(32, 64, 128))
    monkeypatch.setattr(growth, "SWEEPS", dict.fromkeys(SWEEPS, small))
    monkeypatch.setattr(growth, "_quickest_step", step)
    bench(tmp_path / "out", "--what", "growth")
    *measured, last = content(tmp_path / "out", "growth")["rows"]
    assert len(measured) == 6 and all(row["seconds"] == row["batch"] for row in measured)
    assert last == {"axis": "width", "not_measured": "out of memory", **asdict(replace(small.base, width=128))}
    assert (tmp_path / "out/growth.png").exists()


@pytest.mark.parametrize(("recipe", "hidden"), [("smallest", True), ("imagenet-base-paper", False)])
def test_a_recipe_without_gpus_is_measured_without(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, hidden: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (project / "recipes").symlink_to(ROOT / "recipes")
    named = [] if recipe == "smallest" else ["--recipe", recipe]
    bench(tmp_path / "out", "--what", "loader", *named)
    assert (os.environ["CUDA_VISIBLE_DEVICES"] == "") is hidden


def test_pretraining_is_measured_without_what_it_does_not_need(project: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('dvc', 'mmseg', 'mmcv', 'snakemake'));"
        "from nepa.bench import matrix; matrix.SIZES = {'cpu': (128,), 'cuda': (128,)};"
        "from nepa.command_line import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["--what", "matrix", "step", "--stages", "pretrain", "--batch-size", "4", "--seconds", "0.1"]
    command = [sys.executable, "-c", code, "bench", *options, "--output", tmp_path / "out"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert content(tmp_path / "out", "step")["rows"][0]["ratio"]["value"] > 0


def test_no_larger_matrix_after_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with bfloat16 on a CPU without it, of which the largest alone would take minutes."""
    monkeypatch.setattr(matrix, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(matrix, "LONGEST", 0.0)
    assert [row["size"] for row in matrix.matrix_rates(threads=1)] == [128, 128]


@without_a_gpu
def test_what_needs_a_gpu_is_not_measured(project: Path, tmp_path: Path) -> None:
    bench(tmp_path / "out", "--what", "matrix")
    rows = [row for row in content(tmp_path / "out", "matrix")["rows"] if row["device"] == "cuda"]
    assert rows == [
        {"device": "cuda", "precision": precision, "not_measured": "no GPU here that the recipe asks for"}
        for precision in ("float32", "bfloat16")
    ]


@without_a_gpu
def test_steps_are_compared_in_turn_with_the_baseline(project: Path, tmp_path: Path) -> None:
    bench(tmp_path / "out", "--what", "step", "--stages", "pretrain", "--batch-size", "4")
    alone, with_loader, on_a_gpu = content(tmp_path / "out", "step")["rows"]
    for row in (alone, with_loader):
        assert row["batch_size"] == 4 and row["turns"] >= 5 and row["largest_difference"] < 1e-6
        assert 0 < row["ratio"]["low"] <= row["ratio"]["high"] and row["ratio"]["value"] > 0
        for side in (row["ours"], row["baseline"]):
            assert side["images_per_second"] > 0 and 0 < side["share_of_matrix_rate"] < 1
    assert alone["ours"]["peak_memory_mb"] > 0 and not alone["loader"] and with_loader["loader"]
    assert on_a_gpu == {"device": "cuda", "stage": "pretrain", "not_measured": "no GPU here that the recipe asks for"}


@needs_compiler
@pytest.mark.slow
def test_a_step_is_measured_compiled_whatever_the_recipe_says(project: Path, tmp_path: Path) -> None:
    """With drop path, in which both sides must draw alike to agree."""
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["finetune"]["drop_path"] = 0.3
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    bench(tmp_path / "out", "--what", "compiled", "--stages", "finetune", "--batch-size", "4")
    alone, with_loader, next_process = content(tmp_path / "out", "compiled")["rows"]
    assert alone["compiled"] and with_loader["compiled"] and with_loader["loader"]
    assert alone["largest_difference"] < 1e-4
    assert alone["compile_seconds"] > with_loader["compile_seconds"] > 0  # the second comes out of torch's cache
    assert next_process["compiled"] and 0 < next_process["import_seconds"] < next_process["first_step_seconds"]


@pytest.mark.slow
def test_without_prepared_data_its_rows_are_not_measured(project: Path, tmp_path: Path) -> None:
    for folder in Path("data").iterdir():
        folder.rename(tmp_path / folder.name)
    bench(tmp_path / "out", "--what", "step", "waiting", "--stages", "pretrain", "--batch-size", "4")
    assert "nepa prepare" in content(tmp_path / "out", "step")["rows"][1]["not_measured"]
    assert "nepa prepare" in content(tmp_path / "out", "waiting")["rows"][0]["not_measured"]


def test_waiting_is_a_share_of_an_epoch(project: Path, tmp_path: Path) -> None:
    bench(tmp_path / "out", "--what", "waiting", "--stages", "finetune", "--batch-size", "10")
    (row,) = content(tmp_path / "out", "waiting")["rows"]
    assert row["stage"] == "finetune" and 0 <= row["share"] < 1 and row["steps"] > 1


@pytest.mark.slow
def test_start_counts_from_the_process(project: Path, tmp_path: Path) -> None:
    """There is no ledger in this folder, so the engines are not measured."""
    bench(tmp_path / "out", "--what", "start", "--stages", "pretrain")
    stage, engines = content(tmp_path / "out", "start")["rows"]
    assert 0 < stage["import_seconds"] < stage["first_step_seconds"]
    assert "dvc repro" in engines["not_measured"]


def test_sizes_of_the_growth_are_possible() -> None:
    for sweep in SWEEPS.values():
        for _, size in sweep:
            assert size.width % HEAD == 0 and round(size.tokens**0.5) ** 2 == size.tokens


def test_growth_is_drawn_with_its_slopes(tmp_path: Path) -> None:
    assert slope(pd.Series({1: 5.0, 10: 1.0, 100: 1000.0})) == pytest.approx(3)
    quantities = ("seconds", "floor_seconds", "peak_memory_mb", "floor_memory_mb")
    base = {"tokens": 64, "batch": 8, "width": 128, "depth": 2}
    rows = [
        base | {"axis": axis, axis: value} | dict.fromkeys(quantities, value**1.5)
        for axis in ("tokens", "batch", "width")
        for value in (64, 256)
    ]
    draw_growth(rows, "title", tmp_path)
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_results_lie_in_a_folder_of_the_hardware_and_recipe() -> None:
    folder = results_folder("NVIDIA H100 80GB HBM3", "digits")
    assert folder == Path("results/bench/nvidia-h100-80gb-hbm3/digits")


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--batch-size", "3"], ["--recipe", "absent"]])
def test_impossible_requests_are_one_line(arguments: list[str], project: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("stage", STAGES)
def test_one_device_s_share_is_a_recipe_of_its_own(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process whose start is measured reads it as one."""
    monkeypatch.chdir(ROOT)
    parameters = on_this_machine(recipe_parameters("imagenet-base-paper"), stage, 2)
    assert Parameters.model_validate_json(parameters.model_dump_json()) == parameters


def test_a_stage_without_variants_is_left_out(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text()) | {"scenes": None, "segmentation": {}}
    raw["segment"]["blocks"] = [0, 1, 2, 5]  # beyond the model's
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    bench(tmp_path / "out", "--what", "waiting", "--stages", "segment", "finetune", "--batch-size", "10")
    assert [row["stage"] for row in content(tmp_path / "out", "waiting")["rows"]] == ["finetune"]
    assert main(["bench", "--what", "waiting", "--stages", "segment"]) == 2
    assert "smallest has no variant of segment; name others by --stages" in capsys.readouterr().err


def test_coloured_images_in_memory_are_read_as_the_reference_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    parameters = on_this_machine(recipe_parameters("cifar10-cpu"), "pretrain", 2)
    monkeypatch.chdir(tmp_path)
    images = Images(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4))
    write_splits(Path("data/cifar10-cpu/images"), {"training": images}, "black", None)
    dataset = prepared_dataset(parameters, "pretrain")
    batch = next(reference_batches(parameters, "pretrain", dataset, count=1))
    assert batch["images"].shape == (2, 3, 32, 32)


def test_a_step_has_the_recipe_s_batch_where_it_fits(project: Path, tmp_path: Path) -> None:
    bench = Bench(load_parameters(), ("pretrain",), None, 2000.0, tmp_path)
    assert bench.of_stage("pretrain").pretrain.batch_size == 32  # the recipe's
    six = Bench(load_parameters(), ("pretrain",), 6, 20.0, tmp_path)
    assert six.of_stage("pretrain").pretrain.batch_size == 6

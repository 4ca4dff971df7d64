"""The report: its table, statuses, verdicts and intervals, from runs whose numbers are known."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from report_runs import write_run

from nepa.command_line import main
from nepa.errors import UserError
from nepa.parameters import load_parameters
from nepa.report.collect import collect_runs
from nepa.report.statistics import paired_difference
from nepa.report.table import COLUMNS, build_table, joint_status
from nepa.report.verdict import row_verdict

HALF = "pretraining's failure reproduced (identity); fine-tuning's failure not reproduced"


def table() -> pd.DataFrame:
    parameters = load_parameters()
    return build_table(parameters, collect_runs(parameters))


def row(task: str, variant: str, metric: str) -> pd.Series:
    found = table().set_index(["task", "variant", "metric"])
    return found.loc[(task, variant, metric)]


def test_mean_deviation_and_count(project: Path) -> None:
    for seed, top1 in ((0, 80.0), (1, 86.0)):
        write_run("finetune", "full", seed, top1=top1)
    found = row("ablation", "full", "top1")
    assert (found["mean"], found["n"], found["status"], found["paper"]) == (83.0, 2, "ok", 76.8)
    assert found["std"] == pytest.approx(math.sqrt(18))
    assert row("classification", "full", "top1")["paper"] == 83.8
    assert ",".join(table().columns) == "task,variant,metric,mean,std,n,paper,recipe,status"


def test_a_seed_that_diverged_has_a_status_and_no_mean(project: Path) -> None:
    write_run("finetune", "full", 0, top1=80.0)
    write_run("finetune", "full", 1, top1=None, status="diverged")
    found = row("ablation", "full", "top1")
    assert (found["mean"], found["n"], found["status"]) == (80.0, 1, "partial (1 diverged, 1 ok)")


def test_what_is_declared_and_absent_is_not_run(project: Path) -> None:
    write_run("finetune", "full", 0)
    assert row("ablation", "full", "top1")["status"] == "partial (1 not_run, 1 ok)"
    for task, variant in (("ablation", "no_shift"), ("segmentation", "full"), ("mlp", "gated_mlp")):
        found = table().set_index(["task", "variant"]).loc[(task, variant)]
        assert found["status"] == "not_run" and found["n"] == 0 and pd.isna(found["mean"])


def test_a_run_that_params_yaml_no_longer_declares_is_left_out(project: Path) -> None:
    write_run("finetune", "full", 0, top1=80.0)
    write_run("finetune", "full", 77, top1=10.0)
    write_run("finetune", "forgotten", 0, top1=10.0)
    assert row("ablation", "full", "top1")["mean"] == 80.0
    assert "forgotten" not in set(table()["variant"])


def test_recipes_stand_side_by_side(project: Path) -> None:
    write_run("finetune", "full", 0, top1=80.0)
    write_run("finetune", "full", 0, recipe="bigger", top1=90.0)
    found = table().set_index(["recipe", "task", "variant"])["mean"]
    assert found[("smallest", "classification", "full")] == 80.0
    assert found[("bigger", "classification", "full")] == 90.0


def test_floor_rows_join_the_ablation(project: Path) -> None:
    write_run("finetune", "from_scratch", 0, initialisation="random", top1=70.0)
    assert row("ablation", "from_scratch", "top1")["mean"] == 70.0


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], "not_run"),
        (["identity", "identity"], "identity"),
        (["ok", "collapsed", "ok"], "partial (1 collapsed, 2 ok)"),
    ],
)
def test_joint_status(statuses: list[str], expected: str) -> None:
    assert joint_status(statuses) == expected


def test_paired_difference_is_student_s() -> None:
    difference = paired_difference({0: 5.0, 1: 7.0, 2: 9.0, 3: 1.0}, {0: 4.0, 1: 5.0, 2: 6.0})
    # Differences 1, 2, 3: deviation 1, t(.975, 2) = 4.3027.
    assert difference.n == 3 and difference.mean == 2
    assert difference.high == pytest.approx(2 + 4.302653 / math.sqrt(3))
    assert not difference.resolved
    assert paired_difference({0: 5.0, 1: 7.0, 2: 9.1}, {0: 1.0, 1: 3.0, 2: 5.0}).resolved
    assert not paired_difference({0: 5.0}, {0: 1.0}).resolved
    assert paired_difference({0: 5.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("variant", "figure", "values", "status", "expected"),
    [
        ("no_shift", "fail", [80.0, 81.0], "identity", HALF),
        ("no_shift", "fail", [None, 11.0], "identity", "reproduced: fails"),
        ("no_stop_gradient", "fail", [10.0, 12.0], "collapsed", "reproduced: fails"),
        ("no_stop_gradient", "fail", [80.0, 81.0], "ok", "not reproduced"),
        ("no_causal_mask", 73.6, [70.0, 71.1], "ok", "reproduced: same sign"),
        ("no_causal_mask", 73.6, [90.0, 91.1], "ok", "not reproduced: opposite sign"),
        ("no_causal_mask", 73.6, [80.0, 90.0], "ok", "not resolved"),
        ("from_scratch", None, [70.0, 71.1], "ok", "full is better"),
        ("full", 76.8, None, "ok", ""),
        ("absent", "fail", None, "ok", "not run"),
    ],
)  # fmt: skip
def test_verdicts(
    project: Path,
    variant: str,
    figure: float | str | None,
    values: list,
    status: str,
    expected: str,
) -> None:
    for seed, top1 in enumerate([80.0, 81.0]):
        write_run("finetune", "full", seed, top1=top1)
    for seed, top1 in enumerate(values or []):
        write_run("finetune", variant, seed, top1=top1, status=status, recipe="smallest")
    parameters = load_parameters()
    declared = parameters.model_copy(update={"recipe": "another"})  # so that every run is looked at
    found = row_verdict(
        collect_runs(declared), "finetune", "top1", variant, "full", {"full": 76.8, variant: figure}, 10
    )
    assert found == expected


def write_everything() -> None:
    for seed in (0, 1):
        for variant in ("full", "no_causal_mask", "no_shift", "no_stop_gradient"):
            write_run("pretrain", variant, seed)
            write_run("finetune", variant, seed, top1=80.0 + seed)
        write_run("finetune", "from_scratch", seed, initialisation="random")
    for variant in ("full", "from_scratch"):
        write_run("segment", variant, 0)


def test_the_report_is_made_from_files_alone_and_is_the_same_twice(project: Path) -> None:
    write_everything()
    outcomes = []
    for _ in range(2):
        assert main(["report"]) == 0
        files = [p for p in Path("results").rglob("*") if p.is_file() and "runs" not in p.parts]
        outcomes.append({str(path): path.read_bytes() for path in files})
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0]) == {
        "results/report.md",
        "results/table.csv",
        "results/figures/smallest/curves.png",
        "results/figures/smallest/segmentations.png",
    }
    text = Path("results/report.md").read_text()
    assert "| 80.5 ± 0.7 (n = 2) |" in text
    assert "a processor" in text and "cccccccccccc" in text and "dddddddddddd" in text
    for line in text.splitlines():
        if "](" in line and line.startswith("!"):
            with Image.open(Path("results") / line.split("](")[1].rstrip(")")) as picture:
                assert picture.width > 600
    read = pd.read_csv("results/table.csv")
    assert list(read.columns) == COLUMNS


def test_the_report_names_what_the_floors_change(project: Path) -> None:
    write_everything()
    assert main(["report"]) == 0
    text = Path("results/report.md").read_text()
    assert "`finetune.initialisation` random (shared: pretrained)" in text
    assert "`finetune.freeze_patch_embedding` no (shared: yes)" in text
    assert "| `model.layer_scale` " in text  # leaves the paper's


def test_a_truncated_result_is_named(project: Path) -> None:
    folder = write_run("finetune", "full", 0)
    (folder / "metrics.json").write_text('{"status"')
    with pytest.raises(UserError, match=r"full/seed-0/metrics\.json is truncated or no JSON; delete it and run"):
        collect_runs(load_parameters())
    (folder / "metrics.json").write_text(json.dumps({"status": "ok"}))
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match=r"run\.json not found; run its stage again"):
        collect_runs(load_parameters())

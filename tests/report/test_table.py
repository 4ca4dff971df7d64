"""The report's table: means, statuses and intervals, from runs whose numbers are known."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT
from report_runs import write_run

from nepa.errors import UserError
from nepa.parameters import load_parameters
from nepa.report.collect import collect_runs
from nepa.report.paper import paper, paper_tables
from nepa.report.statistics import paired_difference
from nepa.report.table import build_table, joint_status


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


def test_rows_that_neither_the_paper_nor_the_recipe_has_are_left_out(project: Path) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["finetuning"], raw["segmentation"] = {}, {"full": {}}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    write_run("finetune", "full", 0)
    assert not set(table()["variant"]) & {"from_scratch", "from_scratch_long"}


def test_a_run_that_params_yaml_no_longer_declares_is_left_out(project: Path) -> None:
    write_run("finetune", "full", 0, top1=80.0)
    write_run("finetune", "full", 77, top1=10.0)
    write_run("finetune", "full", 0, root="results/further_ablations", top1=10.0)  # moved since
    write_run("finetune", "forgotten", 0, top1=10.0)
    assert row("ablation", "full", "top1")["mean"] == 80.0
    assert "forgotten" not in set(table()["variant"])


def test_further_ablations_of_one_s_own_have_a_row(project: Path) -> None:
    """With the variants of their kind, though no table of the paper has them."""
    further = {"root": "results/further_ablations"}
    write_run("pretrain", "deeper", 0, **further)
    write_run("finetune", "deeper", 0, top1=81.0, **further)
    write_run("finetune", "slower", 0, top1=82.0, **further)
    parameters = load_parameters()
    ablations = parameters.further_ablations.model_copy(
        update={"pretraining": {"deeper": {}}, "finetuning": {"slower": {}}, "seeds": [0]}
    )
    parameters = parameters.model_copy(update={"further_ablations": ablations})
    found = build_table(parameters, collect_runs(parameters)).set_index(["task", "variant"])["mean"]
    assert found["ablation", "deeper"] == 81.0 and found["classification", "slower"] == 82.0


def test_random_weights_among_the_further_ablations_are_a_floor_too(project: Path) -> None:
    """The paper's Table 2 has a row for them, without a figure."""
    for variant in ("full", "no_shift"):
        write_run("pretrain", variant, 0, recipe="other")
        write_run("finetune", variant, 0, recipe="other")
    further = {"recipe": "other", "root": "results/further_ablations"}
    write_run("finetune", "from_scratch_long", 0, initialisation="random", top1=90.0, **further)
    write_run("finetune", "causal_attention", 0, **further)  # as Table 1e has it
    found = table().set_index(["recipe", "task"])
    for task in ("ablation", "classification"):
        rows = found.loc[("other", task)].set_index("variant")
        assert rows.loc["from_scratch_long", "mean"] == 90.0 and "causal_attention" not in rows.index


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


def test_a_truncated_result_is_named(project: Path) -> None:
    folder = write_run("finetune", "full", 0)
    (folder / "metrics.json").write_text('{"status"')
    with pytest.raises(
        UserError, match=r"full/seed-0/metrics\.json is truncated or no JSON; bring it back with git, or"
    ):
        collect_runs(load_parameters())
    (folder / "metrics.json").write_text(json.dumps({"status": "ok"}))
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match=r"run\.json not found; bring it back with git, or run its"):
        collect_runs(load_parameters())


def test_curves_and_samples_that_cannot_be_read_are_named(project: Path) -> None:
    folder = write_run("segment", "full", 0)
    (run,) = collect_runs(load_parameters())
    for name, read in (("history.csv", run.history), ("samples.npz", run.samples)):
        (folder / name).write_bytes((folder / name).read_bytes()[:-30] if name == "samples.npz" else b"")
        with pytest.raises(UserError, match=rf"seed-0/{name} is damaged \(.*\); bring it back with git, or"):
            read()
        (folder / name).unlink()
        with pytest.raises(UserError, match=rf"seed-0/{name} not found; bring it back with git, or"):
            read()


def test_a_recipe_stands_for_the_tables_of_its_own_model_and_length() -> None:
    """ViT-L for none of ViT-B's ablations, and 50,000 steps for none of the whole pretraining."""
    recipes = [path.stem for path in (ROOT / "recipes").glob("*.yaml")]
    rows = {recipe: {task for task, table in paper_tables(recipe).items() if table["rows"]} for recipe in recipes}
    assert rows["imagenet-large-paper"] == {"classification", "segmentation", "attention"}
    assert rows["imagenet-ablations-50k"] == {"ablation"}
    assert rows["digits"] == rows["cifar10"] == set(paper()["tables"])
    for recipe, stated in paper()["recipes"].items():
        assert set(stated["stands_for"]) <= set(paper()["tables"]), recipe

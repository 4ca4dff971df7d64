"""Verdicts by the report's rule, on runs whose numbers are known."""

from pathlib import Path

import pytest
from report_runs import write_run

from nepa.parameters import load_parameters
from nepa.report.collect import Run, collect_runs
from nepa.report.comparisons import compare_with_paper
from nepa.report.summary import findings_table, gain
from nepa.report.table import build_table
from nepa.report.verdict import Verdict, finetuning_fails, level_verdict, row_verdict
from nepa.runs.outcome import first_failure

HALF = "partly reproduced: pretraining fails (identity), fine-tuning does not"
OTHER = "partly reproduced: pretraining fails otherwise (identity; in the paper collapsed), fine-tuning does not"
OTHERWISE = "partly reproduced: fails otherwise (collapsed; in the paper identity)"
BOTH = "not resolved: the interval contains 0 and also the paper's +3.2"
LOST = "not reproduced: 1 of 2 seeds diverged"
ALONE = "partly reproduced: fails otherwise (fine-tuning alone; in the paper collapsed)"
DIVERGED = "partly reproduced: fails otherwise (diverged; in the paper collapsed)"
ZERO = "not resolved: the interval contains 0 but not the paper's +3.2"


def of_any_recipe() -> list[Run]:
    return collect_runs(load_parameters().model_copy(update={"recipe": "another"}))


@pytest.mark.parametrize(
    ("variant", "figure", "values", "status", "expected"),
    [
        ("no_shift", "fail", [80.0, 81.0], "identity", Verdict("partly reproduced", HALF)),
        ("no_shift", "fail", [None, 11.0], "identity", Verdict("reproduced", "reproduced: fails (identity)")),
        ("no_stop_gradient", "fail", [10.0, 12.0], "collapsed", Verdict("reproduced", "reproduced: fails (collapsed)")),
        ("no_stop_gradient", "fail", [80.0, 81.0], "identity", Verdict("partly reproduced", OTHER)),
        ("no_shift", "fail", [10.0, 12.0], "collapsed", Verdict("partly reproduced", OTHERWISE)),
        ("no_stop_gradient", "fail", [80.0, 81.0], "ok", Verdict("not reproduced", "not reproduced: does not fail")),
        ("no_causal_mask", 73.6, [70.0, 71.1], "ok", Verdict("reproduced", "reproduced: same sign")),
        ("no_causal_mask", 73.6, [90.0, 91.1], "ok", Verdict("not reproduced", "not reproduced: opposite sign")),
        ("no_causal_mask", 73.6, [80.0, 90.0], "ok", Verdict("not resolved", BOTH)),
        ("no_causal_mask", 73.6, [80.1, 80.9], "ok", Verdict("not resolved", ZERO)),
        ("no_causal_mask", 73.6, [79.0, 80.000001], "ok", Verdict("not resolved", "not resolved")),  # an image each
        ("no_causal_mask", 73.6, [80.0, 81.0], "ok", Verdict("not resolved", "not resolved")),
        ("no_causal_mask", 73.6, [70.0], "ok", Verdict("not resolved", "not resolved")),
        ("from_scratch", None, [70.0, 71.1], "ok", Verdict("not in the paper", "full is better")),
        ("from_scratch", None, [90.0, 91.1], "ok", Verdict("not in the paper", "full is worse")),
        ("from_scratch", None, [80.0, 90.0], "ok", Verdict("not in the paper", "not resolved")),
        (
            "no_causal_mask",
            73.6,
            [None, 71.1],
            "ok",
            Verdict("not reproduced", LOST),
        ),
        ("from_scratch", None, [None, None], "diverged", Verdict("not in the paper", "2 of 2 seeds diverged")),
        ("full", 76.8, None, "ok", Verdict("reference", "the reference")),
        ("absent", "fail", None, "ok", Verdict("not run", "not run")),
    ],
)
def test_verdicts(
    project: Path, variant: str, figure: float | str | None, values: list, status: str, expected: Verdict
) -> None:
    for seed, top1 in enumerate([80.0, 81.0]):
        write_run("finetune", "full", seed, top1=top1)
    for seed, top1 in enumerate(values or []):
        write_run("finetune", variant, seed, top1=top1, status=status)
    figures = {"full": 76.8, variant: figure}
    assert row_verdict(of_any_recipe(), "finetune", "top1", variant, "full", figures) == expected


@pytest.mark.parametrize(
    ("pretrained", "expected"),
    [
        ("collapsed", Verdict("reproduced", "reproduced: fails (collapsed)")),
        ("diverged", Verdict("partly reproduced", DIVERGED)),
        ("ok", Verdict("partly reproduced", ALONE)),
    ],
)
def test_a_failure_is_the_pretraining_s(project: Path, pretrained: str, expected: Verdict) -> None:
    """Also where fine-tuning diverges after it, as the stages record it."""
    for seed in range(2):
        write_run("pretrain", "no_stop_gradient", seed, status=pretrained)
        status = first_failure(pretrained, "diverged")
        write_run("finetune", "no_stop_gradient", seed, top1=None, status=status)
    figures = {"no_stop_gradient": "fail"}
    assert row_verdict(of_any_recipe(), "finetune", "top1", "no_stop_gradient", "full", figures) == expected


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (73.6, Verdict("not resolved", "not resolved: of full 2 of 4 seeds diverged")),
        (None, Verdict("not in the paper", "of full 2 of 4 seeds diverged")),
    ],
)
def test_what_is_left_of_a_reference_is_no_fair_sample(project: Path, figure: float | None, expected: Verdict) -> None:
    for seed, top1 in enumerate([None, None, 80.0, 80.2]):
        write_run("finetune", "full", seed, top1=top1)
        write_run("finetune", "from_scratch", seed, top1=70.0 + seed)
    figures = {"full": 76.8, "from_scratch": figure}
    assert row_verdict(of_any_recipe(), "finetune", "top1", "from_scratch", "full", figures) == expected
    assert gain(of_any_recipe()) == ""


def test_seeds_that_fail_are_counted_where_not_all_do(project: Path) -> None:
    for seed, status in enumerate(("collapsed", "ok", "collapsed")):
        write_run("finetune", "no_shift", seed, top1=80.0 if status == "ok" else 10.0, status=status)
    verdict = row_verdict(of_any_recipe(), "finetune", "top1", "no_shift", "full", {"no_shift": "fail"})
    assert verdict == Verdict("not reproduced", "not reproduced: 2 of 3 seeds fail")


def test_chance_after_a_sound_pretraining_is_a_failure(project: Path) -> None:
    for seed in range(3):
        write_run("pretrain", "gated_mlp_without_qk_norm", seed)
        write_run("finetune", "gated_mlp_without_qk_norm", seed, top1=10.0)
    figures = {"gated_mlp_without_qk_norm": "fail"}
    verdict = row_verdict(of_any_recipe(), "finetune", "top1", "gated_mlp_without_qk_norm", "full", figures)
    assert verdict == Verdict("partly reproduced", ALONE.replace("collapsed", "diverged"))
    write_run("finetune", "gated_mlp_without_qk_norm", 1, top1=80.0)
    verdict = row_verdict(of_any_recipe(), "finetune", "top1", "gated_mlp_without_qk_norm", "full", figures)
    assert verdict == Verdict("not reproduced", "not reproduced: 2 of 3 seeds fail")


def test_what_stands_after_a_verdict_s_kind() -> None:
    assert Verdict("reproduced", "reproduced: same sign").detail == ": same sign"
    assert Verdict("not in the paper", "full is better").detail == ": full is better"
    assert Verdict("not resolved", "not resolved").detail == ""


def test_chance_is_that_of_the_run_s_own_classes(project: Path) -> None:
    """Not of the recipe in place: with 2 classes 54 % is chance, with 10 it is not."""
    for recipe, classes, kind in (("two", 2, "reproduced"), ("ten", 10, "partly reproduced")):
        confusion = [[1] * classes for _ in range(classes)]
        write_run("finetune", "no_shift", 0, recipe=recipe, top1=54.0, status="identity", confusion=confusion)
        runs = [run for run in of_any_recipe() if run.recipe == recipe]
        assert row_verdict(runs, "finetune", "top1", "no_shift", "full", {"no_shift": "fail"}).kind == kind
    write_run("finetune", "no_shift", 0, recipe="many", top1=4.0, status="identity", confusion=None)
    assert finetuning_fails({"top1": 14.9, "confusion": [[1] * 10] * 10})
    assert not finetuning_fails({"top1": 15.1, "confusion": [[1] * 10] * 10})
    runs = [run for run in of_any_recipe() if run.recipe == "many"]
    assert row_verdict(runs, "finetune", "top1", "no_shift", "full", {"no_shift": "fail"}).kind == "reproduced"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({0: 83.7, 1: 83.8, 2: 83.9}, "reproduced"),
        ({0: 80.0, 1: 80.1, 2: 80.2}, "not reproduced"),
        ({0: 86.0, 1: 86.1, 2: 86.2}, "not reproduced"),
        ({0: 85.2, 1: 85.3, 2: 85.4}, "not reproduced"),
        ({0: 82.5, 1: 83.8, 2: 85.0}, "not resolved"),
        ({0: 83.8}, "not resolved"),
    ],
)
def test_a_level_needs_its_whole_interval_near_the_paper_s(values: dict[int, float], kind: str) -> None:
    assert level_verdict(values, 83.8).kind == kind


def test_what_pretraining_is_worth_is_said_beside_the_verdicts(project: Path) -> None:
    """By the pairs that have run: the main line's, and those that differ in their start alone."""
    assert gain(of_any_recipe()) == ""
    for variant, values in (
        ("full", [80.0, 81.0]),
        ("from_scratch", [70.0, 71.2]),
        ("patch_embedding_trained", [90.0, 91.1]),
    ):
        for seed, top1 in enumerate(values):
            write_run("finetune", variant, seed, recipe="elsewhere", top1=top1)
    said = gain(of_any_recipe())
    assert "`full − from_scratch`: +9.9 [" in said and "`patch_embedding_trained − from_scratch`: +19.9 [" in said
    assert "long" not in said


def test_levels_compare_only_where_the_model_is_the_paper_s(project: Path) -> None:
    """In Tables 1d and 1e of 100,000 steps the paper starts from other rows than `full`."""
    recipe = "imagenet-ablations-100k"
    further = {"patch_embedding_trained": 76.8, "bidirectional_attention": 82.3, "plain": 78.2}
    for seed in range(3):
        write_run("finetune", "full", seed, recipe=recipe, top1=81.0 + 0.1 * seed)
        for variant, top1 in further.items():
            root = "results/further_ablations"
            write_run("finetune", variant, seed, recipe=recipe, root=root, top1=top1 + 0.2 * seed)
    parameters = load_parameters()
    runs = collect_runs(parameters)
    compared = {t.name: t for t in compare_with_paper(recipe, runs, build_table(parameters, runs)) if t.ran}
    assert set(compared) == {"Table 1b", "Table 1c", "Table 1d", "Table 1e", "Table 2"}
    of_full = {name: row.verdict for name, t in compared.items() for row in t.rows if row.variant == "full"}
    assert of_full["Table 1b"].text.startswith("level reproduced")
    assert of_full["Table 1d"].kind == of_full["Table 1e"].kind == "reference"
    others = {row.variant: row.verdict.kind for name in ("Table 1d", "Table 1e") for row in compared[name].rows}
    assert others == {v: "reproduced" for v in ("patch_embedding_trained", "bidirectional_attention")} | {
        "full": "reference"
    }
    lines = findings_table(recipe, [compared["Table 1b"]], {}).set_index("row").loc["`full`"]
    assert lines["verdict"] == "**reproduced**" and lines["here"].startswith("level reproduced")  # said once
    assert compared["Table 1e"].subject.startswith("attention causal (`full`)")

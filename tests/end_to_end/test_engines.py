"""Both engines on the smallest recipe, in a temporary clone without a git identity; the tests run in this order."""

import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from clones import COMMANDS, IDLE, blocks, change, copy_of_the_working_tree, results, run, shrunk, write
from conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest recipe with one seed, two variants of pretraining, and a few of the further ablations."""
    raw = shrunk(pretraining=("full", "no_shift"), finetuning=("from_scratch",))
    for section, names in {"pretraining": ["gated_mlp"], "finetuning": ["causal_attention", "probe_mean"]}.items():
        raw["further_ablations"][section] = {name: raw["further_ablations"][section][name] for name in names}
    return copy_of_the_working_tree(tmp_path_factory.mktemp("end_to_end") / "clone", raw)


def assert_that_a_plain_report_changes_nothing(folder: Path) -> None:
    files = [folder / "results" / name for name in ("report.md", "report.html", "table.csv")]
    files += sorted(folder.glob("results/figures/*/*.png"))
    before = {path: path.read_bytes() for path in files}
    assert folder / "results/figures/smallest/stages.png" in before
    run(folder, ["nepa", "report"])
    assert {path: path.read_bytes() for path in files} == before


def test_dvc_repro_from_nothing(clone: Path) -> None:
    config = (clone / ".dvc/config").read_bytes()
    declared = (clone / "dvc.yaml").read_bytes()
    run(clone, ["dvc", "repro"])
    assert (clone / "results/report.md").exists()
    assert len(results(clone)) == 3 * 6 + 1
    # Nothing that the stages import may touch the ledger.
    assert (clone / ".dvc/config").read_bytes() == config and (clone / "dvc.yaml").read_bytes() == declared
    assert (clone / ".dvc/cache").is_dir()
    assert_that_a_plain_report_changes_nothing(clone)


def test_a_second_dvc_repro_is_quick_and_idle(clone: Path) -> None:
    started = time.monotonic()
    assert IDLE["dvc"] in run(clone, ["dvc", "repro"])
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("target", ["all", "ablations", "report"])
def test_then_snakemake_is_idle(clone: Path, target: str) -> None:
    assert IDLE["snakemake"] in run(clone, ["snakemake", "--cores", "2", target])


@pytest.mark.parametrize(
    ("first", "second", "section", "key", "value", "stages"),
    [
        ("dvc", "snakemake", "finetune", "mixup", 0.0, {"finetune@full-0", "finetune@no_shift-0", "report"}),
        ("snakemake", "dvc", "objective", "input_mask_ratio", 0.25, {"pretrain@full-0", "finetune@full-0", "report"}),
    ],
)
def test_after_either_engine_the_other_is_idle(
    clone: Path, first: str, second: str, section: str, key: str, value: object, stages: set[str]
) -> None:
    before = results(clone)
    change(clone, section, key, value)
    shown = run(clone, COMMANDS[first])
    for stage in stages:
        assert f"Running stage '{stage}'" in shown
    assert "nepa prepare" not in shown
    assert results(clone) != before
    assert IDLE[second] in run(clone, COMMANDS[second])
    assert IDLE[first] in run(clone, COMMANDS[first])


def test_dvc_checkout_brings_back_what_was_deleted(clone: Path) -> None:
    before = results(clone)
    shutil.rmtree(clone / "checkpoints")
    shutil.rmtree(clone / "data/smallest/images")
    run(clone, ["dvc", "checkout", "--allow-missing"])
    assert results(clone) == before
    assert IDLE["snakemake"] in run(clone, COMMANDS["snakemake"])
    assert IDLE["dvc"] in run(clone, COMMANDS["dvc"])


def test_metrics_and_plots_are_dvc_s(clone: Path) -> None:
    shown = json.loads(run(clone, ["dvc", "metrics", "show", "--json"]))
    files = shown[""]["data"]
    assert files["results/runs/smallest/finetune/full/seed-0/metrics.json"]["data"]["status"] == "ok"


def test_the_same_weights_once_more_leave_what_follows_from_them(clone: Path) -> None:
    """Though how long they took, which lies beside them, is never the same."""
    path = clone / "checkpoints/smallest/pretrain/no_shift/seed-0/run.json"
    before = path.read_bytes()
    run(clone, ["dvc", "repro", "--force", "--single-item", "pretrain@no_shift-0"])
    assert path.read_bytes() != before
    assert "didn't change, skipping" in run(clone, ["dvc", "repro", "--single-item", "finetune@no_shift-0"])


def test_both_engines_give_the_same_digits(clone: Path) -> None:
    """From nothing, on the same parameters, with two runs at a time."""
    before = results(clone)
    for name in ("checkpoints", "data", "results", ".dvc/cache", "dvc.lock", ".snakemake"):
        path = clone / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run(clone, COMMANDS["snakemake"])
    assert results(clone) == before
    assert IDLE["dvc"] in run(clone, COMMANDS["dvc"])
    assert_that_a_plain_report_changes_nothing(clone)


@pytest.fixture
def spoilt(clone: Path) -> Iterator[Path]:
    """The clone with an impossible model."""
    text = (clone / "params.yaml").read_text()
    change(clone, "model", "heads", 3)
    yield clone
    (clone / "params.yaml").write_text(text)


def test_bad_parameters_stop_both_engines_before_any_stage(spoilt: Path) -> None:
    message = "nepa: error: params.yaml: model: width 16 must be a multiple of heads 3"
    before = results(spoilt)
    shown = run(spoilt, ["dvc", "repro"], status=255)
    assert message in shown and "Running stage 'prepare_images'" not in shown
    shown = run(spoilt, COMMANDS["snakemake"], status=2)
    assert shown.splitlines()[-1] == message and "Traceback" not in shown
    assert results(spoilt) == before


def test_a_damaged_checkpoint_is_made_anew(clone: Path) -> None:
    """DVC sees the damage as a change of an output."""
    path = clone / "checkpoints/smallest/pretrain/no_shift/seed-0/backbone.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-8])
    run(clone, COMMANDS["snakemake"])
    assert path.read_bytes() == content
    assert IDLE["dvc"] in run(clone, COMMANDS["dvc"])


def test_every_command_of_the_readme_runs(clone: Path) -> None:
    # The environment that runs the tests, as if make had just made it.
    (clone / ".venv").mkdir()
    (clone / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (clone / ".venv/ready").touch()
    # Results in a commit, as every clone has them, and the identity that experiments ask for; no other test has one.
    run(clone, ["dvc", "repro"])
    identity = {"user.name": "Somebody", "user.email": "somebody@example.org"}
    for key, value in identity.items():
        run(clone, ["git", "config", key, value])
    run(clone, ["git", "add", "-A"])
    run(clone, ["git", "commit", "-qm", "first"])
    commands = [block for language, block in blocks("README.md") if language == "sh"]
    assert len(commands) >= 4
    for block in commands:
        run(clone, ["bash", "-euo", "pipefail", "-c", block.replace("/digits/", "/smallest/")])
    for key in identity:
        run(clone, ["git", "config", "--unset", key])
    assert "| `masked` " not in (clone / "results/report.md").read_text()


def test_the_readme_s_other_commands_are_ci_s() -> None:
    targets = set(re.findall(r"`(make \w+)`", (ROOT / "README.md").read_text()))
    assert targets == {"make help", "make test", "make lint"}
    assert all(f"\n{target}\n" in (ROOT / ".ci/run").read_text() for target in targets)


def test_the_readme_s_variant_gets_its_stages_and_its_row(clone: Path) -> None:
    (line,) = (block for language, block in blocks("README.md") if language == "yaml")
    raw = yaml.safe_load((clone / "params.yaml").read_text())
    raw["pretraining"] |= yaml.safe_load(line)
    write(clone, raw)
    shown = run(clone, COMMANDS["snakemake"])
    assert "Running stage 'pretrain@masked-0'" in shown and "Running stage 'pretrain@full-0'" not in shown
    assert "| `masked` " in (clone / "results/report.md").read_text()


def test_the_further_ablations_follow_a_change(clone: Path) -> None:
    """They ran among the README's commands; what is out of date is made anew, in either file, and the rest is idle."""
    target = ["snakemake", "--cores", "2", "ablations_all"]
    raw = yaml.safe_load((clone / "params.yaml").read_text())
    raw["further_ablations"]["finetuning"]["causal_attention"]["finetune"]["mixup"] = 0.0
    raw["segment"]["learning_rate"] = 2e-3
    write(clone, raw)
    shown = run(clone, target)
    stage = "Running stage 'workflow/further_ablations/dvc.yaml:finetune_variants@{}-0'"
    assert stage.format("causal_attention") in shown and stage.format("probe_mean") not in shown
    assert "Running stage 'segment@full-0'" in shown
    assert "| `causal_attention` " in (clone / "results/report.md").read_text()
    assert IDLE["snakemake"] in run(clone, target)
    assert IDLE["dvc"] in run(clone, COMMANDS["dvc"])


def test_snakemake_lint(clone: Path) -> None:
    shown = run(clone, ["snakemake", "--lint"], status=1)
    # The environment is the project's own, made by make: the one rule that does not apply.
    found = set(re.findall(r"^    \* (.*)$", shown, flags=re.MULTILINE))
    assert found == {"Specify a conda environment or container for each rule.:"}

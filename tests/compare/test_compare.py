"""`nepa compare` on folders, revisions and experiments of a small repository with real results."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from dvc.repo import Repo

from nepa.command_line import main
from nepa.report.statistics import independent_difference

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]


def write_metrics(root: Path, variant: str, seed: int, **metrics: object) -> None:
    folder = root / f"results/runs/small/finetune/{variant}/seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"status": "ok", "evaluated_on": "test"} | metrics))


def write_state(root: Path, rate: float, shift: float) -> None:
    """Three variants: one shifted alike on every seed, one at random, one not at all."""
    root.mkdir(exist_ok=True)
    (root / "params.yaml").write_text(f"recipe: small\nfinetune: {{rate: {rate}, labels: 40}}\n")
    for seed, noise in enumerate((0.3, -0.2, 0.1)):
        write_metrics(root, "full", seed, top1=80 + seed + (shift + noise) * (shift > 0), confusion=[[1, 2]])
        write_metrics(root, "noisy", seed, top1=80 + 10 * noise * (shift > 0), IoU={"a": shift})
        write_metrics(root, "same", seed, top1=70.0 + seed)


@pytest.fixture
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_state(tmp_path / "before", 0.1, 0.0)
    write_state(tmp_path / "after", 0.2, 5.0)
    return tmp_path


def shown(capsys: pytest.CaptureFixture, *sides: str) -> str:
    assert main(["compare", *sides]) == 0
    return capsys.readouterr().out


def test_what_changed_and_whether_beyond_the_seeds(states: Path, capsys: pytest.CaptureFixture) -> None:
    text = shown(capsys, "before", "after")
    lines = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
    assert "Parameters: 1 differ." in lines and "finetune.rate 0.1 0.2" in lines
    assert "Metrics: 1 equal, 2 changed: 1 beyond the seeds, 1 within the seeds." in lines
    # Differences 5.3, 4.8, 5.1: deviation .2517, t(.975, 2) = 4.3027.
    assert "small/finetune/full top1 81 86.07 +5.07 [+4.44, +5.69] 3 beyond the seeds" in lines
    assert any(line.startswith("small/finetune/noisy top1 80 80.67 +0.667 [") for line in lines)
    assert lines[-1].startswith("Of these 2 intervals one in twenty") and "Holm's correction, 1 stay" in lines[-1]
    assert "IoU" not in text and "finetune/same" not in text


def test_seeds_statuses_and_runs_that_one_side_lacks(states: Path, capsys: pytest.CaptureFixture) -> None:
    write_metrics(states / "after", "noisy", 1, top1=None, status="diverged")
    shutil.rmtree(states / "after/results/runs/small/finetune/same")
    for seed in (7, 8):  # no seed in common: compared as independent
        shutil.move(
            states / f"after/results/runs/small/finetune/full/seed-{seed - 7}",
            states / f"after/results/runs/small/finetune/full/seed-{seed}",
        )
    shutil.rmtree(states / "after/results/runs/small/finetune/full/seed-2")
    text = " ".join(shown(capsys, "before", "after").replace("|", " ").split())
    assert "small/finetune/noisy/seed-1 ok diverged" in text
    # What is left is better by 2 points or more with each seed, and proves nothing.
    assert "small/finetune/noisy top1 80 82 +2 [-10.7, +14.7] 2 seeds lost" in text
    assert "2, unpaired" in text
    assert "Only in A: small/finetune/full (seed 0, 1, 2); small/finetune/same (seed 0, 1, 2)." in text
    assert "Only in B: small/finetune/full (seed 7, 8)." in text


def test_what_is_left_of_lost_seeds_proves_nothing(states: Path, capsys: pytest.CaptureFixture) -> None:
    for seed in range(3):
        write_metrics(states / "after", "same", seed, top1=None, loss=None, status="diverged")
    write_metrics(states / "after", "full", 2, top1=None, status="diverged")
    text = shown(capsys, "before", "after")
    lines = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
    assert "Metrics: 0 equal, 3 changed: 2 seeds lost, 1 within the seeds." in lines
    assert "small/finetune/same top1 71 – – 0 seeds lost" in lines
    assert any(
        line.startswith("small/finetune/full top1 80.5 85.55 +5.05 [") and "2 seeds lost" in line for line in lines
    )
    assert "Of these 1 intervals" in text
    assert "Metrics: 2 equal, 0 changed." in shown(capsys, "after", "after")  # lost alike


def test_what_follows_from_the_settings_is_no_finding(states: Path, capsys: pytest.CaptureFixture) -> None:
    """Nor is a difference that is the same in every seed, to which no interval can be given."""
    for root, steps, top1 in (("before", 100, 80.0), ("after", 200, 81.0)):
        for seed in range(3):
            spread = 1e-5 if root == "before" else (4e-4, 4.1e-4, 4.2e-4)[seed]  # small, but not to 1e-5
            rounded = 0.4 + (3e-8 if root == "after" else 0) * (seed + 8)
            write_metrics(states / root, "same", seed, top1=top1 + seed, steps=steps, spread=spread, cosine=rounded)
    text = shown(capsys, "before", "after")
    lines = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
    assert "small/finetune/same steps 100 200 +100 [+100, +100] 3 the schedule" in lines
    assert "small/finetune/same top1 81 82 +1 [+1, +1] 3 alike in all seeds" in lines
    assert "small/finetune/same spread 1e-05 0.00041 +0.0004 [+0.000375, +0.000425] 3 beyond the seeds" in lines
    assert not any("cosine" in line for line in lines)  # the same to the digits that float32 has
    assert lines[-1].startswith("Of these 3 intervals")


def test_a_run_that_lies_twice_is_refused(states: Path, capsys: pytest.CaptureFixture) -> None:
    """As one does whose variant was a further ablation before."""
    shutil.copytree("after/results/runs", "after/results/further_ablations")
    assert main(["compare", "before", "after"]) == 2
    assert "after has small/finetune/full/seed-0 twice; delete the one" in capsys.readouterr().err


def test_welch_s_interval() -> None:
    difference = independent_difference({0: 1.0, 1: 2.0, 2: 3.0}, {5: 4.0, 6: 6.0, 7: 8.0})
    # Standard error sqrt(1/3 + 4/3), 2.94 degrees of freedom, t = 3.2188.
    assert (difference.mean, difference.n) == (-4.0, 3)
    assert difference.high == pytest.approx(-4 + 3.2188 * (5 / 3) ** 0.5, rel=1e-3)
    assert not independent_difference({0: 1.0}, {1: 2.0, 2: 3.0}).resolved
    assert independent_difference({}, {1: 2.0}) is None


def test_results_alone_have_no_parameters(states: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree("before/results", "kept")
    assert "Parameters: unknown of kept, without a params.yaml." in shown(capsys, "kept", "after")
    # A project's own results belong to the params.yaml beside them.
    assert "finetune.rate" in shown(capsys, "before/results", "after")


@pytest.fixture
def repository(states: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits of the two states, the second one's results changed once more and not committed."""
    root = states / "before"
    monkeypatch.chdir(root)
    subprocess.run([*GIT, "init", "-q"], check=True)
    Repo.init().close()
    (root / "dvc.yaml").write_text("stages: {}\n")
    for rate, shift in ((0.1, 0.0), (0.2, 5.0)):
        write_state(root, rate, shift)
        subprocess.run([*GIT, "add", "-A"], check=True)
        subprocess.run([*GIT, "commit", "-qm", "state"], check=True)
    write_state(root, 0.3, 9.0)
    return root


def test_revisions_experiments_and_what_lies_here(repository: Path, capsys: pytest.CaptureFixture) -> None:
    text = " ".join(shown(capsys, "HEAD~1", "HEAD").replace("|", " ").split())
    assert "A is `HEAD~1`, B is `HEAD`." in text and "finetune.rate 0.1 0.2" in text and "+5.07 [" in text
    assert "finetune.rate | 0.2" in " ".join(shown(capsys, "HEAD", ".").split())
    with Repo() as repo:
        repo.experiments.save(name="tried")
    text = " ".join(shown(capsys, "HEAD~1", "tried").replace("|", " ").split())
    assert "finetune.rate 0.1 0.3" in text and "+9.07 [" in text
    assert "Parameters: all equal." in shown(capsys, "tried", ".")
    assert "Metrics: 3 equal, 0 changed." in shown(capsys, "tried", ".")


@pytest.mark.parametrize(
    ("place", "name"),
    [("repository", "nope"), ("repository", "HEAD:results"), ("repository", "HEAD^{tree}"), ("states", "nope")],
)
def test_unknown_names(place: str, name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture) -> None:
    request.getfixturevalue(place)
    assert main(["compare", name, "."]) == 2
    error = capsys.readouterr().err
    told = f"'{name}' is no folder of results, and no git revision or experiment"
    assert error.startswith(f"nepa: error: compare: {told}")
    assert error.count("\n") == 1


def test_a_revision_that_dvc_cannot_read_is_named(repository: Path, capsys: pytest.CaptureFixture) -> None:
    (repository / "dvc.yaml").write_text("stages: [\n")
    subprocess.run([*GIT, "commit", "-qam", "broken"], check=True)
    assert main(["compare", "HEAD", "HEAD~1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nepa: error: compare: DVC cannot read HEAD (") and error.count("\n") == 1


def test_what_cannot_be_read_is_named(states: Path, capsys: pytest.CaptureFixture) -> None:
    for content in (b'{"top1"', b"\xff"):
        (states / "before/results/runs/small/finetune/full/seed-1/metrics.json").write_bytes(content)
        assert main(["compare", "before", "after"]) == 2
        assert "seed-1/metrics.json of before is truncated or no JSON" in capsys.readouterr().err
    for content, told in (("[]", "holds list, expected a map"), ("{}", "lacks 'status'")):
        (states / "before/results/runs/small/finetune/full/seed-1/metrics.json").write_text(content)
        assert main(["compare", "before", "after"]) == 2
        assert f"seed-1/metrics.json of before {told}; run its stage again\n" in capsys.readouterr().err
    assert main(["compare", "", "after"]) == 2
    assert capsys.readouterr().err == "nepa: error: compare: '' names nothing; `.` is what lies here\n"
    (states / "empty/results").mkdir(parents=True)
    assert main(["compare", "after", "empty"]) == 2
    assert "compare: empty holds no results" in capsys.readouterr().err
    (states / "after/params.yaml").write_text("split_seed: 2025-31-12")
    assert main(["compare", "after", "after"]) == 2
    assert "params.yaml of after holds a value that YAML cannot read (month must" in capsys.readouterr().err


def test_the_committed_results_equal_themselves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(ROOT)
    text = shown(capsys, ".", "results")
    assert "Parameters: all equal." in text and "0 changed." in text

"""The committed results: as the ledger recorded them, of every declared run, and what they must show."""

import hashlib
import json
import re
import subprocess
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from nepa.data.images import Images, labelled_subset, load_images
from nepa.parameters import load_parameters
from nepa.parameters.declared import declared_runs
from nepa.report.markdown import interval
from nepa.report.statistics import paired_difference
from nepa.stages import prepare_images

RUNS = ROOT / "results/runs/digits"
FURTHER = ROOT / "results/further_ablations/digits"


def metrics(stage: str, variant: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((RUNS / stage / variant).glob("seed-*/metrics.json"))]


def test_results_are_those_that_the_ledger_recorded() -> None:
    locks = [yaml.safe_load((ROOT / folder / "dvc.lock").read_text()) for folder in (".", "workflow/further_ablations")]
    recorded = {out["path"]: out["md5"] for lock in locks for stage in lock["stages"].values() for out in stage["outs"]}
    committed = [path for root in (RUNS, FURTHER) for path in root.rglob("*") if path.is_file()]
    committed += [path for path in (ROOT / "results").iterdir() if path.is_file()]
    for path in committed:
        name = path.relative_to(ROOT).as_posix()
        assert hashlib.md5(path.read_bytes()).hexdigest() == recorded[name], (
            f"{name} is not what dvc.lock says; run dvc repro"
        )


def test_every_declared_run_is_there() -> None:
    declared = declared_runs(load_parameters(ROOT / "params.yaml"))
    found = {path.parent.relative_to(root).parts for root in (RUNS, FURTHER) for path in root.rglob("metrics.json")}
    assert {(stage, variant, f"seed-{seed}") for stage, variant, seed in declared} == found


def test_what_the_method_must_show_at_any_size() -> None:
    collapsed, identity = metrics("pretrain", "no_stop_gradient"), metrics("pretrain", "no_shift")
    assert len(collapsed) >= 3 and len(identity) >= 3
    assert all(run["status"] == "collapsed" and run["loss"] < -0.999 for run in collapsed)
    assert all(run["status"] == "identity" for run in identity)
    assert all(run["status"] == "ok" for variant in ("full", "no_causal_mask") for run in metrics("pretrain", variant))


def test_the_report_says_what_the_table_says() -> None:
    table = pd.read_csv(ROOT / "results/table.csv").set_index(["recipe", "task", "variant", "metric"])
    row = table.loc[("digits", "ablation", "full", "top1")]
    assert f"{row['mean']:.1f} ± {row['std']:.1f} (n = {row['n']})" in (ROOT / "results/report.md").read_text()
    assert row["mean"] == pytest.approx(
        pd.Series([run["top1"] for run in metrics("finetune", "full")]).mean(), rel=1e-5
    )


def test_the_readme_counts_what_the_report_counts() -> None:
    report, readme = (" ".join((ROOT / name).read_text().split()) for name in ("results/report.md", "README.md"))
    counted = re.search(r"Comparisons of the paper that have been made here: (\d+, of which .*?);", report)[1]
    assert f"{counted}." in readme


def test_the_readme_s_ratios_are_those_of_the_files_that_it_names() -> None:
    readme = (ROOT / "README.md").read_text()
    files = dict(re.findall(r"^\[(\w+)\]: (results/bench/.*\.json)$", readme, flags=re.MULTILINE))
    measured = {
        file: {"{value:.2f} ({low:.2f} to {high:.2f})".format(**row["ratio"]) for row in rows if "ratio" in row}
        for file in files.values()
        for rows in [json.loads((ROOT / file).read_text())["rows"]]
    }
    head, _, *rows = re.findall(r"^\|.*\|$", readme[readme.index("| times as fast as that") :], flags=re.MULTILINE)
    machines = [name.split(",")[0].strip() for name in head.split("|")[2:-2]]
    compared = 0
    for row in rows[: next(number for number, row in enumerate(rows) if "GPU" in row)]:
        *cells, links = row.split("|")[2:-1]
        of = {machine: measured[files[name]] for machine, name in re.findall(r"\[(\w+)\]\[(\w+)\]", links)}
        for machine, cell in zip(machines, map(str.strip, cells), strict=True):
            assert cell in ("", "not measured") or cell in of[machine], f"{row}: {cell}"
            compared += "(" in cell
    assert compared > 30


def top1_by_variant(*revision: str) -> dict[str, dict[int, float]]:
    """Of the digits, by seed: at a revision, or as they lie here."""
    command = ["git", "grep", '"top1": ', *revision, "--", "results/*/digits/finetune/*/metrics.json"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found: dict[str, dict[int, float]] = {}
    for variant, seed, value in re.findall(r"finetune/(\w+)/seed-(\d+)/metrics.json: *\"top1\": ([\d.]+)", lines):
        found.setdefault(variant, {})[int(seed)] = float(value)
    return found


def test_what_rounding_does_is_what_the_revisions_have_that_the_page_names() -> None:
    if not (ROOT / ".git").exists() or (ROOT / ".git/shallow").exists():
        pytest.skip("without git's history, in which the results of these revisions are")
    page = (ROOT / "recipes/digits.md").read_text()
    table = re.search(r"^\| revision \|.*?\n\n", page, flags=re.MULTILINE | re.DOTALL)[0]
    revisions, _, machines, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line
    )
    sides = [top1_by_variant(revision) for revision in revisions[1:-1]]
    (here,) = (number for number, machine in enumerate(machines) if machine.endswith(", the results here"))
    assert sides[here - 1] == top1_by_variant()
    averaged = {
        variant: {seed: mean(side[variant][seed] for side in sides) for seed in seeds}
        for variant, seeds in sides[0].items()
    }
    for name, *cells, last in rows:
        one, other = name.strip("`").split(" − ")
        differences = [paired_difference(side[one], side[other]) for side in sides]
        assert cells == [f"**{d.mean:+.1f}**" if d.resolved else f"{d.mean:+.1f}" for d in differences], name
        assert last == interval(paired_difference(averaged[one], averaged[other])), name
    assert len(rows) == 18


def flat(images: Images) -> np.ndarray:
    return images.pixels.reshape(len(images.labels), -1) / 255


def test_the_floors_that_the_recipe_s_page_names_are_those_of_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = load_parameters(ROOT / "recipes/digits.yaml")
    page = " ".join((ROOT / "recipes/digits.md").read_text().split())
    monkeypatch.chdir(tmp_path)
    prepare_images.run(parameters)
    training, test = (load_images(parameters, split) for split in ("training", "test"))
    for name, classifier in (
        ("logistic regression on the pixels reaches", LogisticRegression(max_iter=1000)),
        ("its nearest neighbour", KNeighborsClassifier(1)),
    ):
        reached = []
        for seed in parameters.seeds.classification:
            chosen = labelled_subset(training.labels, parameters.finetune.labels, seed)
            classifier.fit(flat(training)[chosen], training.labels[chosen])
            reached.append(100 * classifier.score(flat(test), test.labels))
        assert f"{name} {mean(reached):.1f} ± {stdev(reached):.1f}" in page

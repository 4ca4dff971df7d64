"""The pages of docs/ that are to be followed, each in a clone of its own that does all that the page says."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from clones import IDLE, commit, copy_of_the_working_tree, follow, shrunk
from conftest import ROOT
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The smallest recipe with one seed, in a commit; its own code is what runs, as after `make`."""
    raw = shrunk(pretraining=("full",))
    probe = raw["further_ablations"]["finetuning"]["probe_mean"]
    raw["further_ablations"] |= {"pretraining": {}, "finetuning": {"probe_mean": probe}}
    folder = copy_of_the_working_tree(tmp_path / "clone", raw)
    (folder / "workflow/further_ablations/dvc.lock").unlink()
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    commit(folder, "First")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_adding_a_variant(clone: Path) -> None:
    settings, request, switch, all_again = follow(clone, "docs/adding-a-variant.md")
    for stage in ("finetune@masked-0", "finetune_variants@cutmix-0", "segment@without_auxiliary_loss-0"):
        assert settings.count(f"Running stage '{stage}'") == 1  # what DVC ran, Snakemake does not run again
    assert "probe_bidirectional-0" in request and "Running stage 'pretrain@" not in request
    assert " passed" in switch
    # Changed code makes every pretraining stale, and what starts from it.
    for stage in ("pretrain@full-0", "finetune@full-0", "segment@full-0"):
        assert f"Running stage '{stage}'" in all_again
    full, normalised = (
        load_file(clone / f"checkpoints/smallest/pretrain/{variant}/seed-0/backbone.safetensors")
        for variant in ("full", "normalised_target")
    )
    assert any(not weight.equal(full[name]) for name, weight in normalised.items())
    report = (clone / "results/report.md").read_text()
    # Each stands in the table that the page says, under the paper's heading.
    tables = {
        "Table 1a": ("masked", "normalised_target"), "Table 2": ("cutmix",), "Table 3": ("without_auxiliary_loss",),
        "Table 6": ("probe_bidirectional",),
    }  # fmt: skip
    for table, variants in tables.items():
        rows = report.split(f", {table}\n")[1].split("\n#")[0]
        assert all(f"| `{variant}` " in rows for variant in variants), table


def write_photographs(folder: Path) -> None:
    """As many as the page's recipe says: flowers of noise in four classes, streets of blocks in three."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 400), ("val", 80)):
        for number in range(count):
            path = folder / "flowers" / split / f"kind-{number % 4}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (150, 200, 3), np.uint8)).save(path)
    for split, count in (("training", 20), ("validation", 8)):
        for kind, ending in (("images", "jpg"), ("annotations", "png")):
            (folder / "streets" / kind / split).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 255, (60, 90, 3)) if kind == "images" else np.eye(60, 90) * 3
                Image.fromarray(pixels.astype(np.uint8)).save(folder / "streets" / kind / split / f"{number}.{ending}")
    (folder / "streets/classes.txt").write_text("road\ntree\nsky\n")


def test_adding_a_dataset(clone: Path) -> None:
    write_photographs(clone)
    counts, recipe, archives, _, places = follow(clone, "docs/adding-a-dataset.md")
    assert counts.split() == ["400", "20"]
    assert "sources.images: null -> flowers" in recipe
    assert "rehearsal of flowers went through" in recipe and "rehearsal of flowers went through" in archives
    manifest = yaml.safe_load((clone / "data/flowers/images/manifest.json").read_text())
    assert manifest["images"] == {"training": 400, "validation": 80}
    with Image.open(next((clone / "rehearsal/flowers/images/training").rglob("*.jpg"))) as original:
        assert min(original.size) == 150
    page = (ROOT / "docs/adding-a-dataset.md").read_text().split("## A new source")[1]
    named = set(re.findall(r"\.\./(nepa/[\w/]+\.py)", page.split("Every place")[0])) - {"nepa/preparation/digits.py"}
    assert named and named <= {line.split(":")[0] for line in places.splitlines()}


def test_architecture(clone: Path) -> None:
    engines, views = follow(clone, "docs/architecture.md")
    assert IDLE["snakemake"] in engines and "pretrain@full-0" in views

"""Recipes with data of their own: put in place, and rehearsed through every stage on real image files."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from PIL import Image
from safetensors.torch import load_file

from nepa.command_line import main
from nepa.commands.rehearse import shortened
from nepa.parameters import load_parameters
from nepa.parameters.recipes import recipe_text
from nepa.parameters.schema import STAGES

NAMES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
TINY = """# A small model on small crops.
based_on: imagenet-base-paper
recipe: tiny
data: {image_size: 28}
model: {width: 32, depth: 2, heads: 2}
segment:
  blocks: [0, 0, 1, 1]
  decoder_channels: 16
  auxiliary_channels: 16
  augmentation: {scale: [224, 56]}
  crop: 56
  stride: 37
  test_scale: [224, 56]
execution: {pretrain: {compile: false, shard: true}, finetune: {compile: false}, segment: {compile: false}}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's recipes, a dozen photographs and a few street scenes of noise and blocks."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for split, count in (("train", 13), ("val", 9)):
        for number in range(count):
            path = tmp_path / "photographs" / split / f"n{number % 4}" / f"{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (60 + number, 90, 3), np.uint8)).save(path)
    for split, count in (("training", 4), ("validation", 3)):
        for number in range(count):
            for kind, ending in (("images", "jpg"), ("annotations", "png")):
                path = tmp_path / "streets" / kind / split / f"{number}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                size = (50 + 10 * number, 75)
                blocks = np.kron(generator.integers(0, 4, (5, 5)), np.ones((20, 15)))[: size[0], : size[1]]
                colours = generator.integers(0, 255, (*size, 3), np.uint8)
                Image.fromarray(colours if kind == "images" else blocks.astype(np.uint8)).save(path)
    (tmp_path / "streets/classes.txt").write_text("road\ntree\nsky\n")
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_valid_and_says_what_it_is(name: str, place: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["recipe", name]) == 0
    parameters = load_parameters()
    assert parameters.recipe == name
    opening = (ROOT / f"recipes/{name}.yaml").read_text().split("\n\n")[0]
    if name != "digits":
        assert all(f"# {word}:" in opening for word in ("Reproduces", "Expected", "Cost"))
    assert Path("params.yaml").read_text().startswith(opening.splitlines()[0])
    capsys.readouterr()
    assert main(["recipe", name]) == 0
    assert capsys.readouterr().out == f"params.yaml is {name} already\n"


def test_the_default_is_the_recipe_digits() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "recipes/digits.yaml").read_bytes()


def test_a_recipe_says_what_changes_and_keeps_the_comments(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["recipe", "imagenet-base-paper"]) == main(["recipe", "imagenet-base-code"]) == 0
    shown = capsys.readouterr().out
    assert (
        "finetune.layer_decay: 0.35 -> 0.65" in shown and "recipe: imagenet-base-paper -> imagenet-base-code" in shown
    )
    assert "layer_decay: 0.65" in Path("params.yaml").read_text()
    assert "P: .35 for B, .60 for L; C: .65 and .75" in Path("params.yaml").read_text()
    assert main(["recipe", "--list"]) == 0
    assert all(f"\n{name}\n" in "\n" + capsys.readouterr().out for name in ["digits"])


def test_a_note_goes_with_its_number(place: Path) -> None:
    """A number of one's own is neither the paper's nor the code's."""
    (place / "recipes/mine.yaml").write_text(
        "based_on: imagenet-base-paper\nrecipe: mine\nseeds: {classification: [1]}\ndata: {mean: 0.4}\n"
        "model:\n  rope_base: 10.0  # own\n  mlp: gelu\npretrain:\n  epochs: 5  # mine\n"
    )
    lines = recipe_text("mine").splitlines()
    assert "  classification: [1]" in lines and "  mean: 0.4" in lines
    assert "  mlp: gelu                      # P: swiglu; C: gelu" in lines
    assert "  rope_base: 10.0                # own" in lines and "  epochs: 5                      # mine" in lines
    assert any(line.startswith("# P states UPerNet") for line in lines)


def test_numbers_of_one_s_own_are_kept(place: Path, capsys: pytest.CaptureFixture) -> None:
    kept = Path("params.yaml.before")
    assert main(["recipe", "digits"]) == main(["recipe", "imagenet-base-code"]) == 0
    assert not kept.exists()
    assert main(["recipe", "digits"]) == 0
    own = Path("params.yaml").read_text().replace("mixup: 0.2", "mixup: 0.3")
    Path("params.yaml").write_text(own)
    capsys.readouterr()
    assert main(["recipe", "digits"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"What stood there is no recipe; it is kept in {kept}."
    assert kept.read_text() == own
    for number, text in (
        (2, own.replace("mixup: 0.3", "mixup: 0.4")),
        (3, "model: {heads: 3"),
        (3, "model: {heads: 3"),
    ):
        Path("params.yaml").write_text(text)
        assert main(["recipe", "digits"]) == 0
        assert Path(f"params.yaml.before-{number}").read_text() == text and kept.read_text() == own
    assert not Path("params.yaml.before-4").exists()


def test_an_unknown_or_broken_recipe_leaves_params_yaml_alone(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["recipe", "digits"]) == 0
    before = Path("params.yaml").read_bytes()
    (place / "recipes/broken.yaml").write_text("based_on: digits\nmodel: {heads: 3}\n")
    (place / "recipes/copied.yaml").write_text("based_on: digits\nthreads: 2\n")
    (place / "recipes/itself.yaml").write_text("based_on: itself\n")
    (place / "recipes/empty.yaml").write_text("")
    (place / "recipes/torn.yaml").write_text("model: {heads: 3")
    for name, message in (
        ("nothing", "recipes/nothing.yaml not found; there are broken, cifar10, "),
        ("broken", "recipes/broken.yaml: model: "),
        ("itself", "recipes/itself.yaml is based on itself, by way of itself; mend based_on"),
        ("copied", "recipes/copied.yaml: recipe is 'digits', and results would be kept as its; make it 'copied'"),
        ("empty", "recipes/empty.yaml holds NoneType, expected a map"),
        ("torn", "recipes/torn.yaml, line 1 is not YAML"),
    ):
        assert main(["recipe", name]) == 2
        assert message in capsys.readouterr().err
    assert Path("params.yaml").read_bytes() == before and not list(place.glob(".params*"))
    for text in ("model: {heads: 3", "recipe: torn\n"):
        Path("params.yaml").write_text(text)
        assert main(["recipe", "digits"]) == 0  # whatever is there
    assert Path("params.yaml").read_bytes() == before


@pytest.mark.slow
def test_a_rehearsal_goes_through_every_stage_on_all_gpus_in_either_precision(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that says it has two GPUs: as many processes are started, which then find none and use the CPU."""
    (place / "recipes/tiny.yaml").write_text(TINY)
    with monkeypatch.context() as two_gpus:
        two_gpus.setattr("torch.cuda.device_count", lambda: 2)
        two_gpus.setattr("torch.cuda.is_available", lambda: True)
        assert main(["rehearse", "tiny", "--images", "photographs", "--scenes", "streets"]) == 0
    folder = place / "rehearsal/tiny"
    for stage in STAGES:
        facts = json.loads((folder / f"results/runs/tiny-rehearsal/{stage}/full/seed-1337/run.json").read_text())
        assert facts["processes"] == 2
    table = pd.read_csv(folder / "results/table.csv").set_index(["task", "variant", "metric"])
    for task, metric in (("classification", "top1"), ("segmentation", "mIoU")):
        row = table.loc[(task, "full", metric)]
        assert row["n"] == 1 and row["recipe"] == "tiny-rehearsal"
    run = "tiny-rehearsal/{}/full/seed-1337"
    pretrained = load_file(folder / "checkpoints" / run.format("pretrain") / "backbone.safetensors")
    tuned = load_file(folder / "checkpoints" / run.format("finetune") / "classifier.safetensors")
    segmentor = load_file(folder / "checkpoints" / run.format("segment") / "segmentor.safetensors")
    assert pretrained["patch_embed.proj.weight"].shape == (32, 3, 14, 14)
    assert pretrained["patch_embed.proj.weight"].equal(tuned["patch_embed.proj.weight"])  # frozen
    assert tuned["head.weight"].shape == (4, 32)
    assert segmentor["decode_head.conv_seg.weight"].shape[:2] == (3, 16)
    assert not segmentor["backbone.eva.blocks.0.attn.qkv.weight"].equal(pretrained["blocks.0.attn.qkv.weight"])
    report = (folder / "results/report.md").read_text()
    assert "no figure counts" in report and "### Ablations" not in report
    with Image.open(folder / "results/figures/tiny-rehearsal/segmentations.png") as picture:
        assert picture.width > 400
    assert_that_bfloat16_differs_by_its_rounding(folder)


def assert_that_bfloat16_differs_by_its_rounding(folder: Path) -> None:
    path = folder / "checkpoints/tiny-rehearsal/pretrain/full/seed-1337/backbone.safetensors"
    rounded = load_file(path)
    raw = yaml.safe_load((folder / "params.yaml").read_text())
    raw["pretrain"]["precision"] = "float32"
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["pretrain"]) == 0
    exact = load_file(path)
    assert all(weight.dtype == exact[name].dtype for name, weight in rounded.items())
    key = "blocks.0.attn.qkv.weight"
    assert not rounded[key].equal(exact[key])
    assert (rounded[key] - exact[key]).norm() < 0.05 * exact[key].norm()


def test_a_rehearsal_begins_with_a_valid_recipe(place: Path, capsys: pytest.CaptureFixture) -> None:
    (place / "recipes/mine.yaml").write_text(
        "based_on: imagenet-base-paper\nrecipe: mine\npretraining: {full: {}, other: {objective: {shfit: true}}}\n"
    )
    assert main(["rehearse", "mine", "--images", "photographs"]) == 2
    assert "recipes/mine.yaml: pretraining.other: objective.shfit: unknown key" in capsys.readouterr().err
    assert not (place / "rehearsal").exists()


def test_a_rehearsal_takes_the_cores_that_it_may() -> None:
    """As in a job of a cluster, whose node has more."""
    may = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(may)})
    try:
        assert shortened(yaml.safe_load(recipe_text("imagenet-base-paper")), None)["threads"] == 1
    finally:
        os.sched_setaffinity(0, may)


def test_a_rehearsal_needs_a_recipe_with_images(place: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--images", "photographs", "--scenes", "streets"]
    assert main(["rehearse", "digits", *arguments]) == 2
    assert "recipe digits has data.source digits, no image folder; run it as it is" in capsys.readouterr().err
    assert main(["rehearse", "imagenet-base-paper", *arguments, "--depth", "0"]) == 2
    assert "--depth 0 must be a number above 0" in capsys.readouterr().err
    kept = place / "rehearsal/imagenet-base-paper/results/report.md"
    kept.parent.mkdir(parents=True)
    kept.touch()
    shutil.rmtree("photographs/val/n0")
    assert main(["rehearse", "imagenet-base-paper", *arguments]) == 2
    assert "a rehearsal needs 8 validation images; there are 6" in capsys.readouterr().err
    assert kept.exists()


@pytest.mark.slow
def test_the_readme_s_commands_take_the_paper_s_model_through_every_stage(place: Path) -> None:
    """ViT-B/14's width and 257 tokens, UPerNet at full width; of reduced depth, and of scenes a sixteenth."""
    recipe = place / "recipes/imagenet-base-paper.yaml"
    recipe.write_text(recipe.read_text().replace("518", "126").replace("stride: 345", "stride: 84"))
    Path("photographs").rename("imagenet")
    shutil.make_archive("ADEChallengeData2016", "zip", root_dir=place, base_dir="streets")
    commands = re.search(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)[1]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands], env=environment, check=True)
    pretrained = load_file(
        "rehearsal/imagenet-base-paper/checkpoints/imagenet-base-paper-rehearsal"
        "/pretrain/full/seed-1337/backbone.safetensors"
    )
    assert pretrained["blocks.0.attn.qkv.weight"].shape == (3 * 768, 768)


def test_recipes_lose_nothing_of_their_base() -> None:
    base, code = (yaml.safe_load(_text(f"imagenet-base-{source}")) for source in ("paper", "code"))
    assert base.keys() == code.keys()
    assert {key for key in base["finetune"] if base["finetune"][key] != code["finetune"][key]} == {
        "base_learning_rate", "warmup_epochs", "layer_decay", "layer_decay_end", "layer_decay_ramp", "layer_warmup",
        "head_learning_rate",
        "augmentation", "clip_gradient",
    }  # fmt: skip


def _text(name: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return recipe_text(name)

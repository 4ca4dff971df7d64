"""Bad params files: one line that names the key, the value and what is allowed."""

from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Write
from dvc.utils.serialize import parse_yaml

from nepa.commands.recipe import list_recipes
from nepa.errors import UserError
from nepa.parameters.loading import load_parameters, read_yaml, resolve_variant
from nepa.parameters.recipes import recipe_text


def message(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load_parameters(path)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_default_is_valid() -> None:
    parameters = load_parameters(ROOT / "params.yaml")
    assert parameters.recipe == "digits"
    # What the issue of fair comparison asks for: seeds enough, and floors that train everything.
    assert len(parameters.seeds.classification) >= 5
    for name in ("from_scratch", "from_scratch_long"):
        floor = resolve_variant(parameters, "finetuning", name).finetune
        assert floor.initialisation == "random" and not floor.freeze_patch_embedding
    # The long floor takes as many steps as pretraining and fine-tuning together.
    per_epoch = parameters.finetune.labels // parameters.finetune.batch_size
    together = parameters.finetune.epochs * per_epoch
    together += parameters.pretrain.epochs * (parameters.data.training_images // parameters.pretrain.batch_size)
    assert abs(floor.epochs * per_epoch - together) <= 0.02 * together


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.widht", 32, ["model.widht", "unknown key", "32"]),
        ("data.typo", 1, [": data.typo: unknown key"]),
        ("scenes.typo", 1, [": scenes.typo: unknown key"]),
        ("pretrain.base_learning_rate", "fast", ["pretrain.base_learning_rate", "'fast' given", "valid number"]),
        ("model.width", "wide", ["model.width", "'wide'", "integer"]),
        ("model.width", 16.0, ["model.width", "16.0", "integer"]),
        ("model.width", 18, ["model: width 18 / heads 2 is 9", "axial RoPE", "multiple of 4"]),
        ("model.heads", 3, ["width 16", "multiple of heads 3"]),
        ("model.patch_size", 3, ["model.patch_size 3", "divide data.image_size 8"]),
        ("pretrain.epochs", -1, ["pretrain.epochs", "-1", "greater than 0"]),
        ("pretrain.batch_size", 4000, ["pretrain.batch_size 4000", "at most", "197 training images"]),
        ("finetune.batch_size", 50, ["batch_size 50", "at most labels 40"]),
        ("finetune.batch_size", 19, ["finetune.batch_size 19", "multiple of 2", "1 processes, and mixes pairs"]),
        ("execution.pretrain.gpus", 3, ["pretrain.batch_size 32", "multiple of 3: execution.pretrain has 3 processes"]),
        ("execution.finetune.images_per_pass", 1, ["images_per_pass must be at least 2", "mixes pairs"]),
        ("sources.images", "flowers", ["sources.images is flowers", "data.source is 'digits'"]),
        ("sources.scenes", "streets", ["sources.scenes is streets", "scenes.source is 'digits'"]),
        ("scenes.digits_per_scene", [3, 500], ["scenes.digits_per_scene 500", "197 images of a split"]),
        ("seeds.classification", [2**32], ["seeds.classification.0", "less than 4294967296"]),
        ("pretrain.weight_decay", float("inf"), ["pretrain.weight_decay", "inf", "finite"]),
        ("data.mean", float("nan"), ["data.mean", "nan", "finite"]),
        ("model.width", 2**17, ["model.width", "131072", "less than or equal to 65536"]),
        ("pretrain.epochs", 10**15, ["pretrain.epochs", "less than or equal to"]),
        ("segment.test_scales", [0.1, 1.0], ["test_scales [0.1, 1.0] of 32 pixels", "test at larger ones"]),
        ("segment.test_scale", [64, 2], ["of 2 pixels", "test at larger ones"]),
        ("segment.batch_size", 1, ["segment.batch_size must be at least 2", "batch norm"]),
        ("finetune.labels", 45, ["finetune.labels 45", "multiple of data.classes 10"]),
        ("segment.batch_size", 9, ["segment.batch_size 9", "at most scenes.training"]),
        ("segment.crop", 23, ["segment.crop 23", "multiple of model.patch_size"]),
        ("segment.stride", 25, ["stride 25", "at most crop 24"]),
        ("segment.blocks", [0, 1, 2, 2], ["segment.blocks", "below model.depth 2"]),
        ("segment.rescales", [8, 4, 2, 1], ["rescales", "one of"]),
        ("finetune.warmup_epochs", 2, ["warmup_epochs 2", "smaller than epochs 2"]),
        ("seeds.segmentation", [7], ["segmentation seeds [7]", "classification [0, 1]"]),
        ("seeds.classification", [0, 0], ["[0, 0] repeats a seed"]),
        ("further_ablations.seeds", [0, 0], ["[0, 0] repeats a seed"]),
        ("pretraining.full", {"model": {"rope_base": 50.0}}, ["pretraining.full must be {}", "change them"]),
        ("data.validation_images", 1790, ["leave at least 10 for training"]),
        ("recipe", "../elsewhere", ["recipe", "../elsewhere", "pattern"]),
        ("execution.segment.images_per_pass", 2, ["execution.segment.images_per_pass must be null", "batch norm"]),
        ("pretraining.bad name", {}, ["bad name"]),
        ("pretraining.wide", {"model": {"width": 15}}, ["pretraining.wide", "width 15", "multiple of heads 2"]),
        ("pretraining.typo", {"objective": {"shfit": False}}, ["pretraining.typo", "shfit", "unknown key"]),
        ("finetuning.unfair", {"data": {"classes": 3}}, ["finetuning.unfair.data", "may only override finetune"]),
        ("pretraining.with-dash", {}, ["with-dash", "pattern"]),
        ("finetuning.variants_full", {}, ["variants_full", "must not begin with variants_"]),
        ("scenes", None, ["scenes is null, but segmentation has variants"]),
        ("finetuning.full", {}, ["'full'", "each variant one name"]),
    ],
)
def test_bad_values_are_refused(write_parameters: Write, key: str, value: Any, expected: list[str]) -> None:
    text = message(write_parameters(**{key: value}))
    assert text.startswith(("params.yaml", "/")), text
    for part in expected:
        assert part in text


def test_a_misspelt_key_is_named_before_what_it_leaves_missing(write_parameters: Write) -> None:
    path = write_parameters()
    path.write_text(path.read_text().replace("stop_gradient: true", "stop_grdient: true"))
    assert "objective.stop_grdient: unknown key" in message(path)


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("finetune.augmentation", "crop_scale", [1.0, 0.2], ["crop_scale [1.0, 0.2]", "[least, most]"]),
        ("finetune.augmentation", "rand_augment", "rund-m9", ["'rund-m9'", "rand-m9-mstd0.5-inc1"]),
        ("finetune.augmentation", "rand_augment", "rand-m9.5", ["'rand-m9.5'", "rand-m9-mstd0.5-inc1"]),
        ("segment.augmentation", "ratio", [2.0, 0.5], ["ratio [2.0, 0.5]", "[least, most]"]),
        ("data", "unreadable_allowed", 50_000, ["unreadable_allowed 50000", "less than the 50000 validation_images"]),
        ("pretrain", "batch_size", 1_281_167, ["batch_size 1281167", "training images without the 10 that may be"]),
    ],
)
def test_images_that_could_not_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, key: str, value: Any, expected: list[str]
) -> None:
    monkeypatch.chdir(ROOT)
    raw = yaml.safe_load(recipe_text("imagenet-base-paper"))
    raw["data"]["unreadable_allowed"] = 10
    reduce(getitem, section.split("."), raw)[key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    text = message(tmp_path / "params.yaml")
    assert all(part in text for part in expected), text


def test_no_level_of_the_decoder_is_empty(write_parameters: Write) -> None:
    text = message(write_parameters(**{"segment.crop": 6, "segment.stride": 6}))
    assert "segment.rescales [2.0, 1.0, 0.5, 0.25] leave nothing of the 3 patches of a segment.crop" in text


def test_what_is_not_segmented_need_not_suit_segmentation(write_parameters: Write) -> None:
    """A pretraining of its own, and a recipe without scenes."""
    shallow = {"model": {"depth": 1}}
    parameters = load_parameters(write_parameters(**{"pretraining.shallow": shallow}))
    assert resolve_variant(parameters, "pretraining", "shallow").model.depth == 1
    without = {"scenes": None, "segmentation": {}, "segment.blocks": [0, 1, 2, 3]}
    assert load_parameters(write_parameters(**without)).model.depth == 2


def test_image_folders_and_scenes_have_to_lie_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for kind in ("images", "scenes"):
        raw = yaml.safe_load(recipe_text("imagenet-base-paper"))
        raw["sources"][kind] = None
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
        assert f"sources.{kind} is null" in message(tmp_path / "params.yaml")


def test_missing_key(write_parameters: Write) -> None:
    path = write_parameters()
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "stop_gradient: true" not in line))
    assert "objective.stop_gradient: missing" in message(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"model: {width: 3\nseeds: [1", "line 2 is not YAML"),
        (b"model: {width: 3}\nmodel: {width: 4}\n", 'line 2 is not YAML: found duplicate key "model"; mend it there'),
        (b"model: {{width}}\n", "is not YAML"),
        (b"- a\n- list\n", "holds list, expected a map"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"seeds: 1\n# \xff", "is not UTF-8 (invalid start byte at byte 11); save it as UTF-8"),
        (b"seeds: \x00", "params.yaml, character 8: control characters are not allowed; remove it"),
        (b"split_seed: 2025-31-12", "params.yaml holds a value that YAML cannot read (month must be in 1..12)"),
    ],
)
def test_no_yaml(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    assert expected in message(path)


@pytest.mark.parametrize(
    ("written", "read"), [("3e-4", 0.0003), ("3.0E-4", 0.0003), ("010", 10), ("0o10", 8), ("1_000", 1000), ("on", "on")]
)
def test_a_value_is_what_dvc_takes_it_for(written: str, read: Any) -> None:
    """DVC keeps it in dvc.lock and puts it into dvc.yaml; a stage that trained with another would be told as this."""
    text = f"value: {written}\n"
    assert read_yaml(text, "params.yaml") == parse_yaml(text, "params.yaml") == {"value": read}


def test_recipes_and_their_pages_are_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.yaml").write_bytes(b"# \xe9\n")
    for read in (list_recipes, lambda: recipe_text("mine")):
        with pytest.raises(UserError, match="^recipes/mine.yaml is not UTF-8 .*; save it as UTF-8$"):
            read()


def test_missing_file(tmp_path: Path) -> None:
    assert "not found; run from the project's root" in message(tmp_path / "params.yaml")


def test_a_variant_is_the_shared_settings_with_its_own_over_them(write_parameters: Write) -> None:
    parameters = load_parameters(write_parameters(**{"pretraining.masked": {"objective": {"input_mask_ratio": 0.4}}}))
    variant = resolve_variant(parameters, "pretraining", "masked")
    assert variant.objective.input_mask_ratio == 0.4
    shared = {"objective": parameters.objective, "segmentation": parameters.segmentation}
    assert variant.model_copy(update=shared) == parameters

"""What a checkpoint says of itself: enough to use it, and nothing of where its maker's files lie."""

import json
from pathlib import Path
from typing import get_args

import pytest
import yaml
from conftest import ROOT

from nepa.data.datasets import class_names
from nepa.model.description import describe_run, read_description
from nepa.parameters import Parameters
from nepa.parameters.recipes import recipe_text
from nepa.parameters.schema import Stage
from nepa.runs.paths import RunPaths


@pytest.fixture
def parameters(monkeypatch: pytest.MonkeyPatch) -> Parameters:
    """The paper's recipe, with its data in someone's home."""
    monkeypatch.chdir(ROOT)
    raw = yaml.safe_load(recipe_text("imagenet-base-paper"))
    raw["sources"] = {kind: f"/home/someone/{name}" for kind, name in raw["sources"].items()}
    return Parameters.model_validate(raw)


def test_it_is_read_as_it_was_written(parameters: Parameters) -> None:
    pretrain, finetune, segment = (RunPaths.of(parameters, stage, "full", 1337) for stage in get_args(Stage))
    pretrained = describe_run(parameters, pretrain, "ok")
    colours = [(0, 128, 255), (255, 0, 0)]
    for description, kind in (
        (pretrained, "backbone"),
        (describe_run(parameters, finetune, "ok", pretrained, ["cat", "dog"]), "classifier"),
        (describe_run(parameters, segment, "ok", pretrained, ("wall", "sky"), colours), "segmentor"),
    ):
        text = json.dumps(description.content())
        assert read_description(text, Path("here")) == description and description.kind == kind
        assert "someone" not in text and description.training[0].data["path"] == "imagenet"
        assert description.training[0].settings["epochs"] == 1600 and description.crop_share == 0.875
    assert description.training[1].data["path"] == "ADEChallengeData2016.zip"
    assert description.segmentation.test_scale == [2072, 518] and description.colours == [[0, 128, 255], [255, 0, 0]]


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ({}, ["0", "1"]),
        ({"classes": ["cat", "dog"]}, ["cat", "dog"]),
        ({"classes": ["n01440764", "n02012849"]}, ["tench, Tinca tinca (n01440764)", "crane (n02012849)"]),
    ],
)
def test_names_of_classes(
    parameters: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: dict, expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("data/imagenet-base-paper/images")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    two = parameters.model_copy(update={"data": parameters.data.model_copy(update={"classes": 2})})
    assert class_names(two) == expected

"""A run goes on, or starts, from what belongs to it alone."""

import shutil
from pathlib import Path
from typing import get_args

import pytest
from conftest import Write

from nepa.bench.workload import with_execution
from nepa.command_line import main
from nepa.parameters import Parameters, load_parameters
from nepa.parameters.schema import Stage
from nepa.runs.paths import RunPaths
from nepa.runs.start import identity


def changed(parameters: Parameters, section: str, **values: object) -> Parameters:
    return parameters.model_copy(update={section: getattr(parameters, section).model_copy(update=values)})


@pytest.fixture
def parameters(write_parameters: Write) -> Parameters:
    return load_parameters(write_parameters())


@pytest.mark.parametrize("stage", get_args(Stage))
def test_other_data_weights_parameters_or_seeds_make_another_run(
    parameters: Parameters, tmp_path: Path, stage: Stage
) -> None:
    start = tmp_path / "start"
    start.write_bytes(b"some weights")
    paths = RunPaths.of(parameters, stage, "full", 0)
    found = [
        identity(parameters, paths, "data", start),
        identity(parameters, paths, "data"),
        identity(parameters, paths, "other data", start),
        identity(parameters, RunPaths.of(parameters, stage, "full", 1), "data", start),
        identity(changed(parameters, "model", width=32), paths, "data", start),
    ]
    assert identity(parameters, paths, "data", start) == found[0]
    start.write_bytes(b"other weights")
    found.append(identity(parameters, paths, "data", start))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("stage", "on_scenes"), [("pretrain", False), ("finetune", False), ("segment", True)])
def test_what_a_stage_does_not_read_is_no_part_of_it(parameters: Parameters, stage: Stage, on_scenes: bool) -> None:
    """Nor how it is carried out: fewer workers are what helps a run that met the end of its memory."""
    paths = RunPaths.of(parameters, stage, "full", 0)
    own = identity(parameters, paths, "data")
    assert (identity(changed(parameters, "scenes", validation=9), paths, "data") != own) is on_scenes
    others = with_execution(parameters, stage, workers=1)
    assert others != parameters and identity(others, paths, "data") == own


@pytest.mark.parametrize(("variant", "seed"), [("full", 1), ("no_shift", 0)])
def test_another_run_s_backbone_in_its_place_is_refused(
    project: Path, capsys: pytest.CaptureFixture, variant: str, seed: int
) -> None:
    """Of the same model, so that every weight would fit."""
    assert main(["pretrain", "--variant", variant, "--seed", str(seed)]) == 0
    shutil.copytree(f"checkpoints/smallest/pretrain/{variant}/seed-{seed}", "checkpoints/smallest/pretrain/full/seed-0")
    assert main(["finetune"]) == 2
    found = f"is of smallest/pretrain/{variant}/seed-{seed}, not of smallest/pretrain/full/seed-0"
    assert f"{found}; run `nepa pretrain --variant full --seed 0`\n" in capsys.readouterr().err

"""Where a run lies, and which run lies in a folder."""

from dataclasses import replace
from pathlib import Path

import pytest

from nepa.errors import UserError
from nepa.runs.paths import RUN_FOLDERS, RunName, RunPaths


def test_every_folder_of_a_run_names_it() -> None:
    paths = RunPaths("digits", "finetune", "no_shift", 12)
    for folder in (paths.results, replace(paths, further=True).results, paths.scratch, paths.checkpoints):
        assert folder.match(RUN_FOLDERS)
        assert RunName.of(folder) == ("digits", "finetune", "no_shift", 12)
    assert str(RunName.of(paths.results)) == "digits/finetune/no_shift/seed-12"


def test_a_copy_is_no_run() -> None:
    copy = Path("results/runs/digits/finetune/full/seed-0-backup")
    with pytest.raises(UserError, match=f"{copy} is no folder of a run, which ends in seed-NUMBER; move it elsewhere"):
        RunName.of(copy)


def test_seeds_are_in_the_order_of_their_numbers() -> None:
    ten, two = (RunName("digits", "finetune", "full", seed) for seed in (10, 2))
    assert sorted((ten, two)) == [two, ten]

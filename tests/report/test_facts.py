"""The report's table of settings."""

from pathlib import Path

import pytest

from nepa.parameters.recipes import recipe_parameters
from nepa.report.facts import settings_table

UNMENTIONED = {
    "model.rope_rescale", "pretrain.clip_gradient", "pretrain.augmentation.flip",
    "finetune.augmentation.random_erasing",
}  # fmt: skip
LEFT_BY_ALL = {"data.source", "segment.crop"}  # a folder of ImageNet-1K; 14 does not divide 512


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("imagenet-base-code", set()),
        ("imagenet-large-code", set()),
        ("imagenet-base-paper", UNMENTIONED | {"pretrain.learn_qk_norm_scale"}),
        ("imagenet-large-paper", UNMENTIONED),
    ],
)
def test_the_named_recipes_leave_paper_and_code_nowhere_else(
    name: str, left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the paper's recipes leave is what the released code alone does."""
    monkeypatch.chdir(Path(__file__).parents[2])
    settings = settings_table(recipe_parameters(name))
    assert set(settings["setting"].str.strip("`")) == LEFT_BY_ALL | left
    alone = settings[~settings["setting"].str.strip("`").isin(LEFT_BY_ALL)]
    assert (alone["paper"] == "–").all()

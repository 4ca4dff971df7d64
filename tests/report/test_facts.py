"""The report's table of settings."""

from pathlib import Path

import pytest

from nepa.parameters.recipes import recipe_parameters
from nepa.report.facts import settings_table

UNMENTIONED = {
    "model.rope_rescale", "pretrain.clip_gradient", "pretrain.augmentation.flip", "finetune.clip_gradient",
    "finetune.augmentation.random_erasing",
}  # fmt: skip
LEFT_BY_ALL = {"segment.crop"}  # 14 does not divide 512
UNRESOLVED = {"model.mlp_ratio"}  # the paper has 3072 and SwiGLU, and does not say that they go together


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("imagenet-base-code", set()),
        ("imagenet-large-code", set()),
        ("imagenet-base-paper", UNMENTIONED | UNRESOLVED | {"pretrain.learn_qk_norm_scale"}),
        ("imagenet-large-paper", UNMENTIONED | UNRESOLVED),
    ],
)
def test_the_named_recipes_leave_paper_and_code_nowhere_else(
    name: str, left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the paper's recipes leave is what the released code alone does."""
    monkeypatch.chdir(Path(__file__).parents[2])
    settings = settings_table(recipe_parameters(name))
    settings = settings[settings["as in"] == "neither"]
    assert set(settings["setting"].str.strip("`")) == LEFT_BY_ALL | left
    alone = settings[~settings["setting"].str.strip("`").isin(LEFT_BY_ALL | UNRESOLVED)]
    assert (alone["paper"] == "–").all()


def test_where_paper_and_code_differ_it_says_whom_a_recipe_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    followed = {
        name: settings_table(recipe_parameters(f"imagenet-base-{name}")).set_index("setting")["as in"]
        for name in ("paper", "code")
    }
    assert followed["paper"]["`model.mlp`"] == followed["paper"]["`finetune.layer_decay`"] == "paper"
    assert followed["paper"]["`model.absolute_positions`"] == followed["paper"]["`finetune.pool`"] == "code"
    assert set(followed["code"]) == {"code", "neither"} and (followed["code"] == "neither").sum() == 1


def test_what_is_not_segmented_has_no_settings_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    settings = settings_table(recipe_parameters("imagenet-ablations-50k"))["setting"]
    assert not settings.str.contains("segment").any()

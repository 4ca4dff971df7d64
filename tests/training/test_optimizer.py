"""The learning rate that the optimizer really holds, layer by layer, at several steps."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import Write

from nepa.model.backbone import build_backbone
from nepa.parameters import load_parameters
from nepa.training.optimizer import (
    LayerwiseSchedule,
    build_optimizer,
    cosine_with_warmup,
    parameter_groups,
    polynomial_with_warmup,
)

GOLDEN = json.loads((Path(__file__).parent.parent / "golden/lr_schedules.json").read_text())


@pytest.fixture
def classifier(write_parameters: Write) -> torch.nn.Module:
    return build_backbone(load_parameters(write_parameters(**{"model.depth": 3})), num_classes=10)


def test_distances_of_the_reference_code(classifier: torch.nn.Module) -> None:
    distance = distances(parameter_groups(classifier, classifier, 0.05))
    assert [distance[f"blocks.{i}.attn.qkv.weight"] for i in range(3)] == [2, 1, 0]  # the last block learns as the head
    assert distance["patch_embed.proj.weight"] == distance["cls_token"] == 3
    assert distance["head.weight"] == distance["fc_norm.weight"] == distance["norm.weight"] == 0
    assert sorted(distance) == sorted(name for name, p in classifier.named_parameters() if p.requires_grad)


def test_distances_of_mmsegmentation(classifier: torch.nn.Module) -> None:
    distance = distances(parameter_groups(classifier, classifier, 0.05, "mmsegmentation"))
    assert [distance[f"blocks.{i}.attn.qkv.weight"] for i in range(3)] == [3, 2, 1]
    assert distance["patch_embed.proj.weight"] == distance["cls_token"] == 4
    assert distance["head.weight"] == distance["norm.weight"] == 0


def distances(groups: list[dict]) -> dict[str, int]:
    return {name: group["distance"] for group in groups for name in group["names"]}


@pytest.mark.parametrize(("layers", "spared"), [("reference", []), ("one", []), ("mmsegmentation", ["cls_token"])])
def test_weight_decay_spares_norms_biases_and_layer_scale(
    layers: str, spared: list[str], classifier: torch.nn.Module
) -> None:
    decay = {n: g["weight_decay"] for g in parameter_groups(classifier, classifier, 0.05, layers) for n in g["names"]}
    assert {name for name, value in decay.items() if value} == {
        name for name, p in classifier.named_parameters() if p.ndim > 1 and name not in spared
    }


def test_frozen_parameters_are_not_optimised(classifier: torch.nn.Module) -> None:
    classifier.patch_embed.requires_grad_(False)
    names = [name for group in parameter_groups(classifier, classifier, 0.05) for name in group["names"]]
    assert not any("patch_embed" in name for name in names)


def test_sharded_gradients_are_exchanged_in_a_step_s_last_pass_alone() -> None:
    model = torch.nn.Linear(2, 1)
    exchanged: list[bool] = []
    model.set_requires_gradient_sync = exchanged.append
    groups = [{"params": list(model.parameters()), "names": ["weight", "bias"]}]
    optimizer = build_optimizer(groups, learning_rate=1e-2, betas=[0.9, 0.999], clip_gradient=1.0, passes=3)
    optimizer.initialize_count_status(model, 0, 6)
    for _ in range(6):
        with optimizer.optim_context(model):
            loss = model(torch.ones(1, 2)).sum()
        optimizer.update_params(loss)
    assert exchanged == [False, False, True] * 2


def rates(
    classifier: torch.nn.Module, steps: int, schedule_steps: int | None = None, **schedule: object
) -> list[dict[int, float]]:
    """The rate of every distance from the head, as held while each step is taken."""
    optimizer = build_optimizer(
        parameter_groups(classifier, classifier, 0.05), learning_rate=1e-2, betas=[0.9, 0.999], clip_gradient=1.0
    )
    scheduler = LayerwiseSchedule(optimizer, steps=schedule_steps or steps, **schedule)
    held = []
    for _ in range(steps):
        groups = optimizer.optimizer.param_groups
        held.append({group["distance"]: group["lr"] for group in groups})
        optimizer.step()
        scheduler.step()
    return held


def test_fixed_layer_decay(classifier: torch.nn.Module) -> None:
    held = rates(classifier, steps=20, warmup=5, decay=0.5)
    for step in (0, 3, 5, 12, 19):
        factor = step / 5 if step < 5 else 0.5 * (1 + math.cos(math.pi * (step - 5) / 15))
        assert held[step] == pytest.approx({d: 1e-2 * factor * 0.5**d for d in range(4)})


def test_ramped_layer_decay(classifier: torch.nn.Module) -> None:
    held = rates(classifier, steps=20, warmup=0, decay=0.4, decay_end=1.0)
    for step in (0, 10, 19):
        ratio = held[step][3] / held[step][2]
        assert ratio == pytest.approx(0.4 + 0.6 * step / 20)
    assert held[0][3] == pytest.approx(1e-2 * 0.4**3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llrd_cosine_warmup_b", {"layer_warmup": True}),
        ("llrd_cosine_warmup_l", {"layer_warmup": True}),
        ("llrd_cosine_ramp", {"ramp": "cosine"}),
    ],
)
def test_the_reference_s_schedules(name: str, options: dict, write_parameters: Write) -> None:
    """Every listed step of every depth, of a backbone as deep as the reference's."""
    golden = GOLDEN[name]
    deep = build_backbone(load_parameters(write_parameters(**{"model.depth": 12})), num_classes=10)
    held = rates(
        deep,
        steps=golden["training_steps"] + 1,
        schedule_steps=golden["training_steps"],
        warmup=golden["warmup_steps"],
        decay=golden["llrd"],
        decay_end=golden["llrd_end"],
        **options,
    )
    assert len(golden["rows"]) == 21
    assert sorted(held[0]) == list(range(13))  # as many as the reference's optimizer tells apart
    for step, *factors in golden["rows"]:
        found = [held[step][distance] / 1e-2 for distance in range(13)]
        assert found == pytest.approx(factors, abs=1e-6)


def test_head_and_final_norm_have_a_rate_of_their_own(classifier: torch.nn.Module) -> None:
    groups = parameter_groups(classifier, classifier, 0.05, head_learning_rate=1e-3)
    optimizer = build_optimizer(groups, learning_rate=1e-2, betas=[0.9, 0.999], clip_gradient=1.0)
    LayerwiseSchedule(optimizer, steps=20, warmup=0, decay=0.5)
    held = {name: group["lr"] for group in optimizer.optimizer.param_groups for name in group["names"]}
    assert held["head.weight"] == held["norm.weight"] == held["norm.bias"] == pytest.approx(1e-3)
    # The classifier's norm learns as the last block does: the reference code has it in neither list.
    assert held["fc_norm.weight"] == held["blocks.2.attn.qkv.weight"] == pytest.approx(1e-2)
    assert held["blocks.1.attn.qkv.weight"] == pytest.approx(5e-3)


def test_shapes_of_the_schedule() -> None:
    assert cosine_with_warmup(0, 10, 2) == 0
    assert cosine_with_warmup(2, 10, 2) == 1
    assert cosine_with_warmup(6, 10, 2) == pytest.approx(0.5)
    assert cosine_with_warmup(10, 10, 2) == pytest.approx(0)
    assert [polynomial_with_warmup(step, 10, 2) for step in (0, 1, 2)] == pytest.approx([1e-6, 0.5, 1], abs=1e-6)
    assert polynomial_with_warmup(0, 10, 2) > 0  # never a step without learning
    assert [polynomial_with_warmup(step, 10, 0) for step in (0, 5, 10)] == [1, 0.5, 0]

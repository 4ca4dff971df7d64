"""Nothing is timed against a baseline that computes something else."""

from collections.abc import Callable

import pytest
import torch
from conftest import Write

from nepa.bench import agreement
from nepa.bench.agreement import Disagreement, check_agreement
from nepa.bench.baseline import Baseline, packed, split_projections
from nepa.bench.workload import Workload, on_noise, on_this_machine
from nepa.parameters import load_parameters
from nepa.parameters.schema import Stage


@pytest.fixture
def workload(write_parameters: Write) -> Callable[[Stage], Workload]:
    """The smallest recipe's workload of a stage, eight images a step."""

    def build(stage: Stage) -> Workload:
        parameters = on_this_machine(load_parameters(write_parameters()), stage, 8)
        return on_noise(parameters, stage, 16)

    return build


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "segment"])
def test_the_baseline_trains_as_ours_does(workload: Callable[[Stage], Workload], stage: Stage) -> None:
    assert check_agreement(workload(stage)) < 1e-9  # in float64


def test_the_baseline_measures_accuracy_as_mmsegmentation_does(workload: Callable[[Stage], Workload]) -> None:
    here = workload("segment")
    task = here.task()
    batch, baseline = next(here.batches(task)), Baseline(here.parameters, task, 1)
    losses = baseline.model(**baseline.model.data_preprocessor(batch, True), mode="loss")
    assert {"decode.acc_seg", "aux.acc_seg"} < losses.keys()


def other_optimizer(baseline: Baseline) -> None:
    for group in baseline.optimizer.param_groups:
        group["weight_decay"] *= 1.2


def other_rate(baseline: Baseline) -> None:
    baseline.optimizer.param_groups[0]["lr"] *= 1.01


def no_clipping(baseline: Baseline) -> None:
    baseline.settings = baseline.settings.model_copy(update={"clip_gradient": 1e9})


def other_average(baseline: Baseline) -> None:
    baseline.average.decay -= 0.01


def exchanged_projections(baseline: Baseline) -> None:
    attention = baseline.model.get_submodule("objective.backbone").blocks[0].attn
    attention.q_proj.weight.data, attention.k_proj.weight.data = attention.k_proj.weight.data, attention.q_proj.weight


def no_rotation(baseline: Baseline) -> None:
    rope = baseline.model.get_submodule("objective.backbone").rope
    for name, angles in rope.named_buffers():
        rope.get_buffer(name).copy_(torch.zeros_like(angles))


MISTAKES = (other_optimizer, other_rate, no_clipping, other_average, exchanged_projections, no_rotation)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_another_mathematics_is_refused(
    workload: Callable[[Stage], Workload], mistake: Callable[[Baseline], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mistaken(Baseline):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            mistake(self)

    monkeypatch.setattr(agreement, "Baseline", Mistaken)
    with pytest.raises(Disagreement, match="pretrain: .* differs by"):
        check_agreement(workload("pretrain"))


def test_split_projections_are_the_packed_one(workload: Callable[[Stage], Workload]) -> None:
    backbone = workload("pretrain").task().backbone
    before = {name: parameter.detach().clone() for name, parameter in backbone.named_parameters()}
    split_projections(backbone)
    after = packed(dict(backbone.named_parameters()))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(block.attn.qkv is None for block in backbone.blocks)

"""The plan agrees with the paper's wall times, with arithmetic by hand and with a pass that really ran."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, Write
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nepa.bench.workload import with_execution
from nepa.command_line import main
from nepa.commands.plan import describe_plan
from nepa.model.backbone import build_backbone
from nepa.objective.next_embedding import NextEmbeddingPrediction
from nepa.parameters import Parameters, load_parameters
from nepa.parameters.recipes import recipe_text
from nepa.plan.cost import BYTES_PER_PARAMETER, PAPER_TFLOPS, StageCost, image_bytes, measure_pass, plan


def recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> Parameters:
    monkeypatch.chdir(ROOT)
    return Parameters.model_validate(yaml.safe_load(recipe_text(name)))


def by_stage(parameters: Parameters) -> dict[str, StageCost]:
    return {cost.stage: cost for cost in plan(parameters, gpus=8)}


def pretraining_alone(parameters: Parameters) -> StageCost:
    """Its row, without the variants and stages whose passes take longer to count."""
    none = {"pretraining": {}, "finetuning": {}}
    further = parameters.further_ablations.model_copy(update=none)
    full = {"pretraining": {"full": {}}, "finetuning": {}, "segmentation": {}, "further_ablations": further}
    return by_stage(parameters.model_copy(update=full))["pretrain"]


@pytest.mark.parametrize(("name", "gigaflops"), [("imagenet-base-paper", 139), ("imagenet-large-paper", 486)])
def test_the_paper_s_arithmetic(name: str, gigaflops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretraining_alone(recipe(name, monkeypatch)).one.flops / 1e9 == pytest.approx(gigaflops, rel=0.02)


def test_the_paper_s_own_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = by_stage(recipe("imagenet-base-paper", monkeypatch))
    assert stages["pretrain"].flops / (PAPER_TFLOPS * 1e12) / 3600 == pytest.approx(576, rel=0.02)
    assert stages["pretrain"].steps == 1600 * 312 and stages["segment"].images == 160_000 * 16
    # A probe has no backward pass through the backbone.
    assert stages["finetune probe_mean"].one.flops == pytest.approx(stages["finetune"].one.flops / 3, rel=0.02)


@pytest.mark.slow
def test_memory_by_pass_and_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU holds: its share of the weights, and the activations of one pass."""
    parameters = recipe("imagenet-large-paper", monkeypatch)
    as_shipped = pretraining_alone(parameters)
    one_pass = pretraining_alone(with_execution(parameters, "pretrain", images_per_pass=None))
    whole = pretraining_alone(with_execution(parameters, "pretrain", shard=False))
    kept = as_shipped.one.saved - 24 * 16 * 257**2  # without 24 blocks' matrices of attention
    assert one_pass.memory - as_shipped.memory == pytest.approx(384 * 2 * kept)
    held = whole.memory - as_shipped.memory
    assert held == pytest.approx(7 / 8 * BYTES_PER_PARAMETER * as_shipped.one.parameters)


@pytest.mark.parametrize(
    "name", ["imagenet-base-paper", "imagenet-base-code", "imagenet-large-paper", "imagenet-large-code"]
)
def test_a_job_is_given_the_time_that_is_planned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = recipe(name, monkeypatch)
    minutes = pretraining_alone(parameters).flops / (8 * PAPER_TFLOPS * 1e12) / 60
    assert 1.1 < parameters.execution.pretrain.runtime / minutes < 1.3


def test_arithmetic_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-B/14: per block 12 D^2 multiplications a token in matrices and 2 N D in attention; thrice with backward."""
    tokens, width, depth = 257, 768, 12
    forward = depth * tokens * (24 * width**2 + 4 * tokens * width) + 256 * 2 * 3 * 14**2 * width
    parameters = recipe("imagenet-base-code", monkeypatch)
    assert pretraining_alone(parameters).one.flops == pytest.approx(3 * forward, rel=0.02)


def test_a_pass_that_really_runs(write_parameters: Write) -> None:
    parameters = load_parameters(write_parameters())
    model = NextEmbeddingPrediction(build_backbone(parameters))
    # The CPU's fused attention is unknown to torch's counter.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.randn(1, 1, 8, 8)).backward()
    planned = pretraining_alone(parameters).one
    assert planned.flops == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert planned.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_what_backward_keeps() -> None:
    """A linear layer keeps its input once, not its weight."""

    with torch.device("meta"):
        layer, images = torch.nn.Linear(10, 30), torch.empty(4, 10, requires_grad=True)
        one = measure_pass(layer, lambda: layer(images).sum())
    assert one.saved == 4 * 10 and one.parameters == 330
    assert one.flops == 3 * 2 * 4 * 10 * 30  # forward, and backward for input and weight


def test_a_variant_that_takes_longer_has_a_row_of_its_own(write_parameters: Write) -> None:
    longer = {"finetune": {"initialisation": "random", "epochs": 6}}
    stages = by_stage(load_parameters(write_parameters(**{"finetuning.longer": longer})))
    assert stages["finetune longer"].steps == 3 * stages["finetune"].steps
    assert stages["finetune longer"].runs == 2 and stages["finetune"].runs == 4 * 2


def test_further_ablations_and_disk(write_parameters: Write) -> None:
    parameters = load_parameters(write_parameters())
    stages = by_stage(parameters)
    further = parameters.further_ablations
    assert {f"pretrain {name}" for name in further.pretraining} < set(stages)
    # Without causal mask or without shift the last patch has a part in it.
    assert stages["pretrain"].runs == stages["pretrain no_causal_mask"].runs == 2 * 2
    assert stages["finetune"].runs == 4 * 2 and stages["segment"].runs == 2
    assert image_bytes(parameters) == 1797 * 64
    assert all(cost.checkpoint == 4 * cost.one.parameters for cost in stages.values())


def test_what_the_memory_leaves_out_is_said(write_parameters: Write) -> None:
    in_float32, uncompiled = (
        load_parameters(write_parameters(**{"pretrain.precision": precision})) for precision in ("float32", "bfloat16")
    )
    compiled = with_execution(uncompiled, "pretrain", compile=True)
    said = ["in float32 too" in describe_plan(each, None, None) for each in (in_float32, uncompiled, compiled)]
    assert said == [False, True, False]


def test_command(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", "--tflops", "0.01"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Recipe smallest, 1 GPU at 0.01 TFLOP/s each (as given)")
    assert "| pretrain " in shown and "Disk for the prepared images" in shown
    first = [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("|")]
    assert first.index("segment") < first.index("the default run") < first.index("finetune probe_mean") < len(first) - 1
    assert first[-1] == "all"
    assert main(["plan", "--gpus", "0"]) == 2
    assert "--gpus 0 must be a number above 0" in capsys.readouterr().err
    assert main(["plan", "--tflops", "nan"]) == 2
    assert "--tflops nan must be a number above 0" in capsys.readouterr().err

"""Compiled, in several passes, with activations recomputed: the same training."""

from collections.abc import Callable
from functools import partial, partialmethod
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, Write, needs_compiler
from torch._dynamo.testing import CompileCounter

from nepa.bench.workload import with_execution
from nepa.command_line import main
from nepa.data.stream import set_random_state
from nepa.errors import UserError
from nepa.parameters import load_parameters
from nepa.parameters.loading import VariantGroup, resolve_variant
from nepa.parameters.schema import Stage
from nepa.plan.tasks import build_task
from nepa.training.placement import GlobalBatchNorm, device, keep_weights, place


@needs_compiler
@pytest.mark.slow
def test_one_compiled_graph_gives_the_same_curves(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    compile_whole = torch.compile

    def noted(model: Callable, **options: object) -> Callable:
        compiled.append(model.__qualname__)
        return compile_whole(model, **options)

    monkeypatch.setattr(torch, "compile", noted)
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["model"]["depth"] = 1  # each block adds to what is compiled, and nothing to what is looked at
    raw["segment"]["blocks"] = [0, 0, 0, 0]
    # AdamW's first steps magnify rounding, which decides some signs: short ones.
    raw["finetune"]["base_learning_rate"] *= 0.01
    in_passes = {"compile": True, "images_per_pass": 16, "recompute_activations": True}
    # What UPerNet's batch norms see may not be divided.
    for stage, carried_out in (("pretrain", in_passes), ("finetune", in_passes), ("segment", {"compile": True})):
        curves = []
        for changes in ({}, carried_out):
            raw["execution"][stage] |= changes
            Path("params.yaml").write_text(yaml.safe_dump(raw))
            assert main([stage]) == 0
            curves.append(pd.read_csv(f"results/runs/smallest/{stage}/full/seed-0/history.csv"))
        apart = (curves[0] - curves[1]).abs().max()
        # After four short steps from a classifier of zeros, classes are as good as tied.
        assert apart.drop("top1", errors="ignore").max() < 1e-4
    assert compiled == ["Pretraining.loss", "Finetuning.loss", "UPerNet.loss"]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "section"), [("pretrain", "pretraining"), ("finetune", "finetuning")])
def test_every_variant_is_captured_in_one_graph(
    stage: Stage, section: VariantGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    recipe = load_parameters(ROOT / "params.yaml")
    for variant in (*getattr(recipe, section), *getattr(recipe.further_ablations, section)):
        parameters = with_execution(resolve_variant(recipe, section, variant), stage, compile=True)
        task = build_task(parameters, stage)
        images, labels = torch.rand(4, 1, 8, 8, device=device()), torch.arange(4, device=device())
        set_random_state(0)
        expected = task.model.to(device()).train()(images, labels, mode="loss")["loss"]
        compiled = place(task, getattr(parameters.execution, stage), averaged=False).wrapped
        set_random_state(0)
        found = compiled(images, labels, mode="loss")["loss"]
        found.backward()
        assert found == expected, variant


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which needs another compiler")
def test_without_a_compiler_one_line_says_what_to_do(project: Path, capsys: pytest.CaptureFixture) -> None:
    from torch._inductor import config

    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["execution"]["pretrain"]["compile"] = True
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert main(["pretrain"]) == 2
    assert "install g++" in capsys.readouterr().err


def test_a_gpu_needs_a_compiler_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton builds the launcher of its kernels in C, with Python's headers."""
    from nepa.training.compilation import require_compiler

    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UserError, match="no C compiler is here; install gcc"):
        require_compiler("cuda")
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: "/no/such/folder")
    with pytest.raises(UserError, match="no /no/such/folder/Python.h is here; install gcc and python3-dev"):
        require_compiler("cuda")


@needs_compiler
@pytest.mark.slow
def test_what_is_drawn_once_more_is_drawn_alike(write_parameters: Write) -> None:
    """Drop path, where activations are recomputed in one compiled graph."""
    from nepa.stages.finetune import finetuning
    from nepa.training.compilation import compile_training

    parameters = load_parameters(write_parameters(**{"finetune.drop_path": 0.5}))
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8)
    gradients = []
    for compiled in (False, True):
        torch.manual_seed(0)
        task = finetuning(parameters)
        torch.nn.init.normal_(task.backbone.head.weight)
        task.model.train()
        task.backbone.set_grad_checkpointing()
        if compiled:
            compile_training(task.model, task.backbone, one_graph=True)
        set_random_state(0)
        task.model.loss(images, labels).backward()
        gradients.append([weight.grad for weight in task.backbone.parameters() if weight.grad is not None])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_blocks_are_compiled_once_whatever_their_drop_path(
    write_parameters: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import nn

    from nepa.stages.finetune import finetuning
    from nepa.training.compilation import compile_training

    changes = {"model.depth": 12, "finetune.drop_path": 0.1}
    parameters = load_parameters(write_parameters(**changes))
    compiled: list[nn.Module] = []
    compile_module = nn.Module.compile
    graphs = CompileCounter()

    def noted(module: nn.Module) -> None:
        compiled.append(module)
        compile_module(module, backend=graphs)

    monkeypatch.setattr(nn.Module, "compile", noted)
    task = finetuning(parameters)
    compile_training(task.model.train(), task.backbone, one_graph=False)
    task.backbone.forward_features(torch.zeros(2, 1, 8, 8)).sum().backward()
    assert compiled == list(task.backbone.blocks)
    assert graphs.frame_count == 2  # the first block has no drop path


@pytest.mark.slow
def test_evaluation_compiles_nothing(write_parameters: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nepa.training.placement.get_world_size", lambda: 2)  # blocks are compiled, as for DDP
    monkeypatch.setattr("nepa.training.placement.MMDistributedDataParallel", lambda model, **_: model)
    graphs = CompileCounter()
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=graphs))
    parameters = with_execution(load_parameters(write_parameters()), "finetune", compile=True)
    task = build_task(parameters, "finetune")
    placement = place(task, parameters.execution.finetune, averaged=False)
    images = torch.rand(2, 1, 8, 8)
    placement.wrapped(images, torch.arange(2), mode="loss")
    compiled = graphs.frame_count
    assert compiled == 1
    with torch.no_grad():
        weight = placement.trained.classifier.head.weight
        weight.copy_(torch.rand_like(weight))
    keep_weights(placement, task.model)
    assert task.model.eval()(images).ne(0).all()
    assert graphs.frame_count == compiled


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_batch_norm_over_processes_is_torch_s_also_where_all_values_are_nearly_alike(
    tmp_path: Path, precision: torch.dtype
) -> None:
    """As at UPerNet's coarsest level, where the mean of the squares less the square of the mean would be noise."""
    torch.manual_seed(0)
    features = (10 + 0.01 * torch.randn(16, 8, 1, 1)).to(precision)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        ours, torchs = GlobalBatchNorm(8), torch.nn.BatchNorm2d(8)
        found, expected = ours(features), torchs(features.float())
    finally:
        torch.distributed.destroy_process_group()
    assert found.dtype == precision
    torch.testing.assert_close(found.float(), expected, atol=0.02 if precision == torch.bfloat16 else 1e-3, rtol=0)
    torch.testing.assert_close(ours.running_var, torchs.running_var)
    torch.testing.assert_close(ours.running_mean, torchs.running_mean)

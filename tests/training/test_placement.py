"""Compiled, in several passes, with activations recomputed: the same training."""

from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import Write, needs_compiler

from nepa.command_line import main


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
    for stage in ("pretrain", "finetune"):
        curves = []
        for changes in ({}, {"compile": True, "images_per_pass": 16, "recompute_activations": True}):
            raw["execution"][stage] |= changes
            Path("params.yaml").write_text(yaml.safe_dump(raw))
            assert main([stage]) == 0
            curves.append(pd.read_csv(f"results/runs/smallest/{stage}/full/seed-0/history.csv"))
        assert (curves[0] - curves[1]).abs().max().max() < 1e-4
    assert compiled == ["Pretraining.loss", "Finetuning.loss"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, whose kernels need no C++ compiler")
def test_without_a_compiler_one_line_says_what_to_do(project: Path, capsys: pytest.CaptureFixture) -> None:
    from torch._inductor import config

    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["execution"]["pretrain"]["compile"] = True
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert main(["pretrain"]) == 2
    assert "install g++" in capsys.readouterr().err


@pytest.mark.slow
def test_every_block_is_compiled_whatever_its_drop_path(
    write_parameters: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import nn

    from nepa.parameters import load_parameters
    from nepa.stages.finetune import finetuning
    from nepa.training.placement import place

    changes = {"model.depth": 12, "finetune.drop_path": 0.1, "execution.finetune.compile": True}
    parameters = load_parameters(write_parameters(**changes))
    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    task = replace(finetuning(parameters), one_graph=False)
    place(task, parameters.execution.finetune, averaged=False)
    task.model.train()
    task.backbone.forward_features(torch.zeros(2, 1, 8, 8)).sum().backward()

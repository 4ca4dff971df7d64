"""Compiled, in several passes, with activations recomputed: the same training."""

import shutil
from functools import partialmethod
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import Write

from nepa.command_line import main


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU: no c++ here")
def test_compiled_blocks_give_the_same_curve(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = []
    compiled = 0

    from torch import nn

    compile_module = nn.Module.compile

    def counted(self: nn.Module, *arguments: object, **options: object) -> None:
        nonlocal compiled
        compiled += 1
        compile_module(self, *arguments, **options)

    monkeypatch.setattr(nn.Module, "compile", counted)
    for changes in ({}, {"compile": True, "images_per_pass": 16, "recompute_activations": True}):
        raw = yaml.safe_load(Path("params.yaml").read_text())
        raw["execution"]["pretrain"] |= changes
        Path("params.yaml").write_text(yaml.safe_dump(raw))
        assert main(["pretrain"]) == 0
        curves.append(pd.read_csv("results/runs/smallest/pretrain/full/seed-0/history.csv"))
    assert compiled == 2  # both blocks, once
    assert (curves[0] - curves[1]).abs().max().max() < 1e-4


@pytest.mark.slow
def test_every_block_is_compiled_whatever_its_drop_path(
    write_parameters: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
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
    task = finetuning(parameters)
    place(task.model, task.backbone, parameters.execution.finetune, averaged=False)
    task.model.train()
    task.backbone.forward_features(torch.zeros(2, 1, 8, 8)).sum().backward()

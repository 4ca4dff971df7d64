"""Compiling what a model does in training."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch
from timm.models.eva import Eva
from torch import nn
from torch._inductor import config as inductor
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from nepa.errors import UserError


def compile_training(model: nn.Module, backbone: Eva, one_graph: bool) -> None:
    """Compile a model's training in place.

    Args:
        model: on its device.
        one_graph: compile the model's `loss` as a whole, which evaluation does not call: the least is left between the
            kernels, and where they are small that rules. Else each block of the backbone: several processes exchange
            the gradients of one while the next is computed, and gather sharded weights block by block.

    Raises:
        UserError: what compiles is missing.
    """
    device = next(model.parameters()).device.type
    require_compiler(device)
    # Between small kernels Python is the slower caller; a GPU runs behind and does not see who calls. The faster one
    # has no code for what is drawn again, such as drop path, where activations are recomputed.
    inductor.cpp_wrapper = device == "cpu" and not backbone.grad_checkpointing
    inductor.fallback_random = True  # drop path and masks are drawn as they are uncompiled, on a GPU too
    torch.compiler.reset()  # what earlier trainings of this process compiled counts towards dynamo's limits
    if one_graph:
        model.loss = torch.compile(model.loss, fullgraph=True)
        return
    torch._dynamo.config.optimize_ddp = False  # which would divide each block for the exchange of its gradients
    for block in backbone.blocks:
        block.compile()


def require_compiler(device: str) -> None:
    """Check for what kernels are compiled with: on a CPU g++; on a GPU Triton, which builds its launcher in C.

    Args:
        device: `cpu` or `cuda`.

    Raises:
        UserError: it is missing.
    """
    if device == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise UserError(
                "execution has compile: true, but no C++ compiler is here; install g++, or make it false"
            ) from None
        return
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_config_var("INCLUDEPY")) / "Python.h"
    for found, name in ((compiler, "C compiler"), (header.exists(), str(header))):
        if not found:
            raise UserError(
                f"execution has compile: true, but no {name} is here; install gcc and python3-dev, or make it false"
            )

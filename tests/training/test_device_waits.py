"""In a step on a GPU the host never waits for it.

The GPU is imagined: torch's fake tensors have shapes and devices, but no values, so this runs anywhere. To read a value
off such a device raises, and copies that block are caught. Only the backward pass needs a real one.
"""

from copy import deepcopy
from typing import Any

import pytest
import torch
from conftest import ROOT
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nepa.bench.workload import Workload, on_noise
from nepa.parameters.recipes import recipe_parameters
from nepa.parameters.schema import Stage
from nepa.training.hooks import Averaging

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
GPU = torch.device("cuda", 0)
IMAGES = 2


class BlockingCopies(TorchDispatchMode):
    """Collects what copies between host and device and waits for it; an operand that is a number is no copy."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: tuple = (), options: Any = None) -> Any:
        options = options or {}
        result = operation(*arguments, **options)
        taken, given = ([x for x in tree_leaves(of) if isinstance(x, Tensor)] for of in (arguments, result))
        between = {x.device.type for x in taken if x.ndim or operation in COPIES} | {x.device.type for x in given}
        if taken and len(between) > 1 and not options.get("non_blocking"):
            self.found.append(str(operation))
        return result


def imagined_on_a_gpu(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            imagined = torch.empty(weight.shape, device=GPU)
            setattr(module, name, nn.Parameter(imagined, requires_grad=weight.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU))
    return model


def workload(stage: Stage, **settings: str) -> Workload:
    """A small model of the released code's recipe, RoPE's rescaling included, two images a step."""
    parameters = recipe_parameters("imagenet-base-code")
    model = parameters.model.model_copy(update={"width": 32, "depth": 2, "heads": 2})
    segment = parameters.segment.model_copy(update={"blocks": [0, 0, 1, 1], "crop": 112, "decoder_channels": 8})
    parameters = parameters.model_copy(update={"model": model, "segment": segment})
    return on_noise(parameters, stage, IMAGES).with_settings(batch_size=IMAGES, **settings)


@pytest.mark.filterwarnings("ignore:CUDA is not available")  # there is no autocast without one
@pytest.mark.parametrize(
    ("stage", "settings"),
    [("pretrain", {}), ("finetune", {}), ("finetune", {"pool": "last_token"}), ("segment", {})],
)
def test_a_step_waits_for_nothing(stage: Stage, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    here = workload(stage, **settings)
    task = here.task()
    samples = next(here.batches(task))
    average = deepcopy(task.model)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        imagined_on_a_gpu(task.model).train()
        imagined_on_a_gpu(average)
        task.model.data_preprocessor._device = GPU
        optimizer = task.optimizer(task.model, task.backbone, here.settings)
        with BlockingCopies() as copies, optimizer.optim_context(task.model):
            batch = task.model.data_preprocessor(samples, training=True)
            task.model.parse_losses(task.model(**batch, mode="loss"))
        assert copies.found == []
        averaging = Averaging(average, task.model, decay=0.9)
        with BlockingCopies() as copies:
            for parameter in optimizer.names:
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
            averaging.after_train_iter(None, 1)
        assert copies.found == []

"""The processes of one training: one on a laptop, one per GPU elsewhere, joined by torchrun.

Every batch is shared among them, so the batch, the learning rate and the order of the images follow from the recipe
alone. Without torchrun there is one process, and everything here is trivial.
"""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import all_reduce, get_world_size
from torch import nn
from torch.optim import Optimizer

from nepa.errors import UserError

TIMEOUT = timedelta(minutes=10)  # of a process that waits for the others


def started_by_torchrun() -> bool:
    """This process is one of torchrun's."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def first_process() -> bool:
    """This process is torchrun's first, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def join_processes() -> None:
    """Join the other processes of this training, where torchrun has started several."""
    if not started_by_torchrun() or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # What decides on stops and checkpoints goes over the CPU, so that no GPU is waited for.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)


def leave_processes() -> None:
    """Part from the other processes, which do so too: where this one has failed they don't, and NCCL would wait."""
    if dist.is_initialized():
        dist.destroy_process_group()


def passes_per_step(batch_size: int, images_per_pass: int | None, together: int = 1) -> int:
    """Forward passes into which one process divides its share of a batch: as few as `images_per_pass` allows.

    Args:
        together: every pass has a multiple of this many images.

    Raises:
        UserError: the batch cannot be shared equally.
    """
    processes = get_world_size()
    if batch_size % (processes * together):
        raise UserError(
            f"batch_size {batch_size} cannot be shared by {processes} processes"
            f"{f' in multiples of {together}' if together > 1 else ''}; let execution's nodes x gpus divide it"
        )
    if images_per_pass is not None and images_per_pass < together:
        raise UserError(f"images_per_pass {images_per_pass} must be at least {together} here")
    units = batch_size // processes // together
    least = 1 if images_per_pass is None else -(-units // (images_per_pass // together))
    return next(passes for passes in range(least, units + 1) if units % passes == 0)


def agree(value: int) -> int:
    """The largest of all processes' values."""
    tensor = torch.tensor(value)
    all_reduce(tensor, "max")
    return int(tensor)


def full_state(model: nn.Module, optimizer: Optimizer | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """State of a model and of its optimizer, by the parameters' names, whole however they are distributed.

    On the main process alone, on the CPU, where there are several.
    """
    # Not needed by most runs, and slow to import.
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        get_optimizer_state_dict,
    )

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    return weights, None if optimizer is None else get_optimizer_state_dict(model, optimizer, options=options)


def load_state(
    weights: dict[str, Any], state: dict[str, Any] | None, model: nn.Module, optimizer: Optimizer | None
) -> None:
    """Undo `full_state`, for any number of processes; each gives the whole state."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, weights, options=options)
    if optimizer is not None:
        set_optimizer_state_dict(model, optimizer, state, options=options)

"""AdamW with layer-wise learning rates, and the schedule that sets them at every step."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from mmengine.optim import OptimWrapper, _ParamScheduler
from timm.models import group_parameters
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from nepa.parameters.schema import Precision

Group = dict[str, Any]
Layers = Literal["reference", "mmsegmentation", "one"]


def parameter_groups(
    model: nn.Module,
    backbone: nn.Module,
    weight_decay: float,
    layers: Layers = "reference",
    head_learning_rate: float | None = None,
) -> list[Group]:
    """Trainable parameters by distance from the head and by whether they decay.

    Args:
        model: what is trained; its parameters outside the backbone have distance 0.
        backbone: a timm model inside it.
        weight_decay: of all but biases, norms and LayerScale (reference code); with MMSegmentation's layers
            not of tokens and position embeddings either, as its recipes mean it.
        layers: how distances are counted. `reference`: from the last block, which has 0, to tokens, positions and patch
            embedding, which have the number of blocks; norms after the blocks have 0 (reference code).
            `mmsegmentation`: the last block has 1, and so on. `one`: all have 0, in fewer groups.
        head_learning_rate: of head and final norm (reference code); None: as the rest.

    Returns:
        Groups with `distance` and `weight_decay`, nearest to the head first.
    """
    position = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    nearest = len(backbone.blocks) if layers == "reference" else len(backbone.blocks) + 1
    spared = backbone.no_weight_decay() if layers == "mmsegmentation" else ()
    of_backbone = {id(p): name for name, p in backbone.named_parameters()}
    groups: dict[tuple[int, bool, bool], Group] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = of_backbone.get(id(parameter), "head.")
        # timm counts the final norm to the last block, and the classifier's norm to the head.
        at_head = inner.startswith(("head.", "norm."))
        distance = 0 if at_head or layers == "one" else max(0, nearest - position[inner])
        decays = parameter.ndim > 1 and inner not in spared
        own_rate = {"lr": head_learning_rate} if at_head and head_learning_rate is not None else {}
        settings = {"distance": distance, "weight_decay": weight_decay if decays else 0.0} | own_rate
        group = groups.setdefault((distance, decays, bool(own_rate)), {"params": [], "names": []} | settings)
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


class Diverged(Exception):
    """Training met a loss or a gradient that is not finite."""


class ClippedOptimizer(OptimWrapper):
    """Runs the forward pass in the chosen precision and clips the gradient's norm.

    A gradient that is not finite, as that of a loss that is not, never reaches the weights. On a CPU it raises at once;
    a GPU would have to be waited for, so there this step and all later ones leave the weights as they are until someone
    looks.

    Args:
        passes: forward and backward passes whose gradients make up one step.

    Attributes:
        gradient_norm: of the last step, before clipping: a tensor () on the device.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, max_norm: float, precision: Precision, passes: int) -> None:
        super().__init__(optimizer, accumulative_counts=passes)
        self.precision = precision
        groups = optimizer.param_groups
        self.names = {p: name for group in groups for name, p in zip(group["names"], group["params"], strict=True)}
        self.max_norm = max_norm
        self.gradient_norm = torch.tensor(math.nan)
        self._loss = torch.tensor(math.nan)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The forward pass, in the chosen precision."""
        device = next(model.parameters()).device.type
        if hasattr(model, "set_requires_gradient_sync"):  # FSDP2's; for DDP MMEngine does the same
            model.set_requires_gradient_sync(self.should_sync())
        with (
            super().optim_context(model),
            torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16"),
        ):
            yield

    def update_params(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        self._loss = loss.detach()
        super().update_params(loss, *arguments, **options)

    def step(self, **options: Any) -> None:
        """Clip, then step.

        Raises:
            Diverged: the norm of the gradient is not finite.
        """
        trained = [parameter for parameter in self.names if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in trained])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.gradient_norm = norm
        if norm.device.type == "cpu":
            if not norm.isfinite():
                raise Diverged(self._where(trained))
            clip = bool(norm > self.max_norm)  # what is within it torch would multiply by 1
        else:
            clip = not math.isinf(self.max_norm)
            # torch's fused AdamW skips its update while this is 1; it reads float32, whatever the weights are.
            skip, before = (~norm.isfinite()).float(), getattr(self.optimizer, "found_inf", None)
            self.optimizer.found_inf = skip if before is None else torch.maximum(skip, before)
        if clip:
            torch.nn.utils.clip_grads_with_norm_(trained, self.max_norm, norm)
        super().step(**options)

    def zero_grad(self, **options: Any) -> None:
        """Drop the gradients, as torch's own does in several times the time."""
        for parameter in self.names:
            parameter.grad = None

    def _where(self, trained: list[nn.Parameter]) -> str:
        if not self._loss.isfinite():
            return f"loss is {self._loss.item()}"
        first = next((self.names[p] for p in trained if not p.grad.isfinite().all()), "none: the sum overflows")
        return f"gradient norm is {self.gradient_norm.item()}; first in the gradient of {first}"


def build_optimizer(
    groups: list[Group],
    *,
    learning_rate: float,
    betas: list[float],
    clip_gradient: float,
    precision: Precision = "float32",
    passes: int = 1,
) -> ClippedOptimizer:
    """AdamW in one fused kernel, with the gradient's norm clipped.

    Args:
        groups: as `parameter_groups` makes them; a group with an `lr` of its own keeps it.
        passes: forward and backward passes of one step.
    """
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(betas[0], betas[1]), fused=True)
    return ClippedOptimizer(optimizer, clip_gradient, precision, passes)


def cosine_with_warmup(step: int, steps: int, warmup: int) -> float:
    """Factor of the peak learning rate: linear from 0 over `warmup` steps, then half a cosine to 0."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def polynomial_with_warmup(step: int, steps: int, warmup: int) -> float:
    """Factor of the peak learning rate: linear from 1e-6 over `warmup` steps, then linear to 0 (MMSegmentation's recipe
    for MAE: power 1)."""
    if step < warmup:
        return 1e-6 + (1 - 1e-6) * step / warmup
    return 1 - (step - warmup) / (steps - warmup)


class LayerwiseSchedule(_ParamScheduler):
    """Learning rate of each group at each step: peak x shape(step) x decay(step) ** distance.

    timm writes `lr_scale` into its groups, which only timm's schedulers read; here the optimizer holds the real rates.

    Args:
        optimizer: its groups carry `distance`.
        steps: of the whole training.
        warmup: steps of warm-up.
        shape: (step, steps, warmup) -> factor.
        decay: layer-wise decay at the start.
        decay_end: at the end (paper: 1.0); None keeps it fixed (reference code's default).
        ramp: how the decay gets there: `linear` (paper's text) or `cosine` (reference code).
        layer_warmup: warm each group up for warmup x (1 - decay ** distance) steps, one at least (reference code).
    """

    def __init__(
        self,
        optimizer: OptimWrapper,
        *,
        steps: int,
        warmup: int,
        shape: Callable[[int, int, int], float] = cosine_with_warmup,
        decay: float = 1.0,
        decay_end: float | None = None,
        ramp: Literal["linear", "cosine"] = "linear",
        layer_warmup: bool = False,
    ) -> None:
        self.steps = steps
        self.warmup = warmup
        self.shape = shape
        self.decay = decay
        self.decay_end = decay if decay_end is None else decay_end
        self.ramp = ramp
        self.layer_warmup = layer_warmup
        super().__init__(optimizer, "lr", by_epoch=False)

    def go_to(self, step: int) -> None:
        """Hold the rates of a step, of which the ones before were taken by another process."""
        self.last_step = step
        for group, rate in zip(self.optimizer.param_groups, self._get_value(), strict=True):
            group["lr"] = rate

    def _get_value(self) -> list[float]:
        # The scheduler steps once more after the last iteration.
        step = min(self.last_step, self.steps)
        progress = step / self.steps
        if self.ramp == "cosine":
            progress = 0.5 * (1 - math.cos(math.pi * progress))
        decay = self.decay + (self.decay_end - self.decay) * progress
        return [
            base * self._factor(step, decay ** group.get("distance", 0))  # MMEngine appends a group of defaults
            for base, group in zip(self.base_values, self.optimizer.param_groups, strict=True)
        ]

    def _factor(self, step: int, scale: float) -> float:
        warmup = max(1, round(self.warmup * (1 - scale))) if self.layer_warmup else self.warmup
        return scale * self.shape(step, self.steps, warmup)

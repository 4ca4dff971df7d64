"""Whether the baseline computes what ours does: checked before anything is timed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from nepa.bench.baseline import Baseline, packed
from nepa.bench.workload import SEED, Workload
from nepa.data.stream import set_random_state
from nepa.training.task import Task

STEPS = 3
IMAGES = 8  # of a step, at most
TOLERANCE = 1e-6  # 1e-4 would not tell a weight decay of .05 from one of .06
COMPILED = 1e-4  # what is compiled computes some functions by other series
# Share of the whole gradient's norm below which a tensor's own is rounding and nothing else, such as that of a bias
# before a batch norm; AdamW moves such a weight by whole steps in either direction.
ROUNDING = 1e-7


class Disagreement(Exception):
    """Ours and the baseline do not train the same model in the same way: a comparison would mean nothing."""


@dataclass
class Course:
    """A few steps from the same start on the same batches.

    Attributes:
        losses: one per step.
        gradients: of the last step, clipped, as the optimizer took them.
        weights, average: after the last step.
    """

    losses: list[float] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)


def check_agreement(workload: Workload) -> float:
    """Train both for a few steps on a few images; returns the largest relative difference.

    In float64: in float32 it takes a single activation so near to zero that rounding decides which side of a ReLU it
    is on, and a gradient of a few images differs by a hundredth.

    Raises:
        Disagreement: loss, gradient, weights or their average differ by more than the tolerance.
    """
    tolerance = COMPILED if workload.execution.compile else TOLERANCE
    few = min(IMAGES, workload.settings.batch_size)
    workload = workload.with_settings(batch_size=few, precision="float32")
    ours, theirs = _ours(workload), _baseline(workload)
    differences = {
        f"loss of step {step}": abs(mine - its) / max(1.0, abs(its))
        for step, (mine, its) in enumerate(zip(ours.losses, theirs.losses, strict=True))
    }
    if ours.gradients.keys() != theirs.gradients.keys():
        raise Disagreement(f"{workload.stage}: only one trains {sorted(ours.gradients.keys() ^ theirs.gradients)}")
    whole = nn.utils.get_total_norm(theirs.gradients.values())
    for name, gradient in theirs.gradients.items():
        if max(gradient.norm(), ours.gradients[name].norm()) > ROUNDING * whole:
            for what in ("gradients", "weights", "average"):
                mine, its = getattr(ours, what)[name], getattr(theirs, what)[name]
                differences[f"{what} of {name}"] = ((mine - its).norm() / its.norm()).item()
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= tolerance:
        raise Disagreement(f"{workload.stage}: {worst} differs by {differences[worst]:.2g}, more than {tolerance:g}")
    return differences[worst]


def _ours(workload: Workload) -> Course:
    course, task = Course(), _in_float64(workload.task())

    def remember(model: nn.Module) -> dict[str, float]:
        course.weights = _copies(model)
        return {}

    with _taken_gradients(course.gradients):
        training = workload.train(task, STEPS, 1, remember)
    course.losses = [row["loss"] for row in training.history]
    course.average = _copies(task.model)
    return course


def _baseline(workload: Workload) -> Course:
    course, task = Course(), _in_float64(workload.task())
    batches = workload.batches(task)
    baseline = Baseline(workload.parameters, task, STEPS)
    with _taken_gradients(course.gradients):
        for step, batch in enumerate(islice(batches, STEPS)):
            set_random_state(SEED, 1, step)  # mixup, drop path and dropout draw what ours drew
            course.losses.append(baseline.step(batch)[0])
    course.gradients = packed(course.gradients)
    course.weights = packed(_copies(baseline.model))
    course.average = packed(_copies(baseline.kept))
    return course


def _in_float64(task: Task) -> Task:
    def cast(_: nn.Module, arguments: tuple, named: dict) -> tuple[tuple, dict]:
        return arguments, {
            name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in named.items()
        }

    task.model.double().register_forward_pre_hook(cast, with_kwargs=True)
    return task


@contextmanager
def _taken_gradients(gradients: dict[str, Tensor]) -> Iterator[None]:
    """Keeps in `gradients` what any optimizer whose groups have `names` last took."""

    def take(optimizer: Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for name, parameter in zip(group.get("names", ()), group["params"], strict=False):
                if parameter.grad is not None:
                    gradients[name] = parameter.grad.detach().clone()

    handle = register_optimizer_step_pre_hook(take)
    try:
        yield
    finally:
        handle.remove()


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

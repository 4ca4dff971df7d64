"""The one training loop: averaged weights, divergence, the same digits twice, what is recorded."""

import logging
import math
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from nepa.data.datasets import ArrayDataset
from nepa.training.engine import Training, build_dataloader, run_training
from nepa.training.optimizer import LayerwiseSchedule, build_optimizer

DECAY = 0.9


class Regression(BaseModel):
    """A linear model; at call `poison` its loss, or only its gradient, is not finite."""

    def __init__(self, poison: int = -1, gradient: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.poison = poison
        self.gradient = gradient
        self.seen: list[Tensor] = []
        self.weights: list[Tensor] = []

    def forward(self, images: Tensor, labels: Tensor, mode: str = "loss") -> dict[str, Tensor]:
        self.seen.append(labels)
        self.weights.append(self.layer.weight.detach().clone())
        loss = (self.layer(images).squeeze(1) - labels).square().mean()
        if len(self.seen) - 1 == self.poison:
            # The root's derivative at 0 is infinite, its value is not.
            loss = loss + (self.layer.bias * 0).sqrt().sum() if self.gradient else loss / 0
        return {"loss": loss}


def train(folder: Path, model: Regression, steps: int = 7, seed: int = 0, **options: object) -> Training:
    generator = torch.Generator().manual_seed(5)
    dataset = ArrayDataset(torch.randn(24, 4, generator=generator), torch.randn(24, generator=generator))
    names, parameters = zip(*model.named_parameters(), strict=True)
    group = {"params": list(parameters), "names": list(names), "distance": 0}
    optimizer = build_optimizer([group], learning_rate=0.1, betas=[0.9, 0.95], clip_gradient=1.0)
    return run_training(
        model,
        build_dataloader(dataset, 8, seed),
        optimizer,
        LayerwiseSchedule(optimizer, steps=steps, warmup=1),
        title="regression",
        steps=steps,
        ema_decay=DECAY,
        seed=seed,
        folder=folder,
        record_every=3,
        **options,
    )


def test_the_model_ends_with_the_average_of_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Regression()
    last: list[Tensor] = []
    training = train(tmp_path, model, measure=lambda m: last.append(m.layer.weight.detach().clone()) or {})
    # Weights after each step: those that the next forward pass saw, and what the last record saw.
    after = [*model.weights[1:], last[-1]]
    average = after[0]  # MMEngine's average starts as a copy at its first update
    for weights in after[1:]:
        average = DECAY * average + (1 - DECAY) * weights
    torch.testing.assert_close(model.layer.weight.detach(), average)
    assert (training.status, training.steps, training.images) == ("ok", 7, 56)


def test_history_holds_means_of_intervals(tmp_path: Path) -> None:
    training = train(tmp_path, Regression(), measure=lambda _: {"extra": 1.5})
    assert training.history["step"].tolist() == [3, 6, 7]
    assert training.history["extra"].tolist() == [1.5] * 3
    assert training.history["learning_rate"].iloc[0] == pytest.approx(
        0.05 * (1 + math.cos(math.pi / 6))
    )  # as the third step had it
    assert (training.history["gradient_norm"] > 0).all()


def test_two_runs_of_a_seed_give_the_same_digits(tmp_path: Path) -> None:
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        model = Regression()
        training = train(tmp_path, model, seed=seed)
        results.append((training.history.to_csv(), model.layer.weight.tolist()))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_order_depends_on_the_seed_alone(tmp_path: Path) -> None:
    first, second, other = Regression(), Regression(), Regression()
    train(tmp_path, first, seed=1)
    torch.manual_seed(99)  # what a variant drew before must not matter
    train(tmp_path, second, seed=1)
    train(tmp_path, other, seed=2)
    assert torch.equal(torch.cat(first.seen), torch.cat(second.seen))
    assert not torch.equal(torch.cat(first.seen), torch.cat(other.seen))
    # An epoch is 24 images: each is seen once.
    assert len(torch.cat(first.seen)[:24].unique()) == 24


@pytest.mark.parametrize(
    ("gradient", "where"), [(False, "loss is inf"), (True, "gradient norm is nan; first in the gradient of layer.bias")]
)
def test_what_is_not_finite_stops_the_run_and_says_where(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, gradient: bool, where: str
) -> None:
    model = Regression(poison=4, gradient=gradient)
    with caplog.at_level(logging.ERROR, "nepa"):
        training = train(tmp_path, model)
    assert training.status == "diverged"
    assert training.steps == 4  # the finite ones
    assert f"regression: stopped at step 5 of 7: {where}" in caplog.text
    assert model.layer.weight.isfinite().all()


def test_progress_shows_step_loss_rate_and_time_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nepa"):
        train(tmp_path, Regression())
    assert caplog.messages[-1].startswith("regression  step 7/7  loss ")
    for part in ("lr ", "images/s", "0:00 left"):
        assert part in caplog.messages[-1]


def test_weights_are_taken_as_they_come(tmp_path: Path) -> None:
    model = Regression()
    nn.init.constant_(model.layer.weight, 0.25)
    train(tmp_path, model, steps=2)
    assert (model.weights[0] == 0.25).all()

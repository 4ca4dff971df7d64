"""The one training loop: averaged weights, divergence, the same digits twice, what is recorded."""

import copy
import gc
import logging
import math
from multiprocessing import active_children
from pathlib import Path

import psutil
import pytest
import torch
from conftest import Write
from torch import Tensor
from torch.utils.data import DataLoader

from nepa.data.datasets import ArrayDataset
from nepa.data.preprocessing import Preprocessing
from nepa.model.backbone import build_backbone
from nepa.objective.next_embedding import NextEmbeddingPrediction
from nepa.parameters import Parameters, load_parameters
from nepa.stages.pretrain import Pretraining
from nepa.training.engine import Training, run_training
from nepa.training.hooks import Averaging
from nepa.training.task import Task, peak_learning_rate

DECAY = 0.9


@pytest.fixture
def parameters(write_parameters: Write) -> Parameters:
    return load_parameters(write_parameters(**{"pretrain.batch_size": 8, "pretrain.ema_decay": DECAY}))


class Watched(Pretraining):
    """Remembers the batches that it saw and the weights that it had; at call `poison` its loss, or only its gradient,
    is not finite."""

    def __init__(self, parameters: Parameters, poison: int = -1, gradient: bool = False) -> None:
        super().__init__(NextEmbeddingPrediction(build_backbone(parameters)), Preprocessing(parameters.data))
        self.objective.backbone.fc_norm.requires_grad_(False)
        self.poison = poison
        self.gradient = gradient
        self.seen: list[Tensor] = []
        self.weights: list[Tensor] = []

    @property
    def weight(self) -> Tensor:
        return self.objective.backbone.patch_embed.proj.weight.detach()

    def forward(self, images: Tensor, labels: Tensor | None = None, mode: str = "loss") -> dict[str, Tensor]:
        self.seen.append(labels)
        self.weights.append(self.weight.clone())
        loss = super().forward(images, labels, mode)["loss"]
        if len(self.seen) - 1 == self.poison:
            # The root's derivative at 0 is infinite, its value is not.
            token = self.objective.backbone.cls_token
            loss = loss + (token * 0).sqrt().sum() if self.gradient else loss / 0
        return {"loss": loss}


def train(
    folder: Path, parameters: Parameters, model: Watched, steps: int = 7, seed: int = 0, **options: object
) -> Training:
    generator = torch.Generator().manual_seed(5)
    dataset = ArrayDataset(torch.randn(24, 1, 8, 8, generator=generator), torch.arange(24))
    return run_training(
        parameters,
        Task("pretrain", model, model.objective.backbone, {"warmup": 1}),
        dataset,
        title="watched",
        scratch=folder,
        identity="0123456789abcdef",
        steps=steps,
        seed=seed,
        record_every=3,
        **options,
    )


def test_the_model_ends_with_the_average_of_its_weights(tmp_path: Path, parameters: Parameters) -> None:
    model = Watched(parameters)
    last: list[Tensor] = []
    training = train(tmp_path, parameters, model, measure=lambda m: last.append(m.weight.clone()) or {})
    # Weights after each step: those that the next forward pass saw, and what the last record saw.
    after = [*model.weights[1:], last[-1]]
    average = after[0]  # torch's average starts as a copy at its first update
    for weights in after[1:]:
        average = DECAY * average + (1 - DECAY) * weights
    torch.testing.assert_close(model.weight, average)
    assert (training.status, training.steps, training.images) == ("ok", 7, 56)


def test_history_holds_means_of_intervals(tmp_path: Path, parameters: Parameters) -> None:
    training = train(tmp_path, parameters, Watched(parameters), measure=lambda _: {"extra": 1.5})
    assert [row["step"] for row in training.history] == [3, 6, 7]
    assert [row["extra"] for row in training.history] == [1.5] * 3
    assert training.history[0]["learning_rate"] == pytest.approx(
        peak_learning_rate(parameters.pretrain) / 2 * (1 + math.cos(math.pi / 6))
    )  # as the third step had it
    assert all(row["gradient_norm"] > 0 for row in training.history)


def test_two_runs_of_a_seed_give_the_same_digits(tmp_path: Path, parameters: Parameters) -> None:
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        model = Watched(parameters)
        training = train(tmp_path, parameters, model, seed=seed)
        results.append((training.history, model.weight.tolist()))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_order_depends_on_the_seed_alone(tmp_path: Path, parameters: Parameters) -> None:
    first, second, other = Watched(parameters), Watched(parameters), Watched(parameters)
    train(tmp_path, parameters, first, seed=1)
    torch.manual_seed(99)  # what a variant drew before must not matter
    train(tmp_path, parameters, second, seed=1)
    train(tmp_path, parameters, other, seed=2)
    assert torch.equal(torch.cat(first.seen), torch.cat(second.seen))
    assert not torch.equal(torch.cat(first.seen), torch.cat(other.seen))
    # An epoch is 24 images: each is seen once.
    assert len(torch.cat(first.seen)[:24].unique()) == 24


@pytest.mark.parametrize(
    ("gradient", "where"),
    [(False, "loss is -inf"), (True, "gradient norm is nan; first in the gradient of objective.backbone.cls_token")],
)
def test_what_is_not_finite_stops_the_run_and_says_where(
    tmp_path: Path, parameters: Parameters, caplog: pytest.LogCaptureFixture, gradient: bool, where: str
) -> None:
    model = Watched(parameters, poison=4, gradient=gradient)
    with caplog.at_level(logging.ERROR, "nepa"):
        training = train(tmp_path, parameters, model)
    assert training.status == "diverged"
    assert training.steps == 4  # the finite ones
    assert f"watched: stopped at step 5 of 7: {where}" in caplog.text
    assert model.weight.isfinite().all()


def test_progress_shows_step_loss_rate_and_time_left(
    tmp_path: Path, parameters: Parameters, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "nepa"):
        training = train(tmp_path, parameters, Watched(parameters))
    assert caplog.messages[-1].startswith("watched  step 7/7  loss ")
    # The rate that the step was taken with, as in the history.
    for part in (f"lr {training.history[-1]['learning_rate']:.2e} ", "images/s", "0:00 left"):
        assert part in caplog.messages[-1]


def test_weights_are_taken_as_they_come(tmp_path: Path, parameters: Parameters) -> None:
    model = Watched(parameters)
    torch.nn.init.constant_(model.objective.backbone.patch_embed.proj.weight, 0.25)
    train(tmp_path, parameters, model, steps=2)
    assert (model.weights[0] == 0.25).all()


def test_workers_start_to_read_once(tmp_path: Path, parameters: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    started, iterate = [], DataLoader.__iter__
    monkeypatch.setattr(DataLoader, "__iter__", lambda loader: started.append(loader) or iterate(loader))
    train(tmp_path, parameters, Watched(parameters))
    assert len(started) == 1


@pytest.mark.parametrize(("poison", "status"), [(-1, "ok"), (4, "diverged")])
def test_workers_end_with_their_training(tmp_path: Path, write_parameters: Write, poison: int, status: str) -> None:
    """At once, and not when the garbage collector finds their loader, which then waits for each of them in vain."""
    raw = {"pretrain.batch_size": 8, "execution.pretrain.workers": 2}
    parameters = load_parameters(write_parameters(**raw))
    gc.collect()  # what other tests have left
    gc.disable()
    try:
        training = train(tmp_path, parameters, Watched(parameters, poison))
        assert training.status == status and not active_children()
    finally:
        gc.enable()


def test_the_average_has_the_statistics_of_batch_norm() -> None:
    """They are an average already."""
    trained = torch.nn.BatchNorm1d(3)
    averaged = copy.deepcopy(trained)
    averaging = Averaging(averaged, trained, decay=0.9)
    for step in range(2):
        trained(torch.randn(8, 3) + 5)
        averaging.after_train_iter(None, step)
        assert averaged.running_mean.equal(trained.running_mean) and averaged.running_mean.any()


def test_no_training_leaves_a_file_open(tmp_path: Path, parameters: Parameters) -> None:
    train(tmp_path / "first", parameters, Watched(parameters))
    before = psutil.Process().num_fds()
    train(tmp_path / "second", parameters, Watched(parameters))
    assert psutil.Process().num_fds() <= before

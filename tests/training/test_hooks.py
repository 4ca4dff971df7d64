"""The progress line, by a clock that the test sets."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nepa.training.hooks import Progress
from nepa.training.status import Status, read_status


def test_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("nepa.training.hooks.time.monotonic", lambda: clock.now)
    runner = SimpleNamespace(
        iter=10,
        max_iters=100,
        optim_wrapper=SimpleNamespace(optimizer=SimpleNamespace(param_groups=[{"lr": 1e-3}, {"lr": 2e-3}])),
    )
    progress = Progress(Status(tmp_path, "pretrain full seed 0"), batch_size=32, seconds=5.0)
    progress.before_train(runner)  # resumed at step 10
    with caplog.at_level(logging.INFO, "nepa"):
        for step in range(11, 21):  # two seconds each
            clock.now += 2
            progress.after_train_iter(runner, step - 1, outputs={"loss": torch.tensor(-0.5)})
    assert caplog.messages == [
        f"pretrain full seed 0  step {step}/100  loss -0.5000  lr 2.00e-03  16 images/s  {left} left"
        for step, left in ((13, "2:54"), (16, "2:48"), (19, "2:42"))
    ]
    status = read_status(tmp_path / "status.json")
    assert (status["state"], status["step"], status["seconds_left"]) == ("running", 19, 162)

"""Curves to watch while a training runs: `tensorboard --logdir runs`, and DVCLive's files for DVC's own views.

They lie in the run's scratch folder; the history that a stage writes at its end is the result.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from nepa.training.hooks import History

Write = Callable[[int, dict[str, float]], None]


class Curves(Hook):
    """Hands every row of the history to what is watched.

    A run that goes on writes all rows anew: a killed process may have left some that its last checkpoint does not know.

    Args:
        watch: `tensorboard`, `dvclive`.
    """

    def __init__(self, history: History, folder: Path, watch: list[str]) -> None:
        self.history = history
        self.shown = 0
        shutil.rmtree(folder, ignore_errors=True)
        make = {"tensorboard": _tensorboard, "dvclive": _dvclive}
        self.writers = [make[name](folder / name) for name in watch]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        for row in self.history.rows[self.shown :]:
            values = {name: value for name, value in row.items() if name != "step"}
            for write in self.writers:
                write(int(row["step"]), values)
        self.shown = len(self.history.rows)


def _tensorboard(folder: Path) -> Write:
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    writer = SummaryWriter(str(folder), flush_secs=10)

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return write


def _dvclive(folder: Path) -> Write:
    from dvclive import Live  # slow to import

    # Neither an experiment nor a dvc.yaml of its own: the ledger is the stages'.
    live = Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None, monitor_system=False)

    def write(step: int, values: dict[str, float]) -> None:
        live.step = step
        for name, value in values.items():
            live.log_metric(name, value)
        live.make_summary()

    return write

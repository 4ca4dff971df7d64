"""What the stages wrote below results/runs, as tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from nepa.errors import UserError
from nepa.files import read_json
from nepa.parameters import Parameters
from nepa.parameters.declared import declared_runs
from nepa.runs.outcome import Outcome
from nepa.runs.paths import RESULTS, RUN_FOLDERS, RunName, RunPaths

AGAIN = {
    "absent": "bring it back with git, or run its stage again",
    "damaged": "bring it back with git, or delete its folder and run its stage again",
}


@dataclass(frozen=True)
class Run:
    """One run of one stage, as it stands in its folder; what of it cannot be read ends in a UserError that names it."""

    recipe: str
    stage: str
    variant: str
    seed: int
    folder: Path
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def further(self) -> bool:
        """Of the further ablations."""
        return self.folder.is_relative_to(RESULTS["further"])

    @property
    def status(self) -> Outcome:
        """How it ended."""
        return self.metrics["status"]

    def samples(self) -> dict[str, np.ndarray]:
        """What it kept for the pictures."""
        path = self.folder / "samples.npz"
        with _whole(path), np.load(path) as file:
            return {name: file[name] for name in file.files}

    def history(self) -> pd.DataFrame:
        """Curves of the training, one row per recorded interval."""
        path = self.folder / "history.csv"
        with _whole(path):
            return pd.read_csv(path)


def collect_runs(parameters: Parameters) -> list[Run]:
    """Every finished run, in a fixed order; of the recipe in place only those that params.yaml declares.

    Raises:
        UserError: a file of a run is missing or truncated.
    """
    # Their folders: a run lay elsewhere before its variant became, or ceased to be, a further ablation.
    folders = {RunPaths.of(parameters, *run).results for run in declared_runs(parameters)}
    runs = []
    for metrics in [path for root in RESULTS.values() for path in root.glob(f"{RUN_FOLDERS}/metrics.json")]:
        folder = metrics.parent
        name = RunName.of(folder)
        if name.recipe != parameters.recipe or folder in folders:
            runs.append(Run(*name, folder, read_json(metrics, **AGAIN), read_json(folder / "run.json", **AGAIN)))
    return sorted(runs, key=lambda run: (run.recipe, run.stage, run.variant, run.seed))


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} not found; {AGAIN['absent']}") from None
    except (ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); {AGAIN['damaged']}") from None

"""What a run leaves: its weights, and beside them and below results/ its metrics, history and provenance."""

import csv
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from nepa.files import write_arrays, write_atomically, write_json
from nepa.model.description import Description, describe_run
from nepa.model.weights import write_weights
from nepa.parameters import Parameters
from nepa.runs.paths import RunPaths
from nepa.runs.provenance import provenance
from nepa.runs.start import refuse_changes
from nepa.training.engine import Training
from nepa.training.hooks import History
from nepa.training.status import STATUS_FILE


def write_run(
    parameters: Parameters,
    paths: RunPaths,
    training: Training,
    *,
    data: str,
    start: Description | None,
    file: str,
    weights: dict[str, Tensor],
    metrics: dict[str, Any],
    measured: Sequence[str] = (),
    samples: dict[str, np.ndarray] | None = None,
    names: Sequence[str] = (),
    colours: Sequence[tuple[int, int, int]] | None = None,
) -> None:
    """Write all of it, the metrics last but for copies, then delete what was kept to go on from.

    The copies go beside the weights: DVC pushes what it caches, and the results themselves are git's.

    Args:
        data: checksum of the data that was read.
        start: what the weights that it started from say of themselves.
        file: name of the weights' file.
        metrics: `status` and what the stage has measured; loss, steps and images are added here.
        measured: what the history holds besides loss, learning rate and gradient norm.
        samples: for the report's pictures.
        names, colours: of the classes.

    Raises:
        UserError: parameters or sources were edited while it ran.
    """
    refuse_changes(parameters, paths)
    description = describe_run(parameters, paths, metrics["status"], start, names, colours)
    write_weights(paths.checkpoints / file, weights, description.content())
    if samples is not None:
        write_arrays(paths.results / "samples.npz", samples)
    with write_atomically(paths.results / "history.csv") as beside, beside.open("w", newline="") as table:
        writer = csv.DictWriter(table, [*History.COLUMNS, *measured], lineterminator="\n")
        writer.writeheader()
        writer.writerows(training.history)
    write_json(paths.results / "run.json", provenance(parameters, paths, data, training))
    trained = {"loss": training.loss, "steps": training.steps, "images": training.images}
    write_json(paths.results / "metrics.json", metrics | trained)
    for result in paths.results.glob("[!.]*"):  # not what a killed run left half-written
        with write_atomically(paths.checkpoints / result.name) as beside:
            shutil.copyfile(result, beside)
    if training.folder is not None:
        shutil.rmtree(training.folder, ignore_errors=True)
        (paths.scratch / STATUS_FILE).unlink(missing_ok=True)

"""The share of an epoch that training spends waiting for data."""

from nepa.bench.rows import Row
from nepa.bench.stage_data import prepared_dataset
from nepa.bench.workload import Workload
from nepa.parameters import Parameters
from nepa.parameters.schema import Stage

MOST = 500  # steps


def measure_waiting(parameters: Parameters, stage: Stage) -> Row:
    """Train for an epoch on the prepared data, or for `MOST` steps of it.

    Raises:
        NotMeasured: nothing is prepared.
    """
    dataset = prepared_dataset(parameters, stage)
    workload = Workload(parameters, stage, dataset)
    steps = min(MOST, max(2, len(dataset) // workload.settings.batch_size))
    training = workload.train(workload.task(), steps, steps, lambda _: {})
    return {
        "stage": stage,
        "batch_size": workload.settings.batch_size,
        "workers": workload.execution.workers,
        "steps": steps,
        "share": training.waiting,
    }

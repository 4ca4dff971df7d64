"""How long a stage's process takes to its first step, and how long both engines take to find nothing to do.

Run as a module, with a stage as its argument and parameters on its standard input, it is the process that is measured;
so it imports nothing slow itself.
"""

import json
import os
import subprocess
import sys
import time
from statistics import median

from nepa.bench.rows import NotMeasured, Row
from nepa.command_line import import_command
from nepa.parameters import Parameters
from nepa.parameters.schema import Stage
from nepa.runs.clock import process_seconds

REPETITIONS = 3
ENGINES = ("dvc repro", "snakemake --cores all all")


def measure_start(parameters: Parameters, stage: Stage) -> Row:
    """Seconds from the start of a stage's process until its imports are done and until its first step is.

    On random pixels, so that no data is read; medians of several repetitions. The process shares a GPU with this one.

    Args:
        parameters: as `on_this_machine` makes them.

    Raises:
        NotMeasured: it failed.
    """
    threads = str(parameters.threads)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command, given = [sys.executable, "-m", __name__, stage], parameters.model_dump_json()
    found = []
    for _ in range(REPETITIONS):
        process = subprocess.run(command, input=given, env=environment, capture_output=True, text=True)
        if process.returncode:
            last = process.stderr.strip().rpartition("\n")[2]
            raise NotMeasured(f"the stage's process ended with {process.returncode}: {last}")
        found.append(json.loads(process.stdout))
    medians = {key: median(times[key] for times in found) for key in found[0]}
    return {
        "stage": stage,
        "compiled": getattr(parameters.execution, stage).compile,
        "repetitions": REPETITIONS,
    } | medians


def measure_idle_engines() -> list[Row]:
    """Seconds that each engine takes to find nothing to do, in turn: medians.

    Raises:
        NotMeasured: there is something to do.
    """
    module = [sys.executable, "-m"]  # the environment may not be active
    if subprocess.run([*module, "dvc", "status", "--quiet"], capture_output=True).returncode:
        raise NotMeasured("some stage is out of date here; run `dvc repro` before")
    seconds: dict[str, list[float]] = {command: [] for command in ENGINES}
    for _ in range(REPETITIONS):
        for command in ENGINES:
            started = time.perf_counter()
            subprocess.run([*module, *command.split()], capture_output=True, check=True)
            seconds[command].append(time.perf_counter() - started)
    return [
        {"command": command, "repetitions": REPETITIONS, "seconds": median(taken)} for command, taken in seconds.items()
    ]


def _first_step(stage: Stage) -> dict[str, float]:
    parameters = Parameters.model_validate_json(sys.stdin.read())
    import_command(f"stages.{stage}")
    imported = process_seconds()
    from nepa.bench.workload import on_noise

    workload = on_noise(parameters, stage, getattr(parameters, stage).batch_size)
    ends: list[float] = []
    workload.train(workload.task(), 1, 1, lambda _: ends.append(process_seconds()) or {})
    return {"import_seconds": imported, "first_step_seconds": ends[0]}


if __name__ == "__main__":
    print(json.dumps(_first_step(sys.argv[1])))

"""`nepa bench`: how fast this machine trains a recipe, against what the reference does."""

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from nepa.bench.measurements import MEASUREMENTS, Bench
from nepa.bench.results import describe, results_folder
from nepa.command_line import import_command
from nepa.errors import UserError
from nepa.files import write_json
from nepa.parameters import Parameters
from nepa.parameters.declared import variants_of
from nepa.parameters.schema import Stage
from nepa.runs.provenance import circumstances

log = logging.getLogger("nepa.bench")


def run(
    parameters: Parameters,
    *,
    what: list[str],
    stages: list[Stage],
    batch_size: int | None,
    seconds: float,
    images: Path | None,
    output: Path | None,
    command: str,
) -> None:
    """Measure, print tables, and write each to a file in the machine's folder; the growth is drawn beside it.

    Args:
        what: of `MEASUREMENTS`.
        stages: of those that train; left out where the recipe has no variant of them.
        batch_size: images of a step; None for a device's share of the recipe's batch, as far as it fits.
        seconds: that a comparison should take.
        images: where JPEGs lie that the loaders are to read.
        output: folder; default one below results/bench with the machine's and the recipe's name.
        command: that asked for it.
    """
    trained = tuple(stage for stage in stages if variants_of(parameters, stage))
    if not trained:
        raise UserError(f"bench: {parameters.recipe} has no variant of {' or '.join(stages)}; name others by --stages")
    for stage in trained:  # what is measured is of the code whose checksum is kept
        import_command(f"stages.{stage}")
    with TemporaryDirectory() as scratch:
        _measure(Bench(parameters, trained, batch_size, seconds, Path(scratch), images), what, output, command)


def _measure(bench: Bench, what: list[str], output: Path | None, command: str) -> None:
    parameters, threads = bench.parameters, bench.of_stage("pretrain", 1).threads
    for name in what:
        log.info(f"bench: {name} of {parameters.recipe} ...")
        machine = {"cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()[0]}
        rows = []
        for row in MEASUREMENTS[name](bench):
            rows.append(row)  # and written at once, since the next may fail after long
            facts = circumstances(threads)
            folder = output or results_folder(facts["hardware"], parameters.recipe)
            content = {"what": name, "recipe": parameters.recipe, "command": command} | facts | machine | {"rows": rows}
            write_json(folder / f"{name}.json", content)
        print(describe(f"{name}, {parameters.recipe}", rows), end="\n\n", flush=True)
        if name == "growth":
            from nepa.bench.growth_figure import draw_growth  # with the report's style, which imports DVC

            draw_growth(rows, f"One pretraining step, {facts['hardware']}, threads: {facts['threads']}", folder)
        log.info(f"bench: written to {folder}")

"""Stage `report`. In: results/runs, results/further_ablations, recipes. Out: results/{report.md,table.csv,figures}."""

from pathlib import Path

from nepa.errors import UserError
from nepa.parameters import Parameters
from nepa.report.collect import collect_runs
from nepa.report.document import write_document
from nepa.report.figures import draw_figures
from nepa.report.table import build_table
from nepa.training.checkpoints import write_atomically

RESULTS = Path("results")


def run(parameters: Parameters) -> None:
    """Write the table, the figures and the report; equal runs give equal files.

    Raises:
        UserError: nothing has run, or a run's file is missing or truncated.
    """
    runs = collect_runs(parameters)
    if not runs:
        raise UserError("results/runs holds no finished run; run `dvc repro`, or `dvc checkout` what has run")
    table = build_table(parameters, runs)
    with write_atomically(RESULTS / "figures") as folder:
        figures = {
            recipe: [f"figures/{recipe}/{name}" for name in draw_figures(group, folder / recipe)]
            for recipe in sorted({run.recipe for run in runs})
            if (group := [run for run in runs if run.recipe == recipe and not run.further])
        }
    with write_atomically(RESULTS / "table.csv") as beside:
        table.to_csv(beside, index=False, float_format="%.6g", lineterminator="\n")
    with write_atomically(RESULTS / "report.md") as beside:
        beside.write_text(write_document(parameters, runs, table, figures))

"""Stage `report`.

In: results/runs, results/further_ablations, recipes, and dvc.lock for what is up to date.
Out: results/{report.md,report.html,table.csv,figures}.
"""

from pathlib import Path

from nepa.errors import UserError
from nepa.files import write_atomically
from nepa.parameters import Parameters
from nepa.report.collect import collect_runs
from nepa.report.document import write_document
from nepa.report.figures import draw_figures
from nepa.report.page import write_page
from nepa.report.table import build_table
from nepa.workflow.ledger import read_ledger

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
    ledger = read_ledger()
    figures = {}
    with write_atomically(RESULTS / "figures") as folder:
        for recipe in sorted({run.recipe for run in runs} | {parameters.recipe}):
            mine = [run for run in runs if run.recipe == recipe]
            drawn = draw_figures(mine, folder / recipe, ledger if recipe == parameters.recipe else [])
            figures[recipe] = {name: f"figures/{recipe}/{name}.png" for name in drawn}
        document = write_document(parameters, runs, table, figures)  # whose errors come before anything is replaced
    with write_atomically(RESULTS / "table.csv") as beside:
        table.to_csv(beside, index=False, float_format="%.6g", lineterminator="\n")
    with write_atomically(RESULTS / "report.md") as beside:
        beside.write_text(document)
    with write_atomically(RESULTS / "report.html") as beside:
        beside.write_text(write_page(document, RESULTS))

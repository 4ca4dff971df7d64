"""The report's pictures, from the histories and samples that the stages wrote."""

from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from nepa.report.collect import Run
from nepa.report.figures.ablations import draw_ablations
from nepa.report.figures.confusion import draw_confusion
from nepa.report.figures.cost import draw_cost
from nepa.report.figures.curves import draw_curves
from nepa.report.figures.seeds import draw_seeds
from nepa.report.figures.segmentations import draw_segmentations
from nepa.report.figures.stages import draw_stages
from nepa.report.figures.style import PIXELS_PER_INCH, STYLE
from nepa.report.figures.triplets import draw_triplets
from nepa.workflow.ledger import StageGroup

# Each takes the runs of one recipe, and draws nothing where they lack what it shows.
FIGURES = {
    "curves": draw_curves,
    "ablations": draw_ablations,
    "triplets": lambda runs: draw_triplets([run for run in runs if not run.further]),
    "triplets_further": lambda runs: draw_triplets([run for run in runs if run.further]),
    "seeds": draw_seeds,
    "confusion": draw_confusion,
    "segmentations": draw_segmentations,
    "cost": draw_cost,
}
# Images, a colour bar, and dots that lie over dots.
IN_ALL_COLOURS = {"triplets", "triplets_further", "segmentations", "confusion", "seeds"}


def draw_figures(runs: list[Run], folder: Path, ledger: list[StageGroup]) -> list[str]:
    """Draw what one recipe's runs allow into `folder`; returns the names of the pictures, without their ending.

    Args:
        ledger: the stages of the recipe in place; empty for another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        drawn = {name: draw(runs) for name, draw in FIGURES.items()} | {"stages": draw_stages(ledger)}
        figures = {name: figure for name, figure in drawn.items() if figure is not None}
        for name, figure in figures.items():
            save_figure(figure, folder / f"{name}.png", all_colours=name in IN_ALL_COLOURS)
    return list(figures)


def save_figure(figure: Figure, path: Path, all_colours: bool = False) -> None:
    """Write a PNG that is the same file wherever the figure is the same; in 256 colours unless it needs more."""
    drawn = BytesIO()
    figure.savefig(drawn, dpi=PIXELS_PER_INCH)
    with Image.open(drawn) as picture:
        kept = picture.convert("RGB")
        # Lines lose nothing in 256 colours, and take a third of the space.
        kept = kept if all_colours else kept.quantize(dither=Image.Dither.NONE)
        kept.save(path, "PNG", optimize=True)  # no date and no version inside: equal results are equal files

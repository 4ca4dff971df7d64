"""Scenes, their truth and what each variant predicts."""

import re

import numpy as np
from matplotlib.artist import setp
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nepa.report.collect import Run
from nepa.report.figures.style import WIDTH, first_runs, with_samples

LEGEND_UP_TO = 20  # classes, those of most pixels: more would be no legend


def broken(title: str, room: int) -> str:
    """A variant and its seed in lines of at most `room` letters, which end at a comma or an underscore."""
    lines = [""]
    for part in re.findall(r"[^_ ]+[_ ]?", title):
        if lines[-1] and len(lines[-1] + part) > room:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def draw_segmentations(runs: list[Run]) -> Figure | None:
    """The first scenes that were evaluated, where the truth has a label; each variant's first seed that is sound."""
    chosen = first_runs(with_samples(runs), "segment")
    samples = {f"{variant}, seed {run.seed}": run.samples() for variant, run in chosen.items()}
    if not samples:
        return None
    shown = next(iter(samples.values()))
    rows, classes = sum(name.startswith("image_") for name in shown), len(shown["names"])
    truths = [shown[f"truth_{row}"] for row in range(rows)]
    maps = {"truth": truths}
    maps |= {title: [arrays[f"prediction_{row}"] for row in range(rows)] for title, arrays in samples.items()}
    side = WIDTH / (len(maps) + 1)
    height = side * sum(truth.shape[0] / truth.shape[1] for truth in truths)
    figure = Figure((WIDTH, height + 1.2), layout="constrained")
    grid = figure.subplots(rows, len(maps) + 1, squeeze=False)
    palette = ListedColormap(shown["colours"] / 255)
    for panel in grid.flat:
        panel.set(xticks=[], yticks=[], facecolor="0.93")
        panel.spines[:].set_visible(False)
    grid[0, 0].set_title("scene")
    for row in range(rows):
        grid[row, 0].imshow(shown[f"image_{row}"], cmap="gray", vmin=0, vmax=255)
    for column, (title, pictures) in enumerate(maps.items(), start=1):
        room = int(side * 72 / 5.5)  # letters, of some 5.5 points
        grid[0, column].set_title(broken(title, room))
        for row, picture in enumerate(pictures):
            scored = np.ma.array(picture, mask=truths[row] >= classes)
            grid[row, column].imshow(scored, cmap=palette, vmin=-0.5, vmax=classes - 0.5, interpolation="nearest")
    labelled = [
        picture[truth < classes] for pictures in maps.values() for picture, truth in zip(pictures, truths, strict=True)
    ]
    pixels = np.concatenate(labelled)
    most = np.argsort(-np.bincount(pixels, minlength=classes), kind="stable")[:LEGEND_UP_TO]
    handles = [
        Patch(facecolor=palette(index), edgecolor="0.4", label=str(shown["names"][index]))
        for index in sorted(most)
        if index in pixels
    ]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=5)
    setp(legend.get_texts(), parse_math=False)  # a name is no formula
    return figure

"""The picture of docs/architecture.md, flow.png beside this file: the objective, and what the stages hand on.

Run as `python docs/figures/flow.py`.
"""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from nepa.preparation.digits import read_digits
from nepa.report.figures.style import PIXELS_PER_INCH, STYLE, VARIANTS, WIDTH

TARGET = Path(__file__).with_suffix(".png")
HEIGHT = 7.4
DIGIT = 5
LEFT, STEP, SIDE = 2.62, 0.78, 0.4  # the tokens' columns, in inches
TOKENS = ("BOS", "$z_1$", "$z_2$", "$z_3$", "…", "$z_{16}$")
PREDICTED = (r"$\hat z_1$", r"$\hat z_2$", r"$\hat z_3$", r"$\hat z_4$", "…", "not\nused")
EMBEDDINGS = ("$z_1$", "$z_2$", "$z_3$", "$z_4$", "…")
# One colour per patch: light enough for black text, apart in lightness too.
PATCHES = {"1": "#56B4E9", "2": "#F0C25A", "3": "#B9DFD0", "4": "#E3B3CF", "16": "#DDDDDD"}
GRID = VARIANTS["full"][0]
FROZEN = VARIANTS["no_stop_gradient"][0]
FACES = {"data": "#F2F2F2", "training": "#CFE6F5", "report": "#FCE7C0"}
GREY = "0.35"
# Every stage of dvc.yaml: its column and height in inches, its kind, and what it hands on.
STAGES: dict[str, tuple[float, float, str, str]] = {
    "check": (0.9, 2.55, "data", "params.yaml is valid"),
    "prepare_images": (0.9, 1.6, "data", "arrays or shards,\nmanifest.json"),
    "prepare_scenes": (0.9, 0.65, "data", "ADE20K's layout,\nmanifest.json"),
    "pretrain": (3.12, 1.6, "training", "backbone.safetensors"),
    "finetune": (5.34, 2.55, "training", "classifier.safetensors"),
    "finetune_variants": (5.34, 1.6, "training", "classifier.safetensors"),
    "segment": (5.34, 0.65, "training", "segmentor.safetensors"),
    "report": (7.6, 1.6, "report", "report.md, report.html,\ntable.csv, figures"),
}
BETWEEN = (
    ("check", "prepare_images"), ("prepare_images", "prepare_scenes"), ("prepare_images", "pretrain"),
    ("prepare_scenes", "segment"), ("pretrain", "finetune"), ("pretrain", "finetune_variants"), ("pretrain", "segment"),
    ("finetune", "report"), ("finetune_variants", "report"), ("segment", "report"),
)  # fmt: skip
NOTES = {  # inches above the middle of a stage
    "pretrain": (0.6, "each training: for every\nvariant and every seed"),
    "report": (-0.85, "from every training:\nmetrics.json, history.csv,\nrun.json (and samples)"),
}
BOX = (1.6, 0.7)


def write(path: Path) -> None:
    """Draw the whole picture, in axes whose unit is an inch."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, HEIGHT))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
        axes.set_axis_off()
        _draw_objective(axes)
        _draw_stages(axes)
        figure.savefig(path, dpi=PIXELS_PER_INCH, metadata={"Software": None})


def _draw_objective(axes: Axes) -> None:
    rows = {"patches": 3.85, "embedding": 4.42, "inputs": 5.0, "vit": 5.62, "outputs": 6.24, "targets": 6.92}
    _text(axes, 0.1, HEIGHT - 0.12, "The objective", size=12, weight="bold", ha="left", va="top")
    columns = [LEFT + STEP * number for number in range(len(TOKENS))]
    middle, width = (columns[0] + columns[-1]) / 2, columns[-1] - columns[0] + 0.66
    pixels = read_digits().pixels[DIGIT, ..., 0]
    _draw_image(axes, pixels, 0.64, rows["patches"] + 0.4)
    _arrow(axes, (1.24, rows["patches"]), (1.98, rows["patches"]))
    patches = [pixels[2 * (n // 4) :, 2 * (n % 4) :][:2, :2] for n in range(16)]
    shown = dict(zip(columns[1:], (0, 1, 2, None, 15), strict=True))
    for x, number in shown.items():
        if number is None:
            _text(axes, x, rows["patches"], "…")
            continue
        _draw_pixels(axes, patches[number], (x - SIDE / 2, rows["patches"] - SIDE / 2), SIDE)
        _arrow(axes, (x, rows["patches"] + SIDE / 2), (x, rows["embedding"] - 0.17))
        _arrow(axes, (x, rows["embedding"] + 0.17), (x, rows["inputs"] - SIDE / 2))
    embedding = (columns[1] + columns[-1]) / 2
    _box(axes, embedding, rows["embedding"], columns[-1] - columns[1] + 0.66, 0.3, "white")
    _text(axes, embedding, rows["embedding"], "patch embedding (convolution)")
    _box(axes, middle, rows["vit"], width, 0.42, FACES["training"])
    _text(axes, middle, rows["vit"], "causal ViT: each token sees itself and those before it")
    for x, token, predicted in zip(columns, TOKENS, PREDICTED, strict=True):
        _token(axes, x, rows["inputs"], token, dashed=False)
        _token(axes, x, rows["outputs"], predicted, dashed=True)
        if "…" not in token:
            _arrow(axes, (x, rows["inputs"] + SIDE / 2), (x, rows["vit"] - 0.23))
            _arrow(axes, (x, rows["vit"] + 0.23), (x, rows["outputs"] - SIDE / 2))
    for x, token in zip(columns, EMBEDDINGS, strict=False):
        _token(axes, x, rows["targets"], token, dashed=False)
        if "…" not in token:
            ends = (x, rows["outputs"] + SIDE / 2), (x, rows["targets"] - SIDE / 2)
            _arrow(axes, *ends, style="<|-|>", color="black")
    # The targets' way around the ViT.
    way, style = columns[-1] + 1.0, {"color": FROZEN, "linewidth": 1.6, "linestyle": (0, (4, 2))}
    axes.plot([columns[-1] + 0.24, way, way], [rows["inputs"], rows["inputs"], rows["targets"]], **style)
    axes.plot([way, columns[-1]], [rows["targets"], rows["targets"]], **style)
    _arrow(axes, (columns[-1], rows["targets"]), (columns[-2] + 0.24, rows["targets"]), color=FROZEN)
    _box(axes, way, rows["vit"], 1.0, 0.42, "white", edge=FROZEN)
    _text(axes, way, rows["vit"], "stop-\ngradient", color=FROZEN, weight="bold")
    labels = {
        "patches": "16 patches of\n$2\\times 2$ pixels", "inputs": "their embeddings,\nafter a learned BOS",
        "outputs": "predicted next\nembeddings", "targets": "real embeddings",
    }  # fmt: skip
    for row, label in labels.items():
        _text(axes, 2.28 if row != "patches" else 2.98, rows[row], label, ha="right", color="0.2")
    between = (rows["outputs"] + rows["targets"]) / 2
    _text(axes, 2.28, between, "loss: mean of $-$cosine", ha="right", weight="bold")


def _draw_stages(axes: Axes) -> None:
    axes.plot([0.1, WIDTH - 0.1], [3.42, 3.42], color="0.75", linewidth=0.8)
    _text(axes, 0.1, 3.3, "The stages, and what each hands on", size=12, weight="bold", ha="left", va="top")
    for before, after in BETWEEN:
        (x0, y0, *_), (x1, y1, *_) = STAGES[before], STAGES[after]
        if x0 == x1:
            _arrow(axes, (x0, y0 - BOX[1] / 2), (x1, y1 + BOX[1] / 2))
        else:
            _arrow(axes, (x0 + BOX[0] / 2, y0), (x1 - BOX[0] / 2, y1))
    for name, (x, y, kind, handed) in STAGES.items():
        _box(axes, x, y, *BOX, FACES[kind])
        _text(axes, x, y + 0.19, name, weight="bold")
        _text(axes, x, y - 0.1, handed, size=9)
    for name, (above, note) in NOTES.items():
        _text(axes, STAGES[name][0], STAGES[name][1] + above, note, size=9, color="0.2")


def _draw_image(axes: Axes, pixels: np.ndarray, x: float, y: float) -> None:
    side = 1.04
    corner = (x - side / 2, y - side / 2)
    _draw_pixels(axes, pixels, corner, side)
    for number in range(1, 4):
        at = number * side / 4
        axes.plot([corner[0] + at] * 2, [corner[1], corner[1] + side], color=GRID, linewidth=1.4)
        axes.plot([corner[0], corner[0] + side], [corner[1] + at] * 2, color=GRID, linewidth=1.4)
    _text(axes, corner[0], corner[1] + side + 0.13, "image", ha="left", color="0.2")


def _draw_pixels(axes: Axes, pixels: np.ndarray, corner: tuple[float, float], side: float) -> None:
    extent = (corner[0], corner[0] + side, corner[1], corner[1] + side)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto", zorder=1)


def _token(axes: Axes, x: float, y: float, label: str, *, dashed: bool) -> None:
    if label == "…":
        _text(axes, x, y, label)
        return
    number = "".join(c for c in label if c.isdigit())
    face = PATCHES.get(number, "white")
    edge = "0.6" if label.startswith("not") else "black"
    _box(axes, x, y, SIDE, SIDE, face, edge=edge, linestyle=(0, (2, 1.4)) if dashed else "-")
    _text(axes, x, y, label, size=8.5 if label.startswith(("BOS", "not")) else 11)


def _box(axes: Axes, x: float, y: float, width: float, height: float, face: str, edge: str = GREY, **more: Any) -> None:
    style = {"boxstyle": "round,pad=0,rounding_size=0.06", "facecolor": face, "edgecolor": edge, "zorder": 2}
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, **style | more))


def _text(axes: Axes, x: float, y: float, text: str, *, size: float = 9.5, **more: Any) -> None:
    axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": size, "zorder": 3, "linespacing": 1.25} | more)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "-|>", color: str = GREY
) -> None:
    arrow = {"arrowstyle": style, "mutation_scale": 9, "shrinkA": 1, "shrinkB": 1, "color": color, "linewidth": 1.0}
    axes.add_patch(FancyArrowPatch(start, end, **arrow))


if __name__ == "__main__":
    write(TARGET)

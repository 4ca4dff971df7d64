"""A segmentation for the eye: the image under its classes' colours, with a legend; and for programs: a label map."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import setp
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from nepa.files import write_atomically

OPACITY = 0.55
LONGEST = 9.0  # inches, of the image's longer side


def write_overlay(
    image: Image.Image, labels: np.ndarray, names: list[str], colours: Sequence[Sequence[int]], path: Path
) -> None:
    """Draw an image beneath its segmentation, and beside it a legend of the classes that occur, by share.

    Args:
        labels: each pixel's class (H, W), counted from 0.
        colours: of the classes, RGB.
    """
    present = shares(labels)
    blended = OPACITY * np.array(colours)[labels] + (1 - OPACITY) * np.asarray(image.convert("RGB"))
    height, width = (LONGEST * side / max(labels.shape) for side in labels.shape)
    figure = Figure(figsize=(width + 3, max(height, 0.3 * len(present))), layout="constrained")
    axes = figure.subplots()
    axes.imshow(blended.round().astype(np.uint8), interpolation="nearest")
    axes.set_axis_off()
    axes.set_anchor("W")
    labelled = {c: f"{names[c]} {share:.1%}" for c, share in present.items()}
    handles = [Patch(color=np.array(colours[c]) / 255, label=label) for c, label in labelled.items()]
    legend = axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=12)
    setp(legend.get_texts(), parse_math=False)  # a name is no formula
    with write_atomically(path) as beside:
        figure.savefig(beside, format="png", dpi=100)


def write_label_map(labels: np.ndarray, colours: Sequence[Sequence[int]], path: Path) -> None:
    """Write a PNG with a palette, as ADE20K's annotations count: 0 is no class, 1 the first."""
    picture = Image.fromarray(labels + 1)
    picture.putpalette([0, 0, 0, *np.array(colours, np.uint8).flatten().tolist()])
    with write_atomically(path) as beside:
        picture.save(beside, format="PNG")


def shares(labels: np.ndarray) -> dict[int, float]:
    """The classes that occur, each with its part of the pixels, the largest first."""
    counts = np.bincount(labels.flatten())
    return {int(c): float(counts[c] / labels.size) for c in np.argsort(-counts, kind="stable") if counts[c]}

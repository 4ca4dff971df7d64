"""Prepared segmentation scenes: where they lie, their classes and colours."""

from pathlib import Path

from nepa.parameters import Parameters

CLASSES = tuple(f"digit {digit}" for digit in range(10))
# Ten colours that a colour-blind reader can tell by lightness too (Tol's muted scheme).
PALETTE = (
    (51, 34, 136),
    (136, 204, 238),
    (68, 170, 153),
    (17, 119, 51),
    (153, 153, 51),
    (221, 204, 119),
    (204, 102, 119),
    (136, 34, 85),
    (170, 68, 153),
    (102, 102, 102),
)
SPLITS = ("training", "validation")  # ADE20K's names


def scenes_folder(parameters: Parameters) -> Path:
    """Where the recipe's scenes lie."""
    return Path("data") / parameters.recipe / "scenes"

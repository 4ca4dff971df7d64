"""Prepared segmentation scenes in ADE20K's folder layout: where they lie, their classes and colours.

`images/{training,validation}/NAME` and `annotations/{training,validation}/NAME.png`; in an annotation 0 is unlabelled
(neither trained on nor scored), 1 the first class. `classes.json` holds the classes' names and colours.
"""

import colorsys
from dataclasses import dataclass
from pathlib import Path

from nepa.files import read_json
from nepa.parameters import Parameters

# Ten colours that a colour-blind reader can tell by lightness too (Tol's muted scheme).
FEW_COLOURS = (
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


@dataclass(frozen=True)
class Classes:
    """Names and RGB colours, in the order of the annotations' values from 1."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    @classmethod
    def with_colours(cls, names: tuple[str, ...]) -> "Classes":
        """Classes whose source has no colours: the ten above, or hues as far apart as may be."""
        if len(names) <= len(FEW_COLOURS):
            return cls(names, FEW_COLOURS[: len(names)])
        hues = [
            colorsys.hsv_to_rgb(0.618 * i % 1, 0.85 - 0.3 * (i % 2), 0.55 + 0.2 * (i % 3)) for i in range(len(names))
        ]
        return cls(names, tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues))

    @classmethod
    def read(cls, folder: Path) -> "Classes":
        """Those of a prepared folder.

        Raises:
            UserError: classes.json is missing or no JSON.
        """
        content = read_json(
            folder / "classes.json",
            absent="run `nepa prepare scenes` first, or `dvc pull` it",
            damaged=f"delete {folder} and run `nepa prepare scenes`",
        )
        return cls(tuple(content["names"]), tuple(map(tuple, content["colours"])))

    def as_dict(self) -> dict[str, list]:
        """The content of classes.json."""
        return {"names": list(self.names), "colours": [list(colour) for colour in self.colours]}


def scenes_folder(parameters: Parameters) -> Path:
    """Where the recipe's scenes lie."""
    return Path("data") / parameters.recipe / "scenes"

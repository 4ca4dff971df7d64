"""Segmentation scenes composed of the prepared digits, in ADE20K's folder layout.

`images/{training,validation}/NNNN.png` and `annotations/...` of the same names; in an annotation 0 is unlabelled (all
but the digits' ink: neither trained on nor scored), 1 to 10 the digits 0 to 9. Training scenes hold training digits,
validation scenes the digits of `data.evaluate_on`, so that no digit is seen in both.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from nepa.data.images import Images, load_images
from nepa.data.scenes import SPLITS, Classes
from nepa.parameters import Parameters
from nepa.parameters.schema import ComposedScenes


def compose_scene(
    digits: Images, scenes: ComposedScenes, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One scene of digits whose boxes do not overlap, as many of those drawn as there is room for.

    Returns:
        image (canvas, canvas) uint8 and annotation (canvas, canvas) uint8.
    """
    side, canvas = digits.pixels.shape[1], scenes.canvas
    count = generator.integers(scenes.digits_per_scene[0], scenes.digits_per_scene[1] + 1)
    image = np.zeros((canvas, canvas), np.uint8)
    annotation = np.zeros((canvas, canvas), np.uint8)
    taken = np.zeros((canvas, canvas), bool)
    for index in generator.choice(len(digits.labels), count, replace=False):
        for _attempt in range(50):
            top, left = generator.integers(0, canvas - side + 1, 2)
            box = np.s_[top : top + side, left : left + side]
            if not taken[box].any():
                break
        else:
            continue  # no room left: a scene of fewer digits
        pixels = digits.pixels[index, ..., 0]
        taken[box] = True
        image[box] = pixels
        annotation[box][pixels > scenes.ink_above] = digits.labels[index] + 1
    return image, annotation


def write_scenes(parameters: Parameters, folder: Path) -> Classes:
    """Write both splits' scenes below `folder` and return the classes; the same parameters give the same bytes."""
    scenes = parameters.scenes
    sources = ("training", parameters.data.evaluate_on)
    for number, (split, source) in enumerate(zip(SPLITS, sources, strict=True)):
        digits = load_images(parameters, source)
        generator = np.random.default_rng([scenes.seed, number])
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(getattr(scenes, split)):
            image, annotation = compose_scene(digits, scenes, generator)
            Image.fromarray(image).save(folder / "images" / split / f"{index:04d}.png")
            Image.fromarray(annotation).save(folder / "annotations" / split / f"{index:04d}.png")
    return Classes.with_colours(tuple(f"digit {digit}" for digit in range(10)))

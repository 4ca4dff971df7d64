"""Scenes in ADE20K's layout, composed of digits that only one split sees."""

from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from nepa.data.images import load_images
from nepa.data.scenes import Classes, scenes_folder
from nepa.parameters import load_parameters
from nepa.preparation.scenes import compose_scene, write_scenes


def read(folder: Path, kind: str, split: str) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted((folder / kind / split).glob("*.png"))]


def test_layout_of_ade20k(project: Path) -> None:
    folder = scenes_folder(load_parameters())
    for split, count in (("training", 8), ("validation", 3)):
        images, annotations = (read(folder, kind, split) for kind in ("images", "annotations"))
        assert len(images) == len(annotations) == count
        for image, annotation in zip(images, annotations, strict=True):
            assert image.shape == annotation.shape == (32, 32)
            assert set(np.unique(annotation)) <= set(range(len(Classes.read(folder).names) + 1))
            assert (image[annotation > 0] > 80).all()  # a label only where there is ink


@pytest.mark.parametrize(
    ("split", "source", "never"), [("training", "training", "test"), ("validation", "test", "training")]
)
def test_every_digit_comes_from_its_own_split(project: Path, split: str, source: str, never: str) -> None:
    parameters = load_parameters()
    digits, others = (load_images(parameters, name) for name in (source, never))
    known = {pixels.tobytes(): label for pixels, label in zip(digits.pixels[..., 0], digits.labels, strict=True)}
    foreign = {pixels.tobytes() for pixels in others.pixels[..., 0]}
    folder = scenes_folder(parameters)
    for image, annotation in zip(read(folder, "images", split), read(folder, "annotations", split), strict=True):
        found = 0
        for box, labels in zip(
            sliding_window_view(image, (8, 8)).reshape(-1, 8, 8),
            sliding_window_view(annotation, (8, 8)).reshape(-1, 8, 8),
            strict=True,
        ):
            key = np.ascontiguousarray(box).tobytes()
            assert key not in foreign
            if key in known:
                found += 1
                assert set(labels[box > 80]) == {known[key] + 1}
        assert found >= 3  # digits_per_scene


def test_the_same_seed_gives_the_same_bytes(project: Path, tmp_path: Path) -> None:
    write_scenes(load_parameters(), tmp_path / "again")
    folder = scenes_folder(load_parameters())
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    assert len(files) == 22
    assert all((folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)


def test_a_full_canvas_takes_fewer_digits(project: Path) -> None:
    parameters = load_parameters()
    crowded = parameters.scenes.model_copy(update={"canvas": 9, "digits_per_scene": [5, 5]})
    image, annotation = compose_scene(load_images(parameters, "test"), crowded, np.random.default_rng(0))
    assert image.shape == (9, 9)
    assert len(np.unique(annotation)) == 2  # unlabelled, and the one digit that fits

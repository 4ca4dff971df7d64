"""What stages train and evaluate on: batches, their order, and the random state that looking must not touch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nepa.data.datasets import evaluation_batches, first_images, training_dataset, training_labels
from nepa.data.transforms import evaluation_transform, training_transform
from nepa.parameters import load_parameters
from nepa.parameters.schema import Augmentation, ImageFolder

FOLDER = ImageFolder(
    source="image_folder", path="nowhere", image_size=28, channels=3, classes=3, mean=0.5, std=0.5, split_seed=0,
    training_images=1, validation_images=1, unreadable_allowed=0, evaluate_on="validation", stored_size=None,
    stored_quality=95, images_per_shard=1, workers=0, crop_share=0.875,
)  # fmt: skip


def augmentation(**changes: object) -> Augmentation:
    return Augmentation(
        **{
            "crop_scale": [1.0, 1.0], "interpolation": "bilinear", "flip": 0.0, "rand_augment": None,
            "random_erasing": 0.0,
        } | changes
    )  # fmt: skip


def test_the_digits_are_taken_in_their_order(project: Path) -> None:
    parameters = load_parameters()
    batches = list(evaluation_batches(parameters, "test"))
    assert [len(batch["labels"]) for batch in batches] == [512, 288]
    assert torch.equal(torch.cat([batch["images"] for batch in batches])[:300], first_images(parameters, "test", 300))
    chosen = np.array([5, 3, 8])
    few = training_dataset(parameters, None, chosen)
    assert few.labels.tolist() == training_labels(parameters)[chosen].tolist()


def test_looking_draws_nothing(project: Path) -> None:
    before = torch.get_rng_state()
    first_images(load_parameters(), "validation", 10)
    assert torch.equal(torch.get_rng_state(), before)


def gradient() -> Image.Image:
    """Wide and dark on the left."""
    return Image.fromarray(np.tile(np.linspace(0, 255, 120, dtype=np.uint8)[None, :, None], (60, 1, 3)))


def test_evaluation_crops_the_centre() -> None:
    tensor = evaluation_transform(FOLDER)(gradient())
    assert tensor.shape == (3, 28, 28) and tensor.dtype == torch.float32
    assert tensor.mean().abs() < 0.02 and tensor.min() > -0.6 and tensor.max() < 0.6


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"crop_scale": [0.05, 0.05]}, lambda t: t.max() - t.min() < 0.6),
        ({"flip": 1.0}, lambda t: t[0, 0, 0] > t[0, 0, -1]),
        ({"random_erasing": 1.0}, lambda t: not torch.equal(t[0], t[1])),
        ({"rand_augment": "rand-m9-mstd0.5-inc1"}, lambda t: not torch.equal(t, plain())),
    ],
)
def test_every_augmentation_does_something(changes: dict, told: object) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    assert told(training_transform(FOLDER, augmentation(**changes))(gradient()))
    assert not told(plain())


def plain() -> torch.Tensor:
    return training_transform(FOLDER, augmentation())(Image.fromarray(np.asarray(gradient())[:, 30:90]))

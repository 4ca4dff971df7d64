"""Augmentation and evaluation: every part of it does something, and the crops and pixels are the reference's."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from nepa.bench.fidelity import evaluation_error, training_error
from nepa.data.normalisation import normalised
from nepa.data.preprocessing import Preprocessing
from nepa.data.stream import set_random_state
from nepa.data.transforms import EvaluationTransform, TrainingTransform, draw_crop
from nepa.parameters.schema import Augmentation, ImageFolder

FOLDER = ImageFolder(
    source="image_folder", image_size=28, channels=3, classes=3, mean=0.5, std=0.5, split_seed=0,
    training_images=1, validation_images=1, unreadable_allowed=0, evaluate_on="validation", stored_size=None,
    stored_quality=95, stored_chroma=420, images_per_shard=1, decode="cpu", crop_share=0.875,
)  # fmt: skip


def augmentation(**changes: object) -> Augmentation:
    return Augmentation(
        **{
            "crop_scale": [1.0, 1.0], "interpolation": "bilinear", "flip": 0.0, "rand_augment": None,
            "random_erasing": 0.0,
        } | changes
    )  # fmt: skip


def gradient() -> Tensor:
    """Wide and dark on the left."""
    return torch.linspace(0, 255, 120).byte().expand(3, 60, 120)


def shown(image: Tensor) -> Tensor:
    """As a model sees it: (3, H, W) float32."""
    return Preprocessing(FOLDER)({"images": image[None]})["images"][0]


def plain() -> Tensor:
    return TrainingTransform(FOLDER, augmentation())(gradient()[..., 30:90])


def test_evaluation_crops_the_centre() -> None:
    tensor = normalised(EvaluationTransform(FOLDER)(gradient()), FOLDER)
    assert tensor.shape == (3, 28, 28) and tensor.dtype == torch.float32
    assert tensor.mean().abs() < 0.02 and tensor.min() > -0.6 and tensor.max() < 0.6


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"crop_scale": [0.05, 0.05]}, lambda t: t.max() - t.min() < 0.6),
        ({"flip": 1.0}, lambda t: t[0, 0, 0] > t[0, 0, -1]),
        ({"random_erasing": 1.0}, lambda t: not torch.equal(t[0], t[1])),
        ({"rand_augment": "rand-m9-mstd0.5-inc1"}, lambda t: not torch.equal(t, shown(plain()))),
    ],
)
def test_every_augmentation_does_something(changes: dict, told: Callable[[Tensor], bool]) -> None:
    set_random_state(0)
    assert told(shown(TrainingTransform(FOLDER, augmentation(**changes))(gradient())))
    assert not told(shown(plain()))


def test_what_is_erased_becomes_noise_and_the_rest_stays() -> None:
    erased = TrainingTransform(FOLDER, augmentation(random_erasing=0.5))
    values, shares = [], []
    for number in range(400):
        set_random_state(number)
        image = erased(gradient()[..., 30:90])
        pixels = shown(image)
        gone = (image[3] == 0).expand(3, -1, -1)
        assert torch.equal(pixels[~gone], shown(plain())[~gone])
        values.append(pixels[gone])
        shares.append(gone.float().mean().item())
    noise = torch.cat(values)
    assert noise.mean().abs() < 0.02 and (noise.std() - 1).abs() < 0.02
    hit = np.array(shares) > 0
    assert abs(hit.mean() - 0.5) < 0.1
    twice = TrainingTransform(FOLDER, augmentation(random_erasing=1.0))(gradient()).expand(2, -1, -1, -1)
    first, second = Preprocessing(FOLDER)({"images": twice})["images"]
    assert torch.equal(first != second, (twice[0, 3:] == 0).expand(3, -1, -1))
    assert np.array(shares)[hit].min() > 0.01 and np.array(shares).max() < 0.4  # a 50th to a third, rounded to pixels


def test_rand_augment_takes_every_magnitude_that_it_draws() -> None:
    transform = TrainingTransform(FOLDER, augmentation(rand_augment="rand-m10-n15-inc1"))
    for number in range(40):
        set_random_state(number)
        assert transform(gradient()).shape == (3, 28, 28)


@pytest.mark.parametrize("size", [(375, 500), (288, 288), (500, 120)])
def test_crops_are_distributed_as_torchvision_s(size: tuple[int, int]) -> None:
    image, scale, count = torch.empty(3, *size), (0.08, 1.0), 4000
    random.seed(0)
    torch.manual_seed(0)
    settings = augmentation(crop_scale=list(scale), flip=0.3)
    drawn = np.array([draw_crop(image, settings) for _ in range(count)])
    expected = np.array([RandomResizedCrop.get_params(image, scale, RandomResizedCrop(28).ratio) for _ in range(count)])
    assert abs(drawn[:, 4].mean() - 0.3) < 0.03
    for ours, theirs in zip(_statistics(drawn, size), _statistics(expected, size), strict=True):
        # Kolmogorov and Smirnov: two samples of one distribution are further apart once in 100,000.
        both = np.sort(np.concatenate([ours, theirs]))
        shares = [np.searchsorted(np.sort(sample), both, "right") / count for sample in (ours, theirs)]
        assert np.abs(shares[0] - shares[1]).max() < 2.47 * np.sqrt(2 / count)


def _statistics(crops: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """Share of the area, aspect ratio, and the centre's position."""
    top, left, height, width = crops[:, :4].T.astype(float)
    return [
        height * width / np.prod(size),
        width / height,
        (top + height / 2) / size[0],
        (left + width / 2) / size[1],
    ]


def test_pixels_are_the_reference_s_on_photographs(photographs: dict) -> None:
    data = photographs["data"]
    random.seed(0)
    for interpolation, largest in (("bilinear", 2), ("bicubic", 30)):  # bicubic's overshoots are clipped elsewhere
        settings = augmentation(crop_scale=[0.08, 1.0], interpolation=interpolation)
        mean, most = training_error(photographs["originals"], data, settings)
        assert mean < 0.05 and most <= largest
    mean, most = evaluation_error(photographs["originals"], data)
    assert mean < 0.05 and most <= 2

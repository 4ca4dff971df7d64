"""What stages train and evaluate on: batches, their order, and the random state that looking must not touch."""

from pathlib import Path

import numpy as np
import torch

from nepa.data.datasets import evaluation_batches, first_images, training_dataset, training_labels
from nepa.data.normalisation import normalised
from nepa.parameters import load_parameters


def test_the_digits_are_taken_in_their_order(project: Path) -> None:
    parameters = load_parameters()
    batches = list(evaluation_batches(parameters, "test"))
    assert [len(batch["labels"]) for batch in batches] == [512, 289]
    images = normalised(torch.cat([batch["images"] for batch in batches])[:300], parameters.data)
    assert torch.equal(images, first_images(parameters, "test", 300))
    chosen = np.array([5, 3, 8])
    few = training_dataset(parameters, None, chosen)
    assert few.labels.tolist() == training_labels(parameters)[chosen].tolist()


def test_looking_draws_nothing(project: Path) -> None:
    before = torch.get_rng_state()
    first_images(load_parameters(), "validation", 10)
    assert torch.equal(torch.get_rng_state(), before)

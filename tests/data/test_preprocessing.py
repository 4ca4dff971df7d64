"""Batches on the device: uint8 is normalised, and JPEGs decoded there are the images that the workers decode."""

import numpy as np
import pytest
import torch
import yaml
from test_transforms import augmentation

from nepa.data.datasets import as_batch, training_dataset
from nepa.data.encoded import EncodedImages
from nepa.data.preprocessing import Preprocessing
from nepa.data.shards import ShardedImages
from nepa.data.stream import Draw, Drawn
from nepa.data.transforms import TrainingTransform
from nepa.errors import UserError
from nepa.parameters import Parameters
from nepa.parameters.recipes import recipe_text

DRAWS = [Draw(index, number) for number, index in enumerate((5, 0, 11, 5, 7))]


def test_uint8_is_normalised_and_floats_pass(photographs: dict) -> None:
    preprocessing = Preprocessing(photographs["data"])
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    batch = preprocessing({"images": levels, "labels": torch.tensor([4])})
    assert batch["images"].flatten().tolist() == pytest.approx([-1, -0.6, 1]) and batch["labels"].tolist() == [4]
    assert torch.equal(preprocessing(batch)["images"], batch["images"])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_jpegs_decoded_on_the_device_are_what_workers_decode(photographs: dict, interpolation: str) -> None:
    data, folder = photographs["data"], photographs["originals"]
    settings = augmentation(crop_scale=[0.08, 1.0], flip=0.5, interpolation=interpolation)
    encoded = EncodedImages(folder, "training", settings)
    decoded = ShardedImages(folder, "training", TrainingTransform(data, settings))
    preprocessing = Preprocessing(data, settings)
    first, second = (preprocessing(as_batch(Drawn(d, seed=0).__getitems__(DRAWS))) for d in (encoded, decoded))
    assert first["images"].shape == (5, 3, 224, 224)
    assert torch.equal(first["labels"], second["labels"])
    assert (first["images"] - second["images"]).abs().max() <= 1.001 * 2 / 255  # one level
    assert not torch.equal(first["images"][0], first["images"][3])  # one image, drawn twice


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    raw = yaml.safe_load(recipe_text("imagenet-base-paper"))
    raw["data"]["decode"] = "gpu"
    parameters = Parameters(**raw)
    with pytest.raises(UserError, match="data.decode is gpu, but torch finds none here; make it cpu"):
        training_dataset(parameters, parameters.pretrain.augmentation, np.arange(2))

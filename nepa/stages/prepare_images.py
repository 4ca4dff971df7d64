"""Stage `prepare images`. Out: data/<recipe>/images: arrays of the digits, or shards of an image folder."""

from pathlib import Path

import numpy as np

from nepa.data.images import SPLITS, file_checksum, images_folder
from nepa.parameters import Parameters
from nepa.parameters.schema import Digits
from nepa.preparation.digits import read_digits
from nepa.preparation.shards import prepare_shards
from nepa.training.checkpoints import write_atomically, write_json


def run(parameters: Parameters) -> None:
    """Prepare the images of the recipe's source, whole or not at all."""
    if isinstance(parameters.data, Digits):
        split_digits(parameters.data, images_folder(parameters))
    else:
        work = Path("runs") / parameters.recipe / "prepare_images"
        prepare_shards(parameters.data, work, images_folder(parameters))


def split_digits(data: Digits, target: Path) -> None:
    """Split the digits once, by `data.split_seed`, independent of the runs' seeds."""
    images, labels = read_digits()
    order = np.random.default_rng(data.split_seed).permutation(len(images))
    ends = np.cumsum([data.training_images, data.validation_images])
    with write_atomically(target) as folder:
        folder.mkdir()
        for split, indices in zip(SPLITS, np.split(order, ends), strict=True):
            np.savez(folder / f"{split}.npz", images=images[indices], labels=labels[indices])
        manifest = {
            "source": "scikit-learn digits (UCI optical recognition of handwritten digits, test part)",
            "images": {split: len(i) for split, i in zip(SPLITS, np.split(order, ends), strict=True)},
            "sha256": {path.name: file_checksum(path) for path in sorted(folder.glob("*.npz"))},
        }
        write_json(folder / "manifest.json", manifest)
